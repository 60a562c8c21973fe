//! An open partition: one RocksDB database, and the counts kept beside it.
//!
//! Owner:    shared as `Arc`: written by its commit thread (and by an operator's removal), read by
//!           any thread. RocksDB orders writers among themselves. See `repair` for how it is opened.

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

use rocksdb::DB;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::limits::DEAD_BODY_BYTES_MAX;
use crate::queue::record::ledger::Ledger;
use crate::queue::store::copies::CopiedLedger;
use crate::queue::store::copies::Copies;
use crate::queue::store::copies::Counts;
use crate::queue::store::families::Families;
use crate::queue::store::manifest;
use crate::queue::store::room::Room;
use crate::queue::store::room::background_errors;
use crate::queue::store::spec::Access;
use crate::queue::store::spec::PartitionSpec;
use crate::queue::store::unsettled_counts::UnsettledCounts;

/// In the family `default`.
const FILED_UNDER_KEY: &[u8] = b"filed-under";

/// An open partition.
pub struct Partition {
    id: PartitionId,
    spool: SpoolNumber,
    path: PathBuf,
    db: DB,
    access: Access,
    sync: bool,
    /// What the start found.
    start: PartitionStart,
    messages: AtomicU64,
    body_bytes: AtomicU64,
    /// Bytes of removed bodies that no `reclaim` has looked for yet.
    removed_bytes: AtomicU64,
    /// Why the partition accepts no more mail; set once.
    failure: OnceLock<String>,
    /// The ledger of the last write that succeeded.
    ledger: Mutex<Counted>,
    /// The copy of the ledger outside the database, before it was opened.
    known_outside: Ledger,
    copies: Copies,
    /// The next start reads everything.
    suspected: AtomicBool,
    unsettled: UnsettledCounts,
    /// The number after the last event that is durable.
    events_synced: AtomicU64,
    /// Offline removals, one at a time: two of the same message must not meet.
    operator: Mutex<()>,
}

/// What opening a partition has found in it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::queue) struct PartitionStart {
    pub newest: Option<MessageId>,
    pub messages: u64,
    pub body_bytes: u64,
    pub quarantined: u64,
}

/// The ledger, and its copy outside the database.
#[derive(Default)]
struct Counted {
    ledger: Ledger,
    copy: Option<Counts>,
}

impl Partition {
    pub(in crate::queue) fn over(spec: &PartitionSpec, db: DB, counted: CopiedLedger) -> Partition {
        Partition {
            id: spec.id,
            spool: spec.number,
            path: spec.path(),
            db,
            access: spec.access,
            sync: spec.sync,
            start: PartitionStart::default(),
            messages: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            // Bodies that an earlier process removed may still take space.
            removed_bytes: AtomicU64::new(DEAD_BODY_BYTES_MAX),
            failure: OnceLock::new(),
            ledger: Mutex::default(),
            known_outside: counted.ledger(),
            copies: spec.copies(),
            suspected: AtomicBool::new(false),
            unsettled: UnsettledCounts::new(Instant::now()),
            events_synced: AtomicU64::new(0),
            operator: Mutex::new(()),
        }
    }

    /// Takes over what the start has found.
    pub(in crate::queue) fn begin(&mut self, start: PartitionStart) {
        self.start = start;
        self.messages = AtomicU64::new(start.messages);
        self.body_bytes = AtomicU64::new(start.body_bytes);
    }

    pub(in crate::queue) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Begins to keep a copy of the ledger outside the database.
    pub(in crate::queue) fn copy_ledger(&self, ledger: &Ledger) -> io::Result<()> {
        let copy = self.copies.keep_counts(ledger)?;
        self.counted().copy = Some(copy);
        Ok(())
    }

    /// One operator's removal at a time.
    pub(in crate::queue) fn lock_for_operator(&self) -> MutexGuard<'_, ()> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The number of the spool.
    pub fn spool(&self) -> SpoolNumber {
        self.spool
    }

