//! The jobs of one message, read from the store.

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::family::Family;
use crate::queue::record::key;
use crate::queue::store::records::Records;
use crate::queue::store::records::Walk;

/// A stored job.
pub struct StoredJob {
    pub number: u16,
    pub record: Vec<u8>,
}

/// Shows the records of all jobs of a message, by number.
pub fn each_job(
    store: &impl Records,
    id: MessageId,
    mut show: impl FnMut(u16, &[u8]) -> Walk,
) -> Result<(), QueueFault> {
    let end = id.as_u64().saturating_add(1).to_be_bytes();
    store.walk(Family::Job, &key::of_id(id), &end, |job_key, record| match key::job_of(job_key) {
        Some((_, number)) => show(number, record),
        None => Walk::Next,
    })
}

/// The numbers and records of all jobs of a message.
pub fn jobs_of(store: &impl Records, id: MessageId) -> Result<Vec<StoredJob>, QueueFault> {
    let mut found = Vec::new();
    each_job(store, id, |number, record| {
        found.push(StoredJob { number, record: record.to_vec() });
        Walk::Next
    })?;
    Ok(found)
}

/// Up to `wanted` numbers that no job of the message has: those above the largest, then those of
/// jobs that have ended. Never 0, which means that the message was not split yet.
pub fn free_job_numbers(
    store: &impl Records,
    id: MessageId,
    wanted: usize,
) -> Result<Vec<u16>, QueueFault> {
    let (mut between, mut next) = (Vec::new(), 1);
    each_job(store, id, |used, _| {
        let used = u32::from(used);
        between.extend((next..used).take(wanted - between.len()));
        next = next.max(used + 1);
        Walk::Next
    })?;
    let above = next..=u32::from(u16::MAX);
    Ok(above.chain(between).take(wanted).map(|number| number as u16).collect())
}
