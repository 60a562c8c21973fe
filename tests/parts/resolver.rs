//! The resolver against name servers that are slow, wrong, truncating, refusing and dead.
//!
//! A scripted server answers by the name in the question, and records each question and its origin.
//! The last test uses dnsmasq.

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::AAAA;
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::rdata::NS;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::rdata::TLSA;
use hickory_proto::rr::rdata::TXT;
use ringpost::net::BlockingResolver;
use ringpost::net::CacheBounds;
use ringpost::net::DnsFault;
use ringpost::net::Family;
use ringpost::net::Resolver;
use ringpost::net::ResolverFigures;
use ringpost::net::ResolverSettings;
use ringpost::rt;
use ringpost::rt::OnDeath;
use ringpost::rt::ShardSpec;
use ringpost::rt::task;
use ringpost::rt::timer;

use crate::support::nameserver::Asked;
use crate::support::nameserver::NameServer;
use crate::support::nameserver::Question;
use crate::support::nameserver::alias;
use crate::support::nameserver::encode;
use crate::support::nameserver::mx;
use crate::support::nameserver::name;
use crate::support::nameserver::record;
use crate::support::nameserver::same_port;
use crate::support::nameserver::soa;

const PATIENCE: Duration = Duration::from_secs(20);
/// Short, for tests in which it expires; long enough for an answer on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(500);

#[test]
fn answers_and_faults_are_distinguished() {
    let server = NameServer::start(zone);
    // Two rounds, so that silence is distinguished from a lost datagram. Where no answer is
    // expected the limit is short; elsewhere an answer may take longer on a busy machine.
    let hasty = ResolverSettings { attempts: 2, timeout: TIMEOUT, ..settings_of(&server) };
    let patient = ResolverSettings { timeout: 4 * TIMEOUT, ..hasty.clone() };
    let rows = on_shard(move || async move {
        let (hasty, patient) = (Resolver::new(hasty), Resolver::new(patient));
        let mut rows = Vec::new();
        for (name, want) in MX_ROWS {
            let in_vain = want.contains("in time") || want.contains("another question");
            let resolver = if in_vain { &hasty } else { &patient };
            rows.push((*name, mx_text(resolver, name).await, (*want).to_owned()));
        }
        rows
    });
    let wrong: Vec<_> = rows.iter().filter(|(_, got, want)| got != want).collect();
    assert!(wrong.is_empty(), "name, got, want: {wrong:#?}");
}

/// The expected result for each domain of `zone`.
const MX_ROWS: &[(&str, &str)] = &[
    ("two.test", "10 a.mx.test, 20 b.mx.test"),
    ("TWO.test.", "10 a.mx.test, 20 b.mx.test"),
    ("null.test", "the domain accepts no mail (null MX)"),
    ("nodata.test", "implicit 0 nodata.test"),
    ("nx.test", "no such domain (NXDOMAIN)"),
    ("alias.test", "10 a.mx.test, 20 b.mx.test"),
    ("chase.test", "10 a.mx.test, 20 b.mx.test"),
    ("alias-to-nx.test", "no such domain (NXDOMAIN)"),
    ("circle.test", "too many aliases or a loop of aliases (CNAME)"),
    ("step1.test", "too many aliases or a loop of aliases (CNAME)"),
    ("servfail.test", "the name server failed (SERVFAIL)"),
    ("bare-servfail.test", "the name server failed (SERVFAIL)"),
    ("refused.test", "the name server refused the query (REFUSED)"),
    ("referral.test", "the name server is neither authoritative nor recursive (lame)"),
    ("ignorant-nx.test", "the name server is neither authoritative nor recursive (lame)"),
    ("silent.test", "the name servers did not answer in time"),
    ("lost-once.test", "10 a.mx.test, 20 b.mx.test"),
    ("wrong-id.test", "the name server answered another query"),
    ("wrong-question.test", "the name server answered another query"),
    ("wrong-kind.test", "the name server answered another query"),
    ("forged-first.test", "10 a.mx.test, 20 b.mx.test"),
    ("stranger.test", "the name server answered another query"),
    ("stranger-beside.test", "10 a.mx.test"),
    ("garbage.test", "the answer of the name server cannot be parsed"),
    ("contradiction.test", "the answer of the name server cannot be parsed"),
    ("blank-host.test", "the answer of the name server cannot be parsed"),
    ("cut.test", "10 a.mx.test, 20 b.mx.test"),
    ("cut-within.test", "10 a.mx.test, 20 b.mx.test"),
    ("cut-always.test", "the answer of the name server cannot be parsed"),
    ("cut-and-closed.test", "the name servers cannot be reached"),
    ("plain.test", "10 a.mx.test, 20 b.mx.test"),
    ("a..test", "not a valid DNS name"),
];

