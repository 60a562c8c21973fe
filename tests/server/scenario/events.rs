//! `ringpost events`: what has become of each recipient, of a running and of a stopped server.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::scenario::kit::RINGPOST;
use crate::scenario::kit::Rig;
use crate::scenario::kit::run;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;
use crate::scenario::operators::Manner;
use crate::scenario::operators::Sink;
use crate::scenario::operators::ask;
use crate::scenario::operators::await_some;
use crate::scenario::operators::await_why;
use crate::scenario::operators::queue_text;
use crate::scenario::operators::submit;
use crate::support::PATIENCE;
use crate::support::events::assert_agree_in;

/// The types of the events of a message, oldest first.
fn types_of(rig: &Rig, id: &str) -> Vec<String> {
    let rows = export(rig, &["--id", id]);
    rows.iter().map(|row| row["type"].as_str().expect("a type").to_owned()).collect()
}

fn export(rig: &Rig, words: &[&str]) -> Vec<Value> {
    let said = ask(rig, &[&["events", "export"], words].concat());
    said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn await_types(rig: &Rig, id: &str, types: &[&str]) {
    await_some(&format!("{types:?}"), || (types_of(rig, id) == types).then_some(()));
}

#[test]
fn each_recipient_is_followed_from_acceptance_to_its_end() {
    let sink = Sink::start(Manner::PutsOff);
    let mut rig = Rig::start(&sink.plan());
    let config = rig.config();
    let mut tail = Command::new(RINGPOST)
        .args(["events", "tail", "--follow", "--json", "--type", "delivered,cancelled", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary can be run");
    let mut followed = BufReader::new(tail.stdout.take().expect("it is piped")).lines();

    let (kept, hurried) = (submit(&rig, "kept"), submit(&rig, "hurried"));
    for id in [&kept, &hurried] {
        await_why(&rig, id, "come back later");
        await_types(&rig, id, &["accepted", "deferred"]);
    }
    queue_text(&rig, &["hold", &kept]);
    await_types(&rig, &kept, &["accepted", "deferred", "held"]);
    queue_text(&rig, &["delete", &kept]);
    await_types(&rig, &kept, &["accepted", "deferred", "held", "cancelled"]);
    sink.turn(Manner::Takes);
    queue_text(&rig, &["retry", &hurried]);
    sink.await_mail("Subject: hurried");
    await_types(&rig, &hurried, &["accepted", "deferred", "delivered"]);

    for (id, kind) in [(&kept, "cancelled"), (&hurried, "delivered")] {
        let line = followed.next().expect("it goes on").expect("UTF-8");
        let row: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&row["id"], &row["type"]), (&Value::from(&**id), &Value::from(kind)), "{line}");
    }
    tail.kill().expect("it runs");
    tail.wait().expect("the child is ours");

    let rows = export(&rig, &["--id", &hurried]);
    assert_eq!(rows[0]["sender"], "a@x.test", "{rows:?}");
    assert_eq!(rows[0]["recipients"][0], "b@y.test", "{rows:?}");
    assert_eq!(rows[0]["client"], "127.0.0.1", "{rows:?}");
    assert_eq!((&rows[1]["status"], &rows[1]["remote"]), (&"4.2.1".into(), &true.into()));
    assert!(rows[1]["again_in_ms"].as_u64().is_some_and(|ms| ms > 0), "{rows:?}");
    assert_eq!((&rows[2]["attempts"], &rows[2]["status"]), (&2.into(), &"2.0.0".into()));
    assert!(rows[2]["reply"].as_str().is_some_and(|reply| reply.contains("thank you")));
    assert!(rows[2].get("again_in_ms").is_none() && rows[2].get("tenant").is_none(), "{rows:?}");
    for (words, count) in [
        (&["--recipient", "B@Y.test"][..], 7),
        (&["--recipient", "@y.test", "--type", "delivered"], 1),
        (&["--sender", "<>"], 0),
        (&["--tag", "none"], 0),
        (&["--from", "1h", "--type", "accepted"], 2),
        (&["--to", "1h"], 0),
    ] {
        let rows = export(&rig, words);
        assert_eq!(rows.len(), count, "{words:?}: {rows:?}");
    }
    let said = ask(&rig, &["events", "tail", "-n", "1"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(" delivered ") && said.contains("thank you"), "{said}");
    let csv = ask(&rig, &["events", "export", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 1 + 7, "{csv}");
    for (words, fault) in [
        (&["events", "tail", "--type", "opened,lost"][..], "no type of event: opened"),
        (&["events", "export", "--id", "1"], "a message id has"),
        (&["events", "export", "--from", "yesterday"], "not a time such as"),
    ] {
        let out = run(RINGPOST, &[words, &["--config", text(&config)]].concat(), b"");
        assert!(!out.status.success() && text_of(&out).contains(fault), "{}", text_of(&out));
    }
    // A server that has stopped shows the same.
    let before = export(&rig, &[]);
    rig.server.signal("TERM");
    assert!(rig.server.wait(PATIENCE).success());
    let words = ["events", "export", "--config", text(&config)];
    let out = run(RINGPOST, &words, b"");
    assert!(out.status.success(), "{}", text_of(&out));
    let after: Vec<Value> = String::from_utf8(out.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(after, before);
    assert_agree_in(&rig.folder.path().join("spool"), "after the end");
}
