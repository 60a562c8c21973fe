//! Kernel settings and resource limits: those that the start checks too, and those for speed only.
//!
//! Limits:   the server raises its soft limits to the hard limits, and as root the hard limits too, so
//!           the highest reachable limits are judged, as seen from the shell that runs the doctor. A
//!           service manager may set other limits.

use std::path::Path;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::host;
use crate::boot::host::Host;
use crate::boot::judge;
use crate::boot::prepare::needs_of;
use crate::boot::proc::number_of;
use crate::boot::proc::text_of;
use crate::doctor::subject::Subject;

/// Half-open connections: twice the listen backlog.
const SYN_BACKLOG_MIN: u64 = 8192;
/// Local ports: 500 new connections a second to one host and port, each 60 seconds in TIME_WAIT.
const PORTS_MIN: u64 = 30_000;
/// 100 Mbit/s with a round-trip time of 80 ms.
const SOCKET_BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Writing back more than this share of the memory at once keeps a disk busy for seconds.
const DIRTY_PERCENT_MAX: u64 = 10;
/// The capability to raise hard limits (capabilities(7)).
const CAP_SYS_RESOURCE: u32 = 24;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let root = &subject.root;
    let needs = match &subject.plan {
        Ok(plan) => needs_of(&subject.config, plan),
        // Invalid cores have a finding of their own.
        Err(_) => return settings(root),
    };
    let files_max = number_of(root, "proc/sys/fs/nr_open");
    let host = reachable(Host::read(root), raises_hard_limits(root), files_max);
    let mut findings = Vec::from(judge::findings(&host, &needs));
    findings.extend(settings(root));
    findings
}

/// The limits that the server would have after raising them. `files_max` (fs.nr_open) applies to
/// root too.
fn reachable(mut host: Host, raises: bool, files_max: Option<u64>) -> Host {
    for limit in [&mut host.memlock, &mut host.open_files] {
        limit.soft = if raises { u64::MAX } else { limit.hard };
    }
    host.open_files.soft = host.open_files.soft.min(files_max.unwrap_or(u64::MAX));
    host
}

fn raises_hard_limits(root: &Path) -> bool {
    host::has_capability(root, CAP_SYS_RESOURCE)
}

/// Settings that the start does not check.
fn settings(root: &Path) -> Vec<Finding> {
    vec![
        syn_backlog(number_of(root, "proc/sys/net/ipv4/tcp_max_syn_backlog")),
        ports_out(&text_of(root, "proc/sys/net/ipv4/ip_local_port_range")),
        buffers(
            &text_of(root, "proc/sys/net/ipv4/tcp_rmem"),
            &text_of(root, "proc/sys/net/ipv4/tcp_wmem"),
        ),
        dirty(
            number_of(root, "proc/sys/vm/dirty_bytes"),
            number_of(root, "proc/sys/vm/dirty_background_ratio"),
            number_of(root, "proc/sys/vm/dirty_background_bytes"),
        ),
    ]
}

fn syn_backlog(found: Option<u64>) -> Finding {
    let remedy = format!("`sysctl -w net.ipv4.tcp_max_syn_backlog={SYN_BACKLOG_MIN}`");
    match found {
        Some(length @ SYN_BACKLOG_MIN..) => check::SYN_BACKLOG.ok(format!("{length}")),
        Some(length) => {
            check::SYN_BACKLOG.warn(format!("net.ipv4.tcp_max_syn_backlog is {length}"), remedy)
        }
        None => check::SYN_BACKLOG.note("cannot be read", remedy),
    }
}

