//! Room for the submissions of other threads at one shard.
//!
//! Promise:  waiting senders are woken whenever a lane or the memory of a shard has room again, and
//!           when a shard stops.
//! Bounds:   `SUBMIT_BYTES_MAX` for each shard.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::base::limits::SUBMIT_BYTES_MAX;
use crate::handoff::Waiters;

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
