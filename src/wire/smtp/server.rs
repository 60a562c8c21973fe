//! The server side of an SMTP (RFC 5321) or LMTP session: its state, its configuration and its
//! steps.
//!
//! Owner:    the session's driver. One `Server` per connection.
//! Promise:  one reply per command, in order, each a complete CRLF line. Breaking the CRLF rule,
//!           the order of commands or the rules of pipelining gives a client no advantage.
//! Bounds:   `ServerConfig` limits commands, errors, messages and recipients. Past a limit: 421, or
//!           452 for a recipient. An idle session holds this struct and the client's name.
//! Calls:    after `Ask`, `ReceiveBody`, `StartTls` and `Xclient` the driver calls the `on_*`
//!           function that the step names, then `next`. An assertion checks the order.

use std::sync::Arc;

use crate::wire::smtp::line::LineEnding;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::Transaction;
use crate::wire::smtp::xclient::Xclient;

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Smtp,
    Lmtp,
}

/// The configuration of a listener's sessions.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub hostname: String,
    /// The text after the host name in the greeting.
    pub banner: String,
    pub protocol: Protocol,
    /// Bytes of a message; 0 for no limit, as in RFC 1870.
    pub size_max: u64,
    /// RCPT commands of a transaction, including refused ones (RFC 9422 s4).
    pub recipients_max: u32,
    /// MAIL commands of a session, including refused ones.
    pub messages_max: u32,
    pub commands_max: u32,
    pub errors_max: u32,
    pub line_ending: LineEnding,
    /// Offer STARTTLS while the session is not under TLS.
    pub starttls: bool,
    /// Refuse mail without TLS.
    pub tls_required: bool,
    /// The peer may use XCLIENT.
    pub xclient: bool,
    pub reject_pipelining_violations: bool,
}

/// The driver's next task. Exactly one at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more: no complete line has arrived. Some input may have been consumed.
    NeedInput,
    /// Call `next` again with the input that was not consumed.
    Continue,
    /// Decide, then call `on_verdict`.
    Ask(Question),
    /// Stream the body or the chunk to its end, even if it is refused, then call `on_body`; after
    /// `BodyMode::Swallow` call `on_swallowed`.
    ReceiveBody(BodyMode),
    /// 220 was appended: flush, drop all buffered input, do the handshake, then call
    /// `on_tls_started`.
    StartTls,
    /// Apply the attributes, then call `on_xclient`.
    Xclient(Box<Xclient>),
    /// The transaction is over: drop it with its arena and the stored part of its body, start a new
    /// one, and call `next`.
    Reset,
    /// The last reply was appended: flush and close.
    Close,
}

/// A decision that the session asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether a client of this name may continue. The name is in `Server::helo`.
    Helo,
    /// Whether to accept the sender. It is in the transaction, with its parameters.
    Mail,
    /// Whether to accept the recipient in `Transaction::candidate`.
    Recipient,
    /// Whether to receive the body.
    Body,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// The reply is sent unchanged. A 421 or 521 also closes the session.
    Refuse(Reply),
}

/// How to read the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Dot-stuffed, to CRLF.CRLF. 354 was appended.
    Dot,
    /// This many bytes, unchanged.
    Counted { bytes: u64, last: bool },
    /// This many bytes, to be dropped.
    Swallow { bytes: u64 },
}

/// The result of receiving a body or a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyOutcome<'a> {
    /// The message is durable under this id.
    Kept { id: &'a str },
    /// A chunk other than the last was accepted.
    ChunkKept { bytes: u64 },
    /// The body was read to its end, and the message is refused.
    Refused(Reply),
    /// The end of the body is unknown, for example after a bare LF. The session is closed.
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
    /// RCPT commands of the current transaction.
    pub(super) recipients: u32,
    /// Bytes of the current transaction's chunks.
    pub(super) chunk_bytes: u64,
    /// LMTP: recipients of a transaction in which a chunk was refused. The last chunk gets one
    /// reply for each of them (RFC 2033 s4.2).
    pub(super) failed_recipients: usize,
}