#[test]
fn other_records_are_read() {
    let server = NameServer::start(zone);
    let settings = settings_of(&server);
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let host = resolver.addresses("host.test", Family::Both).await.expect("addresses");
        assert_eq!(host.v4, [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]);
        assert_eq!(host.v6, [Ipv6Addr::LOCALHOST]);
        assert!(host.ttl <= Duration::from_secs(60) && host.ttl > Duration::from_secs(50));
        let host = resolver.addresses("host.test", Family::V6).await.expect("addresses");
        assert_eq!((host.v4.len(), host.v6.len()), (0, 1));
        // A frequent defect: a failure for AAAA.
        let half = resolver.addresses("half.test", Family::Both).await.expect("addresses");
        assert_eq!((half.v4.len(), half.v6.len()), (1, 0));
        let none = resolver.addresses("nodata.test", Family::Both).await.err();
        assert_eq!(none, Some(DnsFault::NoData));
        let none = resolver.addresses("half.test", Family::V6).await.err();
        assert_eq!(none, Some(DnsFault::ServerFailure));
        let text = resolver.txt("text.test").await.expect("texts");
        assert_eq!(text.texts, [Box::from(b"v=spf1 -all".as_slice())]);
        let tlsa = resolver.tlsa(25, "host.test").await.expect("records");
        let record = &tlsa.records[0];
        assert_eq!((record.usage, record.selector, record.matching), (3, 1, 1));
        assert_eq!(*record.data, [0xab; 32]);
        assert_eq!(resolver.tlsa(26, "host.test").await.err(), Some(DnsFault::NoSuchDomain));
    });
}

#[test]
fn ad_counts_only_where_it_is_trusted() {
    let server = NameServer::start(zone);
    for trust_ad in [false, true] {
        let settings = ResolverSettings { trust_ad, ..settings_of(&server) };
        on_shard(move || async move {
            let resolver = Resolver::new(settings);
            let signed = resolver.mx("signed.test").await.expect("exchangers");
            assert_eq!(signed.authentic, trust_ad);
            assert!(!resolver.mx("two.test").await.expect("exchangers").authentic);
            resolver.set_trust_ad(!trust_ad);
            let again = resolver.mx("signed.test").await.expect("exchangers");
            assert_eq!(again.authentic, !trust_ad, "the cached answer was dropped");
        });
    }
}

#[test]
fn the_cache_is_bounded_in_entries_and_in_bytes() {
    let server = NameServer::start(zone);
    let rows = [
        ("entries", CacheBounds { entries: 4, bytes: 1 << 30 }, 4..=4),
        ("bytes", CacheBounds { entries: 1000, bytes: 100_000 }, 3..=8),
        ("neither", CacheBounds { entries: 1000, bytes: 1 << 30 }, 12..=12),
    ];
    for (row, cache, kept) in rows {
        let settings = ResolverSettings { cache, ..settings_of(&server) };
        let figures = on_shard(move || async move {
            let resolver = Resolver::new(settings);
            for number in 0..12 {
                let domain = format!("many{number}.test");
                for _ in 0..2 {
                    let answer = resolver.mx(&domain).await.expect("exchangers");
                    assert_eq!(answer.hosts.len(), 60);
                }
            }
            resolver.figures()
        });
        assert!(kept.contains(&figures.cached), "{row}: {figures:?}");
        assert!(figures.cached_bytes <= cache.bytes, "{row}: {figures:?}");
        assert!(figures.cached_bytes > figures.cached * 60 * 180, "{row}: {figures:?}");
        assert_eq!((figures.lookups, figures.hits), (12, 12), "{row}: the last answer is cached");
    }
}

