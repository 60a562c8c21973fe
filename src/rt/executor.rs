//! Shards: one thread, one glommio executor, one ticker each; and the watchdog over them.
//!
//! Owner:    `ShardThread` belongs to whoever started the shard; a `Heartbeat` may be anywhere.
//! Promise:  a shard whose main future has ended first runs its tasks to their end, for at most
//!           `drain_max`. A shard that cannot start says why.
//! Fatal:    a panic of the main future, of the ticker or of the executor: `on_death` is told,
//!           and by default the process ends, for a restart recovers from disk.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glommio::Latency;
use glommio::LocalExecutor;
use glommio::LocalExecutorBuilder;
use glommio::Placement;
use glommio::PoolPlacement;
use glommio::Shares;

use crate::base::fault::end_process;
use crate::rt::context::OnDeath;
use crate::rt::context::Shard;
use crate::rt::host;
use crate::rt::host::RtFault;
use crate::rt::interrupt;
use crate::rt::task;
use crate::rt::task::Caught;
use crate::rt::task::panic_text;
use crate::rt::ticker;
use crate::rt::ticker::TICK;
use crate::rt::timer;
use crate::rt::watchdog::Heartbeat;

/// Memory that glommio registers for files, which it never reads here. Its least is this.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of a shard's three rings. More submissions than this wait for the next turn.
const RING_DEPTH: usize = 512;
/// How long the default queue runs before the executor looks for completions and wakes.
const PREEMPT: Duration = Duration::from_millis(5);
/// As `PREEMPT`, while a task of the latency queue is runnable.
const LATENCY: Duration = Duration::from_millis(1);
const SHARES: usize = 1000;
/// How long a shard that was started may sleep before it is interrupted, and how often.
const INTERRUPT_EVERY: Duration = Duration::from_millis(20);
/// A shard that has not ticked by then is not going to.
const START_MAX: Duration = Duration::from_secs(20);
/// How long the tasks of a shard may take to end after its main future has.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// What a shard is to be.
pub struct ShardSpec {
    /// The thread's name; 15 bytes of it are shown by `ps`.
    pub name: String,
    /// The core to run on alone; none for tests, where the kernel chooses.
    pub cpu: Option<usize>,
    /// How long its tasks may take to end after its main future has.
    pub drain_max: Duration,
    /// How long tasks run before completions and wakes are looked for. Below a millisecond the
    /// executor often sleeps although tasks are runnable: only a test of the ticker wants that.
    pub preempt: Duration,
    /// Told of its death. When it returns, the shard's thread ends and the process goes on.
    pub on_death: OnDeath,
}

impl ShardSpec {
    /// A shard that ends the process when it dies.
    pub fn new(name: impl Into<String>, cpu: Option<usize>) -> ShardSpec {
        let name = name.into();
        let shard = name.clone();
        let on_death = Box::new(move |what: &str| -> () {
            end_process(format_args!("shard {shard} died: {what}"))
        });
        ShardSpec { name, cpu, drain_max: DRAIN_MAX, preempt: PREEMPT, on_death }
    }
}

/// A shard that has been started.
pub struct ShardThread {
    thread: thread::JoinHandle<Result<usize, RtFault>>,
    heartbeat: Heartbeat,
}

impl ShardThread {
    /// Waits until the shard has ended; answers how many of its tasks had not.
    pub fn join(self) -> Result<usize, RtFault> {
        let ended = self.thread.join();
        ended.unwrap_or_else(|payload| Err(RtFault::Died { what: panic_text(&*payload) }))
    }

    /// What a `Watchdog` watches.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }
}

