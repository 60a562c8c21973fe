//! The handles of the column families, and batches that are written to them.

use rocksdb::ColumnFamily;
use rocksdb::DB;
use rocksdb::WriteBatch;

use crate::queue::record::event_log::key_of;
use crate::queue::record::family::Family;
use crate::queue::record::family::Removal;
use crate::queue::record::rows::Batch;

/// The families, looked up once per batch.
#[derive(Clone, Copy)]
pub struct Families<'p> {
    pub envelope: &'p ColumnFamily,
    pub head: &'p ColumnFamily,
    pub body: &'p ColumnFamily,
    pub job: &'p ColumnFamily,
    pub due: &'p ColumnFamily,
    pub backlog: &'p ColumnFamily,
    pub stream: &'p ColumnFamily,
    pub kept: &'p ColumnFamily,
    pub event: &'p ColumnFamily,
    pub default: &'p ColumnFamily,
}

impl<'p> Families<'p> {
    pub fn of(db: &'p DB) -> Families<'p> {
        let handle = |family| handle(db, family);
        Families {
            envelope: handle(Family::Envelope),
            head: handle(Family::Head),
            body: handle(Family::Body),
            job: handle(Family::Job),
            due: handle(Family::Due),
            backlog: handle(Family::Backlog),
            stream: handle(Family::Stream),
            kept: handle(Family::Kept),
            event: handle(Family::Event),
            default: handle(Family::Default),
        }
    }

    pub fn of_family(&self, family: Family) -> &'p ColumnFamily {
        match family {
            Family::Envelope => self.envelope,
            Family::Head => self.head,
            Family::Body => self.body,
            Family::Job => self.job,
            Family::Due => self.due,
            Family::Backlog => self.backlog,
            Family::Stream => self.stream,
            Family::Kept => self.kept,
            Family::Event => self.event,
            Family::Default => self.default,
        }
    }
}

/// The handle of one family.
pub fn handle(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.name()).expect("opened with every family")
}

/// A batch for one partition.
pub struct StoreBatch<'p> {
    families: Families<'p>,
    writes: WriteBatch,
}

impl<'p> StoreBatch<'p> {
    pub fn new(families: Families<'p>, capacity_bytes: usize) -> StoreBatch<'p> {
        StoreBatch { families, writes: WriteBatch::with_capacity_bytes(capacity_bytes) }
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Removes the entries of events from one number up to another. Not for what is usual: readers of
    /// the family pass over such a removal until it is compacted.
    pub fn remove_events(&mut self, from: u64, to: u64) {
        self.writes.delete_range_cf(self.families.event, key_of(from), key_of(to));
    }

    /// To be written.
    pub fn into_writes(self) -> WriteBatch {
        self.writes
    }
}

impl Batch for StoreBatch<'_> {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.families.of_family(family), key, value);
    }

    fn remove(&mut self, family: Family, key: &[u8]) {
        let handle = self.families.of_family(family);
        match family.removal() {
            Removal::Delete => self.writes.delete_cf(handle, key),
            Removal::SingleDelete => self.writes.single_delete_cf(handle, key),
        }
    }
}
