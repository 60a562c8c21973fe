//! The lane between a shard and a commit thread: orders one way, completions the other.
//!
//! Owner:    shared by one `Committer` and one `CommitThread`; no locks.
//! Promise:  every order but `Stop` is answered exactly once, or the lane is seen to be `gone`.
//!           Chunks travel back with the answer.
//! Order:    first come, first served, except urgent orders: they go first, but never fill a whole batch
//!           while others wait.
//! Bounds:   `COMMIT_WAITERS_MAX` orders without an answer and `UNSETTLED_MAX` urgent ones, and room
//!           for them, `Stop` and the answers.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam::channel::Receiver;
use crossbeam::channel::Sender;
use crossbeam::channel::at;
use crossbeam::channel::never;
use crossbeam::queue::ArrayQueue;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::Slice;
use crate::base::SpoolNumber;
use crate::base::limits::COMMIT_WAITERS_MAX;
use crate::base::limits::UNSETTLED_MAX;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::settle::Settlement;
use crate::queue::fault::CommitFault;
use crate::queue::record::rows::Row;

/// Wakes the shard. Called from the commit thread, once per batch.
pub type Ring = Arc<dyn Fn() + Send + Sync>;

/// The ticket of `Stop`, which is not answered.
pub const NO_TICKET: u32 = u32::MAX;

/// One order to the commit thread.
pub struct Work {
    pub ticket: u32,
    pub order: CommitOrder,
}

/// An order of a shard to its commit thread.
pub enum CommitOrder {
    /// A chunk of a large body. The mark of the stream is written with chunk 0.
    Chunk { id: MessageId, number: u32, slice: Slice },
    /// A finished message: head, the rest of the body, envelope, job and schedule.
    Finish(Parcel),
    /// Several finished messages in one batch: all of them become durable, or none.
    FinishAll(Vec<Parcel>),
    /// Removal of the chunks of a body that will not be finished.
    Abort { id: MessageId, chunks: u32 },
    /// Removal of a whole message.
    Delete(MessageId),
    /// The end of a job, or its change.
    Settle(Arc<Settlement>),
    /// New rows in `backlog` for jobs.
    File(Arc<[Filing]>),
    /// Removal of rows that do not follow from any record.
    RemoveLeftovers(Vec<Row>),
    /// The last order.
    Stop,
}

impl CommitOrder {
    /// Whether the order makes received messages durable.
    pub fn is_accept(&self) -> bool {
        matches!(self, CommitOrder::Finish(_) | CommitOrder::FinishAll(_))
    }
}

/// The outcome of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Microseconds of the write with its sync.
    pub write_us: u32,
    /// Messages in the batch.
    pub batch: u32,
    /// The order is the first of the batch that accepts mail, for figures counted once per batch.
    pub leads: bool,
    /// Whether the message or job of a removal or settlement was there; of filings, all of them.
    pub found: bool,
}

pub struct Completion {
    pub ticket: u32,
    pub outcome: Result<Done, CommitFault>,
    pub back: Back,
}

/// Memory that returns to the shard.
pub enum Back {
    Nothing,
    Slice(Slice),
    Parcel(Parcel),
    Parcels(Vec<Parcel>),
}

const RUNNING: u8 = 0;
const STOPPING: u8 = 1;
const FAILED: u8 = 2;

/// Sums since the start, for metrics.
#[derive(Debug, Default)]
pub struct CommitCounts {
    pub batches: AtomicU64,
    pub syncs: AtomicU64,
    /// Orders that the thread has taken.
    pub orders: AtomicU64,
    pub messages: AtomicU64,
    pub chunks: AtomicU64,
    pub write_us: AtomicU64,
    /// Batches that were not written, for lack of space, for damage, and for anything else.
    pub faults_no_space: AtomicU64,
    pub faults_damage: AtomicU64,
    pub faults_other: AtomicU64,
}

/// Every sender of orders is gone.
pub struct NoSender;

/// The commit thread's end of the lane.
pub struct Orders {
    plain: Receiver<Work>,
    urgent: Receiver<Work>,
}

impl Orders {
    /// Waits for the next order. `None`: there was none until then.
    pub fn wait(&self, until: Option<Instant>) -> Result<Option<Work>, NoSender> {
        if let Some(work) = self.next(true) {
            return Ok(Some(work));
        }
        let timeout = until.map_or_else(never, at);
        let work = crossbeam::channel::select! {
            recv(self.urgent) -> work => work,
            recv(self.plain) -> work => work,
            recv(timeout) -> _ => return Ok(None),
        };
        work.map(Some).map_err(|_| NoSender)
    }

