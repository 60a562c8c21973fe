//! Every limit has a reply.

use std::fmt::Write;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::is_closed;
use crate::scenario::kit::talk;
use crate::support::Client;
use crate::support::PATIENCE;

const ENVELOPE: [(&str, &str); 2] =
    [("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "250")];

fn send_body(client: &mut Client, name: &str, body: &[u8]) -> String {
    talk(client, name, &ENVELOPE);
    talk(client, name, &[("DATA", "354")]);
    client.send(body).expect("the server reads the whole body");
    client.send(b".\r\n").expect("the server reads the whole body");
    codes(&client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}")))
}

#[test]
fn the_message_size_is_limited_as_declared_and_as_sent() {
    let rig = Rig::start(&Plan::of("", "[limits]\nmessage_size = \"100KB\"\n"));
    let mut client = rig.client();
    let reply = client.expect("EHLO c.test", 250);
    assert!(reply.text.contains("250-SIZE 100000\n"), "{}", reply.text);
    talk(&mut client, "declared", &[("MAIL FROM:<a@x.test> SIZE=100001", "552 5.3.4")]);
    let line = b"0123456789abcdef0123456789abcdef0123456789abcde\r\n";
    assert_eq!(send_body(&mut client, "at the limit", &line.repeat(2040)), "250 2.0.0");
    assert_eq!(send_body(&mut client, "over", &line.repeat(2041)), "552 5.3.4");
    assert_eq!(send_body(&mut client, "far over", &line.repeat(100_000)), "552 5.3.4");
    // A declared size is not a limit of its own.
    talk(
        &mut client,
        "lied",
        &[("MAIL FROM:<a@x.test> SIZE=10", "250"), ("RCPT TO:<b@y.test>", "250")],
    );
    talk(&mut client, "lied", &[("DATA", "354")]);
    client.send(&line.repeat(2041)).expect("open");
    client.send(b".\r\n").expect("open");
    assert_eq!(codes(&client.reply().expect("the server answers")), "552 5.3.4");
    // With BDAT, in one chunk and in several.
    talk(&mut client, "chunks", &ENVELOPE);
    client.send(b"BDAT 100001 LAST\r\n").expect("open");
    client.send(&[b'x'; 100_001]).expect("open");
    assert_eq!(codes(&client.reply().expect("the server answers")), "552 5.3.4");
    talk(&mut client, "chunks", &[("RSET", "250")]);
    talk(&mut client, "chunks", &ENVELOPE);
    let mut last = String::new();
    for _ in 0..5 {
        client.send(b"BDAT 30000\r\n").expect("open");
        client.send(&[b'x'; 30_000]).expect("open");
        last = codes(&client.reply().expect("the server answers"));
        if last != "250 2.0.0" {
            break;
        }
    }
    assert_eq!(last, "552 5.3.4");
    talk(&mut client, "the session continues", &[("RSET", "250"), ("NOOP", "250")]);
    assert_eq!(rig.messages(), 1, "only the message within the limit is stored");
}

#[test]
fn a_session_is_bounded() {
    type Row = (&'static str, &'static str, Vec<(&'static str, &'static str)>);
    let rows: [Row; 4] = [
        (
            "recipients",
            "recipients_per_message = 2",
            vec![
                ("MAIL FROM:<a@x.test>", "250"),
                ("RCPT TO:<b@y.test>", "250"),
                ("RCPT TO:<c@y.test>", "250"),
                ("RCPT TO:<d@y.test>", "452 4.5.3"),
                ("DATA", "354"),
                (".", "250 2.0.0"),
            ],
        ),
        (
            "messages",
            "messages_per_session = 2",
            vec![
                ("MAIL FROM:<a@x.test>", "250"),
                ("RSET", "250"),
                ("MAIL FROM:<a@x.test>", "250"),
                ("RSET", "250"),
                ("MAIL FROM:<a@x.test>", "421 4.7.0"),
            ],
        ),
        ("commands", "commands_per_session = 12\nmessages_per_session = 12", {
            let mut lines = vec![("NOOP", "250"); 11];
            lines.push(("NOOP", "421 4.7.0"));
            lines
        }),
        (
            "errors",
            "errors_per_session = 2",
            vec![("NONSENSE", "500"), ("RCPT TO:<b@y.test>", "503"), ("NOOP", "421 4.7.0")],
        ),
    ];
    for (name, limits, lines) in &rows {
        let rig = Rig::start(&Plan::of("", &format!("[limits]\n{limits}\n")));
        let mut client = rig.client();
        let last = talk(&mut client, name, lines);
        if last.code == 421 {
            assert!(is_closed(&mut client), "{name}");
        }
    }
}

#[test]
fn lines_are_bounded() {
    let rig = Rig::start(&Plan::of("", "[limits]\nbody_line_length = 1000\n"));
    let mut client = rig.client();
    let rows = [(4096 - 7, "250"), (4097 - 7, "500 5.5.2"), (20_000, "500 5.5.2")];
    for (length, expected) in rows {
        let line = format!("NOOP {}", "x".repeat(length));
        talk(&mut client, "a command line", &[(&line, expected)]);
    }
    let line = |length: usize| format!("{}\r\n", "x".repeat(length - 2)).into_bytes();
    assert_eq!(send_body(&mut client, "fits", &line(1000)), "250 2.0.0");
    assert_eq!(send_body(&mut client, "too long", &line(1001)), "554 5.6.0");
    assert_eq!(send_body(&mut client, "far too long", &line(1_000_000)), "554 5.6.0");
    let lines: Vec<u8> = [line(70), line(999), line(1001), line(3)].concat();
    assert_eq!(send_body(&mut client, "one of many", &lines), "554 5.6.0");
    assert_eq!(rig.messages(), 1);
    // Without the key a line may be as long as a message.
    let rig = Rig::start(&Plan::default());
    assert_eq!(send_body(&mut rig.client(), "unbounded", &line(1_000_000)), "250 2.0.0");
}

#[test]
fn connections_are_bounded() {
    let none = "exempt_networks = []";
    let rows = [
        ("in all", "connections = 3\nconnections_per_address = 3\nconnections_per_network = 3", 3),
        ("per address", "connections_per_address = 2", 2),
        ("per network", "connections_per_network = 4\nconnections_per_address = 4", 4),
        ("rate", "connection_rate_per_address = 5", 5),
    ];
    for (name, limits, most) in rows {
        let rig = Rig::start(&Plan::of("", &format!("[limits]\n{limits}\n{none}\n")));
        let mut open: Vec<Client> = (0..most).map(|_| rig.server.connect()).collect();
        for client in &mut open {
            assert_eq!(client.reply().expect("the server answers").code, 220, "{name}");
        }
        let mut late = rig.server.connect();
        assert_eq!(codes(&late.reply().expect("the server answers")), "421 4.7.0", "{name}");
        assert!(is_closed(&mut late), "{name}");
        talk(&mut open[0], name, &[("NOOP", "250"), ("QUIT", "221")]);
        assert!(is_closed(&mut open[0]), "{name}");
        // There is room again, but the rate limit still applies.
        let expected = if name == "rate" { 421 } else { 220 };
        let codes = retry_until(
            || rig.server.connect().reply().expect("the server answers").code,
            expected,
        );
        assert_eq!(codes, expected, "{name}");
    }
    // Only the total limit applies to exempt networks.
    let limits = "[limits]\nconnections = 6\nconnections_per_address = 1\nconnections_per_network = 1\n\
        connection_rate_per_address = 1\n";
    let rig = Rig::start(&Plan::of("", limits));
    let mut open: Vec<Client> = (0..6).map(|_| rig.server.connect()).collect();
    assert!(open.iter_mut().all(|client| client.reply().expect("the server answers").code == 220));
    assert_eq!(rig.server.connect().reply().expect("the server answers").code, 421);
}

/// The end of a session and the next accept may be on two shards.
fn retry_until(mut ask: impl FnMut() -> u16, wanted: u16) -> u16 {
    let mut last = 0;
    for _ in 0..100 {
        last = ask();
        if last == wanted {
            return last;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    last
}

/// Clients behind a load balancer are counted by their own addresses.
#[test]
fn connections_behind_a_proxy_are_counted_by_client() {
    let limits = "[limits]\nconnections_per_address = 1\nconnections_per_network = 2\n";
    let rig = Rig::start(&Plan::of("proxy_from = [\"127.0.0.1\"]", limits));
    let rows = [
        ("203.0.113.1", 220),
        ("203.0.113.1", 421),
        ("203.0.113.2", 220),
        ("203.0.113.3", 421),
        ("198.51.100.1", 220),
    ];
    let mut open = Vec::new();
    for (peer, expected) in rows {
        let mut client = rig.server.connect();
        client.send(format!("PROXY TCP4 {peer} 127.0.0.1 1 25\r\n").as_bytes()).expect("open");
        assert_eq!(client.reply().expect("the server answers").code, expected, "{peer}");
        open.push(client);
    }
}

#[test]
fn loops_are_cut() {
    let rig = Rig::start(&Plan::of("", "[limits]\nreceived_count = 10\n"));
    let message = |count: usize| {
        let mut text = String::new();
        for number in 0..count {
            write!(text, "RECEIVED: from a{number}.test\r\n\tby b.test; x\r\n").expect("a string");
        }
        text.push_str("Subject: x\r\n\r\nReceived: in the body\r\n");
        text.into_bytes()
    };
    let mut client = rig.client();
    assert_eq!(send_body(&mut client, "ten", &message(10)), "250 2.0.0");
    assert_eq!(send_body(&mut client, "eleven", &message(11)), "554 5.4.6");
    assert_eq!(send_body(&mut client, "many", &message(5000)), "554 5.4.6");
    assert_eq!(rig.messages(), 1);
}

/// The memory of recipients is measured, and an idle session frees it.
#[test]
fn a_large_transaction_frees_its_memory() {
    let rig = Rig::start(&Plan { http: true, ..Plan::of("", "") });
    let mut client = rig.client();
    talk(&mut client, "envelope", &[("EHLO c.test", "250"), ("MAIL FROM:<a@x.test>", "250")]);
    let original = "x".repeat(400);
    for number in 0..500 {
        let rcpt = format!("RCPT TO:<user{number}@y.test> ORCPT=rfc822;{original}");
        client.expect(&rcpt, 250);
    }
    let end = Instant::now() + PATIENCE;
    while rig.metric("ringpost_transaction_memory_bytes") < 200_000.0 {
        assert!(Instant::now() < end, "500 recipients take some memory");
    }
    talk(&mut client, "over", &[("RSET", "250")]);
    rig.await_metric("ringpost_transaction_memory_bytes", 0.0);
    talk(&mut client, "the session continues", &[("NOOP", "250")]);
}