#[test]
fn answers_are_cached_for_their_ttl() {
    let server = NameServer::start(zone);
    let settings = ResolverSettings {
        ttl_min: Duration::ZERO,
        ttl_max: Duration::from_millis(1500),
        ..settings_of(&server)
    };
    let figures = on_shard(move || async move {
        let resolver = Resolver::new(settings);
        for name in
            ["two.test", "Two.Test.", "nx.test", "nx.test", "servfail.test", "servfail.test"]
        {
            mx_text(&resolver, name).await;
        }
        // An answer with TTL 0 is only for callers that already wait.
        mx_text(&resolver, "fleeting.test").await;
        mx_text(&resolver, "fleeting.test").await;
        timer::sleep(Duration::from_millis(1550)).await;
        mx_text(&resolver, "two.test").await;
        resolver.figures()
    });
    let asked = |name: &str| server.asked(name).len();
    assert_eq!(asked("two.test"), 2, "once, and again after it had expired");
    assert_eq!(asked("nx.test"), 1);
    assert_eq!(asked("servfail.test"), 1);
    assert_eq!(asked("fleeting.test"), 2);
    assert_eq!((figures.hits, figures.lookups, figures.in_flight), (3, 6, 0));
}

#[test]
fn identical_lookups_are_shared_and_survive_their_first_caller() {
    let all_wait = Arc::new(AtomicBool::new(false));
    let go_on = Arc::clone(&all_wait);
    let server = NameServer::start(move |asked| {
        while !go_on.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(5));
        }
        zone(asked)
    });
    let settings = ResolverSettings { timeout: PATIENCE, ..settings_of(&server) };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let limit = Duration::from_millis(20);
        let first = timer::timeout(limit, resolver.mx("slow.test")).await;
        assert!(first.is_err(), "the first caller has given up");
        let (give, take) = mpsc::channel();
        for _ in 0..100 {
            let (resolver, give) = (resolver.clone(), give.clone());
            task::spawn(async move {
                let answer = resolver.mx("slow.test").await;
                give.send(answer.map(|answer| answer.hosts.len())).expect("awaited");
            });
        }
        drop(give);
        let mut answers = Vec::new();
        while answers.len() < 100 {
            timer::sleep(Duration::from_millis(5)).await;
            all_wait.fetch_or(resolver.figures().joined == 100, Ordering::AcqRel);
            answers.extend(take.try_iter());
        }
        assert!(answers.iter().all(|answer| *answer == Ok(2)), "{answers:?}");
        let figures = resolver.figures();
        assert_eq!((figures.lookups, figures.joined), (1, 100));
    });
    assert_eq!(server.asked("slow.test").len(), 1);
}

#[test]
fn concurrent_lookups_are_limited() {
    let server = NameServer::start(zone);
    let settings = ResolverSettings { in_flight_max: 2, ..settings_of(&server) };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let (give, take) = mpsc::channel();
        for number in 0..8 {
            let (resolver, give) = (resolver.clone(), give.clone());
            task::spawn(async move {
                let answer = resolver.mx(&format!("busy{number}.test")).await;
                give.send(answer.is_ok()).expect("awaited");
            });
        }
        let mut answers = Vec::new();
        while answers.len() < 8 {
            timer::sleep(Duration::from_millis(5)).await;
            answers.extend(take.try_iter());
        }
        assert_eq!(answers, [true; 8]);
    });
    assert_eq!(server.most_at_once(), 2);
}

#[test]
fn a_lookup_without_a_place_is_busy_and_not_cached() {
    let server = NameServer::start(zone);
    let settings = ResolverSettings {
        in_flight_max: 1,
        timeout: TIMEOUT,
        attempts: 3,
        ..settings_of(&server)
    };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let silent = resolver.clone();
        task::spawn(async move {
            assert_eq!(silent.mx("silent.test").await, Err(DnsFault::Timeout));
        });
        timer::sleep(Duration::from_millis(20)).await;
        let start = timer::now();
        assert_eq!(resolver.mx("two.test").await, Err(DnsFault::Busy));
        assert!(start.elapsed() >= TIMEOUT, "it waits for a place first");
        while resolver.figures().in_flight > 0 {
            timer::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(mx_text(&resolver, "two.test").await, "10 a.mx.test, 20 b.mx.test");
        assert_eq!(resolver.figures().busy, 1);
    });
}

