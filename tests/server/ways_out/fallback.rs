//! Mail whose next hop is dead goes to the fallback relay, and filed mail follows its routes.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::route;

/// Nobody listens there.
const DEAD: &str = "127.0.0.2:9";

fn destination_records(out: &Out) -> Vec<Value> {
    let log = out.server.log_text();
    let lines = log.lines().filter(|line| line.contains("\"record\":\"destination\""));
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_dead_exchanger_loses_its_mail_to_the_fallback_relay() {
    let relay = Receiver::start(&[], |_| None);
    let after = Duration::from_secs(3);
    let config = format!(
        "{}fallback = 'smtp:{}'\nfallback_after = '3s'\n",
        route("dead.test", &format!("smtp:{DEAD}")),
        relay.address
    );
    let out = Out::start("2s", "", &config);
    let began = Instant::now();
    out.submit(&["first@dead.test"]);
    assert_eq!(outcome(&out.attempt("first@dead.test")), "deferred");
    assert!(relay.taken().is_empty() || began.elapsed() >= after);
    relay.await_for("first@dead.test", 1, PATIENCE);
    // A message is received a moment before `began`, in whole milliseconds.
    assert!(began.elapsed() + Duration::from_millis(50) >= after, "{:?}", began.elapsed());

    // The destination has failed for so long, so that fresh mail does not wait.
    let began = Instant::now();
    out.submit(&["fresh@dead.test"]);
    relay.await_for("fresh@dead.test", 1, PATIENCE);
    assert!(began.elapsed() < after, "after {:?}", began.elapsed());
    assert_eq!(outcome(&out.attempt("fresh@dead.test")), "delivered", "its first attempt");

    let told = destination_records(&out);
    assert_eq!(told.len(), 1, "{told:#?}");
    let first = &told[0];
    assert_eq!((&first["destination"], &first["state"]), (&DEAD.into(), &"backing-off".into()));
    assert_eq!((&first["failures"], &first["host"]), (&1.into(), &"127.0.0.2".into()));
    assert!(first["last_error"].as_str().is_some_and(|text| !text.is_empty()), "{first:#}");
    assert!(first["until_ms"].as_u64().is_some(), "{first:#}");
}

/// The routes are changed while the server is stopped.
#[test]
fn mail_that_is_filed_under_an_old_route_goes_to_the_new() {
    let receiver = Receiver::start(&[], |_| None);
    let out = Out::start("2s", "", &route("moves.test", &format!("smtp:{DEAD}")));
    out.ringpost(&["destination", "pause", DEAD]);
    let to: Vec<String> = (0..6).map(|number| format!("x{number}@moves.test")).collect();
    let ids: Vec<String> = to.iter().map(|to| out.submit(&[to])).collect();
    let filed = |out: &Out| {
        let is_filed = |id: &&String| out.ringpost(&["why", id]).contains("filed under");
        ids.iter().filter(is_filed).count()
    };
    // All but one.
    let end = Instant::now() + PATIENCE + PATIENCE;
    while filed(&out) < to.len() - 1 {
        assert!(Instant::now() < end, "{}", out.ringpost(&["why", &ids[5]]));
        thread::sleep(Duration::from_millis(200));
    }
    let config = route("moves.test", &format!("smtp:{}", receiver.address));
    let out = out.start_again("2s", "", &config);
    for to in &to {
        receiver.await_for(to, 1, PATIENCE);
    }
    assert_eq!(receiver.taken().len(), to.len(), "{:?}", out.server.log_brief());
}
