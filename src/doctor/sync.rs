//! Measures the sync latency of the spool's disk with the write pattern of the queue: appends of 4 KiB,
//! each followed by fdatasync.
//!
//! Bounds:   `SYNCS_MAX` syncs or `TIME_MAX`, whichever comes first; about 1 MB of disk space. The file
//!           is unlinked before it is written.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::boot::check::Finding;
use crate::boot::check::SYNC;
use crate::doctor::subject::Subject;

const BLOCK_BYTES: usize = 4096;
const SYNCS_MAX: usize = 250;
const TIME_MAX: Duration = Duration::from_secs(3);

/// Faster than any disk: even the flush of a power-safe cache takes this long.
const FALSE_MAX: Duration = Duration::from_micros(15);
/// With slower syncs most mail waits longer for the disk than for the network.
const SLOW_MIN: Duration = Duration::from_millis(20);
/// Limit for the 99th percentile.
const TAIL_MIN: Duration = Duration::from_millis(100);

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let folder = subject.nearest_to_spool();
    vec![match measure(&folder) {
        Ok(taken) => judge(&taken),
        Err(cause) => SYNC.note(
            format!("not measured in {}: {cause}", folder.display()),
            "run the doctor as the user of the server",
        ),
    }]
}

/// The durations of all syncs, sorted.
fn measure(folder: &Path) -> io::Result<Vec<Duration>> {
    let mut file = unlinked_file(folder)?;
    let block = [b'.'; BLOCK_BYTES];
    let began = Instant::now();
    let mut taken = Vec::with_capacity(SYNCS_MAX);
    while taken.is_empty() || taken.len() < SYNCS_MAX && began.elapsed() < TIME_MAX {
        file.write_all(&block)?;
        let before = Instant::now();
        file.sync_data()?;
        taken.push(before.elapsed());
    }
    taken.sort_unstable();
    Ok(taken)
}

/// An unlinked file: it vanishes when closed, even if the process is killed.
fn unlinked_file(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!(".ringpost-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn judge(taken: &[Duration]) -> Finding {
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100];
    let (middle, tail) = (at(50), at(99));
    let us = |time: Duration| time.as_micros();
    let seen = format!("p50 {} us, p99 {} us, of {} syncs", us(middle), us(tail), taken.len());
    if middle < FALSE_MAX {
        return SYNC.warn(
            format!("{seen}: too fast for a disk"),
            "the syncs do not reach the disk: see file-system, mount-options and write-cache, or check the host",
        );
    }
    if middle >= SLOW_MIN || tail >= TAIL_MIN {
        let remedy = "use a disk with a power-safe write cache, or move other load off this disk";
        return SYNC.warn(format!("{seen}: slow"), remedy);
    }
    SYNC.ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;

    #[test]
    fn syncs_are_judged() {
        let us =
            |times: &[u64]| times.iter().copied().map(Duration::from_micros).collect::<Vec<_>>();
        for (row, taken, level) in [
            ("a good disk", us(&[40, 50, 60]), Level::Ok),
            ("a disk of the house", us(&[900, 1100, 9000]), Level::Ok),
            ("memory", us(&[1, 1, 2]), Level::Warn),
            ("turning", us(&[8000, 25_000, 40_000]), Level::Warn),
            ("one only", us(&[500]), Level::Ok),
        ] {
            assert_eq!(judge(&taken).level, level, "{row}");
        }
        let mut tail = us(&[100; 99]);
        tail.extend(us(&[200_000]));
        assert_eq!(judge(&tail).level, Level::Ok, "one in a hundred is past the 99th percent");
        tail.extend(us(&[200_000]));
        assert_eq!(judge(&tail).level, Level::Warn, "a long tail");
    }

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let taken = measure(folder.path()).expect("it can be written");
        assert!(taken.is_sorted() && !taken.is_empty() && taken.len() <= SYNCS_MAX);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
        assert!(measure(&folder.path().join("none")).is_err());
    }
}
