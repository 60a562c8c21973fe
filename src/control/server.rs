//! What operations reach of a running server: the store, the shards, the pauses and the config.
//!
//! Owner:    shared by the tasks of the control runtime.
//! Promise:  nothing blocks the runtime: the store is read on its blocking threads, shards are asked
//!           asynchronously. A shard that does not answer within `Patience::question` is left out.
//! Bounds:   `OPERATIONS_MAX` operations run at a time; the next is refused as busy.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;

use crate::base::MessageId;
use crate::base::ShardId;
use crate::control::reload::ReloadHandle;
use crate::handoff::Placement;
use crate::handoff::Sender;
use crate::observe::Observed;
use crate::operations::OpFault;
use crate::queue::Spool;
use crate::queue::admin::pauses::Pauses;
use crate::shard::Delivering;
use crate::shard::ShardRequest;

const OPERATIONS_MAX: usize = 8;

/// How long shards may take to answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub question: Duration,
    /// To change messages: a recall and a few commit batches.
    pub change: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { question: Duration::from_secs(2), change: Duration::from_secs(15) }
    }
}

/// The running server as operations see it.
pub struct Control {
    pub(super) parts: ControlParts,
    /// Pauses and their ends reach the file and the shards in one order.
    pub(super) pausing: Mutex<()>,
    running: Semaphore,
    draining: AtomicBool,
}

pub struct ControlParts {
    pub spool: Arc<Spool>,
    pub shards: Vec<Sender<ShardRequest>>,
    pub placement: Placement,
    pub patience: Patience,
    pub pauses: Arc<Pauses>,
    pub observed: Arc<Observed>,
    pub reload: ReloadHandle,
}

type Question = Box<dyn FnOnce(&Delivering) + Send>;

impl Control {
    pub fn new(parts: ControlParts) -> Arc<Control> {
        Arc::new(Control {
            parts,
            pausing: Mutex::default(),
            running: Semaphore::new(OPERATIONS_MAX),
            draining: AtomicBool::new(false),
        })
    }

    /// From now on shards are not asked: they carry out no more orders.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// A place among the running operations.
    pub(super) fn place(&self) -> Result<SemaphorePermit<'_>, OpFault> {
        let busy =
            || OpFault::away("busy", "too many requests at once").hint("try again").retry_after(1);
        self.running.try_acquire().map_err(|_| busy())
    }

    pub(super) fn refuse_while_draining(&self) -> Result<(), OpFault> {
        match self.draining.load(Ordering::Acquire) {
            true => Err(OpFault::away("draining", "the server is shutting down")
                .hint("try again when it is back")),
            false => Ok(()),
        }
    }

    /// For what is known without reading.
    pub(super) fn spool(&self) -> &Spool {
        &self.parts.spool
    }

    /// Reads the store on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Spool) -> Result<T, OpFault> + Send + 'static,
    ) -> Result<T, OpFault> {
        let spool = Arc::clone(&self.parts.spool);
        spawn_blocking(move || read(&spool)).await.unwrap_or_else(|_| Err(OpFault::bug()))
    }

    pub(super) fn shards(&self) -> usize {
        self.parts.shards.len()
    }

    pub(super) fn home_of(&self, id: MessageId) -> Result<ShardId, OpFault> {
        let partition = id.partition();
        let mut shards = (0..self.parts.placement.shards()).map(|shard| ShardId(shard as u16));
        shards
            .find(|shard| self.parts.placement.of_shard(*shard).contains(&partition))
            .ok_or_else(|| OpFault::not_found("no_such_message", "no such message"))
    }

    /// Sends a request to a shard.
    pub(super) fn send(&self, shard: ShardId, request: ShardRequest) -> Result<(), OpFault> {
        self.refuse_while_draining()?;
        let busy = || {
            OpFault::away("busy", format!("shard {shard} is busy")).hint("try again").retry_after(1)
        };
        self.parts.shards[usize::from(shard.0)].try_send(request).map_err(|_| busy())
    }

    /// Asks one shard.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        question: impl FnOnce(&Delivering) -> T + Send + 'static,
    ) -> Result<T, OpFault> {
        let (request, answer) = asking(question);
        self.send(shard, ShardRequest::Ask(request))?;
        match timeout(self.parts.patience.question, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => {
                Err(OpFault::away("no_answer", format!("shard {shard} does not answer"))
                    .retry_after(1))
            }
        }
    }

    /// Asks all shards at once; the answers of those that answer in time.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        request: impl Fn(Question) -> ShardRequest,
        question: impl Fn(&Delivering) -> T + Clone + Send + 'static,
    ) -> Result<Vec<(ShardId, T)>, OpFault> {
        self.refuse_while_draining()?;
        let end = Instant::now() + self.parts.patience.question;
        let mut waiting = Vec::with_capacity(self.parts.shards.len());
        for shard in (0..self.parts.shards.len()).map(|number| ShardId(number as u16)) {
            let (asked, answer) = asking(question.clone());
            if self.send(shard, request(asked)).is_ok() {
                waiting.push((shard, answer));
            }
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for (shard, answer) in waiting {
            if let Ok(Ok(answer)) = timeout_at(end, answer).await {
                answers.push((shard, answer));
            }
        }
        Ok(answers)
    }

    /// When shards that change messages must have answered.
    pub(super) fn change_deadline(&self) -> Instant {
        Instant::now() + self.parts.patience.change
    }
}

/// A question as an order, and its answer. After a panic of the question there is no answer.
fn asking<T: Send + 'static>(
    question: impl FnOnce(&Delivering) -> T + Send + 'static,
) -> (Question, oneshot::Receiver<T>) {
    let (sender, answer) = oneshot::channel();
    let asked = Box::new(move |delivering: &Delivering| {
        // A caller that has given up needs no answer.
        let _ = sender.send(question(delivering));
    });
    (asked, answer)
}
