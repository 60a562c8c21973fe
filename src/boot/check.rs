//! The checks of the machine, made at start and by the doctor, and their findings.
//!
//! Promise:  an id never changes its meaning, because scripts match on it. A test verifies that each
//!           file exists.

use std::fmt;

/// One check.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    pub id: &'static str,
    pub why: &'static str,
    /// Below `tuning/`.
    pub file: &'static str,
}

macro_rules! checks {
    ($($name:ident = $id:literal, $file:literal, $why:literal;)+) => {
        $(pub const $name: &Check = &Check { id: $id, why: $why, file: $file };)+

        /// All of them, in the order in which they are printed.
        pub const ALL: &[&Check] = &[$($name),+];
    };
}

checks! {
    KERNEL = "kernel", "io-uring.md", "older kernels lack operations and fixes of io_uring";
    IO_URING = "io-uring", "io-uring.md", "shards do all network I/O through io_uring";
    MEMLOCK = "memlock", "memlock.md", "io_uring rings and their buffers are locked memory";
    OPEN_FILES = "open-files", "nofile.md", "each connection and each file of the store takes a file descriptor";
    CORES = "cores", "cores.md", "each configured core runs a shard";
    QUOTA = "cpu-quota", "cores.md", "a shard that has used up the CPU quota is stopped until the next period";
    SMT = "smt", "smt", "two shards on one physical core slow each other down";
    GOVERNOR = "governor", "governor", "a core with a reduced clock responds late";
    NUMA = "numa-balancing", "numa", "the kernel unmaps pages to trace their use, which only costs time, because shards are pinned";
    RECLAIM = "zone-reclaim", "numa", "the kernel reclaims memory on this node although another node has free memory";
    HUGE_PAGES = "huge-pages", "huge-pages", "huge pages increase memory use, and the kernel stalls to build them";
    OVERCOMMIT = "overcommit", "sysctl", "the store reserves more memory than it uses";
    SWAP = "swap", "sysctl", "a shard whose memory is swapped out stalls all of its sessions";
    DIRTY = "dirty-pages", "sysctl", "a large write-back delays the syncs behind it";
    CGROUP_MEMORY = "memory-limit", "memory.md", "the kernel kills the process when the limit is exceeded";
    MEMORY = "memory", "memory.md", "message bodies, write buffers and connections must fit into memory";
    BACKLOG = "somaxconn", "backlog.md", "when the queue is full, connections are dropped, and clients retry after a second";
    SYN_BACKLOG = "syn-backlog", "backlog.md", "when the queue is full, half-open connections are dropped or need SYN cookies";
    PORTS_OUT = "port-range", "sysctl", "an outgoing connection occupies a local port until one minute after its end";
    BUFFERS = "socket-buffers", "sysctl", "on connections with high latency the buffer size limits the throughput";
    QUEUES = "nic-queues", "network-queues", "one core handles all packets of a queue";
    IRQS = "nic-interrupts", "interrupts", "interrupts on a single core slow down the shard on that core";
    USER = "user", "rights.md", "a bug in a server that runs as root endangers the whole machine";
    SPOOL = "spool", "rights.md", "the spool holds the mail of all users";
    QUARANTINE = "quarantine", "README.md", "mail in quarantine is neither delivered nor returned";
    SPACE = "free-space", "filesystem.md", "a full spool refuses mail";
    FILE_SYSTEM = "file-system", "filesystem.md", "after a 250 reply, synced mail must survive a power failure";
    MOUNT = "mount-options", "filesystem.md", "some mount options make syncs ineffective or turn reads into writes";
    DEVICE_CACHE = "write-cache", "disk-queues", "a write cache that is lost on a power failure loses mail";
    DEVICE_QUEUE = "disk-queue", "disk-queues", "an I/O scheduler reorders requests, which an SSD does better by itself";
    SYNC = "sync-latency", "disk.md", "every 250 reply waits for a sync";
    CLOCK = "clock", "clock.md", "retries, TLS and the Date fields of mail depend on the clock";
    RESOLVER = "name-servers", "names.md", "delivery needs DNS";
    HOST_NAME = "host-name", "names.md", "other servers distrust an EHLO name that does not resolve";
    REVERSE = "reverse-name", "names.md", "large providers reject mail from addresses without forward-confirmed reverse DNS";
    DANE = "dane", "names.md", "DANE is enforced only with DNSSEC-validated DNS answers";
    LISTEN = "listeners", "rights.md", "the server starts only if it can bind all of its ports";
    UNANSWERED = "unanswered", "README.md", "whatever hangs here will also hang the server";
}

/// The check of findings that only a start reports.
const START: &Check = &Check { id: "start", why: "", file: "" };

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// For information, or the value could not be read.
    Note,
    /// The server is slower or smaller than possible, or other servers may distrust its mail.
    Warn,
    /// The server does not start, or cannot keep its promises.
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: &'static Check,
    pub level: Level,
    pub seen: String,
    /// What to do; empty for `Level::Ok`.
    pub remedy: String,
}

impl Check {
    pub fn ok(&'static self, seen: impl Into<String>) -> Finding {
        self.at(Level::Ok, seen, "")
    }

    pub fn note(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Note, seen, remedy)
    }

    pub fn warn(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Warn, seen, remedy)
    }

    pub fn error(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Error, seen, remedy)
    }

    fn at(
        &'static self,
        level: Level,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { check: self, level, seen: seen.into(), remedy: remedy.into() }
    }
}

/// A warning of the start.
pub fn warning(seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
    START.warn(seen, remedy)
}

/// A note of the start.
pub fn note(seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
    START.note(seen, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    #[test]
    fn each_check_has_its_own_id_and_a_file() {
        let tuning = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
        for (place, check) in ALL.iter().enumerate() {
            assert!(!ALL[..place].iter().any(|other| other.id == check.id), "{} twice", check.id);
            assert!(
                tuning.join(check.file).is_file(),
                "{}: tuning/{} is missing",
                check.id,
                check.file
            );
        }
    }
}
