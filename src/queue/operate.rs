//! What an operator may order about a message: hold, release, retry, reroute; bounce and delete are
//! named here and done elsewhere.
//!
//! Owner:    on a running server the home shard, which writes a settlement; on a stopped one the
//!           command, which has the spool's lock.
//! Promise:  a job that an order does not fit stands as it was. All jobs of a message that a
//!           stopped server's order changes are changed in one synced write.

use std::fmt;

use rocksdb::WriteBatch;
use serde::Deserialize;
use serde::Serialize;

use crate::base::MessageId;
use crate::queue::fault::CommitFault;
use crate::queue::fault::QueueFault;
use crate::queue::jobs::Jobs;
use crate::queue::jobs::StoredJob;
use crate::queue::key;
use crate::queue::partition::Partition;
use crate::queue::schema::Job;
use crate::queue::schema::JobState;
use crate::queue::settle::JobRecord;
use crate::queue::settle::put_job;
use crate::queue::spool::Spool;

/// When a job that is held is due: never, as far as anyone can tell.
pub const HELD_DUE_MS: u64 = 253_402_300_799_000;

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// No attempt until it is released.
    Hold,
    /// What was held is due now.
    Release,
    /// What waits for its next attempt is due now.
    Retry,
    /// Given up now; the sender is told.
    Bounce,
    /// Removed; nobody is told.
    Delete,
    /// Sent this way from now on, written as in a route, and due now unless it is held; without a
    /// way where its route says again.
    Reroute(Option<Box<str>>),
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carried {
    Done,
    /// It is being sent at this moment. The order is carried out when that attempt has ended, if
    /// the message is still there then.
    AfterAttempt,
    /// In line or being sent already; there was nothing to do.
    UnderWay,
    /// It stood as ordered before.
    Already,
}

/// Why an order was not carried out.
#[derive(Debug)]
pub enum OperationFault {
    Unknown,
    NotHeld,
    Held,
    /// Another order about the same message is being carried out.
    Crossed,
    /// It keeps changing: an attempt after the other.
    Restless,
    /// Only a running server makes bounces.
    NeedsServer,
    Commit(CommitFault),
    Queue(QueueFault),
}

impl fmt::Display for OperationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperationFault::Unknown => "there is no such message",
            OperationFault::NotHeld => "it is not held",
            OperationFault::Held => "it is held; release it",
            OperationFault::Crossed => "another order about it is being carried out, try again",
            OperationFault::Restless => "it was changed meanwhile, try again",
            OperationFault::NeedsServer => "only a running server can bounce; start it first",
            OperationFault::Commit(fault) => return fault.fmt(f),
            OperationFault::Queue(fault) => return fault.fmt(f),
        })
    }
}

impl Operation {
    /// Whether a job that is in line must come back first.
    pub fn calls_back(&self) -> bool {
        !matches!(self, Operation::Release | Operation::Retry)
    }

    /// The job as it stands after the order, or what there is to say instead.
    pub fn applied<'a>(
        &'a self,
        job: &Job<'a>,
        now_ms: u64,
    ) -> Result<Option<Job<'a>>, OperationFault> {
        match (self, job.state) {
            (Operation::Hold, JobState::Held) => Ok(None),
            (Operation::Hold, JobState::Waiting) => {
                Ok(Some(Job { state: JobState::Held, due_ms: HELD_DUE_MS, ..*job }))
            }
            (Operation::Release, JobState::Waiting) => Err(OperationFault::NotHeld),
            (Operation::Release, JobState::Held) => {
                Ok(Some(Job { state: JobState::Waiting, due_ms: now_ms, ..*job }))
            }
            (Operation::Retry, JobState::Held) => Err(OperationFault::Held),
            (Operation::Retry, JobState::Waiting) if job.due_ms <= now_ms => Ok(None),
            (Operation::Retry, JobState::Waiting) => Ok(Some(Job { due_ms: now_ms, ..*job })),
            (Operation::Bounce, _) => Err(OperationFault::NeedsServer),
            (Operation::Delete, _) => Ok(None),
            (Operation::Reroute(to), state) => {
                let is_waiting = state == JobState::Waiting;
                let due_ms = if is_waiting { job.due_ms.min(now_ms) } else { job.due_ms };
                let next_hop = to.as_deref();
                let is_so = (next_hop, due_ms) == (job.next_hop, job.due_ms);
                Ok((!is_so).then_some(Job { next_hop, due_ms, ..*job }))
            }
        }
    }
}

