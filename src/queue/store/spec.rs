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

/// What the opener wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Take mail, or delete some: needs the lock; repairs, and makes a spool where there is none.
    Serve,
    /// Look only: no lock, no repair, nothing is written.
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

/// What opening a partition needs to know.
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

    /// Where what cannot be understood goes.
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
