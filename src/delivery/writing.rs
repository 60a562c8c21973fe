//! Writes of a home: one change of a job, with its reports, through the committer of its partition.
//!
//! Promise:  what is logged and counted of an attempt is durable. After a full disk the home orders the
//!           same write again, and its reports are made anew.

use std::rc::Rc;
use std::sync::Arc;

use crate::base::Wall;
use crate::delivery::event::Written;
use crate::delivery::operation::Part;
use crate::delivery::operation::Refusal;
use crate::delivery::report::Note;
use crate::delivery::report::Reporter;
use crate::delivery::report::Reports;
use crate::delivery::report::Story;
use crate::delivery::write::Changed;
use crate::delivery::write::JobImage;
use crate::delivery::write::Next;
use crate::delivery::write::Write;
use crate::event::EventList;
use crate::handoff::Reader;
use crate::handoff::frames::JobKey;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::Stage;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::Partition;
use crate::queue::QueueFault;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Report;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::job::Job;
use crate::queue::record::job::Schedule;
use crate::queue::record::outer::RecordFault;
use crate::queue::store::schedule;
use crate::queue::store::schedule::Messages;
use crate::route::delivery::DeliveryPolicy;
use crate::wire::classify::Classifier;

/// A partition that lives on this shard.
#[derive(Clone)]
pub struct Store {
    pub committer: Committer,
    pub partition: Arc<Partition>,
}

/// What writing needs.
pub struct Desk {
    pub reporter: Reporter,
    pub reader: Reader,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
}

impl Desk {
    /// Writes a change. The reports that have become durable with it are mail of this shard.
    pub async fn write(
        &self,
        store: &Store,
        write: &Write,
        policy: &DeliveryPolicy,
        schedule_now: Wall,
    ) -> (Written, Vec<Report>) {
        let change = match &write.next {
            Next::End => JobChange::End,
            Next::Again(image) => match record_of(image) {
                Ok(record) => JobChange::Again(record),
                Err(_) => return (Written::Failed, Vec::new()),
            },
            Next::Split(parts) => match parts.iter().map(record_of).collect() {
                Ok(records) => JobChange::Split(records),
                // A part that cannot be written: the job stays as it was.
                Err(_) => return (Written::NotFound, Vec::new()),
            },
            Next::Operation(operation) => {
                let written = self.operate(store, write, operation, schedule_now).await;
                return (written, Vec::new());
            }
        };
        let Reports { list: reports, notes, held } = self.reports(store, write, policy).await;
        let events = events_of(write, &policy.replies);
        let settlement = Arc::new(settlement(write, change, reports, events));
        let written = settle(&store.committer, write, &settlement).await;
        drop(held);
        if written != Written::Done {
            return (written, Vec::new());
        }
        self.tell(write, &policy.replies, &notes);
        let reports = Arc::into_inner(settlement).map(|done| done.reports);
        (written, reports.unwrap_or_default())
    }

    async fn reports(&self, store: &Store, write: &Write, policy: &DeliveryPolicy) -> Reports {
        let Some(settled) = write.settled.as_ref().filter(|_| !write.told.is_empty()) else {
            return Reports::default();
        };
        let story = Story {
            mail: &write.mail,
            envelope: &write.mail.envelope(),
            attempt: &settled.ended.attempt,
            tried_ms: settled.ended.counts.then(|| settled.now.as_ms()),
            expires_ms: settled.expiry.as_ms(),
            now_ms: settled.now.as_ms(),
            committer: &store.committer,
            policy,
        };
        self.reporter.reports(&story, &write.told).await
    }

    /// One log record for each recipient, and the counts.
    fn tell(&self, write: &Write, rules: &Classifier, notes: &[Note]) {
        if let Some(settled) = &write.settled {
            if write.tally.delivered > 0 {
                let age_ms = settled.now.ms_since(write.mail.received);
                self.histograms.record(Stage::Delivered, age_ms.saturating_mul(1000));
            }
            settled.tell(&write.mail, rules, |outcome, category, record| {
                self.observed.metrics.attempts_total.add(outcome, category, 1);
                record.emit();
            });
        }
        notes.iter().for_each(|note| note.emit(write.mail.public_id));
    }

