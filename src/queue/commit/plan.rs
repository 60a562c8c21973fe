//! A plan: the writes of one batch, and what its orders mean for each other.
//!
//! Owner:    the commit thread; the simulation plans by the same code for a model store.
//! Promise:  an order reads all that it needs before it puts anything, so that a fault leaves the batch
//!           as it was. The rows of a job follow from its records (`record::rows`): those of the old
//!           record are derived from the store, those of the new one from the order.
//! Order:    the jobs and messages that earlier orders of the batch have written or ended are noted
//!           here, because the store shows them only after the write.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::base::MessageId;
use crate::base::limits::CHUNK_BYTES;
use crate::event::EventList;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Report;
use crate::queue::commit::settle::Settlement;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::event_log::Gathered;
use crate::queue::record::family::Family;
use crate::queue::record::head::encode_head;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::record::job::Schedule;
use crate::queue::record::key;
use crate::queue::record::key::JobKey;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::record::ledger::Ledger;
use crate::queue::record::rows::Batch;
use crate::queue::record::rows::Row;
use crate::queue::record::rows::put_rows;
use crate::queue::record::rows::rows_of;
use crate::queue::store::jobs::each_job;
use crate::queue::store::records::Records;
use crate::queue::store::records::Walk;
use crate::queue::store::removal::remove_message;
use crate::queue::store::removal::remove_parts;

/// What was planned for one write.
#[derive(Default)]
pub struct Plan {
    pub messages: u32,
    pub chunks: u32,
    pub body_bytes: u64,
    pub removed_messages: u64,
    pub removed_bytes: u64,
    pub ledger: Ledger,
    ledger_before: Ledger,
    /// It holds a promise, so the write is synced.
    pub is_synced: bool,
    pub settled: u32,
    /// Jobs that are rescheduled.
    pub again: u32,
    pub filed: u32,
    pub reports: u32,
    /// Jobs that this batch writes.
    written: HashMap<JobKey, Schedule>,
    /// Jobs that splits of this batch make.
    born: HashMap<MessageId, Vec<u16>>,
    /// Jobs and messages that this batch ends.
    ended: HashSet<JobKey>,
    gone: HashSet<MessageId>,
    events: Gathered,
    record: Vec<u8>,
}

impl Plan {
    pub fn new(ledger: Ledger) -> Plan {
        Plan { ledger, ledger_before: ledger, ..Plan::default() }
    }

    pub fn has_splits(&self) -> bool {
        !self.born.is_empty()
    }

    /// Whether events were put, or will be.
    pub fn has_events(&self) -> bool {
        self.ledger.events != self.ledger_before.events || !self.events.is_empty()
    }

    /// The last rows: the events, and the counts where they have changed.
    pub fn end(&mut self, batch: &mut impl Batch) {
        self.events.put(batch, &mut self.ledger.events);
        if self.ledger != self.ledger_before {
            batch.put(Family::Default, LEDGER_KEY, &self.ledger.encode());
        }
    }

    /// W1: a message that was received.
    pub fn accept(&mut self, batch: &mut impl Batch, parcel: &Parcel) {
        let id = parcel.id();
        put_message(batch, id, parcel.records(), (parcel.streamed, parcel.chunks()));
        put_rows(batch, (id, 0), None, Some(Schedule { due_ms: parcel.due_ms, filed: None }));
        if parcel.streamed > 0 {
            batch.remove(Family::Stream, &key::of_id(id));
        }
        self.note_accepted(id, parcel.recipients, parcel.body_bytes);
        self.note_events(batch, &parcel.events);
        self.chunks += parcel.chunks().count() as u32;
    }

    /// W1: a message that was made here.
    pub fn accept_report(&mut self, batch: &mut impl Batch, report: &Report) {
        let mut head = std::mem::take(&mut self.record);
        head.clear();
        encode_head(report.head(), &mut head);
        let chunks = report.body().chunks(CHUNK_BYTES);
        let records = [&report.envelope[..], &report.job.bytes[..], &head[..]];
        put_message(batch, report.id, records, (0, chunks));
        put_rows(batch, (report.id, report.job.number), None, Some(report.job.schedule));
        self.record = head;
        self.note_accepted(report.id, report.recipients, report.body().len() as u64);
        self.note_events(batch, &report.events);
        self.reports += 1;
    }

    fn note_accepted(&mut self, id: MessageId, recipients: u32, body_bytes: u64) {
        self.messages += 1;
        self.body_bytes += body_bytes;
        self.ledger.taken += u64::from(recipients);
        self.ledger.note_id(id);
        self.is_synced = true;
    }

    fn note_events(&mut self, batch: &mut impl Batch, events: &EventList) {
        self.events.add(events);
        if self.events.is_full() {
            self.events.put(batch, &mut self.ledger.events);
        }
    }

