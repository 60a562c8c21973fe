//! What the machine grants, and what of it should be otherwise.
//!
//! `Host::read` collects facts from `/proc`, `/sys`, the limits and one trial of io_uring;
//! `findings` judges them and touches nothing, so that each judgement is tested by a table.
//! `raise_limits` comes before both, and before rights are dropped: root may raise hard limits.
//!
//! Levels:   `Refuse` where the server could not run or not keep its promises, `Warn` where it
//!           would be slower or smaller than it was asked to be, `Info` where a choice is shown.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Less than this and the runtime refuses to make a ring.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Rings and registered buffers of one shard, rounded up.
const MEMLOCK_BYTES_PER_SHARD: u64 = 1 << 20;

/// Below this the store cannot even hold its own files open.
const OPEN_FILES_MIN: u64 = 512;

/// The kernel that brought the last operation the shards rely on. Older ones lack fixes too.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Swapping less eagerly than this leaves a mail server's memory alone until there is no other way.
const SWAPPINESS_CALM: u64 = 10;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Refuse,
    Warn,
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Refuse => "refuse",
            Level::Warn => "warning",
            Level::Info => "note",
        })
    }
}

/// The things that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    Ring,
    Kernel,
    Memlock,
    OpenFiles,
    Backlog,
    Root,
    Governor,
    HugePages,
    Overcommit,
    Swap,
}

/// One thing that should be otherwise, and how to make it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// How a trial of io_uring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingTrial {
    Works,
    /// The error number of `io_uring_setup`.
    Failed(i32),
}

/// Facts about the machine and this process. `None` is what could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub kernel: Option<(u32, u32)>,
    pub ring: RingTrial,
    pub io_uring_disabled: Option<u64>,
    /// A seccomp filter watches this process (a container, usually).
    pub filtered: bool,
    pub memlock: Limit,
    pub open_files: Limit,
    pub somaxconn: Option<u64>,
    /// Governors in use, each once.
    pub governors: Vec<String>,
    pub huge_pages: Option<String>,
    pub overcommit: Option<u64>,
    pub swap_bytes: u64,
    pub swappiness: Option<u64>,
    pub is_root: bool,
}

/// What the configuration asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub shards: u64,
    /// Connections, store files, sockets, logs: all descriptors at their bounds.
    pub open_files: u64,
    pub backlog: u64,
    /// A user is configured, to become once the ports are bound.
    pub becomes_user: bool,
}

impl Needs {
    fn memlock_bytes(&self) -> u64 {
        MEMLOCK_BYTES_MIN.max(self.shards * MEMLOCK_BYTES_PER_SHARD)
    }
}

impl Host {
    /// Reads the files below `root`; limits and the trial are of this process.
    pub fn read(root: &Path) -> Host {
        Host {
            kernel: kernel_of(&text_of(root, "proc/sys/kernel/osrelease")),
            ring: try_ring(),
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
            is_root: crate::boot::privileges::runs_as_root(),
        }
    }
}

/// What is to be said about this machine, the worst first.
pub fn findings(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        judged(host, needs).into_iter().filter_map(|(_, finding)| finding).collect();
    found.sort_by_key(|finding| finding.level);
    found
}

/// What was looked at, each with what is to be said about it.
pub fn judged(host: &Host, needs: &Needs) -> [(Looked, Option<Finding>); 10] {
    [
        (Looked::Ring, judge_ring(host)),
        (Looked::Kernel, judge_kernel(host)),
        (Looked::Memlock, judge_memlock(host, needs)),
        (Looked::OpenFiles, judge_open_files(host, needs)),
        (Looked::Backlog, judge_backlog(host, needs)),
        (Looked::Root, judge_root(host, needs)),
        (Looked::Governor, judge_governor(host)),
        (Looked::HugePages, judge_huge_pages(host)),
        (Looked::Overcommit, judge_overcommit(host)),
        (Looked::Swap, judge_swap(host)),
    ]
}

