//! The client against scripted peers: every stage, every failure, every split.

use proptest::prelude::*;

use super::*;
use crate::wire::dsn::NOTIFY_DELAY;
use crate::wire::dsn::NOTIFY_FAILURE;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::dsn::NOTIFY_SUCCESS;
use crate::wire::smtp::client_envelope::MailRecipient;
use crate::wire::smtp::client_reply::ReplyFault;
use crate::wire::smtp::client_step::BodyForm;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::stuff::Stuffer;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

const BODY: &[u8] = b"Subject: x\r\n\r\n.dot\r\nend\r\n";
/// Instead of a reply: the peer ends the connection.
const CLOSE: &str = "close";
const ALL: &str = "250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
    250-CHUNKING\r\n250-BINARYMIME\r\n250 SIZE 1000";
const PIPELINING: &str = "250-mx\r\n250-PIPELINING\r\n250 SIZE";
const PLAIN: &str = "250 mx";

type Rule<'a> = (&'a str, &'a str);

enum Mode {
    Commands,
    Dot,
    Counted(usize),
}

/// A peer that answers by the first rule whose prefix fits, and else is friendly.
struct Peer<'a> {
    rules: &'a [Rule<'a>],
    mode: Mode,
    input: Vec<u8>,
    output: Vec<u8>,
    closed: bool,
    /// What each write held; `|` separates the lines.
    writes: Vec<String>,
}

impl<'a> Peer<'a> {
    fn new(rules: &'a [Rule<'a>]) -> Peer<'a> {
        let mut peer = Peer {
            rules,
            mode: Mode::Commands,
            input: Vec::new(),
            output: Vec::new(),
            closed: false,
            writes: Vec::new(),
        };
        peer.answer("greeting");
        peer
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "|");
        self.writes.push(text.trim_end_matches('|').to_owned());
        self.input.extend_from_slice(bytes);
        while !self.closed && self.turn() {}
    }

    /// Handles one command or body, if a complete one has arrived.
    fn turn(&mut self) -> bool {
        match self.mode {
            Mode::Counted(count) if self.input.len() < count => false,
            Mode::Counted(count) => {
                self.input.drain(..count);
                self.mode = Mode::Commands;
                self.answer("end");
                true
            }
            Mode::Dot => {
                let whole = [b"\r\n", &self.input[..]].concat();
                let Some(end) = whole.windows(5).position(|five| five == b"\r\n.\r\n") else {
                    return false;
                };
                self.input.drain(..end + 3);
                self.mode = Mode::Commands;
                self.answer("end");
                true
            }
            Mode::Commands => {
                let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") else {
                    return false;
                };
                let line = String::from_utf8(self.input.drain(..end + 2).collect());
                self.command(line.expect("commands are UTF-8").trim_end());
                true
            }
        }
    }

    fn command(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("BDAT ") {
            let count = count.strip_suffix(" LAST").expect("the body is one chunk");
            self.mode = Mode::Counted(count.parse().expect("a count"));
            return;
        }
        self.answer(line);
        if line == "DATA" && self.output.ends_with(b"354 go\r\n") {
            self.mode = Mode::Dot;
        }
    }

    fn answer(&mut self, line: &str) {
        let rule = self.rules.iter().find(|(prefix, _)| line.starts_with(prefix));
        let reply = match (rule, line) {
            (Some((_, reply)), _) => reply,
            (None, "greeting") => "220 mx",
            (None, "DATA") => "354 go",
            (None, "QUIT") => "221 bye",
            _ => "250 ok",
        };
        if reply != CLOSE {
            self.output.extend_from_slice(reply.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
        self.closed = self.closed || reply == CLOSE || reply.starts_with("421");
    }
}

/// The result of a session.
#[derive(Debug)]
struct Talk {
    writes: Vec<String>,
    /// For each mail, a word for each recipient.
    outcomes: Vec<String>,
    fault: Option<Fault>,
    without_dsn: bool,
}

fn config() -> ClientConfig {
    ClientConfig {
        ehlo_name: "us.test".into(),
        lmtp: false,
        pipelining: true,
        chunking: false,
        chunk_ahead_bytes_max: 0,
        tls: TlsUse::Never,
    }
}

fn to<'a>(mailbox: &'a str) -> MailRecipient<'a> {
    MailRecipient { mailbox, notify: 0, orcpt: None }
}

fn mail<'a>(recipients: &'a [MailRecipient<'a>]) -> Mail<'a> {
    Mail {
        sender: Some("s@us.test"),
        recipients,
        bytes: BODY.len() as u64,
        body: BodyType::SevenBit,
        smtputf8: false,
        requiretls: false,
        ret: None,
        envid: None,
    }
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(reply) => format!("ok{}", reply.code),
        Outcome::Refused { stage, reply } => format!("{stage:?}{}", reply.code),
        Outcome::Local(reply) => {
            let (class, subject, detail) =
                reply.enhanced.expect("our replies have an enhanced code");
            format!("local{class}.{subject}.{detail}")
        }
        Outcome::Lost { after_body: true } => "lost-late".into(),
        Outcome::Lost { after_body: false } => "lost".into(),
    }
}

/// Sends the mails one after the other. The client reads at most `step` bytes at a time.
fn talk(config: ClientConfig, rules: &[Rule], mails: &[Mail], step: usize) -> Talk {
    talk_as(Client::new(Arc::new(config), false), rules, mails, step)
}