    /// W2: gives jobs other rows in `backlog`. `false`: one of them no longer exists or is held.
    pub fn file(
        &mut self,
        store: &impl Records,
        batch: &mut impl Batch,
        filings: &[Filing],
    ) -> Result<bool, QueueFault> {
        let mut all = true;
        for filing in filings {
            all &= self.file_one(store, batch, filing)?;
        }
        Ok(all)
    }

    fn file_one(
        &mut self,
        store: &impl Records,
        batch: &mut impl Batch,
        Filing { job: (id, number), filed }: &Filing,
    ) -> Result<bool, QueueFault> {
        let job_key = (*id, *number);
        if self.is_gone(job_key) || self.written.contains_key(&job_key) {
            return Ok(false);
        }
        let record = &mut self.record;
        record.clear();
        let old = store.get(Family::Job, &key::of_job(*id, *number), |stored| {
            let job = Job::decode(stored).ok().filter(|job| job.state != JobState::Held)?;
            let encoded = Job { filed: *filed, ..job }.encode(record);
            encoded.ok().map(|()| job.schedule())
        })?;
        let Some(old) = old.flatten() else { return Ok(false) };
        if old.filed != *filed {
            let new = Schedule { filed: *filed, ..old };
            batch.put(Family::Job, &key::of_job(*id, *number), record);
            put_rows(batch, job_key, Some(old), Some(new));
            self.written.insert(job_key, new);
            self.filed += 1;
        }
        Ok(true)
    }

    /// W3 to W6: what becomes of a job. `false`: it no longer exists.
    pub fn settle(
        &mut self,
        store: &impl Records,
        batch: &mut impl Batch,
        settlement: &Settlement,
    ) -> Result<bool, QueueFault> {
        let (id, number) = (settlement.id, settlement.job);
        let job_key = (id, number);
        let Some(old) = self.schedule_of(store, job_key)? else { return Ok(false) };
        let mut is_last = false;
        match &settlement.change {
            JobChange::Again(_) => (),
            JobChange::Split(parts) => {
                for part in parts {
                    if self.is_taken(store, (id, part.number))? {
                        // Written over, the recipients of that job would be lost. The split is made
                        // anew.
                        return Ok(false);
                    }
                }
            }
            JobChange::End => {
                is_last =
                    !self.has_other_job(store, job_key)? && self.read_envelope(store, settlement)?
            }
        }
        match &settlement.change {
            JobChange::Again(job) => {
                put_job(batch, id, Some(old), job);
                self.written.insert(job_key, job.schedule);
                self.again += 1;
            }
            JobChange::Split(parts) => {
                self.end_job(batch, job_key, old);
                for part in parts {
                    put_job(batch, id, None, part);
                    self.written.insert((id, part.number), part.schedule);
                }
                let numbers = parts.iter().map(|part| part.number);
                self.born.entry(id).or_default().extend(numbers);
            }
            JobChange::End => {
                self.end_job(batch, job_key, old);
                if is_last {
                    self.end_message(batch, settlement);
                }
            }
        }
        settlement.reports.iter().for_each(|report| self.accept_report(batch, report));
        self.note_events(batch, &settlement.events);
        self.ledger.ended.add(&settlement.tally);
        self.settled += 1;
        self.is_synced |= settlement.is_synced();
        Ok(true)
    }

    /// Removes a message. `false`: there is none.
    pub fn delete(
        &mut self,
        store: &impl Records,
        batch: &mut impl Batch,
        id: MessageId,
    ) -> Result<bool, QueueFault> {
        if self.gone.contains(&id) {
            return Ok(false);
        }
        let Some(removed) = remove_message(store, batch, id)? else { return Ok(false) };
        self.gone.insert(id);
        self.removed_messages += u64::from(removed.was_queued);
        self.removed_bytes += removed.body_bytes;
        self.ledger.ended.cancelled += removed.recipients;
        self.note_events(batch, &removed.events);
        self.is_synced = true;
        Ok(true)
    }

    /// Removes rows that the records of their jobs do not have.
    pub fn remove_leftovers(
        &mut self,
        store: &impl Records,
        batch: &mut impl Batch,
        rows: &[Row],
    ) -> Result<(), QueueFault> {
        for row in rows {
            let (id, number) = row.job();
            let record = store.get(Family::Job, &key::of_job(id, number), |record| {
                Job::decode(record).map(|job| job.schedule())
            })?;
            let own = match (self.written.get(&row.job()), record) {
                (Some(schedule), _) => Some(*schedule),
                (None, Some(Ok(schedule))) => Some(schedule),
                // A damaged record: recovery compares the row with it.
                (None, Some(Err(_))) => continue,
                (None, None) => None,
            };
            let is_own = own.is_some_and(|own| rows_of(row.job(), own).any(|one| one == *row));
            let stored = row.with_key(|family, key| store.get(family, key, |_| ()))?;
            if !is_own && stored.is_some() {
                row.remove(batch);
            }
        }
        Ok(())
    }

