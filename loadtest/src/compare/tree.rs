//! What a tree of processes costs, read from `/proc`.
//!
//! Promise:  also what processes cost that have ended, as long as their parent waited for them: the
//!           kernel adds their times and bytes to the parent's. Orphans below `ringpost-load hold`
//!           are waited for by that.
//! Not seen: processes whose parent lives and ignores SIGCHLD, as Exim's sessions do of their
//!           deliveries: the kernel adds their costs to nobody's. And what the kernel does on its own threads, such as writing to a file system's journal;
//!           and the least share of CPU time that is counted is a tick of 10 ms for each process.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// The unit of times in `/proc/PID/stat`, by the kernel's promise to user space.
const TICKS_PER_SECOND: u64 = 100;

/// A server that never rests is taken at its last word.
const READS_MAX: usize = 10;
const BETWEEN_READS: Duration = Duration::from_millis(10);

/// What a tree used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// User and system.
    pub cpu: Duration,
    /// Sent to the disk, or on the way to it, in pages. `None`: of a process that does not let itself
    /// be read, as one that keeps secrets from others of its user, and we are not root.
    pub written_bytes: Option<u64>,
}

impl Cost {
    /// Of all processes at and below this one. What a process cost that ends while the tree is read
    /// may be missed, or be seen twice: so it is read until it says the same again.
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

/// Kilobytes of memory at this moment: pages that processes share are counted once. `None`: some do
/// not let themselves be read.
pub fn memory_kb(root: u32) -> Option<u64> {
    // The one that holds the others is none of the server.
    of(root).into_iter().filter(|pid| *pid != root).map(share).sum()
}

/// All processes at and below this one.
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

/// Places in `/proc/PID/stat` behind the name: see proc(5).
const PARENT: usize = 1;
const TIMES: std::ops::Range<usize> = 11..15;

/// The fields behind the name, which may itself hold blanks and brackets.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// User and system time, and those of children that were waited for.
fn ticks(pid: u32) -> Option<u64> {
    stat(pid)?.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

fn written(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

fn share(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The number behind a name: 0 of a process that is gone, `None` if it may not be read.
fn field(path: &str, name: &str) -> Option<u64> {
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
    fn a_tree_costs_what_its_processes_did_and_do() {
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
