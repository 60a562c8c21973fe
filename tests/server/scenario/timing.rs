//! Timeouts: slow clients, silent clients, early clients.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::is_closed;
use crate::support::Client;

const ENVELOPE: [&str; 3] = ["EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>"];

/// The input of a client before it falls silent, and the expected reply.
struct Silence {
    name: &'static str,
    listener: &'static str,
    timeout: &'static str,
    greeted: bool,
    says: &'static [&'static str],
    bytes: &'static [u8],
    hears: &'static str,
}

const SILENT: Silence = Silence {
    name: "",
    listener: "",
    timeout: "",
    greeted: true,
    says: &[],
    bytes: b"",
    hears: "421 4.4.2",
};

const SILENCES: &[Silence] = &[
    Silence { name: "greeting", timeout: "greeting", ..SILENT },
    Silence { name: "idle", timeout: "idle", says: &["EHLO c.test"], ..SILENT },
    Silence { name: "half a command", timeout: "idle", says: &["NOOP"], bytes: b"NO", ..SILENT },
    Silence { name: "command", timeout: "command", says: &ENVELOPE, ..SILENT },
    Silence {
        name: "body begin",
        timeout: "data_init",
        says: &[ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA"],
        ..SILENT
    },
    Silence {
        name: "body",
        timeout: "data_block",
        says: &[ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA"],
        bytes: b"half a line",
        ..SILENT
    },
    Silence {
        name: "chunk",
        timeout: "data_init",
        says: &ENVELOPE,
        bytes: b"BDAT 100 LAST\r\n",
        ..SILENT
    },
    Silence { name: "swallowed chunk", timeout: "data_block", bytes: b"BDAT 9\r\n1", ..SILENT },
    Silence {
        name: "PROXY header",
        listener: "proxy_from = [\"127.0.0.1\"]",
        timeout: "proxy_header",
        greeted: false,
        bytes: b"PROXY TCP4 ",
        ..SILENT
    },
    Silence {
        name: "implicit TLS",
        listener: "tls = \"implicit\"",
        timeout: "tls_handshake",
        greeted: false,
        bytes: b"\x16\x03\x01",
        hears: "",
        ..SILENT
    },
    Silence {
        name: "STARTTLS",
        timeout: "tls_handshake",
        says: &["EHLO c.test", "STARTTLS"],
        hears: "",
        ..SILENT
    },
];

#[test]
fn silent_clients_are_disconnected() {
    thread::scope(|scope| {
        for silence in SILENCES {
            scope.spawn(|| check_silence(silence));
        }
    });
}

fn check_silence(silence: &Silence) {
    let Silence { name, listener, timeout, greeted, says, bytes, hears } = *silence;
    let rig = Rig::start(&Plan::of(listener, &format!("[timeouts]\n{timeout} = \"1s\"\n")));
    // The server's timer starts between the last input and its reply.
    let mut began = Instant::now();
    let mut client = rig.server.connect();
    if greeted {
        assert_eq!(client.reply().expect("the server answers").code, 220, "{name}");
    }
    for line in says {
        began = Instant::now();
        let reply = client.ask(line).unwrap_or_else(|fault| panic!("{name}: {line}: {fault}"));
        assert!(matches!(reply.code, 220 | 250 | 354), "{name}: {}", reply.text);
    }
    client.send(bytes).expect("the connection is open");
    check_end(&mut client, name, hears);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(750), "{name}: after {took:?} already");
    assert!(took < Duration::from_secs(6), "{name}: only after {took:?}");
}

fn check_end(client: &mut Client, name: &str, hears: &str) {
    if !hears.is_empty() {
        let reply = client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(codes(&reply), hears, "{name}");
    }
    assert!(is_closed(client), "{name}: stays open");
}

/// A client that continues at about the time of its timeout; its last input completes a message.
struct Late {
    name: &'static str,
    listener: &'static str,
    timeout: &'static str,
    says: &'static [&'static str],
    /// Sent at once, and shortly before and after the timeout.
    early: &'static [u8],
    late: &'static [u8],
}

