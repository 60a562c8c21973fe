//! Judges the machine: one check for each setting, a pure function of `Host` and `Needs`.
//!
//! Levels:   `Refuse` if the server could not run or keep its promises, `Warn` if it would be slower
//!           or smaller than configured, `Info` for a setting worth knowing.

use std::io;

use crate::boot::host::Finding;
use crate::boot::host::Host;
use crate::boot::host::Level;
use crate::boot::host::Limit;
use crate::boot::host::MEMLOCK_BYTES_MIN;
use crate::boot::host::Needs;
use crate::boot::host::RingTest;
use crate::boot::host::finding;

/// With fewer open files the store cannot even open its own files.
const OPEN_FILES_MIN: u64 = 512;

/// The first kernel with all io_uring operations that the shards use. Older ones lack fixes too.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Up to this value the kernel swaps only when it must.
const SWAPPINESS_CALM: u64 = 10;

/// The settings that are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCheck {
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

/// The findings about this machine, the most severe first.
pub fn findings(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        judged(host, needs).into_iter().filter_map(|(_, finding)| finding).collect();
    found.sort_by_key(|finding| finding.level);
    found
}

/// All checks, each with its finding if there is one.
pub fn judged(host: &Host, needs: &Needs) -> [(HostCheck, Option<Finding>); 10] {
    [
        (HostCheck::Ring, judge_ring(host)),
        (HostCheck::Kernel, judge_kernel(host)),
        (HostCheck::Memlock, judge_memlock(host, needs)),
        (HostCheck::OpenFiles, judge_open_files(host, needs)),
        (HostCheck::Backlog, judge_backlog(host, needs)),
        (HostCheck::Root, judge_root(host, needs)),
        (HostCheck::Governor, judge_governor(host)),
        (HostCheck::HugePages, judge_huge_pages(host)),
        (HostCheck::Overcommit, judge_overcommit(host)),
        (HostCheck::Swap, judge_swap(host)),
    ]
}

fn judge_ring(host: &Host) -> Option<Finding> {
    let RingTest::Failed(errno) = host.ring else {
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
    finding(Level::Refuse, what, remedy)
}

fn judge_kernel(host: &Host) -> Option<Finding> {
    let (major, minor) = host.kernel.filter(|kernel| *kernel < KERNEL_MIN)?;
    let what = format!("Linux {major}.{minor} is older than the kernels this server is tested on");
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
    let what = format!(
        "the memlock limit is {} KiB; {shards} shards need {} KiB",
        soft >> 10,
        wanted >> 10
    );
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
        format!("{soft} open files are allowed; the configured limits need {}", needs.open_files);
    let remedy = "raise it (`LimitNOFILE=` in the unit, `ulimit -Hn`), or lower limits.connections";
    finding(level, what, remedy)
}

fn judge_backlog(host: &Host, needs: &Needs) -> Option<Finding> {
    let somaxconn = host.somaxconn.filter(|somaxconn| *somaxconn < needs.backlog)?;
    let what = format!(
        "net.core.somaxconn is {somaxconn}, less than the listen backlog of {}",
        needs.backlog
    );
    finding(Level::Warn, what, format!("`sysctl -w net.core.somaxconn={}`", needs.backlog))
}

fn judge_root(host: &Host, needs: &Needs) -> Option<Finding> {
    (host.is_root && !needs.becomes_user).then_some(())?;
    let remedy = "set server.user; the ports are bound before the server changes to that user";
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
    let remedy = "`cpupower frequency-set -g performance` keeps latencies steady";
    finding(level, format!("the CPU governor is {name}"), remedy)
}

fn judge_huge_pages(host: &Host) -> Option<Finding> {
    host.huge_pages.as_deref().filter(|chosen| *chosen == "always")?;
    let remedy = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`";
    finding(
        Level::Warn,
        "transparent huge pages are set to `always`: each connection uses more memory",
        remedy,
    )
}

fn judge_overcommit(host: &Host) -> Option<Finding> {
    host.overcommit.filter(|mode| *mode == 2)?;
    let what = "vm.overcommit_memory = 2: the kernel refuses to overcommit memory";
    finding(Level::Warn, what, "`sysctl -w vm.overcommit_memory=0`, or keep much memory free")
}

fn judge_swap(host: &Host) -> Option<Finding> {
    let swappiness = host.swappiness.filter(|much| *much > SWAPPINESS_CALM)?;
    (host.swap_bytes > 0).then_some(())?;
    let what = format!(
        "swap is on and vm.swappiness is {swappiness}; a shard stalls while its memory is swapped in"
    );
    finding(Level::Info, what, format!("`sysctl -w vm.swappiness={SWAPPINESS_CALM}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        use Level::Info;
        use Level::Refuse;
        use Level::Warn;
        let rows: &[Row] = &[
            ("nothing to say", |_| {}, None, "", ""),
            (
                "no io_uring",
                |h| h.ring = RingTest::Failed(libc::ENOSYS),
                Some(Refuse),
                "no io_uring",
                "5.10",
            ),
            (
                "sysctl",
                |h| (h.ring, h.io_uring_disabled) = (RingTest::Failed(libc::EPERM), Some(2)),
                Some(Refuse),
                "kernel.io_uring_disabled = 2",
                "set it to 0",
            ),
            (
                "seccomp by EPERM",
                |h| (h.ring, h.filtered) = (RingTest::Failed(libc::EPERM), true),
                Some(Refuse),
                "seccomp",
                "tuning/seccomp",
            ),
            (
                "seccomp by ENOSYS",
                |h| (h.ring, h.filtered) = (RingTest::Failed(libc::ENOSYS), true),
                Some(Refuse),
                "seccomp",
                "io_uring_setup",
            ),
            (
                "a security module",
                |h| h.ring = RingTest::Failed(libc::EACCES),
                Some(Refuse),
                "security module",
                "SELinux",
            ),
            (
                "no memory",
                |h| h.ring = RingTest::Failed(libc::ENOMEM),
                Some(Refuse),
                "no memory",
                "memlock",
            ),
            (
                "no descriptor",
                |h| h.ring = RingTest::Failed(libc::EMFILE),
                Some(Refuse),
                "descriptor",
                "NOFILE",
            ),
            (
                "something else",
                |h| h.ring = RingTest::Failed(libc::EIO),
                Some(Refuse),
                "io_uring fails",
                "kernel",
            ),
            ("an old kernel", |h| h.kernel = Some((5, 4)), Some(Warn), "Linux 5.4", "5.10"),
            (
                "memlock of nothing",
                |h| h.memlock.soft = 64 << 10,
                Some(Refuse),
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
                Some(Refuse),
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
                Some(Info),
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
}
