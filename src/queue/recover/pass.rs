//! Recovery: one pass over a partition at start.
//!
//! Promise:  leftovers of a crash are removed or completed; invalid records are moved to quarantine
//!           unchanged, counted and reported. Nothing is inferred from unreadable data: recovery
//!           stops with a fault, and `open` has the database rescued first. If rows are lost
//!           (`Lost`), a message is delivered only if all its records agree; otherwise it goes to
//!           quarantine, so that no recipient gets it twice. A record of a newer version stops the
//!           start.
//! Order:    1. the bodies of aborted transfers, which have a stream mark, are removed.
//!           2. one pass reads every envelope and job and looks up the schedule entry of each job. A
//!              missing entry is recreated. A message without a job gets a new one, unless the
//!              message is kept, rows are lost or a job is unreadable.
//!           3. schedule entries without a job are removed.
//!           4. the newest heads and bodies are read, all of them after damage. Chunks at the end
//!              that belong to no message are removed, or moved to quarantine after damage.
//!           5. expiries without a kept message are removed.
//!           6. one sync makes the repairs durable.
//! Ledger:   the mark `mending` precedes each change of the number of recipients in the jobs. If
//!           recovery is cut short, the next one corrects the ledger.
//! Cost:     steps 1 to 3 read keys and small records only, step 4 at most `BODY_BYTES_READ_MAX`.
//!           Older bodies are checked when they are read. `benches/commit` measures 2.5 to 6 us per
//!           message with one recipient and files in the page cache (400,000 to 1,160,000 messages);
//!           a cold disk was not measured.
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
use crate::queue::store::rows::count_rows;
use crate::queue::store::rows::each_row;
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
    /// Jobs that stay in the queue, each with its row in `due`.
    pub(super) jobs: u64,
    /// Those of them with a row in `backlog`.
    pub(super) filed: u64,
    /// Kept messages, each with its row in `kept`.
    pub(super) kept: u64,
    /// The mark `mending` was written.
    pub(super) marked: bool,
}

impl<'r> Recovery<'r> {
    fn count(&mut self) -> Result<(), QueueFault> {
        let counted = each_row(self.iterate(self.families.envelope), |_, record| {
            if let Ok(envelope) = Envelope::decode(record) {
                self.found.messages += u64::from(envelope.kept_until_ms.is_none());
                self.found.body_bytes += envelope.body.bytes;
            }
            Ok(())
        });
        if let Err(fault) = counted {
            let (family, why) = (family::ENVELOPE, fault.to_string());
            self.found.tell(self.spec, Notice::Unreadable { partition: self.spec.id, family, why });
        }
        Ok(())
    }

    fn repair(&mut self, depth: Depth) -> Result<(), QueueFault> {
        // Others use the rows of `default`; here only an unreadable one matters.
        count_rows(self.iterate(self.families.default))?;
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
        Ok(self.partition.db().flush_wal(true)?)
    }

    /// Marks that the ledger may be behind the stored mail, before the first change.
    pub(super) fn mark(&mut self) -> Result<(), QueueFault> {
        if !self.marked {
            let lost = self.lost.to_bytes();
            let mut batch = WriteBatch::default();
            batch.put_cf(self.families.default, MENDING_KEY, lost);
            // Durable at once: after a power cut the log no longer shows the loss.
            self.partition.write(batch)?;
            self.marked = true;
        }
        Ok(())
    }

    /// Finds the largest id, so that no id is used twice. If a newer Ringpost wrote the newest envelope,
    /// nothing is changed.
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
        // Each block is read once and must not displace others in the cache.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        self.partition.db().raw_iterator_cf_opt(family, options)
    }
}

/// The fault, if it concerns a whole table. A damaged blob file concerns single bodies only.
pub(super) fn if_table(status: Result<(), rocksdb::Error>) -> Result<(), QueueFault> {
    match status {
        Err(cause) if table_in(cause.as_ref()).is_some() => Err(cause.into()),
        _ => Ok(()),
    }
}

/// Refuses a valid record of a newer version.
pub(super) fn refuse_newer(record: &[u8]) -> Result<(), QueueFault> {
    match probe(record) {
        Err(fault @ RecordFault::Version(_)) => Err(QueueFault::Record(fault)),
        _ => Ok(()),
    }
}
