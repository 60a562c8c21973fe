//! Tasks, and the start and death of shards.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::rt;
use ringpost::rt::OnDeath;
use ringpost::rt::RtFault;
use ringpost::rt::ShardSpec;
use ringpost::rt::Watchdog;
use ringpost::rt::task;
use ringpost::rt::timer;

use crate::rt_conformance::LONG;
use crate::rt_conformance::QUIET;
use crate::rt_conformance::as_child;
use crate::rt_conformance::on_shard;
use crate::rt_conformance::pair;
use crate::rt_conformance::pin_to;
use crate::rt_conformance::some_cpu;
use crate::rt_conformance::spec;

/// Without the ticker the executor sleeps for ever with runnable tasks.
#[test]
fn tasks_keep_running_on_a_contended_core() {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let cpu = some_cpu();
    let stop = Arc::new(AtomicBool::new(false));
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    let burners: Vec<_> = (0..3)
        .map(|which| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || burn(cpu, which, &stop))
        })
        .collect();
    let (stopped, counted) = (Arc::clone(&stop), counts.clone());
    let (doorbell, mut bell) = rt::doorbell();
    let eager = ShardSpec { preempt: Duration::from_micros(100), ..spec("park") };
    let shard = rt::start(eager, move || async move {
        pin_to(cpu);
        let [plain, latency] = counted;
        let spin = async |count: Arc<AtomicU64>, stop: Arc<AtomicBool>| {
            while !stop.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        };
        task::spawn(spin(plain, Arc::clone(&stopped)));
        task::spawn_latency(spin(latency, stopped));
        // No timer here, because it would do the ticker's work.
        bell.wait().await;
    });
    let shard = shard.expect("a shard starts");
    // As in the server. If all alarms fired while the shard had no CPU, the watchdog interrupts it
    // within half a second; without a ticker it would report a stall.
    let told = Arc::new(AtomicUsize::new(0));
    let telling = Arc::clone(&told);
    let watchdog = Watchdog::start(vec![shard.heartbeat()], Duration::from_secs(4), move |_| {
        telling.fetch_add(1, Ordering::Relaxed);
    });
    let mut stood = 0;
    let mut last = [0, 0];
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(500));
        let now = [0, 1].map(|which| counts[which].load(Ordering::Relaxed));
        stood += usize::from(now[0] == last[0] || now[1] == last[1]);
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().expect("the thread ends"));
    doorbell.ring();
    assert!(stood <= 3, "runnable tasks did not run for {stood} half seconds");
    assert_eq!(told.load(Ordering::Relaxed), 0, "the ticker has stalled");
    assert_eq!(shard.join(), Ok(0));
    drop(watchdog.expect("the watchdog starts"));
}

/// When the preempt timer fires before the executor has run its first task, the executor falls
/// asleep before any alarm is set. Only an interrupt from `start`, or later from the watchdog,
/// wakes it.
#[test]
fn a_shard_that_sleeps_without_an_alarm_is_woken() {
    const ROUNDS: u64 = 240;
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let cpu = some_cpu();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for which in 0..3 {
            let stop = &stop;
            scope.spawn(move || burn(cpu, which, stop));
        }
        for round in 0..ROUNDS {
            let preempt = Duration::from_micros(16 + round % 24);
            let hasty = ShardSpec { preempt, cpu: Some(cpu), ..spec("hasty") };
            let shard = rt::start(hasty, || timer::sleep(Duration::from_millis(1)));
            let ended = shard.map(|shard| {
                let watchdog =
                    Watchdog::start(vec![shard.heartbeat()], Duration::from_millis(160), |_| ());
                (shard.join(), watchdog.map(drop))
            });
            stop.store(ended.is_err() || round == ROUNDS - 1, Ordering::Relaxed);
            assert_eq!(ended, Ok((Ok(0), Ok(()))), "start {round}");
        }
    });
}

