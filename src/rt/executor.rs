//! Shards: one thread, one glommio executor and one ticker each.
//!
//! Owner:    `ShardThread` belongs to the caller of `start`.
//! Promise:  when the main future has ended, the shard's tasks are run to their end for up to
//!           `drain_max`. A shard that cannot start returns the cause.
//! Fatal:    a panic of the main future, of the ticker or of the executor calls `on_death`. By
//!           default the process ends, because a restart recovers from disk.

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

/// Memory that glommio registers for file I/O, which is not used here. This is its minimum.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of a shard's three rings. Further submissions wait for the next loop of the
/// executor.
const RING_DEPTH: usize = 512;
/// Run time of the default queue before the executor checks for completions and wakes.
const PREEMPT: Duration = Duration::from_millis(5);
/// As `PREEMPT`, while a task of the latency queue is runnable.
const LATENCY: Duration = Duration::from_millis(1);
const SHARES: usize = 1000;
/// Time between two interrupts while a new shard has not ticked.
const INTERRUPT_EVERY: Duration = Duration::from_millis(20);
/// A shard that has not ticked by then has failed.
const START_MAX: Duration = Duration::from_secs(20);
/// Default of `ShardSpec::drain_max`.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// The parameters of a shard.
pub struct ShardSpec {
    /// The name of the thread; `ps` shows 15 bytes of it.
    pub name: String,
    /// The core to pin the thread to; `None` in tests, where the kernel chooses.
    pub cpu: Option<usize>,
    /// How long tasks may run after the main future has ended.
    pub drain_max: Duration,
    /// Run time of tasks before completions and wakes are checked. Below 1 ms the executor often
    /// sleeps although tasks are runnable; only the test of the ticker uses that.
    pub preempt: Duration,
    /// Called when the shard dies. After it returns, the thread ends and the process continues.
    pub on_death: OnDeath,
}

impl ShardSpec {
    /// A shard whose death ends the process.
    pub fn new(name: impl Into<String>, cpu: Option<usize>) -> ShardSpec {
        let name = name.into();
        let shard = name.clone();
        let on_death = Box::new(move |what: &str| -> () {
            end_process(format_args!("shard {shard} died: {what}"))
        });
        ShardSpec { name, cpu, drain_max: DRAIN_MAX, preempt: PREEMPT, on_death }
    }
}

/// A running shard.
pub struct ShardThread {
    thread: thread::JoinHandle<Result<usize, RtFault>>,
    heartbeat: Heartbeat,
}

impl ShardThread {
    /// Waits until the shard has ended. Returns the number of tasks that had not.
    pub fn join(self) -> Result<usize, RtFault> {
        let ended = self.thread.join();
        ended.unwrap_or_else(|payload| Err(RtFault::Died { what: panic_text(&*payload) }))
    }

    /// The heartbeat, for a `Watchdog`.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }
}

/// Starts a shard on a new thread. Returns after its first tick.
pub fn start<F, Fut>(spec: ShardSpec, main: F) -> Result<ShardThread, RtFault>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    // Without io_uring glommio panics or exits while it probes the kernel.
    host::check_host()?;
    let heartbeat = Heartbeat::new(&spec.name);
    let beating = heartbeat.clone();
    interrupt::prepare()?;
    // A send fails only if `start` has given up; nothing is left to do then.
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
        // glommio never frees the ticker of a dead shard, and so never drops `first_tick`.
        let _ = ran.try_send(Ok(()));
        ended
    });
    let thread = thread.map_err(|error| RtFault::of_call("pthread_create", &error))?;
    await_start(&ready, &heartbeat).map(|()| ShardThread { thread, heartbeat })
}

/// Waits for the first tick. Before it no timer is set, and an executor that falls asleep before it
/// has run its first task sleeps for ever unless it is interrupted.
fn await_start(
    ready: &mpsc::Receiver<Result<(), RtFault>>,
    heartbeat: &Heartbeat,
) -> Result<(), RtFault> {
    let until = timer::now() + START_MAX;
    loop {
        match ready.recv_timeout(INTERRUPT_EVERY) {
            Ok(started) => return started,
            // The shard has ended already; `join` returns its result.
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) if timer::now() < until => {
                heartbeat.sleeper.interrupt();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let what =
                    format!("the shard has not run {} s after its start", START_MAX.as_secs());
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

/// Runs the shard on its thread.
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

/// The parts of a `ShardSpec` that the main future needs.
struct Limits {
    drain_max: Duration,
    latency: Duration,
}

/// Runs the main future, with the runtime's start before it and the drain after it.
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
    // glommio never frees a task that has not ended, so the ticker must end, too.
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
    glommio::spawn_local_into(ticker, queue).expect("the queue was just created").detach();
}
