//! The server's half of a session: input in, replies and steps out.
//!
//! Owner:    the session's driver. One `Server` per connection, for SMTP (RFC 5321) and LMTP.
//! Promise:  one reply per command, in order, each a complete CRLF line; a client that breaks the
//!           line law, the order of commands or the rules of pipelining gains nothing by it.
//! Bounds:   `ServerConfig` bounds commands, errors, messages and recipients; an idle session holds
//!           this struct and the name that greeted. Past a bound: 421, or 452 for a recipient.
//! Law:      after `Ask`, `ReceiveBody`, `StartTls` and `Xclient` the driver answers with the
//!           `on_*` that the step names before it calls `next` again; that is asserted.

use std::sync::Arc;

use crate::wire::smtp::bdat;
use crate::wire::smtp::command::Command;
use crate::wire::smtp::command::Verb;
use crate::wire::smtp::line;
use crate::wire::smtp::line::Line;
use crate::wire::smtp::line::LineEnding;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::Transaction;
use crate::wire::smtp::xclient::Xclient;

/// Bytes of one overlong or broken line that are swallowed before the session is closed.
pub const SKIPPED_BYTES_MAX: usize = 64 << 10;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Smtp,
    Lmtp,
}

/// What all sessions of a listener share.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub hostname: String,
    /// What follows the host name in the greeting.
    pub banner: String,
    pub protocol: Protocol,
    /// Bytes of a message; 0 for no bound, as RFC 1870 has it.
    pub size_max: u64,
    /// RCPT commands in a transaction, refused ones included (RFC 9422 s4).
    pub recipients_max: u32,
    /// MAIL commands in a session, refused ones included.
    pub messages_max: u32,
    pub commands_max: u32,
    pub errors_max: u32,
    pub line_ending: LineEnding,
    /// STARTTLS is offered while the session is not under TLS.
    pub starttls: bool,
    /// No mail without TLS.
    pub tls_required: bool,
    /// The peer may use XCLIENT.
    pub xclient: bool,
    pub reject_pipelining_violations: bool,
}

/// What the driver must do next. Exactly one at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// No complete line yet. Some input may have been consumed all the same.
    NeedInput,
    /// Call `next` again with what was not consumed.
    Continue,
    /// Decide, then call `on_verdict`.
    Ask(Question),
    /// Stream the body (or the chunk), to its end even if it is refused, then call `on_body`; for
    /// `BodyMode::Swallow` then call `on_swallowed`.
    ReceiveBody(BodyMode),
    /// 220 was appended: flush, drop all buffered input, shake hands, then call `on_tls_started`.
    StartTls,
    /// Apply the attributes, then call `on_xclient`.
    Xclient(Box<Xclient>),
    /// The transaction is over: drop it, its arena and what was kept of its body, start a new one,
    /// and call `next`.
    Reset,
    /// The last reply was appended: flush and close.
    Close,
}

/// What the gate decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// May a client of this name go on? It is in `Server::helo`.
    Helo,
    /// Is the sender welcome? It is in the transaction, with its parameters.
    Mail,
    /// Is the recipient? It is in `Transaction::candidate`.
    Recipient,
    /// May the body of the message come?
    Body,
}

/// What the gate decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Passed on as it is. A 421 or 521 also closes the session.
    Refuse(Reply),
}

/// How the body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Dot-stuffed, to CRLF.CRLF. 354 was appended.
    Dot,
    /// So many bytes as they are.
    Counted { bytes: u64, last: bool },
    /// So many bytes that belong to nothing.
    Swallow { bytes: u64 },
}

/// What came of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyOutcome<'a> {
    /// The message is durable under this name.
    Kept { id: &'a str },
    /// A chunk that is not the last was taken.
    ChunkKept { bytes: u64 },
    /// All its bytes were read, and the message is refused.
    Refused(Reply),
    /// Where the body ends is not known any more, as after a bare LF. The session is closed.
    Fatal(Reply),
}