#[test]
fn a_silent_server_is_skipped_later() {
    let silent = NameServer::start(|_| Vec::new());
    let server = NameServer::start(zone);
    let servers = vec![silent.address, server.address];
    let settings = ResolverSettings { servers, timeout: 2 * TIMEOUT, ..settings_of(&server) };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        for number in 0..10 {
            resolver.mx(&format!("many{number}.test")).await.expect("the other server answers");
        }
    });
    assert_eq!(silent.log.lock().expect("no panics").len(), 3, "the dead server is tried again");
}

#[test]
fn after_a_refused_question_the_next_server_is_asked_at_once() {
    let server = NameServer::start(zone);
    // A socket connected to itself: for others the port is closed, and it is not reused.
    let closed = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let nobody = closed.local_addr().expect("bound");
    closed.connect(nobody).expect("a socket can connect to itself");
    let both = ResolverSettings { servers: vec![nobody, server.address], ..settings_of(&server) };
    let alone = ResolverSettings { servers: vec![nobody], ..settings_of(&server) };
    let none = ResolverSettings { servers: vec![], ..settings_of(&server) };
    on_shard(move || async move {
        let start = timer::now();
        let resolver = Resolver::new(both);
        assert_eq!(mx_text(&resolver, "two.test").await, "10 a.mx.test, 20 b.mx.test");
        let resolver = Resolver::new(alone);
        assert_eq!(resolver.mx("two.test").await, Err(DnsFault::Unreachable));
        assert!(start.elapsed() < PATIENCE / 4, "a refusal is faster than a timeout");
        assert_eq!(Resolver::new(none).mx("two.test").await, Err(DnsFault::NoServers));
    });
}

#[test]
fn after_a_bad_answer_the_next_server_is_asked() {
    for bad in ["servfail", "refused", "referral", "garbage", "stranger", "wrong-id"] {
        let liar = NameServer::start(move |asked| {
            let name = format!("{bad}.test.");
            let mut question = asked.query.clone();
            question.queries[0].name = Name::from_ascii(&name).expect("a name");
            let mut said = zone(&Asked { query: question, ..asked.clone() });
            // The fault is for the name in the question, unless the answer is for another name.
            for bytes in &mut said {
                if let Ok(mut message) = Message::from_vec(bytes) {
                    message.queries = asked.query.queries.clone();
                    *bytes = message.to_vec().expect("encoded");
                }
            }
            said
        });
        let server = NameServer::start(zone);
        let servers = vec![liar.address, server.address];
        let settings = ResolverSettings { servers, timeout: 4 * TIMEOUT, ..settings_of(&server) };
        let got =
            on_shard(move || async move { mx_text(&Resolver::new(settings), "two.test").await });
        assert_eq!(got, "10 a.mx.test, 20 b.mx.test", "{bad}");
        assert!(!liar.log.lock().expect("no panics").is_empty(), "{bad}");
    }
}

#[test]
fn a_server_that_dies_and_recovers_is_used_again() {
    let dead = Arc::new(AtomicUsize::new(1));
    let switch = Arc::clone(&dead);
    let server = NameServer::start(move |asked| match switch.load(Ordering::Acquire) {
        0 => zone(asked),
        _ => Vec::new(),
    });
    // The limit must expire in two of the rounds and in no other.
    let timeout = 4 * TIMEOUT;
    let settings = ResolverSettings { timeout, attempts: 1, ..settings_of(&server) };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        for round in 0..4 {
            dead.store(round % 2, Ordering::Release);
            let start = timer::now();
            let answer = resolver.mx(&format!("many{round}.test")).await;
            if round % 2 == 0 {
                assert!(answer.is_ok(), "round {round}: {answer:?}");
            } else {
                assert_eq!(answer, Err(DnsFault::Timeout), "round {round}");
                assert!(start.elapsed() >= timeout);
            }
        }
    });
}

