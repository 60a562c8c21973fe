//! Transfers against scripted peers, over a transport in memory.
//!
//! A script is a list of lines. `> ` is the next write in whole and `< ` what the next read gives,
//! with `|` for CRLF; `= end` is the end of the connection, `! end` a write that fails. A read where
//! the script has no `< ` finds a silent peer, and times out.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use super::*;
use crate::net::TlsFault;
use crate::net::Transport;
use crate::net::transfer::BodyUnreadable;
use crate::wire::smtp::client_envelope::MailRecipient;
use crate::wire::smtp::client_step::ClientConfig;
use crate::wire::smtp::client_step::TlsUse;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::BodyType;

#[derive(Clone, Debug, PartialEq)]
enum FakeFault {
    Ended,
    TimedOut,
    Broken,
    Tls(TlsFault),
}

impl From<TlsFault> for FakeFault {
    fn from(fault: TlsFault) -> FakeFault {
        FakeFault::Tls(fault)
    }
}

struct Fake {
    script: VecDeque<String>,
    /// Set by `set_deadline_in`.
    limit: Cell<Duration>,
    /// Parts of each vectored write.
    vectored: Vec<usize>,
}

impl Fake {
    fn take_write(&mut self, bytes: &[u8]) -> Result<(), FakeFault> {
        let written = String::from_utf8_lossy(bytes).replace("\r\n", "|");
        match self.script.pop_front().as_deref() {
            Some("! end") => Err(FakeFault::Broken),
            Some(line) => {
                let expected = line.strip_prefix("> ").expect("the script wants no write here");
                assert_eq!(written, expected);
                Ok(())
            }
            None => panic!("the script has ended, and this is written: {written}"),
        }
    }
}

impl Transport for Fake {
    type Fault = FakeFault;

    fn is_end(fault: &FakeFault) -> bool {
        *fault == FakeFault::Ended
    }

    async fn read(&mut self, pool: &ChunkPool, _: Option<Chunk>) -> Result<Chunk, FakeFault> {
        match self.script.front().and_then(|line| line.split_at_checked(2)) {
            Some(("< ", text)) => {
                let mut chunk = pool.try_take().expect("the pool is large enough");
                chunk.fill_from(text.replace('|', "\r\n").as_bytes());
                self.script.pop_front();
                Ok(chunk)
            }
            Some(("= ", _)) => Err(FakeFault::Ended),
            _ => Err(FakeFault::TimedOut),
        }
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), FakeFault>, Vec<u8>) {
        let written = self.take_write(&bytes);
        bytes.clear();
        (written, bytes)
    }
}

impl Peer for Fake {
    fn set_deadline_in(&self, limit: Duration) {
        self.limit.set(limit);
    }

    fn is_timeout(fault: &FakeFault) -> bool {
        *fault == FakeFault::TimedOut
    }

    fn has_unread(&self) -> bool {
        self.script.front().is_some_and(|line| line.starts_with("< "))
    }

    async fn may_read_again(&self, _: &FakeFault) -> bool {
        false
    }

    async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), FakeFault> {
        self.vectored.push(parts.len());
        self.take_write(&parts.concat())
    }
}

/// A body whose pieces may end with a fault.
struct Broken(VecDeque<&'static [u8]>);

impl BodySource for Broken {
    type Piece = &'static [u8];

    async fn next(&mut self) -> Option<Result<&'static [u8], BodyUnreadable>> {
        Some(self.0.pop_front().ok_or(BodyUnreadable))
    }
}

/// Nothing here ever waits.
fn run<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the fake transport never waits"),
    }
}

fn open(config: ClientConfig, script: &[&str]) -> Transfer<Fake> {
    let script = script.iter().map(|line| (*line).to_owned()).collect();
    let fake = Fake { script, limit: Cell::new(Duration::ZERO), vectored: Vec::new() };
    let client = Client::new(Arc::new(config), false);
    let pool = Rc::new(ChunkPool::new(4));
    Transfer::new(Channel::plain(fake), client, pool, ClientTimeouts::default())
}

