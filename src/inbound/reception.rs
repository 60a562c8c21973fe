//! What the sessions of one shard share.
//!
//! Owner:    one shard; never leaves it.
//! Bounds:   output buffers are cached up to `OUTPUTS_IDLE_MAX`; more are freed.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ChunkPool;
use crate::base::ShardId;
use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::policy::Policy;
use crate::observe::Histograms;
use crate::observe::ShardMetrics;
use crate::observe::ShardObserved;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::RecipientsBuf;
use crate::queue::SpaceWatch;

const OUTPUTS_IDLE_MAX: usize = 256;
/// A buffer that a long reply has made larger is not kept.
const OUTPUT_BYTES_KEPT_MAX: usize = 4096;

/// Chunks that a body under way may hold for long.
const CHUNKS_PER_BODY: usize = 2;
/// As `OUTPUT_BYTES_KEPT_MAX`, for lists of recipients.
const RECIPIENTS_KEPT_MAX: usize = 64;

pub struct Reception {
    pub shard: ShardId,
    pub pool: Rc<ChunkPool>,
    pub histograms: Rc<Histograms>,
    observed: Arc<ShardObserved>,
    pub counter: Rc<ConnectionCounter>,
    pub space: Arc<SpaceWatch>,
    committers: Vec<Committer>,
    turn: Cell<usize>,
    policy: RefCell<Arc<Policy>>,
    draining: Cell<bool>,
    closed: Cell<bool>,
    sessions: Cell<usize>,
    bodies: Cell<usize>,
    /// What transactions under way hold beside what a session may keep.
    arena_bytes: Cell<usize>,
    outputs: RefCell<Vec<Vec<u8>>>,
    recipients: RefCell<Vec<RecipientsBuf>>,
}

/// What a reception is made of.
pub struct ReceptionParts {
    pub shard: ShardId,
    pub pool: Rc<ChunkPool>,
    pub observed: Arc<ShardObserved>,
    pub counter: ConnectionCounter,
    pub space: Arc<SpaceWatch>,
    pub committers: Vec<Committer>,
    pub policy: Arc<Policy>,
}

impl Reception {
    pub fn new(parts: ReceptionParts) -> Rc<Reception> {
        assert!(!parts.committers.is_empty(), "a shard that listens keeps mail somewhere");
        Rc::new(Reception {
            shard: parts.shard,
            pool: parts.pool,
            histograms: Rc::new(Histograms::new(Arc::clone(&parts.observed.shelf))),
            observed: parts.observed,
            counter: Rc::new(parts.counter),
            space: parts.space,
            committers: parts.committers,
            turn: Cell::new(0),
            policy: RefCell::new(parts.policy),
            draining: Cell::new(false),
            closed: Cell::new(false),
            sessions: Cell::new(0),
            bodies: Cell::new(0),
            arena_bytes: Cell::new(0),
            outputs: RefCell::new(Vec::new()),
            recipients: RefCell::new(Vec::new()),
        })
    }

    pub fn metrics(&self) -> &ShardMetrics {
        &self.observed.metrics
    }

    pub fn observed_handle(&self) -> Arc<ShardObserved> {
        Arc::clone(&self.observed)
    }

    pub fn observed(&self) -> &ShardObserved {
        &self.observed
    }

    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    pub fn replace_policy(&self, policy: Arc<Policy>) {
        *self.policy.borrow_mut() = policy;
    }

    /// The partition that keeps the next message: in turns, past those that have stopped.
    pub fn next_committer(&self) -> Option<&Committer> {
        let count = self.committers.len();
        let turn = self.turn.get();
        self.turn.set((turn + 1) % count);
        (0..count)
            .map(|step| &self.committers[(turn + step) % count])
            .find(|committer| committer.fault().is_none() && !committer.is_busy())
            .or_else(|| {
                // All are busy or stopped: whoever is only busy may have room by the end of the body.
                let working = |one: &&Committer| {
                    !matches!(one.fault(), Some(CommitFault::Failed | CommitFault::Hung))
                };
                let from_turn = self.committers.iter().cycle().skip(turn).take(count);
                from_turn.into_iter().find(working)
            })
    }