#[test]
fn edns_is_not_used_with_a_server_that_refused_it() {
    let server = NameServer::start(|asked| match &asked.query.edns {
        Some(_) => vec![encode(&asked.reply(ResponseCode::FormErr))],
        None => zone(asked),
    });
    let settings = settings_of(&server);
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        for number in 0..3 {
            resolver.mx(&format!("many{number}.test")).await.expect("an answer without EDNS");
        }
    });
    let edns: Vec<Option<u16>> =
        server.log.lock().expect("no panics").iter().map(|q| q.edns).collect();
    assert_eq!(edns, [Some(1232), None, None, None]);
}

#[test]
fn ports_and_ids_cannot_be_guessed() {
    const LOOKUPS: usize = 64;
    let server = NameServer::start(zone);
    let settings = settings_of(&server);
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        for number in 0..LOOKUPS {
            resolver.mx(&format!("many{number}.test")).await.expect("an answer");
        }
    });
    let log = server.log.lock().expect("no panics");
    let ports: HashSet<u16> = log.iter().map(|question| question.from.port()).collect();
    let ids: HashSet<u16> = log.iter().map(|question| question.id).collect();
    assert!(ports.len() > LOOKUPS * 9 / 10, "{} ports for {LOOKUPS} questions", ports.len());
    assert!(ids.len() > LOOKUPS * 9 / 10, "{} ids for {LOOKUPS} questions", ids.len());
    let steady = |one: &[Question]| one[1].from.port().wrapping_sub(one[0].from.port()) < 8;
    let steps = log.windows(2).filter(|pair| steady(pair)).count();
    assert!(steps < LOOKUPS / 4, "ports follow each other: {steps} times");
}

