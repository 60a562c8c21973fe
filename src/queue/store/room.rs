//! Waiting for free memtables.
//!
//! RocksDB would block inside the write, and forever if the flush that should free a memtable finds
//! the disk full, because its error handler waits for free space. So RocksDB is told to reject our
//! writes instead, and we wait here and watch the flush.

use std::thread;
use std::time::Duration;

use rocksdb::DB;
use rocksdb::properties;

use crate::queue::cause::STALL;

/// Time between two checks. A flush takes much longer.
const POLL: Duration = Duration::from_millis(1);

/// Decides whether a rejected write is tried again.
pub struct Room {
    /// Failed flushes and compactions up to the last write that succeeded.
    errors_seen: u64,
    /// A flush has failed since: the next try is the last, and its error names the cause.
    hopeless: bool,
}

impl Room {
    pub fn of(db: &DB) -> Room {
        Room { errors_seen: background_errors(db), hopeless: false }
    }

    pub fn note_written(&mut self, db: &DB) {
        self.errors_seen = background_errors(db);
        self.hopeless = false;
    }

    /// Whether to repeat a write that failed with this text. Waits until the flush makes progress.
    pub fn may_come_after(&mut self, db: &DB, text: &str) -> bool {
        let was_the_last = std::mem::take(&mut self.hopeless);
        if was_the_last || !text.contains(STALL) {
            return false;
        }
        loop {
            if background_errors(db) > self.errors_seen {
                self.hopeless = true;
                return true;
            }
            thread::sleep(POLL);
            let stopped = db.property_int_value(properties::IS_WRITE_STOPPED);
            if stopped.ok().flatten() != Some(1) {
                return true;
            }
        }
    }
}

/// Errors of flushes and compactions so far. RocksDB counts those of all families in one.
pub fn background_errors(db: &DB) -> u64 {
    let found = db.property_int_value(properties::BACKGROUND_ERRORS);
    found.ok().flatten().unwrap_or(0)
}
