//! Reads of a home: from its effects to its events, on the reader's thread.
//!
//! Promise:  a read answers for each job that it was asked for. A fault of the store is told besides.

use std::sync::Arc;

use crate::base::MessageId;
use crate::base::Wall;
use crate::delivery::event::Errand;
use crate::delivery::event::Found;
use crate::delivery::event::HomeEvent;
use crate::delivery::write::JobImage;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::queue::QueueFault;
use crate::queue::record::job::Job;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::record::outer::RecordFault;
use crate::queue::store::jobs::free_job_numbers;
use crate::queue::store::jobs::jobs_of;
use crate::queue::store::records::Records;
use crate::queue::store::schedule::JobMail;
use crate::queue::store::schedule::Messages;
use crate::queue::store::schedule::Rest;
use crate::queue::store::schedule::due_keys;
use crate::queue::store::schedule::find_flows;
use crate::queue::store::schedule::flow_keys;
use crate::queue::store::schedule::read_job;

/// Carries out an errand. `mail_of` makes mail of an envelope, and of the message if it was read. Also
/// answers the fault of the store, if there was one.
pub fn read(
    store: &impl Records,
    errand: Errand,
    mail_of: impl Fn(MessageId, Arc<[u8]>, Option<Arc<[u8]>>) -> Result<Mail, RecordFault>,
) -> (HomeEvent, Option<QueueFault>) {
    let mut told = None;
    match event_of(store, &errand, mail_of, &mut told) {
        Ok(event) => (event, told),
        Err(fault) => (HomeEvent::Unread(errand), Some(fault)),
    }
}

/// `told`: the fault of a job that cannot be read, while others can.
fn event_of(
    store: &impl Records,
    errand: &Errand,
    mail_of: impl Fn(MessageId, Arc<[u8]>, Option<Arc<[u8]>>) -> Result<Mail, RecordFault>,
    told: &mut Option<QueueFault>,
) -> Result<HomeEvent, QueueFault> {
    Ok(match *errand {
        Errand::Due { partition, from, until_ms, max } => {
            let read = due_keys(store, from, Wall::from_ms(until_ms), max)?;
            let next_ms = next_of(read.rest, &read.keys);
            HomeEvent::Due { partition, rows: read.keys, next_ms }
        }
        Errand::Backlog { partition, flow, pass, from, until_ms, max } => {
            let from = BacklogKey { flow, due: from };
            let read = flow_keys(store, from, Wall::from_ms(until_ms), max)?;
            let rows: Vec<DueKey> = read.keys.into_iter().map(|row| row.due).collect();
            let next_ms = next_of(read.rest, &rows);
            HomeEvent::Backlog { partition, flow, pass, rows, next_ms }
        }
        Errand::Flows { partition, after, max } => {
            let from = after.map_or(Some(FlowKey::FIRST), FlowKey::next);
            let flows = from.map_or(Ok(Vec::new()), |from| find_flows(store, from, max))?;
            let is_end = flows.len() < max;
            HomeEvent::Flows { partition, flows, is_end }
        }
        Errand::Jobs { ref jobs, bodies, .. } => {
            let messages = if bodies { Messages::Hold } else { Messages::Leave };
            let mut found_of = |job: &JobRef| {
                let read = read_job(store, job.key, messages);
                let found =
                    read.and_then(|read| read.map(|read| found(read, &mail_of)).transpose());
                found.map(|found| found.unwrap_or(Found::Gone)).unwrap_or_else(|fault| {
                    let is_unread = matches!(fault, QueueFault::Store(_));
                    *told = Some(fault);
                    if is_unread { Found::Unread } else { Found::Damaged }
                })
            };
            HomeEvent::Read { jobs: jobs.iter().map(|job| (*job, found_of(job))).collect() }
        }
        Errand::Numbers { job, wanted } => {
            let numbers = free_job_numbers(store, job.key.0, wanted)?;
            HomeEvent::Numbers { job, numbers }
        }
        Errand::List { ticket, id } => {
            let numbers = jobs_of(store, id)?.iter().map(|job| job.number).collect();
            HomeEvent::Listed { ticket, numbers }
        }
    })
}

/// When the first row behind those that were read is due.
fn next_of(rest: Rest, rows: &[DueKey]) -> Option<u64> {
    match rest {
        Rest::More => rows.last().map(|row| row.at_ms),
        Rest::Later { at_ms } => Some(at_ms),
        Rest::Nothing => None,
    }
}

fn found(
    read: JobMail,
    mail_of: impl Fn(MessageId, Arc<[u8]>, Option<Arc<[u8]>>) -> Result<Mail, RecordFault>,
) -> Result<Found, QueueFault> {
    let JobMail { key: (id, _), job, envelope, message } = read;
    let mut image = JobImage::of(&Job::decode(&job)?);
    let mail = mail_of(id, envelope, message)?;
    let count = mail.envelope().recipients.len() as u32;
    if image.recipients.iter().any(|index| *index >= count) {
        image.recipients = image.recipients.iter().copied().filter(|one| *one < count).collect();
    }
    Ok(Found::Job { mail: Arc::new(mail), image })
}