fn talk_as(mut client: Client, rules: &[Rule], mails: &[Mail], step: usize) -> Talk {
    let mut peer = Peer::new(rules);
    let mut mails = mails.iter();
    let mut outcomes = Vec::new();
    let mut without_dsn = false;
    let mut out = Vec::new();
    let mut input: Vec<u8> = Vec::new();
    for _ in 0..100_000 {
        let taken = client.feed(&input);
        input.drain(..taken);
        let next = client.next(&mut out);
        match next {
            ClientStep::Read(stage) => {
                peer.write(&std::mem::take(&mut out));
                let count = peer.output.len().min(step);
                input.extend(peer.output.drain(..count));
                if input.is_empty() {
                    client.fail(if peer.closed { Fault::Ended } else { Fault::TimedOut(stage) });
                }
            }
            ClientStep::StartTls if input.is_empty() => client.on_tls(&mut out),
            ClientStep::StartTls => client.fail(Fault::InputBeforeTls),
            ClientStep::SendBody(_) if !input.is_empty() => {}
            ClientStep::SendBody(form) => {
                let mut bytes = std::mem::take(&mut out);
                if form == BodyForm::Dot {
                    let mut stuffer = Stuffer::new();
                    bytes.extend(stuffer.segments(BODY).flatten());
                    bytes.extend_from_slice(stuffer.end());
                } else {
                    bytes.extend_from_slice(BODY);
                }
                peer.write(&bytes);
                client.on_body_sent();
            }
            ClientStep::Done => {
                let words: Vec<String> = client.take_outcomes().iter().map(word).collect();
                outcomes.push(words.join(" "));
                without_dsn |= client.relayed_without_dsn();
            }
            ClientStep::Ready => {
                assert!(out.is_empty());
                // Unsolicited input is read before the connection is used again.
                input.append(&mut peer.output);
                if input.is_empty() {
                    match mails.next() {
                        Some(mail) => client.begin(mail),
                        None => client.quit(),
                    }
                }
            }
            ClientStep::Close => {
                let fault = client.fault().cloned();
                return Talk { writes: peer.writes, outcomes, fault, without_dsn };
            }
        }
    }
    panic!("the client makes no progress");
}

fn check(name: &str, config: &ClientConfig, rules: &[Rule], writes: &[&str], outcome: &str) {
    let recipients = [to("a@x.test"), to("b@x.test")];
    for step in [1, 3, 10_000] {
        let talk = talk(config.clone(), rules, &[mail(&recipients)], step);
        assert_eq!(talk.outcomes, [outcome], "{name}: {talk:?}");
        let body = "Subject: x||..dot|end|.";
        let chunk = "Subject: x||.dot|end";
        let short: Vec<String> = talk.writes[1..]
            .iter()
            .map(|write| write.replace(body, "BODY").replace(chunk, "CHUNK"))
            .map(|write| write.replace("MAIL FROM:<s@us.test>", "MAIL"))
            .map(|write| write.replace("RCPT TO:<a@x.test>", "A"))
            .map(|write| write.replace("RCPT TO:<b@x.test>", "B"))
            .collect();
        assert_eq!(short, writes, "{name}");
    }
}

#[test]
fn commands_are_grouped_by_the_offers() {
    let one_by_one = ClientConfig { pipelining: false, ..config() };
    let chunks = ClientConfig { chunking: true, ..config() };
    let ahead = ClientConfig { chunk_ahead_bytes_max: 1000, ..chunks.clone() };
    let too_short = ClientConfig { chunk_ahead_bytes_max: 5, ..chunks.clone() };
    let slow_chunks = ClientConfig { pipelining: false, ..ahead.clone() };
    let single = ["MAIL", "A", "B", "DATA", "BODY", "QUIT"];
    let rows: [(&str, &ClientConfig, &str, &[&str]); 8] = [
        ("nothing offered", &config(), PLAIN, &single),
        (
            "pipelining unwanted",
            &one_by_one,
            PIPELINING,
            &["MAIL SIZE=25", "A", "B", "DATA", "BODY", "QUIT"],
        ),
        ("pipelining", &config(), PIPELINING, &["MAIL SIZE=25|A|B|DATA", "BODY", "QUIT"]),
        ("chunking unwanted", &config(), ALL, &["MAIL SIZE=25|A|B|DATA", "BODY", "QUIT"]),
        ("chunks", &chunks, ALL, &["MAIL SIZE=25|A|B", "BDAT 25 LAST|CHUNK", "QUIT"]),
        (
            "too large to go ahead",
            &too_short,
            ALL,
            &["MAIL SIZE=25|A|B", "BDAT 25 LAST|CHUNK", "QUIT"],
        ),
        ("chunk ahead", &ahead, ALL, &["MAIL SIZE=25|A|B|BDAT 25 LAST|CHUNK", "QUIT"]),
        (
            "chunks one by one",
            &slow_chunks,
            ALL,
            &["MAIL SIZE=25", "A", "B", "BDAT 25 LAST|CHUNK", "QUIT"],
        ),
    ];
    for (name, config, ehlo, writes) in rows {
        check(name, config, &[("EHLO", ehlo)], writes, "ok250 ok250");
    }
}

