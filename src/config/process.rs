//! The sections about the process: server, queue, log, control socket, monitoring.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits::COMMIT_BATCH_BYTES_MAX;
use crate::config::file;
use crate::config::key::Standard::Follows;
use crate::config::key::Standard::Is;
use crate::config::key::Standard::Unset;
use crate::config::name::Hostname;
use crate::config::section::Section;
use crate::config::section::section;
use crate::config::section::text_of;
use crate::config::units::DAY_MS;
use crate::config::units::HOUR_MS;
use crate::config::units::TIB;
use crate::config::value::CoreSet;
use crate::config::value::LogOutput;
use crate::config::value::MonitorListen;
use crate::config::value::Partitions;
use crate::observe::log::Level;
use crate::observe::log::value::Form;

/// A partition must be able to hold one full batch.
pub const QUEUE_MEMORY_MIN: u64 = COMMIT_BATCH_BYTES_MAX as u64;

section! {
    /// The process as a whole.
    pub struct ServerConfig at "server" {
        /// The fully qualified name of this host. It appears in the greeting, the reply to EHLO and
        /// the Received field.
        hostname: Hostname = Follows(
            "the host name of the system",
            "'mail.example.com'",
            |reading| file::quote(&reading.hostname),
        ), Live;
        /// The CPU cores that each run a shard: "auto" for all cores available to the process, a list
        /// such as "0-7,16", or "numa:0" for all cores of one NUMA node.
        cores: CoreSet = Is("'auto'"), Restart;
        /// The folder that holds the queue. It is created if it does not exist.
        spool: PathBuf = Is("'./ringpost-data'"), Restart;
        /// The user to switch to after the ports are bound, if the server is started as root.
        user: Option<String> = Unset("'ringpost'"), Restart;
        /// The group to switch to. If not set, the primary group of the user.
        group: Option<String> = Unset("'ringpost'"), Restart;
        /// How long open sessions and deliveries may take to finish after SIGTERM.
        shutdown_timeout: Duration = Is("'30s'"), Live, 0 => HOUR_MS;
    }
}

section! {
    /// The durable queue.
    pub struct QueueConfig at "queue" {
        /// The number of partitions, each with its own commit thread, or "auto". The number is fixed
        /// when the spool is created; afterwards only the same number or "auto" is accepted.
        partitions: Partitions = Is("'auto'"), Restart;
        /// Memory for write buffers, shared by all partitions. The spool also reserves this much disk
        /// space, plus 4 MiB per partition, to recover from a full disk.
        memory: u64 = Is("'64MiB'"), Restart, QUEUE_MEMORY_MIN => TIB;
        /// Disk space that must stay free on the file system of the spool, in addition to the reserve
        /// (see `memory`). With less, new mail is refused with 452 4.3.1. After the reserve has been
        /// used, mail is accepted again once twice its size is free in addition.
        min_free_space: u64 = Is("'256MB'"), Live, 0 => 1024 * TIB;
        /// Inodes that must stay free on the file system of the spool. With fewer, new mail is refused
        /// with 452 4.3.1.
        min_free_inodes: usize = Is("1000"), Live, 0 => 1_000_000_000;
        /// How long events are kept in the log of events, at most.
        events_max_age: Duration = Is("'7d'"), Live, HOUR_MS => 365 * DAY_MS;
        /// The share of the disk, in percent of its size, that the log of events may take. Beyond it,
        /// or on a disk without room for new mail, the oldest events are dropped.
        events_disk_share: u8 = Is("10"), Live, 1 => 90;
        /// Whether a message is synced to disk before the 250 reply. If false, a power cut loses
        /// accepted mail: use this for tests only.
        sync: bool = Is("true"), Restart;
    }
}

section! {
    /// The text log.
    pub struct LogConfig at "log" {
        /// "text" for people, "json" for programs.
        format: Form = Is("'text'"), Restart;
        /// "stdout", or the path of a file. SIGHUP and SIGUSR1 reopen the file.
        output: LogOutput = Is("'stdout'"), Restart;
        /// "error", "warn", "info" (one line for each message and attempt) or "debug".
        level: Level = Is("'info'"), Live;
    }
}

section! {
    /// The control socket.
    pub struct ControlConfig at "control" {
        /// The Unix socket through which commands such as `ringpost queue` reach a running server.
        socket: PathBuf = Follows(
            "`control.sock` in the spool",
            "'./ringpost-data/control.sock'",
            |reading| {
                let spool = text_of(reading, &<ServerConfig as Section>::DOC, "spool");
                file::quote(&PathBuf::from(spool).join("control.sock").to_string_lossy())
            },
        ), Restart;
    }
}

section! {
    /// Monitoring over HTTP: metrics, health and readiness.
    pub struct MonitorConfig at "monitor" {
        /// Address and port of the monitoring listener, or "off". Requests are not authenticated, so
        /// listen on the loopback address or behind a proxy.
        listen: MonitorListen = Is("'127.0.0.1:9025'"), Restart;
    }
}
