//! The jobs of one message, read from the store.

use rocksdb::DBRawIterator;
use rocksdb::ReadOptions;

use crate::base::MessageId;
use crate::queue::record::key;
use crate::queue::store::partition::Partition;

/// Walks the records of all jobs of a message, by number.
pub struct Jobs<'p> {
    rows: DBRawIterator<'p>,
    is_begun: bool,
}

impl<'p> Jobs<'p> {
    pub fn of(partition: &'p Partition, id: MessageId) -> Jobs<'p> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(id.as_u64().saturating_add(1).to_be_bytes());
        let mut rows = partition.db().raw_iterator_cf_opt(partition.families().job, options);
        rows.seek(key::of_id(id));
        Jobs { rows, is_begun: false }
    }

    /// The next record with its key. After the last one `end` says whether the walk was complete.
    pub fn next(&mut self) -> Option<(&[u8], &[u8])> {
        if std::mem::replace(&mut self.is_begun, true) {
            self.rows.next();
        }
        self.rows.item()
    }

    pub fn end(self) -> Result<(), rocksdb::Error> {
        self.rows.status()
    }

    /// The numbers and records of all jobs.
    pub fn collect(mut self) -> Result<Vec<StoredJob>, rocksdb::Error> {
        let mut found = Vec::new();
        while let Some((job_key, record)) = self.next() {
            if let Some((_, number)) = key::job_of(job_key) {
                found.push(StoredJob { number, record: record.to_vec() });
            }
        }
        self.end().map(|()| found)
    }
}

/// A stored job.
pub struct StoredJob {
    pub number: u16,
    pub record: Vec<u8>,
}
