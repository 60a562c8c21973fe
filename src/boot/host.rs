//! Facts about the machine: kernel settings, resource limits, and whether io_uring works.
//!
//! `Host::read` collects the facts from `/proc`, `/sys`, the resource limits and a test call of
//! io_uring; `judge` turns them into findings.
//! Order:    `raise_limits` comes before `Host::read`, and before privileges are dropped, because only
//!           root can raise hard limits.

use std::fs;
use std::io;
use std::path::Path;

use crate::boot::privileges::runs_as_root;
use crate::boot::proc::field_of;
use crate::boot::proc::number_of;
use crate::boot::proc::text_of;

/// The runtime refuses to make a ring with less locked memory.
pub(super) const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Rings and registered buffers of one shard, rounded up.
const MEMLOCK_BYTES_PER_SHARD: u64 = 1 << 20;

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// The result of creating an io_uring ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingTest {
    Works,
    /// The `errno` of `io_uring_setup`.
    Failed(i32),
}

/// Facts about the machine and this process. `None`: the value could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub kernel: Option<(u32, u32)>,
    pub ring: RingTest,
    pub io_uring_disabled: Option<u64>,
    /// A seccomp filter applies to this process, as in most containers.
    pub filtered: bool,
    pub memlock: Limit,
    pub open_files: Limit,
    pub somaxconn: Option<u64>,
    /// The CPU frequency governors in use, without duplicates.
    pub governors: Vec<String>,
    pub huge_pages: Option<String>,
    pub overcommit: Option<u64>,
    pub swap_bytes: u64,
    pub swappiness: Option<u64>,
    pub is_root: bool,
}

/// What the configuration needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub shards: u64,
    /// File descriptors when connections, store files, sockets and logs are at their limits.
    pub open_files: u64,
    pub backlog: u64,
    /// `server.user` is set: the process changes to it once the ports are bound.
    pub becomes_user: bool,
}

impl Needs {
    pub(super) fn memlock_bytes(&self) -> u64 {
        MEMLOCK_BYTES_MIN.max(self.shards * MEMLOCK_BYTES_PER_SHARD)
    }
}

impl Host {
    /// Reads the files below `root`; the limits and the io_uring test concern this process.
    pub fn read(root: &Path) -> Host {
        Host {
            kernel: kernel_of(&text_of(root, "proc/sys/kernel/osrelease")),
            ring: test_ring(),
            io_uring_disabled: number_of(root, "proc/sys/kernel/io_uring_disabled"),
            filtered: field_of(&text_of(root, "proc/self/status"), "Seccomp:") == Some(2),
            memlock: limit(libc::RLIMIT_MEMLOCK),
            open_files: limit(libc::RLIMIT_NOFILE),
            somaxconn: number_of(root, "proc/sys/net/core/somaxconn"),
            governors: governors_of(root),
            huge_pages: chosen(&text_of(root, "sys/kernel/mm/transparent_hugepage/enabled")),
            overcommit: number_of(root, "proc/sys/vm/overcommit_memory"),
            swap_bytes: field_of(&text_of(root, "proc/meminfo"), "SwapTotal:").unwrap_or(0) << 10,
            swappiness: number_of(root, "proc/sys/vm/swappiness"),
            is_root: runs_as_root(),
        }
    }
}

/// Raises soft limits to the needs, within the hard limits; root raises hard limits too. `judge`
/// reports a limit that stays too low.
pub fn raise_limits(needs: &Needs) {
    raise(libc::RLIMIT_NOFILE, needs.open_files);
    raise(libc::RLIMIT_MEMLOCK, needs.memlock_bytes());
}

