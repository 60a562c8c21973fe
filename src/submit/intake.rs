//! The intake of a shard: its partitions, its limits and its buffers. See `incoming` for a message.
//!
//! Owner:    one per shard; never leaves it.
//! Bounds:   the chunk pool limits bodies in progress together with their large header blocks, the
//!           gateway limits submissions of other threads.
//!           At most `BUFFERS_IDLE_MAX` idle buffers are kept.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use crate::base::ChunkPool;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::SUBMISSIONS_UNDER_WAY_MAX;
use crate::directory::Identity;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::SpaceWatch;
use crate::submit::envelope::EnvelopeBuf;
use crate::submit::head::HeadPolicy;
use crate::submit::head::RawHead;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::rules;
use crate::submit::signature::Signer;
use crate::submit::submission::Placement;
use crate::submit::submission::Submission;

/// Buffers kept for the next messages, and the largest one worth keeping.
const BUFFERS_IDLE_MAX: usize = 256;
const BUFFER_BYTES_KEPT_MAX: usize = 8 << 10;
/// Recipients of an envelope worth keeping.
const RECIPIENTS_KEPT_MAX: usize = 64;

/// Chunks that a body under way may hold for long: one that fills and one that waits for the store.
const CHUNKS_PER_BODY: usize = 2;

/// A header block is in memory as it came and as it was edited, until the commit. Up to so many bytes
/// of it do not count: usual ones are smaller, and a body is not to be refused for one.
const HEAD_COPIES: usize = 2;
const HEAD_BYTES_FREE: usize = 8 << 10;

/// The intake of one shard.
pub struct Intake {
    pub(super) pool: Rc<ChunkPool>,
    committers: Vec<Committer>,
    space: Arc<SpaceWatch>,
    pub(super) observed: Arc<ShardObserved>,
    pub(super) histograms: Rc<Histograms>,
    pub(super) signer: RefCell<Option<Rc<dyn Signer>>>,
    /// The partition whose turn is next.
    turn: Cell<usize>,
    bodies: Cell<usize>,
    /// Memory of the large header blocks of these bodies.
    head_bytes: Cell<usize>,
    /// Submissions of other threads under way.
    submissions: Cell<usize>,
    draining: Cell<bool>,
    /// Who waits for one of them to end.
    submission_ended: Cell<Option<Waker>>,
    /// Memory of the batches under way.
    pub(super) batch_bytes: Cell<usize>,
    envelopes: RefCell<Vec<EnvelopeBuf>>,
    buffers: RefCell<Vec<Vec<u8>>>,
}

/// What an intake is made of.
pub struct IntakeParts {
    pub pool: Rc<ChunkPool>,
    /// The partitions whose home this shard is.
    pub committers: Vec<Committer>,
    pub space: Arc<SpaceWatch>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
}

impl Intake {
    pub fn new(parts: IntakeParts) -> Rc<Intake> {
        let IntakeParts { pool, committers, space, observed, histograms } = parts;
        assert!(!committers.is_empty(), "a shard that takes mail is home to a partition");
        Rc::new(Intake {
            pool,
            committers,
            space,
            observed,
            histograms,
            signer: RefCell::new(None),
            turn: Cell::new(0),
            bodies: Cell::new(0),
            head_bytes: Cell::new(0),
            submissions: Cell::new(0),
            draining: Cell::new(false),
            submission_ended: Cell::default(),
            batch_bytes: Cell::new(0),
            envelopes: RefCell::default(),
            buffers: RefCell::default(),
        })
    }

    /// Signs the messages that begin from now on.
    pub fn set_signer(&self, signer: Option<Rc<dyn Signer>>) {
        *self.signer.borrow_mut() = signer;
    }

    pub fn pool(&self) -> &Rc<ChunkPool> {
        &self.pool
    }

    pub fn committers(&self) -> &[Committer] {
        &self.committers
    }

