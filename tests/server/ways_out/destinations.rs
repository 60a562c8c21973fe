//! Which domains share a destination, and mail that waits for one.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::counting;
use crate::ways_out::kit::mx;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::route;

/// Domains whose mail exchangers are the same three hosts.
const ALIKE: [&str; 6] = ["d0.test", "d1.test", "d2.test", "d3.test", "d4.test", "d5.test"];
/// The sets differ in order, in preferences (some equal) and in case.
const HOSTS: [[(u16, &str); 3]; 6] = [
    [(10, "a.mx.test"), (20, "b.mx.test"), (30, "c.mx.test")],
    [(10, "c.mx.test"), (20, "a.mx.test"), (30, "b.mx.test")],
    [(10, "b.mx.test"), (10, "a.mx.test"), (10, "c.mx.test")],
    [(10, "c.mx.test"), (10, "b.mx.test"), (10, "a.mx.test")],
    [(10, "a.mx.test"), (10, "c.mx.test"), (10, "b.mx.test")],
    [(7, "B.MX.test"), (5, "C.mx.TEST"), (5, "A.mx.test")],
];
/// Time that the receiver takes for a message.
const PAUSE: Duration = Duration::from_millis(60);

fn queued(rows: &[Value]) -> u64 {
    rows.iter().filter_map(|row| row["queued"].as_u64()).sum()
}

#[test]
fn domains_with_the_same_mail_exchangers_are_one_destination() {
    let (receiver, most) = counting(PAUSE);
    let port = receiver.address.port();
    let mut records: Vec<_> =
        ["a.mx.test", "b.mx.test", "c.mx.test"].map(|host| a(host, [127, 0, 0, 1])).into();
    for (domain, hosts) in ALIKE.iter().zip(HOSTS) {
        records.extend(hosts.map(|(preference, host)| mx(domain, preference, host)));
    }
    // A subset is another destination.
    records.push(mx("fewer.test", 10, "a.mx.test"));
    records.push(mx("fewer.test", 10, "b.mx.test"));
    let mut config = String::from("connections_max = 1\nwindow_start = 1\n[resolver]\n");
    config.push_str(&format!("servers = ['{}']\n", name_server(records)));
    for domain in ALIKE.iter().chain(&["fewer.test"]) {
        config.push_str(&route(domain, &format!("mx:{domain}:{port}")));
    }
    let out = Out::start("2s", "", &config);
    out.ringpost(&["destination", "pause", "b.mx.test"]);
    let to: Vec<String> = ALIKE.iter().map(|domain| format!("x@{domain}")).collect();
    let (to_fewer, end) = ("x@fewer.test", Instant::now() + PATIENCE);
    for to in &to {
        out.submit(&[to]);
        out.submit(&[to]);
    }
    out.submit(&[to_fewer]);
    let all = 2 * ALIKE.len() as u64 + 1;
    while queued(&out.destinations()) < all {
        assert!(Instant::now() < end, "{:#?}", out.destinations());
        thread::sleep(Duration::from_millis(20));
    }
    let rows = out.destinations();
    let name = |hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| format!("{host}:{port}")).collect();
        hosts.join(",")
    };
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row["destination"].as_str().unwrap_or(""), &row["queued"]))
        .collect();
    let both = name(&["a.mx.test", "b.mx.test", "c.mx.test"]);
    let fewer = name(&["a.mx.test", "b.mx.test"]);
    assert_eq!(found, [(&*both, &(all - 1).into()), (&*fewer, &1.into())], "{rows:#?}");
    assert_eq!(rows[0]["connections"]["max"], 1);
    assert_eq!(most.load(Ordering::SeqCst), 0, "it is paused");

    // Started first, because the other destination has a connection of its own.
    out.ringpost(&["destination", "pause", &fewer]);
    out.ringpost(&["destination", "resume", "b.mx.test"]);
    for to in &to {
        receiver.await_for(to, 2, PATIENCE);
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "the limit applies to all the domains together");
    assert_eq!(receiver.taken_for(to_fewer).len(), 0);
    out.ringpost(&["destination", "resume", &fewer]);
    receiver.await_for(to_fewer, 1, PATIENCE);
}

