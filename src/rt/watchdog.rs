//! Stalled shards: each shard has a heartbeat, and one thread watches all heartbeats.
//!
//! Owner:    the caller of `Watchdog::start`. A `Heartbeat` may be on any thread.
//! Promise:  a shard that has stopped ticking is interrupted; when that does not help for `limit`,
//!           `on_stall` is called, once for each stall.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::rt::host::RtFault;
use crate::rt::interrupt::Sleeper;
use crate::rt::wheel;

/// The heartbeat value of a shard that has ended normally.
const ENDED: u64 = u64::MAX;
/// A shard is stalled when this many checks in a row find the same heartbeat.
const CHECKS_PER_LIMIT: u32 = 8;

/// The time of a shard's last tick.
#[derive(Clone)]
pub struct Heartbeat {
    name: Arc<str>,
    beat_ms: Arc<AtomicU64>,
    pub(in crate::rt) sleeper: Sleeper,
}

impl Heartbeat {
    pub(in crate::rt) fn new(name: &str) -> Heartbeat {
        let sleeper = Sleeper::default();
        let heartbeat = Heartbeat { name: name.into(), beat_ms: Arc::default(), sleeper };
        heartbeat.beat();
        heartbeat
    }

    /// The shard's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In milliseconds since the start of the process; `u64::MAX` once the shard has ended
    /// normally.
    pub fn beat_ms(&self) -> u64 {
        self.beat_ms.load(Ordering::Relaxed)
    }

    pub(in crate::rt) fn beat(&self) {
        self.beat_ms.store(wheel::process_age().as_millis() as u64, Ordering::Relaxed);
    }

    pub(in crate::rt) fn end(&self) {
        self.sleeper.leave();
        self.beat_ms.store(ENDED, Ordering::Relaxed);
    }
}

/// A thread that interrupts stalled shards and reports those that do not recover.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Calls `on_stall` with the name of a shard that has not ticked for `limit`, once for each
    /// stall.
    ///
    /// The watchdog counts its checks and does not measure time: after a SIGSTOP or a suspend all
    /// heartbeats are old although no shard is stalled.
    pub fn start(
        heartbeats: Vec<Heartbeat>,
        limit: Duration,
        on_stall: impl Fn(&str) + Send + 'static,
    ) -> Result<Watchdog, RtFault> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut seen: Vec<(u64, u32)> = vec![(0, 0); heartbeats.len()];
            while !stopped.load(Ordering::Acquire) {
                thread::park_timeout(limit / CHECKS_PER_LIMIT);
                for (heartbeat, (last_ms, same)) in heartbeats.iter().zip(&mut seen) {
                    let beat_ms = heartbeat.beat_ms();
                    let is_stalled = beat_ms == *last_ms && beat_ms != ENDED;
                    if is_stalled {
                        heartbeat.sleeper.interrupt();
                    }
                    *same = if is_stalled { same.saturating_add(1) } else { 0 };
                    *last_ms = beat_ms;
                    if *same == CHECKS_PER_LIMIT {
                        on_stall(heartbeat.name());
                    }
                }
            }
        });
        let thread = thread.map_err(|error| RtFault::of_call("pthread_create", &error))?;
        Ok(Watchdog { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Only the caller's hook can panic here, and the panic has been printed.
            let _ = thread.join();
        }
    }
}
