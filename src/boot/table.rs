//! The start table: shards with their CPUs, partitions and listeners, and the findings.
//!
//! Plain text in columns for the operator; no program reads it.

use std::fmt;

use crate::base::PartitionId;
use crate::boot::check::Finding;
use crate::boot::cores::Plan;
use crate::boot::sockets::BoundAddress;
use crate::boot::topology::CpuList;
use crate::config::Config;
use crate::handoff::Placement;

/// All that is printed at start.
pub(super) struct StartTable<'a> {
    pub config: &'a Config,
    /// The user that the server runs as.
    pub user: &'a str,
    pub plan: &'a Plan,
    pub placement: &'a Placement,
    pub addresses: &'a [BoundAddress],
    pub findings: &'a [Finding],
}

impl fmt::Display for StartTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StartTable { config, user, plan, placement, addresses, findings } = self;
        let (version, server) = (env!("CARGO_PKG_VERSION"), &config.server);
        let (hostname, spool) = (&server.hostname, server.spool.display());
        writeln!(f, "ringpost {version} as {hostname}, user {user}, spool {spool}\n")?;
        for BoundAddress { address, protocol, tls } in *addresses {
            let tls = if *tls == "none" { "without TLS" } else { tls };
            writeln!(f, "listening on {address}, {protocol}, {tls}")?;
        }
        writeln!(f, "\nshard  core  node  partitions")?;
        for place in &plan.shards {
            let home = placement.of_shard(place.shard).iter().map(PartitionId::to_string);
            let home = home.collect::<Vec<_>>().join(" ");
            writeln!(f, "{:>5}  {:>4}  {:>4}  {home}", place.shard.0, place.cpu, place.node)?;
        }
        match &plan.spare[..] {
            [] => writeln!(f, "commit and control threads share these cores")?,
            spare => writeln!(f, "commit and control threads on core {}", CpuList(spare))?,
        }
        for (number, Finding { level, seen, remedy, .. }) in findings.iter().enumerate() {
            let separator = if number == 0 { "\n" } else { "" };
            writeln!(f, "{separator}{level:<6}{seen}\n{:<6}{remedy}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check;
    use crate::boot::topology::Cpu;
    use crate::boot::topology::Topology;
    use crate::config::HostFacts;
    use crate::config::embedded;

    #[test]
    fn a_table_is_printed() {
        let host = HostFacts { hostname: "mx1.example.org".to_owned(), ..HostFacts::default() };
        let config = embedded(&host);
        let cpus = (0..8).map(|cpu| Cpu { cpu, node: 0, core: cpu }).collect();
        let topology = Topology { cpus, quota_millis: None };
        let mut plan = Plan::new(&config.server.cores, &topology).expect("there are cores");
        plan.keep_shards(2);
        let address = "[::1]:2525".parse().expect("an address");
        let table = StartTable {
            config: &config,
            user: "ringpost",
            plan: &plan,
            placement: &Placement::deal(3, 2),
            addresses: &[
                BoundAddress { address, protocol: "smtp", tls: "starttls" },
                BoundAddress { address, protocol: "lmtp", tls: "none" },
            ],
            findings: &[
                check::warning("somaxconn is 128", "set it to 4096"),
                check::note("there is swap", "calm it"),
            ],
        };
        let expected = format!(
            "\
ringpost {} as mx1.example.org, user ringpost, spool ./ringpost-data

listening on [::1]:2525, smtp, starttls
listening on [::1]:2525, lmtp, without TLS

shard  core  node  partitions
    0     2     0  0 2
    1     3     0  1
commit and control threads on core 0-1,4-7

warn  somaxconn is 128
      set it to 4096
note  there is swap
      calm it
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(table.to_string(), expected);
        let mut bare = plan.clone();
        bare.spare.clear();
        let text = StartTable { plan: &bare, findings: &[], ..table }.to_string();
        assert!(text.ends_with("share these cores\n"), "{text}");
    }
}