/// Domains share a destination: the pause of one applies to all, and can be ended through any of
/// them.
#[test]
fn the_pause_of_a_shared_destination_ends_through_any_domain() {
    let receiver = Receiver::start(&[], |_| None);
    let port = receiver.address.port();
    let records = vec![
        a("mx.test", [127, 0, 0, 1]),
        mx("one.test", 10, "mx.test"),
        mx("two.test", 10, "mx.test"),
    ];
    let mut config = format!("[resolver]\nservers = ['{}']\n", name_server(records));
    for domain in ["one.test", "two.test"] {
        config.push_str(&route(domain, &format!("mx:{domain}:{port}")));
    }
    let out = Out::start("2s", "", &config);
    out.ringpost(&["destination", "pause", "two.test"]);
    let end = Instant::now() + PATIENCE;
    for (count, to) in [(1, "x@two.test"), (2, "x@one.test")] {
        out.submit(&[to]);
        while queued(&out.destinations()) < count {
            assert!(Instant::now() < end, "{to}: {:#?}", out.destinations());
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(receiver.taken_for("x@one.test").len(), 0, "its destination is paused");
    out.ringpost(&["destination", "resume", "two.test"]);
    receiver.await_for("x@one.test", 1, PATIENCE);
    receiver.await_for("x@two.test", 1, PATIENCE);
}

/// Mail that is queued for a destination and never sent expires on time.
#[test]
fn mail_that_expires_in_the_queue_bounces() {
    let reports = Receiver::start(&[], |_| None);
    // Nothing is sent: the destination is paused.
    let mut config = route("held.test", "smtp:127.0.0.2:9");
    config.push_str(&route("sender.test", &format!("smtp:{}", reports.address)));
    let out = Out::start("2s", "retry_schedule = ['1s']\nmax_age = '3s'", &config);
    out.ringpost(&["destination", "pause", "127.0.0.2"]);
    let began = Instant::now();
    let to: Vec<String> = (0..6).map(|number| format!("x{number}@held.test")).collect();
    for to in &to {
        out.submit(&[to]);
    }
    let told = reports.await_for("a@sender.test", to.len(), PATIENCE);
    assert!(began.elapsed() >= Duration::from_secs(3), "after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(12), "after {:?}", began.elapsed());
    let told = told.iter().map(|report| String::from_utf8_lossy(&report.text).into_owned());
    let told: Vec<String> = told.collect();
    for to in &to {
        let about = told.iter().filter(|text| text.contains(&format!("rfc822; {to}")));
        assert_eq!(about.clone().count(), 1, "{to}: {told:#?}");
        assert!(about.clone().all(|text| text.contains("Action: failed")), "{told:#?}");
        assert!(about.clone().all(|text| text.contains("Status: 4.4.7")), "{told:#?}");
        assert!(about.clone().all(|text| !text.contains("too much mail")), "{told:#?}");
        assert_eq!(outcome(&out.attempt(to)), "expired");
    }
    out.await_left(0);
    assert_eq!(reports.taken().len(), to.len(), "each sender gets one report");
}

/// A message is deleted during its split; its parts are queued when the deletion ends.
#[cfg(feature = "failpoints")]
#[test]
fn a_message_deleted_during_its_split_is_not_sent() {
    let receiver = Receiver::start(&[], |_| None);
    let mut config = String::from("recipients_per_message = 1\n");
    config.push_str(&route("held.test", &format!("smtp:{}", receiver.address)));
    let out = Out::start_at("2s", "", &config, "split::after_write=1*sleep(8000)");
    out.ringpost(&["destination", "pause", "127.0.0.1"]);
    out.submit(&["first@held.test"]);
    let end = Instant::now() + PATIENCE;
    while queued(&out.destinations()) == 0 {
        assert!(Instant::now() < end, "{:#?}", out.destinations());
        thread::sleep(Duration::from_millis(20));
    }
    let id = out.submit(&["a@held.test", "b@held.test", "c@held.test"]);
    // The parts are written, but the server does not know that yet.
    let end = Instant::now() + Duration::from_secs(6);
    let parts = || {
        let shown = out.ringpost(&["queue", "show", &id, "--json"]);
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["jobs"].as_array().map_or(0, Vec::len)
    };
    while parts() != 3 {
        assert!(Instant::now() < end, "the message is not split");
        thread::sleep(Duration::from_millis(20));
    }
    out.ringpost(&["queue", "delete", &id]);
    out.ringpost(&["destination", "resume", "127.0.0.1"]);
    receiver.await_for("first@held.test", 1, PATIENCE);
    out.submit(&["last@held.test"]);
    receiver.await_for("last@held.test", 1, PATIENCE);
    let told = receiver.taken();
    assert_eq!(told.len(), 2, "{told:?}");
    out.await_left(0);
}

/// The schedule on disk has the parts before the server knows that its split is written.
#[cfg(feature = "failpoints")]
#[test]
fn parts_are_sent_once_though_their_split_takes_long() {
    let receiver = Receiver::start(&[], |_| None);
    let mut config = String::from("recipients_per_message = 1\n");
    config.push_str(&route("good.test", &format!("smtp:{}", receiver.address)));
    let out = Out::start_at("2s", "", &config, "split::after_write=1*sleep(3000)");
    let to = ["a@good.test", "b@good.test", "c@good.test"];
    out.submit(&to);
    for to in to {
        receiver.await_for(to, 1, PATIENCE);
    }
    out.await_left(0);
    assert_eq!(receiver.taken().len(), to.len(), "{:?}", receiver.taken());
}

/// More mail than the owner of the destination takes.
#[test]
fn all_mail_for_a_paused_destination_is_explained_by_the_pause() {
    let out = Out::start("2s", "", &route("held.test", "smtp:127.0.0.2:9"));
    out.ringpost(&["destination", "pause", "127.0.0.2"]);
    let ids: Vec<String> = (0..40).map(|_| out.submit(&["x@held.test"])).collect();
    for id in &ids {
        let said = out.await_why(id, "paused");
        assert!(!said.contains("room"), "{said}");
        assert!(said.contains("No delivery attempt yet."), "{said}");
    }
}
