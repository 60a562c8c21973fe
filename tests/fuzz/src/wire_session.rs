//! A session: the server's machine, a driver, and a gate with random answers.

use std::sync::Arc;

use bumpalo::Bump;
use ringpost::base::limits::COMMAND_BYTES_MAX;
use ringpost::wire::smtp::dot::DotDecoder;
use ringpost::wire::smtp::line::LineEnding;
use ringpost::wire::smtp::reply::REPLY_LINE_BYTES_MAX;
use ringpost::wire::smtp::reply::Reply;
use ringpost::wire::smtp::server::BodyMode;
use ringpost::wire::smtp::server::BodyOutcome;
use ringpost::wire::smtp::server::Protocol;
use ringpost::wire::smtp::server::Question;
use ringpost::wire::smtp::server::Server;
use ringpost::wire::smtp::server::ServerConfig;
use ringpost::wire::smtp::server::Step;
use ringpost::wire::smtp::server::Verdict;
use ringpost::wire::smtp::transaction::Transaction;

use super::Choices;
use super::Pieces;

const SIZE_MAX: u64 = 10_000;
const REFUSAL: Reply = Reply::new(550, (5, 7, 1), "Not today");
const BROKEN_BODY: Reply = Reply::new(521, (5, 5, 2), "The body breaks the CRLF rule");

const FLAG_LMTP: u8 = 1;
const FLAG_TLS: u8 = 2;
const FLAG_STARTTLS: u8 = 4;
const FLAG_TLS_REQUIRED: u8 = 8;
const FLAG_XCLIENT: u8 = 16;
const FLAG_NORMALISE: u8 = 32;
const FLAG_LENIENT: u8 = 64;
const FLAG_FEW: u8 = 128;

/// Three bytes choose the listener, the gate's answers (0 and `0` accept all) and the cuts; the
/// rest is the client's input.
pub fn session(data: &[u8]) {
    let [flags, answers, cuts, sent @ ..] = data else { return };
    let (replies, steps) = run(*flags, *answers, Pieces::new(sent, *cuts));
    assert!(steps <= 3 * sent.len() + 16, "{steps} steps for {} bytes", sent.len());
    check_replies(&replies);
    // If the client breaks the rules of pipelining, or TLS drops input, the replies may depend on
    // the cuts.
    if flags & FLAG_LENIENT != 0 && flags & FLAG_STARTTLS == 0 {
        let (whole, _) = run(*flags, *answers, Pieces::new(sent, 0));
        assert_eq!(text(&replies), text(&whole), "cut and whole");
    }
}

fn config(flags: u8) -> ServerConfig {
    let few = flags & FLAG_FEW != 0;
    ServerConfig {
        hostname: "mx.example".into(),
        banner: "ESMTP Ringpost".into(),
        protocol: if flags & FLAG_LMTP != 0 { Protocol::Lmtp } else { Protocol::Smtp },
        size_max: SIZE_MAX,
        recipients_max: if few { 2 } else { 1000 },
        messages_max: if few { 2 } else { 1000 },
        commands_max: if few { 20 } else { 10_000 },
        errors_max: if few { 3 } else { 1000 },
        line_ending: match flags & FLAG_NORMALISE {
            0 => LineEnding::Strict,
            _ => LineEnding::Normalise,
        },
        starttls: flags & FLAG_STARTTLS != 0,
        tls_required: flags & FLAG_TLS_REQUIRED != 0,
        xclient: flags & FLAG_XCLIENT != 0,
        reject_pipelining_violations: flags & FLAG_LENIENT == 0,
    }
}

/// The server's replies, and the number of steps.
fn run(flags: u8, answers: u8, pieces: Pieces<'_>) -> (Vec<u8>, usize) {
    let config = Arc::new(config(flags));
    let mut server = Server::new(Arc::clone(&config), flags & FLAG_TLS != 0);
    let mut driver = Driver {
        pieces,
        input: Vec::new(),
        out: Vec::new(),
        gate: (answers != b'0' && answers != 0).then(|| Choices::new(answers.into())),
        line_ending: config.line_ending,
        steps: 0,
    };
    server.greet(&mut driver.out);
    let mut arena = Bump::new();
    while driver.transaction(&mut server, &arena) {
        arena.reset();
    }
    (driver.out, driver.steps)
}

struct Driver<'d> {
    pieces: Pieces<'d>,
    input: Vec<u8>,
    out: Vec<u8>,
    gate: Option<Choices>,
    line_ending: LineEnding,
    steps: usize,
}

