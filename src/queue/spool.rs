//! The spool: a folder of partitions, created once, used by one process at a time.
//!
//! Promise:  `open` returns with every partition open and repaired, or with a fault that has a cause
//!           and a remedy. `ringpost.json` is written last when a spool is created or upgraded, so that
//!           the next start completes the work after a crash.
//! Fatal:    a lock held by another process, a newer format, a missing partition.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::id::PARTITIONS_MAX;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::OnNotice;
use crate::queue::points::point;
use crate::queue::record::family::Layout;
use crate::queue::recover::open::open;
use crate::queue::spool_lock::claim;
use crate::queue::spool_meta::Meta;
use crate::queue::spool_meta::read_meta;
use crate::queue::spool_meta::write_meta;
use crate::queue::store::copies::COPIES;
use crate::queue::store::folder::make_folder;
use crate::queue::store::found::Recovered;
use crate::queue::store::options::StoreMemory;
use crate::queue::store::partition::Partition;
use crate::queue::store::quarantine::QUARANTINE;
use crate::queue::store::repair::create;
use crate::queue::store::rescue;
use crate::queue::store::reserve;
use crate::queue::store::spec::Access;
use crate::queue::store::spec::OnFullDisk;
use crate::queue::store::spec::PartitionSpec;

/// How to open a spool.
#[derive(Clone)]
pub struct SpoolOptions {
    pub path: PathBuf,
    /// `None`: the number of an existing spool, or `partitions_new` for a new one.
    pub partitions: Option<u8>,
    /// Partitions of a new spool without `partitions`.
    pub partitions_new: u8,
    /// Memory for the memtables of all partitions.
    pub memory_bytes: usize,
    /// Off only in tests that demonstrate the loss of mail.
    pub sync: bool,
    pub access: Access,
    /// Differs from the current layout only in tests of an upgrade.
    pub layout: Layout,
    pub now_ms: u64,
    pub on_notice: OnNotice,
}

impl SpoolOptions {
    /// Options for serving. Notices are dropped.
    pub fn new(path: impl Into<PathBuf>, now_ms: u64) -> SpoolOptions {
        SpoolOptions {
            path: path.into(),
            partitions: None,
            partitions_new: 1,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            sync: true,
            access: Access::Serve,
            layout: Layout::CURRENT,
            now_ms,
            on_notice: Arc::new(|_| ()),
        }
    }
}

/// The default memory for memtables: with the chunks of 200 streaming sessions (77 MB) and the block
/// cache less than 200 MB.
pub const MEMORY_BYTES_DEFAULT: usize = 80 << 20;

/// An open spool.
pub struct Spool {
    path: PathBuf,
    number: SpoolNumber,
    key: [u64; 2],
    partitions: Vec<Arc<Partition>>,
    recovered: Vec<Recovered>,
    /// Held until the spool is dropped.
    _lock: Option<File>,
}

impl Spool {
    /// Opens the spool; creates it first if there is none and `access` allows that. If the disk is
    /// full, the reserve is released, and a second try may drop damaged tables.
    pub fn open(options: SpoolOptions) -> Result<Spool, SpoolFault> {
        let lock = match options.access {
            Access::Serve => Some(claim(&options.path)?),
            Access::Inspect => None,
        };
        let opened = match Spool::open_claimed(&options, OnFullDisk::Refuse) {
            Err(SpoolFault::DiskFull { .. }) if lock.is_some() => {
                // Even without a reserve the second try needs less space.
                reserve::spend(&options.path)
                    .map_err(|cause| SpoolFault::io(&options.path, cause))?;
                Spool::open_claimed(&options, OnFullDisk::DropTables)
            }
            opened => opened,
        };
        opened.map(|spool| Spool { _lock: lock, ..spool })
    }

