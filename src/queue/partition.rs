//! One partition: one RocksDB database with its families, and the counts kept beside it.
//!
//! Owner:    shared as `Arc`: written by its commit thread (and by an operator's delete), read by
//!           anyone. RocksDB orders writers among themselves.
//! Promise:  damage never hides mail silently, and stops the start only where there is no room for
//!           repair 4. The first of these repairs that works is made and reported:
//!             1. the list of files (CURRENT, MANIFEST) is mended from its copy; see `manifest`
//!             2. a torn end of the manifest is cut off; see `manifest`
//!             3. the log is read with holes; see `mend`
//!             4. what can be read becomes a new database; see `rescue`
//!             5. the folder is moved to quarantine whole, and the partition starts empty
//!           Faults that another try may mend (permissions, a full disk, I/O) and databases that
//!           another version made stop the start, for moving mail away would not help.
//! Bounds:   what one flipped bit may cost: in a table one block of rows, or that table, for its
//!           index and foot; in a blob file one chunk, or the chunks of that file, for its head and
//!           foot; in the log one block of 32 KB, whose mail is missing and whose deliveries may be
//!           made again; in CURRENT, OPTIONS and the counts nothing; in MANIFEST nothing as far as
//!           its copy reaches, else the whole partition, which is then kept in quarantine.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rocksdb::ColumnFamily;
use rocksdb::ColumnFamilyDescriptor;
use rocksdb::DB;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;
use rocksdb::properties;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::limits::DEAD_BODY_BYTES_MAX;
use crate::queue::audit;
use crate::queue::copies::CopiedLedger;
use crate::queue::copies::Copies;
use crate::queue::copies::Counts;
use crate::queue::fault::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::jobs::Jobs;
use crate::queue::jobs::StoredJob;
use crate::queue::key;
use crate::queue::ledger::LEDGER_KEY;
use crate::queue::ledger::Ledger;
use crate::queue::ledger::MENDING_KEY;
use crate::queue::lost::Lost;
use crate::queue::manifest;
use crate::queue::mend::mend;
use crate::queue::notice::Notice;
use crate::queue::notice::OnNotice;
use crate::queue::options;
use crate::queue::options::LogRecovery;
use crate::queue::options::StoreMemory;
use crate::queue::points::point;
use crate::queue::quarantine;
use crate::queue::quarantine::Suspect;
use crate::queue::record::RecordFault;
use crate::queue::recover;
use crate::queue::recover::Depth;
use crate::queue::recover::Recovered;
use crate::queue::rescue;
use crate::queue::room::Room;
use crate::queue::schema;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::schema::Layout;
use crate::queue::spool::Access;
use crate::queue::unsettled::UnsettledCounts;

/// An open partition.
pub struct Partition {
    id: PartitionId,
    spool: SpoolNumber,
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
    ledger: Mutex<Counted>,
    /// What was known outside of the database before it was opened.
    known_outside: Ledger,
    copies: Copies,
    /// The next start reads everything.
    suspected: AtomicBool,
    unsettled: UnsettledCounts,
    /// Orders of operators, one at a time: two that remove the same message must not meet.
    operator: Mutex<()>,
}

/// The ledger, and its copy outside of the database.
#[derive(Default)]
struct Counted {
    ledger: Ledger,
    copy: Option<Counts>,
}

/// A message that is kept after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub until_ms: u64,
    pub id: MessageId,
}

/// The families, looked up once per batch.
#[derive(Clone, Copy)]
pub struct Families<'p> {
    pub envelope: &'p ColumnFamily,
    pub head: &'p ColumnFamily,
    pub body: &'p ColumnFamily,
    pub job: &'p ColumnFamily,
    pub due: &'p ColumnFamily,
    pub stream: &'p ColumnFamily,
    pub kept: &'p ColumnFamily,
    pub default: &'p ColumnFamily,
}

impl Families<'_> {
    /// Removes everything of a message but its jobs.
    pub fn remove_message(&self, batch: &mut WriteBatch, id: MessageId, envelope: &Envelope<'_>) {
        batch.single_delete_cf(self.envelope, key::of_id(id));
        batch.single_delete_cf(self.head, key::of_id(id));
        for chunk in 0..envelope.body.chunks {
            batch.single_delete_cf(self.body, key::of_body(id, chunk));
        }
        if let Some(until_ms) = envelope.kept_until_ms {
            batch.delete_cf(self.kept, key::of_kept(until_ms, id));
        }
    }
}

