//! Faults of the queue by cause: `SpoolFault` at start, `CommitFault` while mail is accepted,
//! `QueueFault` when stored mail is read.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::base::PartitionId;
use crate::base::SpoolNumber;
use crate::base::fault::Blame;
use crate::base::fault::Retry;
use crate::queue::cause::Cause;
use crate::queue::record::outer::RecordFault;

/// Why a spool cannot be used. `Display` names the cause, `remedy` what the operator can do.
#[derive(Debug)]
pub enum SpoolFault {
    /// Another process holds the lock.
    Locked {
        path: PathBuf,
        pid: Option<u32>,
    },
    /// Created by a newer version.
    Newer {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    /// `ringpost.json` cannot be understood.
    Meta {
        path: PathBuf,
        why: String,
    },
    /// There is no spool, and none should be created.
    NoSpool {
        path: PathBuf,
    },
    /// The folder of a partition is missing.
    PartitionMissing {
        path: PathBuf,
    },
    /// The config asks for a different number of partitions than the spool has.
    PartitionCount {
        path: PathBuf,
        has: u8,
        asked: u8,
    },
    /// Created by an older version. Only a server upgrades it.
    Older {
        path: PathBuf,
        found: u32,
    },
    /// More partitions, or none, than an id can name.
    PartitionRange {
        asked: u8,
    },
    /// The process lacks a permission for this path.
    Permission {
        path: PathBuf,
        cause: String,
    },
    /// Other users could plant mail.
    Writable {
        path: PathBuf,
        mode: u32,
    },
    DiskFull {
        path: PathBuf,
    },
    Io {
        path: PathBuf,
        cause: io::Error,
    },
    /// The database has families, options or formats that this Ringpost does not know, or lacks
    /// some that it needs.
    Foreign {
        path: PathBuf,
        cause: String,
    },
    /// RocksDB refused for a reason that is not damage.
    Store {
        path: PathBuf,
        cause: String,
    },
}

impl SpoolFault {
    pub fn io(path: impl Into<PathBuf>, cause: io::Error) -> SpoolFault {
        let path = path.into();
        match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                SpoolFault::Permission { path, cause: cause.to_string() }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SpoolFault::DiskFull { path }
            }
            _ => SpoolFault::Io { path, cause },
        }
    }

    /// A fault of RocksDB that is not damage.
    pub fn store(path: impl Into<PathBuf>, cause: String) -> SpoolFault {
        let path = path.into();
        match Cause::of(&cause) {
            Cause::DiskFull => SpoolFault::DiskFull { path },
            Cause::Permission => SpoolFault::Permission { path, cause },
            Cause::Lock => SpoolFault::Locked { path, pid: None },
            Cause::Foreign => SpoolFault::Foreign { path, cause },
            _ => SpoolFault::Store { path, cause },
        }
    }

    pub fn blame(&self) -> Blame {
        match self {
            SpoolFault::Store { .. } => Blame::Us,
            _ => Blame::Operator,
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            SpoolFault::Locked { .. } | SpoolFault::DiskFull { .. } | SpoolFault::Io { .. } => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> String {
        match self {
            SpoolFault::Locked { pid: Some(pid), .. } => {
                format!("stop process {pid} first, or use another spool")
            }
            SpoolFault::Locked { .. } => "stop the other process first".into(),
            SpoolFault::Newer { .. } => {
                "run the newer version of Ringpost, or use another spool".into()
            }
            SpoolFault::Older { .. } => "run `ringpost serve` once; it upgrades the spool".into(),
            SpoolFault::Meta { .. } => {
                "restore the file from its copy in `copies`; the mail beside it is untouched".into()
            }
            SpoolFault::NoSpool { .. } => "check the path; `ringpost serve` creates a spool".into(),
            SpoolFault::PartitionMissing { path } => format!(
                "restore {}; if its mail is lost, create an empty folder with that name",
                path.display()
            ),
            SpoolFault::PartitionCount { has, .. } => {
                format!("set the number of partitions to {has}, or remove the setting")
            }
            SpoolFault::PartitionRange { .. } => "choose between 1 and 64 partitions".into(),
            SpoolFault::Permission { path, .. } => {
                format!("give {} to the user of the server, with mode 0700", path.display())
            }
            SpoolFault::Writable { path, .. } => format!("chmod go-w {}", path.display()),
            SpoolFault::DiskFull { .. } => "free some space on that file system".into(),
            SpoolFault::Io { .. } => "check the disk and the mount".into(),
            SpoolFault::Foreign { .. } => {
                "run the version of Ringpost that last used this spool; nothing was changed".into()
            }
            SpoolFault::Store { .. } => "keep a copy of the folder and report this as a bug".into(),
        }
    }
}

impl fmt::Display for SpoolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpoolFault::Locked { path, pid: Some(pid) } => {
                write!(f, "spool {} is in use by process {pid}", path.display())
            }
            SpoolFault::Locked { path, pid: None } => {
                write!(f, "spool {} is in use by another process", path.display())
            }
            SpoolFault::Newer { path, found, known } => write!(
                f,
                "spool {} has format {found}, but this version of Ringpost supports only {known} and below",
                path.display()
            ),
            SpoolFault::Older { path, found } => {
                write!(f, "spool {} has format {found} and must be upgraded", path.display())
            }
            SpoolFault::Meta { path, why } => write!(f, "{}: {why}", path.display()),
            SpoolFault::NoSpool { path } => write!(f, "no spool at {}", path.display()),
            SpoolFault::PartitionMissing { path } => {
                write!(f, "partition folder {} is missing", path.display())
            }
            SpoolFault::PartitionCount { path, has, asked } => write!(
                f,
                "spool {} was created with {has} partitions, but the config sets {asked}",
                path.display()
            ),
            SpoolFault::PartitionRange { asked } => {
                write!(f, "{asked} is not a valid number of partitions")
            }
            SpoolFault::Permission { path, cause } => write!(f, "{}: {cause}", path.display()),
            SpoolFault::Writable { path, mode } => {
                write!(
                    f,
                    "spool {} has mode {mode:04o}: other users may write to it",
                    path.display()
                )
            }
            SpoolFault::DiskFull { path } => write!(f, "no disk space left for {}", path.display()),
            SpoolFault::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
            SpoolFault::Foreign { path, cause } => {
                write!(f, "{} was not made by this version of Ringpost: {cause}", path.display())
            }
            SpoolFault::Store { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for SpoolFault {}

/// Why a message was not made durable. The private cause is in the partition's `failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The disk is full. The message may be sent again at any time.
    SpoolFull,
    /// A write failed; the partition accepts no more mail in this process.
    Failed,
    /// The disk has not answered for too long. Should the message become durable after all, it is
    /// removed.
    Hung,
    /// The process is draining.
    Stopped,
    /// The messages of one order are too large for one batch.
    TooLarge,
    /// The envelope cannot be stored.
    Record(RecordFault),
}

impl CommitFault {
    pub fn blame(&self) -> Blame {
        match self {
            CommitFault::Stopped => Blame::Us,
            CommitFault::SpoolFull | CommitFault::Failed | CommitFault::Hung => Blame::Operator,
            CommitFault::TooLarge | CommitFault::Record(_) => Blame::Peer,
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            CommitFault::SpoolFull | CommitFault::Hung => Retry::Later,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for CommitFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitFault::SpoolFull => f.write_str("the spool's file system is full"),
            CommitFault::Failed => f.write_str("the store failed; a restart is needed"),
            CommitFault::Hung => f.write_str("the spool's disk does not respond"),
            CommitFault::Stopped => f.write_str("the queue is shutting down"),
            CommitFault::TooLarge => {
                f.write_str("the messages are too large to be stored together")
            }
            CommitFault::Record(fault) => write!(f, "the envelope cannot be stored: {fault}"),
        }
    }
}

impl std::error::Error for CommitFault {}

/// Why stored mail cannot be read or removed.
#[derive(Debug)]
pub enum QueueFault {
    /// No such message.
    Unknown,
    /// The id names a partition that is not open here.
    NoPartition(PartitionId),
    /// The id names a message of another spool.
    ForeignSpool(SpoolNumber),
    Record(RecordFault),
    /// The head is missing, or not as long as the envelope says.
    Head(&'static str),
    /// A chunk is missing, or the chunks do not add up to what the envelope says.
    Body {
        chunk: u32,
        why: &'static str,
    },
    /// The spool was opened for reading only.
    ReadOnly,
    Store(String),
}

impl QueueFault {
    pub fn blame(&self) -> Blame {
        match self {
            QueueFault::Unknown
            | QueueFault::NoPartition(_)
            | QueueFault::ForeignSpool(_)
            | QueueFault::ReadOnly => Blame::Operator,
            _ => Blame::Us,
        }
    }

    pub fn retry(&self) -> Retry {
        Retry::Never
    }
}

impl From<rocksdb::Error> for QueueFault {
    fn from(cause: rocksdb::Error) -> QueueFault {
        QueueFault::Store(cause.into_string())
    }
}

impl fmt::Display for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueFault::Unknown => f.write_str("no such message"),
            QueueFault::NoPartition(id) => write!(f, "partition {id} is not open"),
            QueueFault::ForeignSpool(number) => {
                write!(f, "the message belongs to another spool: its id ends in {number}")
            }
            QueueFault::Record(fault) => write!(f, "the record is damaged: {fault}"),
            QueueFault::Head(why) => write!(f, "the head is damaged: {why}"),
            QueueFault::Body { chunk, why } => {
                write!(f, "the body is damaged at chunk {chunk}: {why}")
            }
            QueueFault::ReadOnly => f.write_str("the spool was opened for reading only"),
            QueueFault::Store(cause) => write!(f, "the store failed: {cause}"),
        }
    }
}

impl std::error::Error for QueueFault {}