/// Starts a shard on a thread of its own, and returns when it runs.
pub fn start<F, Fut>(spec: ShardSpec, main: F) -> Result<ShardThread, RtFault>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    // Without io_uring glommio panics, or even exits, while it looks for what the kernel can do.
    host::probe()?;
    let heartbeat = Heartbeat::new(&spec.name);
    let beating = heartbeat.clone();
    interrupt::prepare()?;
    // A starter that has gone gave up; nobody minds what it is told.
    let (started, ready) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(spec.name.clone()).spawn(move || {
        beating.sleeper.enter();
        let executor = match make_executor(spec.cpu, spec.preempt) {
            Ok(executor) => executor,
            Err(fault) => {
                let _ = started.send(Err(fault));
                return Ok(0);
            }
        };
        let ran = started.clone();
        let first_tick = move || drop(started.try_send(Ok(())));
        let ended = run_shard(executor, spec, beating, first_tick, main);
        // glommio keeps the ticker of a shard that died, and `first_tick` with it.
        let _ = ran.try_send(Ok(()));
        ended
    });
    let thread = thread.map_err(|error| RtFault::of_call("pthread_create", &error))?;
    await_start(&ready, &heartbeat).map(|()| ShardThread { thread, heartbeat })
}

/// Waits for the first tick. Until then no alarm may be set, and an executor that falls asleep
/// before its first task has run sleeps for ever, unless it is interrupted.
fn await_start(
    ready: &mpsc::Receiver<Result<(), RtFault>>,
    heartbeat: &Heartbeat,
) -> Result<(), RtFault> {
    let until = timer::now() + START_MAX;
    loop {
        match ready.recv_timeout(INTERRUPT_EVERY) {
            Ok(started) => return started,
            // It came to its end already; `join` tells which.
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) if timer::now() < until => {
                heartbeat.sleeper.interrupt();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let what = format!("it has not run {} s after its start", START_MAX.as_secs());
                return Err(RtFault::Died { what });
            }
        }
    }
}

fn make_executor(cpu: Option<usize>, preempt: Duration) -> Result<LocalExecutor, RtFault> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let builder = LocalExecutorBuilder::new(placement)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(preempt)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(Ok(executor)) => Ok(executor),
        Ok(Err(error)) => Err(host::fault_of(error)),
        Err(payload) => Err(RtFault::Died { what: panic_text(&*payload) }),
    }
}

/// The life of a shard's thread after its executor has been made.
fn run_shard<F, Fut>(
    executor: LocalExecutor,
    spec: ShardSpec,
    heartbeat: Heartbeat,
    first_tick: impl FnOnce() + 'static,
    main: F,
) -> Result<usize, RtFault>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = ()>,
{
    let limits = Limits { drain_max: spec.drain_max, latency: LATENCY.min(spec.preempt) };
    let shard = Shard::enter(spec.on_death);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let ended = executor.run(run_main(&shard, &limits, (&heartbeat, first_tick), main));
        drop(executor);
        ended
    }));
    Shard::leave();
    let died = match ended {
        Ok(Ok(left)) => {
            heartbeat.end();
            return Ok(left);
        }
        Ok(Err(what)) => what,
        Err(payload) => panic_text(&*payload),
    };
    shard.die(&died);
    Err(RtFault::Died { what: died })
}

/// What of a spec the main future needs.
struct Limits {
    drain_max: Duration,
    latency: Duration,
}

/// The main future between what the runtime does before and after it.
async fn run_main<F, Fut>(
    shard: &Rc<Shard>,
    limits: &Limits,
    (heartbeat, first_tick): (&Heartbeat, impl FnOnce() + 'static),
    main: F,
) -> Result<usize, String>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = ()>,
{
    let latency = Latency::Matters(limits.latency);
    let executor = glommio::executor();
    shard.latency_queue.set(executor.create_task_queue(Shares::Static(SHARES), latency, "latency"));
    start_ticker(Rc::clone(shard), heartbeat.clone(), first_tick);
    Caught::new(async { main().await }).await?;
    let left = task::drained(limits.drain_max).await;
    // glommio never frees a task that has not ended, and the ticker is one.
    shard.ending.set(true);
    while shard.ticking.get() {
        timer::sleep(TICK / 4).await;
    }
    Ok(left)
}

fn start_ticker(shard: Rc<Shard>, heartbeat: Heartbeat, first_tick: impl FnOnce() + 'static) {
    shard.ticking.set(true);
    let queue = shard.latency_queue.get();
    let ticker = async move {
        if let Err(what) = Caught::new(ticker::tick(&shard, &heartbeat, first_tick)).await {
            shard.die(&what);
        }
        shard.ticking.set(false);
    };
    glommio::spawn_local_into(ticker, queue).expect("the queue was made just now").detach();
}
