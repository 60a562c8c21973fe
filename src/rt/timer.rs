//! Time on a shard: sleeping, time limits, and the deadlines of connections.
//!
//! Owner:    the shard. The ticker turns the wheel.
//! Promise:  a deadline never fires early, and at most 250 ms late on a shard that is not blocked.
//!           Setting one is a store into a slot that exists as long as the connection: no
//!           allocation and no timer queue, cheap enough for every line.
//! Bounds:   see `wheel`.

use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use glommio::timer::Timer;

use crate::rt::context::Shard;
use crate::rt::fault::IoFault;
use crate::rt::wheel::NEVER;
use crate::rt::wheel::Slot;
use crate::rt::wheel::Wheel;
use crate::rt::wheel::now_ns;

/// Longer waits are cut to this, so that sums of times do not overflow.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeps for `duration`.
pub async fn sleep(duration: Duration) {
    Timer::new(duration.min(WAIT_MAX)).await;
}

/// The time limit has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Runs `future` for at most `limit`, then drops it. Allocates a timer, so it is for rare paths;
/// connections have a `Deadline`.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut timer = pin!(Timer::new(limit.min(WAIT_MAX)));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|_| Err(Elapsed)),
    })
    .await
}

/// Calls `callback` at every tick of this shard, about every 15 ms. It must not block, and its
/// panic is the death of the shard.
pub fn on_tick(callback: impl FnMut() + 'static) {
    Shard::current().tick_callbacks.borrow_mut().push(Box::new(callback));
}

/// Expires all deadlines that were set with `set_idle_in`.
pub fn interrupt_idle() {
    interrupt(|slot| slot.idle.replace(false));
}

/// Expires all deadlines.
pub fn interrupt_all() {
    interrupt(|slot| slot.due_ns.get() != NEVER);
}

fn interrupt(chosen: impl Fn(&Slot) -> bool) {
    let wheel = Rc::clone(&Shard::current().wheel);
    for (_, slot) in &*wheel.slots.borrow() {
        if chosen(slot) {
            slot.due_ns.set(0);
        }
    }
    wheel.turned_ns.set(0);
    wheel.turn();
}

/// The deadline of one connection: a slot in the wheel of its shard, freed on drop.
pub struct Deadline {
    wheel: Rc<Wheel>,
    key: u32,
}

impl Deadline {
    /// A slot on this shard, without a deadline.
    pub fn new() -> Deadline {
        let wheel = Rc::clone(&Shard::current().wheel);
        let key = wheel.slots.borrow_mut().insert(Slot::new());
        let key = u32::try_from(key).expect("there are fewer descriptors than 2^32");
        Deadline { wheel, key }
    }

    /// Sets the deadline to `duration` from now.
    pub fn set_in(&self, duration: Duration) {
        let due_ns = now_ns().saturating_add(duration.min(WAIT_MAX).as_nanos() as u64);
        self.slot(|slot| {
            slot.due_ns.set(due_ns);
            slot.idle.set(false);
        });
    }

    /// As `set_in`, for a wait that a drain may cut short (`interrupt_idle`).
    pub fn set_idle_in(&self, duration: Duration) {
        self.set_in(duration);
        self.slot(|slot| slot.idle.set(true));
    }

    /// Removes the deadline.
    pub fn clear(&self) {
        self.slot(|slot| {
            slot.due_ns.set(NEVER);
            slot.idle.set(false);
        });
    }

    /// Whether the deadline has passed.
    pub fn expired(&self) -> bool {
        self.slot(|slot| slot.due_ns.get() != NEVER && slot.due_ns.get() <= now_ns())
    }

    /// As `expired`; if it has not passed, the task is woken when it does.
    pub(in crate::rt) fn poll_expired(&self, cx: &mut Context<'_>) -> bool {
        if self.expired() {
            return true;
        }
        self.slot(|slot| {
            if slot.due_ns.get() != NEVER {
                slot.keep(cx.waker());
            }
        });
        false
    }

    /// The result of a socket's poll, or `TimedOut` if it is pending past the deadline.
    pub(in crate::rt) fn limit<T>(
        &self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<Result<T, IoFault>> {
        match polled {
            Poll::Ready(done) => Poll::Ready(done.map_err(IoFault::from)),
            Poll::Pending if self.poll_expired(cx) => Poll::Ready(Err(IoFault::TimedOut)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Wakes the task at the next tick, to request a chunk again.
    pub(in crate::rt) fn retry_at_tick(&self, cx: &mut Context<'_>) {
        self.wheel.wants_chunks.set(true);
        self.slot(|slot| {
            slot.wants_chunk.set(true);
            slot.keep(cx.waker());
        });
    }

    fn slot<R>(&self, read: impl FnOnce(&Slot) -> R) -> R {
        read(&self.wheel.slots.borrow()[self.key as usize])
    }
}

impl Default for Deadline {
    fn default() -> Deadline {
        Deadline::new()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let slot = self.wheel.slots.borrow_mut().remove(self.key as usize);
        // Dropped after the borrow has ended: dropping the waker may drop a task that comes back
        // here.
        drop(slot);
    }
}
