//! A reload while routes are being resolved.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
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
use crate::ways_out::kit::route;

/// Answers for this domain, once `answers` is set, that it is this machine.
fn name_server(answers: &Arc<AtomicBool>) -> NameServer {
    let answers = Arc::clone(answers);
    NameServer::start(move |asked| {
        while !answers.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        if asked.kind() == RecordType::A {
            let address = RData::A(A([127, 0, 0, 1].into()));
            return vec![encode(&asked.with(vec![record("good.test", address)]))];
        }
        let mut reply = asked.reply(ResponseCode::NoError);
        reply.authorities.push(soa());
        vec![encode(&reply)]
    })
}

/// The pools of both configs stand in another order.
#[test]
fn what_was_being_resolved_goes_by_the_new_config() {
    let answers = Arc::<AtomicBool>::default();
    let (servers, sink) = (name_server(&answers), Receiver::start(&[], |_| None));
    let to = route("good.test", &format!("mx:good.test:{}", sink.address.port()));
    let pool = |name: &str| format!("[[pool]]\nname = '{name}'\nsources = ['{name}']\n");
    let source = |name: &str| {
        format!("[[source]]\nname = '{name}'\nipv4 = '127.0.0.1'\nehlo_name = '{name}.test'\n")
    };
    let (one, two) = ("one", "two");
    let resolver = format!("[resolver]\nservers = ['{}']\ntimeout = '20s'\n", servers.address);
    let sources = source(one) + &source(two) + &resolver;
    let before = format!("{to}pool = '{one}'\n{}{}", pool(one), pool(two));
    let after = format!("{to}pool = '{two}'\n{}{}", pool(two), pool(one));
    let out = Out::start("2s", "", &format!("{sources}{before}"));
    out.submit(&["first@good.test"]);
    out.server.wait_for_log("\"record\":\"accepted\"");
    while servers.asked("good.test").is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let file = out.server.folder.join("ringpost.toml");
    let text = std::fs::read_to_string(&file).expect("the config exists");
    assert!(text.contains(&before), "{text}");
    std::fs::write(&file, text.replace(&before, &after)).expect("the folder is writable");
    out.server.signal("HUP");
    out.server.wait_for_log("\"record\":\"reloaded\"");
    answers.store(true, Ordering::Relaxed);
    for to in ["first@good.test", "second@good.test"] {
        if to.starts_with("second") {
            out.submit(&[to]);
        }
        sink.await_for(to, 1, PATIENCE);
    }
    assert_eq!(sink.asked("EHLO one.test"), 0, "the pool that the config no longer names");
    assert!(sink.asked("EHLO two.test") > 0);
}
