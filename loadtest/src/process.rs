//! The cost of processes and process trees, read from `/proc`, and the time.
//!
//! Promise:  the tree includes processes that have ended if their parent waited for them: the kernel adds
//!           their times and bytes to the parent's. Orphans below `ringpost-load hold` are waited for.
//! Not seen: children of a living parent that ignores SIGCHLD, such as Exim's deliveries; work of kernel
//!           threads, such as the journal of a file system. CPU time is counted in ticks of 10 ms.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

/// The unit of times in `/proc/PID/stat`, fixed by the kernel's interface.
pub const TICKS_PER_SECOND: u64 = 100;

/// The figures of a tree that never rests are taken after this many reads.
const READS_MAX: usize = 10;
const BETWEEN_READS: Duration = Duration::from_millis(10);

/// The cost of a tree since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// User and system time.
    pub cpu: Duration,
    /// Bytes written to storage, in pages. `None`: a process hides them from us (no root).
    pub written_bytes: Option<u64>,
}

impl Cost {
    /// The cost of this process and its descendants. The tree is read until two readings agree, since a
    /// process that ends meanwhile may be missed or counted twice.
    pub fn of(root: u32) -> Cost {
        let mut last = Cost::at_once(root);
        for _ in 0..READS_MAX {
            thread::sleep(BETWEEN_READS);
            let next = Cost::at_once(root);
            if next == last {
                break;
            }
            last = next;
        }
        last
    }

    fn at_once(root: u32) -> Cost {
        let all = of(root);
        let ticks: u64 = all.iter().filter_map(|pid| ticks(*pid)).sum();
        let cpu = Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
        Cost { cpu, written_bytes: all.into_iter().map(written).sum() }
    }

    pub fn since(self, before: Cost) -> Cost {
        Cost {
            cpu: self.cpu.saturating_sub(before.cpu),
            written_bytes: self
                .written_bytes
                .zip(before.written_bytes)
                .map(|(now, before)| now.saturating_sub(before)),
        }
    }
}

/// Microseconds of Unix time.
pub fn wall_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros() as u64)
}

/// Kilobytes of memory of the descendants, with shared pages counted once. `None`: not readable.
pub fn memory_kb(root: u32) -> Option<u64> {
    // The root is `ringpost-load hold` and not part of the server.
    of(root).into_iter().filter(|pid| *pid != root).map(share).sum()
}

/// CPU time of the living threads of the descendants, in microseconds by name without its number.
pub fn threads(root: u32) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for pid in of(root).into_iter().filter(|pid| *pid != root) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (name, ran) = (read("comm"), read("schedstat"));
            let name =
                name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || "-:/".contains(c));
            let ran_ns: Option<u64> = ran.split(' ').next().and_then(|ran| ran.parse().ok());
            *sums.entry(name.to_owned()).or_insert(0) += ran_ns.unwrap_or(0) / 1000;
        }
    }
    sums
}

/// This process and its descendants.
pub fn of(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let Ok(all) = fs::read_dir("/proc") else { return vec![root] };
    for entry in all.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let parent = stat(pid).and_then(|fields| fields.get(PARENT)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Indexes in `/proc/PID/stat` after the name, see proc(5).
const PARENT: usize = 1;
const TIMES: std::ops::Range<usize> = 11..15;

/// The fields after the name, which may contain spaces and parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// User and system time, with children that were waited for.
pub fn ticks(pid: u32) -> Option<u64> {
    stat(pid)?.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

fn written(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

fn share(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// A number from a file of `/proc`: 0 for a process that has ended, `None` without permission.
pub fn field(path: &str, name: &str) -> Option<u64> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let field = text.lines().find_map(|line| line.strip_prefix(name));
            let number = field.map(|field| field.trim().trim_end_matches(" kB").parse());
            Some(number.and_then(Result::ok).unwrap_or(0))
        }
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::process::Stdio;

    #[test]
    fn the_cost_of_a_tree_includes_ended_processes() {
        // The child of the shell writes a megabyte and syncs it; the shell waits for it, then for us.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("the folder is ours");
        let file = folder.path().join("file");
        let script = "dd if=/dev/zero of=$0 bs=1M count=1 conv=fsync 2>/dev/null; \
                      i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read end";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("there is a shell");
        let mut line = [0; 5];
        let out = shell.stdout.as_mut().expect("it is a pipe");
        std::io::Read::read_exact(out, &mut line).expect("it tells when it is done");
        let (pid, own) = (shell.id(), std::process::id());
        let cost = Cost::of(pid);
        assert!(of(own).contains(&pid) && !of(pid).contains(&own));
        assert!(memory_kb(own) > Some(0), "the shell's");
        assert!(threads(own).get("sh") > Some(&10_000), "{:?}", threads(own));
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
        assert!(cost.cpu >= Duration::from_millis(20), "{cost:?}");
        // A file system in memory writes nothing.
        let written = cost.written_bytes.expect("it is ours");
        assert!([0, 1 << 20].contains(&(written & !0xfffff)), "{cost:?}");
        let nothing = Cost { written_bytes: Some(0), ..Cost::default() };
        assert_eq!(cost.since(cost), nothing);
        assert_eq!(Cost::of(pid), nothing, "it is gone");
    }
}