    fn open_claimed(options: &SpoolOptions, on_full_disk: OnFullDisk) -> Result<Spool, SpoolFault> {
        let path = &options.path;
        let meta = match read_meta(path, options.layout.format)? {
            Some(meta) => check_count(meta, options)?,
            None if options.access == Access::Serve => make(options)?,
            None => return Err(SpoolFault::NoSpool { path: path.clone() }),
        };
        if meta.format < options.layout.format && options.access == Access::Inspect {
            return Err(SpoolFault::Older { path: path.clone(), found: meta.format });
        }
        let memory = StoreMemory::new(options.memory_bytes, meta.partitions);
        let meta = match options.access {
            Access::Serve => {
                // An older spool may have no folder for copies.
                match make_folder(&options.path.join(COPIES)) {
                    // A full disk must not prevent a start that can free space.
                    Err(SpoolFault::DiskFull { .. }) => (),
                    made => made?,
                }
                meta.numbered(path)?
            }
            Access::Inspect => meta,
        };
        let specs: Vec<PartitionSpec> = (0..meta.partitions)
            .map(|number| PartitionSpec { on_full_disk, ..spec(options, &meta, &memory, number) })
            .collect();
        if options.access == Access::Serve {
            specs.iter().try_for_each(rescue::finish)?;
        }
        // All folders are checked before the first one is opened, so that no start is partial.
        if let Some(path) = specs.iter().map(PartitionSpec::path).find(|path| !path.is_dir()) {
            return Err(SpoolFault::PartitionMissing { path });
        }
        let mut partitions = Vec::with_capacity(specs.len());
        let mut recovered = Vec::with_capacity(specs.len());
        for opened in open_all(&specs) {
            let (partition, found) = opened?;
            partitions.push(Arc::new(partition));
            recovered.push(found);
        }
        // All families and records have the new format now. An older Ringpost refuses the spool from
        // here on.
        if meta.format < options.layout.format {
            write_meta(path, &Meta { format: options.layout.format, ..meta })?;
        }
        // A spool that is only inspected may have none yet; nothing is hashed then.
        let (number, key) = (meta.spool_number(), meta.key.unwrap_or_default());
        Ok(Spool { path: path.clone(), number, key, partitions, recovered, _lock: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn number(&self) -> SpoolNumber {
        self.number
    }

    /// The secret of hashes that are stored in this spool.
    pub fn key(&self) -> [u64; 2] {
        self.key
    }

    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    /// The public id of a message of this spool.
    pub fn public_id(&self, local: MessageId) -> PublicId {
        PublicId { local, spool: self.number }
    }

    /// The local id of a message of this spool.
    pub fn local_id(&self, id: PublicId) -> Result<MessageId, QueueFault> {
        match id.spool == self.number {
            true => Ok(id.local),
            false => Err(QueueFault::ForeignSpool(id.spool)),
        }
    }

    /// The partition of a message.
    pub fn partition_of(&self, id: MessageId) -> Result<&Arc<Partition>, QueueFault> {
        let partition = id.partition();
        self.partitions.get(partition.0 as usize).ok_or(QueueFault::NoPartition(partition))
    }

    /// The findings of the start, one entry per partition.
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// Updates the copies of all manifests. To be called often: damage to a manifest may lose all mail
    /// since the last copy.
    pub fn copy_lists(&self) -> std::io::Result<()> {
        self.partitions.iter().try_for_each(|partition| partition.copy_list())
    }
}

fn spec(options: &SpoolOptions, meta: &Meta, memory: &StoreMemory, partition: u8) -> PartitionSpec {
    PartitionSpec {
        id: PartitionId(partition),
        spool: options.path.clone(),
        number: meta.spool_number(),
        layout: options.layout,
        format: meta.format,
        access: options.access,
        on_full_disk: OnFullDisk::Refuse,
        sync: options.sync,
        memory: memory.clone(),
        now_ms: options.now_ms,
        on_notice: options.on_notice.clone(),
    }
}

/// Scanning a large backlog takes seconds, so partitions are opened in parallel.
fn open_all(specs: &[PartitionSpec]) -> Vec<Result<(Partition, Recovered), SpoolFault>> {
    thread::scope(|scope| {
        let running: Vec<_> = specs.iter().map(|spec| scope.spawn(|| open(spec))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn check_count(meta: Meta, options: &SpoolOptions) -> Result<Meta, SpoolFault> {
    match options.partitions {
        Some(asked) if asked != meta.partitions => Err(SpoolFault::PartitionCount {
            path: options.path.clone(),
            has: meta.partitions,
            asked,
        }),
        _ => Ok(meta),
    }
}

/// Creates a spool, or completes one that a crash left unfinished.
fn make(options: &SpoolOptions) -> Result<Meta, SpoolFault> {
    let asked = options.partitions.unwrap_or(options.partitions_new);
    if asked == 0 || asked as usize > PARTITIONS_MAX {
        return Err(SpoolFault::PartitionRange { asked });
    }
    let partitions = asked.max(partitions_there(&options.path));
    let memory = StoreMemory::new(options.memory_bytes, partitions);
    make_folder(&options.path.join(QUARANTINE))?;
    make_folder(&options.path.join(COPIES))?;
    let format = options.layout.format;
    let meta = Meta { format, partitions, created_ms: options.now_ms, number: None, key: None };
    let meta = meta.with_names(&options.path)?;
    for partition in 0..partitions {
        create(&spec(options, &meta, &memory, partition))?;
    }
    point("spool::before_meta");
    write_meta(&options.path, &meta)?;
    point("spool::after_meta");
    Ok(meta)
}

/// Existing partitions of a spool without `ringpost.json`, which may be lost rather than not yet
/// written.
fn partitions_there(path: &Path) -> u8 {
    let there = |number: &u8| path.join(format!("p{number:02}")).is_dir();
    (0..PARTITIONS_MAX as u8).rev().find(there).map_or(0, |last| last + 1)
}