#[test]
fn refusals_settle_the_recipients_concerned() {
    let chunks = ClientConfig { chunking: true, ..config() };
    let ahead = ClientConfig { chunk_ahead_bytes_max: 1000, ..chunks.clone() };
    let group = "MAIL SIZE=25|A|B|DATA";
    let all: [Rule; 2] = [("RCPT TO:<a", "550 no"), ("RCPT TO:<b", "450 later")];
    type Row<'a> = (&'a str, &'a ClientConfig, &'a str, &'a [Rule<'a>], &'a [&'a str], &'a str);
    let rows: &[Row] = &[
        ("one", &config(), PIPELINING, &all[..1], &[group, "BODY", "QUIT"], "Rcpt550 ok250"),
        (
            "one, plain",
            &config(),
            PLAIN,
            &all[1..],
            &["MAIL", "A", "B", "DATA", "BODY", "QUIT"],
            "ok250 Rcpt450",
        ),
        ("all, plain", &config(), PLAIN, &all, &["MAIL", "A", "B", "QUIT"], "Rcpt550 Rcpt450"),
        ("all, 354", &config(), PIPELINING, &all, &[group, ".", "QUIT"], "Rcpt550 Rcpt450"),
        ("all, chunk", &chunks, ALL, &all, &["MAIL SIZE=25|A|B", "QUIT"], "Rcpt550 Rcpt450"),
        (
            "all, ahead",
            &ahead,
            ALL,
            &[all[0], all[1], ("end", "503 nobody")],
            &["MAIL SIZE=25|A|B|BDAT 25 LAST|CHUNK", "QUIT"],
            "Rcpt550 Rcpt450",
        ),
        (
            "all, DATA too",
            &config(),
            PIPELINING,
            &[all[0], all[1], ("DATA", "503 no")],
            &[group, "QUIT"],
            "Rcpt550 Rcpt450",
        ),
        (
            "MAIL",
            &config(),
            PIPELINING,
            &[("MAIL", "553 no"), ("RCPT", "503 no"), ("DATA", "503 no")],
            &[group, "QUIT"],
            "Mail553 Mail553",
        ),
        (
            "MAIL, plain",
            &config(),
            PLAIN,
            &[("MAIL", "553 no")],
            &["MAIL", "QUIT"],
            "Mail553 Mail553",
        ),
        (
            "MAIL, and the peer goes on",
            &config(),
            PIPELINING,
            &[("MAIL", "553 no")],
            &[group, ".", "QUIT"],
            "Mail553 Mail553",
        ),
        (
            "DATA",
            &config(),
            PIPELINING,
            &[all[0], ("DATA", "451 no")],
            &[group, "QUIT"],
            "Rcpt550 Data451",
        ),
        (
            "body",
            &config(),
            PIPELINING,
            &[all[0], ("end", "552 no")],
            &[group, "BODY", "QUIT"],
            "Rcpt550 End552",
        ),
        (
            "chunk",
            &ahead,
            ALL,
            &[all[0], ("end", "552 no")],
            &["MAIL SIZE=25|A|B|BDAT 25 LAST|CHUNK", "QUIT"],
            "Rcpt550 End552",
        ),
        (
            "too many",
            &config(),
            PIPELINING,
            &[("RCPT TO:<b", "552 too many")],
            &[group, "BODY", "QUIT"],
            "ok250 Rcpt452",
        ),
        (
            "full",
            &config(),
            PIPELINING,
            &[("RCPT TO:<b", "552 5.2.2 full")],
            &[group, "BODY", "QUIT"],
            "ok250 Rcpt552",
        ),
        (
            "521 for one",
            &config(),
            PIPELINING,
            &[("RCPT TO:<b", "521 5.2.1 no")],
            &[group, "BODY", "QUIT"],
            "ok250 Rcpt521",
        ),
    ];
    for (name, config, ehlo, rules, writes, outcome) in rows {
        let rules = [&[("EHLO", *ehlo)], *rules].concat();
        check(name, config, &rules, writes, outcome);
    }
}

#[test]
fn every_stage_survives_every_failure() {
    let chunks = ClientConfig { chunking: true, ..config() };
    let ahead = ClientConfig { chunk_ahead_bytes_max: 1000, ..chunks.clone() };
    let forms = [(config(), PLAIN), (config(), PIPELINING), (chunks, ALL), (ahead.clone(), ALL)];
    let ends = [
        ("421 4.3.2 bye", "421"),
        ("421-4.3.2 bye\r\n421 4.3.2 bye", "421"),
        (CLOSE, "lost"),
        ("HTTP/1.1 400 Bad Request", "lost"),
        ("\u{0}\u{1}\u{2}", "lost"),
        ("250", "250"),
        ("199 what", "lost"),
        ("354 what", "354"),
    ];
    let stages = [
        ("MAIL", "Mail"),
        ("RCPT TO:<a", "Rcpt"),
        ("RCPT TO:<b", "Rcpt"),
        ("DATA", "Data"),
        ("end", "End"),
    ];
    let recipients = [to("a@x.test"), to("b@x.test")];
    for (config, ehlo) in &forms {
        for (prefix, stage) in stages {
            if prefix == "DATA" && config.chunking {
                continue;
            }
            for (reply, kind) in ends {
                let all_is_sent = prefix == "end" || config.chunk_ahead_bytes_max > 0;
                let lost = if all_is_sent { "lost-late" } else { "lost" };
                let expected = match (kind, prefix) {
                    ("421", _) => format!("{stage}421"),
                    ("250", "DATA") | ("354", "MAIL" | "RCPT TO:<a" | "RCPT TO:<b" | "end") => {
                        lost.into()
                    }
                    ("250", _) | ("354", _) => "ok250".into(),
                    _ => lost.into(),
                };
                for step in [1, 2, 10_000] {
                    let rules = [("EHLO", *ehlo), (prefix, reply)];
                    // A 354 with another text does not make the peer expect a body.
                    if kind == "354" && prefix == "DATA" {
                        continue;
                    }
                    let talk = talk(config.clone(), &rules, &[mail(&recipients)], step);
                    let name = format!("{reply:?} at {prefix}, {ehlo:?}, {step}: {talk:?}");
                    assert_eq!(talk.outcomes, [format!("{expected} {expected}")], "{name}");
                    assert_eq!(talk.fault.is_none(), expected == "ok250", "{name}");
                }
            }
        }
    }
}

