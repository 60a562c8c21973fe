//! The queries of delivery and operators on a partition.

use rocksdb::DBRawIterator;
use rocksdb::ReadOptions;

use crate::base::MessageId;
use crate::queue::cause::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::store::partition::Partition;

impl Partition {
    /// Entries of the schedule after `after` that are due by `until_ms`, the earliest first.
    pub fn due(
        &self,
        after: Option<(u64, MessageId, u16)>,
        until_ms: u64,
        max: usize,
    ) -> Result<Vec<(u64, MessageId, u16)>, QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(until_ms.saturating_add(1).to_be_bytes());
        let mut entries = self.db().raw_iterator_cf_opt(self.families().due, bounds);
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
                // No later entry would ever be due. The next start rescues the readable rows.
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
            let job = self.db().get_cf(families.job, key::of_job(id, number))?;
            let envelope = self.db().get_cf(families.envelope, key::of_id(id))?;
            Ok(envelope.zip(job))
        };
        read().map_err(|cause: rocksdb::Error| {
            self.note_unreadable(cause.as_ref());
            cause.into()
        })
    }

    /// Up to `wanted` numbers that no job of the message has: those above the largest, then those of
    /// jobs that have ended. Never 0, which means that the message was not split yet.
    pub fn free_job_numbers(&self, id: MessageId, wanted: usize) -> Result<Vec<u16>, QueueFault> {
        let mut jobs = self.db().raw_iterator_cf(self.families().job);
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

    /// Messages that were kept until `until_ms` or earlier, the earliest first. Each is removed like
    /// any other message.
    pub fn kept(&self, until_ms: u64, max: usize) -> Result<Vec<Kept>, QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(until_ms.saturating_add(1).to_be_bytes());
        let mut rows = self.db().raw_iterator_cf_opt(self.families().kept, bounds);
        let mut kept = Vec::new();
        rows.seek_to_first();
        while let Some(row) = rows.key().filter(|_| kept.len() < max) {
            kept.extend(key::kept_of(row).map(|(until_ms, id)| Kept { until_ms, id }));
            rows.next();
        }
        rows.status()?;
        Ok(kept)
    }
}

/// The record of a message, and that of one of its jobs.
pub type JobRecords = (Vec<u8>, Vec<u8>);

/// A message that is kept after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
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
