//! Waiting for room in the memtables.
//!
//! RocksDB would wait within the write, but without end should the flush that is to make room find
//! the disk full meanwhile: it counts on hearing one day that there is space again. So our writes
//! are turned back instead, and we wait here, with an eye on the flush.

use std::thread;
use std::time::Duration;

use rocksdb::properties;

use crate::queue::fault::STALL;
use crate::queue::partition::Partition;

/// Between two looks. A flush takes a good deal longer.
const POLL: Duration = Duration::from_millis(1);

/// Whether a write that was turned back is worth another try.
pub struct Room {
    /// Failed flushes and compactions up to the last write that succeeded.
    errors_seen: u64,
    /// A flush has failed since: the next try is the last, and says why if it can.
    hopeless: bool,
}

impl Room {
    pub fn of(partition: &Partition) -> Room {
        Room { errors_seen: partition.background_errors(), hopeless: false }
    }

    pub fn note_written(&mut self, partition: &Partition) {
        self.errors_seen = partition.background_errors();
        self.hopeless = false;
    }

    /// Whether to try again after a write that failed like that. Waits until it makes sense.
    pub fn may_come_after(&mut self, partition: &Partition, text: &str) -> bool {
        let was_the_last = std::mem::take(&mut self.hopeless);
        if was_the_last || !text.contains(STALL) {
            return false;
        }
        loop {
            if partition.background_errors() > self.errors_seen {
                self.hopeless = true;
                return true;
            }
            thread::sleep(POLL);
            let stopped = partition.db().property_int_value(properties::IS_WRITE_STOPPED);
            if stopped.ok().flatten() != Some(1) {
                return true;
            }
        }
    }
}
