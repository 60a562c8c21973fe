//! The CRLF rule over sockets, and bodies that are stored unchanged.

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::id_of;
use crate::scenario::kit::is_closed;
use crate::scenario::kit::talk;
use crate::support::Client;
use crate::support::stuffed;

const ENVELOPE: [(&str, &str); 2] =
    [("MAIL FROM:<a@x.test>", "250"), ("RCPT TO:<b@y.test>", "250")];
const EVIL: &str = "MAIL FROM:<evil@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nevil\r\n.\r\n";

/// Sequences that some servers take for the end of a body and others do not.
const ENDS: [(&str, &str); 12] = [
    ("LF.LF", "\n.\n"),
    ("LF.CRLF", "\n.\r\n"),
    ("CRLF.LF", "\r\n.\n"),
    ("CR.CR", "\r.\r"),
    ("CR.CRLF", "\r.\r\n"),
    ("CR.LF", "\r.\n"),
    ("CRLF.CR", "\r\n.\r"),
    ("LF.CR", "\n.\r"),
    ("LF.CRCRLF", "\n.\r\r\n"),
    ("CRLF.CRCRLF", "\r\n.\r\r\n"),
    ("CRCRLF.CRLF", "\r\r\n.\r\n"),
    ("LFLF.CRLF", "\n\n.\r\n"),
];

fn begin_data(rig: &Rig) -> Client {
    let mut client = rig.client();
    talk(&mut client, "envelope", &ENVELOPE);
    talk(&mut client, "envelope", &[("DATA", "354")]);
    client
}

#[test]
fn smuggling_is_refused() {
    let rig = Rig::start(&Plan::default());
    for (name, end) in ENDS {
        for in_pieces in [false, true] {
            let mut client = begin_data(&rig);
            let stream = format!("text{end}{EVIL}");
            let size = if in_pieces { 1 } else { stream.len() };
            for piece in stream.as_bytes().chunks(size) {
                if client.send(piece).is_err() {
                    break;
                }
            }
            let reply = client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(codes(&reply), "521 5.5.2", "{name}: {}", reply.text);
            assert!(is_closed(&mut client), "{name}");
        }
    }
    assert_eq!(rig.messages(), 0);
    let rows = ["NOOP\n", "NOOP\nQUIT\r\n", "MAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\r\n"];
    for line in rows {
        let mut client = rig.client();
        client.send(line.as_bytes()).expect("the connection is open");
        assert_eq!(codes(&client.reply().expect("the server answers")), "521 5.5.2", "{line:?}");
        assert!(is_closed(&mut client), "{line:?}");
    }
}

#[test]
fn mail_of_trusted_old_software_is_normalised() {
    let listener = "line_ending = \"normalise\"\ntrusted_from = [\"10.0.0.0/8\"]\n\
        xclient_from = []\nproxy_from = [\"127.0.0.1\"]";
    let rig =
        Rig::start(&Plan::of(listener, "[relay]\nnetworks = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n"));
    let rows: [(&str, &[u8], &[u8]); 6] = [
        ("LF", b"a\nb\n\nc\r\n.\r\n", b"a\r\nb\r\n\r\nc\r\n"),
        ("CR", b"a\rb\r\n.\r\n", b"a\r\nb\r\n"),
        ("a dot line by LF stays text", b"a\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        ("LF.CRLF stays text", b"a\n.\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        ("dots by LF", b"a\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        ("all LF but the end", b"\n\n\n\r\n.\r\n", b"\r\n\r\n\r\n\r\n"),
    ];
    for (name, wire, kept) in rows {
        let mut client = rig.client_from("10.1.2.3");
        talk(&mut client, name, &ENVELOPE);
        talk(&mut client, name, &[("DATA", "354")]);
        client.send(wire).expect("the connection is open");
        let id = id_of(&client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}")));
        let (_, body) = rig.cat(&id);
        let bare = body.iter().enumerate().any(|(at, byte)| match byte {
            b'\n' => at == 0 || body[at - 1] != b'\r',
            b'\r' => body.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        assert!(!bare, "{name}: {}", body.escape_ascii());
        // Whether a lone dot between bare line ends stays a dot is the server's choice.
        let without_dots: Vec<u8> = body.iter().copied().filter(|byte| *byte != b'.').collect();
        let wanted: Vec<u8> = kept.iter().copied().filter(|byte| *byte != b'.').collect();
        assert_eq!(
            without_dots.escape_ascii().to_string(),
            wanted.escape_ascii().to_string(),
            "{name}"
        );
        talk(&mut client, name, &[("NOOP", "250")]);
    }
    // A large body, over several chunks.
    let mut client = rig.client_from("10.1.2.3");
    talk(&mut client, "large", &ENVELOPE);
    talk(&mut client, "large", &[("DATA", "354")]);
    client.send(&b"0123456789abcde\n".repeat(20_000)).expect("the connection is open");
    client.send(b"\r\n.\r\nNOOP\n").expect("the connection is open");
    let id = id_of(&client.reply().expect("the server answers"));
    assert_eq!(client.reply().expect("the pipelined command is read").code, 250);
    let mut wanted = b"0123456789abcde\r\n".repeat(20_000);
    wanted.extend_from_slice(b"\r\n");
    assert!(rig.cat(&id).1 == wanted, "the large body differs");
    // The CRLF rule still holds for other clients of the same listener.
    let mut client = rig.client_from("203.0.113.9");
    talk(&mut client, "stranger", &ENVELOPE);
    talk(&mut client, "stranger", &[("DATA", "354")]);
    client.send(b"a\nb\r\n.\r\n").expect("the connection is open");
    assert_eq!(codes(&client.reply().expect("the server answers")), "521 5.5.2");
}

/// Random bytes with many CR, LF, NUL and dots.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state >> 60 {
                0 => b'\r',
                1 => b'\n',
                2 => 0,
                3 => b'.',
                _ => (state >> 32) as u8,
            }
        })
        .collect()
}

