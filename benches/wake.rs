//! Waking a shard from another thread, once per commit batch.
//!
//! Estimate: an eventfd write, an io_uring completion and a poll of the pump: 5-20 us on an idle shard. On a
//! busy shard the bound of the latency queue applies, a few milliseconds at worst.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   wake/ring to answer: 18.1 us

use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::rt::task;

/// Rings `count` times, each after the previous answer; returns the total time.
fn ring_pong(count: u64) -> Duration {
    let (doorbell, mut bell) = rt::doorbell();
    let (answer, answers) = mpsc::sync_channel(1);
    let shard = rt::start(ShardSpec::new("bench", None), move || async move {
        let (done, mut end) = rt::doorbell();
        task::spawn_latency(async move {
            for _ in 0..count {
                bell.wait().await;
                if answer.send(()).is_err() {
                    break;
                }
            }
            done.ring();
        });
        end.wait().await;
    })
    .expect("a shard starts on a machine that can run the bench");
    let began = Instant::now();
    for _ in 0..count {
        doorbell.ring();
        answers.recv().expect("the shard answers each ring");
    }
    let elapsed = began.elapsed();
    shard.join().expect("the shard ends in order");
    elapsed
}

fn wakes(c: &mut Criterion) {
    c.bench_function("wake/ring to answer", |b| b.iter_custom(ring_pong));
}

criterion_group!(benches, wakes);
criterion_main!(benches);
