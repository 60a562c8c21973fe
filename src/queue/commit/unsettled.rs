//! Deliveries that a crash would repeat: how many, and how long the oldest waits for the store.
//!
//! Promise:  no transfer begins while `UNSETTLED_MAX` are out, while a delivery that the remote
//!           accepted `UNSETTLED_MS_MAX` ago or earlier is not settled, or once the partition has
//!           failed. So a crash repeats the deliveries of that time and those in flight, and a slow
//!           disk slows delivery down instead of making a crash repeat more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::base::limits::UNSETTLED_MAX;
use crate::queue::store::partition::Partition;

/// A delivery from before it is sent until its settle is durable, or given up.
pub struct Unsettled {
    partition: Arc<Partition>,
    /// Where it is counted since a server has taken it.
    place: Option<u8>,
}

impl Unsettled {
    /// `None`: the store is so far behind that no more mail of it may be sent.
    pub fn begin(partition: &Arc<Partition>, now: Instant) -> Option<Unsettled> {
        let counts = partition.unsettled();
        let before = counts.all.fetch_add(1, Ordering::Relaxed);
        let begun = Unsettled { partition: Arc::clone(partition), place: None };
        let may_begin = before < UNSETTLED_MAX && is_in_time(partition, now);
        may_begin.then_some(begun)
    }

    /// Whether `begin` would have answered one.
    pub fn may_begin(partition: &Partition, now: Instant) -> bool {
        let all = partition.unsettled().all.load(Ordering::Relaxed);
        all < UNSETTLED_MAX && is_in_time(partition, now)
    }

    /// A server has taken it: from now on it grows old.
    pub fn note_taken(&mut self, now: Instant) {
        if self.place.is_none() {
            self.place = Some(self.partition.unsettled().enter(now));
        }
    }
}

/// What a failed partition's deliveries came to is never written: each would be repeated.
fn is_in_time(partition: &Partition, now: Instant) -> bool {
    !partition.unsettled().is_late(now) && partition.failure().is_none()
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let counts = self.partition.unsettled();
        if let Some(place) = self.place {
            counts.leave(place);
        }
        counts.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsettled({})", self.partition.id())
    }
}
