//! The log: both formats, its file, and a reader that does not read.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::id_of;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::serve_command;
use crate::support::Client;
use crate::support::PATIENCE;

fn send_one(rig: &Rig, subject: &str) -> String {
    let body = format!("Subject: {subject}\r\nMessage-ID: <{subject}@id.test>\r\n\r\ntext\r\n");
    let mut client = rig.client();
    id_of(&client.submit("a@x.test", "b@y.test", body.as_bytes()).expect("the server answers"))
}

fn await_in_file(path: &std::path::Path, what: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.contains(what)) {
            return line.to_owned();
        }
        assert!(Instant::now() < end, "no {what} in {path:?}:\n{text}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_message_is_one_line_in_both_forms() {
    let json = Rig::start(&Plan::default());
    let id = send_one(&json, "secret-subject");
    let line = json.server.wait_for_log("\"record\":\"accepted\"");
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event["id"], id.as_str());
    for (key, value) in
        [("from", "a@x.test"), ("to", "b@y.test"), ("protocol", "ESMTP"), ("level", "info")]
    {
        assert_eq!(event[key], value, "{line}");
    }
    assert!(event["total_us"].is_u64() && event["commit_us"].is_u64(), "{line}");
    assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let whole = json.server.log_text();
    assert!(!whole.contains("Subject"), "a subject is in the log");
    let json_lines = whole.lines().filter(|line| line.starts_with('{'));
    for line in json_lines {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }

    let log = "format = \"text\"".to_owned();
    let text = Rig::start(&Plan { log, ..Plan::default() });
    let id = send_one(&text, "text");
    let line = text.server.wait_for_log(" accepted ");
    assert!(line.contains(&format!("id={id}")) && line.contains("from=a@x.test"), "{line}");
    // A client cannot write log lines of its own.
    let mut client = text.server.connect();
    client.reply().expect("a greeting");
    client.expect("EHLO c.test", 250);
    client.ask("MAIL FROM:<a\"b@x.test>").expect("the server answers");
    client.expect("MAIL FROM:<\"a b=c\"@x.test>", 250);
    client.expect("RCPT TO:<\"x accepted id=1\"@y.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Message-ID: <evil id=2@x>\r\n\r\n.\r\n").expect("the connection is open");
    let id = id_of(&client.reply().expect("the server answers"));
    let line = text.server.wait_for_log(&format!("id={id}"));
    assert!(line.contains("\"") && !line.contains(" to=\"x accepted id=1\"@"), "unescaped: {line}");
}

#[test]
fn the_log_file_is_reopened_after_a_rename() {
    let folder = new_folder();
    let path = folder.path().join("log");
    let log = format!("format = \"json\"\nlevel = \"info\"\noutput = {path:?}");
    let rig = Rig::start_in(folder, &Plan { log, ..Plan::default() });
    let first = send_one(&rig, "first");
    await_in_file(&path, &first);
    let moved = rig.folder.path().join("log.1");
    fs::rename(&path, &moved).expect("both are in one folder");
    let between = send_one(&rig, "between");
    await_in_file(&moved, &between);
    rig.server.signal("HUP");
    await_in_file(&path, "\"record\":\"reloaded\"");
    let second = send_one(&rig, "second");
    await_in_file(&path, &second);
    let old = fs::read_to_string(&moved).expect("the file exists");
    assert!(!old.contains(&second), "the old file is still written");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("there").permissions());
    assert_eq!(mode & 0o007, 0, "other users may not read addresses");
}

