//! The decisions of delivery: a home from fresh mail to its end, and an owner from a job to its end. Pure
//! values, no I/O.
//!
//! Estimate: a job that is queued, started and finished at an owner touches its destination (a slab
//! entry), the shares of tenant and sender (two small maps), the timers of the destination and its
//! connection: 40 cache lines, all warm with 64 destinations (400 ns), half of them cold with 10,000
//! (2 us). A rate adds four additions. A message at its home enters and leaves one map and the counts of
//! its flow, and makes the record of its settlement: 1 us.
//!
//! Last measured never:

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::delivery::BusyHome;
use paths::delivery::BusyOwner;

fn owners(c: &mut Criterion) {
    // Rates so high that they never bind: what is measured is keeping them.
    let rates = "messages_per_second = 900_000\nmessages_per_minute = 9_000_000\n\
                 messages_per_hour = 90_000_000\nmessages_per_day = 900_000_000\n";
    let rows = [
        ("64 destinations", 64, ""),
        ("64 destinations with rates", 64, rates),
        ("10,000 destinations", 10_000, ""),
    ];
    for (name, destinations, defaults) in rows {
        let mut busy = BusyOwner::with(destinations, defaults);
        c.bench_function(&format!("owner/{name}"), |b| b.iter(|| busy.deliver()));
    }
}

fn homes(c: &mut Criterion) {
    for (name, destinations) in [("64 destinations", 64), ("10,000 destinations", 10_000)] {
        let mut busy = BusyHome::with(destinations);
        c.bench_function(&format!("home/{name}"), |b| b.iter(|| busy.deliver()));
    }
}

criterion_group!(benches, owners, homes);
criterion_main!(benches);