fn config() -> ClientConfig {
    ClientConfig {
        ehlo_name: "us.test".into(),
        lmtp: false,
        pipelining: true,
        chunking: true,
        chunk_ahead_bytes_max: 0,
        tls: TlsUse::Never,
    }
}

const A: MailRecipient = MailRecipient { mailbox: "a@x.test", notify: 0, orcpt: None };
const B: MailRecipient = MailRecipient { mailbox: "b@x.test", notify: 0, orcpt: None };

fn mail<'a>(recipients: &'a [MailRecipient<'a>], bytes: usize) -> Mail<'a> {
    Mail {
        sender: None,
        recipients,
        bytes: bytes as u64,
        body: BodyType::SevenBit,
        smtputf8: false,
        requiretls: false,
        ret: None,
        envid: None,
    }
}

async fn no_tls(_: &mut Channel<Fake>, _: &ChunkPool) -> Result<(), FakeFault> {
    panic!("TLS was not asked for")
}

const HELLO: [&str; 3] = ["< 220 mx|", "> EHLO us.test|", "< 250-mx|250 PIPELINING|"];
const GROUP: &str = "> MAIL FROM:<>|RCPT TO:<a@x.test>|DATA|";

/// Sends one mail to A behind the usual start; checks that the script was used up.
fn send(config: ClientConfig, script: &[&str], body: &[&[u8]]) -> (Sent, Transfer<Fake>) {
    let mut transfer = open(config, script);
    run(transfer.handshake(no_tls)).expect("the handshake goes well");
    let bytes = body.iter().map(|piece| piece.len()).sum();
    let sent = run(transfer.send(&mail(&[A], bytes), &mut body.iter()));
    assert_eq!(transfer.pool.chunks_out(), 0, "no chunk is held");
    (sent, transfer)
}

fn ok() -> Outcome {
    Outcome::Accepted(Reply::plain(250, "kept"))
}

#[test]
fn a_short_mail_takes_two_writes() {
    let script = [
        &HELLO[..],
        &[
            GROUP,
            "< 250 ok|250 ",
            "< ok|354 go|",
            "> a|..b|.|",
            "< 250 kept|",
            "> QUIT|",
            "< 221 bye|",
        ],
    ]
    .concat();
    let (sent, transfer) = send(config(), &script, &[b"a\r\n", b".b\r\n"]);
    assert_eq!(sent, Sent { outcomes: vec![ok()], relayed_without_dsn: false });
    assert!(transfer.is_ready() && transfer.fault().is_none());
    run(transfer.quit());
}

#[test]
fn a_chunk_ahead_takes_one_write() {
    let ahead = ClientConfig { chunk_ahead_bytes_max: 100, ..config() };
    let script = [
        "< 220 mx|",
        "> EHLO us.test|",
        "< 250-mx|250-CHUNKING|250 PIPELINING|",
        "> MAIL FROM:<>|RCPT TO:<a@x.test>|BDAT 7 LAST|a|.b|",
        "< 250 ok|250 ok|250 kept|",
    ];
    let (sent, transfer) = send(ahead, &script, &[b"a\r\n", b".b\r\n"]);
    assert_eq!(sent.outcomes, [ok()]);
    assert!(transfer.is_ready());
}

#[test]
fn a_long_body_leaves_piece_by_piece() {
    let piece = [&[b'x'; 40_000][..], b"\r\n.y\r\n"].concat();
    let text = format!("{}|..y|", "x".repeat(40_000));
    let group = "> MAIL FROM:<>|RCPT TO:<a@x.test>|DATA|";
    let double = format!("> {text}{text}");
    let rest = format!("> {text}.|");
    let script =
        [&HELLO[..], &[group, "< 250 ok|250 ok|354 go|", &double, &rest, "< 250 kept|"]].concat();
    let (sent, transfer) = send(config(), &script, &[&piece, &piece, &piece]);
    assert_eq!(sent.outcomes, [ok()]);
    // What was gathered, and the second piece in three parts.
    assert_eq!(transfer.channel().stream().vectored, [4]);
}

#[test]
fn the_end_leaves_with_the_last_piece() {
    let piece = [b'x'; 70_000];
    let rest = format!("> {}|.|", "x".repeat(70_000));
    let script = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|", &rest, "< 250 kept|"]].concat();
    let (sent, transfer) = send(config(), &script, &[&piece]);
    assert_eq!(sent.outcomes, [ok()]);
    assert_eq!(transfer.channel().stream().vectored, [2]);
}

#[test]
fn a_piece_of_nothing_but_dots_is_gathered() {
    let piece = b".\r\n".repeat(30_000);
    let text = format!("> {}.|", "..|".repeat(30_000));
    let script = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|", &text, "< 250 kept|"]].concat();
    let (sent, transfer) = send(config(), &script, &[&piece]);
    assert_eq!(sent.outcomes, [ok()]);
    assert!(transfer.channel().stream().vectored.is_empty());
}

#[test]
fn a_lost_end_is_told_apart() {
    let late = Outcome::Lost { after_body: true };
    let early = Outcome::Lost { after_body: false };
    let refused = |stage, code, text| Outcome::Refused { stage, reply: Reply::plain(code, text) };
    let silence = |stage| Fault::TimedOut(stage);
    type Row<'a> = (&'a str, &'a [&'a str], Outcome, Fault);
    let rows: &[Row] = &[
        (
            "closed behind the end",
            &["< 250 ok|250 ok|354 go|", "> a|.|", "= end"],
            late.clone(),
            Fault::Ended,
        ),
        (
            "silent behind the end",
            &["< 250 ok|250 ok|354 go|", "> a|.|"],
            late,
            silence(Stage::End),
        ),
        (
            "the body breaks off",
            &["< 250 ok|250 ok|354 go|", "! end", "= end"],
            early.clone(),
            Fault::Ended,
        ),
        (
            "the body breaks off, with last words",
            &["< 250 ok|250 ok|354 go|", "! end", "< 552 big|"],
            refused(Stage::End, 552, "big"),
            Fault::BodyBroken,
        ),
        ("silent", &[], early.clone(), silence(Stage::Mail)),
        ("silent at RCPT", &["< 250 ok|"], early.clone(), silence(Stage::Rcpt)),
        ("silent at DATA", &["< 250 ok|250 ok|35"], early.clone(), silence(Stage::Data)),
        ("closed at DATA", &["< 250 ok|250 ok|", "= end"], early, Fault::Ended),
        (
            "421 ahead of the body",
            &["< 250 ok|250 ok|354 go|421 bye|"],
            refused(Stage::End, 421, "bye"),
            Fault::Refused { stage: Stage::End, reply: Reply::plain(421, "bye") },
        ),
    ];
    for (name, lines, outcome, fault) in rows {
        let script = [&HELLO[..], &[GROUP], *lines].concat();
        let (sent, mut transfer) = send(config(), &script, &[b"a\r\n"]);
        assert_eq!(sent.outcomes, std::slice::from_ref(outcome), "{name}");
        assert_eq!(transfer.fault(), Some(fault), "{name}");
        let again = run(transfer.send(&mail(&[A, B], 0), &mut [b""; 0].iter()));
        assert_eq!(again.outcomes, vec![Outcome::Lost { after_body: false }; 2], "{name}");
        run(transfer.quit());
    }
}