/// The record of a message, and that of one of its jobs.
pub type JobRecords = (Vec<u8>, Vec<u8>);

/// What `remove_into` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub body_bytes: u64,
    /// Recipients without a final state.
    pub recipients: u64,
    /// Not a message that was kept after its end.
    pub was_queued: bool,
}

/// What opening a partition needs to know.
#[derive(Clone)]
pub struct PartitionDestination {
    pub id: PartitionId,
    /// The spool's folder.
    pub spool: PathBuf,
    pub access: Access,
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

impl PartitionDestination {
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

/// The folder of what cannot be understood.
pub const QUARANTINE: &str = "quarantine";

impl Partition {
    /// Makes the database of a new partition; one that was made before is left as it is.
    pub fn create(destination: &PartitionDestination) -> Result<(), SpoolFault> {
        let path = destination.path();
        point("spool::before_partition");
        make_folder(&path)?;
        let mut options = destination.database(LogRecovery::Strict);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        DB::open_cf_descriptors(&options, &path, destination.families())
            .map_err(|cause| SpoolFault::store(&path, cause.into_string()))?;
        sync_folder(&destination.spool)?;
        point("spool::after_partition");
        Ok(())
    }

    /// Opens the partition and, when it may be written, repairs what a crash or damage left.
    pub fn open(destination: &PartitionDestination) -> Result<(Partition, Recovered), SpoolFault> {
        let path = destination.path();
        if !path.is_dir() {
            return Err(SpoolFault::PartitionMissing { path });
        }
        let mut found = Recovered::default();
        let copies = destination.copies();
        let counted = copies.counted().map_err(|cause| SpoolFault::io(copies.folder(), cause))?;
        let (partition, depth, lost) = match destination.access {
            Access::Inspect => (
                Partition::over(destination, open_for_reading(destination)?, counted),
                Depth::Look,
                Lost::default(),
            ),
            Access::Serve => open_for_writing(destination, counted, &mut found)?,
        };
        let (mut partition, depth, lost) =
            match recover::run(&partition, destination, depth, lost, &mut found) {
                Ok(()) => (partition, depth, lost),
                Err(QueueFault::Store(why)) if is_damage(&partition, &why) => {
                    // It cannot be read in part and written at the same time.
                    drop(partition);
                    found.forget_counts();
                    let (db, depth, more) = rescue_or_set_aside(destination, why, &mut found)?;
                    let lost = lost.union(more);
                    let partition = Partition::over(destination, db, counted);
                    recover::run(&partition, destination, depth, lost, &mut found)
                        .map_err(|fault| stopped(destination, fault))?;
                    (partition, depth, lost)
                }
                Err(fault) => return Err(stopped(destination, fault)),
            };
        let ledger = partition.open_ledger(destination, (counted, lost), &mut found)?;
        if depth == Depth::All && found.not_moved == 0 {
            // Everything was looked at; a suspicion of the last moment is kept.
            let cleared = partition.copies.clear_suspicion();
            cleared.map_err(|cause| SpoolFault::io(partition.copies.folder(), cause))?;
        }
        let given = (ledger.newest > 0).then(|| MessageId::from_u64(ledger.newest));
        partition.newest = found.newest.max(given);
        partition.quarantined = found.quarantined;
        partition.messages = AtomicU64::new(found.messages);
        partition.body_bytes = AtomicU64::new(found.body_bytes);
        Ok((partition, found))
    }

    fn over(destination: &PartitionDestination, db: DB, counted: CopiedLedger) -> Partition {
        Partition {
            id: destination.id,
            spool: destination.number,
            path: destination.path(),
            db,
            access: destination.access,
            sync: destination.sync,
            newest: None,
            messages: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            // What was removed by an earlier process may take room still: nobody has noted it.
            removed_bytes: AtomicU64::new(DEAD_BODY_BYTES_MAX),
            quarantined: 0,
            failure: OnceLock::new(),
            ledger: Mutex::default(),
            known_outside: counted.ledger(),
            copies: destination.copies(),
            suspected: AtomicBool::new(false),
            unsettled: UnsettledCounts::new(Instant::now()),
            operator: Mutex::new(()),
        }
    }

