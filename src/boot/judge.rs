//! Judges the machine: one check for each setting, a pure function of `Host` and `Needs`.
//!
//! Levels:   `Error` if the server could not run or keep its promises, `Warn` if it would be slower or
//!           smaller than configured, `Note` for a setting worth knowing.

use std::fmt::Display;
use std::io;

use crate::boot::check::BACKLOG;
use crate::boot::check::Finding;
use crate::boot::check::GOVERNOR;
use crate::boot::check::HUGE_PAGES;
use crate::boot::check::IO_URING;
use crate::boot::check::KERNEL;
use crate::boot::check::Level;
use crate::boot::check::MEMLOCK;
use crate::boot::check::OPEN_FILES;
use crate::boot::check::OVERCOMMIT;
use crate::boot::check::SWAP;
use crate::boot::check::USER;
use crate::boot::host::Host;
use crate::boot::host::MEMLOCK_BYTES_MIN;
use crate::boot::host::Needs;
use crate::boot::host::RingTest;

/// With fewer open files the store cannot even open its own files.
const OPEN_FILES_MIN: u64 = 512;

/// The first kernel with all io_uring operations that the shards use. Older ones lack fixes too.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Up to this value the kernel swaps only when it must.
const SWAPPINESS_CALM: u64 = 10;

/// What is wrong with this machine, the most severe first.
pub fn problems(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut found = Vec::from(findings(host, needs));
    found.retain(|finding| finding.level != Level::Ok);
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

/// The findings of all checks.
pub fn findings(host: &Host, needs: &Needs) -> [Finding; 10] {
    [
        judge_ring(host),
        judge_kernel(host),
        judge_memlock(host, needs),
        judge_open_files(host, needs),
        judge_backlog(host, needs),
        judge_root(host, needs),
        judge_governor(host),
        judge_huge_pages(host),
        judge_overcommit(host),
        judge_swap(host),
    ]
}

fn judge_ring(host: &Host) -> Finding {
    let RingTest::Failed(errno) = host.ring else {
        return IO_URING.ok("works");
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
            "allow it in the policy of SELinux, AppArmor or the security module in use".to_owned(),
        ),
        (libc::ENOMEM, _) => (
            "the kernel has no memory for an io_uring ring".to_owned(),
            "raise memlock (`LimitMEMLOCK=64M`, `--ulimit memlock=67108864`)".to_owned(),
        ),
        (libc::EMFILE | libc::ENFILE, _) => (
            "no file descriptor is left for an io_uring ring".to_owned(),
            "raise the limit of open files (`LimitNOFILE=`)".to_owned(),
        ),
        _ => (
            format!("io_uring fails: {}", io::Error::from_raw_os_error(errno)),
            "the server needs io_uring; try a newer kernel".to_owned(),
        ),
    };
    IO_URING.error(what, remedy)
}