    /// The public id of a message of this partition.
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
        self.start.newest
    }

    /// Queued messages.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of all stored bodies, also of messages that are kept after their end.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Records moved to quarantine when the partition was opened.
    pub fn quarantined(&self) -> u64 {
        self.start.quarantined
    }

    /// Why the partition accepts no more mail, if so.
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
        Families::of(&self.db)
    }

    /// Options of a write that must survive a power cut. With `sync` off in the spool's options,
    /// which only a test sets, it does not.
    pub fn synced(&self) -> WriteOptions {
        let mut options = self.unsynced();
        options.set_sync(self.sync);
        options
    }

    /// Options of every other write. No write waits within RocksDB: see `Room`.
    pub fn unsynced(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_no_slowdown(true);
        options
    }

    /// The fingerprint of the settings that all filed jobs are filed under.
    pub fn filed_under(&self) -> Result<Option<u64>, rocksdb::Error> {
        let stored = self.db.get_pinned_cf(self.families().default, FILED_UNDER_KEY)?;
        Ok(stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// A crash may lose it, which costs one pass over what is filed.
    pub fn set_filed_under(&self, fingerprint: u64) -> Result<(), rocksdb::Error> {
        let default = self.families().default;
        let value = fingerprint.to_be_bytes();
        self.db.put_cf_opt(default, FILED_UNDER_KEY, value, &self.unsynced())
    }

    /// Writes one small batch, durably.
    pub fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut room = Room::of(&self.db);
        loop {
            let again = WriteBatch::from_data(batch.data());
            match self.db.write_opt(again, &self.synced()) {
                Err(cause) if room.may_come_after(&self.db, cause.as_ref()) => (),
                done => return done,
            }
        }
    }

    /// Makes every write so far durable.
    pub(in crate::queue) fn sync_log(&self) -> Result<(), rocksdb::Error> {
        self.db.flush_wal(self.sync)
    }

    /// Every event before this number is durable.
    pub(in crate::queue) fn note_synced(&self, events: u64) {
        self.events_synced.fetch_max(events, Ordering::Release);
    }

    /// The number after the last event that is durable. What comes behind may be lost, and its numbers
    /// given again.
    pub fn events_synced(&self) -> u64 {
        self.events_synced.load(Ordering::Acquire)
    }

    /// Errors of flushes and compactions so far.
    pub fn background_errors(&self) -> u64 {
        background_errors(&self.db)
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

    /// Recipients by state.
    pub fn ledger(&self) -> Ledger {
        self.counted().ledger
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the ledger of a write that succeeded. One that was not synced is not copied: after a
    /// power cut the database would seem to have lost what the copy counts.
    pub fn set_ledger(&self, ledger: Ledger, is_synced: bool) {
        let mut counted = self.counted();
        let changed = counted.ledger != ledger;
        counted.ledger = ledger;
        if changed
            && is_synced
            && let Some(copy) = &mut counted.copy
        {
            // The copy is behind until the next write; the database has the counts.
            let _ = copy.write(&ledger);
        }
    }

    /// The copy of the ledger outside the database, before it was opened.
    pub fn known_outside(&self) -> Ledger {
        self.known_outside
    }

    /// Something in the database cannot be read: the next start reads all of it. May block.
    pub fn note_unreadable(&self, why: &str) {
        if self.is_writable() && !self.suspected.swap(true, Ordering::Relaxed) {
            // Without the file the next start finds only the damage that it meets.
            let _ = self.copies.suspect(why);
        }
    }

    /// Brings the copy of the manifest up to date. Costs two calls to the kernel when nothing changed.
    pub fn copy_list(&self) -> io::Result<()> {
        if self.is_writable() { manifest::copy(&self.path, &self.copies) } else { Ok(()) }
    }

    /// Bytes of bodies removed since `note_reclaimed`, and more after a start.
    pub fn removed_bytes(&self) -> u64 {
        self.removed_bytes.load(Ordering::Relaxed)
    }

    /// A reclaim pass has looked for this many of them.
    pub fn note_reclaimed(&self, bytes: u64) {
        self.removed_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // The copy is behind by what was written since the last look at it; mail is not.
        let _ = self.copy_list();
    }
}
