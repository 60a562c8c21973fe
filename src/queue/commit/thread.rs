//! The commit thread of a partition: started, handed to a shard, stopped.

use std::io;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;

use crate::queue::commit::lane::CommitHandle;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Lane;
use crate::queue::commit::lane::NO_TICKET;
use crate::queue::commit::lane::Work;
use crate::queue::commit::thread_end::OnFatal;
use crate::queue::commit::writer::BatchWriter;
use crate::queue::store::partition::Partition;

/// How a commit thread runs.
pub struct CommitOptions {
    /// Runs first on the new thread, to pin it to a core and name it.
    pub on_start: Box<dyn FnOnce() + Send>,
    pub on_fatal: OnFatal,
}

/// A running commit thread.
pub struct CommitThread {
    lane: Arc<Lane>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    pub fn start(partition: Arc<Partition>, options: CommitOptions) -> io::Result<CommitThread> {
        assert!(partition.is_writable(), "mail is committed to partitions opened for it");
        let (lane, orders) = Lane::new(partition.id(), partition.spool(), partition.newest());
        let writer = BatchWriter::new(Arc::clone(&lane), partition, options.on_fatal);
        let on_start = options.on_start;
        let thread =
            thread::Builder::new().name(format!("commit-{}", lane.partition)).spawn(move || {
                on_start();
                writer.run(&orders);
            })?;
        Ok(CommitThread { lane, thread: Some(thread) })
    }

    pub fn handle(&self) -> CommitHandle {
        CommitHandle(Arc::clone(&self.lane))
    }

    /// Writes the waiting orders, refuses later ones, and ends the thread. Blocks: not for a shard.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.lane.set_stopping();
        // A thread that has ended needs no order to stop.
        let _ = self.lane.sender.send(Work { ticket: NO_TICKET, order: CommitOrder::Stop });
        if thread.join().is_err() {
            self.lane.set_failed();
        }
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.end();
    }
}
