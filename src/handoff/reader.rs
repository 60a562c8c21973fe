//! Reading the store beside a shard, so that no shard waits for a disk.
//!
//! Owner:    one pool of one thread for each shard. The thread ends with its shard.
//! Promise:  a task is answered once, or its waiter was dropped.
//! Bounds:   `TASKS_MAX` in progress; later callers wait.

use std::any::Any;
use std::io;
use std::time::Duration;

use crate::base::ShardId;
use crate::handoff::ask::AskPool;
use crate::handoff::ask::Asker;
use crate::handoff::ask::Question;
use crate::queue::commit::lane::Ring;

/// Tasks under way at a reader.
pub const TASKS_MAX: usize = 64;

type Payload = Box<dyn Any + Send>;

/// A task, with what it reads.
struct Task(Box<dyn FnOnce() -> Payload + Send>);

impl Question for Task {
    type Answer = Payload;

    fn deadline(&self) -> Option<Duration> {
        None
    }
}

/// The way to a shard's reading thread.
#[derive(Clone)]
pub struct Reader(Asker<Task>);

impl Reader {
    /// `ring` is called from the thread after each answer; it must lead to `pump` on this shard.
    pub fn start(shard: ShardId, ring: Ring) -> io::Result<Reader> {
        let pool =
            AskPool::start(&format!("read-{shard}"), 1, TASKS_MAX, || |task: Task| task.0())?;
        Ok(Reader(pool.asker(TASKS_MAX, ring)))
    }

    /// Runs `task` beside the shard. `None` when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.0.ask_patiently(Task(Box::new(move || Box::new(task())))).await?;
        answer.downcast().ok().map(|answer| *answer)
    }

    /// Takes the answers that are there. To be called whenever the bell rang.
    pub fn pump(&self) {
        self.0.pump();
    }
}
