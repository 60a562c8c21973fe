//! Reads the output of strace: the syncs of a server's queue with their begin and end.
//!
//! A sync is a successful `fsync` or `fdatasync` of a file below the queue's folder, a `syncfs` or `sync`,
//! or a write to a file opened with O_SYNC or O_DSYNC. `sync_file_range` does not count: it does not flush
//! the cache of the disk. strace does not see the requests of io_uring: without any visible sync and
//! with a ring, the result is unknown.

use std::collections::HashMap;
use std::collections::HashSet;

/// A body that was sent and accepted, in microseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub ended_us: u64,
    pub replied_us: u64,
}

/// In microseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    pub began_us: u64,
    pub ended_us: u64,
}

/// The system calls to trace.
pub const CALLS: &str =
    "fsync,fdatasync,syncfs,sync,openat,write,pwrite64,writev,pwritev,pwritev2,io_uring_setup";

/// Whether an io_uring was created.
pub fn has_ring(trace: &str) -> bool {
    let is_made = |line: &str| {
        let call = line.contains("io_uring_setup(") || line.contains("io_uring_setup resumed>");
        call && end_of(line).is_some_and(|(result, _)| !result.starts_with(['-', '?']))
    };
    trace.lines().any(is_made)
}

/// All syncs of files below this folder in a trace (`strace -f -y -ttt -T`).
pub fn syncs(trace: &str, spool: &str) -> Vec<Sync> {
    let mut found = Vec::new();
    // The unfinished call of each thread.
    let mut open: HashMap<&str, (u64, &str)> = HashMap::new();
    let mut synchronous = HashSet::new();
    for line in trace.lines() {
        // Thread ids are padded.
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((at, rest)) = rest.trim_start().split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some(at_us) = micros(at) else { continue };
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (at_us, begin));
            continue;
        }
        let (began_us, call) = match rest.starts_with("<... ") {
            true => match open.remove(thread) {
                Some(begun) => begun,
                None => continue,
            },
            false => (at_us, rest),
        };
        let Some((result, took_us)) = end_of(rest) else { continue };
        let ended_us = if rest.starts_with("<... ") { at_us } else { at_us + took_us };
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if name == "openat" {
            let is_synchronous = ["O_SYNC", "O_DSYNC"].iter().any(|flag| arguments.contains(flag));
            if let Some(path) = path_of(result).filter(|_| is_synchronous) {
                synchronous.insert(path);
            }
            continue;
        }
        if result.starts_with('-') || result.starts_with('?') {
            continue;
        }
        let path = path_of(arguments);
        let is_own = path.is_some_and(|path| path.starts_with(spool));
        let counts = match name {
            "sync" => true,
            "fsync" | "fdatasync" | "syncfs" => is_own,
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => {
                is_own && path.is_some_and(|path| synchronous.contains(path))
            }
            _ => false,
        };
        if counts {
            found.push(Sync { began_us, ended_us });
        }
    }
    found
}

/// The number of messages with a sync between the end of the body and the reply.
pub fn proven(syncs: &[Sync], taken: &[Taken]) -> usize {
    let is_within =
        |sync: &Sync, one: &Taken| one.ended_us <= sync.began_us && sync.ended_us <= one.replied_us;
    taken.iter().filter(|one| syncs.iter().any(|sync| is_within(sync, one))).count()
}

/// Reads seconds with a fraction.
fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + fraction)
}

/// The result of a call and its duration: `... = 0 <0.000123>`.
fn end_of(line: &str) -> Option<(&str, u64)> {
    let (call, took) = line.trim_end().strip_suffix('>')?.rsplit_once(" <")?;
    let (_, result) = call.rsplit_once(" = ")?;
    Some((result, micros(took)?))
}

