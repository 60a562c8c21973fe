//! The receiving hot paths of `wire`: line cutting, commands and addresses, dot scanning, headers.
//!
//! Estimate: memchr reads 10-30 GB/s from cache. A body of 76-byte lines stops it at every line end, so
//! that 2-4 GB/s is good for a dot scanner; long lines should come close to memchr itself. A command costs
//! a line cut (10 ns), a verb match (5 ns), and for an address one pass and one copy into the arena (50 ns):
//! MAIL, RCPT and BDAT together should stay below 500 ns. A header is one search per line and a walk over
//! the names: 1.2 KB in 20 lines, 1 us.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   address/literal: 83.6 ns
//!   address/plain: 39.1 ns
//!   address/quoted: 42.6 ns
//!   address/utf-8: 381 ns
//!   command/mail+rcpt+bdat: 329 ns
//!   command/mail+rcpt+rset: 172 ns
//!   dot/76-byte lines: 111 us
//!   dot/998-byte lines: 16.7 us
//!   dot/every line dotted: 104 us
//!   header/two fields picked: 623 ns
//!   line/cut: 8.71 ns

use std::hint::black_box;

use bumpalo::Bump;
use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::wire::mail::address::parse_forward_path;
use ringpost::wire::smtp::dot::DotDecoder;
use ringpost::wire::smtp::line::LineEnding;
use ringpost::wire::smtp::line::cut;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::receive;

fn lines(c: &mut Criterion) {
    let line = b"RCPT TO:<somebody@recipient-domain.example> NOTIFY=SUCCESS,FAILURE\r\nDATA\r\n";
    c.bench_function("line/cut", |b| b.iter(|| cut(black_box(line), LineEnding::Strict)));
}

fn dots(c: &mut Criterion) {
    let mut group = c.benchmark_group("dot");
    for (name, line, dotted) in
        [("76-byte lines", 76, 0), ("998-byte lines", 998, 0), ("every line dotted", 76, 1)]
    {
        let wire = receive::body(1 << 20, line, dotted);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (DotDecoder::new(), wire.clone()),
                |(decoder, chunk)| {
                    let decoded = decoder.decode(black_box(chunk)).expect("only CRLF ends a line");
                    assert_eq!(decoded.consumed, wire.len(), "all of it was looked at");
                    decoded.kept
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn dialogue(c: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    let mut server = receive::greeted(&mut out);
    let mut arena = Bump::new();
    let group =
        b"MAIL FROM:<sender@example.org> SIZE=4096\r\nRCPT TO:<rcpt@example.net>\r\nRSET\r\n";
    c.bench_function("command/mail+rcpt+rset", |b| {
        b.iter(|| {
            out.clear();
            arena.reset();
            receive::talk(&mut server, black_box(group), &arena, &mut out);
            out.len()
        });
    });
    c.bench_function("command/mail+rcpt+bdat", |b| b.iter(receive::dialogue()));
}

fn addresses(c: &mut Criterion) {
    let mut arena = Bump::new();
    let rows = [
        ("plain", "<somebody@recipient-domain.example>"),
        ("quoted", "<\"some \\\" body\"@recipient-domain.example>"),
        ("utf-8", "<jos\u{e9}@b\u{fc}cher.example>"),
        ("literal", "<postmaster@[IPv6:2001:db8::1]>"),
    ];
    for (name, text) in rows {
        c.bench_function(&format!("address/{name}"), |b| {
            b.iter(|| {
                arena.reset();
                let parsed = parse_forward_path(black_box(text.as_bytes()), &arena);
                parsed.expect("it is an address").0.as_str().len()
            });
        });
    }
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header");
    group.throughput(Throughput::Bytes(receive::HEADER.len() as u64));
    group.bench_function("two fields picked", |b| b.iter(receive::header()));
    group.finish();
}

criterion_group!(benches, lines, dots, dialogue, addresses, headers);
criterion_main!(benches);
