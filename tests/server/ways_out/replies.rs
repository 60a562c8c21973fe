//! Rules of the operator for replies: what they do to the mail that follows, and what they call it.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::route;

const RULES: &str = "450 | * | blue moon | policy | follow | suspend 2h destination\n\
                     450 | * | green moon | policy | follow | suspend 6s source\n\
                     450 | * | red moon | policy | follow | slow 25% 10m source\n\
                     550 | * | mailbox full | policy | follow\n";

/// A server with rules, and a domain for each receiver.
fn start(receivers: &[(&str, &Receiver)]) -> (Out, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("own.rules");
    std::fs::write(&rules, RULES).expect("the file is writable");
    let delivery = format!("reply_rules = ['{}']", rules.display());
    let routes = receivers.iter().map(|(domain, receiver)| {
        let mut route = route(domain, &format!("smtp:{}", receiver.address));
        route.push('\n');
        route
    });
    let config = format!("window_start = 8\n{}", routes.collect::<String>());
    (Out::start("2s", &delivery, &config), folder)
}

/// Answers RCPT with this text if the address begins with `no`.
fn refusing(reply: &'static str) -> Receiver {
    Receiver::start(&[], move |line| line.starts_with("RCPT TO:<no").then(|| reply.to_owned()))
}

fn shown(out: &Out, receiver: &Receiver) -> Value {
    let shown = out.ringpost(&["destination", "show", &receiver.address.to_string(), "--json"]);
    let mut shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown["destinations"][0].take()
}

fn await_action(out: &Out, receiver: &Receiver) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let shown = shown(out, receiver);
        if shown["evidence"][0].is_object() {
            return shown;
        }
        assert!(Instant::now() < end, "no rule has acted: {shown:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_rule_suspends_a_destination_and_no_other() {
    let (stopped, other) = (refusing("450 4.7.1 once in a blue moon"), refusing("450 later"));
    let (out, folder) = start(&[("stopped.test", &stopped), ("other.test", &other)]);
    let first = out.submit(&["no@stopped.test"]);
    let attempt = out.attempt("no@stopped.test");
    assert_eq!((outcome(&attempt), &attempt["category"]), ("deferred", &"policy".into()));
    let facts = await_action(&out, &stopped);
    assert_eq!(facts["binding"]["kind"], "suspended", "{facts:#}");
    let evidence = &facts["evidence"][0];
    let rule = format!("{}:1", folder.path().join("own.rules").display());
    assert_eq!(evidence["rule"], rule);
    assert_eq!(evidence["reply"], "450 4.7.1 once in a blue moon");
    assert_eq!(evidence["message"], first);
    let time_ms = evidence["until_ms"].as_u64().zip(evidence["at_ms"].as_u64());
    assert_eq!(time_ms.map(|(until, at)| until - at), Some(2 * 3600 * 1000));

    let waits = out.submit(&["waits@stopped.test"]);
    out.submit(&["goes@other.test"]);
    other.await_for("goes@other.test", 1, PATIENCE);
    let acted = format!("The rule {rule} has acted at ");
    let end = Instant::now() + PATIENCE;
    loop {
        let why = out.ringpost(&["why", &waits]);
        if why.contains(&acted) && why.contains(&first) && why.contains("blue moon") {
            break;
        }
        assert!(Instant::now() < end, "{why}");
        thread::sleep(Duration::from_millis(20));
    }
    let shown = out.ringpost(&["destination", "show", &stopped.address.to_string()]);
    assert!(shown.contains(&format!("rule {rule} acted at ")), "{shown}");
    assert!(shown.contains("suspended"), "{shown}");
    assert_eq!(stopped.asked("waits@stopped.test"), 0, "its destination is suspended");
}

#[test]
fn a_suspension_of_a_source_ends_and_a_slower_source_goes_on() {
    let (paused, slowed) = (refusing("450 4.7.1 green moon"), refusing("450 4.7.1 red moon"));
    let (out, _folder) = start(&[("paused.test", &paused), ("slowed.test", &slowed)]);
    // The suspension begins later.
    let began = Instant::now();
    let lasts = Duration::from_secs(6);
    out.submit(&["no@paused.test"]);
    let facts = await_action(&out, &paused);
    assert_eq!(facts["sources"][0]["binding"]["kind"], "suspended", "{facts:#}");
    out.submit(&["later@paused.test"]);

    out.submit(&["no@slowed.test"]);
    let facts = await_action(&out, &slowed);
    assert_eq!(facts["sources"][0]["window"], 2, "a quarter of 8: {facts:#}");
    out.submit(&["goes@slowed.test"]);
    slowed.await_for("goes@slowed.test", 1, PATIENCE);
    assert!(paused.taken().is_empty() || began.elapsed() >= lasts);

    paused.await_for("later@paused.test", 1, PATIENCE);
    assert!(began.elapsed() >= lasts, "after {:?}", began.elapsed());
    let (log, name) = (out.server.log_text(), paused.address.to_string());
    let told = log
        .lines()
        .filter(|line| line.contains("\"record\":\"destination\"") && line.contains(&name));
    let told = told.map(|line| serde_json::from_str::<Value>(line).expect("JSON")["state"].take());
    assert_eq!(told.collect::<Vec<_>>(), ["suspended", "working"], "{log}");
}

/// The rules of the operator also decide the category in the log and the words of the report.
#[test]
fn a_rule_decides_the_category_of_a_bounce() {
    let refusing = refusing("550 the mailbox full of wonders");
    let reports = Receiver::start(&[], |_| None);
    let (out, _folder) = start(&[("r.test", &refusing), ("sender.test", &reports)]);
    out.submit(&["no@r.test"]);
    let attempt = out.attempt("no@r.test");
    assert_eq!((outcome(&attempt), &attempt["category"]), ("bounced", &"policy".into()));
    let report = reports.await_for("a@sender.test", 1, PATIENCE).remove(0);
    let text = String::from_utf8_lossy(&report.text).into_owned();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("because of a local rule"), "{text}");
    assert!(!words.contains("The mailbox is full"), "{text}");
}
