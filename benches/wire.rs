//! The hot paths of `wire`: cutting lines, parsing commands, scanning for dots.
//!
//! Napkin: memchr reads 10-30 GB/s out of cache. A body of 76-byte lines stops it at every line
//! end, so 2-4 GB/s is a good dot scanner; a body of long lines should come near memchr itself.
//! A command costs a line cut (10 ns), a verb match (5 ns), and for an address one pass and one
//! copy into the arena (50 ns): a whole MAIL, RCPT, DATA dialogue should stay under 500 ns.
//!
//! Last measured: see the figures in README.md.

use std::hint::black_box;
use std::sync::Arc;

use bumpalo::Bump;
use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::wire::smtp::dot::DotDecoder;
use ringpost::wire::smtp::line::LineEnding;
use ringpost::wire::smtp::line::cut;
use ringpost::wire::smtp::server::Protocol;
use ringpost::wire::smtp::server::Server;
use ringpost::wire::smtp::server::ServerConfig;
use ringpost::wire::smtp::server::Step;
use ringpost::wire::smtp::server::Verdict;
use ringpost::wire::smtp::transaction::Transaction;

fn body(line_bytes: usize, dotted: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 << 20);
    while body.len() < 1 << 20 {
        if dotted {
            body.extend_from_slice(b"..");
        }
        body.resize(body.len() + line_bytes, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body
}

fn lines(c: &mut Criterion) {
    let line = b"RCPT TO:<somebody@recipient-domain.example> NOTIFY=SUCCESS,FAILURE\r\nDATA\r\n";
    c.bench_function("line/cut", |b| b.iter(|| cut(black_box(line), LineEnding::Strict)));
}

fn dots(c: &mut Criterion) {
    let mut group = c.benchmark_group("dot");
    for (name, line, dotted) in [
        ("76-byte lines", 76, false),
        ("998-byte lines", 998, false),
        ("every line dotted", 76, true),
    ] {
        let wire = body(line, dotted);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (DotDecoder::new(LineEnding::Strict), wire.clone()),
                |(decoder, chunk)| decoder.decode(black_box(chunk)).map(|decoded| decoded.kept),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn dialogue(c: &mut Criterion) {
    let config = Arc::new(ServerConfig {
        hostname: "mx.example.org".into(),
        banner: "ESMTP".into(),
        protocol: Protocol::Smtp,
        size_max: 25_000_000,
        recipients_max: 1000,
        messages_max: u32::MAX,
        commands_max: u32::MAX,
        errors_max: 20,
        line_ending: LineEnding::Strict,
        starttls: false,
        tls_required: false,
        xclient: false,
        reject_pipelining_violations: true,
    });
    let input = b"MAIL FROM:<sender@example.org> SIZE=4096\r\nRCPT TO:<rcpt@example.net>\r\n";
    let mut server = Server::new(config, false);
    let mut out = Vec::with_capacity(4096);
    server.greet(&mut out);
    let mut arena = Bump::new();
    let mut tx = Transaction::new_in(&arena);
    server.next(b"EHLO client.example.org\r\n", &mut tx, &mut out);
    server.on_verdict(Verdict::Accept, false, &mut tx, &mut out);
    drop(tx);
    c.bench_function("command/mail+rcpt+rset", |b| {
        b.iter(|| {
            out.clear();
            arena.reset();
            let mut tx = Transaction::new_in(&arena);
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (consumed, step) = server.next(rest, &mut tx, &mut out);
                rest = &rest[consumed..];
                if let Step::Ask(_) = step {
                    server.on_verdict(Verdict::Accept, !rest.is_empty(), &mut tx, &mut out);
                }
            }
            server.next(b"RSET\r\n", &mut tx, &mut out);
            black_box(out.len())
        });
    });
}

criterion_group!(benches, lines, dots, dialogue);
criterion_main!(benches);
