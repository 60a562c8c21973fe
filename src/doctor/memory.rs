//! Memory: what the config may take, and what the machine and its cgroups grant.

use std::fs;
use std::path::Path;

use crate::boot::proc::field_of;
use crate::boot::proc::text_of;
use crate::boot::topology::cgroup_folders;
use crate::config::Config;
use crate::doctor::finding::Finding;
use crate::doctor::knob;
use crate::doctor::subject::Subject;

/// The process without mail: code, caches of the store, rings, tables; rounded up generously.
const BASE_BYTES: u64 = 64 << 20;
/// Resident memory of an idle connection, measured at 3.7 KB and rounded up.
const CONNECTION_BYTES: u64 = 4 << 10;
/// Page cache that the store needs to read what it has written.
const PAGE_CACHE_SHARE: u64 = 2;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let (root, wanted) = (&subject.root, wanted_bytes(&subject.config));
    let total = field_of(&text_of(root, "proc/meminfo"), "MemTotal:").map(|kib| kib << 10);
    vec![against(total, wanted), within(limit_bytes(root), total, wanted)]
}

/// What the limits of the config add up to.
fn wanted_bytes(config: &Config) -> u64 {
    let connections = config.limits.connections as u64 * CONNECTION_BYTES;
    BASE_BYTES + config.limits.body_memory + config.queue.memory + connections
}

fn against(total: Option<u64>, wanted: u64) -> Finding {
    let Some(total) = total else {
        return knob::MEMORY.note("/proc/meminfo cannot be read", "look at `free -m`");
    };
    let seen = format!("{} MiB; the limits of the config add up to {}", total >> 20, wanted >> 20);
    if wanted > total / PAGE_CACHE_SHARE {
        let remedy = "lower limits.body_memory, queue.memory or limits.connections";
        return knob::MEMORY.warn(seen, remedy);
    }
    knob::MEMORY.ok(seen)
}

fn within(limit: Option<u64>, total: Option<u64>, wanted: u64) -> Finding {
    let real = limit.filter(|limit| total.is_none_or(|total| *limit < total));
    match real {
        None => knob::CGROUP_MEMORY.ok("none"),
        Some(limit) if limit < wanted => knob::CGROUP_MEMORY.error(
            format!("the cgroup grants {} MiB, {} are wanted", limit >> 20, wanted >> 20),
            "raise it (`MemoryMax=`, `docker --memory`), or lower the limits of the config",
        ),
        Some(limit) if limit / PAGE_CACHE_SHARE < wanted => knob::CGROUP_MEMORY.warn(
            format!("the cgroup grants {} MiB, {} are wanted", limit >> 20, wanted >> 20),
            "leave as much again for the page cache, which counts",
        ),
        Some(limit) => knob::CGROUP_MEMORY.ok(format!("{} MiB", limit >> 20)),
    }
}

/// The least that a cgroup around this process grants, of either version.
fn limit_bytes(root: &Path) -> Option<u64> {
    let folders = cgroup_folders(root, "memory");
    let limits = folders.iter().filter_map(|folder| {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        read("memory.max").or_else(|| read("memory.limit_in_bytes"))?.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::doctor::finding::Level;

    #[test]
    fn memory_is_judged() {
        let rows: &[(&str, Finding, Level)] = &[
            ("plenty", against(Some(1 << 33), 1 << 28), Level::Ok),
            ("tight", against(Some(1 << 28), 1 << 28), Level::Warn),
            ("hidden", against(None, 1 << 28), Level::Note),
            ("no limit", within(None, Some(1 << 33), 1 << 28), Level::Ok),
            ("a limit past the machine", within(Some(u64::MAX), Some(1), 1 << 28), Level::Ok),
            ("less than wanted", within(Some(1 << 27), Some(1 << 33), 1 << 28), Level::Error),
            ("just as wanted", within(Some(1 << 28), Some(1 << 33), 1 << 28), Level::Warn),
            ("twice", within(Some(1 << 29), Some(1 << 33), 1 << 28), Level::Ok),
        ];
        for (row, finding, level) in rows {
            assert_eq!(finding.level, *level, "{row}: {finding:?}");
        }
    }

    #[test]
    fn the_least_limit_of_all_cgroups_counts() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let put = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        assert_eq!(limit_bytes(root.path()), None);
        put("proc/self/cgroup", "4:memory:/a\n0::/box/inner\n");
        put("sys/fs/cgroup/box/inner/memory.max", "max\n");
        put("sys/fs/cgroup/box/memory.max", "400\n");
        put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "300\n");
        assert_eq!(limit_bytes(root.path()), Some(300));
    }
}