pub(crate) fn finding(
    level: Level,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Option<Finding> {
    Some(Finding { level, what: what.into(), remedy: remedy.into() })
}

fn judge_ring(host: &Host) -> Option<Finding> {
    let RingTrial::Failed(errno) = host.ring else {
        return None;
    };
    let (what, remedy) = match (errno, host.io_uring_disabled) {
        (libc::ENOSYS, _) if !host.filtered => (
            "this kernel has no io_uring".to_owned(),
            "run Linux 5.10 or newer, built with CONFIG_IO_URING".to_owned(),
        ),
        (libc::EPERM, Some(by @ 1..)) => (
            format!("io_uring is disabled by sysctl (kernel.io_uring_disabled = {by})"),
            "set it to 0, or to 1 and add the server's group to kernel.io_uring_group".to_owned(),
        ),
        (libc::EPERM | libc::EACCES | libc::ENOSYS, _) if host.filtered => (
            "io_uring is forbidden by the container's seccomp filter".to_owned(),
            "allow io_uring_setup, io_uring_enter and io_uring_register; tuning/seccomp adds them \
             to Docker's own profile"
                .to_owned(),
        ),
        (libc::EPERM | libc::EACCES, _) => (
            "io_uring is forbidden by a security module".to_owned(),
            "allow it in the policy of SELinux, AppArmor or whatever else is loaded".to_owned(),
        ),
        (libc::ENOMEM, _) => (
            "the kernel has no memory for a ring".to_owned(),
            "raise memlock (`LimitMEMLOCK=64M`, `--ulimit memlock=67108864`)".to_owned(),
        ),
        (libc::EMFILE | libc::ENFILE, _) => (
            "no file descriptor is left for a ring".to_owned(),
            "raise the number of open files (`LimitNOFILE=`)".to_owned(),
        ),
        _ => (
            format!("io_uring fails: {}", io::Error::from_raw_os_error(errno)),
            "it must work for this process; try a newer kernel".to_owned(),
        ),
    };
    finding(Level::Refuse, what, remedy)
}

fn judge_kernel(host: &Host) -> Option<Finding> {
    let (major, minor) = host.kernel.filter(|kernel| *kernel < KERNEL_MIN)?;
    let what = format!("Linux {major}.{minor} is older than what this server is tested on");
    finding(Level::Warn, what, format!("run {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1))
}

fn judge_memlock(host: &Host, needs: &Needs) -> Option<Finding> {
    let (soft, wanted) = (host.memlock.soft, needs.memlock_bytes());
    let level = match soft {
        ..MEMLOCK_BYTES_MIN => Level::Refuse,
        _ if soft < wanted => Level::Warn,
        _ => return None,
    };
    let shards = needs.shards;
    let what = format!("memlock is {} KiB, {shards} shards want {} KiB", soft >> 10, wanted >> 10);
    let remedy = "raise it (`LimitMEMLOCK=64M` in the unit, `ulimit -l`, `--ulimit memlock=`)";
    finding(level, what, remedy)
}

fn judge_open_files(host: &Host, needs: &Needs) -> Option<Finding> {
    let Limit { soft, .. } = host.open_files;
    let level = match soft {
        ..OPEN_FILES_MIN => Level::Refuse,
        _ if soft < needs.open_files => Level::Warn,
        _ => return None,
    };
    let what =
        format!("{soft} open files are allowed, the limits set ask for {}", needs.open_files);
    let remedy = "raise it (`LimitNOFILE=` in the unit, `ulimit -Hn`), or allow fewer connections";
    finding(level, what, remedy)
}

fn judge_backlog(host: &Host, needs: &Needs) -> Option<Finding> {
    let somaxconn = host.somaxconn.filter(|somaxconn| *somaxconn < needs.backlog)?;
    let what = format!(
        "net.core.somaxconn is {somaxconn} and cuts the backlog of {} that was asked for",
        needs.backlog
    );
    finding(Level::Warn, what, format!("`sysctl -w net.core.somaxconn={}`", needs.backlog))
}

fn judge_root(host: &Host, needs: &Needs) -> Option<Finding> {
    (host.is_root && !needs.becomes_user).then_some(())?;
    let remedy = "name a `user` in the configuration; ports are bound before it is taken";
    finding(Level::Warn, "the server runs as root and stays root", remedy)
}

fn judge_governor(host: &Host) -> Option<Finding> {
    let slow = host.governors.iter().find(|name| *name == "powersave");
    let other = host.governors.iter().find(|name| *name != "performance");
    let (level, name) = match (slow, other) {
        (Some(name), _) => (Level::Warn, name),
        (None, Some(name)) => (Level::Info, name),
        (None, None) => return None,
    };
    let remedy = "`cpupower frequency-set -g performance` for steady latencies";
    finding(level, format!("the CPU governor is {name}"), remedy)
}

fn judge_huge_pages(host: &Host) -> Option<Finding> {
    host.huge_pages.as_deref().filter(|chosen| *chosen == "always")?;
    let remedy = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`";
    finding(Level::Warn, "huge pages for all make each connection cost more memory", remedy)
}

fn judge_overcommit(host: &Host) -> Option<Finding> {
    host.overcommit.filter(|mode| *mode == 2)?;
    let what = "vm.overcommit_memory = 2 refuses memory that is reserved and never touched";
    finding(Level::Warn, what, "`sysctl -w vm.overcommit_memory=0`, or leave plenty of room")
}

fn judge_swap(host: &Host) -> Option<Finding> {
    let swappiness = host.swappiness.filter(|much| *much > SWAPPINESS_CALM)?;
    (host.swap_bytes > 0).then_some(())?;
    let what = format!("there is swap, and vm.swappiness is {swappiness}; a swapped shard stands");
    finding(Level::Info, what, format!("`sysctl -w vm.swappiness={SWAPPINESS_CALM}`"))
}

/// Raises soft limits as far as the needs and the hard limits go; root raises those as well. What
/// was not reached is seen by `findings` afterwards.
pub fn raise_limits(needs: &Needs) {
    raise(libc::RLIMIT_NOFILE, needs.open_files);
    raise(libc::RLIMIT_MEMLOCK, needs.memlock_bytes());
}

fn raise(resource: libc::__rlimit_resource_t, wanted: u64) {
    let now = limit(resource);
    // The soft number of open files goes up to the hard one in any case: it costs nothing, and a
    // limit raised by a reload then finds its room.
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
    // SAFETY: `now` is a valid place for the answer. A failure leaves zeroes, which are judged as
    // the lowest limit.
    unsafe { libc::getrlimit(resource, &mut now) };
    Limit { soft: now.rlim_cur, hard: now.rlim_max }
}

/// Makes a ring of the smallest size and closes it: sysctl, seccomp and security modules answer
/// nowhere else.
fn try_ring() -> RingTrial {
    const ENTRIES: libc::c_ulong = 2;
    const PARAMS_WORDS: usize = 15;
    let mut params = [0_u64; PARAMS_WORDS];
    // SAFETY: `params` is as large and as aligned as `struct io_uring_params` (120 bytes of
    // integers), zeroed as the call asks, and outlives it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
    if fd < 0 {
        return RingTrial::Failed(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    // SAFETY: the descriptor was just made, and nobody else knows it.
    unsafe { libc::close(fd as i32) };
    RingTrial::Works
}

/// May bind any port (capabilities(7)).
const CAP_NET_BIND_SERVICE: u32 = 10;
/// Where the kernel tells of no other.
const PORTS_FROM: u16 = 1024;

/// The lowest port that this process may bind.
pub fn ports_from(root: &Path) -> u16 {
    if has_capability(root, CAP_NET_BIND_SERVICE) {
        return 0;
    }
    let start = number_of(root, "proc/sys/net/ipv4/ip_unprivileged_port_start");
    start.map_or(PORTS_FROM, |start| u16::try_from(start).unwrap_or(u16::MAX))
}

/// Whether this process has it in effect.
pub(crate) fn has_capability(root: &Path, number: u32) -> bool {
    let status = text_of(root, "proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|bits| bits & 1 << number != 0)
}

pub(crate) fn text_of(root: &Path, file: &str) -> String {
    fs::read_to_string(root.join(file)).unwrap_or_default()
}

pub(crate) fn number_of(root: &Path, file: &str) -> Option<u64> {
    text_of(root, file).trim().parse().ok()
}

/// The first number behind `key` in a file of `key: value` lines.
pub(crate) fn field_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
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

    /// A machine about which there is nothing to say.
    fn good() -> Host {
        Host {
            kernel: Some((6, 1)),
            ring: RingTrial::Works,
            io_uring_disabled: Some(0),
            filtered: false,
            memlock: Limit { soft: 8 << 20, hard: 8 << 20 },
            open_files: Limit { soft: 20_000, hard: 20_000 },
            somaxconn: Some(4096),
            governors: vec!["performance".to_owned()],
            huge_pages: Some("madvise".to_owned()),
            overcommit: Some(0),
            swap_bytes: 0,
            swappiness: Some(60),
            is_root: false,
        }
    }

    type Row = (&'static str, fn(&mut Host), Option<Level>, &'static str, &'static str);

    #[test]
    fn hosts_are_judged() {
        use Level::Info;
        use Level::Refuse;
        use Level::Warn;
        let rows: &[Row] = &[
            ("nothing to say", |_| {}, None, "", ""),
            (
                "no io_uring",
                |h| h.ring = RingTrial::Failed(libc::ENOSYS),
                Some(Refuse),
                "no io_uring",
                "5.10",
            ),
            (
                "sysctl",
                |h| (h.ring, h.io_uring_disabled) = (RingTrial::Failed(libc::EPERM), Some(2)),
                Some(Refuse),
                "kernel.io_uring_disabled = 2",
                "set it to 0",
            ),
            (
                "seccomp by EPERM",
                |h| (h.ring, h.filtered) = (RingTrial::Failed(libc::EPERM), true),
                Some(Refuse),
                "seccomp",
                "tuning/seccomp",
            ),
            (
                "seccomp by ENOSYS",
                |h| (h.ring, h.filtered) = (RingTrial::Failed(libc::ENOSYS), true),
                Some(Refuse),
                "seccomp",
                "io_uring_setup",
            ),
            (
                "a security module",
                |h| h.ring = RingTrial::Failed(libc::EACCES),
                Some(Refuse),
                "security module",
                "SELinux",
            ),
            (
                "no memory",
                |h| h.ring = RingTrial::Failed(libc::ENOMEM),
                Some(Refuse),
                "no memory",
                "memlock",
            ),
            (
                "no descriptor",
                |h| h.ring = RingTrial::Failed(libc::EMFILE),
                Some(Refuse),
                "descriptor",
                "NOFILE",
            ),
            (
                "something else",
                |h| h.ring = RingTrial::Failed(libc::EIO),
                Some(Refuse),
                "io_uring fails",
                "kernel",
            ),
            ("an old kernel", |h| h.kernel = Some((5, 4)), Some(Warn), "Linux 5.4", "5.10"),
            (
                "memlock of nothing",
                |h| h.memlock.soft = 64 << 10,
                Some(Refuse),
                "memlock is 64 KiB",
                "LimitMEMLOCK",
            ),
            (
                "memlock for some",
                |h| h.memlock.soft = 2 << 20,
                Some(Warn),
                "want 4096 KiB",
                "LimitMEMLOCK",
            ),
            ("memlock without end", |h| h.memlock.soft = u64::MAX, None, "", ""),
            (
                "few files",
                |h| h.open_files.soft = 256,
                Some(Refuse),
                "256 open files",
                "LimitNOFILE",
            ),
            (
                "some files",
                |h| h.open_files.soft = 1024,
                Some(Warn),
                "ask for 10000",
                "fewer connections",
            ),
            (
                "a short backlog",
                |h| h.somaxconn = Some(128),
                Some(Warn),
                "somaxconn is 128",
                "=4096",
            ),
            ("root", |h| h.is_root = true, Some(Warn), "stays root", "`user`"),
            (
                "powersave",
                |h| h.governors.push("powersave".to_owned()),
                Some(Warn),
                "powersave",
                "cpupower",
            ),
            (
                "schedutil",
                |h| h.governors.push("schedutil".to_owned()),
                Some(Info),
                "schedutil",
                "cpupower",
            ),
            ("no governor", |h| h.governors.clear(), None, "", ""),
            (
                "huge pages",
                |h| h.huge_pages = Some("always".to_owned()),
                Some(Warn),
                "huge pages",
                "madvise",
            ),
            (
                "no overcommit",
                |h| h.overcommit = Some(2),
                Some(Warn),
                "overcommit_memory = 2",
                "=0",
            ),
            ("swap", |h| h.swap_bytes = 1 << 30, Some(Info), "swappiness is 60", "=10"),
            ("calm swap", |h| (h.swap_bytes, h.swappiness) = (1 << 30, Some(1)), None, "", ""),
            (
                "unread",
                |h| (h.somaxconn, h.kernel, h.huge_pages, h.swappiness) = (None, None, None, None),
                None,
                "",
                "",
            ),
        ];
        for (row, change, level, what, remedy) in rows {
            let mut host = good();
            change(&mut host);
            let found = findings(&host, &NEEDS);
            assert_eq!(
                found.iter().map(|f| f.level).collect::<Vec<_>>(),
                Vec::from_iter(*level),
                "{row}"
            );
            if let Some(finding) = found.first() {
                assert!(
                    finding.what.contains(what) && finding.remedy.contains(remedy),
                    "{row}: {finding}"
                );
            }
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let mut host = good();
        (host.swap_bytes, host.is_root, host.memlock.soft) = (1, true, 0);
        let levels: Vec<Level> = findings(&host, &NEEDS).iter().map(|f| f.level).collect();
        assert_eq!(levels, [Level::Refuse, Level::Warn, Level::Info]);
        let found = findings(&host, &Needs { becomes_user: true, ..NEEDS });
        assert!(found.iter().all(|f| f.level != Level::Warn), "root is left: {found:?}");
    }

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