#[test]
fn a_body_cut_short_is_never_ended() {
    let lost = [Outcome::Lost { after_body: false }];
    let script = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|"]].concat();
    let start = || {
        let mut transfer = open(config(), &script);
        run(transfer.handshake(no_tls)).expect("the handshake goes well");
        transfer
    };
    let mut transfer = start();
    let mut unreadable = Broken([&b"a\r\n"[..]].into());
    assert_eq!(run(transfer.send(&mail(&[A], 6), &mut unreadable)).outcomes, lost);
    assert_eq!(transfer.fault(), Some(&Fault::BodyBroken));
    for bytes in [2, 4] {
        let mut transfer = start();
        let sent = run(transfer.send(&mail(&[A], bytes), &mut [b"a\r\n"].iter()));
        assert_eq!(sent.outcomes, lost, "{bytes} bytes were promised");
        assert_eq!(transfer.fault(), Some(&Fault::BodyBroken));
    }
}

/// A peer that accepts other line ends would find the end of the mail inside such a body, and
/// commands behind it.
#[test]
fn what_breaks_the_line_law_does_not_leave_by_data() {
    let rows: [(&str, &[&[u8]], &str); 7] = [
        ("bare LF", &[b"a\n.\nMAIL FROM:<>\r\n"], "bare <LF>"),
        ("bare CR", &[b"a\rb\r\n"], "bare <CR>"),
        ("CR.CR", &[b"a\r\n", b"\r.\rMAIL FROM:<>\r\n"], "bare <CR>"),
        ("a dot behind a CR of the piece before", &[b"a\r", b".\r\n"], "bare <CR>"),
        ("CR at the end", &[b"a\r\n", b"b\r"], "bare <CR>"),
        ("LF at the start", &[b"\na\r\n"], "bare <LF>"),
        ("NUL", &[b"a\r\n", b"\0\r\n"], "NUL byte"),
    ];
    for (name, body, cause) in rows {
        let script = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|"]].concat();
        let (sent, transfer) = send(config(), &script, body);
        let [Outcome::Local(reply)] = &sent.outcomes[..] else { panic!("{name}: {sent:?}") };
        assert_eq!((reply.code, reply.enhanced), (554, Some((5, 6, 3))), "{name}");
        assert!(reply.text.contains(cause), "{name}: {}", reply.text);
        assert_eq!(transfer.fault(), Some(&Fault::BodyBroken), "{name}: the end was not sent");
        // By BDAT it is sent unchanged.
        let ahead = ClientConfig { chunk_ahead_bytes_max: 100, ..config() };
        let whole = String::from_utf8(body.concat()).expect("ASCII").replace("\r\n", "|");
        let bytes = body.concat().len();
        let group = format!("> MAIL FROM:<>|RCPT TO:<a@x.test>|BDAT {bytes} LAST|{whole}");
        let offers = "< 250-mx|250-CHUNKING|250 PIPELINING|";
        let script = [HELLO[0], HELLO[1], offers, &group, "< 250 ok|250 ok|250 kept|"];
        let (sent, _) = send(ahead, &script, body);
        assert_eq!(sent.outcomes, [ok()], "{name} as a chunk");
    }
}

