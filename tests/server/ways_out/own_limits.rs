//! What a limit of this server delays costs no attempt, and no destination is blamed for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;

use crate::support::nameserver::NameServer;
use crate::support::nameserver::encode;
use crate::support::nameserver::record;
use crate::support::nameserver::soa;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::route;

/// More lookups than a shard makes at once and lets wait.
const SILENT_DOMAINS: usize = 1500;

/// Far less than a lookup of a silent domain lasts.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Answers for no domain that begins with "silent" until `answers` is set.
fn name_server(answers: &Arc<AtomicBool>) -> SocketAddr {
    let answers = Arc::clone(answers);
    let server = NameServer::start(move |asked| {
        let name = asked.name();
        let is_silent = name.contains("silent");
        if is_silent && !answers.load(Ordering::Relaxed) {
            return Vec::new();
        }
        if name.starts_with("good.test") && asked.kind() == RecordType::A {
            let address = RData::A(A([127, 0, 0, 1].into()));
            return vec![encode(&asked.with(vec![record("good.test", address)]))];
        }
        let mut reply = asked.reply(match name.starts_with("good.test") {
            true => ResponseCode::NoError,
            false => ResponseCode::NXDomain,
        });
        reply.authorities.push(soa());
        vec![encode(&reply)]
    });
    server.address
}

/// Waits until `ringpost why` says this of the message, which was not tried.
fn await_why(out: &Out, id: &str, sentence: &str) {
    let said = out.await_why(id, sentence);
    assert!(said.contains("No delivery attempt yet."), "{said}");
}

#[test]
fn mail_that_waits_for_a_lookup_is_not_deferred() {
    let sink = Receiver::start(&[], |_| None);
    let answers = Arc::new(AtomicBool::new(false));
    let servers = name_server(&answers);
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str("timeout = '1s'\nattempts = 20\n");
    config.push_str(&route("good.test", &format!("mx:good.test:{}", sink.address.port())));
    config.push_str(&route("sender.test", "discard"));
    let out = Out::start("2s", "", &config);
    let silent: Vec<String> =
        (0..SILENT_DOMAINS).map(|number| format!("x@silent-{number}.test")).collect();
    for recipients in silent.chunks(100) {
        out.submit(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let id = out.submit(&["x@good.test"]);
    await_why(&out, &id, "Waiting for one of the 64 lookups");
    answers.store(true, Ordering::Relaxed);
    sink.await_for("x@good.test", 1, PATIENCE);
    let attempt = out.attempt("x@good.test");
    assert_eq!((outcome(&attempt), &attempt["attempts"]), ("delivered", &1.into()), "{attempt}");
    for to in &silent {
        let attempt = out.attempt(to);
        assert_eq!((outcome(&attempt), &attempt["attempts"]), ("bounced", &1.into()), "{attempt}");
    }
    let log = out.server.log_text();
    assert!(!log.contains("too many lookups"), "{}", out.server.log_brief());
}

#[test]
fn domains_whose_dns_is_silent_delay_no_mail_with_a_known_route() {
    let sink = Receiver::start(&[], |_| None);
    let servers = name_server(&Arc::default());
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str("timeout = '20s'\nattempts = 20\n");
    config.push_str(&route("good.test", &format!("mx:good.test:{}", sink.address.port())));
    config.push_str(&route("fixed.test", &format!("smtp:{}", sink.address)));
    let out = Out::start("2s", "", &config);
    out.submit(&["first@good.test"]);
    sink.await_for("first@good.test", 1, PATIENCE);
    let silent: Vec<String> =
        (0..SILENT_DOMAINS).map(|number| format!("x@silent-{number}.test")).collect();
    let mut last = String::new();
    for recipients in silent.chunks(100) {
        last = out.submit(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
    }
    await_why(&out, &last, "Waiting for one of the 64 lookups");
    // Its hop is cached; and one whose hop needs no lookup.
    for to in ["second@good.test", "x@fixed.test"] {
        out.submit(&[to]);
        sink.await_for(to, 1, AT_ONCE);
    }
}

#[test]
fn a_new_domain_does_not_wait_for_those_whose_dns_is_silent() {
    let sink = Receiver::start(&[], |_| None);
    let servers = name_server(&Arc::default());
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str("timeout = '20s'\nattempts = 20\n");
    config.push_str(&route("good.test", &format!("mx:good.test:{}", sink.address.port())));
    let out = Out::start("2s", "", &config);
    // As many as begin in three seconds, each with two queries.
    let silent: Vec<String> = (0..3 * 64).map(|number| format!("x@silent-{number}.test")).collect();
    for recipients in silent.chunks(64) {
        out.submit(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
    }
    out.submit(&["x@good.test"]);
    sink.await_for("x@good.test", 1, 4 * AT_ONCE);
}

#[test]
fn a_destination_is_not_blamed_for_a_shortage_of_descriptors() {
    let sink = Receiver::start(&[], |_| None);
    let config = route("good.test", &format!("smtp:{}", sink.address));
    // One failure of the destination would begin a backoff of a minute.
    let out = Out::start_at("2s", "", &config, "dial::descriptors=8*return->off");
    let id = out.submit(&["x@good.test"]);
    await_why(&out, &id, "This server lacks a resource for a connection");
    sink.await_for("x@good.test", 1, PATIENCE);
    let attempt = out.attempt("x@good.test");
    assert_eq!((outcome(&attempt), &attempt["attempts"]), ("delivered", &1.into()), "{attempt}");
    let destination = &out.destinations()[0];
    assert_eq!((&destination["failures"], &destination["window"]), (&0.into(), &5.into()));
    assert!(destination["last_error"].is_null(), "{destination}");
}
