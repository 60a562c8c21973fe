//! Changes of jobs, as the home hands them to the commit thread.

use std::sync::Arc;

use crate::base::Wall;
use crate::event::EventList;
use crate::event::record::Fact;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::Hop;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::queue::admin::operate::Operation;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::event_log;
use crate::queue::record::job::Indexes;
use crate::queue::record::job::Job as StoredJob;
use crate::queue::record::job::JobState;
use crate::queue::record::job::Schedule;
use crate::queue::record::ledger::Tally;
use crate::wire::dsn::Kind;

/// A change of one job, for the commit thread.
#[derive(Debug)]
pub struct Write {
    pub job: JobRef,
    pub mail: Arc<Mail>,
    pub next: Next,
    pub tally: Tally,
    /// What is reported to the sender, in the same batch.
    pub told: Vec<Told>,
    /// For the log, once it is written.
    pub settled: Option<Settled>,
    /// For the event log: a change that is not the end of an attempt.
    pub changed: Option<Changed>,
    /// A server may have taken the mail: it is written before what can wait.
    pub is_sent: bool,
    /// The operation that it is for.
    pub ticket: Option<u64>,
    /// Counts the delivery until the write is durable, or given up.
    pub unsettled: Option<Unsettled>,
}

#[derive(Debug)]
pub enum Next {
    /// Every recipient of the job has its final state.
    End,
    Again(JobImage),
    /// The job becomes these parts, whose numbers no other job of the message has.
    Split(Vec<JobImage>),
    /// An operation is applied to the record.
    Operation(Operation),
}

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobImage {
    pub number: u16,
    pub state: JobState,
    pub schedule: Schedule,
    pub attempts: u32,
    pub last_attempt: Wall,
    pub last_reply: Box<str>,
    pub warned: bool,
    pub next_hop: Option<Arc<str>>,
    pub recipients: Box<[u32]>,
}

impl JobImage {
    /// A job as it was read.
    pub fn of(job: &StoredJob<'_>) -> JobImage {
        JobImage {
            number: job.number,
            state: job.state,
            schedule: job.schedule(),
            attempts: job.attempts,
            last_attempt: Wall::from_ms(job.last_attempt_ms),
            last_reply: job.last_reply.into(),
            warned: job.warned,
            next_hop: job.next_hop.map(Arc::from),
            recipients: job.recipients.iter().collect(),
        }
    }

    /// Hands the stored form to `encode`.
    pub fn stored<T>(&self, encode: impl FnOnce(&StoredJob<'_>) -> T) -> T {
        let indexes: Vec<u8> = self.recipients.iter().flat_map(|i| i.to_be_bytes()).collect();
        encode(&StoredJob {
            number: self.number,
            state: self.state,
            warned: self.warned,
            attempts: self.attempts,
            last_attempt_ms: self.last_attempt.as_ms(),
            due_ms: self.schedule.due_ms,
            last_reply: &self.last_reply,
            next_hop: self.next_hop.as_deref(),
            filed: self.schedule.filed,
            recipients: Indexes::Stored(&indexes),
        })
    }
}

/// Recipients that were cancelled or held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub is_cancelled: bool,
    pub recipients: Box<[u32]>,
    pub at: Wall,
}

impl Changed {
    pub fn event(&self, mail: &Mail) -> EventList {
        let mut list = EventList::default();
        let fact = if self.is_cancelled { Fact::Cancelled } else { Fact::Held };
        let (at, indexes) = ((mail.id, self.at.as_ms()), self.recipients.iter().copied());
        event_log::push_change(&mut list, at, &mail.envelope(), indexes, fact);
        list
    }
}

/// What is reported of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub kind: Kind,
    pub index: u32,
    /// An expiry has the words of the last attempt, and `Cause::Expired`.
    pub answer: Answer,
}

/// The end of an attempt, or what takes its place.
#[derive(Clone, Debug)]
pub struct Ended {
    pub ends: Vec<(RecipientEnd, Answer)>,
    pub attempt: Box<Attempt>,
    /// Whether it counts as an attempt.
    pub counts: bool,
    /// The job is not due before.
    pub not_before: Wall,
    pub is_sent: bool,
}

/// An attempt that has become durable, for the log.
#[derive(Debug)]
pub struct Settled {
    pub ended: Ended,
    pub hop: Option<Arc<Hop>>,
    /// With this one.
    pub attempts: u32,
    /// When it was due.
    pub due: Wall,
    /// When the deferred recipients are tried again.
    pub again: Option<Wall>,
    pub expiry: Wall,
    pub now: Wall,
}
