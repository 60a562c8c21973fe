//! Recovery: one pass over a partition at start.
//!
//! Promise:  leftovers of a crash are removed or completed; invalid records are moved to quarantine
//!           unchanged, counted and reported. Nothing is inferred from unreadable data: recovery
//!           stops with a fault, and `open` has the database rescued first. If rows are lost
//!           (`Lost`), a message is served only if all its records agree; otherwise it goes to
//!           quarantine, because finished recipients must not get it again. A record of a newer
//!           version stops the start.
//! Order:    1. bodies with a stream mark are removed: their transfers were aborted.
//!           2. every envelope and job is read and checked, in one pass over both; every job's
//!              schedule entry is looked up, and made again where it is missing. A message without
//!              any job gets a new one, unless it is kept, rows are lost or a job is unreadable.
//!           3. schedule entries without a job are removed.
//!           4. the newest heads and bodies are read and checked, all of them after damage. Chunks at
//!              the end that belong to no message are removed; after damage they are kept.
//!           5. expiries without a kept message are removed.
//!           6. one sync for all of it.
//! Ledger:   what changes the number of recipients in the jobs is preceded by the mark `mending`, so
//!           that a recovery that was cut short has its ledger brought in line by the next.
//! Cost:     steps 1 to 3 read keys and small records only, step 4 at most `BODY_BYTES_READ_MAX`.
//!           Older bodies are checked when they are read. `benches/commit` measures it: 2.5 to 6 us
//!           per message with one recipient and files in the page cache (400,000 to 1,160,000
//!           messages); a cold disk was not measured.
//! Bounds:   memory does not depend on the backlog.

use rocksdb::DBRawIterator;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::cause::table_in;
use crate::queue::fault::QueueFault;
use crate::queue::notice::Notice;
use crate::queue::points::point;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family;
use crate::queue::record::key;
use crate::queue::record::ledger::MENDING_KEY;
use crate::queue::record::lost::Lost;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::probe::probe;
use crate::queue::store::families::Families;
use crate::queue::store::found::Depth;
use crate::queue::store::found::Recovered;
use crate::queue::store::partition::Partition;
use crate::queue::store::spec::PartitionSpec;

/// Reads a partition and, unless `depth` is `Look`, repairs it.
pub fn run(
    partition: &Partition,
    spec: &PartitionSpec,
    depth: Depth,
    lost: Lost,
    found: &mut Recovered,
) -> Result<(), QueueFault> {
    let families = partition.families();
    let mut recovery = Recovery {
        partition,
        spec,
        families,
        lost,
        found,
        jobs: 0,
        filed: 0,
        kept: 0,
        marked: false,
    };
    match depth {
        Depth::Look => recovery.count(),
        Depth::Newest | Depth::All => recovery.repair(depth),
    }
}

pub(super) struct Recovery<'r> {
    pub(super) partition: &'r Partition,
    pub(super) spec: &'r PartitionSpec,
    pub(super) families: Families<'r>,
    pub(super) lost: Lost,
    pub(super) found: &'r mut Recovered,
    /// Jobs that stay, each with its row in `due`.
    pub(super) jobs: u64,
    /// Those with a row in `backlog` besides.
    pub(super) filed: u64,
    /// Messages that are kept after their end, each with its row.
    pub(super) kept: u64,
    /// `mending` was written.
    pub(super) marked: bool,
}

impl<'r> Recovery<'r> {
    fn count(&mut self) -> Result<(), QueueFault> {
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_first();
        while let Some((_, record)) = envelopes.item() {
            if let Ok(envelope) = Envelope::decode(record) {
                self.found.messages += u64::from(envelope.kept_until_ms.is_none());
                self.found.body_bytes += envelope.body.bytes;
            }
            envelopes.next();
        }
        if let Err(cause) = envelopes.status() {
            let (family, why) = (family::ENVELOPE, cause.into_string());
            self.found.tell(self.spec, Notice::Unreadable { partition: self.spec.id, family, why });
        }
        Ok(())
    }

    fn repair(&mut self, depth: Depth) -> Result<(), QueueFault> {
        self.read_default()?;
        if self.lost.any() {
            self.mark()?;
        }
        self.find_newest()?;
        point("recover::before_sweep");
        self.sweep_streams()?;
        point("recover::after_sweep");
        point("recover::before_scan");
        self.scan_messages()?;
        self.scan_schedule()?;
        self.check_bodies(depth)?;
        self.scan_kept()?;
        match depth {
            Depth::All => {
                self.keep_stray_heads()?;
                self.keep_stray_chunks()?;
            }
            _ => self.sweep_stray_tail()?,
        }
        point("recover::before_sync");
        self.partition.db().flush_wal(true)?;
        Ok(())
    }

    /// Reads the family `default` to its end. Others read its content.
    fn read_default(&self) -> Result<(), QueueFault> {
        let mut rows = self.iterate(self.families.default);
        rows.seek_to_first();
        while rows.valid() {
            rows.next();
        }
        rows.status()?;
        Ok(())
    }

    /// Marks that the ledger may be behind the stored mail. The log keeps the mark before the change.
    pub(super) fn mark(&mut self) -> Result<(), QueueFault> {
        if !self.marked {
            let lost = self.lost.to_bytes();
            let mut batch = WriteBatch::default();
            batch.put_cf(self.families.default, MENDING_KEY, lost);
            // Durable at once: the log that showed the loss is gone after a power cut.
            self.partition.write(batch)?;
            self.marked = true;
        }
        Ok(())
    }

    /// Finds the largest id, which is never given again. The newest envelope also shows whether a newer
    /// Ringpost has written here: then nothing is changed.
    fn find_newest(&mut self) -> Result<(), QueueFault> {
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_last();
        if let Some(record) = envelopes.value() {
            refuse_newer(record)?;
        }
        for family in [self.families.envelope, self.families.body, self.families.stream] {
            let mut keys = self.iterate(family);
            keys.seek_to_last();
            let last = keys.key().and_then(key::id_of);
            self.found.newest = self.found.newest.max(last);
            if_table(keys.status())?;
        }
        Ok(())
    }

    pub(super) fn has_envelope(&self, id: MessageId) -> Result<bool, rocksdb::Error> {
        let db = self.partition.db();
        Ok(db.get_pinned_cf(self.families.envelope, key::of_id(id))?.is_some())
    }

    pub(super) fn repaired(&mut self, what: &'static str, key: &[u8]) {
        self.found.repaired += 1;
        let key = key::hex(key);
        self.found.tell(self.spec, Notice::Repaired { partition: self.spec.id, what, key });
    }

    pub(super) fn iterate(&self, family: &rocksdb::ColumnFamily) -> DBRawIterator<'r> {
        let mut options = ReadOptions::default();
        // Read once; it must not evict what serving needs.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        self.partition.db().raw_iterator_cf_opt(family, options)
    }
}

pub(super) fn if_table(status: Result<(), rocksdb::Error>) -> Result<(), QueueFault> {
    match status {
        Err(cause) if table_in(cause.as_ref()).is_some() => Err(cause.into()),
        _ => Ok(()),
    }
}

/// A sound record of a newer version is a fault.
pub(super) fn refuse_newer(record: &[u8]) -> Result<(), QueueFault> {
    match probe(record) {
        Err(fault @ RecordFault::Version(_)) => Err(QueueFault::Record(fault)),
        _ => Ok(()),
    }
}
