//! The SMTP client of `wire`: building command groups, reading replies, dot-stuffing bodies.
//!
//! Estimate: a message is three commands (130 bytes into a warm buffer, 30 ns), four replies (line end
//! and code, 20 ns each), and one reply stored as text (two allocations and 70 characters, 150 ns):
//! 400 ns. Each further recipient adds a command and a stored reply: 100 ns. Stuffing copies nothing; it
//! searches for LF and dot: 10 GB/s.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   client/100 recipients: 6.4 us
//!   client/long refusal: 774 ns
//!   client/one recipient: 356 ns
//!   stuff/every 20th line: 1.63 us
//!   stuff/every line: 6.65 us
//!   stuff/no dots: 1.26 us

use std::hint::black_box;

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::wire::smtp::stuff::Stuffer;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::client;
use paths::receive;

fn mails(c: &mut Criterion) {
    c.bench_function("client/one recipient", |b| b.iter(client::pipelined_mail()));
    c.bench_function("client/100 recipients", |b| b.iter(client::mail_to_many()));
    c.bench_function("client/long refusal", |b| b.iter(client::long_reply()));
}

fn stuffing(c: &mut Criterion) {
    let mut group = c.benchmark_group("stuff");
    for (name, dotted) in [("no dots", 0), ("every 20th line", 20), ("every line", 1)] {
        let body = receive::body(64 << 10, 76, dotted);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut stuffer = Stuffer::new();
                let bytes: usize = stuffer.segments(black_box(&body)).map(<[u8]>::len).sum();
                bytes + stuffer.end().len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, mails, stuffing);
criterion_main!(benches);