impl Driver<'_> {
    /// Runs one transaction; `false` when the session ends.
    fn transaction(&mut self, server: &mut Server, arena: &Bump) -> bool {
        let mut tx = Transaction::new_in(arena);
        loop {
            self.steps += 1;
            let (commands, said) = (server.commands(), self.out.len());
            let (consumed, step) = server.next(&self.input, &mut tx, &mut self.out);
            assert!(consumed <= self.input.len(), "not more than the input is consumed");
            assert!(consumed > 0 || !matches!(step, Step::Continue), "each step makes progress");
            self.input.drain(..consumed);
            let step = self.perform(step, server, &mut tx);
            assert!(self.out.ends_with(b"\r\n"), "a reply consists of complete lines");
            let Some(step) = step else { return false };
            assert!(
                server.commands() == commands || self.out.len() > said,
                "a command is answered"
            );
            match step {
                Step::Close => {
                    assert!(self.out.len() > said, "a session is not closed without a reply");
                    assert!(server.is_closed());
                    return false;
                }
                Step::Reset => return true,
                Step::NeedInput => {
                    assert!(
                        self.input.len() < COMMAND_BYTES_MAX,
                        "an overlong line is not buffered"
                    );
                    if !self.receive() {
                        return false;
                    }
                }
                _ => {}
            }
        }
    }

    /// Carries out steps; returns one for the caller, or `None` when the client has closed.
    fn perform(
        &mut self,
        first: Step,
        server: &mut Server,
        tx: &mut Transaction<'_>,
    ) -> Option<Step> {
        let mut step = first;
        loop {
            step = match step {
                Step::Ask(question) => {
                    check_question(question, server, tx);
                    let more = !self.input.is_empty();
                    server.on_verdict(self.verdict(), more, tx, &mut self.out)
                }
                Step::ReceiveBody(mode) => self.body(mode, server, tx)?,
                Step::StartTls => {
                    self.input.clear();
                    server.on_tls_started();
                    assert!(server.is_tls() && server.helo().is_none(), "the state is reset");
                    Step::Reset
                }
                Step::Xclient(_) => {
                    server.on_xclient(&mut self.out);
                    Step::Continue
                }
                step => return Some(step),
            };
        }
    }

    fn body(&mut self, mode: BodyMode, server: &mut Server, tx: &Transaction<'_>) -> Option<Step> {
        let outcome = match mode {
            BodyMode::Swallow { bytes } => {
                self.counted(bytes)?;
                return Some(server.on_swallowed(tx.recipients.len(), &mut self.out));
            }
            BodyMode::Dot => {
                assert!(self.out.ends_with(b"\r\n") && !tx.recipients.is_empty());
                self.dotted()?
            }
            BodyMode::Counted { bytes, last } => {
                assert!(bytes <= SIZE_MAX, "a chunk larger than a message is refused");
                self.counted(bytes)?;
                if last {
                    BodyOutcome::Kept { id: "06AB3" }
                } else {
                    BodyOutcome::ChunkKept { bytes }
                }
            }
        };
        let fatal = matches!(outcome, BodyOutcome::Fatal(_));
        let outcome = if fatal || self.accepts() { outcome } else { BodyOutcome::Refused(REFUSAL) };
        Some(server.on_body(outcome, tx.recipients.len(), &mut self.out))
    }

    /// Reads a body to its end.
    fn dotted(&mut self) -> Option<BodyOutcome<'static>> {
        let mut decoder = DotDecoder::new();
        loop {
            let decoded = match self.line_ending {
                LineEnding::Strict => decoder.decode(&mut self.input),
                LineEnding::Normalise => decoder.decode_normalising(&self.input, &mut Vec::new()),
            };
            let Ok(decoded) = decoded else { return Some(BodyOutcome::Fatal(BROKEN_BODY)) };
            self.input.drain(..decoded.consumed);
            if decoded.end {
                return Some(BodyOutcome::Kept { id: "06AB3" });
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// Reads `bytes` bytes.
    fn counted(&mut self, bytes: u64) -> Option<()> {
        let mut missing = bytes;
        loop {
            let here = self.input.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            self.input.drain(..here);
            missing -= here as u64;
            if missing == 0 {
                return Some(());
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// Reads the next piece; `false` when the client has closed.
    fn receive(&mut self) -> bool {
        let Some(piece) = self.pieces.next() else { return false };
        self.input.extend_from_slice(piece);
        true
    }

    fn verdict(&mut self) -> Verdict {
        if self.accepts() { Verdict::Accept } else { Verdict::Refuse(REFUSAL) }
    }

    fn accepts(&mut self) -> bool {
        self.gate.as_mut().is_none_or(|choices| choices.below(4) != 0)
    }
}

fn check_question(question: Question, server: &Server, tx: &Transaction<'_>) {
    match question {
        Question::Helo => assert!(server.helo().is_some_and(|name| !name.is_empty())),
        Question::Mail => assert!(tx.sender.is_some() && server.helo().is_some()),
        Question::Recipient => assert!(tx.candidate.is_some() && server.in_transaction()),
        Question::Body => assert!(!tx.recipients.is_empty() && server.in_transaction()),
    }
}

/// Every line is a code and printable text of limited length, and a reply ends with a last line.
fn check_replies(replies: &[u8]) {
    let body = replies.strip_suffix(b"\r\n").expect("a reply ends in CRLF");
    let mut open = None;
    let body = text(body);
    for line in body.split("\r\n") {
        assert!(line.len() + 2 <= REPLY_LINE_BYTES_MAX, "{line:?} is not too long");
        assert!(line.bytes().all(|b| matches!(b, b' '..=b'~')), "{line:?} is printable");
        let (code, rest) = line.split_at_checked(3).expect("a line has a code");
        assert!(code.parse().is_ok_and(|code: u16| (200..600).contains(&code)), "{line:?}");
        assert!(open.is_none_or(|open| open == code), "{line:?} has the code of its reply");
        open = match rest.bytes().next() {
            Some(b'-') => Some(code),
            Some(b' ') => None,
            _ => panic!("{line:?} has neither space nor hyphen after its code"),
        };
    }
    assert!(open.is_none(), "the last reply is complete");
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
