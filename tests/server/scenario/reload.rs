//! SIGHUP: which changes apply at once, which need a restart, and that an invalid file changes
//! nothing.

use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::RINGPOST;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::run;
use crate::scenario::kit::talk;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;
use crate::support::PATIENCE;

fn announced_size(rig: &Rig) -> String {
    let mut client = rig.server.connect();
    client.reply().expect("a greeting");
    let text = client.expect("EHLO c.test", 250).text;
    text.lines().find_map(|line| line.strip_prefix("250-SIZE ")).expect("SIZE").to_owned()
}

/// Waits until all shards have applied a reload, which is sent to each of them.
fn await_size(rig: &Rig, wanted: &str) {
    let end = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < 16 {
        let size = announced_size(rig);
        in_a_row = if size == wanted { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < end, "the size is {size}, not {wanted}");
    }
}

#[test]
fn limits_change_for_new_sessions() {
    let rig = Rig::start(&Plan::of("", "[limits]\nmessage_size = 10000\n"));
    let mut old = rig.client();
    assert_eq!(announced_size(&rig), "10000");
    let mut next = Plan::of("banner = \"Hello\"", "[limits]\nmessage_size = 20000\n");
    next.rest.push_str("[relay]\nnetworks = []\n");
    rig.rewrite(&next);
    let line = rig.reload("reloaded");
    for key in ["limits.message_size", "relay.networks", "banner"] {
        assert!(line.contains(key), "{key} is not in {line}");
    }
    await_size(&rig, "20000");
    let mut client = rig.server.connect();
    let greeting = client.reply().expect("a greeting").text;
    assert_eq!(greeting, "220 mx.ringpost.test ESMTP Hello\n");
    client.expect("EHLO c.test", 250);
    talk(
        &mut client,
        "new rules",
        &[("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "550 5.7.1")],
    );
    // A session keeps the config with which it began.
    talk(&mut old, "old rules", &[("MAIL FROM:<a@x.test> SIZE=15000", "552 5.3.4")]);
    talk(&mut old, "old rules", &[("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "250")]);
}

#[test]
fn changes_that_need_a_restart_are_reported() {
    let rig = Rig::start(&Plan::of("", ""));
    let mut next = Plan::of("protocol = \"lmtp\"", "[queue]\nmemory = \"128MiB\"\n");
    next.server = "cores = \"0\"\n".to_owned();
    next.log = "format = \"text\"\nlevel = \"debug\"".to_owned();
    rig.rewrite(&next);
    rig.server.signal("HUP");
    let told = rig.await_record("needs_restart").to_string();
    for key in ["server.cores", "queue.memory", "log.format", "protocol"] {
        assert!(told.contains(key), "{key} is not in {told}");
    }
    let mut client = rig.server.connect();
    assert!(client.reply().expect("a greeting").text.contains("ESMTP"), "it still speaks SMTP");
    client.expect("EHLO c.test", 250);
}

/// Whether XCLIENT is offered, and whether mail requires TLS.
fn offers(rig: &Rig) -> (bool, bool) {
    let mut client = rig.server.connect();
    client.reply().expect("a greeting");
    let offers_xclient = client.expect("EHLO c.test", 250).text.contains("XCLIENT");
    let reply = client.ask("MAIL FROM:<a@x.test>").expect("the server answers");
    (offers_xclient, codes(&reply).starts_with("530"))
}

#[test]
fn an_additional_listener_does_not_delay_other_restrictions() {
    let rig = Rig::start(&Plan::of("xclient_from = [\"127.0.0.0/8\"]", ""));
    assert_eq!(offers(&rig), (true, false));
    let mut next = Plan::of("tls_required = true", "");
    next.listeners.push_str("[[listener]]\naddress = \"127.0.0.1:1\"\n");
    rig.rewrite(&next);
    rig.reload("needs_restart");
    let end = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < 16 {
        let offered = offers(&rig);
        in_a_row = if offered == (false, true) { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < end, "XCLIENT and mail in the clear: {offered:?}");
    }
}

#[test]
fn an_invalid_file_changes_nothing() {
    let rig = Rig::start(&Plan { http: true, ..Plan::of("", "[limits]\nmessage_size = 10000\n") });
    let rows = [
        ("unknown key", "[limits]\nmessage_size = 20000\nmesage_size = 1\n", "mesage_size"),
        ("wrong unit", "[limits]\nmessage_size = \"20 parsecs\"\n", "message_size"),
        ("no TOML", "[limits\n", "ringpost.toml"),
        (
            "no such file",
            "[[tls.certificate]]\ncertificate = \"/no/where\"\nkey = \"/no/where\"\n",
            "/no/where",
        ),
    ];
    for (name, rest, named) in rows {
        rig.rewrite(&Plan::of("banner = \"Changed\"", rest));
        let line = rig.reload("reload_refused");
        assert!(line.contains(named), "{name}: {line}");
        assert_eq!(announced_size(&rig), "10000", "{name}");
        let greeting = rig.server.connect().reply().expect("a greeting").text;
        assert!(!greeting.contains("Changed"), "{name}: {greeting}");
    }
    std::fs::remove_file(rig.config()).expect("the file exists");
    let line = rig.reload("reload_refused");
    assert!(line.contains("ringpost.toml"), "{line}");
    assert_eq!(announced_size(&rig), "10000");
    rig.await_metric("ringpost_reloads_total{outcome=\"refused\"}", 5.0);
    rig.rewrite(&Plan::of("", "[limits]\nmessage_size = 30000\n"));
    rig.reload("reloaded");
    await_size(&rig, "30000");
}

#[test]
fn the_log_level_changes_at_once() {
    let quiet = Plan { log: "format = \"json\"\nlevel = \"info\"".to_owned(), ..Plan::default() };
    let rig = Rig::start(&quiet);
    let mut client = rig.client();
    assert_eq!(codes(&client.ask("QUIT").expect("the server answers")), "221 2.0.0");
    client.reply().expect_err("it closes");
    rig.rewrite(&Plan::default());
    rig.reload("reloaded");
    let before = rig.server.log_text();
    assert!(!before.contains("session_closed"), "debug was shown at info:\n{before}");
    let mut client = rig.client();
    client.expect("QUIT", 221);
    rig.await_record("session_closed");
}

/// At the start and at a reload.
#[test]
fn a_warning_has_its_key_and_its_hint_once() {
    let rig = Rig::start(&Plan::of("", "[timeouts]\ncommand = \"10s\"\n"));
    let text = rig.server.log_text();
    let hint = "see RFC 5321 s4.5.3.2.7";
    let told = text.lines().find(|line| line.contains("senders may rely on 5m"));
    assert!(told.is_some_and(|line| line.contains("timeouts.command")), "{text}");
    assert_eq!(text.matches(hint).count(), 1, "{text}");
    rig.reload("reloaded");
    let told = rig.await_record("warning").to_string();
    assert!(told.contains("timeouts.command"), "{told}");
    assert_eq!(told.matches(hint).count(), 1, "{told}");
}

/// `ringpost reload` does what SIGHUP does, and prints what came of it.
#[test]
fn a_reload_by_command_reports_its_outcome() {
    let rig = Rig::start(&Plan::of("", "[limits]\nmessage_size = 10000\n"));
    let config = rig.config();
    let reload = |words: &[&str]| {
        run(RINGPOST, &[&["reload", "--config", text(&config)], words].concat(), b"")
    };
    let out = reload(&[]);
    assert!(out.status.success(), "{}", text_of(&out));
    assert!(text_of(&out).contains("no setting changed"), "{}", text_of(&out));
    rig.rewrite(&Plan::of("", "[limits]\nmessage_size = 20000\n[queue]\nmemory = \"128MiB\"\n"));
    let out = reload(&["--json"]);
    assert!(out.status.success(), "{}", text_of(&out));
    let reloaded: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(reloaded["changed"], serde_json::json!(["limits.message_size"]), "{reloaded}");
    assert_eq!(reloaded["needs_restart"], serde_json::json!(["queue.memory"]), "{reloaded}");
    await_size(&rig, "20000");
    rig.rewrite(&Plan::of("", "[limits]\nmessage_size = \"large\"\n"));
    let out = reload(&[]);
    assert_eq!(out.status.code(), Some(2), "{}", text_of(&out));
    assert!(text_of(&out).contains("limits.message_size"), "{}", text_of(&out));
    await_size(&rig, "20000");
}
