//! Questions of operators about a partition.

use rocksdb::DBRawIterator;
use rocksdb::ReadOptions;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::store::partition::Partition;

impl Partition {
    /// Messages that were kept until `until_ms` or earlier, the earliest first. Each is removed like
    /// any other message.
    pub fn kept(&self, until_ms: u64, max: usize) -> Result<Vec<KeptMessage>, QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(until_ms.saturating_add(1).to_be_bytes());
        let mut rows = self.db().raw_iterator_cf_opt(self.families().kept, bounds);
        let mut kept = Vec::new();
        rows.seek_to_first();
        while let Some(row) = rows.key().filter(|_| kept.len() < max) {
            kept.extend(key::kept_of(row).map(|(until_ms, id)| KeptMessage { until_ms, id }));
            rows.next();
        }
        rows.status()?;
        Ok(kept)
    }
}

/// A message that is kept after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptMessage {
    pub until_ms: u64,
    pub id: MessageId,
}

/// Recipients that the jobs of a partition name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    pub recipients: u64,
    /// Jobs that cannot be read: their recipients are unknown.
    pub unreadable: u64,
}

impl Queued {
    /// Counts the rows of the family `job`.
    pub fn count(mut jobs: DBRawIterator<'_>) -> Result<Queued, rocksdb::Error> {
        let mut queued = Queued::default();
        jobs.seek_to_first();
        while let Some(record) = jobs.value() {
            match Job::decode(record) {
                Ok(job) => queued.recipients += job.recipients.iter().count() as u64,
                Err(_) => queued.unreadable += 1,
            }
            jobs.next();
        }
        jobs.status()?;
        Ok(queued)
    }
}
