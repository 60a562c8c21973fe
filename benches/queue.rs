//! The queue except for the commit: records, settles, schedule scans, recovery. `commit` measures the
//! commit.
//!
//! Estimate: an envelope is 330 bytes written by field into a warm buffer with a CRC (100 ns), and checked
//! by field when read (200 ns); a recipient adds 40 ns. A settle shares its sync with all waiting ones: 100
//! at a time with a sync of 1-4 ms are 10-40 us each, of which 8 us are CPU: one job read, a dozen keys
//! written. The schedule is read at 2 us per row (one step of an iterator over memtable and blocks).
//! Recovery reads each envelope and job once: 5-10 us per message, ten seconds for a million on one
//! partition.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   backlog/1000 jobs with their envelopes: 2.63 ms
//!   backlog/1000 rows of the schedule: 84.7 us
//!   backlog/20,000 messages recovered: 216 ms
//!   record/100 recipients: 2.72 us
//!   record/one recipient: 324 ns
//!   settle/100 at a time: 33.5 us

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::record;
use queue_rig::NOW_MS;
use queue_rig::Rig;
use ringpost::base::MessageId;
use ringpost::base::Wall;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::key::DueKey;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::store::schedule::Messages;
use ringpost::queue::store::schedule::due_keys;
use ringpost::queue::store::schedule::read_job;

/// Messages in the spool while it is read.
const BACKLOG: usize = 20_000;
/// Orders that share a batch.
const AT_ONCE: usize = 100;

fn records(c: &mut Criterion) {
    c.bench_function("record/one recipient", |b| b.iter(record::written_and_read(1)));
    c.bench_function("record/100 recipients", |b| b.iter(record::written_and_read(100)));
}

fn store_many(rig: &Rig, count: usize) -> Vec<MessageId> {
    let text = vec![b'x'; 4096];
    let mut ids = Vec::with_capacity(count);
    while ids.len() < count {
        let storing = (0..AT_ONCE.min(count - ids.len()))
            .map(|_| -> std::pin::Pin<Box<dyn Future<Output = _> + '_>> {
                Box::pin(rig.store(&text))
            })
            .collect();
        let stored = rig.run_all(storing);
        ids.extend(stored.into_iter().map(|stored| stored.expect("the disk has room").id.local));
    }
    ids
}

/// Ends each of these messages, `AT_ONCE` at a time.
fn settle_all(rig: &Rig, ids: &[MessageId]) {
    for ids in ids.chunks(AT_ONCE) {
        let settling = ids
            .iter()
            .map(|id| -> std::pin::Pin<Box<dyn Future<Output = _> + '_>> {
                let tally = Tally { delivered: 2, ..Tally::default() };
                let settlement = Settlement {
                    events: Default::default(),
                    id: *id,
                    job: 0,
                    change: JobChange::End,
                    reports: Vec::new(),
                    tally,
                    is_order: false,
                    keep_until_ms: None,
                    envelope: None,
                };
                Box::pin(rig.committer.settle(Arc::new(settlement)))
            })
            .collect();
        let settled = rig.run_all(settling);
        assert!(settled.into_iter().all(|found| found.expect("it is written")), "all were there");
    }
}

fn settles(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the spool");
    let rig = Rig::open(folder.path());
    let mut group = c.benchmark_group("settle");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("100 at a time", |b| {
        b.iter_custom(|count| {
            let ids = store_many(&rig, count as usize);
            let begun = Instant::now();
            settle_all(&rig, &ids);
            begun.elapsed()
        });
    });
    group.finish();
    rig.close();
}

fn backlog(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the spool");
    let rig = Rig::open(folder.path());
    store_many(&rig, BACKLOG);
    let partition = Arc::clone(&rig.spool.partitions()[0]);
    let due = Wall::from_ms(NOW_MS + 1);
    let mut group = c.benchmark_group("backlog");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 rows of the schedule", |b| {
        b.iter(|| {
            let read = due_keys(&*partition, DueKey::FIRST, due, 1000).expect("it can be read");
            assert_eq!(read.keys.len(), 1000, "so many are due");
            read.keys.len()
        });
    });
    let read = due_keys(&*partition, DueKey::FIRST, due, 1000).expect("it can be read");
    group.bench_function("1000 jobs with their envelopes", |b| {
        b.iter(|| {
            for row in &read.keys {
                let found =
                    read_job(&*partition, row.job, Messages::Leave).expect("it can be read");
                assert!(found.is_some(), "it is there");
            }
        });
    });
    drop(partition);
    rig.close();
    group.throughput(Throughput::Elements(BACKLOG as u64));
    let options = SpoolOptions::new(folder.path(), NOW_MS);
    group.bench_function("20,000 messages recovered", |b| {
        b.iter_batched(
            || options.clone(),
            |options| {
                let spool = Spool::open(options).expect("it opens again");
                assert_eq!(spool.partitions()[0].messages(), BACKLOG as u64);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, records, settles, backlog);
criterion_main!(benches);
