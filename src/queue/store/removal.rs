//! Removing a whole message.

use crate::base::MessageId;
use crate::base::clock::wall_ms;
use crate::event::EventList;
use crate::event::record::Fact;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::event_log::Gathered;
use crate::queue::record::event_log::push_change;
use crate::queue::record::family::Family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::record::rows::Batch;
use crate::queue::record::rows::put_rows;
use crate::queue::store::families::StoreBatch;
use crate::queue::store::jobs::StoredJob;
use crate::queue::store::jobs::jobs_of;
use crate::queue::store::partition::Partition;
use crate::queue::store::records::Records;

/// What `remove_message` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub body_bytes: u64,
    /// Recipients without a final state.
    pub recipients: u64,
    /// Not a message that was kept after its end.
    pub was_queued: bool,
    /// That these recipients are cancelled.
    pub events: EventList,
}

/// Puts the removal of a whole message into `batch`. `None`: there is no such message. A fault leaves
/// the batch unchanged.
pub fn remove_message(
    store: &impl Records,
    batch: &mut impl Batch,
    id: MessageId,
) -> Result<Option<Removed>, QueueFault> {
    let record = store.get(Family::Envelope, &key::of_id(id), <[u8]>::to_vec)?;
    let Some(record) = record else { return Ok(None) };
    let envelope = Envelope::decode(&record).map_err(QueueFault::Record)?;
    let mut indexes = Vec::new();
    for StoredJob { number, record } in jobs_of(store, id)? {
        batch.remove(Family::Job, &key::of_job(id, number));
        // A job that cannot be read has no rows that could be known; recovery drops a row without
        // a job.
        if let Ok(job) = Job::decode(&record) {
            indexes.extend(job.recipients.iter());
            put_rows(batch, (id, number), Some(job.schedule()), None);
        }
    }
    remove_parts(batch, id, &envelope);
    let (was_queued, recipients) = (envelope.kept_until_ms.is_none(), indexes.len() as u64);
    let mut events = EventList::default();
    let at = (id, wall_ms());
    push_change(&mut events, at, &envelope, indexes.into_iter(), Fact::Cancelled);
    Ok(Some(Removed { body_bytes: envelope.body.bytes, recipients, was_queued, events }))
}

/// Removes everything of a message but its jobs.
pub fn remove_parts(batch: &mut impl Batch, id: MessageId, envelope: &Envelope<'_>) {
    batch.remove(Family::Envelope, &key::of_id(id));
    batch.remove(Family::Head, &key::of_id(id));
    for chunk in 0..envelope.body.chunks {
        batch.remove(Family::Body, &key::of_body(id, chunk));
    }
    if let Some(until_ms) = envelope.kept_until_ms {
        batch.remove(Family::Kept, &key::of_kept(until_ms, id));
    }
}

impl Partition {
    /// Removes a whole message from the spool of a stopped server. Not for a shard's thread.
    pub fn remove(&self, id: MessageId) -> Result<(), QueueFault> {
        if !self.is_writable() {
            return Err(QueueFault::ReadOnly);
        }
        let _one_at_a_time = self.lock_for_operator();
        let mut batch = StoreBatch::new(self.families(), 0);
        let removed = remove_message(self, &mut batch, id)?.ok_or(QueueFault::Unknown)?;
        let mut ledger = self.ledger();
        ledger.ended.cancelled += removed.recipients;
        let mut entry = Gathered::default();
        entry.add(&removed.events);
        entry.put(&mut batch, &mut ledger.events);
        batch.put(Family::Default, LEDGER_KEY, &ledger.encode());
        self.write(batch.into_writes())?;
        self.set_ledger(ledger, true);
        self.count_out(u64::from(removed.was_queued), removed.body_bytes);
        Ok(())
    }
}
