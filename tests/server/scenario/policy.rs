//! Relay rules, and clients that pass on the identity of others (PROXY, XCLIENT).

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::id_of;
use crate::scenario::kit::is_closed;
use crate::scenario::kit::run_well;
use crate::scenario::kit::talk;

const STRANGER: &str = "203.0.113.9";
const INSIDE: &str = "10.1.2.3";

const RELAY: &str = "[relay]\nnetworks = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n\
    domains = [\"ours.test\", \".below.test\"]\nrefuse_senders = [\"spam.test\"]\n\
    refuse_recipients = [\"closed.ours.test\", \"refused.test\"]\n";

#[test]
fn the_relay_policy_applies_to_every_peer() {
    let rig = Rig::start(&Plan::of("proxy_from = [\"127.0.0.1\"]", RELAY));
    let rows = [
        ("a stranger to others", STRANGER, "a@x.test", "b@y.test", "550 5.7.1"),
        ("a stranger to us", STRANGER, "a@x.test", "b@ours.test", "250"),
        ("a stranger to us in capitals", STRANGER, "a@x.test", "B@OURS.Test", "250"),
        ("a stranger below us", STRANGER, "a@x.test", "b@a.below.test", "250"),
        ("not at the top of below", STRANGER, "a@x.test", "b@below.test", "550 5.7.1"),
        ("not below ours", STRANGER, "a@x.test", "b@sub.ours.test", "550 5.7.1"),
        ("not a longer name", STRANGER, "a@x.test", "b@yours.test", "550 5.7.1"),
        ("a null sender to others", STRANGER, "", "b@y.test", "550 5.7.1"),
        ("a null sender to us", STRANGER, "", "b@ours.test", "250"),
        ("bare postmaster", STRANGER, "a@x.test", "Postmaster", "250"),
        ("our postmaster", STRANGER, "a@x.test", "POSTmaster@ours.test", "250"),
        ("our postmaster from a refused sender", STRANGER, "a@spam.test", "postmaster", "250"),
        ("another's postmaster", STRANGER, "a@x.test", "postmaster@y.test", "550 5.7.1"),
        ("a %-hack at us", STRANGER, "a@x.test", "b%y.test@ours.test", "550 5.7.1"),
        ("a bang path at us", STRANGER, "a@x.test", "y.test!b@ours.test", "550 5.7.1"),
        ("a quoted hack", STRANGER, "a@x.test", "\"b@y.test\"@ours.test", "550 5.7.1"),
        ("a quoted %-hack", STRANGER, "a@x.test", "\"b%y.test\"@ours.test", "550 5.7.1"),
        ("a source route", STRANGER, "a@x.test", "@ours.test:b@y.test", "550 5.7.1"),
        ("a source route to us", STRANGER, "a@x.test", "@y.test:b@ours.test", "250"),
        ("a literal", STRANGER, "a@x.test", "b@[192.0.2.1]", "550 5.7.1"),
        ("a refused sender", STRANGER, "a@spam.test", "b@ours.test", "550 5.7.1"),
        ("pretending to be one of us", STRANGER, "a@ours.test", "b@y.test", "550 5.7.1"),
        ("inside to others", INSIDE, "a@x.test", "b@y.test", "250"),
        ("inside by IPv6", "2001:db8::7", "a@x.test", "b@y.test", "250"),
        ("outside by IPv6", "2001:db9::7", "a@x.test", "b@y.test", "550 5.7.1"),
        ("inside, %-hack", INSIDE, "a@x.test", "b%z.test@y.test", "553 5.1.3"),
        ("inside, refused recipient", INSIDE, "a@x.test", "b@refused.test", "550"),
        ("inside, refused sender", INSIDE, "a@spam.test", "b@y.test", "550 5.7.1"),
        ("the proxy itself may not relay", "127.0.0.1", "a@x.test", "b@y.test", "550 5.7.1"),
    ];
    for (name, peer, from, to, expected) in rows {
        let mut client = rig.client_from(peer);
        talk(&mut client, name, &[(&format!("MAIL FROM:<{from}>"), "250")]);
        let reply = client.ask(&format!("RCPT TO:<{to}>")).expect("the server answers");
        assert!(codes(&reply).starts_with(expected), "{name}: {}", reply.text);
    }
}