/// One session.
#[derive(Debug)]
pub struct Server {
    pub(super) config: Arc<ServerConfig>,
    pub(super) greeted: Option<Greeted>,
    pub(super) phase: Phase,
    pub(super) waiting: Waiting,
    pub(super) tls: bool,
    pub(super) commands: u32,
    pub(super) errors: u32,
    pub(super) messages: u32,
    /// RCPT commands of this transaction.
    pub(super) recipients: u32,
    /// Bytes of this transaction's chunks.
    pub(super) chunk_bytes: u64,
    /// LMTP: recipients of a transaction that failed at one of its chunks. The last chunk gets one
    /// reply for each (RFC 2033 s4.2).
    pub(super) failed_recipients: usize,
}

// An idle connection holds one; ten thousand of them are to be cheap.
const _: () = assert!(size_of::<Server>() <= 160);

/// Who the client said it is.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) name: Box<str>,
    /// By EHLO or LHLO.
    pub(super) extended: bool,
}

/// How far the session has come; see the table in `wire::smtp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Fresh,
    Ready,
    Envelope,
    Chunks,
    Failed,
}

/// What the driver was asked to do and has not answered yet.
#[derive(Debug)]
pub(super) enum Waiting {
    Nothing,
    /// The rest of a broken line is swallowed; so many bytes were.
    LineEnd {
        fault: LineFault,
        skipped: usize,
    },
    Helo {
        previous: Option<Greeted>,
    },
    Mail,
    Recipient,
    Data,
    FirstChunk {
        bytes: u64,
        last: bool,
    },
    Dot,
    Chunk {
        last: bool,
    },
    Swallow {
        reply: Box<Reply>,
        last: bool,
    },
    Tls,
    Xclient,
    Closed,
}

const TOO_MANY_COMMANDS: Reply = Reply::new(421, (4, 7, 0), "Too many commands, closing");
const TOO_MANY_ERRORS: Reply = Reply::new(421, (4, 7, 0), "Too many errors, closing");
const VIOLATION: Reply = Reply::new(
    554,
    (5, 5, 0),
    "Pipelining violation: input was sent ahead of the reply to a command that must end its group",
);
const BARE_LF: Reply = Reply::new(521, (5, 5, 2), "Bare <LF> received, closing");
const LINE_FLOOD: Reply = Reply::new(521, (5, 5, 2), "Line without end, closing");
const TLS_ON_PLAIN_PORT: Reply =
    Reply::new(521, (5, 5, 2), "TLS handshake on a port that starts in plain text");
pub(super) const FAILED: Reply =
    Reply::new(503, (5, 5, 1), "The transaction has failed, send RSET first");
pub(super) const NEED_TLS: Reply =
    Reply::new(530, (5, 7, 0), "Must issue a STARTTLS command first");

impl Server {
    /// A session that has not been greeted yet. `tls` tells that the connection began with TLS.
    pub fn new(config: Arc<ServerConfig>, tls: bool) -> Server {
        Server {
            config,
            greeted: None,
            phase: Phase::Fresh,
            waiting: Waiting::Nothing,
            tls,
            commands: 0,
            errors: 0,
            messages: 0,
            recipients: 0,
            chunk_bytes: 0,
            failed_recipients: 0,
        }
    }