/// Takes the CPU away at random moments: the executor falls asleep if its preempt timer fires
/// between being set and the first task's run.
fn burn(cpu: usize, which: u32, stop: &AtomicBool) {
    pin_to(cpu);
    let mut odd = 7 + which;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2) {}
        odd = odd.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        thread::sleep(Duration::from_micros(u64::from(200 + (odd >> 16) % 700)));
    }
}

pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Without catch_unwind a panic ends the executor. The task's future must be dropped.
#[test]
fn a_panic_ends_only_its_task() {
    struct PanicsAgain(Rc<Cell<bool>>);
    impl Drop for PanicsAgain {
        fn drop(&mut self) {
            self.0.set(true);
            panic!("and in a destructor");
        }
    }
    on_shard(|| async {
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = Rc::clone(&told);
        task::on_panic(move |what| telling.borrow_mut().push(what.to_owned()));
        let (dropped, again) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (held, worse) = (Rc::clone(&dropped), Rc::clone(&again));
        task::spawn(async move {
            let _held = OnDrop(held);
            timer::sleep(Duration::from_millis(1)).await;
            panic!("a session's bug, number {}", 7);
        });
        task::spawn(async move {
            let _held = PanicsAgain(worse);
            timer::sleep(Duration::from_millis(5)).await;
        });
        task::spawn_latency(async { panic!("in the first poll") });
        let ran = Rc::new(Cell::new(0));
        for _ in 0..100 {
            let ran = Rc::clone(&ran);
            task::spawn(async move {
                timer::sleep(Duration::from_millis(20)).await;
                ran.set(ran.get() + 1);
            });
        }
        assert_eq!(task::live(), 103);
        assert_eq!(task::drained(LONG).await, 0);
        assert_eq!(ran.get(), 100, "the other tasks have run");
        assert!(dropped.get() && again.get(), "the futures of the dead tasks were dropped");
        assert_eq!(task::panics(), 3);
        assert_eq!(told.borrow().len(), 3);
        assert!(told.borrow().contains(&"a session's bug, number 7".to_owned()));
    });
}

struct OnDrop(Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// glommio's own spawn polls the child at once, while the caller may hold a borrow.
#[test]
fn a_spawned_future_is_not_polled_by_spawn() {
    on_shard(|| async {
        let shared = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let mut held = shared.borrow_mut();
            let child = Rc::clone(&shared);
            task::spawn(async move { child.borrow_mut().push(number) });
            held.push(100 + number);
        }
        assert_eq!(*shared.borrow(), [100, 101, 102]);
        assert_eq!(task::drained(LONG).await, 0);
        assert_eq!(*shared.borrow(), [100, 101, 102, 0, 1, 2]);
        assert_eq!(task::panics(), 0);
    });
}

/// glommio never frees a cancelled task, so `spawn` returns no handle.
#[test]
fn spawning_returns_no_handle() {
    type Nothing = std::future::Ready<()>;
    let _: [fn(Nothing); 2] = [|future| task::spawn(future), |future| task::spawn_latency(future)];
}

/// glommio drops tasks that run when the main future ends.
#[test]
fn tasks_are_completed_before_a_shard_exits() {
    let _quiet = QUIET.read().unwrap_or_else(PoisonError::into_inner);
    let ended = Arc::new(AtomicUsize::new(0));
    for (name, drain_max, left) in [("in time", LONG, 0), ("never", Duration::from_millis(50), 1)] {
        let (counting, before) = (Arc::clone(&ended), ended.load(Ordering::Relaxed));
        let spec = ShardSpec { drain_max, ..spec("drain") };
        let shard = rt::start(spec, move || async move {
            for delay_ms in [1, 10, 25] {
                let counting = Arc::clone(&counting);
                task::spawn(async move {
                    timer::sleep(Duration::from_millis(delay_ms)).await;
                    counting.fetch_add(1, Ordering::Relaxed);
                });
            }
            if left == 1 {
                task::spawn(std::future::pending());
            }
        });
        let shard = shard.expect("a shard starts");
        let heartbeat = shard.heartbeat();
        assert_eq!(shard.join(), Ok(left), "{name}");
        assert_eq!(ended.load(Ordering::Relaxed), before + 3, "{name}");
        assert_eq!(heartbeat.beat_ms(), u64::MAX, "{name}: the shard has ended normally");
    }
}

