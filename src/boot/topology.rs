//! The CPUs that this process may use, with their nodes and cores, from `/proc` and `/sys`.
//!
//! Promise:  lists only CPUs of the affinity mask (taskset, cpuset cgroups). A value that cannot be
//!           read gets the simplest default: one node, no siblings, no quota.
//! Order:    read before the first thread is pinned, because pinning narrows the mask.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

/// CPUs in the kernel's affinity set of fixed size.
pub const CPUS_MAX: usize = 1024;

/// One CPU as the kernel counts them: a hardware thread of a physical core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    pub cpu: usize,
    pub node: usize,
    /// The first hardware thread of its physical core, allowed or not.
    pub core: usize,
}

/// The CPUs that this process may use, with their nodes and cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// By node, then by number.
    pub cpus: Vec<Cpu>,
    /// The CPU quota of the cgroup in thousandths of a CPU.
    pub quota_millis: Option<u64>,
}

impl Topology {
    /// Reads `/proc` and `/sys` below `root`.
    pub fn read(root: &Path) -> Topology {
        Topology::of(root, allowed_cpus(root))
    }

    /// As `read`, but for all CPUs that are online, also those outside of the affinity mask.
    pub fn read_online(root: &Path) -> Topology {
        let online = fs::read_to_string(root.join("sys/devices/system/cpu/online"));
        let online = parse_cpu_list(&online.unwrap_or_default()).unwrap_or_default();
        Topology::of(root, if online.is_empty() { allowed_cpus(root) } else { online })
    }

    fn of(root: &Path, numbers: Vec<usize>) -> Topology {
        let nodes = nodes_of_cpus(root);
        let mut cpus: Vec<Cpu> = numbers
            .into_iter()
            .map(|cpu| Cpu {
                cpu,
                node: nodes.get(&cpu).copied().unwrap_or(0),
                core: first_sibling(root, cpu),
            })
            .collect();
        cpus.sort_by_key(|cpu| (cpu.node, cpu.cpu));
        Topology { cpus, quota_millis: quota_millis(root) }
    }

    /// Nodes that hold an allowed CPU.
    pub fn nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.cpus.iter().map(|cpu| cpu.node).collect();
        nodes.dedup();
        nodes
    }

    /// Numbers of the allowed CPUs, in order.
    pub fn numbers(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = self.cpus.iter().map(|cpu| cpu.cpu).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Parses a CPU list as the kernel writes it: `0-3,8`. `None` if the text is not a list.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Formats sorted CPU numbers as `parse_cpu_list` reads them.
pub struct CpuList<'a>(pub &'a [usize]);

impl fmt::Display for CpuList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(i, cpu)| **cpu == first + i).count();
            let separator = if rest.len() < self.0.len() { "," } else { "" };
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", first + run - 1)?,
            }
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// The affinity mask from `/proc`, which has no upper bound; without `/proc`, from the system call.
fn allowed_cpus(root: &Path) -> Vec<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    match line.and_then(parse_cpu_list) {
        Some(cpus) => cpus,
        None => {
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect()
        }
    }
}

fn nodes_of_cpus(root: &Path) -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/node")) else {
        return nodes;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        if let Some(node) = number {
            nodes.extend(parse_cpu_list(&list).unwrap_or_default().into_iter().map(|c| (c, node)));
        }
    }
    nodes
}

fn first_sibling(root: &Path, cpu: usize) -> usize {
    let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = fs::read_to_string(root.join(file)).unwrap_or_default();
    let siblings = parse_cpu_list(&list).unwrap_or_default();
    siblings.into_iter().min().unwrap_or(cpu)
}

/// The smallest CPU quota from the cgroup of this process up to the root, of either cgroup version.
fn quota_millis(root: &Path) -> Option<u64> {
    cgroup_folders(root, "cpu").iter().filter_map(|folder| quota_in(folder)).min()
}

/// The folders of this process' cgroup and of its parents for `controller`, of either cgroup version.
pub(crate) fn cgroup_folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mount = match controllers {
            "" => root.join("sys/fs/cgroup"),
            list if list.split(',').any(|one| one == controller) => {
                root.join("sys/fs/cgroup").join(controller)
            }
            _ => continue,
        };
        // In a container the path may be one of the host. The root of the mount is then the cgroup
        // of the container, so the root is always included.
        let own = mount.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|folder| folder.starts_with(&mount));
        found.extend(around.map(Path::to_path_buf));
    }
    found
}

fn quota_in(folder: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let text = match read("cpu.max") {
        Some(text) => text,
        None => format!("{} {}", read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(quota)), Some(Ok(period))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    (period > 0).then(|| quota * 1000 / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, cpus) in
            [("0", vec![0]), ("0-2,5", vec![0, 1, 2, 5]), (" 3\n", vec![3]), ("", vec![])]
        {
            assert_eq!(parse_cpu_list(text), Some(cpus.clone()), "{text:?}");
            assert_eq!(CpuList(&cpus).to_string(), text.trim(), "{text:?}");
        }
    }

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let root = root.path();
        put(root, "proc/self/status", "Name:\tx\nCpus_allowed_list:\t1-3,5\n");
        put(root, "proc/self/cgroup", "5:cpu,cpuacct:/a\n0::/box/inner\n");
        put(root, "sys/fs/cgroup/box/cpu.max", "350000 100000\n");
        put(root, "sys/fs/cgroup/box/inner/cpu.max", "max 100000\n");
        put(root, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "400000\n");
        put(root, "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
        put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        put(root, "sys/devices/system/node/node0/cpulist", "0-1,4-5\n");
        put(root, "sys/devices/system/node/node1/cpulist", "2-3,6-7\n");
        put(root, "sys/devices/system/node/possible", "0-1\n");
        for cpu in 0..8 {
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            put(
                root,
                &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                &siblings,
            );
        }
        let topology = Topology::read(root);
        let cpu = |cpu, node, core| Cpu { cpu, node, core };
        assert_eq!(topology.cpus, [cpu(1, 0, 1), cpu(5, 0, 1), cpu(2, 1, 2), cpu(3, 1, 3)]);
        assert_eq!(topology.quota_millis, Some(3500));
    }

    #[test]
    fn a_machine_without_files_is_flat() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let topology = Topology::read(root.path());
        assert!(!topology.cpus.is_empty(), "the system call knows CPUs");
        assert_eq!(topology.quota_millis, None);
        assert!(topology.cpus.iter().all(|cpu| cpu.node == 0 && cpu.core == cpu.cpu));
    }
}