#[test]
fn known_outcomes_are_kept() {
    let rules = [("EHLO", PIPELINING), ("RCPT TO:<a", "550 no"), ("end", CLOSE)];
    let recipients = [to("a@x.test"), to("b@x.test")];
    let talk = talk(config(), &rules, &[mail(&recipients)], 7);
    assert_eq!(talk.outcomes, ["Rcpt550 lost-late"]);
    assert_eq!(talk.fault, Some(Fault::Ended));
}

#[test]
fn a_failed_session_has_a_fault() {
    let always = ClientConfig { tls: TlsUse::Always, ..config() };
    let wanted = ClientConfig { tls: TlsUse::IfOffered, ..config() };
    let lmtp = ClientConfig { lmtp: true, ..config() };
    let tls = "250-mx\r\n250 STARTTLS";
    let refused = |stage, code, text: &'static str| {
        Some(Fault::Refused { stage, reply: Reply::plain(code, text) })
    };
    type Row<'a> = (&'a str, &'a ClientConfig, &'a [Rule<'a>], Option<Fault>);
    let rows: &[Row] = &[
        ("fine", &config(), &[], None),
        ("554", &config(), &[("greeting", "554 no")], refused(Stage::Greeting, 554, "no")),
        ("421", &config(), &[("greeting", "421 no")], refused(Stage::Greeting, 421, "no")),
        ("no greeting", &config(), &[("greeting", CLOSE)], Some(Fault::Ended)),
        ("a long greeting", &config(), &[("greeting", "220-a\r\n220-b\r\n220 c")], None),
        (
            "garbage",
            &config(),
            &[("greeting", "SSH-2.0")],
            Some(Fault::BadReply(ReplyFault::NotAReply)),
        ),
        ("HELO", &config(), &[("EHLO", "502 what")], None),
        (
            "HELO refused",
            &config(),
            &[("EHLO", "502 what"), ("HELO", "550 no")],
            refused(Stage::Ehlo, 550, "no"),
        ),
        ("EHLO delayed", &config(), &[("EHLO", "450 no")], refused(Stage::Ehlo, 450, "no")),
        ("no HELO in LMTP", &lmtp, &[("LHLO", "502 no")], refused(Stage::Ehlo, 502, "no")),
        (
            "no HELO if TLS is a must",
            &always,
            &[("EHLO", "502 no")],
            refused(Stage::Ehlo, 502, "no"),
        ),
        ("no TLS", &always, &[], Some(Fault::TlsNotOffered)),
        ("no TLS, no matter", &wanted, &[], None),
        ("TLS", &always, &[("EHLO", tls), ("STARTTLS", "220 go")], None),
        (
            "TLS refused",
            &always,
            &[("EHLO", tls), ("STARTTLS", "454 no")],
            Some(Fault::TlsRefused(Reply::plain(454, "no"))),
        ),
        ("TLS refused, no matter", &wanted, &[("EHLO", tls), ("STARTTLS", "454 no")], None),
        (
            "input ahead of TLS",
            &wanted,
            &[("EHLO", tls), ("STARTTLS", "220 go\r\n250 evil")],
            Some(Fault::InputBeforeTls),
        ),
    ];
    for (name, config, rules, fault) in rows {
        // One byte at a time, no input has arrived yet before the handshake.
        for step in [2000, 3, 1] {
            if name.starts_with("input") && step < 2000 {
                continue;
            }
            let talk = talk((*config).clone(), rules, &[], step);
            assert_eq!(talk.fault, *fault, "{name}, {step}: {talk:?}");
        }
    }
}

#[test]
fn tls_is_followed_by_another_ehlo() {
    let wanted = ClientConfig { tls: TlsUse::IfOffered, ..config() };
    let rules = [("EHLO", "250-mx\r\n250 STARTTLS"), ("STARTTLS", "220 go")];
    let talk = talk(wanted, &rules, &[], 100);
    assert_eq!(talk.writes, ["EHLO us.test", "STARTTLS", "EHLO us.test", "QUIT"]);
}