const WHOLE: &[u8] = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 3 LAST\r\nx\r\n";
const BODY: [&str; 4] = [ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA"];

const LATE: Late = Late { name: "", listener: "", timeout: "", says: &[], early: b"", late: WHOLE };

const LATES: &[Late] = &[
    Late { name: "greeting", timeout: "greeting", late: b"EHLO c.test\r\n", ..LATE },
    Late { name: "idle", timeout: "idle", says: &["EHLO c.test"], ..LATE },
    Late {
        name: "half a command",
        timeout: "command",
        says: &ENVELOPE,
        early: b"BDAT 3 LA",
        late: b"ST\r\nx\r\n",
        ..LATE
    },
    Late { name: "body begin", timeout: "data_init", says: &BODY, late: b"x\r\n.\r\n", ..LATE },
    Late {
        name: "body end",
        timeout: "data_block",
        says: &BODY,
        early: b"x\r\n",
        late: b".\r\n",
        ..LATE
    },
    Late {
        name: "end of the end",
        timeout: "data_block",
        says: &BODY,
        early: b"x\r\n.\r",
        late: b"\n",
        ..LATE
    },
    Late {
        name: "chunk begin",
        timeout: "data_init",
        says: &ENVELOPE,
        early: b"BDAT 3 LAST\r\n",
        late: b"x\r\n",
        ..LATE
    },
    Late {
        name: "chunk end",
        timeout: "data_block",
        says: &ENVELOPE,
        early: b"BDAT 3 LAST\r\nx\r",
        late: b"\n",
        ..LATE
    },
    Late {
        name: "PROXY header",
        listener: "proxy_from = [\"127.0.0.1\"]",
        timeout: "proxy_header",
        early: b"PROXY TCP4 203.0.113.1 203.0.113.2 ",
        late: b"40000 25\r\n",
        ..LATE
    },
];

/// The times at which clients continue. A deadline may fire up to 250 ms late.
const LATE_MS: [u64; 10] = [400, 980, 1000, 1020, 1060, 1100, 1150, 1200, 1250, 1900];

/// Either the client is in time and all its input counts, or it is disconnected and none does.
#[test]
fn late_input_counts_completely_or_not_at_all() {
    thread::scope(|scope| {
        for late in LATES {
            scope.spawn(|| check_late(late));
        }
    });
}

fn check_late(late: &Late) {
    let Late { name, listener, timeout, .. } = *late;
    let rig = Rig::start(&Plan::of(listener, &format!("[timeouts]\n{timeout} = \"1s\"\n")));
    let heard: Vec<bool> = thread::scope(|scope| {
        let client = |after_ms| {
            scope.spawn({
                let rig = &rig;
                move || is_late_heard(rig, late, after_ms)
            })
        };
        let clients: Vec<_> = LATE_MS.into_iter().map(client).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    assert!(heard[0], "{name}: early enough");
    assert!(!heard[LATE_MS.len() - 1], "{name}: far too late");
    let ends_whole = !matches!(name, "greeting" | "PROXY header");
    let heard = heard.into_iter().filter(|heard| *heard).count() as u64;
    assert_eq!(rig.messages(), if ends_whole { heard } else { 0 }, "{name}");
}

/// Whether the client's input was accepted, and the client was not disconnected.
fn is_late_heard(rig: &Rig, late: &Late, after_ms: u64) -> bool {
    let name = late.name;
    let mut client = rig.server.connect();
    if late.listener.is_empty() {
        assert_eq!(client.reply().expect("the server answers").code, 220, "{name}");
    }
    for line in late.says {
        let reply = client.ask(line).unwrap_or_else(|fault| panic!("{name}: {line}: {fault}"));
        assert!(matches!(reply.code, 250 | 354), "{name}: {}", reply.text);
    }
    client.send(late.early).expect("the connection is open");
    thread::sleep(Duration::from_millis(after_ms));
    // The connection may already be closed.
    let _ = client.send(late.late);
    let expected = if late.late == WHOLE { 3 } else { 1 };
    for heard in 0..expected {
        let reply = client.reply().unwrap_or_else(|fault| panic!("{name}, {after_ms}: {fault}"));
        if reply.code == 421 {
            assert_eq!((codes(&reply).as_str(), heard), ("421 4.4.2", 0), "{name}, {after_ms}");
            assert!(is_closed(&mut client), "{name}, {after_ms}: more is said");
            return false;
        }
        assert!(matches!(reply.code, 220 | 250), "{name}, {after_ms}: {}", reply.text);
    }
    true
}

/// One byte at a time does not keep a session open.
#[test]
fn a_slow_loris_is_disconnected() {
    let proxy = "proxy_from = [\"127.0.0.1\"]";
    let implicit = "tls = \"implicit\"";
    let rate = "[limits]\nmin_data_rate = 1000\nmin_data_rate_grace = \"1s\"\n";
    let rows: [(&str, &str, &str, &[&str], &str); 7] = [
        ("a command", "", "[timeouts]\nidle = \"1s\"\n", &["EHLO c.test"], "421 4.4.2"),
        ("a first command", "", "[timeouts]\ngreeting = \"1s\"\n", &[], "421 4.4.2"),
        ("a header", proxy, "[timeouts]\nproxy_header = \"1s\"\n", &[], "421 4.4.2"),
        ("a handshake", implicit, "[timeouts]\ntls_handshake = \"1s\"\n", &[], ""),
        ("a body", "", rate, &[ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA"], "421 4.4.2"),
        ("a chunk", "", rate, &[ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "BDAT"], "421 4.4.2"),
        ("a refused chunk", "", rate, &["BDAT"], "421 4.4.2"),
    ];
    thread::scope(|scope| {
        for row in rows {
            scope.spawn(move || check_loris(row));
        }
    });
}

fn check_loris((name, listener, rest, says, hears): (&str, &str, &str, &[&str], &str)) {
    let rig = Rig::start(&Plan::of(listener, rest));
    let mut client = rig.server.connect();
    if listener.is_empty() {
        client.reply().expect("a greeting");
    }
    for line in says {
        if *line == "BDAT" {
            client.send(b"BDAT 100000 LAST\r\n").expect("the connection is open");
        } else {
            client.ask(line).expect("the server answers");
        }
    }
    let drops: &[u8] = match name {
        "a header" => b"PROXY TCP4 203.0.113.1 203.0.113.2 40000 25      ",
        "a handshake" => &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        _ => &[b'x'; 64],
    };
    let began = Instant::now();
    for drop in drops.iter().cycle().take(200) {
        if client.send(&[*drop]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(40));
        let mut seen = [0; 1];
        client.stream.set_nonblocking(true).expect("a socket");
        let heard = client.stream.peek(&mut seen).is_ok();
        client.stream.set_nonblocking(false).expect("a socket");
        if heard {
            break;
        }
    }
    check_end(&mut client, name, hears);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{name}: only after {took:?}");
}

#[test]
fn early_talkers_are_refused() {
    let rig = Rig::start(&Plan { http: true, ..Plan::of("greeting_delay = \"1s\"", "") });
    for (name, words) in
        [("EHLO", &b"EHLO c.test\r\n"[..]), ("a byte", b"x"), ("HTTP", b"GET / HTTP/1.1\r\n\r\n")]
    {
        let mut client = rig.server.connect();
        client.send(words).expect("the connection is open");
        let reply = client.reply().expect("the server answers");
        assert_eq!(codes(&reply), "554 5.5.0", "{name}: {}", reply.text);
        assert!(is_closed(&mut client), "{name}");
    }
    rig.await_metric("ringpost_refusals_total{reason=\"early\"}", 3.0);
    let began = Instant::now();
    let mut client = rig.server.connect();
    assert_eq!(
        client.reply().expect("the server answers").code,
        220,
        "patient clients are greeted"
    );
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    client.expect("EHLO c.test", 250);
}