#[test]
fn a_line_end_may_lie_in_two_pieces() {
    let script =
        [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|", "> a|..b|.|", "< 250 kept|"]].concat();
    let (sent, _) = send(config(), &script, &[b"a\r", b"", b"\n.b\r", b"\n"]);
    assert_eq!(sent.outcomes, [ok()]);
}

/// Earlier pieces may be on the wire already.
#[test]
fn a_long_body_that_breaks_the_line_law_is_never_ended() {
    let piece = b"0123456789abcd\r\n".repeat(5_000);
    let text = format!("> {}", "0123456789abcd|".repeat(5_000));
    let script = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|", &text]].concat();
    let (sent, transfer) = send(config(), &script, &[&piece, b"a\nb\r\n"]);
    assert!(matches!(&sent.outcomes[..], [Outcome::Local(_)]), "{sent:?}");
    assert_eq!(transfer.fault(), Some(&Fault::BodyBroken));
}

#[test]
fn what_comes_unasked_ends_an_idle_connection() {
    let lost = [Outcome::Lost { after_body: false }];
    let first = [GROUP, "< 250 ok|250 ok|354 go|", "> a|.|"];
    for came in [&["< 250 kept|", "< 421 idle|"][..], &["< 250 kept|421 idle|"], &["< 250 kept|25"]]
    {
        let script = [&HELLO[..], &first, came].concat();
        let (sent, mut transfer) = send_keeping(&script);
        assert_eq!(sent.outcomes, [ok()]);
        let again = run(transfer.send(&mail(&[A], 3), &mut [b"a\r\n"].iter()));
        assert_eq!(again.outcomes, lost, "{came:?}");
        assert!(transfer.fault().is_some(), "{came:?}");
    }
}

#[test]
fn who_sends_at_once_hears_too_late_what_came_meanwhile() {
    let first = [GROUP, "< 250 ok|250 ok|354 go|", "> a|.|"];
    let at_once = |came: &[&str]| {
        let (_, mut transfer) = send_keeping(&[&HELLO[..], &first, came].concat());
        let mail = mail(&[A], 3);
        let sent = run(transfer.send_at_once(&mail, &mut [b"a\r\n"].iter()));
        (sent.outcomes, transfer)
    };
    let (outcomes, transfer) = at_once(&["< 250 kept|", GROUP, "< 421 idle|"]);
    let reply = Reply::plain(421, "idle");
    assert_eq!(outcomes, [Outcome::Refused { stage: Stage::Mail, reply }]);
    assert!(!transfer.is_ready());
    // What was read with the last reply is known without looking.
    for came in [&["< 250 kept|421 idle|"][..], &["< 250 kept|25"]] {
        let (outcomes, transfer) = at_once(came);
        assert_eq!(outcomes, [Outcome::Lost { after_body: false }], "{came:?}");
        assert!(transfer.fault().is_some(), "{came:?}");
    }
    let again = [GROUP, "< 250 ok|250 ok|354 go|", "> a|.|", "< 250 kept|"];
    let (outcomes, transfer) = at_once(&[&["< 250 kept|"], &again[..]].concat());
    assert_eq!(outcomes, [ok()]);
    assert!(transfer.is_ready());
}

/// As `send`, where a chunk may be held that came behind the end.
fn send_keeping(script: &[&str]) -> (Sent, Transfer<Fake>) {
    let mut transfer = open(config(), script);
    run(transfer.handshake(no_tls)).expect("the handshake goes well");
    let sent = run(transfer.send(&mail(&[A], 3), &mut [b"a\r\n"].iter()));
    (sent, transfer)
}

#[test]
fn a_write_that_fails_lets_the_peer_say_why() {
    let script = [&HELLO[..], &["! end", "< 421 idle|"]].concat();
    let (sent, transfer) = send(config(), &script, &[b"a\r\n"]);
    let reply = Reply::plain(421, "idle");
    assert_eq!(sent.outcomes, [Outcome::Refused { stage: Stage::Mail, reply }]);
    assert_eq!(transfer.transport_fault(), Some(&FakeFault::Broken));
    assert_eq!(transfer.channel().stream().limit.get(), LAST_WORDS);
}

#[test]
fn tls_is_started_between_two_ehlos() {
    let wanted = ClientConfig { tls: TlsUse::IfOffered, ..config() };
    let start = ["< 220 mx|", "> EHLO us.test|", "< 250-mx|250 STARTTLS|", "> STARTTLS|"];
    let go = [&start[..], &["< 220 go|", "> EHLO us.test|", "< 250 mx|"]].concat();
    let mut transfer = open(wanted.clone(), &go);
    let shaken = run(transfer.handshake(async |channel: &mut Channel<Fake>, _: &ChunkPool| {
        assert_eq!(channel.stream().limit.get(), ClientTimeouts::default().starttls);
        Ok(())
    }));
    assert_eq!(shaken, Ok(()));
    assert!(transfer.client().is_tls() && transfer.is_ready());

    let mut transfer = open(wanted.clone(), &[&start[..], &["< 220 go|"]].concat());
    let shaken = run(transfer
        .handshake(async |_: &mut Channel<Fake>, _: &ChunkPool| Err(TlsFault::Closed.into())));
    assert_eq!(shaken, Err(Fault::TlsFailed));
    assert_eq!(transfer.transport_fault(), Some(&FakeFault::Tls(TlsFault::Closed)));

    let mut transfer = open(wanted, &[&start[..], &["< 220 go|250 evil|"]].concat());
    assert_eq!(run(transfer.handshake(no_tls)), Err(Fault::InputBeforeTls));
}

#[test]
fn every_wait_has_the_time_of_its_stage() {
    let times = ClientTimeouts::default();
    let body = [GROUP, "< 250 ok|", "< 250 ok|", "< 354 go|", "> a|.|", "< 250 kept|"];
    let script = [&HELLO[..], &body].concat();
    let cut = |lines| &script[..lines];
    let rows = [
        (0, times.greeting),
        (2, times.ehlo),
        (4, times.mail),
        (5, times.rcpt),
        (6, times.data_init),
        (8, times.data_end),
    ];
    for (lines, limit) in rows {
        let mut transfer = open(config(), cut(lines));
        if run(transfer.handshake(no_tls)).is_ok() {
            run(transfer.send(&mail(&[A], 3), &mut [b"a\r\n"].iter()));
        }
        assert!(matches!(transfer.fault(), Some(Fault::TimedOut(_))), "{lines} lines");
        assert_eq!(transfer.channel().stream().limit.get(), limit, "{lines} lines");
    }
}

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Watch for Notes {
    fn on_write(&mut self) {
        self.0.borrow_mut().push("write".into());
    }

    fn on_reply(&mut self, stage: Stage) {
        self.0.borrow_mut().push(format!("{stage:?}"));
    }

    fn on_tls(&mut self) {
        self.0.borrow_mut().push("tls".into());
    }
}

#[test]
fn a_watch_is_told_of_each_write_and_reply() {
    let watched = |config: ClientConfig, script: &[&str]| {
        let notes = Notes::default();
        let mut transfer = open(config, script).watched_by(notes.clone());
        let shaken = run(transfer.handshake(async |_: &mut Channel<Fake>, _: &ChunkPool| Ok(())));
        assert_eq!(shaken, Ok(()));
        run(transfer.send(&mail(&[A], 3), &mut [b"a\r\n"].iter()));
        run(transfer.quit());
        notes.0.take().join(" ")
    };
    let start = "Greeting write Ehlo";
    let end = ["> QUIT|", "< 221 bye|"];
    let body = ["> a|.|", "< 250 kept|"];
    let together = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|35", "< 4 go|"], &body, &end].concat();
    let expected = format!("{start} write Mail Rcpt Data write End write Quit");
    assert_eq!(watched(config(), &together), expected);

    let lone = [
        &HELLO[..2],
        &["< 250 mx|", "> MAIL FROM:<>|", "< 250 ok|", "> RCPT TO:<a@x.test>|", "< 250 ok|"],
        &["> DATA|", "< 354 go|"],
        &body,
        &end,
    ]
    .concat();
    let expected = format!("{start} write Mail write Rcpt write Data write End write Quit");
    assert_eq!(watched(config(), &lone), expected);

    let early = [&HELLO[..], &[GROUP, "< 250 ok|250 ok|354 go|421 bye|"]].concat();
    assert_eq!(watched(config(), &early), format!("{start} write Mail Rcpt Data End"));

    let secure = ["< 220 mx|", "> EHLO us.test|", "< 250-mx|250 STARTTLS|", "> STARTTLS|"];
    let secure =
        [&secure[..], &["< 220 go|", "> EHLO us.test|", "< 250-mx|250 PIPELINING|", GROUP]];
    let secure = [&secure.concat()[..], &["< 550 no|550 no|503 no|"], &end].concat();
    let wanted = ClientConfig { tls: TlsUse::IfOffered, ..config() };
    let expected = format!("{start} write StartTls tls write Ehlo write Mail Rcpt Data write Quit");
    assert_eq!(watched(wanted, &secure), expected);
}