#[test]
fn authentication_requires_tls() {
    let both = "250-mx\r\n250-STARTTLS\r\n250 AUTH LOGIN PLAIN";
    let login = "250-mx\r\n250-STARTTLS\r\n250 AUTH LOGIN";
    let plain = "250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN";
    let neither = "250-mx\r\n250-STARTTLS\r\n250 AUTH GSSAPI";
    let go = ("STARTTLS", "220 go");
    let user = ("dXM=", "334 UGFzc3dvcmQ6");
    let refused = |code| Some(Fault::LoginRefused(Reply::plain(code, "no")));
    type Row<'a> = (&'a str, &'a [Rule<'a>], &'a [&'a str], Option<Fault>);
    let rows: &[Row] = &[
        (
            "PLAIN",
            &[("EHLO", both), go, ("AUTH", "235 ok")],
            &["AUTH PLAIN AHVzAHNlY3JldA=="],
            None,
        ),
        (
            "LOGIN",
            &[("EHLO", login), go, ("AUTH", "334 VXNlcm5hbWU6"), user, ("c2Vj", "235 ok")],
            &["AUTH LOGIN", "dXM=", "c2VjcmV0"],
            None,
        ),
        (
            "refused",
            &[("EHLO", both), go, ("AUTH", "535 no")],
            &["AUTH PLAIN AHVzAHNlY3JldA=="],
            refused(535),
        ),
        (
            "PLAIN is not known after all",
            &[
                ("EHLO", both),
                go,
                ("AUTH PLAIN", "504 5.5.4 unknown"),
                ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
                user,
                ("c2Vj", "235 ok"),
            ],
            &["AUTH PLAIN AHVzAHNlY3JldA==", "AUTH LOGIN", "dXM=", "c2VjcmV0"],
            None,
        ),
        (
            "PLAIN is not known, LOGIN is refused",
            &[("EHLO", both), go, ("AUTH PLAIN", "504 no"), ("AUTH LOGIN", "535 no")],
            &["AUTH PLAIN AHVzAHNlY3JldA==", "AUTH LOGIN"],
            refused(535),
        ),
        (
            "neither is known",
            &[("EHLO", both), go, ("AUTH", "504 no")],
            &["AUTH PLAIN AHVzAHNlY3JldA==", "AUTH LOGIN"],
            refused(504),
        ),
        (
            "PLAIN is all there is",
            &[("EHLO", plain), go, ("AUTH", "504 no")],
            &["AUTH PLAIN AHVzAHNlY3JldA=="],
            refused(504),
        ),
        (
            "user refused",
            &[("EHLO", login), go, ("AUTH", "334 "), ("dXM=", "454 no")],
            &["AUTH LOGIN", "dXM="],
            refused(454),
        ),
        ("not offered", &[("EHLO", neither), go], &[], Some(Fault::LoginNotOffered)),
        (
            "more is asked",
            &[("EHLO", both), go, ("AUTH", "334 more")],
            &["AUTH PLAIN AHVzAHNlY3JldA=="],
            Some(Fault::Unexpected { stage: Stage::Auth, reply: Reply::plain(334, "more") }),
        ),
        (
            "taken too early",
            &[("EHLO", login), go, ("AUTH", "235 ok")],
            &["AUTH LOGIN"],
            Some(Fault::Unexpected { stage: Stage::Auth, reply: Reply::plain(235, "ok") }),
        ),
        (
            "421",
            &[("EHLO", both), go, ("AUTH", "421 no")],
            &["AUTH PLAIN AHVzAHNlY3JldA=="],
            Some(Fault::Refused { stage: Stage::Auth, reply: Reply::plain(421, "no") }),
        ),
    ];
    for (name, rules, says, fault) in rows {
        for tls in [TlsUse::Always, TlsUse::IfOffered] {
            let client = logging_in(tls, "secret");
            let talk = talk_as(client, rules, &[], 3);
            assert_eq!(talk.fault, *fault, "{name}: {talk:?}");
            let expected = [&["EHLO us.test", "STARTTLS", "EHLO us.test"], *says].concat();
            let said: Vec<_> = talk.writes.iter().filter(|write| *write != "QUIT").collect();
            assert_eq!(said, expected, "{name}");
        }
    }
}

#[test]
fn a_password_is_never_sent_in_clear_text() {
    let open = "250-mx\r\n250 AUTH PLAIN LOGIN";
    let tls = "250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN";
    let rows: [(&str, &[Rule], Fault); 3] = [
        ("no TLS", &[("EHLO", open)], Fault::TlsNotOffered),
        (
            "TLS refused",
            &[("EHLO", tls), ("STARTTLS", "454 no")],
            Fault::TlsRefused(Reply::plain(454, "no")),
        ),
        (
            "no EHLO",
            &[("EHLO", "502 no")],
            Fault::Refused { stage: Stage::Ehlo, reply: Reply::plain(502, "no") },
        ),
    ];
    for (name, rules, fault) in rows {
        for tls in [TlsUse::Never, TlsUse::IfOffered, TlsUse::Always] {
            let recipients = [to("a@x.test")];
            let talk = talk_as(logging_in(tls, "secret"), rules, &[mail(&recipients)], 100);
            assert_eq!(talk.fault.as_ref(), Some(&fault), "{name}, {tls:?}");
            let said = talk.writes.concat();
            assert!(!said.contains("AUTH") && !said.contains("MAIL"), "{name}: {said}");
        }
    }
}

#[test]
fn the_text_of_a_reply_is_part_of_the_fault() {
    let reply = |code| Reply {
        code,
        enhanced: Some((5, 7, 1)),
        text: "listed by x.test\nsee there".into(),
    };
    for (fault, code) in [
        (Fault::Refused { stage: Stage::Greeting, reply: reply(554) }, "554"),
        (Fault::Unexpected { stage: Stage::Mail, reply: reply(354) }, "354"),
        (Fault::TlsRefused(reply(554)), "554"),
        (Fault::LoginRefused(reply(535)), "535"),
    ] {
        let words = format!("{code}-5.7.1 listed by x.test / {code} 5.7.1 see there");
        assert!(fault.to_string().ends_with(&words), "{fault}");
    }
}

