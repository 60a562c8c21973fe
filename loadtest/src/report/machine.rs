//! The machine of a run: CPU, memory, kernel, disk.
//!
//! Promise:  needs no root; facts that cannot be read are left out.

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

use serde::Deserialize;
use serde::Serialize;

use crate::report::histogram::Hdr;

/// Syncs are measured up to this number or this duration.
const SYNCS: u64 = 100;
const SYNCS_FOR: Duration = Duration::from_secs(2);
/// Written before each sync: a short message.
const SYNC_BYTES: usize = 4096;

/// The facts that figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: Option<String>,
    /// Available to this process.
    pub cores: usize,
    pub memory_mb: Option<u64>,
    pub kernel: Option<String>,
    pub disk: Option<Disk>,
}

/// The disk of a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub folder: String,
    pub file_system: Option<String>,
    /// Mount options.
    pub options: Option<String>,
    pub device: Option<String>,
    /// Microseconds for writing and syncing 4 KB.
    pub sync: Option<Syncs>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Syncs {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Machine {
    /// Describes the machine and the disk of this folder, with the duration of a sync.
    pub fn describe(folder: Option<&Path>) -> Machine {
        let read = |path: &str| fs::read_to_string(path).ok();
        let after_colon = |line: &str| line.split_once(':').map(|(_, text)| text.trim().to_owned());
        let cpu = read("/proc/cpuinfo").and_then(|text| {
            text.lines().find(|line| line.starts_with("model name")).and_then(after_colon)
        });
        let memory_mb = read("/proc/meminfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            let kb: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some(kb / 1024)
        });
        Machine {
            cpu,
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mb,
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            disk: folder.map(Disk::describe),
        }
    }

    /// The known facts with their names.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        lines.extend(self.cpu.clone().map(|cpu| ("CPU", cpu)));
        lines.push(("cores", self.cores.to_string()));
        lines.extend(self.memory_mb.map(|mb| ("memory", format!("{mb} MB"))));
        lines.extend(self.kernel.clone().map(|kernel| ("kernel", kernel)));
        let Some(disk) = &self.disk else { return lines };
        let unknown = || "unknown".to_owned();
        let kind = disk.file_system.clone().unwrap_or_else(unknown);
        let device = disk.device.clone().unwrap_or_else(unknown);
        let options = disk.options.clone().unwrap_or_else(unknown);
        lines.push(("disk", format!("{}: {kind} on {device} ({options})", disk.folder)));
        lines.extend(disk.sync.as_ref().map(|sync| {
            let ms = |us: u64| us as f64 / 1000.0;
            let Syncs { count, p50_us, p99_us, max_us } = *sync;
            let (p50, p99, max) = (ms(p50_us), ms(p99_us), ms(max_us));
            ("sync of 4 KB", format!("p50 {p50} p99 {p99} max {max} ms ({count} syncs)"))
        }));
        lines
    }
}

impl Disk {
    fn describe(folder: &Path) -> Disk {
        // findmnt(8) is part of util-linux.
        let mut findmnt = Command::new("findmnt");
        findmnt.args(["--noheadings", "--raw", "--output", "FSTYPE,SOURCE,OPTIONS", "--target"]);
        let text = findmnt.arg(folder).output().map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut words = text.split_whitespace().map(str::to_owned);
        let (file_system, device, options) = (words.next(), words.next(), words.next());
        let folder_name = folder.display().to_string();
        // A read-only folder is described without syncs.
        let sync = measure_syncs(folder).ok();
        Disk { folder: folder_name, file_system, options, device, sync }
    }
}

/// Overwrites one block, which needs no journal: the least that a sync costs.
fn measure_syncs(folder: &Path) -> io::Result<Syncs> {
    let path = folder.join(format!(".ringpost-load-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    // Removed at once, so that nothing is left even after a crash.
    fs::remove_file(&path)?;
    sync_often(&mut file)
}

fn sync_often(file: &mut File) -> io::Result<Syncs> {
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
    let at = |quantile| took.0.value_at_quantile(quantile);
    Ok(Syncs { count: took.0.len(), p50_us: at(0.5), p99_us: at(0.99), max_us: took.0.max() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let folder = std::env::temp_dir();
        let machine = Machine::describe(Some(&folder));
        assert!(machine.cores >= 1 && machine.memory_mb > Some(1) && machine.kernel.is_some());
        let disk = machine.disk.as_ref().expect("it was asked for");
        let sync = disk.sync.as_ref().expect("the folder may be written");
        assert!(
            sync.count > 0
                && sync.p50_us <= sync.p99_us
                && sync.p99_us <= sync.max_us * 1001 / 1000
        );
        assert!(disk.file_system.is_some(), "{machine:?}");
        let leftover = folder.join(format!(".ringpost-load-{}", std::process::id()));
        assert!(!leftover.exists());
        let nowhere = Machine::describe(Some(Path::new("/nowhere/at/all")));
        assert_eq!(nowhere.disk.and_then(|disk| disk.sync), None);
    }
}