/// The path of a descriptor, as in `7</path>`.
fn path_of(text: &str) -> Option<&str> {
    let (number, rest) = text.split_once('<')?;
    let is_first = number.bytes().all(|byte| byte.is_ascii_digit());
    rest.split_once('>').map(|(path, _)| path).filter(|_| is_first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of strace 6.1 for a server with a sync thread, shortened.
    const GROUP: &str = "\
4161  1700000000.100000 openat(AT_FDCWD</spool>, \"wal\", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 33</spool/p0/000008.log> <0.000020>
4170  1700000000.200000 write(33</spool/p0/000008.log>, \"\"..., 4532) = 4532 <0.000024>
4170  1700000000.200100 fdatasync(33</spool/p0/000008.log> <unfinished ...>
4161  1700000000.200150 write(2</log>, \"\"..., 90) = 90 <0.000010>
4170  1700000000.201100 <... fdatasync resumed>) = 0 <0.001000>
4170  1700000000.300100 fdatasync(33</spool/p0/000008.log>) = 0 <0.000900>
4170  1700000000.400100 fdatasync(33</spool/p0/000008.log>) = -1 EIO (Input/output error) <0.000900>
4170  1700000000.500100 fdatasync(9</elsewhere/file>) = 0 <0.000900>
4170  1700000000.600000 +++ exited with 0 +++
";
    /// A server that writes, closes and renames.
    const NONE: &str = "\
512   1700000000.100000 openat(AT_FDCWD</q>, \"/spool/.m1\", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 24</spool/.m1> <0.000041>
513   1700000000.100200 write(24</spool/.m1>, \"\"..., 4400) = 4400 <0.000031>
512   1700000000.900000 write(18<socket:[5151]>, \"\"..., 60) = 60 <0.000018>
";
    const SYNCHRONOUS: &str = "\
7     1700000000.100000 openat(AT_FDCWD</q>, \"log\", O_WRONLY|O_DSYNC) = 5</spool/log> <0.000041>
7     1700000000.200000 pwrite64(5</spool/log>, \"\"..., 4400, 0) = 4400 <0.002000>
7     1700000000.300000 sync()                 = 0 <0.000500>
";
    const START: u64 = 1_700_000_000_000_000;

    fn message(ended_us: u64, replied_us: u64) -> Taken {
        Taken { ended_us: START + ended_us, replied_us: START + replied_us }
    }

    #[test]
    fn syncs_are_those_of_the_queue_that_succeeded() {
        let sync =
            |began: u64, ended: u64| Sync { began_us: START + began, ended_us: START + ended };
        assert_eq!(syncs(GROUP, "/spool"), [sync(200_100, 201_100), sync(300_100, 301_000)]);
        assert_eq!(syncs(GROUP, "/elsewhere").len(), 1);
        assert_eq!(syncs(NONE, "/spool"), []);
        let synchronous = [sync(200_000, 202_000), sync(300_000, 300_500)];
        assert_eq!(syncs(SYNCHRONOUS, "/spool"), synchronous);
        assert_eq!(syncs("no trace\n\n7 x.y\n", "/spool"), []);
    }

    #[test]
    fn a_ring_is_one_that_was_made() {
        let rows = [
            ("io_uring_setup(128, {flags=0}) = 7<anon_inode:[io_uring]> <0.000041>", true),
            ("<... io_uring_setup resumed>{flags=0}) = 7<anon_inode:[io_uring]> <0.000041>", true),
            (
                "io_uring_setup(128, {flags=0}) = -1 ENOSYS (Function not implemented) <0.000041>",
                false,
            ),
            ("write(2</log>, \"\"..., 90) = 90 <0.000010>", false),
        ];
        for (line, expected) in rows {
            assert_eq!(has_ring(&format!("7  1700000000.1 {line}\n")), expected, "{line}");
        }
    }

    #[test]
    fn a_sync_must_lie_between_body_and_reply() {
        let syncs = syncs(GROUP, "/spool");
        let rows = [
            ("around the first", message(200_000, 201_200), 1),
            ("answered before it ended", message(200_000, 201_000), 0),
            ("ended after it began", message(200_200, 202_000), 0),
            ("at its very edges", message(300_100, 301_000), 1),
            ("when it failed", message(400_000, 402_000), 0),
            ("of a file elsewhere", message(500_000, 502_000), 0),
        ];
        for (name, message, expected) in rows {
            assert_eq!(proven(&syncs, &[message]), expected, "{name}");
        }
        let all = [message(200_000, 201_200), message(300_000, 301_100), message(700_000, 701_000)];
        assert_eq!(proven(&syncs, &all), 2);
        assert_eq!(proven(&super::syncs(NONE, "/spool"), &[message(100_000, 950_000)]), 0);
    }
}
