//! One partition: one RocksDB database with its families, and the counts kept beside it.
//!
//! Owner:    shared as `Arc`: written by its commit thread (and by an operator's delete), read by
//!           anyone. RocksDB orders writers among themselves.
//! Promise:  a database that does not open never stops the start: its log is salvaged, or its
//!           folder is moved to quarantine whole, and the notice says so. Faults that another try
//!           may mend (permissions, a full disk, I/O) do stop it, for moving mail away would not
//!           help.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rocksdb::ColumnFamily;
use rocksdb::DB;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::queue::fault::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::key;
use crate::queue::mend::mend;
use crate::queue::notice::Notice;
use crate::queue::notice::OnNotice;
use crate::queue::options;
use crate::queue::options::LogRecovery;
use crate::queue::options::StoreMemory;
use crate::queue::points::point;
use crate::queue::recover;
use crate::queue::recover::Depth;
use crate::queue::recover::Recovered;
use crate::queue::schema;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::spool::Access;

/// An open partition.
pub struct Partition {
    id: PartitionId,
    path: PathBuf,
    db: DB,
    access: Access,
    sync: bool,
    newest: Option<MessageId>,
    messages: AtomicU64,
    body_bytes: AtomicU64,
    /// Bytes of bodies removed whose room was not given back yet.
    removed_bytes: AtomicU64,
    quarantined: u64,
    /// Why the partition takes no more mail; set once.
    failure: OnceLock<String>,
    /// Orders of operators, one at a time: two that remove the same message must not meet.
    operator: Mutex<()>,
}

/// The families, looked up once per batch.
#[derive(Clone, Copy)]
pub struct Families<'p> {
    pub envelope: &'p ColumnFamily,
    pub body: &'p ColumnFamily,
    pub job: &'p ColumnFamily,
    pub due: &'p ColumnFamily,
    pub stream: &'p ColumnFamily,
}

/// What opening a partition needs to know.
#[derive(Clone)]
pub struct PartitionSite {
    pub id: PartitionId,
    /// The spool's folder.
    pub spool: PathBuf,
    pub access: Access,
    pub sync: bool,
    pub memory: StoreMemory,
    pub now_ms: u64,
    pub on_notice: OnNotice,
}

impl PartitionSite {
    /// The partition's own folder.
    pub fn path(&self) -> PathBuf {
        self.spool.join(format!("p{:02}", self.id.0))
    }

    /// Where what cannot be understood goes.
    pub fn quarantine(&self) -> PathBuf {
        self.spool.join(QUARANTINE)
    }

    fn database(&self, recovery: LogRecovery) -> rocksdb::Options {
        options::database(&self.memory, recovery, self.id, self.on_notice.clone())
    }
}

/// The folder of what cannot be understood.
pub const QUARANTINE: &str = "quarantine";

impl Partition {
    /// Makes the database of a new partition; one that was made before is left as it is.
    pub fn create(site: &PartitionSite) -> Result<(), SpoolFault> {
        let path = site.path();
        point("spool::before_partition");
        make_folder(&path)?;
        let mut options = site.database(LogRecovery::Strict);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        DB::open_cf_descriptors(&options, &path, options::families(&site.memory))
            .map_err(|cause| SpoolFault::store(&path, cause.into_string()))?;
        sync_folder(&site.spool)?;
        point("spool::after_partition");
        Ok(())
    }

    /// Opens the partition and, when it may be written, repairs what a crash or damage left.
    pub fn open(site: &PartitionSite) -> Result<(Partition, Recovered), SpoolFault> {
        let path = site.path();
        if !path.is_dir() {
            return Err(SpoolFault::PartitionMissing { path });
        }
        let mut found = Recovered::default();
        let (db, depth) = match site.access {
            Access::Inspect => (open_for_reading(site)?, Depth::Look),
            Access::Serve => open_for_writing(site, &mut found)?,
        };
        let mut partition = Partition {
            id: site.id,
            path,
            db,
            access: site.access,
            sync: site.sync,
            newest: None,
            messages: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            removed_bytes: AtomicU64::new(0),
            quarantined: 0,
            failure: OnceLock::new(),
            operator: Mutex::new(()),
        };
        recover::run(&partition, site, depth, &mut found)?;
        partition.newest = found.newest;
        partition.quarantined = found.quarantined;
        partition.messages = AtomicU64::new(found.messages);
        partition.body_bytes = AtomicU64::new(found.body_bytes);
        Ok((partition, found))
    }

