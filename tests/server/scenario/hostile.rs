//! Garbage, floods and bugs: one session ends, and nothing else is affected.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::codes;
use crate::scenario::kit::is_closed;
use crate::support::Client;

#[test]
fn garbage_is_answered_and_the_session_closed() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    let megabyte = vec![b'x'; 1 << 20];
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let rows: [(&str, &[u8], &[&str], bool); 9] = [
        ("HTTP GET", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &["521"], true),
        (
            "HTTP POST",
            b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@x.test>\r\n",
            &["521"],
            true,
        ),
        ("a TLS handshake", &tls_hello, &["521 5.5.2"], true),
        ("an endless line", &megabyte, &["521 5.5.2"], true),
        ("a bare LF", b"\n", &["521 5.5.2"], true),
        ("NULs", b"\0\0\0\0\r\n", &["500 5.5.2"], false),
        ("high bytes", b"\xff\xfe\xfd\r\n", &["500"], false),
        ("an empty line", b"\r\n", &["500"], false),
        ("bare CRs", b"\r\r\r\r\n", &["500 5.5.2"], false),
    ];
    for (name, bytes, replies, closes) in rows {
        let mut client = rig.server.connect();
        client.reply().expect("a greeting");
        // The server may close before all input is sent.
        let _ = client.send(bytes);
        for expected in replies {
            let reply = client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert!(codes(&reply).starts_with(expected), "{name}: {}", reply.text);
            assert!(reply.text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{name}");
        }
        if closes {
            assert!(is_closed(&mut client), "{name}: stays open");
        } else {
            client.expect("NOOP", 250);
        }
    }
    assert_eq!(rig.metric("ringpost_session_panics_total"), 0.0);
}

/// Closing with unread input would cause a reset, which can overtake the reply: the peer would
/// retry instead of reading the reason.
#[test]
fn the_last_reply_arrives() {
    let rig = Rig::start(&Plan {
        rest: "[limits]\nerrors_per_session = 1\n".to_owned(),
        ..Plan::default()
    });
    let envelope = "EHLO c.test\r\n|MAIL FROM:<a@x.test>\r\n|RCPT TO:<b@y.test>\r\n|DATA\r\n";
    let rows = [
        ("an endless line", "", "", "521 5.5.2"),
        ("a body with a bare LF", envelope, "x\ny\r\n", "521 5.5.2"),
        ("too many errors", "NONSENSE\r\n", "NOOP\r\n", "421 4.7.0"),
    ];
    for (name, first, start, expected) in rows {
        let mut client = rig.server.connect();
        client.reply().expect("a greeting");
        for line in first.split('|').filter(|line| !line.is_empty()) {
            client.send(line.as_bytes()).expect("the connection is open");
            client.reply().expect("the server answers");
        }
        let flood = [start.as_bytes(), &vec![b'x'; 600_000]].concat();
        for piece in flood.chunks(60_000) {
            client
                .send(piece)
                .unwrap_or_else(|fault| panic!("{name}: cut off while sending: {fault}"));
            thread::sleep(Duration::from_millis(2));
        }
        let reply = client.reply().unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let found = codes(&reply);
        assert_eq!(found, expected, "{name}");
        let end = client.reply().expect_err("it closes");
        assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "{name}: the end is not clean");
    }
    // The server reads for a limited time.
    let mut client = rig.server.connect();
    client.reply().expect("a greeting");
    client.send(b"\n").expect("the connection is open");
    client.reply().expect("the server answers");
    let began = Instant::now();
    while client.send(&[b'x'; 10_000]).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "the server reads for ever");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The pieces of random sessions, including valid ones so that the sessions get far.