#[test]
fn a_long_response_waits_for_its_challenge() {
    let offers = "250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN";
    let rules =
        [("EHLO", offers), ("STARTTLS", "220 go"), ("AUTH PLAIN", "334 "), ("AHVzAHh4", "235 ok")];
    let talk = talk_as(logging_in(TlsUse::Always, &"x".repeat(1024)), &rules, &[], 100);
    assert_eq!(talk.fault, None);
    assert_eq!(talk.writes[3], "AUTH PLAIN");
    assert_eq!(talk.writes[4].len(), (1024_usize + 4).div_ceil(3) * 4);
}

fn logging_in(tls: TlsUse, password: &str) -> Client {
    let login = Login { user: "us".into(), password: password.into() };
    Client::new(Arc::new(ClientConfig { tls, ..config() }), false).with_login(login)
}

#[test]
fn a_connection_is_reused() {
    let (a, b, c) = ([to("a@x.test")], [to("b@x.test")], [to("c@x.test")]);
    let mails = [mail(&a), mail(&b), mail(&c)];
    let run = |ehlo, refused| {
        let rules: [Rule; 3] = [("EHLO", ehlo), ("RCPT TO:<b", refused), ("MAIL X", "")];
        talk(config(), &rules, &mails, 10_000)
    };
    let talk = run(PIPELINING, "550 no");
    assert_eq!(talk.outcomes, ["ok250", "Rcpt550", "ok250"]);
    let mails = talk.writes.iter().filter(|write| write.contains("MAIL"));
    let starts: Vec<&str> =
        mails.map(|write| write.split(" FROM").next().expect("a part")).collect();
    assert_eq!(starts, ["MAIL", "MAIL", "MAIL"], "an accepted empty mail needs no RSET");
    let talk = run(PLAIN, "550 no");
    assert_eq!(talk.outcomes, ["ok250", "Rcpt550", "ok250"]);
    assert_eq!(talk.writes.iter().filter(|write| *write == "RSET").count(), 1, "{talk:?}");
    let again = run(PIPELINING, "421 bye");
    assert_eq!(again.outcomes, ["ok250", "Rcpt421"]);
    let rules = [("EHLO", PIPELINING), ("DATA", "451 no")];
    let talk = super::tests::talk(config(), &rules, &[mail(&a), mail(&b)], 5);
    assert_eq!(talk.writes[2], "RSET|MAIL FROM:<s@us.test> SIZE=25|RCPT TO:<b@x.test>|DATA");
}

#[test]
fn unsolicited_replies_end_the_connection() {
    let a = [to("a@x.test")];
    let rows: [(&str, &str, &str, &[&str], Fault); 6] = [
        ("behind the end", "end", "250 ok\r\n250 ok", &["ok250"], Fault::Unasked),
        ("half a reply", "end", "250 ok\r\n250-x", &["ok250"], Fault::Unasked),
        ("behind EHLO", "EHLO", "250 mx\r\n250 ok", &[], Fault::Unasked),
        ("ahead of the body", "DATA", "354 go\r\n250 ok", &["lost"], Fault::Unasked),
        ("half of one", "DATA", "354 go\r\n552-x", &["lost"], Fault::Unasked),
        ("a refusal ahead of the body", "DATA", "354 go\r\n552 no", &["End552"], Fault::BodyBroken),
    ];
    for (name, prefix, reply, outcomes, fault) in rows {
        let talk = talk(config(), &[(prefix, reply)], &[mail(&a), mail(&a)], 10_000);
        assert_eq!(talk.outcomes, outcomes, "{name}: {talk:?}");
        assert_eq!(talk.fault, Some(fault), "{name}");
    }
    let idle = talk(config(), &[("end", "250 ok\r\n421 idle")], &[mail(&a), mail(&a)], 10_000);
    assert_eq!(idle.outcomes, ["ok250"]);
    assert!(matches!(idle.fault, Some(Fault::Refused { reply: Reply { code: 421, .. }, .. })));
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let lmtp = ClientConfig { lmtp: true, chunking: true, chunk_ahead_bytes_max: 1000, ..config() };
    let recipients = [to("a@x.test"), to("b@x.test"), to("c@x.test")];
    type Row<'a> = (&'a str, &'a str, &'a [Rule<'a>], &'a str, bool);
    let rows: &[Row] = &[
        ("all", PIPELINING, &[("end", "250 a\r\n250 b\r\n250 c")], "ok250 ok250 ok250", true),
        (
            "mixed",
            PIPELINING,
            &[("RCPT TO:<b", "550 no"), ("end", "450 a\r\n250 c")],
            "End450 Rcpt550 ok250",
            true,
        ),
        (
            "chunks",
            ALL,
            &[("RCPT TO:<a", "550 no"), ("end", "552 b\r\n250 c")],
            "Rcpt550 End552 ok250",
            true,
        ),
        (
            "nobody, DATA",
            PIPELINING,
            &[("RCPT", "550 no"), ("DATA", "503 no")],
            "Rcpt550 Rcpt550 Rcpt550",
            true,
        ),
        ("nobody, 354", PIPELINING, &[("RCPT", "550 no")], "Rcpt550 Rcpt550 Rcpt550", false),
        ("nobody, chunks", ALL, &[("RCPT", "550 no")], "Rcpt550 Rcpt550 Rcpt550", true),
        ("421 amid", PIPELINING, &[("end", "250 a\r\n421 b")], "ok250 End421 End421", false),
        ("silence amid", PIPELINING, &[("end", "250 a\r\n450 b")], "ok250 End450 lost-late", false),
    ];
    for (name, lhlo, rules, outcome, in_order) in rows {
        let rules = [&[("LHLO", *lhlo)], *rules].concat();
        for step in [1, 10_000] {
            let talk = talk(lmtp.clone(), &rules, &[mail(&recipients)], step);
            assert_eq!(talk.outcomes, [*outcome], "{name}: {talk:?}");
            assert_eq!(talk.fault.is_none(), *in_order, "{name}: {talk:?}");
        }
    }
}