// One for each idle connection, of which there may be 10,000.
const _: () = assert!(size_of::<Server>() <= 160);

/// The client's greeting.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) name: Box<str>,
    /// With EHLO or LHLO.
    pub(super) extended: bool,
}

/// The phase of a session; see the table in `wire::smtp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Fresh,
    Ready,
    Envelope,
    Chunks,
    Failed,
}

/// The step that the driver has not answered yet.
#[derive(Debug)]
pub(super) enum Waiting {
    Nothing,
    /// Skipping the rest of a broken line; `skipped` bytes so far.
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

pub(super) const VIOLATION: Reply = Reply::new(
    554,
    (5, 5, 0),
    "Pipelining violation: input was sent ahead of the reply to a command that must end its group",
);
pub(super) const FAILED: Reply =
    Reply::new(503, (5, 5, 1), "The transaction has failed, send RSET first");
pub(super) const NO_MAIL: Reply = Reply::new(503, (5, 5, 1), "Send MAIL first");
pub(super) const NEED_TLS: Reply =
    Reply::new(530, (5, 7, 0), "Must issue a STARTTLS command first");

impl Server {
    /// A new session. `tls` says that the connection began with TLS.
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

    /// The answer to `Step::Ask`. `more_input` says that input follows the line in question.
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
            other => panic!("a verdict was given while the session waits for {other:?}"),
        }
    }

    /// The handshake is done. All earlier state is dropped (RFC 3207 s4.2).
    pub fn on_tls_started(&mut self) {
        assert!(matches!(self.waiting, Waiting::Tls), "the session does not wait for TLS");
        self.waiting = Waiting::Nothing;
        self.tls = true;
        self.forget();
    }

    /// The attributes were applied. The session starts over.
    pub fn on_xclient(&mut self, out: &mut Vec<u8>) {
        assert!(matches!(self.waiting, Waiting::Xclient), "the session does not wait for XCLIENT");
        self.waiting = Waiting::Nothing;
        self.forget();
        self.greet(out);
    }

    /// Ends the session for a reason of the driver: a deadline, a drain, a failed store.
    pub fn close(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.end(reply, out);
    }

    /// The name in the client's greeting.
    pub fn helo(&self) -> Option<&str> {
        self.greeted.as_ref().map(|greeted| &*greeted.name)
    }

    /// Whether the client greeted with EHLO or LHLO.
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

    /// Whether MAIL was accepted and the transaction is not over.
    pub fn in_transaction(&self) -> bool {
        matches!(self.phase, Phase::Envelope | Phase::Chunks)
    }

    /// Whether the session skips the rest of a broken line.
    pub fn is_skipping(&self) -> bool {
        matches!(self.waiting, Waiting::LineEnd { .. })
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.waiting, Waiting::Closed)
    }

    pub(super) fn lacks_tls(&self) -> bool {
        self.config.tls_required && !self.tls
    }

    /// Ends the session because input follows a command that must be the last of its group.
    pub(super) fn end_for_violation(&mut self, out: &mut Vec<u8>) -> Step {
        self.end(&VIOLATION, out)
    }

    /// Appends a refusal and counts the error.
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

    /// Leaves a transaction in which a chunk was refused. `recipients` is the number accepted.
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

    /// Leaves the transaction, if one is open, and enters `phase`.
    pub(super) fn leave_for(&mut self, phase: Phase) -> Step {
        let step = if self.in_transaction() { Step::Reset } else { Step::Continue };
        self.phase = phase;
        self.recipients = 0;
        self.chunk_bytes = 0;
        self.failed_recipients = 0;
        step
    }

    fn forget(&mut self) {
        debug_assert!(!self.in_transaction(), "STARTTLS and XCLIENT are refused in a transaction");
        self.greeted = None;
        self.leave_for(Phase::Fresh);
    }
}

/// Whether input follows the current line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Follows,
    Nothing,
}

impl More {
    pub(super) fn behind(input: &[u8], consumed: usize) -> More {
        More::from_flag(input.len() > consumed)
    }

    fn from_flag(more: bool) -> More {
        if more { More::Follows } else { More::Nothing }
    }
}
