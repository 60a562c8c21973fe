//! Group commit with the real store on a real disk: 4 KB messages, 100 waiters, one partition.
//!
//! A longer run first prints counts: CPU of the process per message, syncs per message, messages per
//! sync.
//!
//! Estimate: a message is one chunk of 4 KB with a CRC (0.3 us) and compression (LZ4, 5 us), four keys in
//! a batch, the log and a memtable (5 us), two wakes shared by the batch: 15 us of CPU. In wall time the
//! disk dominates: 100 waiters form two alternating batches, so that a sync of 2 ms means 20-40 us per
//! message.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   commit/4k_100_waiters: 19.3 us

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;

#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use queue_rig::HEAD;
use queue_rig::NOW_MS;
use queue_rig::Rig;
use queue_rig::envelope;
use queue_rig::recipients;
use ringpost::base::ChunkPool;
use ringpost::base::Slice;
use ringpost::queue::CommitFault;
use ringpost::queue::CommitHandle;
use ringpost::queue::Committed;
use ringpost::queue::Committer;
use ringpost::queue::Envelope;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;

const WAITERS: usize = 100;
const BYTES: usize = 4096;
const LONG_RUN: u64 = 60_000;

type Storing<'e> = Pin<Box<dyn Future<Output = Result<Committed, CommitFault>> + 'e>>;

async fn store(
    committer: &Committer,
    pool: &ChunkPool,
    text: &[u8],
    envelope: &Envelope<'_>,
) -> Result<Committed, CommitFault> {
    let mut body = committer.body(NOW_MS)?;
    let mut chunk = pool.try_take().expect("the pool is large enough");
    chunk.fill_from(text);
    body.push(Slice::new(chunk, 0..text.len())).await?;
    body.finish(HEAD, envelope, NOW_MS).await
}

/// Stores `count` messages, `WAITERS` of them at a time.
fn store_many(rig: &Rig, count: u64) {
    let list = recipients(&["one@example.test"]);
    let envelope = envelope(list.as_recipients());
    // Text that compresses about as mail does.
    let line = b"The quick brown fox of message 4711 jumps over the lazy dog, again.\r\n";
    let text: Vec<u8> = line.iter().copied().cycle().take(BYTES).collect();
    let begin = || -> Storing<'_> { Box::pin(store(&rig.committer, &rig.pool, &text, &envelope)) };
    let mut context = Context::from_waker(Waker::noop());
    let mut running: Vec<Storing<'_>> = (0..WAITERS).map(|_| begin()).collect();
    let mut done = 0;
    while done < count {
        for storing in &mut running {
            if let Poll::Ready(stored) = storing.as_mut().poll(&mut context) {
                stored.expect("the disk has room");
                done += 1;
                *storing = begin();
                let begun = storing.as_mut().poll(&mut context);
                assert!(begun.is_pending(), "nothing is stored before it is written");
            }
        }
        while rig.committer.pump() == 0 {
            std::thread::park();
        }
    }
    for storing in running {
        rig.run(storing).expect("the disk has room");
    }
}

/// CPU time of this process, all threads, user and system. The kernel counts in hundredths.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has /proc");
    let fields: Vec<&str> =
        stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<u64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) * 10_000
}

/// Runs `work`, which stores `count` messages, and prints what each cost. A rate without the
/// number of syncs and the time of each says more about the disk's mood than about us.
fn measured(counts: &CommitHandle, run: u32, count: u64, work: impl FnOnce()) {
    let sum = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    let read = || [sum(&counts.counts().syncs), sum(&counts.counts().write_us), cpu_us()];
    let (before, begun) = (read(), Instant::now());
    work();
    let spent = begun.elapsed();
    let after = read();
    let [syncs, write_us, cpu] = std::array::from_fn(|place| (after[place] - before[place]) as f64);
    let each = count as f64;
    println!(
        "commit, run {run}: {count} messages of {BYTES} bytes, {WAITERS} waiters: {:.0} per second, \
         {:.1} us of CPU each, {syncs} syncs of {:.0} us, {:.1} messages per sync",
        each / spent.as_secs_f64(),
        cpu / each,
        write_us / syncs,
        each / syncs,
    );
}

fn commit(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the spool");
    let options = || SpoolOptions {
        on_notice: Arc::new(|notice| println!("commit: {notice}")),
        ..SpoolOptions::new(folder.path(), NOW_MS)
    };
    let rig = Rig::with(options());
    store_many(&rig, 5_000);
    let counts = rig.thread.handle();
    for run in 1..=3 {
        measured(&counts, run, LONG_RUN, || store_many(&rig, LONG_RUN));
    }
    let mut group = criterion.benchmark_group("commit");
    group.measurement_time(Duration::from_secs(5)).sample_size(10);
    group.throughput(Throughput::Elements(1));
    group.bench_function("4k_100_waiters", |bencher| {
        bencher.iter_custom(|count| {
            let begun = Instant::now();
            store_many(&rig, count);
            begun.elapsed()
        });
    });
    group.finish();
    drop(counts);
    rig.close();
    let begun = Instant::now();
    let spool = Spool::open(options()).expect("it opens again");
    let (spent, messages) = (begun.elapsed(), spool.partitions()[0].messages());
    println!(
        "recover: {messages} messages in {} ms, {:.1} us each",
        spent.as_millis(),
        spent.as_micros() as f64 / messages as f64
    );
}

criterion_group!(benches, commit);
criterion_main!(benches);
