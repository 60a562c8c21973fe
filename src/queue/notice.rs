//! Notices of the queue for the operator. The caller logs each notice; nothing here logs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::PartitionId;
use crate::queue::record::lost::Lost;

/// Where notices go while the spool is open. Called from any thread; it must not block.
pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// How serious a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// Someone must act.
    Error,
    /// Something was repaired without loss of mail.
    Warn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An invalid record was moved to `file`.
    Quarantined {
        partition: PartitionId,
        family: &'static str,
        key: String,
        why: String,
        file: PathBuf,
    },
    /// An invalid record could not be moved, and stays in the database.
    NotMoved { partition: PartitionId, family: &'static str, key: String, why: String },
    /// A missing record was recreated, or a stray one removed.
    Repaired { partition: PartitionId, what: &'static str, key: String },
    /// The write-ahead log is damaged before its end; copies of it are in `folder`, and its readable
    /// part was recovered.
    LogDamaged { partition: PartitionId, folder: PathBuf, why: String },
    /// The list of the store's files ended in an entry that a power cut had torn; it was cut off. A
    /// copy, and all tables there were, are in `folder`.
    ManifestTorn { partition: PartitionId, folder: PathBuf, why: String },
    /// The database is damaged. Its readable rows are in a new one; the old one was moved.
    Rebuilt { partition: PartitionId, folder: PathBuf, lost: Lost, why: String },
    /// The disk is too full for a new database, so a damaged table was dropped. It is in `folder`.
    TableDropped { partition: PartitionId, folder: PathBuf, lost: Lost, why: String },
    /// The list of the store's files was damaged, and was mended from its copy. What was there
    /// before is in `folder`.
    ManifestMended { partition: PartitionId, folder: PathBuf, why: String },
    /// The database does not open. Its folder was moved and an empty one stands in its place.
    SetAside { partition: PartitionId, folder: PathBuf, why: String },
    /// The counts do not agree with the stored mail: this many recipients are missing, or are queued
    /// again although they had ended.
    Miscounted { partition: PartitionId, missing: u64, returned: u64 },
    /// A copy outside the database could not be written.
    NotCopied { partition: PartitionId, why: String },
    /// A family could not be read to its end.
    Unreadable { partition: PartitionId, family: &'static str, why: String },
    /// A warning of the store itself.
    Store { partition: PartitionId, loudness: Loudness, line: String },
}

impl Notice {
    pub fn loudness(&self) -> Loudness {
        match self {
            Notice::Repaired { .. } | Notice::ManifestTorn { .. } | Notice::NotCopied { .. } => {
                Loudness::Warn
            }
            Notice::Store { loudness, .. } => *loudness,
            _ => Loudness::Error,
        }
    }

    pub fn partition(&self) -> PartitionId {
        match self {
            Notice::Quarantined { partition, .. }
            | Notice::NotMoved { partition, .. }
            | Notice::Repaired { partition, .. }
            | Notice::LogDamaged { partition, .. }
            | Notice::ManifestTorn { partition, .. }
            | Notice::ManifestMended { partition, .. }
            | Notice::Rebuilt { partition, .. }
            | Notice::TableDropped { partition, .. }
            | Notice::SetAside { partition, .. }
            | Notice::Miscounted { partition, .. }
            | Notice::NotCopied { partition, .. }
            | Notice::Unreadable { partition, .. }
            | Notice::Store { partition, .. } => *partition,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Quarantined { partition, family, key, why, file } => write!(
                f,
                "partition {partition}: {family} record {key} moved to {}: {why}",
                file.display()
            ),
            Notice::NotMoved { partition, family, key, why } => write!(
                f,
                "partition {partition}: {family} record {key} can be neither read nor moved: {why}"
            ),
            Notice::Repaired { partition, what, key } => {
                write!(f, "partition {partition}: {what} ({key})")
            }
            Notice::LogDamaged { partition, folder, why } => write!(
                f,
                "partition {partition}: the log is damaged ({why}); copies are in {}, and its \
                 readable part was recovered",
                folder.display()
            ),
            Notice::ManifestTorn { partition, folder, why } => write!(
                f,
                "partition {partition}: a power cut tore the last entry of the list of files \
                 ({why}), which was cut off; the previous files are kept in {}; remove them once no \
                 mail is missing",
                folder.display()
            ),
            Notice::ManifestMended { partition, folder, why } => write!(
                f,
                "partition {partition}: the list of files was damaged ({why}) and was restored \
                 from its copy; the damaged files are kept in {}",
                folder.display()
            ),
            Notice::Rebuilt { partition, folder, lost, why } => write!(
                f,
                "partition {partition}: the database was damaged ({why}) and lost rows of: {}; the \
                 readable mail is in a new database, the damaged one is kept in {}; remove it once \
                 no mail is missing",
                lost.names().join(", "),
                folder.display()
            ),
            Notice::TableDropped { partition, folder, lost, why } => write!(
                f,
                "partition {partition}: a table is damaged ({why}) and the disk is too full to \
                 rescue its readable rows; all its rows of {} are missing from the queue, and the \
                 table is kept in {}; remove it once no mail is missing",
                lost.names().join(", "),
                folder.display()
            ),
            Notice::SetAside { partition, folder, why } => write!(
                f,
                "partition {partition}: the database cannot be opened ({why}); it is kept in {}, and \
                 the partition starts empty",
                folder.display()
            ),
            Notice::Miscounted { partition, missing, returned: 0 } => {
                write!(f, "partition {partition}: {missing} recipients are missing")
            }
            Notice::Miscounted { partition, missing, returned } => write!(
                f,
                "partition {partition}: {missing} recipients are missing, and {returned} finished \
                 ones are queued again and may get the mail twice"
            ),
            Notice::NotCopied { partition, why } => {
                write!(f, "partition {partition}: cannot copy its counts or list of files: {why}")
            }
            Notice::Unreadable { partition, family, why } => {
                write!(
                    f,
                    "partition {partition}: column family {family} cannot be read completely: {why}"
                )
            }
            Notice::Store { partition, line, .. } => write!(f, "partition {partition}: {line}"),
        }
    }
}