    fn is_gone(&self, job: JobKey) -> bool {
        self.gone.contains(&job.0) || self.ended.contains(&job)
    }

    /// The schedule of a job as the orders before have left it. `None`: it no longer exists.
    fn schedule_of(
        &self,
        store: &impl Records,
        job: JobKey,
    ) -> Result<Option<Schedule>, QueueFault> {
        if self.is_gone(job) {
            return Ok(None);
        }
        if let Some(written) = self.written.get(&job) {
            return Ok(Some(*written));
        }
        let read = store.get(Family::Job, &key::of_job(job.0, job.1), |record| {
            Job::decode(record).ok().map(|job| job.schedule())
        });
        read.map(Option::flatten)
    }

    /// Whether a job of the message has that number.
    fn is_taken(&self, store: &impl Records, job: JobKey) -> Result<bool, QueueFault> {
        let stored = store.get(Family::Job, &key::of_job(job.0, job.1), |_| ())?;
        Ok(self.written.contains_key(&job) || stored.is_some())
    }

    /// Whether the message has another job that no order of this batch has ended.
    fn has_other_job(
        &self,
        store: &impl Records,
        (id, number): JobKey,
    ) -> Result<bool, QueueFault> {
        // A split gives its parts other numbers: a job 0 is the only one.
        if number == 0 {
            return Ok(false);
        }
        let is_other = |other: u16| other != number && !self.ended.contains(&(id, other));
        let mut found = self.born.get(&id).is_some_and(|born| born.iter().copied().any(is_other));
        if !found {
            each_job(store, id, |other, _| {
                found = is_other(other);
                if found { Walk::Stop } else { Walk::Next }
            })?;
        }
        Ok(found)
    }

    /// Copies the envelope of a message into `record`, if there is one.
    fn read_envelope(
        &mut self,
        store: &impl Records,
        settlement: &Settlement,
    ) -> Result<bool, QueueFault> {
        self.record.clear();
        let record = &mut self.record;
        let mut read = |envelope: &[u8]| record.extend_from_slice(envelope);
        if let Some(envelope) = &settlement.envelope {
            read(envelope);
            return Ok(true);
        }
        Ok(store.get(Family::Envelope, &key::of_id(settlement.id), read)?.is_some())
    }

    fn end_job(&mut self, batch: &mut impl Batch, job: JobKey, old: Schedule) {
        batch.remove(Family::Job, &key::of_job(job.0, job.1));
        put_rows(batch, job, Some(old), None);
        self.ended.insert(job);
    }

    /// Keeps or removes the message whose last job has ended and whose envelope `read` has read.
    fn end_message(&mut self, batch: &mut impl Batch, settlement: &Settlement) {
        let id = settlement.id;
        let Ok(envelope) = Envelope::decode(&self.record) else { return };
        self.removed_messages += 1;
        let Some(until_ms) = settlement.keep_until_ms else {
            remove_parts(batch, id, &envelope);
            self.gone.insert(id);
            self.removed_bytes += envelope.body.bytes;
            return;
        };
        let mut kept = Vec::with_capacity(self.record.len() + 16);
        let encoded = Envelope { kept_until_ms: Some(until_ms), ..envelope }.encode(&mut kept);
        encoded.expect("every field was stored before");
        // A record that is removed by `SingleDelete` must not be written over.
        batch.remove(Family::Envelope, &key::of_id(id));
        batch.put(Family::Envelope, &key::of_id(id), &kept);
        batch.put(Family::Kept, &key::of_kept(until_ms, id), &[]);
    }
}

/// Writes a job, and its rows where they differ from those that it had.
pub fn put_job(batch: &mut impl Batch, id: MessageId, old: Option<Schedule>, job: &JobRecord) {
    batch.put(Family::Job, &key::of_job(id, job.number), &job.bytes);
    put_rows(batch, (id, job.number), old, Some(job.schedule));
}

/// Puts the records of envelope, job and head, and the chunks from the given one on.
fn put_message<'c>(
    batch: &mut impl Batch,
    id: MessageId,
    [envelope, job, head]: [&[u8]; 3],
    (first, chunks): (u32, impl Iterator<Item = &'c [u8]>),
) {
    for (number, bytes) in (first..).zip(chunks) {
        batch.put(Family::Body, &key::of_body(id, number), bytes);
    }
    batch.put(Family::Head, &key::of_id(id), head);
    batch.put(Family::Envelope, &key::of_id(id), envelope);
    batch.put(Family::Job, &key::of_job(id, 0), job);
}
