//! The tick of a shard, about every 15 ms: keeps the executor awake, updates the heartbeat, scans
//! the deadlines and runs the callbacks.
//!
//! Owner:    the shard. `executor` starts one ticker for each shard.
//! Fatal:    a panic of the ticker, reported by `executor`.

use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;

use crate::rt::context::Shard;
use crate::rt::watchdog::Heartbeat;

/// Time between two ticks. glommio may sleep although tasks are runnable; a tick ends that sleep.
pub(in crate::rt) const TICK: Duration = Duration::from_millis(15);
/// Timers of ticks that are set in advance. One of them may fire just before the executor falls
/// asleep and then wakes nothing; this many in a row do not.
const ALARMS: usize = 16;
/// More timers, further ahead: a shard that gets no CPU for `ALARMS` ticks finds all of those
/// fired at once, and may fall asleep again before the ticker has run.
const LATE_TICK: Duration = Duration::from_millis(500);
const LATE_ALARMS: usize = 8;

/// Ticks until the shard ends. Calls `first_tick` after the first one.
pub(in crate::rt) async fn tick(shard: &Shard, heartbeat: &Heartbeat, first_tick: impl FnOnce()) {
    let mut alarms = Alarms::new(TICK, ALARMS);
    let mut late = Alarms::new(LATE_TICK, LATE_ALARMS);
    let mut next = |cx: &mut Context<'_>| match (alarms.poll_next(cx), late.poll_next(cx)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    };
    poll_fn(&mut next).await;
    first_tick();
    while !shard.ending.get() {
        poll_fn(&mut next).await;
        heartbeat.beat();
        shard.wheel.turn();
        shard.run_tick_callbacks();
    }
}

/// The timers of the next ticks.
///
/// One timer is not enough: when the executor falls asleep after the timer has fired and before
/// the ticker has run, no timer is left to end the sleep, and the shard hangs for ever.
struct Alarms {
    every: Duration,
    ahead: usize,
    timers: VecDeque<Timer>,
}

impl Alarms {
    fn new(every: Duration, ahead: usize) -> Alarms {
        Alarms { every, ahead, timers: VecDeque::with_capacity(ahead) }
    }

    /// Ready when a timer has fired. Replaces the timers that have fired.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.timers.len();
        while let Some(first) = self.timers.front_mut()
            && Pin::new(first).poll(cx).is_ready()
        {
            self.timers.pop_front();
        }
        let ticked = self.timers.len() < before;
        for ahead in self.timers.len()..self.ahead {
            let mut timer = Timer::new(self.every * (ahead as u32 + 1));
            if Pin::new(&mut timer).poll(cx).is_pending() {
                self.timers.push_back(timer);
            }
        }
        if ticked { Poll::Ready(()) } else { Poll::Pending }
    }
}