    /// What an earlier start knew to be lost, and has not come to the end of.
    fn known_lost(&self) -> Result<Lost, rocksdb::Error> {
        let mending = self.db.get_pinned_cf(self.families().default, MENDING_KEY)?;
        Ok(mending.map_or(Lost::default(), |value| Lost::from_bytes(&value)))
    }

    /// Whether the counts outside of the database know of more than its own ledger. They are
    /// written after the batch that they count, so that a sound database is never behind them.
    fn is_behind_its_counts(&self) -> bool {
        let stored = self.db.get_pinned_cf(self.families().default, LEDGER_KEY);
        let stored = stored.ok().flatten().and_then(|record| Ledger::decode(&record).ok());
        let inside = stored.unwrap_or_default();
        inside.or_more(&self.known_outside) != inside
    }

    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The number of the spool that it belongs to.
    pub fn spool(&self) -> SpoolNumber {
        self.spool
    }

    /// How a message of this partition is called outside the spool.
    pub fn public_id(&self, id: MessageId) -> PublicId {
        PublicId { local: id, spool: self.spool }
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

    /// Bytes of all stored bodies, also of messages that are kept after their end.
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
            head: family(schema::HEAD),
            body: family(schema::BODY),
            job: family(schema::JOB),
            due: family(schema::DUE),
            stream: family(schema::STREAM),
            kept: family(schema::KEPT),
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
        self.counted().ledger
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a write that succeeded has counted.
    pub fn set_ledger(&self, ledger: Ledger) {
        let mut counted = self.counted();
        let changed = counted.ledger != ledger;
        counted.ledger = ledger;
        if changed && let Some(copy) = &mut counted.copy {
            // The copy is behind until the next write; the database has the counts.
            let _ = copy.write(&ledger);
        }
    }

    /// What was known of the ledger outside of the database before it was opened.
    pub fn known_outside(&self) -> Ledger {
        self.known_outside
    }

    /// Something in the database cannot be read: the next start looks at all of it. May block.
    pub fn note_unreadable(&self, why: &str) {
        if self.is_writable() && !self.suspected.swap(true, Ordering::Relaxed) {
            // Then the next start finds only what it meets.
            let _ = self.copies.suspect(why);
        }
    }

    /// Brings the copy of the list of files up to date. Costs one look at a file when there is
    /// nothing to do.
    pub fn copy_list(&self) -> io::Result<()> {
        if self.is_writable() { manifest::copy(&self.path, &self.copies) } else { Ok(()) }
    }

    /// Reads the ledger. What is known outside of the database counts where that is behind. Where
    /// mail was moved out, is missing or has come back, the ledger is brought in line with what is
    /// there, on disk too: the next start has nothing to tell, but the quarantine keeps a record.
    fn open_ledger(
        &self,
        destination: &PartitionDestination,
        (counted, lost): (CopiedLedger, Lost),
        found: &mut Recovered,
    ) -> Result<Ledger, SpoolFault> {
        let at = |cause: rocksdb::Error| SpoolFault::store(&self.path, cause.into_string());
        let default = self.families().default;
        let stored = self.db.get_pinned_cf(default, LEDGER_KEY).map_err(at)?;
        let mut unreadable = |why: String| {
            let family = schema::DEFAULT;
            found.tell(destination, Notice::Unreadable { partition: destination.id, family, why });
        };
        let known = stored.as_deref().map(Ledger::decode).transpose().unwrap_or_else(|fault| {
            unreadable(format!("the ledger is unreadable, its copy is used: {fault}"));
            None
        });
        if counted == CopiedLedger::Unreadable {
            unreadable("the copy of the ledger cannot be read".to_owned());
        }
        let inside = known.unwrap_or_default();
        let mut ledger = inside.or_more(&self.known_outside);
        if self.is_writable() {
            let mending = self.db.get_pinned_cf(default, MENDING_KEY).map_err(at)?.is_some();
            // Only what was told may be brought in line: otherwise the audit could not fail.
            if known.is_none() || mending || ledger != inside || !found.notices.is_empty() {
                let queued = audit::queued(self).map_err(at)?.recipients;
                // A ledger that belongs to the mail beside it tells how many ends were lost with it.
                let ends = match known.is_some() && !lost.includes(schema::DEFAULT) {
                    true => ledger.ended.total() - inside.ended.total(),
                    false => 0,
                };
                let (missing, returned) = ledger.bring_in_line(queued, ends);
                tell_miscount(destination, (missing, returned), found)?;
            }
            if mending || inside != ledger || known.is_some() != stored.is_some() {
                let mut batch = WriteBatch::default();
                batch.put_cf(default, LEDGER_KEY, ledger.encode());
                if found.not_moved == 0 {
                    batch.delete_cf(default, MENDING_KEY);
                }
                self.write(batch).map_err(at)?;
            }
            let counts = self.copies.keep_counts(&ledger);
            let counts = counts.map(|copy| self.counted().copy = Some(copy));
            // Without copies mail is as safe as before; only its loss would be harder to see. The
            // list of files was written anew when the database was opened.
            for cause in [counts.err(), self.copy_list().err()].into_iter().flatten() {
                let notice =
                    Notice::NotCopied { partition: destination.id, why: cause.to_string() };
                found.tell(destination, notice);
            }
        }
        self.counted().ledger = ledger;
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
        if let Err(cause) = entries.status() {
            self.note_unreadable(cause.as_ref());
            if Cause::of(cause.as_ref()) == Cause::Damage {
                // Nothing behind it would ever be due. The next start rescues what can be read.
                self.set_failure(cause.to_string());
            }
            return Err(cause.into());
        }
        Ok(rows)
    }

    /// The records of a message and of one of its jobs.
    pub fn read_job(&self, id: MessageId, number: u16) -> Result<Option<JobRecords>, QueueFault> {
        let families = self.families();
        let read = || {
            let job = self.db.get_cf(families.job, key::of_job(id, number))?;
            let envelope = self.db.get_cf(families.envelope, key::of_id(id))?;
            Ok(envelope.zip(job))
        };
        read().map_err(|cause: rocksdb::Error| {
            self.note_unreadable(cause.as_ref());
            cause.into()
        })
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
    /// when there is no such message. With a fault the batch is as it was.
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
        let mut recipients = 0;
        for StoredJob { number, record } in Jobs::of(self, id).collect()? {
            batch.delete_cf(families.job, key::of_job(id, number));
            // A job that cannot be read has no schedule that could be known; recovery drops a
            // schedule entry without a job.
            if let Ok(job) = Job::decode(&record) {
                recipients += job.recipients.iter().count() as u64;
                batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
            }
        }
        families.remove_message(batch, id, &envelope);
        let was_queued = envelope.kept_until_ms.is_none();
        Ok(Some(Removed { body_bytes: envelope.body.bytes, recipients, was_queued }))
    }

    /// Messages that were kept until `until_ms` or earlier, the earliest first. Each is removed like
    /// any other message.
    pub fn kept(&self, until_ms: u64, max: usize) -> Result<Vec<Kept>, QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(until_ms.saturating_add(1).to_be_bytes());
        let mut rows = self.db.raw_iterator_cf_opt(self.families().kept, bounds);
        let mut kept = Vec::new();
        rows.seek_to_first();
        while let Some(row) = rows.key().filter(|_| kept.len() < max) {
            kept.extend(key::kept_of(row).map(|(until_ms, id)| Kept { until_ms, id }));
            rows.next();
        }
        rows.status()?;
        Ok(kept)
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
        ledger.ended.cancelled += removed.recipients;
        batch.put_cf(self.families().default, LEDGER_KEY, ledger.encode());
        self.write(batch)?;
        self.set_ledger(ledger);
        self.count_out(u64::from(removed.was_queued), removed.body_bytes);
        Ok(())
    }
}

/// Tells how many recipients are missing beyond those that were moved to quarantine with their
/// records, or are back, and leaves a record there: until someone removes it, the audit is not clean.
fn tell_miscount(
    destination: &PartitionDestination,
    (missing, returned): (u64, u64),
    found: &mut Recovered,
) -> Result<(), SpoolFault> {
    let partition = destination.id;
    let missing = missing.saturating_sub(found.recipients_moved);
    if missing + returned == 0 {
        return Ok(());
    }
    let notice = Notice::Miscounted { partition, missing, returned };
    let (why, folder) = (notice.to_string(), destination.quarantine());
    let (key, now_ms) = (&destination.now_ms.to_be_bytes(), destination.now_ms);
    let suspect = Suspect { partition, family: "recipients", key, why: &why, now_ms };
    quarantine::keep(&folder, &suspect, |_| Ok(0)).map_err(|c| SpoolFault::io(&folder, c))?;
    found.quarantined += 1;
    found.tell(destination, notice);
    Ok(())
}

impl Drop for Partition {
    fn drop(&mut self) {
        // The copy is behind by what was written since the last look at it; mail is not.
        let _ = self.copy_list();
    }
}

fn open_for_reading(destination: &PartitionDestination) -> Result<DB, SpoolFault> {
    let options = destination.database(LogRecovery::Strict);
    let families = destination.families();
    DB::open_cf_descriptors_read_only(&options, destination.path(), families, false)
        .map_err(|cause| SpoolFault::store(destination.path(), cause.into_string()))
}

/// Opens the database, by way of whatever repair that takes, and says how far recovery must look.
fn open_for_writing(
    destination: &PartitionDestination,
    counted: CopiedLedger,
    found: &mut Recovered,
) -> Result<(Partition, Depth, Lost), SpoolFault> {
    let (db, depth, lost) = open_database(destination, found)?;
    let partition = Partition::over(destination, db, counted);
    let suspected = partition.copies.suspicion().is_some();
    // A ledger that cannot be read is met again, and dealt with, by recovery.
    let mut lost = lost.union(partition.known_lost().unwrap_or_default());
    if partition.is_behind_its_counts() {
        // A log that was cut short looks like one with a torn end, but batches are missing.
        lost = lost.union(Lost::BATCHES);
    }
    let depth = if suspected || lost.any() { Depth::All } else { depth };
    Ok((partition, depth, lost))
}

fn open_database(
    destination: &PartitionDestination,
    found: &mut Recovered,
) -> Result<(DB, Depth, Lost), SpoolFault> {
    // An operator makes an empty folder when a partition is truly lost.
    if is_empty(&destination.path())? {
        manifest::forget(&destination.copies())
            .map_err(|cause| SpoolFault::io(destination.path(), cause))?;
        Partition::create(destination)?;
    }
    mend_list(destination, found)?;
    // What a compaction met no reader may ever meet, so it is not looked for.
    let met = destination.copies().suspicion();
    if let Some(why) =
        met.filter(|why| Cause::of(why) == Cause::Damage && recover::is_of_table(why))
    {
        return rescue_or_set_aside(destination, why, found);
    }
    let adding = check_families(destination)?;
    let open_as = |recovery| open_as(destination, recovery, adding);
    let sound = |db| Ok((db, Depth::Newest, Lost::default()));
    let why = match open_as(LogRecovery::Strict) {
        Ok(db) => return sound(db),
        Err(cause) => damage_or_fault(destination, cause)?,
    };
    let copies = copy_logs(destination, "log")?;
    let manifest = cut_torn_end(destination, &copies)?;
    let torn = Notice::ManifestTorn {
        partition: destination.id,
        folder: copies.clone(),
        why: why.clone(),
    };
    let why = match manifest.is_some().then(|| open_as(LogRecovery::Strict)) {
        None => why,
        Some(Ok(db)) => {
            found.tell(destination, torn);
            return sound(db);
        }
        Some(Err(cause)) => damage_or_fault(destination, cause)?,
    };
    mend_logs(destination)?;
    match open_as(LogRecovery::Salvage) {
        Ok(db) => {
            if manifest.is_some() {
                found.tell(destination, torn);
            }
            found.quarantined += 1;
            found.tell(
                destination,
                Notice::LogDamaged { partition: destination.id, folder: copies, why },
            );
            Ok((db, Depth::All, Lost::BATCHES))
        }
        Err(cause) => {
            let why = damage_or_fault(destination, cause)?;
            put_back(destination, &copies)?;
            // The whole folder is kept; copies of its log are not needed beside it.
            let _ = fs::remove_dir_all(copies);
            rescue_or_set_aside(destination, why, found)
        }
    }
}

/// Makes a sound database of what can be read, or an empty one where nothing can.
fn rescue_or_set_aside(
    destination: &PartitionDestination,
    why: String,
    found: &mut Recovered,
) -> Result<(DB, Depth, Lost), SpoolFault> {
    let rescued = rescue::rescue(destination, &why, found)?;
    if rescued.is_none() {
        set_aside(destination, why, found)?;
    }
    let copies = destination.copies();
    copies.clear_suspicion().map_err(|cause| SpoolFault::io(copies.folder(), cause))?;
    let db = open_as(destination, LogRecovery::Strict, Adding::Nothing)
        .map_err(|cause| SpoolFault::store(destination.path(), cause.into_string()))?;
    Ok((db, Depth::All, rescued.unwrap_or_default()))
}

fn is_damage(partition: &Partition, why: &str) -> bool {
    partition.is_writable() && Cause::of(why) == Cause::Damage
}

/// The fault of a start that recovery could not bring to its end.
fn stopped(destination: &PartitionDestination, fault: QueueFault) -> SpoolFault {
    match fault {
        QueueFault::Store(cause) => SpoolFault::store(destination.path(), cause),
        QueueFault::Record(fault @ RecordFault::Version(_)) => {
            SpoolFault::Foreign { path: destination.path(), cause: fault.to_string() }
        }
        other => SpoolFault::Store { path: destination.path(), cause: other.to_string() },
    }
}

/// Puts the list of files right before RocksDB reads it; see `manifest`.
fn mend_list(destination: &PartitionDestination, found: &mut Recovered) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(destination.path(), cause);
    let Some(mended) = manifest::mended(&destination.path(), &destination.copies()).map_err(at)?
    else {
        return Ok(());
    };
    let folder = copy_logs(destination, "list")?;
    if mended.is_cut && !keep_tables(destination, &folder)? {
        return Ok(());
    }
    mended.put(&destination.path()).map_err(at)?;
    found.quarantined += 1;
    let (partition, why) = (destination.id, mended.why.to_owned());
    found.tell(destination, Notice::ManifestMended { partition, folder, why });
    Ok(())
}

/// See `manifest`. Answers which one was cut; a copy of it as it was is in `copies`.
fn cut_torn_end(
    destination: &PartitionDestination,
    copies: &Path,
) -> Result<Option<PathBuf>, SpoolFault> {
    let Some(path) = manifest::current(&destination.path()) else { return Ok(None) };
    let at = |cause| SpoolFault::io(&path, cause);
    let Some(end) = manifest::torn_at(&fs::read(&path).map_err(at)?) else { return Ok(None) };
    if !keep_tables(destination, copies)? {
        return Ok(None);
    }
    manifest::cut(&path, end).map_err(at)?;
    Ok(Some(path))
}

/// Gives all tables a second name in `copies`. `false`: the file system has no second names (EPERM),
/// and what cannot be kept must not be risked.
fn keep_tables(destination: &PartitionDestination, copies: &Path) -> Result<bool, SpoolFault> {
    match manifest::keep_tables(&destination.path(), copies) {
        Ok(()) => sync_folder(copies).map(|()| true),
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(false)
        }
        Err(cause) => Err(SpoolFault::io(copies, cause)),
    }
}

