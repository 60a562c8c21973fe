//! The spool: a folder of partitions, made once, used by one process at a time.
//!
//! Promise:  `open` answers with every partition open and repaired, or with a fault that names
//!           cause and remedy. `ringpost.json` is written last when a spool is made, so a crash on
//!           the way leaves a spool that the next start completes.
//! Fatal:    a lock held by another process, a newer format, a missing partition.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use serde::Deserialize;
use serde::Serialize;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::id::PARTITIONS_MAX;
use crate::queue::copies::COPIES;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::OnNotice;
use crate::queue::options::StoreMemory;
use crate::queue::partition::Partition;
use crate::queue::partition::PartitionDestination;
use crate::queue::partition::QUARANTINE;
use crate::queue::partition::make_folder;
use crate::queue::partition::sync_folder;
use crate::queue::points::point;
use crate::queue::recover::Recovered;
use crate::queue::rescue;
use crate::queue::reserve;
use crate::queue::schema::Layout;

const META: &str = "ringpost.json";
const LOCK: &str = "lock";

/// What the opener wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Take mail, or delete some: needs the lock; repairs, and makes a spool where there is none.
    Serve,
    /// Look only: no lock, no repair, nothing is written.
    Inspect,
}

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
    /// Off only in tests that must show mail being lost.
    pub sync: bool,
    pub access: Access,
    /// Another than the current one only in tests of the step to a later format.
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

/// What `ringpost.json` says. There is a copy of it in `copies`.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Meta {
    format: u32,
    partitions: u8,
    created_ms: u64,
    /// Drawn when the spool is made, or brought from format 1.
    number: Option<u32>,
}

impl Spool {
    /// Opens the spool, making it first if it may and must. Partitions are opened side by side.
    /// Where the disk is too full for that, the reserve is spent.
    pub fn open(options: SpoolOptions) -> Result<Spool, SpoolFault> {
        let lock = match options.access {
            Access::Serve => Some(claim(&options.path)?),
            Access::Inspect => None,
        };
        let opened = match Spool::open_claimed(&options) {
            Err(SpoolFault::DiskFull { path }) if lock.is_some() => {
                let spent = reserve::spend(&options.path);
                match spent.map_err(|cause| SpoolFault::io(&options.path, cause))? {
                    true => Spool::open_claimed(&options),
                    false => Err(SpoolFault::DiskFull { path }),
                }
            }
            opened => opened,
        };
        opened.map(|spool| Spool { _lock: lock, ..spool })
    }

    fn open_claimed(options: &SpoolOptions) -> Result<Spool, SpoolFault> {
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
            // A spool of an older Ringpost has none yet.
            match make_folder(&options.path.join(COPIES)) {
                // A full disk must not stop a start that can make room on it.
                Err(SpoolFault::DiskFull { .. }) => (),
                made => made?,
            }
        }
        let memory = StoreMemory::new(options.memory_bytes, meta.partitions);
        let meta = match options.access {
            Access::Serve => meta.numbered(path)?,
            Access::Inspect => meta,
        };
        let destinations: Vec<PartitionDestination> = (0..meta.partitions)
            .map(|number| destination(options, &meta, &memory, number))
            .collect();
        if options.access == Access::Serve {
            destinations.iter().try_for_each(rescue::finish)?;
        }
        // All are looked for before one is opened, so that a missing one is no half start.
        for destination in &destinations {
            if !destination.path().is_dir() {
                return Err(SpoolFault::PartitionMissing { path: destination.path() });
            }
        }
        let mut partitions = Vec::with_capacity(destinations.len());
        let mut recovered = Vec::with_capacity(destinations.len());
        for opened in open_all(&destinations) {
            let (partition, found) = opened?;
            partitions.push(Arc::new(partition));
            recovered.push(found);
        }
        // Families and records are those of today by now. Until here the older Ringpost could still
        // open the spool; from here on it refuses.
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

    /// How a message of this spool is called outside.
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

    /// Brings the copies of all lists of files up to date. To be called often: what was written
    /// since the last time is what damage to a list may cost.
    pub fn copy_lists(&self) -> std::io::Result<()> {
        self.partitions.iter().try_for_each(|partition| partition.copy_list())
    }

    /// What the memtables hold now.
    pub fn memory_used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }
}

impl Meta {
    fn spool_number(&self) -> SpoolNumber {
        SpoolNumber::from_bits(self.number.unwrap_or(0))
    }

    /// With a number: the one in the copy, or a fresh one that is stored first.
    fn numbered(self, path: &Path) -> Result<Meta, SpoolFault> {
        if self.number.is_some() {
            return Ok(self);
        }
        let number = match copied_number(path) {
            Some(number) => number,
            None => draw_number().map_err(|cause| SpoolFault::io(path, cause))?,
        };
        let meta = Meta { number: Some(number.as_u32()), ..self };
        write_meta(path, &meta)?;
        Ok(meta)
    }
}

/// The number in the copy of `ringpost.json`, if that can be read.
fn copied_number(path: &Path) -> Option<SpoolNumber> {
    let text = fs::read_to_string(path.join(COPIES).join(META)).ok()?;
    let copy: Meta = serde_json::from_str(&text).ok()?;
    copy.number.map(SpoolNumber::from_bits)
}

