//! The spool: a folder of partitions, created once, used by one process at a time.
//!
//! Promise:  `open` returns with every partition open and repaired, or with a fault that names cause
//!           and remedy. `ringpost.json` is written last when a spool is created or upgraded, so that
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
use crate::queue::spool_meta::number_for;
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
    /// `None`: as the spool was made, or `partitions_new` for a new one.
    pub partitions: Option<u8>,
    /// Partitions of a new spool when `partitions` does not say.
    pub partitions_new: u8,
    /// For the memtables of all partitions together.
    pub memory_bytes: usize,
    /// Off only in tests that show the loss of mail.
    pub sync: bool,
    pub access: Access,
    /// Another than the current one only in tests of an upgrade.
    pub layout: Layout,
    pub now_ms: u64,
    pub on_notice: OnNotice,
}

impl SpoolOptions {
    /// A spool to serve from, with notices dropped.
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

/// Memtables of a spool, when the config does not say: with the chunks of 200 streaming sessions
/// (77 MB) and the block cache it stays below 200 MB.
pub const MEMORY_BYTES_DEFAULT: usize = 80 << 20;

/// An open spool.
pub struct Spool {
    path: PathBuf,
    number: SpoolNumber,
    partitions: Vec<Arc<Partition>>,
    memory: StoreMemory,
    recovered: Vec<Recovered>,
    /// Held until the spool is dropped.
    _lock: Option<File>,
}

impl Spool {
    /// Opens the spool, and makes it first where there is none and `access` allows that. Partitions
    /// are opened in parallel. If the disk is too full, the reserve is spent, and the second try may
    /// drop damaged tables.
    pub fn open(options: SpoolOptions) -> Result<Spool, SpoolFault> {
        let lock = match options.access {
            Access::Serve => Some(claim(&options.path)?),
            Access::Inspect => None,
        };
        let opened = match Spool::open_claimed(&options, OnFullDisk::Refuse) {
            Err(SpoolFault::DiskFull { .. }) if lock.is_some() => {
                // Also without a reserve: the second try can do with less space.
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
        if options.access == Access::Serve {
            // A spool of an older Ringpost may have none yet.
            match make_folder(&options.path.join(COPIES)) {
                // A full disk must not stop a start that can free space.
                Err(SpoolFault::DiskFull { .. }) => (),
                made => made?,
            }
        }
        let memory = StoreMemory::new(options.memory_bytes, meta.partitions);
        let meta = match options.access {
            Access::Serve => meta.numbered(path)?,
            Access::Inspect => meta,
        };
        let specs: Vec<PartitionSpec> = (0..meta.partitions)
            .map(|number| PartitionSpec { on_full_disk, ..spec(options, &meta, &memory, number) })
            .collect();
        if options.access == Access::Serve {
            specs.iter().try_for_each(rescue::finish)?;
        }
        // All folders are checked before the first is opened, so that a start is never partial.
        for spec in &specs {
            if !spec.path().is_dir() {
                return Err(SpoolFault::PartitionMissing { path: spec.path() });
            }
        }
        let mut partitions = Vec::with_capacity(specs.len());
        let mut recovered = Vec::with_capacity(specs.len());
        for opened in open_all(&specs) {
            let (partition, found) = opened?;
            partitions.push(Arc::new(partition));
            recovered.push(found);
        }
        // All families and records have the new format by now. From here on an older Ringpost refuses
        // the spool.
        if meta.format < options.layout.format {
            write_meta(path, &Meta { format: options.layout.format, ..meta })?;
        }
        let number = meta.spool_number();
        Ok(Spool { path: path.clone(), number, partitions, memory, recovered, _lock: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    pub fn number(&self) -> SpoolNumber {
        self.number
    }

    /// The public id of a message of this spool.
    pub fn public_id(&self, local: MessageId) -> PublicId {
        PublicId { local, spool: self.number }
    }

    /// The message of this spool that an id names.
    pub fn local_id(&self, id: PublicId) -> Result<MessageId, QueueFault> {
        match id.spool == self.number {
            true => Ok(id.local),
            false => Err(QueueFault::ForeignSpool(id.spool)),
        }
    }

    /// The partition that an id names.
    pub fn partition_of(&self, id: MessageId) -> Result<&Arc<Partition>, QueueFault> {
        let partition = id.partition();
        self.partitions.get(partition.0 as usize).ok_or(QueueFault::NoPartition(partition))
    }

    /// What opening found, one entry per partition.
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// Brings the copies of all manifests up to date. Call it often: damage to a manifest may cost
    /// what was written since the last copy.
    pub fn copy_lists(&self) -> std::io::Result<()> {
        self.partitions.iter().try_for_each(|partition| partition.copy_list())
    }

    /// What the memtables hold now.
    pub fn memory_used_bytes(&self) -> usize {
        self.memory.used_bytes()
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

/// Makes a new spool, or completes one whose making was cut short.
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
    let number = Some(number_for(&options.path)?.as_u32());
    let meta = Meta { format, partitions, created_ms: options.now_ms, number };
    for partition in 0..partitions {
        create(&spec(options, &meta, &memory, partition))?;
    }
    point("spool::before_meta");
    write_meta(&options.path, &meta)?;
    point("spool::after_meta");
    Ok(meta)
}

/// Partitions without a `ringpost.json`: the file may have been lost rather than not yet written.
fn partitions_there(path: &Path) -> u8 {
    let there = |number: &u8| path.join(format!("p{number:02}")).is_dir();
    (0..PARTITIONS_MAX as u8).rev().find(there).map_or(0, |last| last + 1)
}