/// Whether opening may add families to a database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Adding {
    Nothing,
    Families,
}

/// Refuses a database with other families than ours before RocksDB changes anything in it. One may
/// lack what later formats have brought; a list of files that was cut short lacks others, and adding
/// those would drop their tables.
fn check_families(destination: &PartitionDestination) -> Result<Adding, SpoolFault> {
    let listed = DB::list_cf(&destination.database(LogRecovery::Strict), destination.path());
    // A list that cannot be read, in part or at all, is damage, and met again.
    let Ok(names) = listed else { return Ok(Adding::Nothing) };
    let known = destination.layout.families;
    let old = destination.layout.families_of(destination.format);
    let is_ours = names.iter().all(|name| known.contains(&name.as_str()));
    let has = |family: &&str| names.iter().any(|name| name == family);
    if (is_ours && known.iter().all(has)) || !manifest::is_sound(&destination.path()) {
        return Ok(Adding::Nothing);
    }
    // Without tables, a start that made the partition died at it.
    if is_ours && (old.iter().all(has) || !has_tables(&destination.path())?) {
        return Ok(Adding::Families);
    }
    let cause = format!("it has the column families {}", names.join(", "));
    Err(SpoolFault::Foreign { path: destination.path(), cause })
}

/// Manifest and logs as they were found: mending them has not helped. Each is whole under its name
/// before the next: a kill or a power cut in between leaves the old file or the new one.
fn put_back(destination: &PartitionDestination, copies: &Path) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(copies, cause);
    let fresh = destination.spool.join(format!("p{:02}.part", destination.id.0));
    for entry in fs::read_dir(copies).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let is_table = |end: &std::ffi::OsStr| end == "sst" || end == "blob";
        if !Path::new(&name).extension().is_some_and(is_table) {
            fs::copy(entry.path(), &fresh).map_err(at)?;
            File::open(&fresh).and_then(|file| file.sync_all()).map_err(at)?;
            fs::rename(&fresh, destination.path().join(name)).map_err(at)?;
        }
    }
    sync_folder(&destination.path())
}