#[test]
fn a_drain_does_not_wait_for_lookups() {
    let silent = NameServer::start(|_| Vec::new());
    let settings = ResolverSettings { timeout: PATIENCE, ..settings_of(&silent) };
    let start = Instant::now();
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let asked = timer::timeout(Duration::from_millis(50), resolver.mx("two.test")).await;
        assert!(asked.is_err());
        while resolver.figures().in_flight > 0 {
            timer::interrupt_all();
            timer::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(start.elapsed() < PATIENCE / 2);
}

/// dnsmasq, because Debian has it in a package that starts no service.
#[test]
fn dnsmasq_is_understood() {
    let Some(dnsmasq) = Dnsmasq::start() else {
        eprintln!("skipped: dnsmasq is not installed (apt-get install dnsmasq-base)");
        return;
    };
    let settings =
        ResolverSettings { servers: vec![dnsmasq.address], ..ResolverSettings::default() };
    on_shard(move || async move {
        let resolver = Resolver::new(settings);
        let rows = [
            ("real.test", "10 mx1.real.test, 20 mx2.real.test"),
            ("gone.test", "no such domain (NXDOMAIN)"),
            ("mx1.real.test", "implicit 0 mx1.real.test"),
            ("null.test", "the domain accepts no mail (null MX)"),
        ];
        for (name, want) in rows {
            assert_eq!(mx_text(&resolver, name).await, want, "{name}");
        }
        let host = resolver.addresses("mx1.real.test", Family::Both).await.expect("addresses");
        assert_eq!(host.v4, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(host.v6, ["2001:db8::1".parse::<Ipv6Addr>().expect("an address")]);
        let alias = resolver.addresses("alias.real.test", Family::V4).await.expect("addresses");
        assert_eq!(alias.v4, [Ipv4Addr::new(192, 0, 2, 1)]);
        let tlsa = resolver.tlsa(25, "mx1.real.test").await.expect("records");
        assert_eq!(*tlsa.records[0].data, [0xab; 32]);
        assert_eq!(resolver.figures().tcp, 0);
        let large = resolver.txt("large.real.test").await.expect("texts");
        assert_eq!(large.texts.len(), 20, "too large for a datagram");
        assert_eq!(resolver.figures(), ResolverFigures { tcp: 1, ..resolver.figures() });
    });
}

fn settings_of(server: &NameServer) -> ResolverSettings {
    ResolverSettings {
        servers: vec![server.address],
        timeout: PATIENCE / 4,
        ..ResolverSettings::default()
    }
}

#[test]
fn the_blocking_resolver_gives_the_same_answers() {
    let server = NameServer::start(zone);
    let resolver = BlockingResolver::new(server.address, PATIENCE / 4);
    let hosts: [IpAddr; 2] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last).into());
    let many = [IpAddr::from(Ipv4Addr::LOCALHOST); 200];
    let both: Vec<IpAddr> = [&hosts[..], &[Ipv6Addr::LOCALHOST.into()]].concat();
    let rows: &[(&str, Result<&[IpAddr], DnsFault>)] = &[
        ("host.test", Ok(&both)),
        ("HOST.test.", Ok(&both)),
        ("alias-to-host.test", Ok(&both)),
        ("lots-of-hosts.test", Ok(&many)),
        ("plain-host.test", Ok(&hosts[..1])),
        ("forged-host.test", Ok(&hosts[..1])),
        ("nx.test", Ok(&[])),
        ("nodata.test", Ok(&[])),
        ("circle.test", Err(DnsFault::CnameLoop)),
        ("step1.test", Err(DnsFault::CnameLoop)),
        ("servfail.test", Err(DnsFault::ServerFailure)),
        ("refused.test", Err(DnsFault::Refused)),
        ("referral.test", Err(DnsFault::Lame)),
        ("garbage.test", Err(DnsFault::Malformed)),
        ("a b.test", Err(DnsFault::BadName)),
    ];
    for (name, want) in rows {
        let found = resolver.addresses(name);
        assert_eq!(found.as_deref(), want.as_ref().map(|list| *list), "{name}");
    }
    let names = resolver.names(Ipv4Addr::new(192, 0, 2, 1).into()).expect("names");
    assert_eq!(names, ["host.test".into(), "two.test".into()]);
    assert_eq!(resolver.names(Ipv4Addr::new(192, 0, 2, 9).into()), Ok(vec![]));

    let hasty = BlockingResolver::new(server.address, TIMEOUT);
    assert_eq!(hasty.addresses("silent.test"), Err(DnsFault::Timeout));
    // Connected to itself, so that the port is closed for others and not reused.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let closed = socket.local_addr().expect("bound");
    socket.connect(closed).expect("a socket can connect to itself");
    let nobody = BlockingResolver::new(closed, PATIENCE);
    assert_eq!(nobody.addresses("host.test"), Err(DnsFault::Unreachable));
}

/// Runs `main` as the main future of a shard and returns its result.
fn on_shard<F, Fut, T>(main: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (give, take) = mpsc::channel();
    let on_death: OnDeath = Box::new(|_| ());
    let spec = ShardSpec { on_death, ..ShardSpec::new("test", None) };
    let shard = rt::start(spec, move || async move {
        let value = main().await;
        assert_eq!(task::panics(), 0, "no task has panicked");
        give.send(value).expect("the test waits for this");
    });
    let left = shard.expect("a shard starts").join().expect("the shard ends normally");
    assert_eq!(left, 0, "every task has ended");
    take.recv().expect("the main future has ended")
}

async fn mx_text(resolver: &Resolver, domain: &str) -> String {
    match resolver.mx(domain).await {
        Ok(answer) => {
            let hosts: Vec<String> =
                answer.hosts.iter().map(|(number, host)| format!("{number} {host}")).collect();
            let implicit = if answer.implicit { "implicit " } else { "" };
            format!("{implicit}{}", hosts.join(", "))
        }
        Err(fault) => fault.to_string(),
    }
}