fn judge_kernel(host: &Host) -> Finding {
    let Some((major, minor)) = host.kernel else {
        return KERNEL.ok("the version cannot be read");
    };
    let seen = format!("Linux {major}.{minor}");
    if (major, minor) >= KERNEL_MIN {
        return KERNEL.ok(seen);
    }
    let seen = format!("{seen} is older than the kernels this server is tested on");
    KERNEL.warn(seen, format!("run {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1))
}

fn judge_memlock(host: &Host, needs: &Needs) -> Finding {
    let (soft, wanted, shards) = (host.memlock.soft, needs.memlock_bytes(), needs.shards);
    let remedy = "raise it (`LimitMEMLOCK=64M` in the unit, `ulimit -l`, `--ulimit memlock=`)";
    let low = || {
        let (soft, wanted) = (soft >> 10, wanted >> 10);
        format!("the memlock limit is {soft} KiB; {shards} shards need {wanted} KiB")
    };
    match soft {
        ..MEMLOCK_BYTES_MIN => MEMLOCK.error(low(), remedy),
        _ if soft < wanted => MEMLOCK.warn(low(), remedy),
        u64::MAX => MEMLOCK.ok(format!("unlimited, enough for {shards} shards")),
        _ => MEMLOCK.ok(format!("{} KiB, enough for {shards} shards", soft >> 10)),
    }
}

fn judge_open_files(host: &Host, needs: &Needs) -> Finding {
    let (soft, needed) = (host.open_files.soft, needs.open_files);
    let remedy = "raise it (`LimitNOFILE=` in the unit, `ulimit -Hn`), or lower limits.connections";
    let low = || format!("{soft} open files are allowed; the configured limits need {needed}");
    match soft {
        ..OPEN_FILES_MIN => OPEN_FILES.error(low(), remedy),
        _ if soft < needed => OPEN_FILES.warn(low(), remedy),
        u64::MAX => OPEN_FILES.ok(format!("unlimited available, {needed} needed")),
        _ => OPEN_FILES.ok(format!("{soft} available, {needed} needed")),
    }
}

fn judge_backlog(host: &Host, needs: &Needs) -> Finding {
    let backlog = needs.backlog;
    match host.somaxconn {
        Some(somaxconn) if somaxconn < backlog => BACKLOG.warn(
            format!("net.core.somaxconn is {somaxconn}, less than the listen backlog of {backlog}"),
            format!("`sysctl -w net.core.somaxconn={backlog}`"),
        ),
        found => BACKLOG.ok(format!("{}, the listeners need {backlog}", shown(found))),
    }
}

fn judge_root(host: &Host, needs: &Needs) -> Finding {
    match (host.is_root, needs.becomes_user) {
        (false, _) => USER.ok("not root"),
        (true, true) => USER.ok("root; the server changes to server.user"),
        (true, false) => USER.warn(
            "the server runs as root and stays root",
            "set server.user; the ports are bound before the server changes to that user",
        ),
    }
}

fn judge_governor(host: &Host) -> Finding {
    let remedy = "`cpupower frequency-set -g performance` keeps latencies steady";
    let seen = |name: &str| format!("the CPU governor is {name}");
    let slow = host.governors.iter().find(|name| *name == "powersave");
    let other = host.governors.iter().find(|name| *name != "performance");
    match (slow, other) {
        (Some(name), _) => GOVERNOR.warn(seen(name), remedy),
        (None, Some(name)) => GOVERNOR.note(seen(name), remedy),
        (None, None) if host.governors.is_empty() => GOVERNOR.ok("no frequency scaling"),
        (None, None) => GOVERNOR.ok(host.governors.join(", ")),
    }
}

fn judge_huge_pages(host: &Host) -> Finding {
    match host.huge_pages.as_deref() {
        Some("always") => HUGE_PAGES.warn(
            "transparent huge pages are set to `always`: each connection uses more memory",
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        ),
        chosen => HUGE_PAGES.ok(chosen.unwrap_or("none")),
    }
}

fn judge_overcommit(host: &Host) -> Finding {
    match host.overcommit {
        Some(2) => OVERCOMMIT.warn(
            "vm.overcommit_memory = 2: the kernel refuses to overcommit memory",
            "`sysctl -w vm.overcommit_memory=0`, or keep much memory free",
        ),
        mode => OVERCOMMIT.ok(format!("vm.overcommit_memory = {}", shown(mode))),
    }
}

fn judge_swap(host: &Host) -> Finding {
    match host.swappiness {
        _ if host.swap_bytes == 0 => SWAP.ok("no swap"),
        Some(swappiness) if swappiness > SWAPPINESS_CALM => SWAP.note(
            format!(
                "swap is on and vm.swappiness is {swappiness}; a shard stalls while its memory is \
                 swapped in"
            ),
            format!("`sysctl -w vm.swappiness={SWAPPINESS_CALM}`"),
        ),
        swappiness => SWAP.ok(format!("vm.swappiness = {}", shown(swappiness))),
    }
}

fn shown(number: Option<impl Display>) -> String {
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::host::Limit;

    const NEEDS: Needs =
        Needs { shards: 4, open_files: 10_000, backlog: 4096, becomes_user: false };

    /// A machine without findings.
    fn good() -> Host {
        Host {
            kernel: Some((6, 1)),
            ring: RingTest::Works,
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
        use Level::Error;
        use Level::Note;
        use Level::Warn;
        let rows: &[Row] = &[
            ("nothing to say", |_| {}, None, "", ""),
            (
                "no io_uring",
                |h| h.ring = RingTest::Failed(libc::ENOSYS),
                Some(Error),
                "no io_uring",
                "5.10",
            ),
            (
                "sysctl",
                |h| (h.ring, h.io_uring_disabled) = (RingTest::Failed(libc::EPERM), Some(2)),
                Some(Error),
                "kernel.io_uring_disabled = 2",
                "set it to 0",
            ),
            (
                "seccomp by EPERM",
                |h| (h.ring, h.filtered) = (RingTest::Failed(libc::EPERM), true),
                Some(Error),
                "seccomp",
                "tuning/seccomp",
            ),
            (
                "seccomp by ENOSYS",
                |h| (h.ring, h.filtered) = (RingTest::Failed(libc::ENOSYS), true),
                Some(Error),
                "seccomp",
                "io_uring_setup",
            ),
            (
                "a security module",
                |h| h.ring = RingTest::Failed(libc::EACCES),
                Some(Error),
                "security module",
                "SELinux",
            ),
            (
                "no memory",
                |h| h.ring = RingTest::Failed(libc::ENOMEM),
                Some(Error),
                "no memory",
                "memlock",
            ),
            (
                "no descriptor",
                |h| h.ring = RingTest::Failed(libc::EMFILE),
                Some(Error),
                "descriptor",
                "NOFILE",
            ),
            (
                "something else",
                |h| h.ring = RingTest::Failed(libc::EIO),
                Some(Error),
                "io_uring fails",
                "kernel",
            ),
            ("an old kernel", |h| h.kernel = Some((5, 4)), Some(Warn), "Linux 5.4", "5.10"),
            (
                "memlock of nothing",
                |h| h.memlock.soft = 64 << 10,
                Some(Error),
                "memlock limit is 64 KiB",
                "LimitMEMLOCK",
            ),
            (
                "memlock for some",
                |h| h.memlock.soft = 2 << 20,
                Some(Warn),
                "need 4096 KiB",
                "LimitMEMLOCK",
            ),
            ("memlock without end", |h| h.memlock.soft = u64::MAX, None, "", ""),
            (
                "few files",
                |h| h.open_files.soft = 256,
                Some(Error),
                "256 open files",
                "LimitNOFILE",
            ),
            (
                "some files",
                |h| h.open_files.soft = 1024,
                Some(Warn),
                "need 10000",
                "limits.connections",
            ),
            (
                "a short backlog",
                |h| h.somaxconn = Some(128),
                Some(Warn),
                "somaxconn is 128",
                "=4096",
            ),
            ("root", |h| h.is_root = true, Some(Warn), "stays root", "server.user"),
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
                Some(Note),
                "schedutil",
                "cpupower",
            ),
            ("no governor", |h| h.governors.clear(), None, "", ""),
            (
                "huge pages",
                |h| h.huge_pages = Some("always".to_owned()),
                Some(Warn),
                "huge pages are set",
                "madvise",
            ),
            (
                "no overcommit",
                |h| h.overcommit = Some(2),
                Some(Warn),
                "overcommit_memory = 2",
                "=0",
            ),
            ("swap", |h| h.swap_bytes = 1 << 30, Some(Note), "swappiness is 60", "=10"),
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
            let found = problems(&host, &NEEDS);
            assert_eq!(
                found.iter().map(|f| f.level).collect::<Vec<_>>(),
                Vec::from_iter(*level),
                "{row}"
            );
            if let Some(finding) = found.first() {
                assert!(
                    finding.seen.contains(what) && finding.remedy.contains(remedy),
                    "{row}: {finding:?}"
                );
            }
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let mut host = good();
        (host.swap_bytes, host.is_root, host.memlock.soft) = (1, true, 0);
        let levels: Vec<Level> = problems(&host, &NEEDS).iter().map(|f| f.level).collect();
        assert_eq!(levels, [Level::Error, Level::Warn, Level::Note]);
        let found = problems(&host, &Needs { becomes_user: true, ..NEEDS });
        assert!(found.iter().all(|f| f.level != Level::Warn), "root is left: {found:?}");
    }
}