    /// Why no partition takes mail, if none does.
    pub fn store_fault(&self) -> Option<CommitFault> {
        let mut faults = self.committers.iter().map(Committer::fault);
        let last = self.committers.last()?.fault();
        if faults.all(|fault| fault.is_some()) { last } else { None }
    }

    pub fn committers(&self) -> &[Committer] {
        &self.committers
    }

    pub fn take_output(&self) -> Vec<u8> {
        self.outputs.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_output(&self, mut output: Vec<u8>) {
        let mut outputs = self.outputs.borrow_mut();
        if (1..=OUTPUT_BYTES_KEPT_MAX).contains(&output.capacity())
            && outputs.len() < OUTPUTS_IDLE_MAX
        {
            output.clear();
            outputs.push(output);
        }
    }

    pub fn take_recipients(&self) -> RecipientsBuf {
        self.recipients.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_recipients(&self, mut buffer: RecipientsBuf) {
        let mut idle = self.recipients.borrow_mut();
        if buffer.len() <= RECIPIENTS_KEPT_MAX && idle.len() < OUTPUTS_IDLE_MAX {
            buffer.clear();
            idle.push(buffer);
        }
    }

    /// Whether another body can have its chunks. An eighth of them stays for commands, so that bodies
    /// cannot silence a shard; a body holds one chunk that fills and one that waits for the store.
    pub fn has_body_room(&self) -> bool {
        let for_bodies = self.pool.chunks_max() - self.pool.chunks_max() / 8;
        (self.bodies.get() + 1) * CHUNKS_PER_BODY <= for_bodies
            && self.pool.chunks_out() < for_bodies
    }

    /// Counts a body for as long as the slot lives.
    pub fn take_body_slot(self: &Rc<Reception>) -> BodySlot {
        self.bodies.set(self.bodies.get() + 1);
        BodySlot(Rc::clone(self))
    }

    /// Counts the arena of one session for as long as the account lives.
    pub fn open_arena_account(self: &Rc<Reception>) -> ArenaAccount {
        ArenaAccount { reception: Rc::clone(self), bytes: 0 }
    }

    /// Bytes of all arenas, beside what each session may keep.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes.get()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub fn start_draining(&self) {
        self.draining.set(true);
    }

    /// The shard is about to end: nobody waits for anything any more.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub fn close(&self) {
        self.closed.set(true);
    }

    pub fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// Counts a session for as long as the guard lives.
    pub fn count_session(self: &Rc<Reception>) -> SessionCount {
        self.sessions.set(self.sessions.get() + 1);
        SessionCount(Rc::clone(self))
    }
}

pub struct BodySlot(Rc<Reception>);

impl Drop for BodySlot {
    fn drop(&mut self) {
        self.0.bodies.set(self.0.bodies.get() - 1);
    }
}

/// What one session's arena takes of the shard's memory for transactions.
pub struct ArenaAccount {
    reception: Rc<Reception>,
    bytes: usize,
}

impl ArenaAccount {
    /// Notes how large the arena is now.
    pub fn note(&mut self, allocated_bytes: usize) {
        let bytes = allocated_bytes.saturating_sub(ARENA_KEPT_BYTES_MAX);
        let others = self.reception.arena_bytes.get() - self.bytes;
        self.reception.arena_bytes.set(others + bytes);
        self.bytes = bytes;
    }
}

impl Drop for ArenaAccount {
    fn drop(&mut self) {
        self.note(0);
    }
}

pub struct SessionCount(Rc<Reception>);

impl Drop for SessionCount {
    fn drop(&mut self) {
        self.0.sessions.set(self.0.sessions.get() - 1);
    }
}