    pub fn next_urgent(&self) -> Option<Work> {
        self.urgent.try_recv().ok()
    }

    /// The next waiting order, urgent ones first or last.
    pub fn next(&self, urgent_first: bool) -> Option<Work> {
        let (first, second) = match urgent_first {
            true => (&self.urgent, &self.plain),
            false => (&self.plain, &self.urgent),
        };
        first.try_recv().or_else(|_| second.try_recv()).ok()
    }
}

/// The lane itself.
pub struct Lane {
    pub partition: PartitionId,
    pub spool: SpoolNumber,
    pub newest: Option<MessageId>,
    pub sender: Sender<Work>,
    /// For settlements of deliveries that a crash would repeat.
    pub urgent: Sender<Work>,
    pub completions: ArrayQueue<Completion>,
    pub counts: CommitCounts,
    bell: OnceLock<Ring>,
    claimed: AtomicBool,
    state: AtomicU8,
    gone: AtomicBool,
    /// Batches begun plus batches ended: odd during a batch.
    batches_and_ends: AtomicU64,
}

impl Lane {
    pub fn new(
        partition: PartitionId,
        spool: SpoolNumber,
        newest: Option<MessageId>,
    ) -> (Arc<Lane>, Orders) {
        let (sender, plain) = crossbeam::channel::bounded(COMMIT_WAITERS_MAX + 1);
        let (urgent, urgent_orders) = crossbeam::channel::bounded(UNSETTLED_MAX);
        let lane = Lane {
            partition,
            spool,
            newest,
            sender,
            urgent,
            completions: ArrayQueue::new(COMMIT_WAITERS_MAX + UNSETTLED_MAX),
            counts: CommitCounts::default(),
            bell: OnceLock::new(),
            claimed: AtomicBool::new(false),
            state: AtomicU8::new(RUNNING),
            gone: AtomicBool::new(false),
            batches_and_ends: AtomicU64::new(0),
        };
        (Arc::new(lane), Orders { plain, urgent: urgent_orders })
    }

    /// Makes the caller the only shard of this lane.
    pub fn claim(&self, ring: Ring) {
        let before = self.claimed.swap(true, Ordering::AcqRel);
        crate::invariant!(!before, "partition {} has two committers", self.partition);
        // Claimed once, so set once.
        let _ = self.bell.set(ring);
    }

    pub fn ring(&self) {
        if let Some(ring) = self.bell.get() {
            ring();
        }
    }

    /// Why no more orders are taken.
    pub fn fault(&self) -> Option<CommitFault> {
        match self.state.load(Ordering::Acquire) {
            RUNNING => None,
            STOPPING => Some(CommitFault::Stopped),
            _ => Some(CommitFault::Failed),
        }
    }

    pub fn set_failed(&self) {
        self.state.store(FAILED, Ordering::Release);
    }

    pub fn set_stopping(&self) {
        // A failed lane stays failed.
        let _ = self.state.compare_exchange(RUNNING, STOPPING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The thread has ended: orders without an answer get none.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The commit thread begins a batch.
    pub fn begin_batch(&self) {
        self.batches_and_ends.fetch_add(1, Ordering::Relaxed);
    }

    /// The batch has been written, or has failed.
    pub fn end_batch(&self) {
        self.batches_and_ends.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the present batch. `None` between batches.
    pub fn batch(&self) -> Option<u64> {
        let count = self.batches_and_ends.load(Ordering::Relaxed);
        (!count.is_multiple_of(2)).then_some(count)
    }

    /// Answers one order.
    pub fn complete(&self, completion: Completion) {
        if completion.ticket == NO_TICKET {
            return;
        }
        let room = self.completions.push(completion).is_ok();
        crate::invariant!(room, "partition {} has more answers than tickets", self.partition);
    }
}

/// Access to a commit thread, handed to the shard that will own the `Committer`.
#[derive(Clone)]
pub struct CommitHandle(pub(crate) Arc<Lane>);

impl CommitHandle {
    /// Sums since the start.
    pub fn counts(&self) -> &CommitCounts {
        &self.0.counts
    }

    /// Refuses new messages from now on. Messages in progress are finished.
    pub fn refuse_new(&self) {
        self.0.set_stopping();
    }
}
