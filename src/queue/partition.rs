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
use std::time::Instant;

use rocksdb::ColumnFamily;
use rocksdb::DB;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;
use rocksdb::properties;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::limits::DEAD_BODY_BYTES_MAX;
use crate::queue::audit;
use crate::queue::fault::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::key;
use crate::queue::ledger::LEDGER_KEY;
use crate::queue::ledger::Ledger;
use crate::queue::ledger::MENDING_KEY;
use crate::queue::manifest;
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
use crate::queue::room::Room;
use crate::queue::schema;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::spool::Access;
use crate::queue::unsettled::UnsettledCounts;

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
    /// Bytes of bodies removed that no `reclaim` has looked for yet.
    removed_bytes: AtomicU64,
    quarantined: u64,
    /// Why the partition takes no more mail; set once.
    failure: OnceLock<String>,
    /// What was counted by the last write that succeeded.
    ledger: Mutex<Ledger>,
    unsettled: UnsettledCounts,
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
    pub default: &'p ColumnFamily,
}

/// The record of a message, and that of one of its jobs.
pub type JobRecords = (Vec<u8>, Vec<u8>);

/// What `remove_into` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub body_bytes: u64,
    /// Recipients that had no end yet.
    pub recipients: u64,
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
            // What was removed by an earlier process may take room still: nobody has noted it.
            removed_bytes: AtomicU64::new(DEAD_BODY_BYTES_MAX),
            quarantined: 0,
            failure: OnceLock::new(),
            ledger: Mutex::default(),
            unsettled: UnsettledCounts::new(Instant::now()),
            operator: Mutex::new(()),
        };
        recover::run(&partition, site, depth, &mut found)?;
        let ledger = partition
            .open_ledger(site, &mut found)
            .map_err(|cause| SpoolFault::store(partition.path(), cause.into_string()))?;
        let given = (ledger.newest > 0).then(|| MessageId::from_u64(ledger.newest));
        partition.newest = found.newest.max(given);
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

    /// Deliveries that a crash would repeat.
    pub(in crate::queue) fn unsettled(&self) -> &UnsettledCounts {
        &self.unsettled
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
            default: family(schema::DEFAULT),
        }
    }

    /// Options of a write that must survive a power cut. With `sync` off in the spool's options,
    /// which only a test sets, it does not.
    pub fn synced(&self) -> WriteOptions {
        let mut options = self.unsynced();
        options.set_sync(self.sync);
        options
    }

    /// Options of every other write. None of them waits within RocksDB: see `Room`.
    pub fn unsynced(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_no_slowdown(true);
        options
    }

    /// Writes one small batch, durably.
    pub fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut room = Room::of(self);
        loop {
            let again = WriteBatch::from_data(batch.data());
            match self.db.write_opt(again, &self.synced()) {
                Err(cause) if room.may_come_after(self, cause.as_ref()) => (),
                done => return done,
            }
        }
    }

    /// Errors of flushes and compactions so far. RocksDB counts those of all families in one.
    pub fn background_errors(&self) -> u64 {
        let found = self.db.property_int_value(properties::BACKGROUND_ERRORS);
        found.ok().flatten().unwrap_or(0)
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

    /// Recipients taken, and what became of them.
    pub fn ledger(&self) -> Ledger {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a write that succeeded has counted.
    pub fn set_ledger(&self, ledger: Ledger) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = ledger;
    }

    /// Reads the ledger. Where recovery has moved mail out, or there is none that can be read, it
    /// is brought in line with what is there, on disk too: the next start has nothing to tell.
    fn open_ledger(
        &self,
        site: &PartitionSite,
        found: &mut Recovered,
    ) -> Result<Ledger, rocksdb::Error> {
        let default = self.families().default;
        let stored = self.db.get_pinned_cf(default, LEDGER_KEY)?;
        let known = stored.as_deref().map(Ledger::decode).transpose().unwrap_or_else(|fault| {
            let why = format!("the ledger is counted anew: {fault}");
            let family = schema::DEFAULT;
            found.tell(site, Notice::Unreadable { partition: site.id, family, why });
            None
        });
        let mut ledger = known.unwrap_or_default();
        if self.is_writable() {
            let mending = self.db.get_pinned_cf(default, MENDING_KEY)?.is_some();
            // Only what was told may be brought in line: otherwise the audit could not fail.
            if known.is_none() || mending || !found.notices.is_empty() {
                ledger.bring_in_line(audit::queued(self)?.recipients);
            }
            if mending || known.unwrap_or_default() != ledger || known.is_some() != stored.is_some()
            {
                let mut batch = WriteBatch::default();
                batch.put_cf(default, LEDGER_KEY, ledger.encode());
                batch.delete_cf(default, MENDING_KEY);
                self.write(batch)?;
            }
        }
        self.set_ledger(ledger);
        Ok(ledger)
    }

    /// Bytes of bodies removed since `note_reclaimed`, and more after a start.
    pub fn removed_bytes(&self) -> u64 {
        self.removed_bytes.load(Ordering::Relaxed)
    }

    /// So many of them were looked for.
    pub fn note_reclaimed(&self, bytes: u64) {
        self.removed_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Entries of the schedule behind `after` that are due by `until_ms`, the earliest first.
    pub fn due(
        &self,
        after: Option<(u64, MessageId, u16)>,
        until_ms: u64,
        max: usize,
    ) -> Result<Vec<(u64, MessageId, u16)>, QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(until_ms.saturating_add(1).to_be_bytes());
        let mut entries = self.db.raw_iterator_cf_opt(self.families().due, bounds);
        match after {
            Some((due_ms, id, job)) => {
                let key = key::of_due(due_ms, id, job);
                entries.seek(key);
                if entries.key() == Some(&key[..]) {
                    entries.next();
                }
            }
            None => entries.seek_to_first(),
        }
        let mut rows = Vec::new();
        while let Some(entry) = entries.key() {
            rows.extend(key::due_of(entry));
            if rows.len() >= max {
                break;
            }
            entries.next();
        }
        entries.status()?;
        Ok(rows)
    }

    /// The records of a message and of one of its jobs.
    pub fn read_job(&self, id: MessageId, number: u16) -> Result<Option<JobRecords>, QueueFault> {
        let families = self.families();
        let job = self.db.get_cf(families.job, key::of_job(id, number))?;
        let envelope = self.db.get_cf(families.envelope, key::of_id(id))?;
        Ok(envelope.zip(job))
    }

    /// Numbers that no job of the message has, at most `wanted`: those behind the largest, and when
    /// they run out those of jobs that have ended. Never 0, which says that nothing was split yet.
    pub fn free_job_numbers(&self, id: MessageId, wanted: usize) -> Result<Vec<u16>, QueueFault> {
        let mut jobs = self.db.raw_iterator_cf(self.families().job);
        let own = |(owner, number): (MessageId, u16)| (owner == id).then_some(number);
        jobs.seek_for_prev(key::of_job(id, u16::MAX));
        let last = jobs.key().and_then(key::job_of).and_then(own).unwrap_or(0);
        jobs.status()?;
        let mut free: Vec<u16> = (last..=u16::MAX).skip(1).take(wanted).collect();
        let mut next = 1;
        jobs.seek(key::of_job(id, next));
        while free.len() < wanted
            && let Some(used) = jobs.key().and_then(key::job_of).and_then(own)
        {
            free.extend((next..used).take(wanted - free.len()));
            next = used.saturating_add(1);
            jobs.next();
        }
        jobs.status()?;
        Ok(free)
    }

    /// Puts the removal of a whole message into `batch`. Answers the bytes of its body, or `None`
    /// when there is no such message.
    pub fn remove_into(
        &self,
        id: MessageId,
        batch: &mut WriteBatch,
    ) -> Result<Option<Removed>, QueueFault> {
        let families = self.families();
        let Some(record) = self.db.get_pinned_cf(families.envelope, key::of_id(id))? else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&record).map_err(QueueFault::Record)?;
        batch.single_delete_cf(families.envelope, key::of_id(id));
        for chunk in 0..envelope.body.chunks {
            batch.single_delete_cf(families.body, key::of_body(id, chunk));
        }
        let mut recipients = 0;
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
                recipients += job.recipients.iter().count() as u64;
                batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
            }
            jobs.next();
        }
        jobs.status()?;
        Ok(Some(Removed { body_bytes: envelope.body.bytes, recipients }))
    }

    /// Removes a whole message at once, by an operator's order, from any thread but a shard's.
    pub fn remove(&self, id: MessageId) -> Result<(), QueueFault> {
        if !self.is_writable() {
            return Err(QueueFault::ReadOnly);
        }
        let _one_at_a_time = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = WriteBatch::default();
        let removed = self.remove_into(id, &mut batch)?.ok_or(QueueFault::Unknown)?;
        let mut ledger = self.ledger();
        ledger.ended.deleted += removed.recipients;
        batch.put_cf(self.families().default, LEDGER_KEY, ledger.encode());
        self.write(batch)?;
        self.set_ledger(ledger);
        self.count_out(1, removed.body_bytes);
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
    let manifest = cut_torn_end(site, &copies)?;
    let torn =
        Notice::ManifestTorn { partition: site.id, folder: copies.clone(), why: why.clone() };
    let why = match manifest.is_some().then(|| open_as(site, LogRecovery::Strict)) {
        None => why,
        Some(Ok(db)) => {
            found.tell(site, torn);
            return Ok((db, Depth::Newest));
        }
        Some(Err(cause)) => damage_or_fault(site, cause)?,
    };
    mend_logs(site)?;
    match open_as(site, LogRecovery::Salvage) {
        Ok(db) => {
            if manifest.is_some() {
                found.tell(site, torn);
            }
            found.tell(site, Notice::LogDamaged { partition: site.id, folder: copies, why });
            Ok((db, Depth::All))
        }
        Err(cause) => {
            let why = damage_or_fault(site, cause)?;
            if let Some(manifest) = manifest {
                put_back(&manifest, &copies)?;
            }
            // The whole folder is kept; copies of its log are not needed beside it.
            let _ = fs::remove_dir_all(copies);
            set_aside(site, why, found)?;
            let db = open_as(site, LogRecovery::Strict)
                .map_err(|cause| SpoolFault::store(site.path(), cause.into_string()))?;
            Ok((db, Depth::Newest))
        }
    }
}

