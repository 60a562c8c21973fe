//! Room for the submissions of other threads at one shard, and the senders that wait for it.
//!
//! Promise:  a sender that has entered `Waiters` is woken whenever a lane or the memory of a shard has
//!           room again, and when a shard stops.
//! Bounds:   `SUBMIT_BYTES_MAX` for each shard, `SUBMIT_WAITERS_MAX` waiting senders.
//! Ordering: a sender enters first and then looks for room; a shard makes room first and then looks for
//!           senders. All of these accesses are sequentially consistent, so one of the two sees the
//!           other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;

use crate::base::limits::SUBMIT_BYTES_MAX;
use crate::base::limits::SUBMIT_WAITERS_MAX;

/// Senders that wait for room at any shard.
pub(super) struct Waiters {
    /// Those that have looked for room and found none, some of which may have gone away since.
    entered: ArrayQueue<Arc<Waiter>>,
    count: AtomicUsize,
}

#[derive(Default)]
struct Waiter {
    sender: AtomicWaker,
    has_entered: AtomicBool,
}

/// One sender, for as long as it waits.
pub(super) struct Waiting<'a> {
    waiters: &'a Waiters,
    waiter: Arc<Waiter>,
}

impl Waiters {
    pub(super) fn new() -> Waiters {
        // Full, half of the entries at least belong to senders that have gone away.
        let entered = ArrayQueue::new(2 * SUBMIT_WAITERS_MAX);
        Waiters { entered, count: AtomicUsize::new(0) }
    }

    /// `None`: too many are waiting.
    pub(super) fn wait(&self) -> Option<Waiting<'_>> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { waiters: self, waiter: Arc::default() };
        (before < SUBMIT_WAITERS_MAX).then_some(waiting)
    }

    /// Wakes those that have entered by now; each enters again if it finds no room.
    fn wake_all(&self) {
        for _ in 0..self.entered.len() {
            let Some(waiter) = self.entered.pop() else { return };
            waiter.has_entered.store(false, Ordering::SeqCst);
            waiter.sender.wake();
        }
    }
}

impl Waiting<'_> {
    /// To be called before each look for room.
    pub(super) fn enter(&self, cx: &Context<'_>) {
        let Waiting { waiters, waiter } = self;
        waiter.sender.register(cx.waker());
        if waiter.has_entered.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut entry = Arc::clone(waiter);
        while let Err(full) = waiters.entered.push(entry) {
            waiters.wake_all();
            entry = full;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a shard and its senders share.
pub(super) struct Room {
    /// Memory of the requests on their way and under way.
    bytes: AtomicU64,
    /// The shard takes no more requests.
    stopping: AtomicBool,
    waiters: Arc<Waiters>,
}

impl Room {
    pub(super) fn new(waiters: &Arc<Waiters>) -> Arc<Room> {
        let waiters = Arc::clone(waiters);
        Arc::new(Room { bytes: AtomicU64::new(0), stopping: AtomicBool::new(false), waiters })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// From here on senders refuse by themselves.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.waiters.wake_all();
    }

    /// A request has left the lane.
    pub(super) fn has_taken_one(&self) {
        self.waiters.wake_all();
    }
}

/// Bytes of memory that a request needs on its shard, until it is dropped.
pub(super) struct Load {
    room: Arc<Room>,
    bytes: u64,
}

impl Load {
    /// `None`: the shard has as much as it may have.
    pub(super) fn new(room: &Arc<Room>, bytes: u64) -> Option<Load> {
        let sum = |before: u64| Some(before + bytes).filter(|sum| *sum <= SUBMIT_BYTES_MAX);
        let counted = room.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, sum);
        counted.ok().map(|_| Load { room: Arc::clone(room), bytes })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        self.room.waiters.wake_all();
    }
}