    /// Applies an operation to the record as it is stored.
    async fn operate(
        &self,
        store: &Store,
        write: &Write,
        operation: &Operation,
        now: Wall,
    ) -> Written {
        let (partition, key) = (Arc::clone(&store.partition), write.job.key);
        let operation = operation.clone();
        let read = self.reader.run(move || apply(&partition, key, &operation, now)).await;
        let (record, held) = match read {
            Some(Ok(Applied::Record(record, held))) => (record, held),
            Some(Ok(Applied::Unchanged(part, schedule))) => {
                return Written::Unchanged(part, schedule);
            }
            Some(Ok(Applied::Gone)) => return Written::NotFound,
            // It is tried again as after a full disk.
            Some(Err(_)) | None => return Written::DiskFull,
        };
        let schedule: Schedule = record.schedule;
        let events = held.map_or_else(EventList::default, |held| held.event(&write.mail));
        let change = JobChange::Again(record);
        let settlement = Arc::new(settlement(write, change, Vec::new(), events));
        match settle(&store.committer, write, &settlement).await {
            Written::Done => Written::Changed(schedule),
            other => other,
        }
    }
}

fn record_of(image: &JobImage) -> Result<JobRecord, RecordFault> {
    image.stored(JobRecord::new)
}

fn events_of(write: &Write, rules: &Classifier) -> EventList {
    match (&write.settled, &write.changed) {
        (Some(settled), _) => settled.events(&write.mail, rules),
        (None, Some(changed)) => changed.event(&write.mail),
        (None, None) => EventList::default(),
    }
}

fn settlement(
    write: &Write,
    change: JobChange,
    reports: Vec<Report>,
    events: EventList,
) -> Settlement {
    let (id, job) = write.job.key;
    Settlement {
        id,
        job,
        change,
        reports,
        events,
        tally: write.tally,
        is_order: write.ticket.is_some(),
        keep_until_ms: None,
        envelope: Some(write.mail.stored_envelope()),
    }
}

async fn settle(committer: &Committer, write: &Write, settlement: &Arc<Settlement>) -> Written {
    let settlement = Arc::clone(settlement);
    // A server may have taken the mail, or an operator waits: before what can wait.
    let written = match write.is_sent || write.ticket.is_some() {
        true => committer.settle(settlement).await,
        false => committer.settle_in_turn(settlement).await,
    };
    written_of(written)
}

/// The answer to an order.
pub fn written_of(written: Result<bool, CommitFault>) -> Written {
    match written {
        Ok(true) => Written::Done,
        Ok(false) => Written::NotFound,
        Err(CommitFault::SpoolFull | CommitFault::Hung) => Written::DiskFull,
        Err(_) => Written::Failed,
    }
}

/// What an operation makes of a record.
enum Applied {
    /// With the recipients that it holds.
    Record(JobRecord, Option<Changed>),
    Unchanged(Part, Schedule),
    Gone,
}

fn apply(
    partition: &Partition,
    key: JobKey,
    operation: &Operation,
    now: Wall,
) -> Result<Applied, QueueFault> {
    let Some(read) = schedule::read_job(partition, key, Messages::Leave)? else {
        return Ok(Applied::Gone);
    };
    let job = Job::decode(&read.job)?;
    let part = match operation.applied(&job, now.as_ms()) {
        Ok(Some(again)) => {
            let recipients = again.recipients.iter().collect();
            let held = Changed { is_cancelled: false, recipients, at: Wall::now() };
            let held = Some(held).filter(|_| *operation == Operation::Hold);
            return Ok(Applied::Record(JobRecord::new(&again)?, held));
        }
        Ok(None) => Part::Already,
        Err(OperationFault::NotHeld) => Part::Refused(Refusal::NotHeld),
        Err(OperationFault::Held) => Part::Refused(Refusal::Held),
        Err(_) => Part::Refused(Refusal::Failed),
    };
    Ok(Applied::Unchanged(part, job.schedule()))
}
