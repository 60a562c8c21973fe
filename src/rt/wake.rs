//! Doorbells: another thread wakes a task of a shard.
//!
//! Owner:    the `Bell` belongs to one task of one shard; a `Doorbell` may be on any thread.
//! Promise:  memory written before `ring` is visible to the task after a `wait` that began earlier
//!           or begins later: no ring is lost. Rings before the task has woken are coalesced.
//! Bounds:   one waker is in use at a time, whatever the number of rings and threads (glommio
//!           aborts the process after 32,767 wakers of one task).
//!
//! A task of `spawn_latency` should wait for the bell of a busy shard: only such a task's wake
//! preempts the running one.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use atomic_waker::AtomicWaker;

struct Shared {
    /// Rung, and not taken by `wait` yet.
    rung: AtomicBool,
    waiting: AtomicWaker,
}

/// The ringing side, for any thread.
#[derive(Clone)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

/// The waiting side, on the shard.
pub struct Bell {
    shared: Arc<Shared>,
}

/// Creates a doorbell and its bell.
pub fn doorbell() -> (Doorbell, Bell) {
    let shared = Arc::new(Shared { rung: AtomicBool::new(false), waiting: AtomicWaker::new() });
    (Doorbell { shared: Arc::clone(&shared) }, Bell { shared })
}

impl Doorbell {
    /// Wakes the task that waits for the bell. If it was rung already, this is one atomic
    /// operation.
    pub fn ring(&self) {
        // The swap is needed even if it changes nothing: it orders the writes of this thread before
        // the reads of the task after `wait`.
        if !self.shared.rung.swap(true, Ordering::AcqRel) {
            self.shared.waiting.wake();
        }
    }
}

impl Bell {
    /// Waits for the next ring, or takes one since the last `wait`.
    pub async fn wait(&mut self) {
        poll_fn(|cx| self.poll_rung(cx)).await;
    }

    /// As `wait`, for a task that waits for several bells.
    pub fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.take_ring() {
            return Poll::Ready(());
        }
        self.shared.waiting.register(cx.waker());
        // A ring before the waker was registered has woken nothing.
        if self.take_ring() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take_ring(&self) -> bool {
        self.shared.rung.load(Ordering::Relaxed) && self.shared.rung.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // The waker keeps the task's memory alive, which only the shard should free.
        drop(self.shared.waiting.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;
    use std::task::Waker;
    use std::thread;
    use std::time::Duration;
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// Spins until `done`, for at most 10 s.
    fn await_in_haste(mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !(0..1000).any(|_| done()) {
            assert!(start.elapsed() < Duration::from_secs(10), "no ring has woken the task");
            thread::yield_now();
        }
    }

    /// Rings several times a round, so that the last ring meets a bell that handles the earlier
    /// ones, at any of its few instructions. With an executor in between this would hardly happen.
    #[test]
    fn a_ring_between_check_and_wait_is_not_lost() {
        const ROUNDS: u64 = 120_000;
        // On a busy machine each round may cost both threads a time slice.
        const TIME_MAX: Duration = Duration::from_secs(20);
        const RINGS: u64 = 3;
        let (doorbell, mut bell) = doorbell();
        let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (sending, seeing) = (Arc::clone(&sent), Arc::clone(&seen));
        let goal = Arc::new(AtomicU64::new(ROUNDS * RINGS));
        let aiming = Arc::clone(&goal);
        let ringer = thread::spawn(move || {
            let mut odd = 7_u32;
            let start = Instant::now();
            for round in 1..=ROUNDS {
                if start.elapsed() > TIME_MAX {
                    aiming.store((round - 1) * RINGS, Ordering::Relaxed);
                    doorbell.ring();
                    return;
                }
                for _ in 0..RINGS {
                    odd = odd.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (0..odd >> 28).for_each(|_| std::hint::spin_loop());
                    sending.fetch_add(1, Ordering::Relaxed);
                    doorbell.ring();
                }
                await_in_haste(|| seen.load(Ordering::Acquire) == round * RINGS);
            }
        });
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        while seeing.load(Ordering::Relaxed) < goal.load(Ordering::Relaxed) {
            while bell.poll_rung(&mut cx).is_pending() {
                await_in_haste(|| woken.0.swap(false, Ordering::AcqRel));
            }
            seeing.store(sent.load(Ordering::Relaxed), Ordering::Release);
        }
        ringer.join().expect("the ringing thread ends");
    }
}