    /// Whether a message of so many bytes, as far as known, can be taken now.
    pub fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        if self.space.is_low() || self.space.last().free_bytes < bytes {
            return Err(Refusal::new(RefusalCode::StorageFull));
        }
        if self.store_fault() == Some(CommitFault::Hung) {
            return Err(Refusal::new(RefusalCode::StorageHung));
        }
        if !self.has_body_room() {
            return Err(Refusal::new(RefusalCode::Busy));
        }
        Ok(())
    }

    /// An empty envelope.
    pub fn take_envelope(&self) -> EnvelopeBuf {
        let kept = self.envelopes.borrow_mut().pop();
        kept.map_or_else(|| EnvelopeBuf::new(""), EnvelopeBuf::emptied)
    }

    /// An empty header block of this sender, to be fed.
    pub fn take_head(&self, policy: &Arc<HeadPolicy>, identity: &Identity) -> RawHead {
        RawHead::new(policy, rules::mailbox_line(identity), self.take_buffer())
    }

    /// Counts a body as under way for as long as the slot lives.
    pub fn take_body_slot(self: &Rc<Intake>) -> BodySlot {
        self.bodies.set(self.bodies.get() + 1);
        BodySlot { intake: Rc::clone(self), head_bytes: 0 }
    }

    /// Submissions of other threads under way.
    pub fn submissions(&self) -> usize {
        self.submissions.get()
    }

    /// Ready while another submission of another thread may begin.
    pub(super) fn poll_submission_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.submissions.get() < SUBMISSIONS_UNDER_WAY_MAX {
            return Poll::Ready(());
        }
        self.submission_ended.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Submissions of other threads are refused from here on.
    pub fn start_draining(&self) {
        self.draining.set(true);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Counts such a submission for as long as the guard lives.
    pub fn count_submission(self: &Rc<Intake>) -> SubmissionCount {
        self.submissions.set(self.submissions.get() + 1);
        SubmissionCount(Rc::clone(self))
    }

    /// Why no partition takes mail, if none does.
    fn store_fault(&self) -> Option<CommitFault> {
        let mut faults = self.committers.iter().map(Committer::fault);
        let last = self.committers.last()?.fault();
        if faults.all(|fault| fault.is_some()) { last } else { None }
    }

    pub(super) fn committer(&self, placement: Placement) -> Result<&Committer, Refusal> {
        let found = match placement {
            Placement::Any => self.next_committer(),
            Placement::Partition(partition) => {
                let found = self.committers.iter().find(|one| one.partition() == partition);
                crate::invariant!(found.is_some(), "partition {partition} has another home");
                found
            }
        };
        found.ok_or_else(|| self.store_fault().unwrap_or(CommitFault::Failed).into())
    }

    /// The partition for the next message: in turns, without those that have stopped.
    fn next_committer(&self) -> Option<&Committer> {
        let count = self.committers.len();
        let turn = self.turn.get();
        self.turn.set((turn + 1) % count);
        let from_turn = || (0..count).map(|step| &self.committers[(turn + step) % count]);
        from_turn().find(|committer| committer.fault().is_none() && !committer.is_busy()).or_else(
            || {
                // A partition that is only busy may have room by the end of the body.
                from_turn().find(|one| {
                    !matches!(one.fault(), Some(CommitFault::Failed | CommitFault::Hung))
                })
            },
        )
    }

    /// Whether another body can have its chunks.
    fn has_body_room(&self) -> bool {
        self.has_room_for(self.bodies.get() + 1, self.head_bytes.get())
            && self.pool.chunks_out() < self.chunks_for_bodies()
    }

    fn has_room_for(&self, bodies: usize, head_bytes: usize) -> bool {
        let chunks = bodies * CHUNKS_PER_BODY + head_bytes.div_ceil(CHUNK_BYTES);
        chunks <= self.chunks_for_bodies()
    }

    /// An eighth of the pool stays for commands, so that bodies cannot silence a shard.
    fn chunks_for_bodies(&self) -> usize {
        self.pool.chunks_max() - self.pool.chunks_max() / 8
    }

    pub(super) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() <= BUFFER_BYTES_KEPT_MAX && buffers.len() < BUFFERS_IDLE_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Keeps the memory of a submission for the next one.
    pub fn give_back(&self, submission: Submission) {
        self.give_buffer(submission.head.into_buffer());
        let mut envelopes = self.envelopes.borrow_mut();
        if submission.envelope.recipients().len() <= RECIPIENTS_KEPT_MAX
            && envelopes.len() < BUFFERS_IDLE_MAX
        {
            envelopes.push(submission.envelope);
        }
    }
}

/// Counts one body under way, and its header block.
pub struct BodySlot {
    intake: Rc<Intake>,
    head_bytes: usize,
}

impl BodySlot {
    /// The header block has so many bytes by now. `Busy`: there is no memory for so large a block
    /// beside the other bodies. A body that is alone is never refused, so that a small pool does not
    /// refuse a large block for ever.
    pub fn count_head(&mut self, block_bytes: usize) -> Result<(), RefusalCode> {
        let own = block_bytes.saturating_sub(HEAD_BYTES_FREE) * HEAD_COPIES;
        let bodies = self.intake.bodies.get();
        let all = self.intake.head_bytes.get() - self.head_bytes + own;
        if own > self.head_bytes && bodies > 1 && !self.intake.has_room_for(bodies, all) {
            return Err(RefusalCode::Busy);
        }
        self.intake.head_bytes.set(all);
        self.head_bytes = own;
        Ok(())
    }
}

impl Drop for BodySlot {
    fn drop(&mut self) {
        let Intake { bodies, head_bytes, .. } = &*self.intake;
        bodies.set(bodies.get() - 1);
        head_bytes.set(head_bytes.get() - self.head_bytes);
    }
}

/// Counts one submission of another thread.
pub struct SubmissionCount(Rc<Intake>);

impl Drop for SubmissionCount {
    fn drop(&mut self) {
        self.0.submissions.set(self.0.submissions.get() - 1);
        if let Some(waiting) = self.0.submission_ended.take() {
            waiting.wake();
        }
    }
}
