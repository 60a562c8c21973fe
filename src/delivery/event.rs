//! What the home is told, and what it wants to be done.
//!
//! Promise:  each effect that names a job is answered by one event that names the same incarnation,
//!           also when its task ends without an answer (`HomeEvent::Abandoned`).

use std::sync::Arc;
use std::time::Duration;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::ShardId;
use crate::base::Wall;
use crate::base::backoff::RetrySchedule;
use crate::delivery::job::Life;
use crate::delivery::job::Resolved;
use crate::delivery::operation::Answered;
use crate::delivery::operation::Part;
use crate::delivery::write::JobImage;
use crate::delivery::write::Write;
use crate::handoff::frames::Frame;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::Outcome;
use crate::queue::admin::operate::Operation;
use crate::queue::record::job::Schedule;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::record::rows::Row;

/// The settings of a home.
#[derive(Clone, Debug)]
pub struct HomePolicy {
    /// Counts the reloads. What was resolved under an earlier one is resolved again.
    pub generation: u32,
    /// `false`: accepted mail stays in the queue.
    pub enabled: bool,
    pub retry: RetrySchedule,
    /// The age at which the sender is told of a delay.
    pub warning: Option<Duration>,
    /// Of mail without a route.
    pub life: Life,
    /// Bytes of this home.
    pub memory_max: usize,
}

/// Why rows of the index by destination are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// To send them.
    Flow,
    /// To see whether they still belong to their flow.
    Refile,
}

#[derive(Debug)]
pub enum HomeEvent {
    /// The first event. `refile`: the policy differs from the one that jobs were filed under.
    Start {
        refile: bool,
    },
    /// A message has become durable with its job 0.
    Fresh {
        mail: Arc<Mail>,
        recipients: u32,
        due: Wall,
    },
    /// Rows of `due` in their order, and when the first one behind them is due.
    Due {
        partition: PartitionId,
        rows: Vec<DueKey>,
        next_ms: Option<u64>,
    },
    /// The same of one flow in `backlog`.
    Backlog {
        partition: PartitionId,
        flow: FlowKey,
        pass: Pass,
        rows: Vec<DueKey>,
        next_ms: Option<u64>,
    },
    /// The first row of each flow, and whether there are more flows.
    Flows {
        partition: PartitionId,
        flows: Vec<BacklogKey>,
        is_end: bool,
    },
    /// The store could not be read, or a bug has ended the task.
    Unread(Errand),
    Read {
        jobs: Vec<(JobRef, Found)>,
    },
    /// The generation of the policy that it was resolved under.
    Resolved {
        job: JobRef,
        generation: u32,
        resolved: Resolved,
    },
    /// No route is known without a lookup.
    Unknown {
        job: JobRef,
    },
    /// Numbers that no job of the message has.
    Numbers {
        job: JobRef,
        numbers: Vec<u16>,
    },
    Settle(Outcome),
    /// `Grant` or `Missing`.
    Frame(Frame),
    Written {
        job: JobRef,
        written: Written,
    },
    Filed {
        jobs: Vec<(JobRef, Written)>,
    },
    Operate {
        ticket: u64,
        id: MessageId,
        operation: Operation,
    },
    /// All jobs of the message.
    Listed {
        ticket: u64,
        numbers: Vec<u16>,
    },
    /// Whether there was a message without jobs to be removed.
    Removed {
        ticket: u64,
        removed: bool,
    },
    /// `refile`: routes or destination sections differ.
    Reload {
        policy: HomePolicy,
        refile: bool,
    },
    /// Outcomes of a partition wait for its disk, or no longer do.
    Behind {
        partition: PartitionId,
        is_behind: bool,
    },
    /// A bug has ended a task that was to answer.
    Abandoned {
        jobs: Vec<JobRef>,
    },
    Drain,
    /// Time has passed.
    Tick,
}

/// A reading of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Rows from `from` on that are due until then, no more than `max`.
    Due {
        partition: PartitionId,
        from: DueKey,
        until_ms: u64,
        max: usize,
    },
    /// The same of one flow.
    Backlog {
        partition: PartitionId,
        flow: FlowKey,
        pass: Pass,
        from: DueKey,
        until_ms: u64,
        max: usize,
    },
    Flows {
        partition: PartitionId,
        after: Option<FlowKey>,
        max: usize,
    },
    /// Records and envelopes, and bodies that are short enough to be held.
    Jobs {
        partition: PartitionId,
        jobs: Vec<JobRef>,
        bodies: bool,
    },
    /// Numbers for so many parts of a job.
    Numbers {
        job: JobRef,
        wanted: usize,
    },
    /// The numbers of all jobs of a message.
    List {
        ticket: u64,
        id: MessageId,
    },
}

impl Errand {
    pub fn partition(&self) -> PartitionId {
        match self {
            Errand::Due { partition, .. }
            | Errand::Backlog { partition, .. }
            | Errand::Flows { partition, .. }
            | Errand::Jobs { partition, .. } => *partition,
            Errand::Numbers { job, .. } => job.key.0.partition(),
            Errand::List { id, .. } => id.partition(),
        }
    }
}

/// What the store has of a job.
#[derive(Debug)]
pub enum Found {
    Job {
        mail: Arc<Mail>,
        image: JobImage,
    },
    Gone,
    Damaged,
    /// The store could not be read.
    Unread,
}

/// What has become of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// An operation has given the job this schedule.
    Changed(Schedule),
    /// An operation has left the job as it was, with this schedule.
    Unchanged(Part, Schedule),
    /// The job has no record.
    NotFound,
    DiskFull,
    /// The partition takes no more writes until a restart.
    Failed,
}

#[derive(Debug)]
pub enum HomeEffect {
    Read(Errand),
    /// Asks for a route that is known without a lookup; otherwise the answer is `Unknown`. See
    /// `Home::question`.
    Resolve(JobRef),
    LookUp(JobRef),
    Send {
        to: ShardId,
        frame: Frame,
    },
    Write(Arc<Write>),
    File {
        partition: PartitionId,
        jobs: Vec<(JobRef, Schedule)>,
    },
    /// A row that the record of its job does not have is to be removed.
    Leftover {
        partition: PartitionId,
        row: Row,
    },
    /// Remove a message that is kept after its end.
    Remove {
        ticket: u64,
        id: MessageId,
    },
    Answer {
        ticket: u64,
        answer: Answered,
    },
    /// All jobs are filed under the present policy.
    Refiled,
    Log(Note),
}

/// What an operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The record of a job cannot be decoded.
    Damaged(JobRef),
    /// An owner does not know jobs that were sent to it: a bug.
    Missing { jobs: usize },
    /// A message needs more jobs than a message can have.
    TooManyParts(PublicId),
    /// The wall clock has jumped forward: nothing is given up for its age for a time.
    ClockJumped { by: Duration },
    /// More flows are on disk than are known in memory.
    FlowsFull,
    /// A partition takes no more writes.
    Failed(PartitionId),
}