fn draw_number() -> std::io::Result<SpoolNumber> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(SpoolNumber::from_bits(u32::from_be_bytes(bytes)))
}

fn destination(
    options: &SpoolOptions,
    meta: &Meta,
    memory: &StoreMemory,
    partition: u8,
) -> PartitionDestination {
    PartitionDestination {
        id: PartitionId(partition),
        spool: options.path.clone(),
        number: meta.spool_number(),
        layout: options.layout,
        format: meta.format,
        access: options.access,
        sync: options.sync,
        memory: memory.clone(),
        now_ms: options.now_ms,
        on_notice: options.on_notice.clone(),
    }
}

/// A scan of a large backlog takes seconds; several partitions take them at the same time.
fn open_all(
    destinations: &[PartitionDestination],
) -> Vec<Result<(Partition, Recovered), SpoolFault>> {
    thread::scope(|scope| {
        let running: Vec<_> = destinations
            .iter()
            .map(|destination| scope.spawn(|| Partition::open(destination)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Makes the folder if need be and takes the lock.
fn claim(path: &Path) -> Result<File, SpoolFault> {
    if !path.exists() {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|cause| SpoolFault::io(parent, cause))?;
        }
        make_folder(path)?;
    }
    let mode =
        fs::metadata(path).map_err(|cause| SpoolFault::io(path, cause))?.permissions().mode()
            & 0o7777;
    if mode & 0o022 != 0 {
        return Err(SpoolFault::Writable { path: path.into(), mode });
    }
    lock(path)
}

fn lock(path: &Path) -> Result<File, SpoolFault> {
    let lock_path = path.join(LOCK);
    let at = |cause| SpoolFault::io(&lock_path, cause);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(at)?;
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::Error(cause)) => return Err(at(cause)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The pid is a comfort; without it the fault is the same.
            let _ = file.read_to_string(&mut text);
            return Err(SpoolFault::Locked { path: path.into(), pid: text.trim().parse().ok() });
        }
    }
    file.set_len(0).map_err(at)?;
    file.rewind().map_err(at)?;
    match writeln!(file, "{}", std::process::id()) {
        // The lock is held all the same, and a full disk must not keep anybody from making room.
        Err(cause) if cause.kind() == std::io::ErrorKind::StorageFull => Ok(file),
        written => written.map(|()| file).map_err(at),
    }
}

fn read_meta(path: &Path, known: u32) -> Result<Option<Meta>, SpoolFault> {
    let meta_path = path.join(META);
    let mut text = String::new();
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&meta_path);
    let read = file.and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            return Err(SpoolFault::Meta { path: meta_path, why: "it is not text".into() });
        }
        Err(cause) => return Err(SpoolFault::io(meta_path, cause)),
    };
    /// What every format has, however much more it says.
    #[derive(Deserialize)]
    struct AnyMeta {
        format: u32,
    }
    let unreadable = |cause: serde_json::Error| SpoolFault::Meta {
        path: meta_path.clone(),
        why: cause.to_string(),
    };
    let any: AnyMeta = serde_json::from_str(&text).map_err(unreadable)?;
    if any.format > known {
        return Err(SpoolFault::Newer { path: path.into(), found: any.format, known });
    }
    let meta: Meta = serde_json::from_str(&text).map_err(unreadable)?;
    if meta.partitions == 0 || meta.partitions as usize > PARTITIONS_MAX {
        let why = format!("{} is no possible number of partitions", meta.partitions);
        return Err(SpoolFault::Meta { path: meta_path, why });
    }
    Ok(Some(meta))
}

/// Partitions of the spool in `path`, none if there is no spool. It may be in use.
pub fn partitions_in(path: &Path) -> Result<Option<u8>, SpoolFault> {
    Ok(read_meta(path, Layout::CURRENT.format)?.map(|meta| meta.partitions))
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
    let number = match copied_number(&options.path) {
        Some(number) => number,
        None => draw_number().map_err(|cause| SpoolFault::io(&options.path, cause))?,
    };
    let number = Some(number.as_u32());
    let meta = Meta { format, partitions, created_ms: options.now_ms, number };
    for partition in 0..partitions {
        Partition::create(&destination(options, &meta, &memory, partition))?;
    }
    point("spool::before_meta");
    write_meta(&options.path, &meta)?;
    point("spool::after_meta");
    Ok(meta)
}

/// Partitions that are there without a `ringpost.json`. None of them is left out, should the file
/// have been lost rather than not yet written.
fn partitions_there(path: &Path) -> u8 {
    let there = |number: &u8| path.join(format!("p{number:02}")).is_dir();
    (0..PARTITIONS_MAX as u8).rev().find(there).map_or(0, |last| last + 1)
}

/// Writes the copy, then the file, so that a number once used is never lost.
fn write_meta(path: &Path, meta: &Meta) -> Result<(), SpoolFault> {
    write_meta_in(&path.join(COPIES), meta)?;
    write_meta_in(path, meta)
}

fn write_meta_in(path: &Path, meta: &Meta) -> Result<(), SpoolFault> {
    let fresh = path.join(format!("{META}.new"));
    let at = |cause| SpoolFault::io(&fresh, cause);
    let text = serde_json::to_string_pretty(meta).expect("four numbers become JSON");
    let mut file = File::create(&fresh).map_err(at)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&fresh, path.join(META)).map_err(at)?;
    sync_folder(path)
}
