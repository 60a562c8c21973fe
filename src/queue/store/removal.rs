//! Removing a whole message.

use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::store::jobs::Jobs;
use crate::queue::store::jobs::StoredJob;
use crate::queue::store::partition::Partition;

impl Partition {
    /// Puts the removal of a whole message into `batch`. `None`: there is no such message. A fault
    /// leaves the batch unchanged.
    pub fn remove_into(
        &self,
        id: MessageId,
        batch: &mut WriteBatch,
    ) -> Result<Option<Removed>, QueueFault> {
        let families = self.families();
        let Some(record) = self.db().get_pinned_cf(families.envelope, key::of_id(id))? else {
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

    /// Removes a whole message from the spool of a stopped server. Not for a shard's thread.
    pub fn remove(&self, id: MessageId) -> Result<(), QueueFault> {
        if !self.is_writable() {
            return Err(QueueFault::ReadOnly);
        }
        let _one_at_a_time = self.lock_for_operator();
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

/// What `remove_into` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub body_bytes: u64,
    /// Recipients without a final state.
    pub recipients: u64,
    /// Not a message that was kept after its end.
    pub was_queued: bool,
}