fn ports_out(range: &str) -> Finding {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return check::PORTS_OUT.note("cannot be read", "check net.ipv4.ip_local_port_range");
    };
    let ports = (last + 1).saturating_sub(first);
    let seen = format!("{ports} ports for outgoing connections ({first}-{last})");
    if ports < PORTS_MIN {
        let remedy = "`sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"`";
        return check::PORTS_OUT.warn(seen, remedy);
    }
    check::PORTS_OUT.ok(seen)
}

fn buffers(receive: &str, send: &str) -> Finding {
    let most =
        |text: &str| text.split_whitespace().nth(2).and_then(|word| word.parse::<u64>().ok());
    let (Some(receive), Some(send)) = (most(receive), most(send)) else {
        return check::BUFFERS.note("cannot be read", "check net.ipv4.tcp_rmem and tcp_wmem");
    };
    let seen = format!("up to {} KiB to receive, {} KiB to send", receive >> 10, send >> 10);
    if receive.min(send) < SOCKET_BUFFER_BYTES_MIN {
        let remedy = "set the third number of net.ipv4.tcp_rmem and tcp_wmem to 4194304";
        return check::BUFFERS.warn(seen, remedy);
    }
    check::BUFFERS.ok(seen)
}

/// A limit in bytes overrides one in percent, which the kernel then shows as 0.
fn dirty(hard: Option<u64>, background: Option<u64>, background_bytes: Option<u64>) -> Finding {
    match (background, background_bytes) {
        (_, Some(bytes @ 1..)) => {
            check::DIRTY.ok(format!("write-back starts at {} MiB", bytes >> 20))
        }
        (Some(percent), _) if percent > DIRTY_PERCENT_MAX => check::DIRTY.warn(
            format!("write-back starts only at {percent} % of the memory"),
            "`sysctl -w vm.dirty_background_ratio=5`",
        ),
        (Some(percent), _) => check::DIRTY.ok(format!(
            "write-back starts at {percent} % of the memory{}",
            if hard.is_some_and(|bytes| bytes > 0) { ", with a limit in bytes" } else { "" }
        )),
        (None, _) => check::DIRTY.note("cannot be read", "check vm.dirty_background_ratio"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Check;
    use crate::boot::check::Level;
    use crate::boot::host::Needs;

    #[test]
    fn settings_are_judged() {
        let rows: &[(&str, Finding, Level)] = &[
            ("long enough", syn_backlog(Some(8192)), Level::Ok),
            ("too short", syn_backlog(Some(512)), Level::Warn),
            ("hidden", syn_backlog(None), Level::Note),
            ("wide", ports_out("10240\t65535\n"), Level::Ok),
            ("the kernel's own", ports_out("32768\t60999\n"), Level::Warn),
            ("upside down", ports_out("9\t1\n"), Level::Warn),
            ("none", ports_out(""), Level::Note),
            ("large", buffers("4096 131072 6291456", "4096 16384 4194304"), Level::Ok),
            ("small", buffers("4096 131072 6291456", "4096 16384 65536"), Level::Warn),
            ("cut", buffers("4096", ""), Level::Note),
            ("by percent", dirty(Some(0), Some(10), Some(0)), Level::Ok),
            ("too much", dirty(Some(0), Some(30), Some(0)), Level::Warn),
            ("in bytes", dirty(Some(0), Some(0), Some(64 << 20)), Level::Ok),
        ];
        for (row, finding, level) in rows {
            assert_eq!(finding.level, *level, "{row}: {finding:?}");
        }
    }

    #[test]
    fn limits_are_judged_as_the_server_will_raise_them() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let file = root.path().join("proc/self/status");
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("made");
        std::fs::write(&file, "Name:\tx\nCapEff:\t0000000001000000\n").expect("written");
        assert!(raises_hard_limits(root.path()));
        std::fs::write(&file, "Name:\tx\nCapEff:\t0000000000000400\n").expect("written");
        assert!(!raises_hard_limits(root.path()));
        let mut host = Host::read(root.path());
        host.open_files = host::Limit { soft: 1024, hard: 1 << 20 };
        assert_eq!(reachable(host.clone(), false, None).open_files.soft, 1 << 20);
        assert_eq!(reachable(host.clone(), true, None).open_files.soft, u64::MAX);
        assert_eq!(reachable(host, true, Some(1 << 16)).open_files.soft, 1 << 16, "fs.nr_open");
    }

    #[test]
    fn what_is_refused_at_start_is_an_error() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let mut host = Host::read(root.path());
        host.memlock.soft = 64 << 10;
        host.somaxconn = Some(4096);
        let needs = Needs { shards: 4, open_files: 1, backlog: 4096, becomes_user: true };
        let found = judge::findings(&host, &needs);
        let level = |check: &Check| {
            found.iter().find(|finding| finding.check.id == check.id).map(|finding| finding.level)
        };
        assert_eq!(found.len(), 10);
        assert_eq!(level(check::MEMLOCK), Some(Level::Error));
        assert_eq!(level(check::BACKLOG), Some(Level::Ok));
    }
}
