//! Operations on messages: hold, release, retry, reroute. Bounce and delete are carried out elsewhere.
//!
//! Owner:    on a running server the home shard, which writes a settlement; on a stopped one the
//!           command, which holds the spool's lock.
//! Promise:  an operation that does not apply to a job leaves the job unchanged. An offline operation
//!           changes all jobs of a message in one synced write.

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::base::MessageId;
use crate::queue::commit::plan::put_job;
use crate::queue::commit::settle::JobRecord;
use crate::queue::fault::CommitFault;
use crate::queue::fault::QueueFault;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::spool::Spool;
use crate::queue::store::families::StoreBatch;
use crate::queue::store::jobs;
use crate::queue::store::jobs::StoredJob;
use crate::queue::store::partition::Partition;

/// The due time of a held job: the end of the year 9999.
pub const HELD_DUE_MS: u64 = 253_402_300_799_000;

/// An operation on one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Make no attempt until the message is released.
    Hold,
    /// End a hold; the message is due now.
    Release,
    /// Make a waiting message due now.
    Retry,
    /// Stop delivery and report the failure to the sender.
    Bounce,
    /// Remove the message without a report.
    Delete,
    /// Override the next hop, in the syntax of a route's `next`; the message is due now unless it is
    /// held. `None`: follow the routes again.
    Reroute(Option<Box<str>>),
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carried {
    Done,
    /// An attempt is in progress. The operation follows it if the message still exists.
    AfterAttempt,
    /// Queued for delivery or being sent; nothing to do.
    UnderWay,
    /// Already in the requested state.
    Already,
}

/// Why an operation was not carried out.
#[derive(Debug, Error)]
pub enum OperationFault {
    #[error("no such message")]
    Unknown,
    #[error("the message is not held")]
    NotHeld,
    #[error("the message is held; release it first")]
    Held,
    #[error("another operation on this message is in progress; try again")]
    Crossed,
    #[error("the message changed meanwhile; try again")]
    Restless,
    #[error("only a running server can bounce; start the server first")]
    NeedsServer,
    #[error("{0}")]
    Commit(#[from] CommitFault),
    #[error("{0}")]
    Queue(#[from] QueueFault),
}

impl Operation {
    /// The job after the operation, no longer filed: it may go another way, or at once. `None`: the
    /// operation changes nothing.
    pub fn applied<'a>(
        &'a self,
        job: &Job<'a>,
        now_ms: u64,
    ) -> Result<Option<Job<'a>>, OperationFault> {
        let job = &Job { filed: None, ..*job };
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

/// The records of all jobs of a message, by number.
pub fn jobs_of(partition: &Partition, id: MessageId) -> Result<Vec<StoredJob>, OperationFault> {
    let found = jobs::jobs_of(partition, id)?;
    if found.is_empty() { Err(OperationFault::Unknown) } else { Ok(found) }
}

/// Carries out an operation on the spool of a stopped server.
pub fn carry_out(
    spool: &Spool,
    id: MessageId,
    operation: &Operation,
    now_ms: u64,
) -> Result<Carried, OperationFault> {
    let partition = spool.partition_of(id)?;
    if !partition.is_writable() {
        return Err(QueueFault::ReadOnly.into());
    }
    if *operation == Operation::Delete {
        partition.remove(id)?;
        return Ok(Carried::Done);
    }
    let mut batch = StoreBatch::new(partition.families(), 0);
    let mut refused = None;
    for StoredJob { record, .. } in jobs_of(partition, id)? {
        let job = Job::decode(&record).map_err(QueueFault::from)?;
        match operation.applied(&job, now_ms) {
            Ok(Some(changed)) => {
                let changed = JobRecord::new(&changed).map_err(QueueFault::from)?;
                put_job(&mut batch, id, Some(job.schedule()), &changed);
            }
            Ok(None) => (),
            Err(fault) => refused = Some(fault),
        }
    }
    match (batch.is_empty(), refused) {
        (true, Some(fault)) => Err(fault),
        (true, None) => Ok(Carried::Already),
        (false, _) => {
            partition.write(batch.into_writes()).map_err(QueueFault::from)?;
            Ok(Carried::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_changes_only_jobs_that_it_applies_to() {
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
