//! The machine a run was measured on, as far as anybody may read.
//!
//! Promise:  nothing here needs root, and what cannot be found is left out and fails nothing.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use crate::report::collector::latencies;

/// Syncs are measured until there are so many, or for so long.
const SYNCS: u64 = 100;
const SYNCS_FOR: Duration = Duration::from_secs(2);
/// Written before each sync, as a short message is.
const SYNC_BYTES: usize = 4096;

/// What runs depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: Option<String>,
    /// That this process may use.
    pub cores: usize,
    pub memory_mb: Option<u64>,
    pub kernel: Option<String>,
    pub disk: Option<Disk>,
}

/// Where a folder lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub folder: String,
    pub file_system: Option<String>,
    /// And its mount options.
    pub options: Option<String>,
    pub device: Option<String>,
    /// Microseconds from a write of 4 KB to the end of its sync.
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
    /// With the disk of this folder, on which syncs are measured.
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

    /// One line for each thing known, named.
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
            ("sync of 4 KB", format!("p50 {p50} p99 {p99} max {max} ms, of {count}"))
        }));
        lines
    }
}

impl Disk {
    fn describe(folder: &Path) -> Disk {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let number = fs::metadata(folder).map(|found| found.dev()).unwrap_or_default();
        let place = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let (file_system, device, options) = match find_mount(&mounts, number, &place) {
            Some([kind, device, options]) => (Some(kind), Some(device), Some(options)),
            None => (None, None, None),
        };
        let folder_name = folder.display().to_string();
        // A folder that may only be read is described all the same.
        let sync = measure_syncs(folder).ok();
        Disk { folder: folder_name, file_system, options, device, sync }
    }
}

/// Kind, device and options of the mount of this device number that holds `place`; see proc(5).
fn find_mount(mounts: &str, number: u64, place: &Path) -> Option<[String; 3]> {
    let device_of = |text: &str| {
        let (major, minor) = text.split_once(':')?;
        Some((major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?))
    };
    let numbers =
        (number >> 8 & 0xfff | number >> 32 & !0xfff, number & 0xff | number >> 12 & !0xff);
    let numbers = (numbers.0, numbers.1 & 0xffff_ffff);
    let rows = mounts.lines().filter_map(|line| {
        let (own, rest) = line.split_once(" - ")?;
        let own: Vec<&str> = own.split(' ').collect();
        let rest: Vec<&str> = rest.split(' ').collect();
        let [_, _, device, _, point, options, ..] = own[..] else { return None };
        let [kind, source, ..] = rest[..] else { return None };
        let point = point.replace("\\040", " ");
        let same = device_of(device) == Some(numbers);
        place.starts_with(&point).then_some((same, point.len(), [kind, source, options]))
    });
    // Some file systems show other numbers than their mount has; then the nearest mount is it.
    let found = rows.max_by_key(|(same, length, _)| (*same, *length))?;
    Some(found.2.map(str::to_owned))
}

/// Overwrites one block again and again, which needs no journal, and so is the least a sync costs.
fn measure_syncs(folder: &Path) -> io::Result<Syncs> {
    let path = folder.join(format!(".ringpost-load-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    // At once, so that whatever ends us leaves nothing.
    fs::remove_file(&path)?;
    sync_often(&mut file)
}

fn sync_often(file: &mut File) -> io::Result<Syncs> {
    let block = [b'x'; SYNC_BYTES];
    file.write_all(&block)?;
    file.sync_all()?;
    let mut took = latencies();
    let end = Instant::now() + SYNCS_FOR;
    while took.len() < SYNCS && Instant::now() < end {
        let began = Instant::now();
        file.rewind()?;
        file.write_all(&block)?;
        file.sync_data()?;
        took.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let at = |quantile| took.value_at_quantile(quantile);
    Ok(Syncs { count: took.len(), p50_us: at(0.5), p99_us: at(0.99), max_us: took.max() })
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

    #[test]
    fn the_nearest_mount_of_the_device_is_found() {
        let mounts = "\
            1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            2 1 259:3 / /var/my\\040spool rw,noatime - xfs /dev/nvme0n1 rw\n\
            3 1 0:25 / /var rw - tmpfs tmpfs rw\n";
        let found = |number, place: &str| find_mount(mounts, number, Path::new(place));
        let number = |major: u64, minor: u64| major << 8 | minor;
        let ext4 = ["ext4", "/dev/sda1", "rw,relatime"].map(str::to_owned);
        assert_eq!(found(number(8, 1), "/home/a"), Some(ext4));
        let xfs = found(number(259, 3), "/var/my spool/x").expect("it is there");
        assert_eq!(xfs[0], "xfs");
        // btrfs gives each subvolume a number that no mount has.
        assert_eq!(found(number(0, 99), "/var/x").expect("the nearest")[0], "tmpfs");
        assert_eq!(find_mount("", 0, Path::new("/")), None);
    }
}