fn open_as(
    destination: &PartitionDestination,
    recovery: LogRecovery,
    adding: Adding,
) -> Result<DB, rocksdb::Error> {
    let mut options = destination.database(recovery);
    options.create_missing_column_families(adding == Adding::Families);
    DB::open_cf_descriptors(&options, destination.path(), destination.families())
}

/// Damage is answered with its text; everything else stops the start.
fn damage_or_fault(
    destination: &PartitionDestination,
    cause: rocksdb::Error,
) -> Result<String, SpoolFault> {
    let text = cause.into_string();
    match is_damaged(&destination.path(), &text) {
        true => Ok(text),
        false => Err(SpoolFault::store(destination.path(), text)),
    }
}

/// Whether a database in that folder does not open because of damage. A list of files that is cut
/// short may lack families, and then looks like one of another version.
pub fn is_damaged(folder: &Path, why: &str) -> bool {
    match Cause::of(why) {
        Cause::Damage => true,
        Cause::Foreign => !manifest::is_sound(folder),
        _ => false,
    }
}

/// See `mend`; the copies stay as they are.
fn mend_logs(destination: &PartitionDestination) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(destination.path(), cause);
    for entry in fs::read_dir(destination.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_some_and(|end| end == "log") {
            mend(&path).map_err(|cause| SpoolFault::io(&path, cause))?;
        }
    }
    Ok(())
}

