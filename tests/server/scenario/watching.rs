//! Monitoring: metrics, health, figures.

use std::collections::BTreeSet;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::support::Client;

fn busy_rig() -> Rig {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    for _ in 0..3 {
        let mut client = rig.client();
        client
            .submit("a@x.test", "b@y.test", b"Subject: x\r\n\r\ntext\r\n")
            .expect("the server answers");
        client.expect("NONSENSE", 500);
        client.expect("QUIT", 221);
        client.reply().expect_err("it closes");
    }
    rig
}

#[test]
fn metrics_are_prometheus_text() {
    let rig = busy_rig();
    let (status, text) = rig.get("/metrics");
    assert_eq!(status, 200);
    let mut declared = BTreeSet::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().expect("a word"), words.next().expect("a name"));
            assert!(words.next().is_some_and(|help| !help.is_empty()), "{line}");
            assert!(matches!(what, "HELP" | "TYPE"), "{line}");
            if what == "HELP" {
                assert!(declared.insert(name.to_owned()), "{name} is declared twice");
                name.clone_into(&mut current);
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
        let name = sample.split('{').next().expect("a name");
        let of_histogram = ["_bucket", "_sum", "_count"];
        let of_histogram = of_histogram.iter().any(|end| name.strip_suffix(end) == Some(&current));
        assert!(name == current || of_histogram, "{line} is under another metric");
        assert!(name.starts_with("ringpost_") || name.starts_with("process_"), "{line}");
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(sample.to_owned()), "{sample} occurs twice");
        if let Some((_, labels)) = sample.split_once('{') {
            let labels = labels.strip_suffix('}').expect("labels end with a brace");
            for label in labels.split(',') {
                let (key, value) = label.split_once("=\"").expect("a label");
                assert!(!key.is_empty() && value.ends_with('"'), "{line}");
            }
        }
    }
    assert!(declared.len() > 20, "only {} metrics", declared.len());
    let rows = [
        ("ringpost_messages_accepted_total", 3.0),
        ("ringpost_connections_total", 3.0),
        ("ringpost_commands_total{verb=\"mail\"}", 3.0),
        ("ringpost_commands_total{verb=\"unknown\"}", 3.0),
        ("ringpost_commands_total{verb=\"quit\"}", 3.0),
        ("ringpost_replies_total{class=\"5xx\"}", 3.0),
        ("ringpost_replies_total{class=\"3xx\"}", 3.0),
        ("ringpost_recipients_accepted_total", 3.0),
        ("ringpost_session_panics_total", 0.0),
        ("ringpost_listening", 1.0),
        ("ringpost_accept_seconds_count", 3.0),
        ("ringpost_commit_seconds_count", 3.0),
        ("ringpost_partition_messages", 3.0),
        ("ringpost_partition_failed", 0.0),
        ("ringpost_spool_quarantine_records", 0.0),
    ];
    for (name, expected) in rows {
        assert!(
            seen.iter().any(|sample| sample.starts_with(name.trim_end_matches('}'))),
            "no {name}"
        );
        rig.await_metric(name, expected);
    }
    assert!(rig.metric("ringpost_message_bytes_total") > 0.0);
    assert!(rig.metric("ringpost_spool_free_bytes") > 0.0);
    assert!(rig.metric("ringpost_spool_reserve_target_bytes") > 0.0);
    let expiry = "ringpost_certificate_expiry_timestamp_seconds";
    assert!(rig.metric(expiry) > 1e9, "the certificate that signs itself");
}

#[test]
fn open_connections_are_counted() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    let open: Vec<Client> = (0..7).map(|_| rig.client()).collect();
    rig.await_metric("ringpost_connections_open", 7.0);
    drop(open);
    rig.await_metric("ringpost_connections_open", 0.0);
}

#[test]
fn figures_are_json_and_hgrm() {
    let rig = busy_rig();
    let (status, text) = rig.get("/stats");
    assert_eq!(status, 200);
    let stats: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(stats["counters"]["messages_accepted_total"], 3, "{text}");
    let stages = ["greeting", "command", "body", "commit", "commit_batch", "accept"];
    for stage in stages {
        let figures = &stats["stages"][stage];
        assert!(figures["count"].as_u64() >= Some(3), "{stage}: {figures}");
        assert!(figures["p99"].is_u64() && figures["max"].is_u64(), "{stage}: {figures}");
        for path in [format!("/stats/hdr/{stage}"), format!("/stats/hdr/{stage}.hgrm")] {
            let (status, hgrm) = rig.get(&path);
            assert_eq!(status, 200, "{path}");
            assert!(hgrm.contains("Percentile") && hgrm.contains("Total count"), "{path}: {hgrm}");
        }
    }
    assert_eq!(rig.get("/stats/hdr/nothing").0, 404);
    assert_eq!(rig.get("/nothing").0, 404);
}

