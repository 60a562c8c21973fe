//! The start table: shards with their CPUs, partitions and listeners, and the findings.
//!
//! Plain text in columns for the operator; no program reads it.

use std::fmt;

use crate::base::PartitionId;
use crate::boot::cores::Plan;
use crate::boot::cores::ShardPlace;
use crate::boot::host::Finding;
use crate::boot::sockets::BoundAddress;
use crate::boot::topology::CpuList;
use crate::config::Config;
use crate::handoff::Placement;

const HEAD: [&str; 5] = ["shard", "core", "node", "partitions", "listeners"];

/// One shard with its CPU, partitions and listeners.
#[derive(Clone, Debug)]
pub struct ShardRow {
    pub place: ShardPlace,
    pub partitions: Vec<PartitionId>,
    /// The bound addresses: `127.0.0.1:2525`, `[::1]:465 tls`.
    pub listeners: Vec<String>,
}

/// All that is printed at start.
#[derive(Clone, Debug)]
pub struct StartTable<'a> {
    pub version: &'a str,
    pub hostname: &'a str,
    pub spool: &'a str,
    /// The user that the server runs as.
    pub user: &'a str,
    pub shards: &'a [ShardRow],
    pub spare: &'a [usize],
    pub findings: &'a [Finding],
}

impl fmt::Display for StartTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StartTable { version, hostname, spool, user, .. } = self;
        writeln!(f, "ringpost {version} as {hostname}, user {user}, spool {spool}\n")?;
        write_columns(f, self.shards)?;
        match self.spare {
            [] => writeln!(f, "commit and control threads share these cores")?,
            spare => writeln!(f, "commit and control threads on core {}", CpuList(&sorted(spare)))?,
        }
        for (place, finding) in self.findings.iter().enumerate() {
            let separator = if place == 0 { "\n" } else { "" };
            writeln!(f, "{separator}{:<9}{}", finding.level, finding.what)?;
            writeln!(f, "{:<9}{}", "", finding.remedy)?;
        }
        Ok(())
    }
}

/// Prints the table to standard error: standard output may carry the log as JSON.
pub(in crate::boot) fn print_table(
    config: &Config,
    user: &str,
    (plan, placement): (&Plan, &Placement),
    (addresses, findings): (&[BoundAddress], &[Finding]),
) {
    let listeners: Vec<String> = addresses
        .iter()
        .map(|bound| match bound.tls {
            "none" => format!("{} {}", bound.address, bound.protocol),
            tls => format!("{} {} {tls}", bound.address, bound.protocol),
        })
        .collect();
    let rows: Vec<ShardRow> = plan
        .shards
        .iter()
        .map(|place| ShardRow {
            place: *place,
            partitions: placement.of_shard(place.shard).to_vec(),
            listeners: listeners.clone(),
        })
        .collect();
    let table = StartTable {
        version: env!("CARGO_PKG_VERSION"),
        hostname: config.server.hostname.as_str(),
        spool: &config.server.spool.display().to_string(),
        user,
        shards: &rows,
        spare: &plan.spare,
        findings,
    };
    eprint!("{table}");
}

fn write_columns(f: &mut fmt::Formatter<'_>, shards: &[ShardRow]) -> fmt::Result {
    let rows: Vec<[String; 5]> = shards.iter().map(cells).collect();
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].len()).max();
        widest.unwrap_or(0).max(HEAD[column].len())
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    write_row(f, &HEAD, &widths)?;
    for row in &rows {
        write_row(f, &row.each_ref().map(String::as_str), &widths)?;
    }
    Ok(())
}

/// Numbers are aligned to the right, lists to the left; lines have no trailing blanks.
fn write_row(f: &mut fmt::Formatter<'_>, cells: &[&str; 5], widths: &[usize; 4]) -> fmt::Result {
    let [shard, core, node, partitions, listeners] = cells;
    let [a, b, c, d] = widths;
    let row = format!("{shard:>a$}  {core:>b$}  {node:>c$}  {partitions:<d$}  {listeners}");
    writeln!(f, "{}", row.trim_end())
}

fn cells(row: &ShardRow) -> [String; 5] {
    let ShardPlace { shard, cpu, node } = row.place;
    let partitions: Vec<String> = row.partitions.iter().map(PartitionId::to_string).collect();
    [
        shard.to_string(),
        cpu.to_string(),
        node.to_string(),
        partitions.join(" "),
        row.listeners.join(", "),
    ]
}

fn sorted(cpus: &[usize]) -> Vec<usize> {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::base::ShardId;
    use crate::boot::host::Level;

    fn row(shard: u16, cpu: usize, partitions: &[u8], listeners: &[&str]) -> ShardRow {
        ShardRow {
            place: ShardPlace { shard: ShardId(shard), cpu, node: cpu / 64 },
            partitions: partitions.iter().copied().map(PartitionId).collect(),
            listeners: listeners.iter().map(|text| text.to_string()).collect(),
        }
    }

    #[test]
    fn a_table_is_printed() {
        let both = ["127.0.0.1:2525", "[::1]:2525 tls"];
        let shards = [row(0, 2, &[0, 2], &both), row(1, 100, &[1], &both), row(2, 3, &[], &[])];
        let finding = |level, what: &str, remedy: &str| Finding {
            level,
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        };
        let findings = [
            finding(Level::Warn, "somaxconn is 128", "set it to 4096"),
            finding(Level::Info, "there is swap", "calm it"),
        ];
        let table = StartTable {
            version: "0.1.0",
            hostname: "mx1.example.org",
            spool: "/var/spool/ringpost",
            user: "ringpost",
            shards: &shards,
            spare: &[1, 0],
            findings: &findings,
        };
        let expected = "\
ringpost 0.1.0 as mx1.example.org, user ringpost, spool /var/spool/ringpost

shard  core  node  partitions  listeners
    0     2     0  0 2         127.0.0.1:2525, [::1]:2525 tls
    1   100     1  1           127.0.0.1:2525, [::1]:2525 tls
    2     3     0
commit and control threads on core 0-1

warning  somaxconn is 128
         set it to 4096
note     there is swap
         calm it
";
        assert_eq!(table.to_string(), expected);
        let bare = StartTable { shards: &shards[..1], spare: &[], findings: &[], ..table };
        let text = bare.to_string();
        assert!(text.ends_with("share these cores\n"), "{text}");
    }
}
