//! Memory: what the configured limits need, and what the machine and its cgroups provide.

use std::fs;
use std::path::Path;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::proc::field_of;
use crate::boot::proc::text_of;
use crate::boot::topology::cgroup_folders;
use crate::config::Config;
use crate::doctor::subject::Subject;

/// The process without mail: code, caches of the store, rings, tables; rounded up.
const BASE_BYTES: u64 = 64 << 20;
/// Resident memory of an idle connection, measured at 3.7 KB and rounded up.
const CONNECTION_BYTES: u64 = 4 << 10;
/// Half of the memory stays free for the page cache, from which the store reads recent writes.
const PAGE_CACHE_SHARE: u64 = 2;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let (root, wanted) = (&subject.root, wanted_bytes(&subject.config));
    let total = field_of(&text_of(root, "proc/meminfo"), "MemTotal:").map(|kib| kib << 10);
    vec![against(total, wanted), within(limit_bytes(root), total, wanted)]
}

/// The sum of the configured limits.
fn wanted_bytes(config: &Config) -> u64 {
    let connections = config.limits.connections as u64 * CONNECTION_BYTES;
    BASE_BYTES + config.limits.body_memory + config.queue.memory + connections
}

fn against(total: Option<u64>, wanted: u64) -> Finding {
    let Some(total) = total else {
        return check::MEMORY.note("/proc/meminfo cannot be read", "check `free -m`");
    };
    let seen = format!("{} MiB; the configured limits need {} MiB", total >> 20, wanted >> 20);
    if wanted > total / PAGE_CACHE_SHARE {
        let remedy = "lower limits.body_memory, queue.memory or limits.connections";
        return check::MEMORY.warn(seen, remedy);
    }
    check::MEMORY.ok(seen)
}

fn within(limit: Option<u64>, total: Option<u64>, wanted: u64) -> Finding {
    let real = limit.filter(|limit| total.is_none_or(|total| *limit < total));
    match real {
        None => check::CGROUP_MEMORY.ok("none"),
        Some(limit) if limit < wanted => check::CGROUP_MEMORY.error(
            format!(
                "the cgroup allows {} MiB; the configured limits need {} MiB",
                limit >> 20,
                wanted >> 20
            ),
            "raise it (`MemoryMax=`, `docker --memory`), or lower the configured limits",
        ),
        Some(limit) if limit / PAGE_CACHE_SHARE < wanted => check::CGROUP_MEMORY.warn(
            format!(
                "the cgroup allows {} MiB; the configured limits need {} MiB",
                limit >> 20,
                wanted >> 20
            ),
            "double the limit: the page cache counts against it",
        ),
        Some(limit) => check::CGROUP_MEMORY.ok(format!("{} MiB", limit >> 20)),
    }
}

/// The lowest memory limit of the cgroups around this process, of either cgroup version.
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

    use crate::boot::check::Level;

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
