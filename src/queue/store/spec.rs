//! Which partition to open, and how.

use std::path::PathBuf;

use rocksdb::ColumnFamilyDescriptor;

use crate::base::PartitionId;
use crate::base::SpoolNumber;
use crate::queue::notice::OnNotice;
use crate::queue::record::family::Layout;
use crate::queue::store::copies::Copies;
use crate::queue::store::options;
use crate::queue::store::options::LogRecovery;
use crate::queue::store::options::StoreMemory;
use crate::queue::store::quarantine::QUARANTINE;

/// The purpose of opening a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Accept or delete mail: requires the lock, repairs, and creates a missing spool.
    Serve,
    /// Read only: without the lock, without repairs.
    Inspect,
}

/// What a repair does on a disk that is too full for a second database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFullDisk {
    /// The start fails, so that the reserve is spent before any row is given up.
    Refuse,
    /// The damaged tables are dropped.
    DropTables,
}

/// The parameters of opening a partition.
#[derive(Clone)]
pub struct PartitionSpec {
    pub id: PartitionId,
    /// The spool's folder.
    pub spool: PathBuf,
    pub access: Access,
    pub on_full_disk: OnFullDisk,
    pub sync: bool,
    /// The number of the spool.
    pub number: SpoolNumber,
    pub layout: Layout,
    /// The format that the spool has so far.
    pub format: u32,
    pub memory: StoreMemory,
    pub now_ms: u64,
    pub on_notice: OnNotice,
}

impl PartitionSpec {
    /// The partition's own folder.
    pub fn path(&self) -> PathBuf {
        self.spool.join(format!("p{:02}", self.id.0))
    }

    /// The folder for invalid records.
    pub fn quarantine(&self) -> PathBuf {
        self.spool.join(QUARANTINE)
    }

    pub fn copies(&self) -> Copies {
        Copies::new(&self.spool, self.id)
    }

    pub(in crate::queue) fn families(&self) -> impl Iterator<Item = ColumnFamilyDescriptor> + '_ {
        options::families(&self.memory, self.layout.families)
    }

    pub(in crate::queue) fn database(&self, recovery: LogRecovery) -> rocksdb::Options {
        options::database(&self.memory, recovery, self.id, self.on_notice.clone())
    }
}
