//! The content of one batch: messages, settlements, and their effects on each other.

use std::collections::HashMap;
use std::collections::HashSet;

use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::settle::Next;
use crate::queue::commit::settle::Settlement;
use crate::queue::commit::settle::put_job;
use crate::queue::points::point;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::ledger::Ledger;
use crate::queue::store::families::Families;
use crate::queue::store::jobs::Jobs;
use crate::queue::store::partition::Partition;

/// What was gathered for one write.
#[derive(Default)]
pub(super) struct Gathered {
    pub messages: u32,
    pub chunks: u32,
    pub body_bytes: u64,
    pub removed_messages: u64,
    pub removed_bytes: u64,
    pub ledger: Ledger,
    pub settled: u32,
    /// It holds a promise, so the write is synced.
    pub synced: bool,
    /// Jobs that are rescheduled.
    pub again: u32,
    pub reports: u32,
    /// Jobs that splits of this batch have made, which no read can see yet.
    pub born: HashMap<MessageId, Vec<u16>>,
    /// Jobs and messages that orders of this batch have ended.
    pub ended: HashSet<(MessageId, u16)>,
    pub gone: HashSet<MessageId>,
    /// Why an order could not be carried out: a record that it needs cannot be read.
    pub unread: Option<String>,
}

/// Points of a batch that settles, by what is in it: anything, a split, another try, a report.
pub(super) const BEFORE_WRITE: [&str; 4] =
    ["settle::before_write", "split::before_write", "again::before_write", "report::before_write"];

pub(super) const AFTER_WRITE: [&str; 4] =
    ["settle::after_write", "split::after_write", "again::after_write", "report::after_write"];

impl Gathered {
    pub fn put_message(&mut self, batch: &mut WriteBatch, families: Families<'_>, parcel: &Parcel) {
        put_message(batch, families, parcel);
        self.messages += 1;
        self.chunks += parcel.chunks().count() as u32;
        self.body_bytes += parcel.body_bytes;
        self.ledger.taken += u64::from(parcel.recipients);
        self.ledger.note_id(parcel.id());
        self.synced = true;
    }