#[test]
fn health_and_readiness_follow_the_server() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    assert_eq!(rig.get("/health").0, 200);
    assert_eq!(rig.get("/ready").0, 200);
    let full =
        Plan { rest: "[queue]\nmin_free_space = \"900TiB\"\n".to_owned(), ..Plan::default() };
    rig.rewrite(&full);
    rig.reload("reloaded");
    rig.await_record("spool_full");
    let (status, why) = rig.get("/ready");
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("full"), "{why}");
    assert_eq!(rig.get("/health").0, 200, "a full disk requires no restart");
    let reply = rig.client().ask("MAIL FROM:<a@x.test>").expect("the server answers");
    assert!(reply.text.starts_with("452 4.3.1"), "{}", reply.text);
    rig.rewrite(&Plan::default());
    rig.reload("reloaded");
    rig.await_record("spool_recovered");
    assert_eq!(rig.get("/ready").0, 200);
    rig.client().expect("MAIL FROM:<a@x.test>", 250);
}

#[test]
fn refused_commands_are_counted_by_reason() {
    let rig = Rig::start(&Plan { http: true, ..Plan::of("", "[relay]\nnetworks = []\n") });
    let long = "x".repeat(5000);
    let rows = [
        ("NONSENSE", "unknown"),
        ("EXPN list", "unknown"),
        ("MAIL a@x.test", "syntax"),
        ("RCPT TO:<b@y.test>", "sequence"),
        ("MAIL FROM:<a@@x.test>", "address"),
        ("MAIL FROM:<a@x.test> NOVELTY=1", "parameter"),
        ("MAIL FROM:<a@x.test> SIZE=99999999999", "size"),
        ("XCLIENT ADDR=192.0.2.1", "trust"),
        (&long, "line"),
    ];
    for (line, reason) in rows {
        let name = format!("ringpost_refusals_total{{reason=\"{reason}\"}}");
        let before = rig.metric(&name);
        let reply = rig.client().ask(line).expect("the server answers");
        assert!(reply.code >= 500, "{line}: {}", reply.text);
        rig.await_metric(&name, before + 1.0);
    }
    let mut client = rig.client();
    client.expect("MAIL FROM:<a@x.test>", 250);
    client.expect("RCPT TO:<b@y.test>", 550);
    rig.await_metric("ringpost_refusals_total{reason=\"relay\"}", 1.0);
    rig.await_metric("ringpost_refusals_total", rows.len() as f64 + 1.0);
    let tls = Plan::of("tls = \"starttls\"\ntls_required = true", "");
    let rig = Rig::start(&Plan { http: true, ..tls });
    rig.client().expect("MAIL FROM:<a@x.test>", 530);
    rig.await_metric("ringpost_refusals_total{reason=\"tls_required\"}", 1.0);
}

#[cfg(feature = "failpoints")]
#[test]
fn failed_batches_are_counted_by_cause() {
    let environment = vec![("FAILPOINTS", "commit::error=1*return(enospc)".to_owned())];
    let rig = Rig::start(&Plan { http: true, environment, ..Plan::default() });
    let body = b"Subject: x\r\n\r\ntext\r\n";
    let reply = rig.client().submit("a@x.test", "b@y.test", body).expect("the server answers");
    assert_eq!(reply.code, 452, "{}", reply.text);
    rig.await_metric("ringpost_commits_failed_total{cause=\"no_space\"}", 1.0);
    rig.await_metric("ringpost_commits_failed_total", 1.0);
}

#[test]
fn aborted_bodies_are_counted() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    for begin in ["DATA", "BDAT 10"] {
        let mut client = rig.client();
        client.expect("MAIL FROM:<a@x.test>", 250);
        client.expect("RCPT TO:<b@y.test>", 250);
        client.send(format!("{begin}\r\n").as_bytes()).expect("the peer reads");
        if begin == "DATA" {
            assert_eq!(client.reply().expect("the server answers").code, 354);
        }
        client.send(b"half").expect("the peer reads");
    }
    rig.await_metric("ringpost_bodies_refused_total{reason=\"aborted\"}", 2.0);
    rig.await_metric("ringpost_bodies_refused_total", 2.0);
}