/// See `manifest`. Answers which one was cut; a copy of it as it was is in `copies`.
fn cut_torn_end(site: &PartitionSite, copies: &Path) -> Result<Option<PathBuf>, SpoolFault> {
    let Some(path) = manifest::current(&site.path()) else { return Ok(None) };
    let at = |cause| SpoolFault::io(&path, cause);
    let Some(end) = manifest::torn_at(&fs::read(&path).map_err(at)?) else { return Ok(None) };
    match manifest::keep_tables(&site.path(), copies) {
        Ok(()) => sync_folder(copies)?,
        // A file system without second names (EPERM): what cannot be kept is not risked.
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            return Ok(None);
        }
        Err(cause) => return Err(SpoolFault::io(copies, cause)),
    }
    manifest::cut(&path, end).map_err(at)?;
    Ok(Some(path))
}

/// The manifest as it was found: cutting it has not helped.
fn put_back(manifest: &Path, copies: &Path) -> Result<(), SpoolFault> {
    let Some(name) = manifest.file_name() else { return Ok(()) };
    let copied = fs::copy(copies.join(name), manifest);
    copied.map(drop).map_err(|cause| SpoolFault::io(manifest, cause))
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

/// Copies the write-ahead log and the manifest before they are mended or read with holes, for
/// RocksDB removes them afterwards.
fn copy_logs(site: &PartitionSite) -> Result<PathBuf, SpoolFault> {
    let copies = site.quarantine().join(format!("p{:02}-log-{}", site.id.0, site.now_ms));
    make_folder(&copies)?;
    let at = |cause| SpoolFault::io(&copies, cause);
    let manifest = manifest::current(&site.path());
    for entry in fs::read_dir(site.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if let Some(name) = path.file_name()
            && (path.extension().is_some_and(|end| end == "log")
                || Some(&path) == manifest.as_ref())
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