    /// Appends the greeting.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        reply::push_code(220, b' ', out);
        reply::push_printable(self.config.hostname.as_bytes(), out);
        if !self.config.banner.is_empty() {
            out.push(b' ');
            reply::push_printable(self.config.banner.as_bytes(), out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Takes one line from the front of `input`. Says how many bytes it took and what to do next.
    pub fn next(
        &mut self,
        input: &[u8],
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        match self.waiting {
            Waiting::Nothing => {}
            Waiting::LineEnd { fault, skipped } => return self.skip(input, (fault, skipped), out),
            Waiting::Closed => return (input.len(), Step::Close),
            _ => panic!("`next` was called before the last step was answered"),
        }
        if self.commands == 0 && !self.tls && input.starts_with(b"\x16\x03") {
            return (input.len(), self.end(&TLS_ON_PLAIN_PORT, out));
        }
        match line::cut(input, self.config.line_ending) {
            Line::Partial => (0, Step::NeedInput),
            Line::Complete { text, consumed } => {
                let more = More::behind(input, consumed);
                (consumed, self.on_line(text, more, tx, out))
            }
            Line::Fault { fault, consumed } => self.on_line_fault(input, (fault, consumed), out),
        }
    }

    /// The gate's answer to `Step::Ask`. `more_input` tells that bytes have come behind the line
    /// that was judged.
    pub fn on_verdict(
        &mut self,
        verdict: Verdict,
        more_input: bool,
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Helo { previous } => self.on_helo_verdict(verdict, previous, out),
            Waiting::Mail => self.on_mail_verdict(verdict, out),
            Waiting::Recipient => self.on_recipient_verdict(verdict, tx, out),
            Waiting::Data => self.on_data_verdict(verdict, More::from_flag(more_input), out),
            Waiting::FirstChunk { bytes, last } => self.on_chunk_verdict(verdict, bytes, last, out),
            other => panic!("a verdict was given while {other:?} was waited for"),
        }
    }

    /// The handshake is done. Everything learnt before is forgotten (RFC 3207 s4.2).
    pub fn on_tls_started(&mut self) {
        assert!(matches!(self.waiting, Waiting::Tls), "no TLS was asked for");
        self.waiting = Waiting::Nothing;
        self.tls = true;
        self.forget();
    }

    /// The attributes were applied. The session starts anew.
    pub fn on_xclient(&mut self, out: &mut Vec<u8>) {
        assert!(matches!(self.waiting, Waiting::Xclient), "there was no XCLIENT");
        self.waiting = Waiting::Nothing;
        self.forget();
        self.greet(out);
    }

    /// The driver ends the session: a deadline, a drain, a broken store.
    pub fn close(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.end(reply, out);
    }

    /// The name that the client greeted with.
    pub fn helo(&self) -> Option<&str> {
        self.greeted.as_ref().map(|greeted| &*greeted.name)
    }

    /// Whether it greeted with EHLO or LHLO.
    pub fn is_esmtp(&self) -> bool {
        self.greeted.as_ref().is_some_and(|greeted| greeted.extended)
    }

    pub fn is_lmtp(&self) -> bool {
        self.config.protocol == Protocol::Lmtp
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    pub fn errors(&self) -> u32 {
        self.errors
    }

    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Whether MAIL was accepted and its transaction is not over.
    pub fn in_transaction(&self) -> bool {
        matches!(self.phase, Phase::Envelope | Phase::Chunks)
    }

    /// Whether the rest of a broken line is being swallowed.
    pub fn is_skipping(&self) -> bool {
        matches!(self.waiting, Waiting::LineEnd { .. })
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.waiting, Waiting::Closed)
    }

    fn on_line(
        &mut self,
        text: &[u8],
        more: More,
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let Command { verb, argument } = Command::parse(text);
        self.commands = self.commands.saturating_add(1);
        if verb != Verb::Quit
            && let Some(reply) = self.exhausted()
        {
            return self.end(&reply, out);
        }
        if more == More::Follows && self.must_end_group(verb) {
            return self.end(&VIOLATION, out);
        }
        if self.needs_tls(verb) {
            return self.refuse(&NEED_TLS, out);
        }
        match verb {
            Verb::Mail => self.mail(argument, tx, out),
            Verb::Rcpt => self.rcpt(argument, tx, out),
            Verb::Data => self.data(argument, tx, out),
            Verb::Bdat => self.bdat(argument, tx, out),
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.hello(verb, argument, out),
            Verb::StartTls => self.starttls(argument, out),
            Verb::Xclient => self.xclient(argument, out),
            Verb::Unknown if bdat::looks_like_bdat(text) => self.malformed_bdat(text, tx, out),
            _ => self.simple(verb, argument, out),
        }
    }

    fn exhausted(&self) -> Option<Reply> {
        if self.commands > self.config.commands_max {
            return Some(TOO_MANY_COMMANDS);
        }
        (self.errors >= self.config.errors_max).then_some(TOO_MANY_ERRORS)
    }

    /// RFC 2920 s3.1. What follows DATA ahead of its 354 may be a body or commands, and what follows
    /// STARTTLS was not protected: neither is guessed at. The rule for NOOP, VRFY and QUIT guards
    /// nothing and is broken by many, so it is not enforced.
    fn must_end_group(&self, verb: Verb) -> bool {
        self.config.reject_pipelining_violations
            && matches!(verb, Verb::Data | Verb::StartTls | Verb::Ehlo | Verb::Helo | Verb::Lhlo)
    }

    /// RFC 3207 s4. BDAT is judged where its bytes are swallowed.
    fn needs_tls(&self, verb: Verb) -> bool {
        let concerned = matches!(
            verb,
            Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Vrfy | Verb::Expn | Verb::Auth
        );
        concerned && self.lacks_tls()
    }

    pub(super) fn lacks_tls(&self) -> bool {
        self.config.tls_required && !self.tls
    }

    fn on_line_fault(
        &mut self,
        input: &[u8],
        (fault, consumed): (LineFault, usize),
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        if fault == LineFault::BareLf {
            return (input.len(), self.end(&BARE_LF, out));
        }
        // What comes behind a BDAT is no command, and how much of it there is, is not known.
        if bdat::looks_like_bdat(input) {
            return (input.len(), self.end(&line_fault(fault, 521), out));
        }
        if input[..consumed].ends_with(b"\r\n") {
            return (consumed, self.on_broken_line(fault, out));
        }
        (consumed, self.await_line_end(fault, consumed, out))
    }

    /// Swallows the rest of a broken line, so that no part of it is taken for a command.
    fn skip(
        &mut self,
        input: &[u8],
        (fault, skipped): (LineFault, usize),
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let (consumed, ended) = line::skip(input);
        let skipped = skipped + consumed;
        if ended {
            self.waiting = Waiting::Nothing;
            return (consumed, self.on_broken_line(fault, out));
        }
        (consumed, self.await_line_end(fault, skipped, out))
    }

    fn await_line_end(&mut self, fault: LineFault, skipped: usize, out: &mut Vec<u8>) -> Step {
        if skipped > SKIPPED_BYTES_MAX {
            return self.end(&LINE_FLOOD, out);
        }
        self.waiting = Waiting::LineEnd { fault, skipped };
        Step::NeedInput
    }

    fn on_broken_line(&mut self, fault: LineFault, out: &mut Vec<u8>) -> Step {
        self.commands = self.commands.saturating_add(1);
        match self.exhausted() {
            Some(reply) => self.end(&reply, out),
            None => self.refuse(&line_fault(fault, 500), out),
        }
    }

    /// Refuses for the pipelining of a command whose reply was still to come.
    pub(super) fn end_for_violation(&mut self, out: &mut Vec<u8>) -> Step {
        self.end(&VIOLATION, out)
    }

    /// Appends a refusal and counts it.
    pub(super) fn refuse(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Step {
        if reply.ends_session() {
            return self.end(reply, out);
        }
        reply.write(out);
        if reply.is_permanent() {
            self.errors = self.errors.saturating_add(1);
        }
        Step::Continue
    }

    /// Leaves a transaction in which a chunk was refused. `recipients` had been accepted.
    pub(super) fn leave_failed(&mut self, recipients: usize) -> Step {
        let step = self.leave_for(Phase::Failed);
        self.failed_recipients = recipients;
        step
    }

    /// Appends the last reply of the session.
    pub(super) fn end(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Step {
        reply.write(out);
        self.waiting = Waiting::Closed;
        Step::Close
    }

    /// Leaves the transaction, if there is one, for `phase`.
    pub(super) fn leave_for(&mut self, phase: Phase) -> Step {
        let step = if self.in_transaction() { Step::Reset } else { Step::Continue };
        self.phase = phase;
        self.recipients = 0;
        self.chunk_bytes = 0;
        self.failed_recipients = 0;
        step
    }

    fn forget(&mut self) {
        debug_assert!(!self.in_transaction(), "both are refused in a transaction");
        self.greeted = None;
        self.leave_for(Phase::Fresh);
    }
}

/// Whether more input stood behind a line when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Follows,
    Nothing,
}

impl More {
    fn behind(input: &[u8], consumed: usize) -> More {
        More::from_flag(input.len() > consumed)
    }

    fn from_flag(more: bool) -> More {
        if more { More::Follows } else { More::Nothing }
    }
}

fn line_fault(fault: LineFault, code: u16) -> Reply {
    Reply::new(code, (5, 5, 2), fault.text())
}