/// Copies the write-ahead log and the manifest before they are mended or read with holes, for
/// RocksDB removes them afterwards.
fn copy_logs(destination: &PartitionDestination, what: &str) -> Result<PathBuf, SpoolFault> {
    let copies = destination
        .quarantine()
        .join(format!("p{:02}-{what}-{}", destination.id.0, destination.now_ms));
    make_folder(&copies)?;
    let at = |cause| SpoolFault::io(&copies, cause);
    for entry in fs::read_dir(destination.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if let Some(name) = path.file_name()
            && (path.extension().is_some_and(|end| end == "log") || manifest::is_part(name))
        {
            let copy = copies.join(name);
            fs::copy(&path, &copy).map_err(at)?;
            File::open(&copy).and_then(|file| file.sync_all()).map_err(at)?;
        }
    }
    sync_folder(&copies)?;
    sync_folder(&destination.quarantine())?;
    Ok(copies)
}

/// Moves the folder to quarantine and makes an empty partition in its place.
fn set_aside(
    destination: &PartitionDestination,
    why: String,
    found: &mut Recovered,
) -> Result<(), SpoolFault> {
    let folder = rescue::move_aside(destination)?;
    // An empty folder is a partition to be made; should we die here, the next start makes it.
    make_folder(&destination.path())?;
    sync_folder(&destination.spool)?;
    found.quarantined += 1;
    found.tell(destination, Notice::SetAside { partition: destination.id, folder, why });
    Partition::create(destination)
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

fn has_tables(path: &Path) -> Result<bool, SpoolFault> {
    for entry in fs::read_dir(path).map_err(|cause| SpoolFault::io(path, cause))? {
        let name = entry.map_err(|cause| SpoolFault::io(path, cause))?.file_name();
        if Path::new(&name).extension().is_some_and(|end| end == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_empty(path: &Path) -> Result<bool, SpoolFault> {
    let mut entries = fs::read_dir(path).map_err(|cause| SpoolFault::io(path, cause))?;
    Ok(entries.next().is_none())
}
