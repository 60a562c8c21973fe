//! State that all sessions of a shard share.
//!
//! Owner:    one shard; never leaves it.
//! Bounds:   output buffers are cached up to `OUTPUTS_IDLE_MAX`; more are freed.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ChunkPool;
use crate::base::clock::wall_ms;
use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::handoff::Asker;
use crate::inbound::ask::GateQuestion;
use crate::inbound::counts::Admission;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::counts::ConnectionLimits;
use crate::inbound::counts::TooMany;
use crate::inbound::counts::UNLIMITED;
use crate::inbound::policy::Policy;
use crate::inbound::policy::holds;
use crate::observe::Histograms;
use crate::observe::ShardMetrics;
use crate::observe::ShardObserved;
use crate::observe::label::ConnectionRefusal;
use crate::observe::log::Record;
use crate::submit::Intake;

const OUTPUTS_IDLE_MAX: usize = 256;
/// Bytes of an output buffer that is kept. A long reply makes a larger one.
const OUTPUT_BYTES_KEPT_MAX: usize = 4096;

pub struct Reception {
    pub pool: Rc<ChunkPool>,
    pub histograms: Rc<Histograms>,
    observed: Arc<ShardObserved>,
    counter: Rc<ConnectionCounter>,
    pub intake: Rc<Intake>,
    /// Sends questions of the gate to other threads; none if the gate has none.
    pub asker: Option<Asker<GateQuestion>>,
    policy: RefCell<Arc<Policy>>,
    draining: Cell<bool>,
    closed: Cell<bool>,
    sessions: Cell<usize>,
    /// Bytes of all open transactions, in addition to what each session may keep.
    arena_bytes: Cell<usize>,
    outputs: RefCell<Vec<Vec<u8>>>,
}

/// The parts of a reception.
pub struct ReceptionParts {
    pub intake: Rc<Intake>,
    pub histograms: Rc<Histograms>,
    pub asker: Option<Asker<GateQuestion>>,
    pub observed: Arc<ShardObserved>,
    pub counter: ConnectionCounter,
    pub policy: Arc<Policy>,
}

impl Reception {
    pub fn new(parts: ReceptionParts) -> Rc<Reception> {
        Rc::new(Reception {
            pool: Rc::clone(parts.intake.pool()),
            histograms: parts.histograms,
            observed: parts.observed,
            counter: Rc::new(parts.counter),
            intake: parts.intake,
            asker: parts.asker,
            policy: RefCell::new(parts.policy),
            draining: Cell::new(false),
            closed: Cell::new(false),
            sessions: Cell::new(0),
            arena_bytes: Cell::new(0),
            outputs: RefCell::new(Vec::new()),
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

    /// Counts a client, or returns the limit that it exceeds.
    pub fn admit(&self, peer: IpAddr, policy: &Policy) -> Result<Admission, TooMany> {
        match holds(&policy.exempt, peer) {
            true => self.admit_in_all(peer, policy),
            false => self.counter.try_admit(peer, &policy.connections, wall_ms()),
        }
    }

    /// As `admit`, but only the limit on all connections applies.
    pub fn admit_in_all(&self, peer: IpAddr, policy: &Policy) -> Result<Admission, TooMany> {
        let limits = ConnectionLimits { connections: policy.connections.connections, ..UNLIMITED };
        self.counter.try_admit(peer, &limits, wall_ms())
    }

    /// Counts and logs a connection that exceeds a limit.
    pub fn note_refused(&self, peer: IpAddr, limit: TooMany) {
        let label = match limit {
            TooMany::InAll => ConnectionRefusal::Connections,
            TooMany::PerAddress => ConnectionRefusal::PerAddress,
            TooMany::PerNetwork => ConnectionRefusal::PerNetwork,
            TooMany::PerMinute => ConnectionRefusal::Rate,
        };
        self.metrics().connections_refused_total.add(label, 1);
        Record::ConnectionRefused { peer, reason: limit.name() }.emit();
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

    /// Counts the arena of one session for as long as the account lives.
    pub fn open_arena_account(self: &Rc<Reception>) -> ArenaAccount {
        ArenaAccount { reception: Rc::clone(self), bytes: 0 }
    }

    /// Bytes of all arenas, in addition to what each session may keep.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes.get()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub fn start_draining(&self) {
        self.draining.set(true);
        self.intake.start_draining();
    }

    /// Whether the shard is ending. No task waits for an answer any more.
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

/// The part of the shard's transaction memory that one session's arena uses.
pub struct ArenaAccount {
    reception: Rc<Reception>,
    bytes: usize,
}

impl ArenaAccount {
    /// Records the current size of the arena.
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
