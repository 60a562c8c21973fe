//! Handoff: the cost of a frame from shard to shard.
//!
//! Estimate: a push into the lane is two atomics and a copy of 32 bytes, a bell whose reader is awake one
//! more atomic: 30 ns on one core. Between two cores each frame moves one cache line: 100 ns. Only a
//! frame to a sleeping reader needs a wake (an eventfd write and a completion, 5-20 us), as every ping
//! does; in a stream a thousand frames share one wake.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   handoff/1000 frames posted: 18.5 us
//!   handoff/lead of a destination: 12.5 ns
//!   handoff/ping to another shard: 18.3 us
//!   handoff/stream to another shard: 40.4 ns

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::base::MessageId;
use ringpost::base::ShardId;
use ringpost::delivery::stripe;
use ringpost::handoff::Frame;
use ringpost::handoff::frames::Incarnation;
use ringpost::handoff::frames::JobRef;
use ringpost::handoff::lane;
use ringpost::handoff::mesh;
use ringpost::observe::Observed;
use ringpost::observe::ShardObserved;
use ringpost::rt;
use ringpost::rt::ShardSpec;

/// Frames that may be under way, as between two shards.
const CAPACITY: usize = 4096;

fn frame(number: u64) -> Frame {
    let job = JobRef { key: (MessageId::from_u64(number), 0), incarnation: Incarnation(1) };
    Frame::Recall { job }
}

/// Sends `count` frames to a shard of its own thread; the time until the last was read. `window`
/// frames are under way at most.
fn stream(count: u64, window: u64) -> Duration {
    let (sender, seed) = lane::lane(CAPACITY);
    let (answer, answers) = mpsc::sync_channel(CAPACITY);
    let shard = rt::start(ShardSpec::new("bench", None), move || async move {
        let mut inbox = seed.settle();
        for number in 1..=count {
            let Frame::Recall { job, .. } = inbox.receive().await else {
                panic!("nothing else was sent");
            };
            assert_eq!(job.key.0.as_u64(), number, "frames come in their order");
            let is_told = number % window == 0 || number == count;
            if is_told && answer.send(number).is_err() {
                break;
            }
        }
    })
    .expect("a shard starts on a machine that can run the bench");
    let begun = Instant::now();
    let mut done = 0;
    for number in 1..=count {
        let mut waiting = sender.try_send(frame(number));
        while let Err(frame) = waiting {
            std::thread::yield_now();
            waiting = sender.try_send(frame);
        }
        if number % window == 0 || number == count {
            done = answers.recv().expect("the shard answers");
        }
    }
    assert_eq!(done, count);
    let spent = begun.elapsed();
    shard.join().expect("the shard ends in order");
    spent
}

fn crossings(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff");
    group.throughput(Throughput::Elements(1));
    group.bench_function("ping to another shard", |b| b.iter_custom(|count| stream(count, 1)));
    group.bench_function("stream to another shard", |b| b.iter_custom(|count| stream(count, 1024)));
    group.finish();
}

fn observed() -> Arc<ShardObserved> {
    Arc::clone(&Observed::new(1, 0).shards[0])
}

fn sends(c: &mut Criterion) {
    c.bench_function("handoff/1000 frames posted", |b| {
        b.iter_batched(
            || mesh::connect(2).remove(0).settle(observed()),
            |(mesh, inbox)| {
                (0..1000).for_each(|number| mesh.post(ShardId(1), frame(number)));
                (mesh, inbox)
            },
            BatchSize::SmallInput,
        );
    });
}

fn leads(c: &mut Criterion) {
    let destination = "mx:recipient-domain.example";
    c.bench_function("handoff/lead of a destination", |b| {
        b.iter(|| stripe::lead(std::hint::black_box(destination), 16));
    });
}

criterion_group!(benches, crossings, sends, leads);
criterion_main!(benches);