/// A version 2 header for TCP over IPv4.
fn proxy_v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[0x20 | command, 0x11, 0, 12]);
    header.extend_from_slice(&source);
    header.extend_from_slice(&[127, 0, 0, 1, 0x10, 0xe1, 0, 25]);
    header
}

#[test]
fn proxy_headers_are_accepted_or_refused() {
    let rig = Rig::start(&Plan::of("proxy_from = [\"127.0.0.1\"]", RELAY));
    let mut wrong_version = proxy_v2(1, [10, 1, 2, 3]);
    wrong_version[12] = 0x31;
    let mut unix = proxy_v2(1, [10, 1, 2, 3]);
    unix[13] = 0x31;
    let mut huge = proxy_v2(1, [10, 1, 2, 3]);
    huge[14] = 0xff;
    // The first reply, and the code for a recipient elsewhere.
    let rows: [(&str, &[u8], &str, &str); 15] = [
        ("v1 inside", b"PROXY TCP4 10.1.2.3 127.0.0.1 4321 25\r\n", "220", "250"),
        ("v1 outside", b"PROXY TCP4 203.0.113.9 127.0.0.1 4321 25\r\n", "220", "550 5.7.1"),
        ("v1 mapped", b"PROXY TCP6 ::ffff:10.1.2.3 ::1 4321 25\r\n", "220", "250"),
        ("v1 unknown", b"PROXY UNKNOWN\r\n", "220", "550 5.7.1"),
        ("v2 inside", &proxy_v2(1, [10, 1, 2, 3]), "220", "250"),
        ("v2 outside", &proxy_v2(1, [203, 0, 113, 9]), "220", "550 5.7.1"),
        ("v2 local", &proxy_v2(0, [10, 1, 2, 3]), "220", "550 5.7.1"),
        ("missing", b"EHLO client.test\r\n", "421 4.7.0", ""),
        ("v1 words", b"PROXY TCP4 10.1.2.3\r\n", "421 4.7.0", ""),
        ("v1 address", b"PROXY TCP4 10.1.2.300 127.0.0.1 1 2\r\n", "421 4.7.0", ""),
        ("v1 port", b"PROXY TCP4 10.1.2.3 127.0.0.1 +1 2\r\n", "421 4.7.0", ""),
        ("v1 endless", &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(), "421 4.7.0", ""),
        ("v2 version", &wrong_version, "421 4.7.0", ""),
        ("v2 family", &unix, "421 4.7.0", ""),
        ("v2 length", &huge, "421 4.7.0", ""),
    ];
    for (name, header, first, recipient) in rows {
        for in_pieces in [false, true] {
            let mut client = rig.server.connect();
            let size = if in_pieces { 1 } else { header.len() };
            for piece in header.chunks(size) {
                // The server may refuse before the whole header is sent.
                if client.send(piece).is_err() {
                    break;
                }
            }
            let reply = client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert!(codes(&reply).starts_with(first), "{name}: {}", reply.text);
            if first != "220" {
                assert!(is_closed(&mut client), "{name}: stays open");
                continue;
            }
            let lines = [("EHLO c.test", "250"), ("MAIL FROM:<a@x.test>", "250")];
            talk(&mut client, name, &lines);
            let reply = client.ask("RCPT TO:<b@y.test>").expect("the server answers");
            assert!(codes(&reply).starts_with(recipient), "{name}: {}", reply.text);
        }
    }
}