const PIECES: [&[u8]; 40] = [
    b"EHLO a.test\r\n",
    b"HELO a.test\r\n",
    b"LHLO a.test\r\n",
    b"MAIL FROM:<a@x.test>\r\n",
    b"MAIL FROM:<> BODY=BINARYMIME SMTPUTF8 SIZE=99 RET=HDRS ENVID=x+41\r\n",
    b"RCPT TO:<b@y.test>\r\n",
    b"RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y.test\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\ntext\r\n.\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"BDAT 5\r\nhello",
    b"BDAT 0 LAST\r\n",
    b"BDAT 9 LAST\r\n12345678\n",
    b"BDAT 18446744073709551615\r\n",
    b"BDAT 99999999999999999999999 LAST\r\n",
    b"BDAT 70000 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY \xc3\xbc\r\n",
    b"HELP\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x03\xff\xff",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
    b"PROXY TCP6 ::1 ::2 3 4\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00\x0a",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\xff\xff",
    b"XCLIENT ADDR=192.0.2.1 HELO=a+20b\r\n",
    b"XCLIENT NAME=[UNAVAILABLE] PORT=0\r\n",
    b"AUTH PLAIN AAAA\r\n",
    b"\0",
    b"\r",
    b"\n",
    b"\xff\xff\xff\xff",
    b"            ",
    b"GET / HTTP/1.1\r\n",
];

struct Random(u64);

impl Random {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}

/// One random session. All replies are read, so that neither side waits for ever.
fn harass(address: SocketAddr, random: &mut Random) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let mut sink = [0; 16384];
    if random.roll(2) == 0 {
        // Sometimes waits for the greeting.
        let _ = stream.read(&mut sink);
    }
    for _ in 0..random.roll(24) {
        let sent = match random.roll(8) {
            0 => {
                let noise: Vec<u8> =
                    (0..random.roll(3000)).map(|_| random.roll(256) as u8).collect();
                stream.write_all(&noise)
            }
            1 => {
                let piece = PIECES[random.roll(PIECES.len())];
                piece.iter().try_for_each(|byte| stream.write_all(&[*byte]))
            }
            2 => stream.write_all(&PIECES[random.roll(PIECES.len())].repeat(random.roll(300))),
            _ => {
                let group: Vec<u8> = (0..=random.roll(4))
                    .flat_map(|_| PIECES[random.roll(PIECES.len())].to_vec())
                    .collect();
                stream.write_all(&group)
            }
        };
        if sent.is_err() {
            break;
        }
        if random.roll(3) == 0 {
            let _ = stream.read(&mut sink);
        }
    }
    match random.roll(4) {
        // Closes at once, with a reset if input is unread.
        0 => {}
        // Otherwise ends its side first and reads the last replies.
        _ => {
            let _ = stream.shutdown(Shutdown::Write);
            while matches!(stream.read(&mut sink), Ok(1..)) {}
        }
    }
}

#[test]
fn ten_seconds_of_noise_change_nothing() {
    let listeners = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"lmtp\"\nxclient_from = [\"127.0.0.1\"]\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.1\"]\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\nline_ending = \"normalise\"\ntrusted_from = [\"127.0.0.1\"]\n";
    let log = "format = \"json\"\nlevel = \"error\"".to_owned();
    let rest = "[queue]\nsync = false\n".to_owned();
    let info = "format = \"json\"\nlevel = \"info\"".to_owned();
    let plan =
        Plan { listeners: listeners.to_owned(), log: info, http: true, rest, ..Plan::default() };
    let rig = Rig::start(&plan);
    rig.rewrite(&Plan { log, ..plan.clone() });
    rig.server.signal("HUP");
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = seed.as_nanos() as u64 | 1;
    println!("seed {seed}");
    let storm = |seconds: u64, salt: u64| {
        let end = Instant::now() + Duration::from_secs(seconds);
        thread::scope(|scope| {
            for worker in 0..6 {
                let addresses = &rig.server.smtp;
                scope.spawn(move || {
                    let mut random =
                        Random(seed.wrapping_mul(2 * worker + 3).wrapping_add(salt) | 1);
                    while Instant::now() < end {
                        harass(addresses[random.roll(addresses.len())], &mut random);
                    }
                });
            }
        });
    };
    storm(4, 0);
    let warm = rig.server.rss();
    storm(6, 77);
    let grown = rig.server.rss().saturating_sub(warm);
    let sessions = rig.metric("ringpost_connections_total");
    println!("{sessions} sessions, {} messages, {grown} bytes more", rig.messages());
    assert!(sessions > 500.0, "only {sessions} sessions");
    assert!(grown < 48 << 20, "memory grew by {grown} bytes (seed {seed})");
    assert_eq!(
        rig.metric("ringpost_session_panics_total"),
        0.0,
        "seed {seed}:\n{}",
        rig.server.log_text()
    );
    // All sessions have ended, and a real client is served.
    rig.await_metric("ringpost_connections_open", 0.0);
    let reply =
        rig.client().submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    assert_eq!(reply.code, 250);
    assert_eq!(rig.get("/health").0, 200);
}