    pub fn pass(&self, [settle, split, again, report]: &[&'static str; 4]) {
        let met = [
            (self.settled > 0, settle),
            (!self.born.is_empty(), split),
            (self.again > 0, again),
            (self.reports > 0, report),
        ];
        met.into_iter().filter(|(met, _)| *met).for_each(|(_, name)| point(name));
    }

    /// Keeps or removes envelope, head and body of a message whose last job has ended.
    fn end_message(
        &mut self,
        batch: &mut WriteBatch,
        families: Families<'_>,
        settlement: &Settlement,
        record: &[u8],
    ) {
        let id = settlement.id;
        let Ok(envelope) = Envelope::decode(record) else { return };
        self.removed_messages += 1;
        let Some(until_ms) = settlement.keep_until_ms else {
            families.remove_message(batch, id, &envelope);
            self.gone.insert(id);
            self.removed_bytes += envelope.body.bytes;
            return;
        };
        let mut kept = Vec::with_capacity(record.len() + 16);
        let encoded = Envelope { kept_until_ms: Some(until_ms), ..envelope }.encode(&mut kept);
        encoded.expect("every field was stored before");
        // A record that is removed by `SingleDelete` must not be written over.
        batch.single_delete_cf(families.envelope, key::of_id(id));
        batch.put_cf(families.envelope, key::of_id(id), kept);
        batch.put_cf(families.kept, key::of_kept(until_ms, id), []);
    }
}

/// Puts a settlement into the batch. `false`: the job no longer exists. Everything is read before
/// anything is put, so that a fault leaves the batch unchanged.
pub(super) fn settle(
    partition: &Partition,
    batch: &mut WriteBatch,
    settlement: &Settlement,
    gathered: &mut Gathered,
) -> Result<bool, rocksdb::Error> {
    let (id, number) = (settlement.id, settlement.job);
    let families = partition.families();
    if gathered.gone.contains(&id) || gathered.ended.contains(&(id, number)) {
        return Ok(false);
    }
    let record = partition.db().get_pinned_cf(families.job, key::of_job(id, number))?;
    let Some(record) = record else { return Ok(false) };
    let Ok(job) = Job::decode(&record) else { return Ok(false) };
    let mut last_envelope = None;
    match &settlement.next {
        Next::Again(_) => (),
        Next::Split(parts) => {
            for part in parts {
                if is_taken(partition, id, part.number, gathered)? {
                    // Written over, the recipients of that job would be lost. The split is made
                    // anew.
                    return Ok(false);
                }
            }
        }
        Next::Done => {
            let born = gathered.born.contains_key(&id);
            if !born && !has_other_job(partition, id, number, &gathered.ended)? {
                last_envelope = partition.db().get_pinned_cf(families.envelope, key::of_id(id))?;
            }
        }
    }
    batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
    match &settlement.next {
        Next::Again(again) => {
            put_job(batch, families, id, again);
            gathered.again += 1;
        }
        Next::Split(parts) => {
            batch.delete_cf(families.job, key::of_job(id, number));
            parts.iter().for_each(|part| put_job(batch, families, id, part));
            gathered.ended.insert((id, number));
            let numbers = parts.iter().map(|part| part.number);
            gathered.born.entry(id).or_default().extend(numbers);
        }
        Next::Done => {
            batch.delete_cf(families.job, key::of_job(id, number));
            gathered.ended.insert((id, number));
            if let Some(record) = last_envelope {
                gathered.end_message(batch, families, settlement, &record);
            }
        }
    }
    for report in &settlement.reports {
        report.put(batch, families);
        gathered.messages += 1;
        gathered.reports += 1;
        gathered.body_bytes += report.body().len() as u64;
        gathered.ledger.taken += u64::from(report.recipients);
        gathered.ledger.note_id(report.id);
    }
    gathered.ledger.ended.add(&settlement.tally);
    gathered.settled += 1;
    gathered.synced |= settlement.is_synced();
    Ok(true)
}

/// Whether a job of the message has that number.
fn is_taken(
    partition: &Partition,
    id: MessageId,
    number: u16,
    gathered: &Gathered,
) -> Result<bool, rocksdb::Error> {
    if gathered.born.get(&id).is_some_and(|numbers| numbers.contains(&number)) {
        return Ok(true);
    }
    let family = partition.families().job;
    Ok(partition.db().get_pinned_cf(family, key::of_job(id, number))?.is_some())
}

/// Whether the message has another job that no order of this batch has ended.
fn has_other_job(
    partition: &Partition,
    id: MessageId,
    number: u16,
    ended: &HashSet<(MessageId, u16)>,
) -> Result<bool, rocksdb::Error> {
    let mut jobs = Jobs::of(partition, id);
    while let Some((job_key, _)) = jobs.next_row() {
        if key::job_of(job_key).is_some_and(|job| job != (id, number) && !ended.contains(&job)) {
            return Ok(true);
        }
    }
    jobs.end().map(|()| false)
}

fn put_message(batch: &mut WriteBatch, families: Families<'_>, parcel: &Parcel) {
    let id = parcel.id();
    for (number, bytes) in (parcel.streamed..).zip(parcel.chunks()) {
        batch.put_cf(families.body, key::of_body(id, number), bytes);
    }
    let [envelope, job, head] = parcel.records();
    batch.put_cf(families.head, key::of_id(id), head);
    batch.put_cf(families.envelope, key::of_id(id), envelope);
    batch.put_cf(families.job, key::of_job(id, 0), job);
    batch.put_cf(families.due, key::of_due(parcel.due_ms, id, 0), []);
    if parcel.streamed > 0 {
        batch.single_delete_cf(families.stream, key::of_id(id));
    }
}