/// The answers of the scripted server, datagram by datagram.
fn zone(asked: &Asked) -> Vec<Vec<u8>> {
    let whole = asked.name();
    let owner = whole.trim_end_matches('.');
    let two = |owner: &str| vec![mx(owner, 20, "b.mx.test"), mx(owner, 10, "a.mx.test")];
    let absent = |code: ResponseCode| {
        let mut reply = asked.reply(code);
        reply.authorities.push(soa());
        reply
    };
    let mut good = asked.with(two(owner));
    let reply = match owner.strip_suffix(".test").unwrap_or(owner) {
        "null" => asked.with(vec![mx(owner, 0, "")]),
        "nodata" => absent(ResponseCode::NoError),
        "nx" | "_26._tcp.host" => absent(ResponseCode::NXDomain),
        "alias" => {
            let mut records = vec![alias(owner, "middle.test"), alias("middle.test", "two.test")];
            records.extend(two("two.test"));
            asked.with(records)
        }
        "chase" => asked.with(vec![alias(owner, "two.test")]),
        "alias-to-nx" => {
            let mut reply = absent(ResponseCode::NXDomain);
            reply.answers.push(alias(owner, "nx.test"));
            reply
        }
        "circle" => asked.with(vec![alias(owner, "round.test"), alias("round.test", owner)]),
        step if step.starts_with("step") => {
            let number: u32 = step["step".len()..].parse().expect("a number");
            asked.with(vec![alias(owner, &format!("step{}.test", number + 1))])
        }
        "servfail" => asked.reply(ResponseCode::ServFail),
        "bare-servfail" => {
            let mut reply = asked.reply(ResponseCode::ServFail);
            reply.queries.clear();
            reply
        }
        "refused" => asked.reply(ResponseCode::Refused),
        "referral" => {
            let mut reply = asked.reply(ResponseCode::NoError);
            reply.authorities.push(record("test", RData::NS(NS(name("ns.test")))));
            reply
        }
        "ignorant-nx" => {
            let mut reply = absent(ResponseCode::NXDomain);
            reply.metadata.recursion_available = false;
            reply
        }
        "silent" => return Vec::new(),
        "lost-once" if asked.before == 0 => return Vec::new(),
        "wrong-id" => {
            good.metadata.id ^= 1;
            good
        }
        "wrong-question" => {
            good.queries[0].name = name("two.test");
            good
        }
        "wrong-kind" => {
            good.queries[0].query_type = RecordType::A;
            good
        }
        "forged-first" => {
            let mut forged = asked.with(vec![mx(owner, 1, "evil.test")]);
            forged.metadata.id ^= 0x8000;
            let mut other = forged.clone();
            other.metadata.id ^= 0x8000;
            other.queries[0].name = name("other.test");
            return vec![encode(&forged), vec![], vec![0; 3], encode(&other), encode(&good)];
        }
        "stranger" => asked.with(two("two.test")),
        "stranger-beside" => {
            asked.with(vec![mx("two.test", 1, "evil.test"), mx(owner, 10, "a.mx.test")])
        }
        "garbage" => {
            let mut bytes = encode(&good);
            let end = bytes.len() - 4;
            bytes.truncate(end);
            return vec![bytes];
        }
        "contradiction" => {
            good.metadata.response_code = ResponseCode::NXDomain;
            good
        }
        "blank-host" => {
            let host = Name::from_labels([b"a b".as_slice(), b"test"]).expect("a name");
            asked.with(vec![record(owner, RData::MX(MX::new(1, host)))])
        }
        "cut" if !asked.by_tcp => {
            good.answers.clear();
            good.metadata.truncation = true;
            good
        }
        "cut-within" if !asked.by_tcp => {
            good.metadata.truncation = true;
            let bytes = encode(&good);
            return vec![bytes[..bytes.len() - 5].to_vec()];
        }
        "cut-always" => {
            good.metadata.truncation = true;
            good
        }
        "cut-and-closed" if asked.by_tcp => return Vec::new(),
        "cut-and-closed" => {
            good.metadata.truncation = true;
            good
        }
        "plain" if asked.query.edns.is_some() => asked.reply(ResponseCode::NotImp),
        "signed" => {
            good.metadata.authentic_data = true;
            good
        }
        many if many.starts_with("many") => {
            // One long suffix, which compression reduces to two bytes each time.
            let suffix = ["long".repeat(15).as_str(); 3].join(".");
            let host = |number: u16| mx(owner, number, &format!("{number}.{suffix}.test"));
            asked.with((0..60).map(host).collect())
        }
        "fleeting" => {
            good.answers.iter_mut().for_each(|record| record.ttl = 0);
            good
        }
        busy if busy.starts_with("busy") => {
            thread::sleep(Duration::from_millis(60));
            good
        }
        "host" if asked.kind() == RecordType::A => asked.with(vec![
            record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))),
            record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, 2)))),
        ]),
        "host" => asked.with(vec![record(owner, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)))]),
        "alias-to-host" => asked.with(vec![alias(owner, "host.test")]),
        "lots-of-hosts" if asked.kind() != RecordType::A => absent(ResponseCode::NoError),
        "lots-of-hosts" if !asked.by_tcp => {
            good.answers.clear();
            good.metadata.truncation = true;
            good
        }
        "lots-of-hosts" => asked.with(vec![record(owner, RData::A(A(Ipv4Addr::LOCALHOST))); 200]),
        "plain-host" if asked.query.edns.is_some() => asked.reply(ResponseCode::NotImp),
        "forged-host" | "plain-host" if asked.kind() != RecordType::A => {
            absent(ResponseCode::NoError)
        }
        "plain-host" => asked.with(vec![record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))))]),
        "forged-host" => {
            let one = |last| vec![record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))];
            let mut forged = asked.with(one(66));
            forged.metadata.id ^= 1;
            return vec![encode(&forged), encode(&asked.with(one(1)))];
        }
        "1.2.0.192.in-addr.arpa" => asked.with(vec![
            record(owner, RData::PTR(PTR(name("Host.test")))),
            record(owner, RData::PTR(PTR(name("two.test")))),
        ]),
        "9.2.0.192.in-addr.arpa" => absent(ResponseCode::NXDomain),
        "half" if asked.kind() == RecordType::A => {
            asked.with(vec![record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))))])
        }
        "half" => asked.reply(ResponseCode::ServFail),
        "text" => {
            let strings = vec!["v=spf1 ".to_owned(), "-all".to_owned()];
            asked.with(vec![record(owner, RData::TXT(TXT::new(strings)))])
        }
        "_25._tcp.host" => {
            let tlsa = TLSA::new(3.into(), 1.into(), 1.into(), vec![0xab; 32]);
            asked.with(vec![record(owner, RData::TLSA(tlsa))])
        }
        _ => good,
    };
    vec![encode(&reply)]
}

