//! Tasks of one shard: spawned without a handle, counted until they end.
//!
//! Owner:    the shard. A task ends when its future ends. There is no handle to cancel it, because
//!           glommio leaks a cancelled task; its owner must tell it to end.
//! Promise:  a panic in a task ends only that task, drops its future, and is counted. A spawned
//!           future is first polled from the queue, never inside `spawn`.
//! Bounds:   none here; the code that accepts work has its own (`base::limits`).

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use glommio::TaskQueueHandle;

use crate::rt::context::Shard;
use crate::rt::timer;

/// Time between two checks of `drained`.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Spawns `future` on this shard.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    spawn_into(TaskQueueHandle::default(), future);
}

/// As `spawn`, in the queue that runs before the others, within 1 to 2 ms: for tasks that many
/// others wait for. They must only enqueue and wake, not compute.
pub fn spawn_latency(future: impl Future<Output = ()> + 'static) {
    spawn_into(Shard::current().latency_queue.get(), future);
}

/// As `spawn` or `spawn_latency`, for a task that the whole shard depends on: its panic is the
/// death of the shard.
pub fn spawn_vital(queue: Queue, future: impl Future<Output = ()> + 'static) {
    let vital = async move {
        if let Err(what) = Caught::new(future).await {
            Shard::current().die(&what);
        }
    };
    match queue {
        Queue::Work => spawn(vital),
        Queue::Latency => spawn_latency(vital),
    }
}

/// The queue of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Work,
    Latency,
}

/// Number of tasks on this shard that have not ended.
pub fn live() -> usize {
    Shard::current().live.get()
}

/// Number of tasks on this shard that ended with a panic.
pub fn panics() -> u64 {
    Shard::current().panics.get()
}

/// Sets the hook that is called with the text of each task's panic.
pub fn on_panic(hook: impl Fn(&str) + 'static) {
    *Shard::current().on_panic.borrow_mut() = Some(Rc::new(hook));
}

/// Runs `work`. A panic in it is counted like that of a task and ends nothing else. For code that
/// only reads the shard's state.
pub fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) => {
            Shard::current().count_panic(&panic_text(&*payload));
            None
        }
    }
}

/// Waits up to `limit` until all tasks have ended, and returns the number of those that have not.
/// Only for the main future: a task would wait for itself.
pub async fn drained(limit: Duration) -> usize {
    let shard = Shard::current();
    let start = timer::now();
    while shard.live.get() > 0 && start.elapsed() < limit {
        timer::sleep(DRAIN_STEP).await;
    }
    shard.live.get()
}

/// Yields if this task has used its time slice. Call it in every loop that may not wait, and about
/// every 100 us of computation.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

fn spawn_into(queue: TaskQueueHandle, future: impl Future<Output = ()> + 'static) {
    let body = Counted { body: Caught::new(future), live: Live::new(Shard::current()) };
    // `spawn_local` would poll the future at once, while the caller may hold a borrow.
    let task = glommio::spawn_local_into(body, queue);
    task.expect("a shard's queues live as long as the shard").detach();
}

/// A future that returns a panic as a value. It is dropped in place as soon as it has ended.
pub(in crate::rt) struct Caught<F> {
    inner: Option<F>,
}

impl<F> Caught<F> {
    pub(in crate::rt) fn new(inner: F) -> Caught<F> {
        Caught { inner: Some(inner) }
    }
}

impl<F: Future> Future for Caught<F> {
    /// The result of the future, or the text of its panic.
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `inner` is pinned with `self`. It is never moved, only dropped in place.
        let slot = unsafe { &mut self.get_unchecked_mut().inner };
        let inner = slot.as_mut().expect("an ended future is not polled again");
        // SAFETY: as above.
        let inner = unsafe { Pin::new_unchecked(inner) };
        let polled = catch_unwind(AssertUnwindSafe(|| inner.poll(cx)));
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        // A panic of the destructor must not reach glommio, which would abort.
        let dropped = catch_unwind(AssertUnwindSafe(|| *slot = None));
        match (polled, dropped) {
            (Ok(ended), Ok(())) => ended.map(Ok),
            (Err(payload), _) | (_, Err(payload)) => Poll::Ready(Err(panic_text(&*payload))),
        }
    }
}

/// The future of a task. A struct, because an async block would store `F` twice.
struct Counted<F> {
    body: Caught<F>,
    live: Live,
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `body` is pinned with `self` and never moved; `live` does not need pinning.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let body = unsafe { Pin::new_unchecked(&mut this.body) };
        body.poll(cx).map(|ended| {
            if let Err(what) = ended {
                this.live.shard.count_panic(&what);
            }
        })
    }
}

/// Counts one task until it is dropped.
struct Live {
    shard: Rc<Shard>,
}

impl Live {
    fn new(shard: Rc<Shard>) -> Live {
        shard.live.set(shard.live.get() + 1);
        Live { shard }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shard.live.set(self.shard.live.get() - 1);
    }
}

/// The text of a panic.
pub(in crate::rt) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let said = payload.downcast_ref::<&str>().copied();
    said.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
        .to_owned()
}
