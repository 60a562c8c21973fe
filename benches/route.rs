//! Route lookup and classification of remote replies: both for every recipient of every attempt.
//!
//! Estimate: a domain is converted to lower case (20 ns), then looked up with each number of labels, one
//! SipHash and one probe each (25 ns): 100 ns for two labels with any number of rules, and one allocation
//! for the name of the next hop (30 ns). Rules without a domain are tried in order, 5 ns each. A refusal is
//! converted to lower case and searched for the words of the rules with a matching code: 1-3 us; a 250 is
//! not classified.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   classify/known by no rule: 2.77 us
//!   classify/mailbox full: 1.56 us
//!   classify/unauthenticated: 3.88 us
//!   route/a tree of 1000 rules: 108 ns
//!   route/in mixed case: 74.6 ns
//!   route/none of 1000 rules: 72.2 ns
//!   route/one of 1000 rules: 87.8 ns

use std::hint::black_box;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use ringpost::route::DestinationPolicy;
use ringpost::wire::classify::Classifier;
use ringpost::wire::classify::RemoteReply;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

use paths::delivery;

fn lookups(c: &mut Criterion) {
    let table = delivery::route_table();
    let rows = [
        ("none of 1000 rules", "recipient-domain.example"),
        ("one of 1000 rules", "domain-700.example"),
        ("a tree of 1000 rules", "a.b.domain-7.example"),
        ("in mixed case", "Recipient-Domain.Example"),
    ];
    for (name, domain) in rows {
        c.bench_function(&format!("route/{name}"), |b| {
            b.iter(|| table.next_hop(&delivery::question(black_box(domain))).rule.is_some());
        });
    }
    // What a destination's policy costs to be taken along: it is shared, never copied.
    assert!(size_of::<DestinationPolicy>() <= 256, "a policy has grown; look who copies it");
}

fn verdicts(c: &mut Criterion) {
    let classifier = Classifier::built_in();
    let rows = [
        ("mailbox full", 452, Some((4, 2, 2)), "The recipient's inbox is out of storage space."),
        (
            "unauthenticated",
            550,
            Some((5, 7, 26)),
            "Your email has been blocked because the sender is unauthenticated. The sender must \
             authenticate with at least one of SPF or DKIM.",
        ),
        ("known by no rule", 571, None, "Xyzzy, and nothing happens here."),
    ];
    for (name, code, enhanced, text) in rows {
        let host = Some("mx1.recipient-domain.example");
        c.bench_function(&format!("classify/{name}"), |b| {
            b.iter(|| {
                let reply = RemoteReply { code, enhanced, text: black_box(text), host };
                classifier.classify(&reply)
            });
        });
    }
}

criterion_group!(benches, lookups, verdicts);
criterion_main!(benches);