/// Nothing reads the log: mail is still accepted, records are dropped and counted.
#[test]
fn a_full_pipe_does_not_stall_mail() {
    let folder = new_folder();
    let plan = Plan { http: true, ..Plan::default() };
    let http = crate::scenario::kit::free_address();
    let smtp = crate::scenario::kit::free_address();
    let listeners = format!("[[listener]]\naddress = \"{smtp}\"\n");
    let plan = Plan { listeners, ..plan };
    fs::write(folder.path().join("ringpost.toml"), plan.text(folder.path(), Some(http)))
        .expect("the file is writable");
    let mut command = serve_command(folder.path(), &plan);
    let mut child = command.stderr(Stdio::null()).spawn().expect("the binary can be run");
    let unread = child.stdout.take().expect("the stream is piped");
    let end = Instant::now() + PATIENCE;
    let mut client = loop {
        match Client::connect(smtp) {
            Ok(client) => break client,
            Err(fault) => assert!(Instant::now() < end, "it does not listen: {fault}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    client.greet().expect("the server greets");
    // Each refusal is a line of several hundred bytes. A pipe holds 64 KiB, the lanes a few MiB.
    let long = "x".repeat(2000);
    let mut slowest = Duration::ZERO;
    for round in 0..40 {
        let began = Instant::now();
        let mut client = Client::connect(smtp).expect("the peer listens");
        client.reply().expect("a greeting");
        client.expect(&format!("EHLO {}.test", "a".repeat(50)), 250);
        client.expect("MAIL FROM:<a@x.test>", 250);
        let mut group = String::new();
        for number in 0..15 {
            group.push_str(&format!("RCPT TO:<\"{number}%{}\"@y.test>\r\n", "y".repeat(50)));
        }
        client.send(group.as_bytes()).expect("the connection is open");
        (0..15).for_each(|_| drop(client.reply().expect("the server answers")));
        client.expect(&format!("NOOP {long}"), 250);
        client.expect("RSET", 250);
        let reply = client.submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
        assert_eq!(reply.code, 250, "round {round}: {}", reply.text);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "a round took {slowest:?}");
    // Enough sessions to fill the pipe and the lanes.
    let mut dropped = 0.0;
    let end = Instant::now() + PATIENCE;
    while dropped == 0.0 {
        assert!(Instant::now() < end, "no line was ever dropped");
        let mut client = Client::connect(smtp).expect("the peer listens");
        client.greet().expect("the server greets");
        for _ in 0..40 {
            let mut group = String::new();
            for number in 0..15 {
                group.push_str(&format!("RCPT TO:<\"{number}%{}\"@y.test>\r\n", "y".repeat(50)));
            }
            client.expect("MAIL FROM:<a@x.test>", 250);
            client.send(group.as_bytes()).expect("the connection is open");
            let replies: Vec<_> = (0..15).map_while(|_| client.reply().ok()).collect();
            if replies.len() < 15 || client.ask("RSET").map_or(true, |reply| reply.code != 250) {
                break;
            }
        }
        let (_, text) = crate::scenario::kit::http_get(http, "/metrics");
        let line = text.lines().find(|line| line.starts_with("ringpost_log_lines_dropped_total "));
        dropped = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("the metric");
    }
    let reply = client.submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
    // When the log is read again, it contains the number of dropped records.
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(unread).lines().map_while(Result::ok) {
            if line.contains("\"record\":\"log_dropped\"") {
                // The test waits for the first of them.
                let _ = tell.send(());
            }
            lines.push(line);
        }
        lines
    });
    told.recv_timeout(PATIENCE).expect("a record reports the dropped ones");
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill can be run").success());
    let status = child.wait().expect("the child is ours");
    let lines = reader.join().expect("the peer reads");
    assert!(status.success(), "{status}");
    assert!(lines.iter().all(|line| line.starts_with('{') && line.ends_with('}')), "a broken line");
}

/// The log alone explains why the server does not run.
#[test]
fn a_refused_start_is_in_the_log() {
    let folder = new_folder();
    let (log, spool) = (folder.path().join("log"), folder.path().join("spool"));
    let written = format!("format = \"json\"\noutput = {log:?}");
    let plan = Plan { log: written, ..Plan::default() };
    fs::write(folder.path().join("ringpost.toml"), plan.text(folder.path(), None))
        .expect("the folder is writable");
    fs::create_dir(&spool).expect("made");
    fs::write(spool.join("ringpost.json"), "{\"format\":99}").expect("written");
    let out = serve_command(folder.path(), &plan).output().expect("the process runs");
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("99"), "{told}");
    let lines = fs::read_to_string(&log).expect("the log exists");
    let line = lines.lines().find(|line| line.contains("start_refused"));
    let line = line.unwrap_or_else(|| panic!("the cause is missing in\n{lines}"));
    assert!(line.contains("\"level\":\"error\"") && line.contains("99"), "{line}");
}