/// Lines that need dot-stuffing, and lines that look as if they did.
fn dotted(seed: u64, length: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for byte in noise(seed, length) {
        match byte {
            b'\r' | b'\n' => body.extend_from_slice(b"\r\n"),
            b'\0' => body.push(b'0'),
            byte => body.push(byte),
        }
    }
    body.extend_from_slice(b"\r\n");
    body
}

#[test]
fn bodies_are_stored_unchanged() {
    let rig = Rig::start(&Plan::default());
    let edge = 65_536;
    let lengths = [
        0,
        1,
        2,
        3,
        100,
        4095,
        4096,
        edge - 3,
        edge - 2,
        edge - 1,
        edge,
        edge + 1,
        200_000,
        1_000_000,
    ];
    let mut client = rig.client();
    for (number, length) in lengths.into_iter().enumerate() {
        let body = dotted(number as u64 + 1, length);
        let id = id_of(&client.submit("a@x.test", "b@y.test", &body).expect("the server answers"));
        assert!(rig.cat(&id).1 == body, "a body of {length} by DATA differs");
        let body = noise(number as u64 + 100, length);
        let lines =
            [("MAIL FROM:<a@x.test> BODY=BINARYMIME", "250"), ("RCPT TO:<b@y.test>", "250")];
        talk(&mut client, "binary", &lines);
        client.send(format!("BDAT {length} LAST\r\n").as_bytes()).expect("the connection is open");
        client.send(&body).expect("the connection is open");
        let id = id_of(&client.reply().expect("the server answers"));
        assert!(rig.cat(&id).1 == body, "a body of {length} by BDAT differs");
        let show = rig.queue_json(&["show", &id]);
        assert_eq!(show["body_bytes"], length as u64);
        assert_eq!(show["body_type"], "BINARYMIME");
    }
}