/// The gate asks another thread: pipelined input waits for the answer, and replies keep their order.
#[test]
fn a_session_waits_for_the_answer_of_another_thread() {
    let points = "gate::ask=return;gate::answer=1*sleep(400)->1*return->off";
    let environment = vec![("FAILPOINTS", points.to_owned())];
    let rig = Rig::start(&Plan { environment, ..Plan::default() });
    let mut client = rig.client();
    let began = Instant::now();
    let group = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nRCPT TO:<c@y.test>\r\nDATA\r\n";
    client.send(group).expect("it is sent");
    for expected in ["250 2.1.0", "250 2.1.5", "550 5.7.1", "354"] {
        let reply = client.reply().expect("it answers");
        assert!(reply.text.starts_with(expected), "{expected}: {}", reply.text);
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "the answer took so long");
    client.send(b"Subject: x\r\n\r\ntext\r\n.\r\n").expect("it is sent");
    assert_eq!(client.reply().expect("it answers").code, 250);
}

/// A question without an answer: 451 by its deadline, for a client that stays, one that goes away, and
/// one that a drain finds there.
#[test]
fn a_session_does_not_wait_longer_than_the_deadline() {
    let points = "gate::ask=return;gate::answer=3*sleep(7000)->off";
    let environment = vec![("FAILPOINTS", points.to_owned())];
    let mut rig = Rig::start(&Plan { http: true, environment, ..Plan::default() });
    let ask = |client: &mut Client| {
        let group = b"RSET\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n";
        client.send(group).expect("it is sent");
        for _ in 0..2 {
            assert_eq!(client.reply().expect("it answers").code, 250);
        }
    };
    let (mut stays, mut goes) = (rig.client(), rig.client());
    ask(&mut stays);
    ask(&mut goes);
    drop(goes);
    let reply = stays.reply().expect("it answers");
    assert_eq!(codes(&reply), "451 4.3.0", "{}", reply.text);
    rig.await_metric("ringpost_connections_open", 1.0);
    ask(&mut stays);
    rig.server.signal("TERM");
    let reply = stays.reply().expect("it answers");
    assert_eq!(codes(&reply), "451 4.3.0", "{}", reply.text);
    let reply = stays.reply().expect("it says goodbye");
    assert_eq!(codes(&reply), "421 4.3.2", "{}", reply.text);
    assert!(rig.server.wait(Duration::from_secs(20)).success());
}

/// A bug in one session: 421 for that one, a count, and nothing for the others.
#[test]
fn a_bug_ends_only_its_session() {
    let environment = vec![("FAILPOINTS", "session::panic=1*panic(a bug of the test)".to_owned())];
    let rig = Rig::start(&Plan { http: true, environment, ..Plan::default() });
    let mut bystander = rig.server.connect();
    bystander.reply().expect("a greeting");
    let mut client = rig.server.connect();
    client.reply().expect("a greeting");
    let reply = client.ask("VRFY bug").expect("the client gets a reply");
    assert_eq!(codes(&reply), "421 4.3.0", "{}", reply.text);
    assert!(is_closed(&mut client));
    bystander.expect("EHLO c.test", 250);
    let reply = bystander.submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    assert_eq!(reply.code, 250);
    rig.await_metric("ringpost_session_panics_total", 1.0);
    rig.await_metric("ringpost_connections_open", 1.0);
    rig.await_record("session_panicked");
    rig.client().expect("VRFY bug", 252);
}
