//! Tasks of one shard: spawned, never handed out, counted until they end.
//!
//! Owner:    the shard. A task stops when its future ends; whoever wants it to end sooner tells it
//!           so (glommio leaks a task that is cancelled, so there is no handle to cancel).
//! Promise:  a panic in a task ends that task only, drops what it held, and is counted. A spawned
//!           future is first polled from the queue, never inside `spawn`.
//! Bounds:   none here; what accepts work has its own (`base::limits`).

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

/// How often `drained` looks.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Runs `future` on this shard.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    spawn_into(TaskQueueHandle::default(), future);
}

/// As `spawn`, in the queue that runs before the others within 1-2 ms: for pumps that fulfil what
/// many tasks wait for. It is to enqueue and to wake, not to work.
pub fn spawn_latency(future: impl Future<Output = ()> + 'static) {
    spawn_into(Shard::current().latency_queue.get(), future);
}

/// As `spawn_latency` or, with `Queue::Work`, `spawn`, for what all of the shard depends on: a
/// panic in it is the shard's death.
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

/// Where a task is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Work,
    Latency,
}

/// Tasks of this shard that have not ended.
pub fn live() -> usize {
    Shard::current().live.get()
}

/// Tasks of this shard that ended by a panic.
pub fn panics() -> u64 {
    Shard::current().panics.get()
}

/// Has `told` called with the text of each panic of a task of this shard.
pub fn on_panic(told: impl Fn(&str) + 'static) {
    *Shard::current().on_panic.borrow_mut() = Some(Rc::new(told));
}

/// Runs `work`. A panic in it is counted as one of a task and ends nothing else: for views of what
/// the shard shares, which change nothing.
pub fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) => {
            Shard::current().count_panic(&panic_text(&*payload));
            None
        }
    }
}

/// Waits until no task is left, at most for `limit`; answers how many are. Only the main future
/// may call this, for a task would wait for itself.
pub async fn drained(limit: Duration) -> usize {
    let shard = Shard::current();
    let start = timer::now();
    while shard.live.get() > 0 && start.elapsed() < limit {
        timer::sleep(DRAIN_STEP).await;
    }
    shard.live.get()
}

/// Lets others run when this task has had its share. Due in every loop that may not wait, and
/// about every 100 us of computing.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

fn spawn_into(queue: TaskQueueHandle, future: impl Future<Output = ()> + 'static) {
    let body = Counted { body: Caught::new(future), live: Live::new(Shard::current()) };
    // `spawn_local` would poll the future here and now, inside whatever the caller has borrowed.
    let task = glommio::spawn_local_into(body, queue);
    task.expect("a shard's queues live as long as the shard").detach();
}

/// A future whose panics are values. It is dropped where it lies as soon as it has ended.
pub(in crate::rt) struct Caught<F> {
    inner: Option<F>,
}

impl<F> Caught<F> {
    pub(in crate::rt) fn new(inner: F) -> Caught<F> {
        Caught { inner: Some(inner) }
    }
}

impl<F: Future> Future for Caught<F> {
    /// What the future gave, or the text of its panic.
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `inner` is pinned with `self`. It is not moved out; it is only dropped in place.
        let slot = unsafe { &mut self.get_unchecked_mut().inner };
        let inner = slot.as_mut().expect("an ended future is not polled again");
        // SAFETY: as above.
        let inner = unsafe { Pin::new_unchecked(inner) };
        let polled = catch_unwind(AssertUnwindSafe(|| inner.poll(cx)));
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        // A destructor that panics as well is no news, and must not reach glommio, which aborts.
        let dropped = catch_unwind(AssertUnwindSafe(|| *slot = None));
        match (polled, dropped) {
            (Ok(ended), Ok(())) => ended.map(Ok),
            (Err(payload), _) | (_, Err(payload)) => Poll::Ready(Err(panic_text(&*payload))),
        }
    }
}

/// A task's future. A struct and not an async block, which would hold `F` twice over.
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

/// Counts one task for as long as it lives.
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

/// What a panic said.
pub(in crate::rt) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let said = payload.downcast_ref::<&str>().copied();
    said.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
        .to_owned()
}