#[test]
fn missing_extensions_fail_locally() {
    let chunks = ClientConfig { chunking: true, ..config() };
    let plain = [to("a@x.test")];
    let utf8 = [to("\u{e4}@x.test")];
    let base = mail(&plain);
    let bits = Mail { body: BodyType::EightBitMime, ..base };
    let binary = Mail { body: BodyType::BinaryMime, ..base };
    let header = Mail { smtputf8: true, ..base };
    let sender = Mail { sender: Some("\u{e4}@us.test"), smtputf8: true, ..base };
    let recipient = Mail { smtputf8: true, ..mail(&utf8) };
    let unflagged = mail(&utf8);
    let large = Mail { bytes: 1001, ..base };
    let secret = Mail { requiretls: true, ..base };
    let evil = [to("a@x.test>\r\nRCPT TO:<b@x.test")];
    let smtputf8 = "250-mx\r\n250 SMTPUTF8";
    let only_binary = "250-mx\r\n250 BINARYMIME";
    let rows: [(&str, &ClientConfig, &str, Mail, &str); 21] = [
        ("8 bits", &config(), PLAIN, bits, "local5.6.3"),
        ("8 bits, offered", &config(), ALL, bits, "ok250"),
        ("binary", &chunks, PLAIN, binary, "local5.6.3"),
        ("binary, no chunks", &chunks, only_binary, binary, "local5.6.3"),
        ("binary, chunks unwanted", &config(), ALL, binary, "local5.6.3"),
        ("binary, offered", &chunks, ALL, binary, "ok250"),
        ("UTF-8 header", &config(), PLAIN, header, "local5.6.9"),
        ("UTF-8 header, offered", &config(), smtputf8, header, "ok250"),
        ("UTF-8 sender", &config(), PLAIN, sender, "local5.6.7"),
        ("UTF-8 sender, offered", &config(), smtputf8, sender, "ok250"),
        ("UTF-8 recipient", &config(), PLAIN, recipient, "local5.6.7"),
        ("UTF-8 recipient, offered", &config(), smtputf8, recipient, "ok250"),
        ("unflagged", &config(), PLAIN, unflagged, "local5.6.7"),
        ("unflagged, offered", &config(), smtputf8, unflagged, "ok250"),
        ("too large", &config(), ALL, large, "local5.3.4"),
        ("no bound", &config(), PIPELINING, large, "ok250"),
        ("a bound of 0", &config(), "250-mx\r\n250 SIZE 0", large, "ok250"),
        ("REQUIRETLS", &config(), PLAIN, secret, "local5.7.30"),
        ("REQUIRETLS without TLS", &config(), "250-mx\r\n250 REQUIRETLS", secret, "local5.7.30"),
        ("a forged command", &config(), PLAIN, mail(&evil), "local5.1.3"),
        (
            "a forged sender",
            &config(),
            PLAIN,
            Mail { sender: Some("a\r\nb"), ..base },
            "local5.1.7",
        ),
    ];
    for (name, config, ehlo, mail, outcome) in rows {
        let talk = talk(config.clone(), &[("EHLO", ehlo)], &[mail, base], 10_000);
        assert_eq!(talk.outcomes, [outcome, "ok250"], "{name}: {talk:?}");
        assert!(talk.fault.is_none(), "{name}: the connection stays usable");
        let mails = talk.writes.iter().filter(|write| write.starts_with("MAIL")).count();
        assert_eq!(mails, if outcome == "ok250" { 2 } else { 1 }, "{name}: nothing was sent");
    }
}

#[test]
fn an_unusable_recipient_fails_alone() {
    let recipients = [to("\u{e4}@x.test"), to("a@x.test"), to(""), to("b@x.test")];
    let rules = [("EHLO", PIPELINING), ("RCPT TO:<a", "550 no")];
    let talk = talk(config(), &rules, &[mail(&recipients)], 10_000);
    assert_eq!(talk.outcomes, ["local5.6.7 Rcpt550 local5.1.3 ok250"]);
}

