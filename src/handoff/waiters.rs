//! Senders that wait for room in any of several lanes.
//!
//! Promise:  a sender that has entered is woken by the next `wake_all`.
//! Bounds:   the number of waiting senders given at creation.
//! Ordering: a sender enters first and then looks for room; who makes room does so first and then
//!           wakes. All of these accesses are sequentially consistent, so one of the two sees the
//!           other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;

/// The senders.
pub struct Waiters {
    /// Those that have looked for room and found none, some of which may have gone away since.
    entered: ArrayQueue<Arc<Waiter>>,
    count: AtomicUsize,
    waiting_max: usize,
}

#[derive(Default)]
struct Waiter {
    sender: AtomicWaker,
    has_entered: AtomicBool,
}

/// One sender, for as long as it waits.
pub struct Waiting<'a> {
    waiters: &'a Waiters,
    waiter: Arc<Waiter>,
}

impl Waiters {
    pub fn new(waiting_max: usize) -> Waiters {
        // Full, half of the entries at least belong to senders that have gone away.
        let entered = ArrayQueue::new(2 * waiting_max);
        Waiters { entered, count: AtomicUsize::new(0), waiting_max }
    }

    /// `None`: too many are waiting.
    pub fn wait(&self) -> Option<Waiting<'_>> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { waiters: self, waiter: Arc::default() };
        (before < self.waiting_max).then_some(waiting)
    }

    /// Wakes those that have entered by now; each enters again if it finds no room.
    pub fn wake_all(&self) {
        for _ in 0..self.entered.len() {
            let Some(waiter) = self.entered.pop() else { return };
            waiter.has_entered.store(false, Ordering::SeqCst);
            waiter.sender.wake();
        }
    }
}

impl Waiting<'_> {
    /// To be called before each look for room.
    pub fn enter(&self, cx: &Context<'_>) {
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
