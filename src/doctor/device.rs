//! The block device below the spool: write cache, scheduler, queues.
//!
//! For a mapped or mirrored device the physical devices below are judged, because only they have a
//! cache.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::proc::text_of;
use crate::doctor::hardware::entries;
use crate::doctor::hardware::name_of;

/// Maximum depth of stacked devices.
const DEPTH_MAX: usize = 4;

/// Findings about the device with the number `device` (`259:1`).
pub fn judge(root: &Path, device: &str) -> Vec<Finding> {
    let below = disks(root, device);
    if below.is_empty() {
        let seen = format!("the block device {device} of the spool is not visible");
        return vec![
            check::DEVICE_CACHE.note(
                seen,
                "in a container or on a network file system, run the doctor on the host",
            ),
        ];
    }
    below.iter().flat_map(|disk| [cache(disk), queue(disk)]).collect()
}

/// The physical disks below a device.
pub fn disks(root: &Path, device: &str) -> Vec<PathBuf> {
    let Ok(folder) = fs::canonicalize(root.join("sys/dev/block").join(device)) else {
        return Vec::new();
    };
    made_of(&folder, DEPTH_MAX)
}

fn made_of(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let whole = match folder.join("partition").exists() {
        true => folder.parent().unwrap_or(folder),
        false => folder,
    };
    let parts = entries(&whole.join("slaves"));
    if parts.is_empty() || depth == 0 {
        return vec![whole.to_path_buf()];
    }
    let real = parts.iter().filter_map(|part| fs::canonicalize(part).ok());
    real.flat_map(|part| made_of(&part, depth - 1)).collect()
}

fn cache(disk: &Path) -> Finding {
    let name = name_of(disk);
    let is_virtual = name.starts_with("vd") || name.starts_with("xvd");
    match text_of(disk, "queue/write_cache").trim() {
        "write back" if is_virtual => check::DEVICE_CACHE.note(
            format!(
                "{name}: write back; on a virtual disk the host decides whether a flush is durable"
            ),
            "set cache=none, writeback or directsync on the host, never unsafe",
        ),
        "write back" => check::DEVICE_CACHE.ok(format!("{name}: write back, flushed by each sync")),
        "write through" => check::DEVICE_CACHE.note(
            format!("{name}: write through; the kernel sends no flushes"),
            "correct if the disk reports this itself; do not set it by hand unless the cache \
             survives a power failure",
        ),
        _ => check::DEVICE_CACHE.note(
            format!("{name}: the cache mode cannot be read"),
            "check `nvme get-feature -f 6` or `hdparm -W`",
        ),
    }
}

fn queue(disk: &Path) -> Finding {
    let name = name_of(disk);
    let offered = text_of(disk, "queue/scheduler");
    let chosen = offered.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let scheduler = chosen.map_or("none", |(chosen, _)| chosen);
    let queues = entries(&disk.join("mq")).len();
    let requests = text_of(disk, "queue/nr_requests");
    let seen = format!("{name}: {scheduler}, {queues} queues of {}", requests.trim());
    // A virtual disk may claim to be rotational; the host orders its requests anyway.
    let turns = text_of(disk, "queue/rotational").trim() == "1" && !name.starts_with("vd");
    match (scheduler, turns) {
        ("bfq" | "cfq", _) => check::DEVICE_QUEUE
            .warn(seen, "run `tuning/disk-queues`: this scheduler delays syncs for fairness"),
        ("none", true) => check::DEVICE_QUEUE.note(seen, "use mq-deadline for a rotational disk"),
        ("none", false) | (_, true) => check::DEVICE_QUEUE.ok(seen),
        (_, false) => {
            check::DEVICE_QUEUE.note(seen, "`tuning/disk-queues` sets the scheduler `none`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    use crate::boot::check::Level;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn disk(root: &Path, name: &str, scheduler: &str, cache: &str, rotational: &str) {
        put(root, &format!("sys/devices/{name}/queue/scheduler"), scheduler);
        put(root, &format!("sys/devices/{name}/queue/write_cache"), cache);
        put(root, &format!("sys/devices/{name}/queue/rotational"), rotational);
    }

    #[test]
    fn disks_are_found_below_partitions_and_mirrors() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let root = folder.path();
        disk(root, "nvme0n1", "[none] mq-deadline\n", "write back\n", "0\n");
        put(root, "sys/devices/nvme0n1/nvme0n1p1/partition", "1\n");
        disk(root, "sdb", "none [mq-deadline]\n", "write through\n", "0\n");
        fs::create_dir_all(root.join("sys/devices/md0/slaves")).expect("made");
        fs::create_dir_all(root.join("sys/dev/block")).expect("made");
        for (part, of) in [("nvme0n1p1", "nvme0n1/nvme0n1p1"), ("sdb", "sdb")] {
            let target = format!("../../{of}");
            symlink(target, root.join("sys/devices/md0/slaves").join(part)).expect("linked");
        }
        symlink("../../devices/md0", root.join("sys/dev/block/9:0")).expect("linked");
        let found = disks(root, "9:0");
        assert_eq!(found.iter().map(|disk| name_of(disk)).collect::<Vec<_>>(), ["nvme0n1", "sdb"]);
        let levels: Vec<Level> = judge(root, "9:0").iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Ok, Level::Note, Level::Note]);
        assert_eq!(judge(root, "8:8")[0].level, Level::Note, "hidden");
    }

    #[test]
    fn schedulers_are_judged() {
        for (name, scheduler, rotational, level) in [
            ("nvme0n1", "[none] mq-deadline\n", "0\n", Level::Ok),
            ("nvme1n1", "none [bfq]\n", "0\n", Level::Warn),
            ("sda", "none [mq-deadline]\n", "1\n", Level::Ok),
            ("sdb", "[none]\n", "1\n", Level::Note),
            ("vda", "[none]\n", "1\n", Level::Ok),
        ] {
            let root = tempfile::tempdir().expect("a folder for the test");
            disk(root.path(), name, scheduler, "write back\n", rotational);
            let found = queue(&root.path().join("sys/devices").join(name));
            assert_eq!(found.level, level, "{name} {scheduler}");
        }
    }
}