fn raise(resource: libc::__rlimit_resource_t, wanted: u64) {
    let now = limit(resource);
    // The soft limit of open files is raised to the hard limit in any case: this costs nothing, and
    // a reload may then raise `limits.connections`.
    let room = if resource == libc::RLIMIT_NOFILE { now.hard.max(wanted) } else { wanted };
    let reachable = [
        Limit { soft: room.max(now.soft), hard: now.hard.max(room) },
        Limit { soft: room.clamp(now.soft, now.hard), hard: now.hard },
    ];
    for Limit { soft, hard } in reachable {
        let new = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `new` is valid and outlives the call.
        if unsafe { libc::setrlimit(resource, &new) } == 0 {
            return;
        }
    }
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` is a valid place for the answer. A failure leaves zeroes, the lowest limit.
    unsafe { libc::getrlimit(resource, &mut now) };
    Limit { soft: now.rlim_cur, hard: now.rlim_max }
}

/// Creates the smallest ring and closes it. Only this call shows whether a sysctl, seccomp or a
/// security module forbids io_uring.
fn test_ring() -> RingTest {
    const ENTRIES: libc::c_ulong = 2;
    const PARAMS_WORDS: usize = 15;
    let mut params = [0_u64; PARAMS_WORDS];
    // SAFETY: `params` is as large and as aligned as `struct io_uring_params` (120 bytes of
    // integers), zeroed as the call asks, and outlives it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
    if fd < 0 {
        return RingTest::Failed(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    // SAFETY: the descriptor was just created and is used nowhere else.
    unsafe { libc::close(fd as i32) };
    RingTest::Works
}

/// The capability to bind any port (capabilities(7)).
const CAP_NET_BIND_SERVICE: u32 = 10;
/// The kernel's default of `ip_unprivileged_port_start`.
const PORTS_FROM: u16 = 1024;

/// The lowest port that this process may bind.
pub fn ports_from(root: &Path) -> u16 {
    if has_capability(root, CAP_NET_BIND_SERVICE) {
        return 0;
    }
    let start = number_of(root, "proc/sys/net/ipv4/ip_unprivileged_port_start");
    start.map_or(PORTS_FROM, |start| u16::try_from(start).unwrap_or(u16::MAX))
}

/// Whether the capability is in the effective set of this process.
pub(crate) fn has_capability(root: &Path, number: u32) -> bool {
    let status = text_of(root, "proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|bits| bits & 1 << number != 0)
}

fn kernel_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `madvise` of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(chosen, _)| chosen.to_owned())
}

fn governors_of(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/cpu/cpufreq")) else {
        return Vec::new();
    };
    let texts = entries.flatten().map(|entry| text_of(&entry.path(), "scaling_governor"));
    let mut names: Vec<String> = texts.map(|text| text.trim().to_owned()).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs =
        Needs { shards: 4, open_files: 10_000, backlog: 4096, becomes_user: false };

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn facts_are_read() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let root = root.path();
        put(root, "proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        put(root, "proc/sys/kernel/io_uring_disabled", "1\n");
        put(root, "proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        put(root, "proc/sys/net/core/somaxconn", "128\n");
        put(root, "proc/sys/vm/overcommit_memory", "2\n");
        put(root, "proc/sys/vm/swappiness", "60\n");
        put(root, "proc/meminfo", "MemTotal: 9 kB\nSwapTotal:     1024 kB\n");
        put(root, "sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n");
        put(root, "sys/devices/system/cpu/cpufreq/policy1/scaling_governor", "powersave\n");
        let host = Host::read(root);
        let expected = Host {
            kernel: Some((6, 1)),
            io_uring_disabled: Some(1),
            filtered: true,
            somaxconn: Some(128),
            governors: vec!["powersave".to_owned()],
            huge_pages: Some("always".to_owned()),
            overcommit: Some(2),
            swap_bytes: 1 << 20,
            swappiness: Some(60),
            ring: host.ring,
            memlock: host.memlock,
            open_files: host.open_files,
            is_root: host.is_root,
        };
        assert_eq!(host, expected);
    }

    #[test]
    fn the_lowest_port_is_that_of_rights_and_kernel() {
        for (status, start, expected) in [
            ("CapEff:\t0000000000000000\n", "", 1024),
            ("CapEff:\t0000000000000000\n", "25\n", 25),
            ("CapEff:\t0000000000000000\n", "0\n", 0),
            ("CapEff:\t0000000000000400\n", "1024\n", 0),
            ("", "80\n", 80),
        ] {
            let root = tempfile::tempdir().expect("a folder for the test");
            put(root.path(), "proc/self/status", status);
            put(root.path(), "proc/sys/net/ipv4/ip_unprivileged_port_start", start);
            assert_eq!(ports_from(root.path()), expected, "{status:?} {start:?}");
        }
    }

    #[test]
    fn soft_limits_go_up_to_what_is_needed() {
        let before = limit(libc::RLIMIT_NOFILE);
        raise_limits(&Needs { open_files: before.soft, ..NEEDS });
        let after = limit(libc::RLIMIT_NOFILE);
        assert_eq!((after.soft, after.hard), (before.hard, before.hard));
        assert!(limit(libc::RLIMIT_MEMLOCK).soft >= MEMLOCK_BYTES_MIN.min(before.hard));
    }
}
