//! Reads of a home: from its effects to its events, on the reader's thread.
//!
//! Promise:  a read answers for each job that it was asked for. A fault of the store is told besides.

use std::sync::Arc;

use crate::base::MessageId;
use crate::base::Wall;
use crate::delivery::event::Errand;
use crate::delivery::event::Found;
use crate::delivery::event::HomeEvent;
use crate::delivery::event::Pass;
use crate::delivery::write::JobImage;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::queue::Partition;
use crate::queue::QueueFault;
use crate::queue::record::job::Job;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::store::jobs;
use crate::queue::store::schedule;
use crate::queue::store::schedule::JobMail;
use crate::queue::store::schedule::Messages;
use crate::queue::store::schedule::Rest;

/// The answer, and the fault of the store if there was one.
pub type Answered = (HomeEvent, Option<QueueFault>);

fn or_unread(read: Result<HomeEvent, QueueFault>, errand: Errand) -> Answered {
    match read {
        Ok(event) => (event, None),
        Err(fault) => (HomeEvent::Unread(errand), Some(fault)),
    }
}

/// When the first row behind those that were read is due.
fn next_of(rest: Rest, rows: &[DueKey]) -> Option<u64> {
    match rest {
        Rest::More => rows.last().map(|row| row.at_ms),
        Rest::Later { at_ms } => Some(at_ms),
        Rest::Nothing => None,
    }
}

pub fn due(store: &Partition, from: DueKey, until_ms: u64, max: usize) -> Answered {
    let partition = store.id();
    let read = schedule::due_keys(store, from, Wall::from_ms(until_ms), max).map(|read| {
        let next_ms = next_of(read.rest, &read.keys);
        HomeEvent::Due { partition, rows: read.keys, next_ms }
    });
    or_unread(read, Errand::Due { partition })
}

pub fn backlog(
    store: &Partition,
    (flow, pass): (FlowKey, Pass),
    from: DueKey,
    (until_ms, max): (u64, usize),
) -> Answered {
    let partition = store.id();
    let start = BacklogKey { flow, due: from };
    let read = schedule::flow_keys(store, start, Wall::from_ms(until_ms), max).map(|read| {
        let rows: Vec<DueKey> = read.keys.into_iter().map(|row| row.due).collect();
        let next_ms = next_of(read.rest, &rows);
        HomeEvent::Backlog { partition, flow, pass, rows, next_ms }
    });
    or_unread(read, Errand::Backlog { partition, flow, pass, from })
}

pub fn flows(store: &Partition, after: Option<FlowKey>, max: usize) -> Answered {
    let partition = store.id();
    let from = match after {
        None => Some(FlowKey::FIRST),
        Some(after) => after.next(),
    };
    let found = from.map_or(Ok(Vec::new()), |from| schedule::find_flows(store, from, max));
    let read = found.map(|found| {
        let is_end = found.len() < max;
        let rows = found.iter();
        let flows =
            rows.map(|one| BacklogKey { flow: one.flow, due: DueKey::at(one.due_ms) }).collect();
        HomeEvent::Flows { partition, flows, is_end }
    });
    or_unread(read, Errand::Flows { partition })
}

/// The numbers of all jobs of a message.
pub fn list(store: &Partition, ticket: u64, id: MessageId) -> Answered {
    let read = jobs::jobs_of(store, id).map(|found| {
        let numbers = found.iter().map(|job| job.number).collect();
        HomeEvent::Listed { ticket, numbers }
    });
    or_unread(read, Errand::List { ticket })
}

/// Numbers for the parts of a job. Without an answer of the store there are none: the split is begun
/// again later.
pub fn numbers(store: &Partition, job: JobRef, wanted: usize) -> Answered {
    match jobs::free_job_numbers(store, job.key.0, wanted) {
        Ok(numbers) => (HomeEvent::Numbers { job, numbers }, None),
        Err(fault) => (HomeEvent::Abandoned { jobs: vec![job] }, Some(fault)),
    }
}

pub fn records(store: &Arc<Partition>, wanted: &[JobRef], bodies: bool) -> Answered {
    let messages = if bodies { Messages::Hold } else { Messages::Leave };
    let mut told = None;
    let mut read = |job: &JobRef| {
        let found = schedule::read_job(&**store, job.key, messages);
        let found = found.and_then(|found| found.map(|mail| found_of(store, mail)).transpose());
        match found {
            Ok(found) => found.unwrap_or(Found::Gone),
            Err(fault) => {
                let is_unread = matches!(fault, QueueFault::Store(_));
                told = Some(fault);
                if is_unread { Found::Unread } else { Found::Damaged }
            }
        }
    };
    let jobs = wanted.iter().map(|job| (*job, read(job))).collect();
    (HomeEvent::Read { jobs }, told)
}

fn found_of(store: &Arc<Partition>, read: JobMail) -> Result<Found, QueueFault> {
    let JobMail { key: (id, _), job, envelope, message } = read;
    let mut image = JobImage::of(&Job::decode(&job)?);
    let body = message.map_or_else(|| MailBody::Stored(Arc::clone(store)), MailBody::Held);
    let mail = Mail::new(store.public_id(id), envelope, body)?;
    let count = mail.envelope().recipients.len() as u32;
    if image.recipients.iter().any(|index| *index >= count) {
        image.recipients = image.recipients.iter().copied().filter(|one| *one < count).collect();
    }
    Ok(Found::Job { mail: Arc::new(mail), image })
}
