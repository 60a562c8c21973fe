//! The mail log: one line per attempt.
//!
//! Estimate: 24 fields, 620 bytes; each text is searched for characters to escape and copied (10 ns), each
//! number printed (10 ns): 300 ns as text, a third more as JSON. The push into the shard's lane is one
//! more copy and two atomics: 50 ns. 50,000 attempts per second use 2 % of a core.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   log/attempt as JSON: 377 ns
//!   log/attempt as text: 356 ns
//!   log/line through its lane: 95.4 ns

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::observe::log::lane;
use ringpost::observe::log::value::Form;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::delivery;

fn lines(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    for (name, form) in [("attempt as text", Form::Text), ("attempt as JSON", Form::Json)] {
        let mut line = String::with_capacity(2048);
        delivery::attempt().write(&mut line, form).expect("a string takes all");
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                line.clear();
                delivery::attempt().write(&mut line, form).expect("a string takes all");
                line.len()
            });
        });
    }
    group.finish();
}

/// The lane is emptied when it is full, on the same core: the writer's share is in the figure.
fn lanes(c: &mut Criterion) {
    let mut line = String::new();
    delivery::attempt().write(&mut line, Form::Text).expect("a string takes all");
    line.push('\n');
    let (mut entry, mut exit) = lane::lane(1 << 20);
    let mut batch = Vec::new();
    c.bench_function("log/line through its lane", |b| {
        b.iter(|| {
            if !entry.push(line.as_bytes()) {
                batch.clear();
                while !exit.take_into(&mut batch, 1 << 20) {
                    batch.clear();
                }
                assert!(entry.push(line.as_bytes()), "it has been emptied");
            }
        });
    });
}

criterion_group!(benches, lines, lanes);
criterion_main!(benches);
