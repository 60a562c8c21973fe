//! Notices of the queue for the operator. The caller logs them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::PartitionId;
use crate::queue::record::lost::Lost;

/// Receives the notices of an open spool. Called on any thread; must not block.
pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// How serious a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// An operator must act.
    Error,
    /// A repair without loss of mail.
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
    /// The write-ahead log is damaged before its end. Its readable part was recovered; copies of the
    /// damaged files are in `folder`.
    LogDamaged { partition: PartitionId, folder: PathBuf, why: String },
    /// A power cut tore the last entry of the manifest, which was removed. The old manifest and tables
    /// are in `folder`.
    ManifestTorn { partition: PartitionId, folder: PathBuf, why: String },
    /// The database was damaged. A new one holds its readable rows; the old one is in `folder`.
    Rebuilt { partition: PartitionId, folder: PathBuf, lost: Lost, why: String },
    /// The disk is too full for a new database, so a damaged table was moved to `folder`.
    TableDropped { partition: PartitionId, folder: PathBuf, lost: Lost, why: String },
    /// The manifest was damaged and was restored from its copy. The old files are in `folder`.
    ManifestMended { partition: PartitionId, folder: PathBuf, why: String },
    /// The database cannot be opened. It was moved to `folder` and replaced by an empty one.
    SetAside { partition: PartitionId, folder: PathBuf, why: String },
    /// The counts differ from the stored mail: `missing` recipients are lost, `returned` ones had
    /// ended and are queued again.
    Miscounted { partition: PartitionId, missing: u64, returned: u64 },
    /// A copy of the ledger or manifest could not be written.
    NotCopied { partition: PartitionId, why: String },
    /// A family could not be read to its end.
    Unreadable { partition: PartitionId, family: &'static str, why: String },
    /// A warning from RocksDB.
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
        write!(f, "partition {}: ", self.partition())?;
        match self {
            Notice::Quarantined { family, key, why, file, .. } => {
                write!(f, "{family} record {key} moved to {}: {why}", file.display())
            }
            Notice::NotMoved { family, key, why, .. } => {
                write!(f, "{family} record {key} can be neither read nor moved: {why}")
            }
            Notice::Repaired { what, key, .. } => {
                write!(f, "{what} ({key})")
            }
            Notice::LogDamaged { folder, why, .. } => write!(
                f,
                "the log is damaged ({why}); its readable part was recovered, and copies of the damaged \
                 files are in {}",
                folder.display()
            ),
            Notice::ManifestTorn { folder, why, .. } => write!(
                f,
                "a power cut tore the last entry of the list of files ({why}), which was removed; the \
                 previous files are kept in {}; remove them once no mail is missing",
                folder.display()
            ),
            Notice::ManifestMended { folder, why, .. } => write!(
                f,
                "the list of files was damaged ({why}) and was restored from its copy; the damaged \
                 files are kept in {}",
                folder.display()
            ),
            Notice::Rebuilt { folder, lost, why, .. } => write!(
                f,
                "the database was damaged ({why}) and lost rows of: {}; the readable mail is in a new \
                 database, the damaged one is kept in {}; remove it once no mail is missing",
                lost.names().join(", "),
                folder.display()
            ),
            Notice::TableDropped { folder, lost, why, .. } => write!(
                f,
                "a table is damaged ({why}) and the disk is too full to rescue its readable rows; all \
                 its rows of {} are missing from the queue, and the table is kept in {}; remove it \
                 once no mail is missing",
                lost.names().join(", "),
                folder.display()
            ),
            Notice::SetAside { folder, why, .. } => write!(
                f,
                "the database cannot be opened ({why}); it is kept in {}, and the partition starts \
                 empty",
                folder.display()
            ),
            Notice::Miscounted { missing, returned: 0, .. } => {
                write!(f, "{missing} recipients are missing")
            }
            Notice::Miscounted { missing, returned, .. } => write!(
                f,
                "{missing} recipients are missing, and {returned} finished ones are queued again and may \
                 get the mail twice"
            ),
            Notice::NotCopied { why, .. } => {
                write!(f, "cannot copy its counts or list of files: {why}")
            }
            Notice::Unreadable { family, why, .. } => {
                write!(f, "column family {family} cannot be read completely: {why}")
            }
            Notice::Store { line, .. } => f.write_str(line),
        }
    }
}
