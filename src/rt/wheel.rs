//! The deadlines of all connections of one shard: a list of slots that a tick scans.
//!
//! Owner:    the shard. The ticker (`executor`) calls `turn`; `timer::Deadline` owns one slot.
//! Cost:     setting a deadline is a store into a slot. A turn, every 100 ms, reads all slots.
//! Bounds:   one slot (40 bytes) for each connection.

use std::cell::Cell;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use slab::Slab;

/// Time between two scans of the slots.
const TURN: Duration = Duration::from_millis(100);
/// The due time of a slot without a deadline.
pub(in crate::rt) const NEVER: u64 = u64::MAX;

/// The time since the first call in this process.
pub(in crate::rt) fn process_age() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// `process_age` in nanoseconds.
pub(in crate::rt) fn now_ns() -> u64 {
    process_age().as_nanos() as u64
}

/// The deadline of one connection.
pub(in crate::rt) struct Slot {
    pub(in crate::rt) due_ns: Cell<u64>,
    /// A drain may cut the wait short.
    pub(in crate::rt) idle: Cell<bool>,
    /// The task waits for a chunk of the pool; the next tick wakes it.
    pub(in crate::rt) wants_chunk: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Slot {
    /// A slot without a deadline.
    pub(in crate::rt) fn new() -> Slot {
        Slot {
            due_ns: Cell::new(NEVER),
            idle: Cell::new(false),
            wants_chunk: Cell::new(false),
            waker: Cell::new(None),
        }
    }

    /// Stores the waker of the task that waits.
    pub(in crate::rt) fn keep(&self, waker: &Waker) {
        let kept = self.waker.take().filter(|kept| kept.will_wake(waker));
        self.waker.set(Some(kept.unwrap_or_else(|| waker.clone())));
    }
}

/// All deadlines of a shard.
pub(in crate::rt) struct Wheel {
    pub(in crate::rt) slots: RefCell<Slab<Slot>>,
    /// At least one task waits for a chunk, so the next tick visits all slots.
    pub(in crate::rt) wants_chunks: Cell<bool>,
    /// Time of the last turn.
    pub(in crate::rt) turned_ns: Cell<u64>,
    /// Buffer of the wakers to call, reused by each turn.
    due: RefCell<Vec<Waker>>,
}

impl Wheel {
    pub(in crate::rt) fn new() -> Wheel {
        Wheel {
            slots: RefCell::new(Slab::new()),
            wants_chunks: Cell::new(false),
            turned_ns: Cell::new(0),
            due: RefCell::new(Vec::new()),
        }
    }

    /// Called at every tick. Wakes the tasks that wait for a chunk and, every `TURN`, the tasks
    /// whose deadline has passed.
    pub(in crate::rt) fn turn(&self) {
        let now_ns = now_ns();
        let elapsed_ns = now_ns.saturating_sub(self.turned_ns.get());
        if elapsed_ns < TURN.as_nanos() as u64 && !self.wants_chunks.get() {
            return;
        }
        self.turned_ns.set(now_ns);
        self.wants_chunks.set(false);
        let mut due = self.due.take();
        for (_, slot) in &*self.slots.borrow() {
            if slot.wants_chunk.replace(false) || slot.due_ns.get() <= now_ns {
                due.extend(slot.waker.take());
            }
        }
        due.drain(..).for_each(Waker::wake);
        self.due.replace(due);
    }
}