#[test]
fn chunks_may_be_split_anywhere() {
    let rig = Rig::start(&Plan::default());
    let body = noise(7, 1500);
    let mut wire = b"MAIL FROM:<a@x.test> BODY=BINARYMIME\r\nRCPT TO:<b@y.test>\r\n".to_vec();
    let mut at = 0;
    let mut chunks = 0;
    for size in [0, 1, 2, 700, 0, 3, 500, 294].into_iter().chain([0]) {
        let last = if at + size == body.len() && chunks == 8 { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {size}{last}\r\n").as_bytes());
        wire.extend_from_slice(&body[at..at + size]);
        at += size;
        chunks += 1;
    }
    wire.extend_from_slice(b"NOOP\r\n");
    for size in [1, 7, 64, wire.len()] {
        let mut client = rig.client();
        wire.chunks(size).for_each(|piece| client.send(piece).expect("the connection is open"));
        for _ in 0..2 + chunks - 1 {
            assert_eq!(client.reply().expect("the server answers").code, 250, "split at {size}");
        }
        let id = id_of(&client.reply().expect("the server answers"));
        assert_eq!(client.reply().expect("NOOP is heard").code, 250);
        assert!(rig.cat(&id).1 == body, "split at {size} the body differs");
    }
    // By DATA, byte by byte, with a pipelined command.
    let body = dotted(9, 1500);
    for size in [1, 3, 5] {
        let mut client = begin_data(&rig);
        let wire = [stuffed(&body), b"NOOP\r\n".to_vec()].concat();
        wire.chunks(size).for_each(|piece| client.send(piece).expect("the connection is open"));
        let id = id_of(&client.reply().expect("the server answers"));
        assert_eq!(client.reply().expect("NOOP is heard").code, 250);
        assert!(rig.cat(&id).1 == body, "split at {size} the body differs");
    }
}

/// The start of the command arrives alone, so that the rest is split between two buffers.
#[test]
fn a_refused_chunk_after_half_a_command_is_swallowed() {
    let rig = Rig::start(&Plan::default());
    for length in [1, 9_000, 40_000, 60_000] {
        let mut client = rig.client();
        client.send(b"BD").expect("the connection is open");
        std::thread::sleep(std::time::Duration::from_millis(30));
        let rest = [format!("AT {length}\r\n").into_bytes(), vec![b'x'; length]].concat();
        client.send(&[&rest[..], b"NOOP\r\n"].concat()).expect("the connection is open");
        assert_eq!(client.reply().expect("the server answers").code, 503, "{length} bytes");
        assert_eq!(client.reply().expect("NOOP is heard").code, 250, "{length} bytes");
    }
}

#[test]
fn the_received_field_has_all_parts() {
    let listeners = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"lmtp\"\n\
        [[listener]]\naddress = \"[::1]:0\"\n";
    let rig = Rig::start(&Plan { listeners: listeners.to_owned(), ..Plan::default() });
    let one: &[&str] = &["b@y.test"];
    let two: &[&str] = &["b@y.test", "c@y.test"];
    let rows = [
        ("HELO", 0, "HELO c.test", "", one, "with SMTP"),
        ("EHLO", 0, "EHLO c.test", "", one, "with ESMTP"),
        ("two", 0, "EHLO c.test", "", two, "with ESMTP"),
        ("UTF-8", 0, "EHLO c.test", " SMTPUTF8", one, "with UTF8SMTP"),
        ("LMTP", 1, "LHLO c.test", "", one, "with LMTP"),
        ("UTF-8 LMTP", 1, "LHLO c.test", " SMTPUTF8", one, "with UTF8LMTP"),
        ("IPv6", 2, "EHLO c.test", "", one, "[IPv6:::1]"),
        ("a literal", 0, "EHLO [192.0.2.7]", "", one, "from [192.0.2.7]"),
    ];
    for (name, listener, hello, more, to, expected) in rows {
        let mut client = Client::connect(rig.server.smtp[listener]).expect("the peer listens");
        client.reply().expect("a greeting");
        talk(&mut client, name, &[(hello, "250"), (&format!("MAIL FROM:<a@x.test>{more}"), "250")]);
        to.iter()
            .for_each(|to| drop(talk(&mut client, name, &[(&format!("RCPT TO:<{to}>"), "250")])));
        talk(&mut client, name, &[("DATA", "354")]);
        client.send(b"text\r\n.\r\n").expect("the connection is open");
        let id = id_of(&client.reply().expect("the server answers"));
        let (trace, body) = rig.cat(&id);
        assert_eq!(body, b"text\r\n", "{name}");
        let flat = trace.replace("\r\n", " ").replace('\t', " ");
        let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(expected), "{name}: {flat}");
        assert!(flat.contains(" by mx.ringpost.test "), "{name}: {flat}");
        assert!(flat.contains(&format!(" id {id}")), "{name}: {flat}");
        assert_eq!(flat.contains(" for <b@y.test>"), to.len() == 1, "{name}: {flat}");
        assert!(!flat.contains("c@y.test"), "{name}: a recipient is disclosed to another: {flat}");
        assert!(flat.contains("127.0.0.1") || listener == 2, "{name}: {flat}");
        let date = flat.rsplit_once("; ").map(|(_, date)| date).expect("a date");
        let parsed = jiff::fmt::rfc2822::parse(date);
        assert!(parsed.is_ok(), "{name}: {date}: {parsed:?}");
        assert!(trace.lines().all(|line| line.len() <= 78), "{name}: {trace}");
    }
}
