//! The machine of a run: CPU, memory, kernel, disk.
//!
//! Promise:  needs no root; facts that cannot be read are left out.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::report::histogram::Hdr;

/// Syncs are measured up to this number or this duration.
const SYNCS: u64 = 100;
const SYNCS_FOR: Duration = Duration::from_secs(2);
/// Written before each sync: a short message.
const SYNC_BYTES: usize = 4096;

/// The facts that figures depend on, by name: those of the machine, and of the disk of this folder with
/// the duration of a sync.
pub fn describe_machine(folder: Option<&Path>) -> BTreeMap<String, String> {
    let value = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    let memory = value("/proc/meminfo", "MemTotal:");
    let memory = memory.and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let facts = [
        ("CPU", value("/proc/cpuinfo", "model name")),
        ("cores", Some(cores.to_string())),
        ("memory", memory.map(|kb| format!("{} MB", kb / 1024))),
        ("kernel", value("/proc/sys/kernel/osrelease", "")),
        ("disk", folder.map(disk)),
        // A read-only folder is described without syncs.
        ("sync of 4 KB", folder.and_then(|folder| measure_syncs(folder).ok())),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
}

/// Folder, file system, device and mount options.
fn disk(folder: &Path) -> String {
    // findmnt(8) is part of util-linux.
    let mut findmnt = Command::new("findmnt");
    findmnt.args(["--noheadings", "--raw", "--output", "FSTYPE,SOURCE,OPTIONS", "--target"]);
    let text = findmnt.arg(folder).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut words = text.split_whitespace();
    let mut next = || words.next().unwrap_or("unknown");
    let (kind, device, options) = (next(), next(), next());
    format!("{}: {kind} on {device} ({options})", folder.display())
}

/// Overwrites one block, which needs no journal: the least that a sync costs.
fn measure_syncs(folder: &Path) -> io::Result<String> {
    let path = folder.join(format!(".ringpost-load-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    // Removed at once, so that nothing is left even after a crash.
    fs::remove_file(&path)?;
    let block = [b'x'; SYNC_BYTES];
    file.write_all(&block)?;
    file.sync_all()?;
    let mut took = Hdr::default();
    let end = Instant::now() + SYNCS_FOR;
    while took.0.len() < SYNCS && Instant::now() < end {
        let began = Instant::now();
        file.rewind()?;
        file.write_all(&block)?;
        file.sync_data()?;
        took.record_time(began.elapsed());
    }
    let (p50, p99, max) = (took.ms(0.5), took.ms(0.99), took.max_ms());
    Ok(format!("p50 {p50} p99 {p99} max {max} ms ({} syncs)", took.0.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let folder = std::env::temp_dir();
        let machine = describe_machine(Some(&folder));
        let known = ["cores", "disk", "kernel", "memory", "sync of 4 KB"];
        assert!(known.iter().all(|name| machine.contains_key(*name)), "{machine:?}");
        assert!(machine["memory"].ends_with(" MB") && machine["disk"].contains(" on "));
        assert!(!machine["sync of 4 KB"].contains("(0 syncs)"), "{machine:?}");
        let leftover = folder.join(format!(".ringpost-load-{}", std::process::id()));
        assert!(!leftover.exists());
        let nowhere = describe_machine(Some(Path::new("/nowhere/at/all")));
        assert!(!nowhere.contains_key("sync of 4 KB"));
    }
}