#[test]
fn the_death_of_a_main_future_is_reported() {
    let _quiet = QUIET.read().unwrap_or_else(PoisonError::into_inner);
    for (name, at_once) in [("in its first poll", true), ("after a wait", false)] {
        let (tell, told) = mpsc::channel();
        let on_death: OnDeath = Box::new(move |what| tell.send(what.to_owned()).expect("heard"));
        let spec = ShardSpec { on_death, ..spec("dies") };
        let shard = rt::start(spec, move || async move {
            if !at_once {
                timer::sleep(Duration::from_millis(2)).await;
            }
            panic!("the main future is broken");
        });
        let died = shard.expect("a shard starts").join();
        let what = "the main future is broken".to_owned();
        assert_eq!(told.recv().as_ref(), Ok(&what), "{name}");
        assert_eq!(died, Err(RtFault::Died { what }), "{name}");
    }
}

#[test]
fn the_death_of_a_shard_ends_the_process() {
    let output = as_child("death");
    let cried = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "the process has not ended with an error");
    assert!(cried.contains("shard doomed died: a broken tick"), "{cried}");
}

pub(crate) fn child_death() {
    let shard = rt::start(ShardSpec::new("doomed", None), || async {
        timer::on_tick(|| panic!("a broken tick"));
        timer::sleep(LONG).await;
    });
    // Not reached: the ticker's death ends the process.
    let _ = shard.expect("a shard starts").join();
}

#[test]
fn a_watchdog_reports_only_the_blocked_shard() {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let (block, blocked) = mpsc::channel::<()>();
    let ended = rt::start(spec("ended"), || async {}).expect("a shard starts");
    let busy = Arc::new(AtomicBool::new(true));
    let working = Arc::clone(&busy);
    let well = rt::start(spec("well"), move || async move {
        while working.load(Ordering::Relaxed) {
            task::yield_if_needed().await;
        }
    });
    let well = well.expect("a shard starts");
    let stuck = rt::start(spec("stuck"), move || async move {
        timer::sleep(Duration::from_millis(1000)).await;
        blocked.recv().expect("the test unblocks the shard");
    });
    let stuck = stuck.expect("a shard starts");
    let heartbeats = vec![ended.heartbeat(), well.heartbeat(), stuck.heartbeat()];
    assert_eq!(ended.join(), Ok(0));
    let (tell, told) = mpsc::channel();
    let limit = Duration::from_millis(400);
    let start = Instant::now();
    let watchdog = Watchdog::start(heartbeats, limit, move |name| {
        tell.send(name.to_owned()).expect("heard");
    });
    assert_eq!(told.recv_timeout(LONG).as_deref(), Ok("stuck"));
    assert!(start.elapsed() >= Duration::from_millis(1300), "it was reported before it stalled");
    block.send(()).expect("the shard waits for this");
    busy.store(false, Ordering::Relaxed);
    assert_eq!(stuck.join(), Ok(0));
    assert_eq!(well.join(), Ok(0));
    drop(watchdog);
    assert!(told.try_recv().is_err(), "one stall is reported once");
}

/// A task whose I/O is always ready must not starve the others.
#[test]
fn a_stream_that_is_always_ready_lets_other_tasks_run() {
    on_shard(|| async {
        let (mut near, _far) = pair().await;
        let (done, ticks) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (doing, ticking) = (Rc::clone(&done), Rc::clone(&ticks));
        task::spawn(async move {
            while !doing.get() {
                timer::sleep(Duration::from_millis(5)).await;
                ticking.set(ticking.get() + 1);
            }
        });
        let start = timer::now();
        while start.elapsed() < Duration::from_millis(500) {
            let (written, _) = near.write(Vec::new()).await;
            assert_eq!(written, Ok(()));
        }
        let ran = ticks.get();
        done.set(true);
        assert!(ran >= 5, "another task ran {ran} times in half a second");
    });
}