    pub fn id(&self) -> PartitionId {
        self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn db(&self) -> &DB {
        &self.db
    }

    /// The largest id that was in the partition when it was opened.
    pub fn newest(&self) -> Option<MessageId> {
        self.newest
    }

    /// Messages promised and not yet gone.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of their bodies.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Records moved to quarantine when the partition was opened.
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    /// Why the partition takes no more mail, if it does not.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Notes the failure; the first one stays.
    pub fn set_failure(&self, cause: String) {
        // A second failure is a consequence of the first.
        let _ = self.failure.set(cause);
    }

    pub fn is_writable(&self) -> bool {
        self.access == Access::Serve
    }

    pub fn families(&self) -> Families<'_> {
        let family = |name| self.db.cf_handle(name).expect("opened with every family");
        Families {
            envelope: family(schema::ENVELOPE),
            body: family(schema::BODY),
            job: family(schema::JOB),
            due: family(schema::DUE),
            stream: family(schema::STREAM),
        }
    }

    /// Options of a write that must survive a power cut. With `sync` off in the spool's options,
    /// which only a test sets, it does not.
    pub fn synced(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        options
    }

    pub fn count_in(&self, messages: u64, body_bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.body_bytes.fetch_add(body_bytes, Ordering::Relaxed);
    }

    pub fn count_out(&self, messages: u64, body_bytes: u64) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.body_bytes.fetch_sub(body_bytes, Ordering::Relaxed);
        self.removed_bytes.fetch_add(body_bytes, Ordering::Relaxed);
    }

    /// Bytes of bodies removed since `note_reclaimed`.
    pub fn removed_bytes(&self) -> u64 {
        self.removed_bytes.load(Ordering::Relaxed)
    }

    /// The room of so many of them was given back.
    pub fn note_reclaimed(&self, bytes: u64) {
        self.removed_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Puts the removal of a whole message into `batch`. Answers the bytes of its body, or `None`
    /// when there is no such message.
    pub fn remove_into(
        &self,
        id: MessageId,
        batch: &mut WriteBatch,
    ) -> Result<Option<u64>, QueueFault> {
        let families = self.families();
        let Some(record) = self.db.get_pinned_cf(families.envelope, key::of_id(id))? else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&record).map_err(QueueFault::Record)?;
        batch.single_delete_cf(families.envelope, key::of_id(id));
        for chunk in 0..envelope.body.chunks {
            batch.single_delete_cf(families.body, key::of_body(id, chunk));
        }
        let mut jobs = self.db.raw_iterator_cf(families.job);
        jobs.seek(key::of_id(id));
        while let Some((job_key, record)) = jobs.item() {
            let Some((owner, number)) = key::job_of(job_key) else { break };
            if owner != id {
                break;
            }
            batch.delete_cf(families.job, job_key);
            // A job that cannot be read has no schedule that could be known; recovery drops a
            // schedule entry without a job.
            if let Ok(job) = Job::decode(record) {
                batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
            }
            jobs.next();
        }
        jobs.status()?;
        Ok(Some(envelope.body.bytes))
    }

    /// Removes a whole message at once, by an operator's order, from any thread but a shard's.
    pub fn remove(&self, id: MessageId) -> Result<(), QueueFault> {
        if !self.is_writable() {
            return Err(QueueFault::ReadOnly);
        }
        let _one_at_a_time = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = WriteBatch::default();
        let body_bytes = self.remove_into(id, &mut batch)?.ok_or(QueueFault::Unknown)?;
        self.db.write_opt(batch, &self.synced())?;
        self.count_out(1, body_bytes);
        Ok(())
    }
}

fn open_for_reading(site: &PartitionSite) -> Result<DB, SpoolFault> {
    let options = site.database(LogRecovery::Strict);
    let families = options::families(&site.memory);
    DB::open_cf_descriptors_read_only(&options, site.path(), families, false)
        .map_err(|cause| SpoolFault::store(site.path(), cause.into_string()))
}