/// The load balancer may relay. A client without an address in its header may not.
#[test]
fn a_client_without_an_address_in_the_header_may_not_relay() {
    let listener = "proxy_from = [\"127.0.0.1\"]\nxclient_from = [\"127.0.0.1\"]\n\
        line_ending = \"normalise\"\ntrusted_from = [\"127.0.0.1\"]";
    let relay = "[relay]\nnetworks = [\"127.0.0.0/8\"]\ndomains = [\"ours.test\"]\n";
    let rig = Rig::start(&Plan::of(listener, relay));
    let rows: [(&str, &[u8]); 4] = [
        ("v1 unknown", b"PROXY UNKNOWN\r\n"),
        ("v1 unknown with words", b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n"),
        ("v2 local", &proxy_v2(0, [127, 0, 0, 1])),
        ("v2 local of nobody", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ];
    for (name, header) in rows {
        let mut client = rig.server.connect();
        client.send(header).expect("the connection is open");
        assert_eq!(client.reply().expect("a greeting").code, 220, "{name}");
        let lines = [
            ("EHLO c.test", "250"),
            ("XCLIENT ADDR=127.0.0.1", "550 5.7.0"),
            ("MAIL FROM:<a@x.test>", "250"),
            ("RCPT TO:<b@y.test>", "550 5.7.1"),
            ("RCPT TO:<b@ours.test>", "250"),
        ];
        talk(&mut client, name, &lines);
        client.send(b"NOOP\n").expect("the connection is open");
        assert_eq!(
            codes(&client.reply().expect("the server answers")),
            "521 5.5.2",
            "{name}: strict"
        );
    }
    // A client with an address is judged by it.
    let mut client = rig.server.connect();
    client.send(b"PROXY TCP4 127.0.0.9 127.0.0.1 4321 25\r\n").expect("the connection is open");
    client.reply().expect("a greeting");
    talk(
        &mut client,
        "named",
        &[("EHLO c.test", "250"), ("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "250")],
    );
}

#[test]
fn a_proxy_header_from_an_untrusted_client_is_refused() {
    let rig = Rig::start(&Plan::of("proxy_from = [\"192.0.2.1\"]\ngreeting_delay = \"1s\"", RELAY));
    for header in
        [b"PROXY TCP4 10.1.2.3 127.0.0.1 4321 25\r\n".to_vec(), proxy_v2(1, [10, 1, 2, 3])]
    {
        let mut client = rig.server.connect();
        client.send(&header).expect("the connection is open");
        let reply = client.reply().expect("the server answers");
        assert_eq!(codes(&reply), "554 5.5.0", "input before the greeting: {}", reply.text);
        assert!(is_closed(&mut client));
        // After the greeting it is an unknown command.
        let mut client = rig.server.connect();
        client.reply().expect("a greeting");
        client.send(&header).expect("the connection is open");
        let reply = client.reply().expect("the server answers");
        assert!(matches!(reply.code, 500 | 521), "{}", reply.text);
    }
}

#[test]
fn xclient_requires_trust() {
    let rig = Rig::start(&Plan::of("xclient_from = [\"127.0.0.1\"]", RELAY));
    let mut client = rig.server.connect();
    client.reply().expect("a greeting");
    let reply = client.expect("EHLO c.test", 250);
    assert!(reply.text.contains("XCLIENT"), "{}", reply.text);
    let rows = [("10.1.2.3", "250"), (STRANGER, "550 5.7.1"), ("IPV6:2001:db8::1", "250")];
    for (peer, expected) in rows {
        let mut client = rig.client();
        let claim = format!("XCLIENT ADDR={peer} NAME=spike.test HELO=said.test");
        talk(&mut client, peer, &[(&claim, "220"), ("EHLO c.test", "250")]);
        talk(
            &mut client,
            peer,
            &[("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", expected)],
        );
    }
    // The Received field and the log contain the claimed values.
    let mut client = rig.client();
    let claim = "XCLIENT ADDR=10.1.2.3 PORT=4321 NAME=spike.test HELO=said.test";
    talk(&mut client, "trace", &[(claim, "220"), ("EHLO c.test", "250")]);
    let id =
        id_of(&client.submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers"));
    let (trace, _) = rig.cat(&id);
    assert!(trace.starts_with("Received: from said.test (spike.test [10.1.2.3])"), "{trace}");
    let line = rig.server.wait_for_log(&format!("\"id\":\"{id}\""));
    let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
    assert_eq!((&line["record"], &line["port"]), (&"accepted".into(), &4321.into()), "{line}");
    assert_eq!((&line["peer"], &line["helo"]), (&"10.1.2.3".into(), &"said.test".into()), "{line}");

    let closed = Rig::start(&Plan::of("xclient_from = [\"192.0.2.1\"]", RELAY));
    let mut client = closed.server.connect();
    client.reply().expect("a greeting");
    let reply = client.expect("EHLO c.test", 250);
    assert!(!reply.text.contains("XCLIENT"), "{}", reply.text);
    talk(&mut client, "untrusted", &[("XCLIENT ADDR=10.1.2.3", "550 5.7.0")]);
    talk(
        &mut client,
        "untrusted",
        &[("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "550 5.7.1")],
    );
}

const XCLIENT_THEN_TLS: &str = r#"
import smtplib, sys
s = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), local_hostname="own.test", timeout=30)
s.ehlo()
assert s.docmd("XCLIENT ADDR=10.1.2.3 NAME=spike.test HELO=said.test")[0] == 220
s.ehlo()
s.starttls()
s.ehlo()
s.sendmail("a@x.test", ["b@y.test"], b"Subject: x\r\n\r\ntext\r\n")
s.quit()
"#;

/// RFC 3207 s4.2: names that were claimed in plain text are forgotten. The address is that of the
/// connection, and stays.
#[test]
fn starttls_forgets_the_names_of_xclient() {
    let rig = Rig::start(&Plan::of("xclient_from = [\"127.0.0.1\"]", RELAY));
    let port = rig.address().port().to_string();
    run_well("python3", &["-c", XCLIENT_THEN_TLS, &port], b"");
    let line = rig.server.wait_for_log("\"record\":\"accepted\"");
    let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
    assert_eq!((&line["peer"], &line["helo"]), (&"10.1.2.3".into(), &"own.test".into()), "{line}");
    assert_eq!(line["protocol"], "ESMTPS", "{line}");
    let (trace, _) = rig.cat(line["id"].as_str().expect("an id"));
    assert!(trace.starts_with("Received: from own.test (unknown [10.1.2.3])"), "{trace}");
}

/// A network belongs to a tenant; XCLIENT makes the identity anew.
#[test]
fn mail_belongs_to_the_tenant_of_its_network() {
    let config = format!("{RELAY}[[network]]\ncidr = '10.1.0.0/16'\ntenant = 'acme'\n");
    let rig = Rig::start(&Plan::of("xclient_from = [\"127.0.0.1\"]", &config));
    let mut client = rig.client();
    for (peer, tenant) in
        [("10.1.2.3", Some("acme")), ("10.2.2.3", None), ("10.1.9.9", Some("acme"))]
    {
        let claim = format!("XCLIENT ADDR={peer}");
        talk(&mut client, peer, &[(&claim, "220"), ("EHLO c.test", "250")]);
        let header = b"Bcc: b@y.test\r\nX-Tenant: other\r\nX-Ringpost-Key: 1\r\nTo: c@y.test\r\n\r\ntext\r\n";
        let id = id_of(&client.submit("a@x.test", "b@y.test", header).expect("it answers"));
        let line = rig.server.wait_for_log(&format!("\"id\":\"{id}\""));
        let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
        assert_eq!(line["tenant"].as_str(), tenant, "{peer}: {line}");
        // A tenant submits mail; the other network passes it on.
        let (trace, body) = rig.cat(&id);
        let mail = format!("{trace}{}", String::from_utf8_lossy(&body));
        assert_eq!(mail.contains("Message-ID: <"), tenant.is_some(), "{peer}: {mail}");
        assert_eq!(mail.contains("Bcc:"), tenant.is_none(), "{peer}: {mail}");
        assert!(
            !mail.contains("X-Ringpost-") && mail.ends_with("To: c@y.test\r\n\r\ntext\r\n"),
            "{mail}"
        );
    }
}

/// The permissions of the load balancer do not apply to its clients.
#[test]
fn trust_depends_on_the_client_and_not_on_its_proxy() {
    let listener = "proxy_from = [\"127.0.0.1\"]\nxclient_from = [\"127.0.0.1\", \"10.0.0.0/8\"]\n\
        line_ending = \"normalise\"\ntrusted_from = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let rig = Rig::start(&Plan::of(listener, RELAY));
    let mut stranger = rig.client_from(STRANGER);
    let reply = stranger.ask("XCLIENT ADDR=10.1.2.3").expect("the server answers");
    assert_eq!(codes(&reply), "550 5.7.0", "{}", reply.text);
    stranger.send(b"NOOP\n").expect("the connection is open");
    assert_eq!(
        codes(&stranger.reply().expect("the server answers")),
        "521 5.5.2",
        "strict for others"
    );
    let mut inside = rig.client_from(INSIDE);
    inside.send(b"NOOP\n").expect("the connection is open");
    assert_eq!(
        inside.reply().expect("the server answers").code,
        250,
        "normalised for trusted clients"
    );
    let mut inside = rig.client_from(INSIDE);
    talk(&mut inside, "inside", &[("XCLIENT ADDR=203.0.113.9", "220")]);
}
