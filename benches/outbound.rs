//! Scheduling: queues of a home shard, windows and rates of an owner shard. Pure values, no I/O.
//!
//! Estimate: a job that is queued, started and finished touches its destination (a slab entry), the shares
//! of tenant and sender (two small maps), the timers of the destination (two changes of a tree with one
//! entry per destination: 6 levels at 10,000) and its connection: 40 cache lines, all warm with 64
//! destinations (400 ns), half of them cold with 10,000 (2 us). A rate adds three additions. The queue of
//! a home shard is one map lookup by name and a push: 100 ns.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   lease/given and settled: 176 ns
//!   line/join and step: 138 ns
//!   schedule/10,000 destinations: 237 ns
//!   schedule/64 destinations: 211 ns
//!   schedule/64 destinations with rates: 233 ns

use std::hint::black_box;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::base::MessageId;
use ringpost::base::limits::JOB_LEASE_MS;
use ringpost::outbound::lease::LeaseTable;
use ringpost::outbound::line::Age;
use ringpost::outbound::line::Arrival;
use ringpost::outbound::line::Lines;
use ringpost::route::DestinationPolicy;
use ringpost::route::Rates;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::outbound::Busy;

fn schedules(c: &mut Criterion) {
    // A rate so high that it never binds: what is measured is keeping it.
    let rates = Rates {
        per_second: Some(900_000),
        per_minute: Some(9_000_000),
        per_hour: Some(90_000_000),
        per_day: Some(900_000_000),
    };
    let rows = [
        ("64 destinations", 64, Rates::default()),
        ("64 destinations with rates", 64, rates),
        ("10,000 destinations", 10_000, Rates::default()),
    ];
    for (name, destinations, rates) in rows {
        let mut busy =
            Busy::with(destinations, DestinationPolicy { rates, ..DestinationPolicy::default() });
        c.bench_function(&format!("schedule/{name}"), |b| b.iter(|| busy.deliver()));
    }
}

/// A job comes before its destination, goes, and comes back.
fn lines(c: &mut Criterion) {
    let destinations: Vec<String> = (0..1000)
        .map(|number| format!("mx:destination-{number}.recipient-domain.example"))
        .collect();
    let mut lines = Lines::new(100_000);
    let mut next = 0_u64;
    c.bench_function("line/join and step", |b| {
        b.iter(|| {
            next += 1;
            let destination = &destinations[next as usize % destinations.len()];
            let row = (next, MessageId::from_u64(next), 0);
            let turn =
                lines.join(destination, Arrival { row, age: Age::Fresh, tenant: 0, out_max: 100 });
            lines.step(destination, 0, |_| true);
            black_box(turn)
        });
    });
}

/// A job is leased and its outcome settles it, beside ten thousand others that are out.
fn leases(c: &mut Criterion) {
    let mut leases = LeaseTable::new(100_000, JOB_LEASE_MS);
    for raw in 0..10_000_u64 {
        leases.lease(MessageId::from_u64(raw), 0, raw).expect("there is room");
    }
    let mut next = 10_000_u64;
    c.bench_function("lease/given and settled", |b| {
        b.iter(|| {
            next += 1;
            let id = MessageId::from_u64(next);
            let lease = leases.lease(id, 0, next).expect("there is room");
            leases.settle(id, 0, lease.number)
        });
    });
}

criterion_group!(benches, schedules, lines, leases);
criterion_main!(benches);
