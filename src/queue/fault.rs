//! Faults of the queue by cause: `SpoolFault` at start, `CommitFault` while mail is accepted,
//! `QueueFault` when stored mail is read.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::base::PartitionId;
use crate::base::SpoolNumber;
use crate::queue::cause::Cause;
use crate::queue::record::outer::RecordFault;

/// Why a spool cannot be used. `remedy` says what the operator can do.
#[derive(Debug, Error)]
pub enum SpoolFault {
    #[error("spool {path} is in use by {}", holder(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "spool {path} has format {found}, but this version of Ringpost supports only {known} and \
         below"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// Only a server upgrades a spool.
    #[error("spool {path} has format {found} and must be upgraded")]
    Older { path: PathBuf, found: u32 },
    /// `ringpost.json` is invalid.
    #[error("{path}: {why}")]
    Meta { path: PathBuf, why: String },
    /// There is no spool, and the caller did not ask for a new one.
    #[error("no spool at {path}")]
    NoSpool { path: PathBuf },
    #[error("partition folder {path} is missing")]
    PartitionMissing { path: PathBuf },
    #[error("spool {path} was created with {has} partitions, but the config sets {asked}")]
    PartitionCount { path: PathBuf, has: u8, asked: u8 },
    #[error("{asked} is not a valid number of partitions")]
    PartitionRange { asked: u8 },
    #[error("{path}: {cause}")]
    Permission { path: PathBuf, cause: String },
    /// Other users could add mail.
    #[error("spool {path} has mode {mode:04o}: other users may write to it")]
    Writable { path: PathBuf, mode: u32 },
    #[error("no disk space left for {path}")]
    DiskFull { path: PathBuf },
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    /// Column families, options or formats are unknown or missing.
    #[error("{path} was not made by this version of Ringpost: {cause}")]
    Foreign { path: PathBuf, cause: String },
    /// RocksDB reported a fault other than damage.
    #[error("{path}: {cause}")]
    Store { path: PathBuf, cause: String },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another process".into(), |pid| format!("process {pid}"))
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
                "restore the file from its copy in `copies`; the mail is untouched".into()
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

/// Why a message was not made durable. `Partition::failure` has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitFault {
    /// The client may send the message again at any time.
    #[error("the spool's file system is full")]
    SpoolFull,
    /// A write failed; the partition accepts no more mail until a restart.
    #[error("the store failed; a restart is needed")]
    Failed,
    /// The disk did not answer in time. A message that becomes durable later is removed.
    #[error("the spool's disk does not respond")]
    Hung,
    #[error("the queue is shutting down")]
    Stopped,
    #[error("the messages are too large to be stored together")]
    TooLarge,
    #[error("the envelope cannot be stored: {0}")]
    Record(#[from] RecordFault),
}

/// Why stored mail cannot be read or removed.
#[derive(Debug, Error)]
pub enum QueueFault {
    #[error("no such message")]
    Unknown,
    #[error("partition {0} is not open")]
    NoPartition(PartitionId),
    #[error("the message belongs to another spool: its id ends in {0}")]
    ForeignSpool(SpoolNumber),
    #[error("the record is damaged: {0}")]
    Record(#[from] RecordFault),
    /// The head is missing, or its length differs from the envelope.
    #[error("the head is damaged: {0}")]
    Head(&'static str),
    /// A chunk is missing, or the chunks do not match the envelope.
    #[error("the body is damaged at chunk {chunk}: {why}")]
    Body { chunk: u32, why: &'static str },
    #[error("the spool was opened for reading only")]
    ReadOnly,
    #[error("the store failed: {0}")]
    Store(String),
}

impl From<rocksdb::Error> for QueueFault {
    fn from(cause: rocksdb::Error) -> QueueFault {
        QueueFault::Store(cause.into_string())
    }
}
