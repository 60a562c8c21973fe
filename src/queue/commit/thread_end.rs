//! The end of a commit thread, which the waiters of its answers must notice.

use std::sync::Arc;
use std::thread;

use crate::base::PartitionId;
use crate::queue::commit::lane::Lane;

/// Called once when a partition fails, with the cause. It must not block.
pub type OnFatal = Arc<dyn Fn(PartitionId, &str) + Send + Sync>;

/// Marks the lane as gone when the thread ends or panics.
pub(super) struct ThreadEnd {
    pub(super) lane: Arc<Lane>,
    pub(super) on_fatal: OnFatal,
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lane.set_failed();
            (self.on_fatal)(self.lane.partition, "the commit thread panicked");
        }
        self.lane.set_gone();
        self.lane.ring();
    }
}
