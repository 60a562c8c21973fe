//! The cache of the resolver, which answers nearly every query without a packet.
//!
//! Estimate: the name is checked and converted to lower case (60 ns), hashed with SipHash and found
//! (50 ns), and the answer copied (one allocation per host, 40 ns): 200 ns for an MX of two hosts, the
//! same for the two addresses of a host, which are two lookups.
//!
//! Last measured 2026-11-21 on 2 cores of an AMD EPYC, shared with other work:
//!   resolver/cached MX: 247 ns
//!   resolver/cached addresses: 273 ns

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::AAAA;
use ringpost::net::Family;
use ringpost::net::Resolver;
use ringpost::net::ResolverSettings;
use ringpost::rt;
use ringpost::rt::ShardSpec;

#[path = "../tests/support/nameserver.rs"]
mod nameserver;

use nameserver::Asked;
use nameserver::NameServer;

#[derive(Clone, Copy)]
enum Asking {
    Exchangers,
    Addresses,
}

fn zone(asked: &Asked) -> Vec<Vec<u8>> {
    let owner = asked.name();
    let owner = owner.trim_end_matches('.');
    let records = match asked.kind() {
        RecordType::MX => {
            vec![nameserver::mx(owner, 10, "a.mx.test"), nameserver::mx(owner, 20, "b.mx.test")]
        }
        RecordType::A => {
            vec![nameserver::record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))))]
        }
        RecordType::AAAA => {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            vec![nameserver::record(owner, RData::AAAA(AAAA(address)))]
        }
        _ => Vec::new(),
    };
    vec![nameserver::encode(&asked.with(records))]
}

/// Asks `count` times for what is known by now; the time of all, and no question but the first.
fn ask(settings: ResolverSettings, asking: Asking, count: u64) -> Duration {
    let (give, take) = mpsc::channel();
    let shard = rt::start(ShardSpec::new("bench", None), move || async move {
        let resolver = Resolver::new(settings);
        let once = async || match asking {
            Asking::Exchangers => {
                resolver.mx("recipient-domain.test").await.expect("it is known").hosts.len()
            }
            Asking::Addresses => {
                let found = resolver.addresses("a.mx.test", Family::Both).await;
                let found = found.expect("it is known");
                found.v4.len() + found.v6.len()
            }
        };
        assert_eq!(once().await, 2, "the first is asked of the server");
        let begun = Instant::now();
        for _ in 0..count {
            assert_eq!(once().await, 2);
        }
        give.send(begun.elapsed()).expect("the bench waits for this");
    });
    shard.expect("a shard starts here").join().expect("the shard ends in order");
    take.recv().expect("it was sent")
}

fn cached(c: &mut Criterion) {
    let server = NameServer::start(zone);
    let settings =
        ResolverSettings { servers: vec![server.address], ..ResolverSettings::default() };
    for (name, asking) in
        [("cached MX", Asking::Exchangers), ("cached addresses", Asking::Addresses)]
    {
        c.bench_function(&format!("resolver/{name}"), |b| {
            b.iter_custom(|count| ask(settings.clone(), asking, count));
        });
    }
    let asked = server.log.lock().expect("no thread has panicked").len();
    println!("resolver: {asked} questions reached the server");
}

criterion_group!(benches, cached);
criterion_main!(benches);