#[test]
fn parameters_follow_the_offers() {
    let tls = ClientConfig { tls: TlsUse::Always, ..config() };
    let recipients = [
        MailRecipient { mailbox: "a@x.test", notify: NOTIFY_NEVER, orcpt: Some("rfc822;a+2B@x") },
        MailRecipient {
            mailbox: "\u{e4}@x.test",
            notify: NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY,
            orcpt: Some("utf-8;\u{e4}@x"),
        },
    ];
    let full = Mail {
        sender: None,
        body: BodyType::EightBitMime,
        smtputf8: true,
        requiretls: true,
        ret: Some(Ret::Headers),
        envid: Some("q+2B1"),
        ..mail(&recipients)
    };
    let ehlo =
        format!("{ALL}\r\n").replace("250 SIZE 1000", "250-SIZE\r\n250-REQUIRETLS\r\n250 STARTTLS");
    let rules = [("EHLO", ehlo.trim_end()), ("STARTTLS", "220 go")];
    let all = talk(tls, &rules, &[full], 10_000);
    let expected = "MAIL FROM:<> SIZE=25 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=q+2B1|\
        RCPT TO:<a@x.test> NOTIFY=NEVER ORCPT=rfc822;a+2B@x|\
        RCPT TO:<\u{e4}@x.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=utf-8;\u{e4}@x|DATA";
    assert_eq!(all.writes[3], expected);
    assert!(!all.without_dsn);
    let bare = Mail { ret: Some(Ret::Full), ..mail(&recipients[..1]) };
    let without = talk(config(), &[("EHLO", PLAIN)], &[bare], 10_000);
    assert_eq!(without.writes[1..3], ["MAIL FROM:<s@us.test>", "RCPT TO:<a@x.test>"]);
    assert!(without.without_dsn);
    let none = talk(config(), &[("EHLO", PLAIN)], &[mail(&[to("a@x.test")])], 10_000);
    assert!(!none.without_dsn, "no DSN parameter was requested");
}

#[test]
fn an_aborted_body_is_not_taken_for_sent() {
    let rows = [
        ("552 too large\r\n", "End552"),
        ("421 bye\r\n", "End421"),
        ("250 ok\r\n", "lost"),
        ("", "lost"),
    ];
    for (reply, expected) in rows {
        let mut client = Client::new(Arc::new(config()), false);
        let mut out = Vec::new();
        for reply in ["220 mx\r\n", "250 mx\r\n"] {
            assert_eq!(client.feed(reply.as_bytes()), reply.len());
            client.next(&mut out);
        }
        client.begin(&mail(&[to("a@x.test")]));
        for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"] {
            client.next(&mut out);
            assert_eq!(client.feed(reply.as_bytes()), reply.len());
        }
        assert_eq!(client.next(&mut out), ClientStep::SendBody(BodyForm::Dot));
        client.on_body_broken();
        assert_eq!(client.next(&mut out), ClientStep::Read(Stage::End));
        client.feed(reply.as_bytes());
        if reply.is_empty() {
            client.fail(Fault::Ended);
        }
        assert_eq!(client.next(&mut out), ClientStep::Done, "{reply:?}");
        let words: Vec<String> = client.take_outcomes().iter().map(word).collect();
        assert_eq!(words, [expected], "{reply:?}");
        assert_eq!(client.next(&mut out), ClientStep::Close);
    }
}

/// Replies of a peer at any stage.
const SAYINGS: [&str; 16] = [
    "250 ok",
    "250 ok",
    "250-a\r\n250 b",
    "250",
    "250 PIPELINING",
    ALL,
    PIPELINING,
    "354 go",
    "220 go",
    "421 bye",
    "450 no",
    "550-5.1.1 no\r\n550 5.1.1 really",
    "552 5.5.3 many",
    CLOSE,
    "\u{fffd}",
    "",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Every mail ends with an outcome for each recipient, and none is accepted without a reply of
    /// the peer that says so.
    #[test]
    fn no_peer_confuses_the_client(
        flags in 0..32_u8,
        ehlo in 0..3_usize,
        changed in prop::collection::vec((0..10_usize, 0..SAYINGS.len()), 0..3),
        step in 1..40_usize,
    ) {
        let stages = ["greeting", "EHLO", "LHLO", "HELO", "RSET", "MAIL", "RCPT TO:<a", "RCPT", "DATA", "end"];
        let config = ClientConfig {
            lmtp: flags & 1 != 0,
            pipelining: flags & 2 != 0,
            chunking: flags & 4 != 0,
            chunk_ahead_bytes_max: if flags & 8 != 0 { 1000 } else { 0 },
            tls: if flags & 16 != 0 { TlsUse::IfOffered } else { TlsUse::Never },
            ..config()
        };
        let offers = [PLAIN, PIPELINING, ALL][ehlo];
        let changed = changed.iter().map(|(stage, saying)| (stages[*stage], SAYINGS[*saying]));
        let mut rules: Vec<Rule> = changed.collect();
        rules.extend([("EHLO", offers), ("LHLO", offers)]);
        let recipients = [to("a@x.test"), to("b@x.test"), to("\u{e4}@x.test")];
        let mails = [mail(&recipients), mail(&recipients[1..]), mail(&recipients)];
        let talk = talk(config, &rules, &mails, step);
        let end = rules.iter().find(|(prefix, _)| *prefix == "end").map_or("250", |(_, says)| says);
        for (mail, outcomes) in mails.iter().zip(&talk.outcomes) {
            prop_assert_eq!(outcomes.split(' ').count(), mail.recipients.len(), "{:?}", talk);
            prop_assert!(end.starts_with('2') || !outcomes.contains("ok"), "{:?}", talk);
        }
        prop_assert!(talk.fault.is_some() || talk.outcomes.len() == mails.len(), "{:?}", talk);
    }
}
