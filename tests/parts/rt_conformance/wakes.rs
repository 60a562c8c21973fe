//! Doorbells.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::rt;
use ringpost::rt::task;
use ringpost::rt::timer;

use crate::rt_conformance::LONG;
use crate::rt_conformance::QUIET;
use crate::rt_conformance::on_shard;
use crate::rt_conformance::shard_alone;

/// More than 32,767 wakers of one task would end the process; a lost one would hang the test.
#[test]
fn no_ring_of_another_thread_is_lost() {
    const THREADS: usize = 4;
    const RINGS: usize = 25_000;
    for latency in [false, true] {
        on_shard(move || async move {
            let (doorbell, mut bell) = rt::doorbell();
            let pushed = Arc::new(Mutex::new(VecDeque::new()));
            let ringers: Vec<_> = (0..THREADS)
                .map(|which| {
                    let (doorbell, pushed) = (doorbell.clone(), Arc::clone(&pushed));
                    thread::spawn(move || {
                        for number in 0..RINGS {
                            pushed.lock().expect("unpoisoned").push_back((which, number));
                            doorbell.ring();
                            if number.is_multiple_of(1000) {
                                thread::sleep(Duration::from_micros(300));
                            }
                        }
                    })
                })
                .collect();
            let (got, waits) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (getting, waiting) = (Rc::clone(&got), Rc::clone(&waits));
            let pump = async move {
                while getting.get() < THREADS * RINGS {
                    bell.wait().await;
                    waiting.set(waiting.get() + 1);
                    let taken = std::mem::take(&mut *pushed.lock().expect("unpoisoned"));
                    getting.set(getting.get() + taken.len());
                }
            };
            if latency {
                task::spawn_latency(pump)
            } else {
                task::spawn(pump)
            }
            let left = task::drained(LONG).await;
            assert_eq!((got.get(), left), (THREADS * RINGS, 0), "{} waits", waits.get());
            ringers.into_iter().for_each(|ringer| ringer.join().expect("the thread ends"));
        });
    }
}

/// One ring at a time, so that each must wake a sleeping shard. A wake between "no work" and
/// "asleep" must not be lost.
#[test]
fn every_ring_wakes_a_sleeping_shard() {
    const ROUNDS: u64 = 10_000;
    on_shard(|| async {
        let (there, mut bell) = rt::doorbell();
        let answered = Arc::new(AtomicU64::new(0));
        let answering = Arc::clone(&answered);
        let caller = thread::spawn(move || {
            for number in 1..=ROUNDS {
                there.ring();
                let start = Instant::now();
                while !(0..1000).any(|_| answered.load(Ordering::Acquire) >= number) {
                    assert!(start.elapsed() < LONG, "ring {number} was lost");
                    // Both threads may share one core.
                    thread::yield_now();
                }
                // Sometimes long enough for the shard to fall asleep; usually so short that the
                // next ring arrives while the task prepares to wait.
                let pause = if number.is_multiple_of(8) { number % 64 * 50 } else { number % 31 };
                (0..pause).for_each(|_| std::hint::spin_loop());
            }
        });
        for number in 1..=ROUNDS {
            bell.wait().await;
            answering.store(number, Ordering::Release);
        }
        caller.join().expect("the thread ends");
    });
}

/// Measured in turns of the shard's own tasks, because time includes periods in which other
/// processes have the core.
#[test]
fn a_ring_interrupts_a_busy_shard() {
    const TURN: Duration = Duration::from_micros(100);
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let mut waits = shard_alone(|| async {
        let (doorbell, mut bell) = rt::doorbell();
        let (answer, answers) = mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        for _ in 0..2 {
            let (done, turns) = (Arc::clone(&done), Arc::clone(&turns));
            task::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let start = timer::now();
                    while start.elapsed() < TURN {}
                    turns.fetch_add(1, Ordering::Relaxed);
                    task::yield_if_needed().await;
                }
            });
        }
        let (ringing, counting) = (Arc::clone(&done), Arc::clone(&turns));
        let caller = thread::spawn(move || {
            let mut waits = Vec::new();
            for _ in 0..100 {
                let before = counting.load(Ordering::Relaxed);
                doorbell.ring();
                waits.push(answers.recv_timeout(LONG).expect("an answer") - before);
                thread::sleep(Duration::from_millis(1));
            }
            ringing.store(true, Ordering::Relaxed);
            doorbell.ring();
            waits
        });
        let ended = Arc::clone(&done);
        task::spawn_latency(async move {
            while !ended.load(Ordering::Relaxed) {
                bell.wait().await;
                // Fails after the last ring, when the caller has ended.
                let _ = answer.send(turns.load(Ordering::Relaxed));
            }
        });
        assert_eq!(task::drained(LONG).await, 0);
        caller.join().expect("the thread ends")
    });
    waits.sort_unstable();
    println!("a busy shard answered within {} turns (median), {} (p99)", waits[50], waits[98]);
    assert!(waits[50] < 40, "the median is {} turns of {TURN:?}", waits[50]);
}