fn open_for_writing(
    site: &PartitionSite,
    found: &mut Recovered,
) -> Result<(DB, Depth), SpoolFault> {
    // An operator makes an empty folder when a partition is truly lost.
    if is_empty(&site.path())? {
        Partition::create(site)?;
    }
    let why = match open_as(site, LogRecovery::Strict) {
        Ok(db) => return Ok((db, Depth::Newest)),
        Err(cause) => damage_or_fault(site, cause)?,
    };
    let copies = copy_logs(site)?;
    mend_logs(site)?;
    match open_as(site, LogRecovery::Salvage) {
        Ok(db) => {
            found.tell(site, Notice::LogDamaged { partition: site.id, folder: copies, why });
            Ok((db, Depth::All))
        }
        Err(cause) => {
            let why = damage_or_fault(site, cause)?;
            // The whole folder is kept; copies of its log are not needed beside it.
            let _ = fs::remove_dir_all(copies);
            set_aside(site, why, found)?;
            let db = open_as(site, LogRecovery::Strict)
                .map_err(|cause| SpoolFault::store(site.path(), cause.into_string()))?;
            Ok((db, Depth::Newest))
        }
    }
}

fn open_as(site: &PartitionSite, recovery: LogRecovery) -> Result<DB, rocksdb::Error> {
    let families = options::families(&site.memory);
    DB::open_cf_descriptors(&site.database(recovery), site.path(), families)
}

/// Damage is answered with its text; everything else stops the start.
fn damage_or_fault(site: &PartitionSite, cause: rocksdb::Error) -> Result<String, SpoolFault> {
    let text = cause.into_string();
    if Cause::of(&text) == Cause::Damage {
        return Ok(text);
    }
    Err(SpoolFault::store(site.path(), text))
}

/// See `mend`; the copies stay as they are.
fn mend_logs(site: &PartitionSite) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(site.path(), cause);
    for entry in fs::read_dir(site.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_some_and(|end| end == "log") {
            mend(&path).map_err(|cause| SpoolFault::io(&path, cause))?;
        }
    }
    Ok(())
}

/// Copies the write-ahead log before it is read with holes, for RocksDB removes it afterwards.
fn copy_logs(site: &PartitionSite) -> Result<PathBuf, SpoolFault> {
    let copies = site.quarantine().join(format!("p{:02}-log-{}", site.id.0, site.now_ms));
    make_folder(&copies)?;
    let at = |cause| SpoolFault::io(&copies, cause);
    for entry in fs::read_dir(site.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if let Some(name) = path.file_name()
            && path.extension().is_some_and(|end| end == "log")
        {
            let copy = copies.join(name);
            fs::copy(&path, &copy).map_err(at)?;
            File::open(&copy).and_then(|file| file.sync_all()).map_err(at)?;
        }
    }
    sync_folder(&copies)?;
    sync_folder(&site.quarantine())?;
    Ok(copies)
}

/// Moves the folder to quarantine and makes an empty partition in its place.
fn set_aside(site: &PartitionSite, why: String, found: &mut Recovered) -> Result<(), SpoolFault> {
    let folder = site.quarantine().join(format!("p{:02}-{}", site.id.0, site.now_ms));
    fs::rename(site.path(), &folder).map_err(|cause| SpoolFault::io(site.path(), cause))?;
    sync_folder(&site.quarantine())?;
    // An empty folder is a partition to be made; should we die here, the next start makes it.
    make_folder(&site.path())?;
    sync_folder(&site.spool)?;
    found.tell(site, Notice::SetAside { partition: site.id, folder, why });
    Partition::create(site)
}

/// Makes a folder that only we may look into, or is content with one that is there.
pub fn make_folder(path: &Path) -> Result<(), SpoolFault> {
    use std::os::unix::fs::DirBuilderExt as _;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(|cause| SpoolFault::io(path, cause)),
    }
}

/// Makes names in a folder durable.
pub fn sync_folder(path: &Path) -> Result<(), SpoolFault> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| SpoolFault::io(path, cause))
}

fn is_empty(path: &Path) -> Result<bool, SpoolFault> {
    let mut entries = fs::read_dir(path).map_err(|cause| SpoolFault::io(path, cause))?;
    Ok(entries.next().is_none())
}