/// The records of all jobs of a message, by number. `Unknown`: there is no such message.
pub fn jobs_of(partition: &Partition, id: MessageId) -> Result<Vec<StoredJob>, OperationFault> {
    let found = Jobs::of(partition, id).collect();
    let found = found.map_err(|cause| OperationFault::Queue(cause.into()))?;
    if found.is_empty() { Err(OperationFault::Unknown) } else { Ok(found) }
}

/// Carries out an order on the spool of a stopped server.
pub fn carry_out(
    spool: &Spool,
    id: MessageId,
    operation: &Operation,
    now_ms: u64,
) -> Result<Carried, OperationFault> {
    let partition = spool.partition_of(id).map_err(OperationFault::Queue)?;
    if !partition.is_writable() {
        return Err(OperationFault::Queue(QueueFault::ReadOnly));
    }
    if *operation == Operation::Delete {
        return partition.remove(id).map(|()| Carried::Done).map_err(OperationFault::Queue);
    }
    let families = partition.families();
    let mut batch = WriteBatch::default();
    let mut refused = None;
    for StoredJob { number, record } in jobs_of(partition, id)? {
        let record_fault = |fault| OperationFault::Queue(QueueFault::Record(fault));
        let job = Job::decode(&record).map_err(record_fault)?;
        match operation.applied(&job, now_ms) {
            Ok(Some(changed)) => {
                let changed = JobRecord::new(&changed).map_err(record_fault)?;
                batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
                put_job(&mut batch, families, id, &changed);
            }
            Ok(None) => (),
            Err(fault) => refused = Some(fault),
        }
    }
    match (batch.is_empty(), refused) {
        (true, Some(fault)) => Err(fault),
        (true, None) => Ok(Carried::Already),
        (false, _) => {
            let written = partition.write(batch);
            written.map(|()| Carried::Done).map_err(|cause| OperationFault::Queue(cause.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_changes_what_it_fits() {
        let waiting = Job { attempts: 3, last_reply: "450 later", ..Job::fresh(500, 1) };
        let held = Job { state: JobState::Held, due_ms: HELD_DUE_MS, ..waiting };
        let due = |job: &Job<'_>, operation: Operation| {
            operation.applied(job, 100).map(|done| done.map(|job| (job.state, job.due_ms)))
        };
        assert!(matches!(due(&waiting, Operation::Hold), Ok(Some((JobState::Held, HELD_DUE_MS)))));
        assert!(matches!(due(&held, Operation::Hold), Ok(None)));
        assert!(matches!(due(&held, Operation::Release), Ok(Some((JobState::Waiting, 100)))));
        assert!(matches!(due(&waiting, Operation::Release), Err(OperationFault::NotHeld)));
        assert!(matches!(due(&waiting, Operation::Retry), Ok(Some((JobState::Waiting, 100)))));
        assert!(matches!(Operation::Retry.applied(&waiting, 900), Ok(None)));
        assert!(matches!(due(&held, Operation::Retry), Err(OperationFault::Held)));
        assert!(matches!(due(&held, Operation::Bounce), Err(OperationFault::NeedsServer)));
        let hold = Operation::Hold;
        let kept = hold.applied(&waiting, 100).ok().flatten().expect("it is changed");
        assert_eq!((kept.attempts, kept.last_reply), (3, "450 later"));
    }

    #[test]
    fn a_way_is_changed_and_changed_back() {
        let away = Operation::Reroute(Some("smtp:other.test:25".into()));
        let back = Operation::Reroute(None);
        let waiting = Job { attempts: 3, ..Job::fresh(500, 1) };
        let sent = away.applied(&waiting, 100).ok().flatten().expect("it is changed");
        assert_eq!((sent.next_hop, sent.due_ms), (Some("smtp:other.test:25"), 100));
        assert_eq!((sent.attempts, sent.state), (3, JobState::Waiting));
        assert!(matches!(away.applied(&sent, 200), Ok(None)), "it goes there already");
        let again = back.applied(&sent, 50).ok().flatten().expect("it is changed");
        assert_eq!((again.next_hop, again.due_ms), (None, 50));
        assert!(matches!(back.applied(&again, 50), Ok(None)));
        let held = Job { state: JobState::Held, due_ms: HELD_DUE_MS, ..waiting };
        let sent = away.applied(&held, 100).ok().flatten().expect("it is changed");
        assert_eq!((sent.state, sent.due_ms), (JobState::Held, HELD_DUE_MS), "and held as before");
    }
}