/// A dnsmasq process, killed when dropped.
struct Dnsmasq {
    child: Child,
    address: SocketAddr,
}

impl Dnsmasq {
    /// `None` if it is not installed.
    fn start() -> Option<Dnsmasq> {
        let program = ["/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq"];
        let program = program.into_iter().find(|path| Path::new(path).exists())?;
        // An address of its own, because ports on the usual one are reused by other tests.
        let own = Ipv4Addr::new(127, 86, 0, 1);
        let address = {
            let (udp, _tcp) = same_port();
            SocketAddr::from((own, udp.local_addr().expect("bound").port()))
        };
        let tlsa = format!("--dns-rr=_25._tcp.mx1.real.test,52,030101{}", "ab".repeat(32));
        let port = format!("--port={}", address.port());
        let mut command = Command::new(program);
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.arg(format!("--listen-address={own}"));
        command.args(["--bind-interfaces", "--local=/test/"]);
        command.args(["--user=", "--pid-file=", &port, &tlsa]);
        command
            .args(["--mx-host=real.test,mx2.real.test,20", "--mx-host=real.test,mx1.real.test,10"]);
        command.args(["--dns-rr=null.test,15,000000", "--cname=alias.real.test,mx1.real.test"]);
        command.arg("--host-record=mx1.real.test,192.0.2.1,2001:db8::1");
        for number in 0..20 {
            command.arg(format!("--txt-record=large.real.test,{number} {}", "x".repeat(150)));
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let mut dnsmasq = Dnsmasq { child: child.expect("dnsmasq can be run"), address };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = dnsmasq.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "dnsmasq ended: {ended:?}");
            assert!(start.elapsed() < PATIENCE, "dnsmasq does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(dnsmasq)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
