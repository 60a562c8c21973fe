//! A session: one connection's conversation.
//!
//! Owner:    one task on the shard that accepted it.
//! Promise:  replies leave in the order of their commands; everything answered is flushed before
//!           the session waits for more. A bug inside unwinds to `run`, is counted, and closes
//!           this connection with 421 (promise 7); the others notice nothing.
//! Bounds:   one chunk while something is pending, one output buffer while something is unsent,
//!           neither while idle. The arena of a transaction is bounded by `gate`, and between
//!           two of them by `ARENA_KEPT_BYTES_MAX`. Every wait has a deadline.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use bumpalo::Bump;

use crate::base::Chunk;
use crate::base::clock::wall_ms;
use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::inbound::counts::Admission;
use crate::inbound::gate::Caller;
use crate::inbound::greet;
use crate::inbound::input::Input;
use crate::inbound::intake::Intake;
use crate::inbound::intake::sender_text;
use crate::inbound::listener::admit;
use crate::inbound::listener::refusal_label;
use crate::inbound::policy::ListenerPolicy;
use crate::inbound::policy::Policy;
use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::reception::ArenaAccount;
use crate::inbound::reception::Reception;
use crate::net::Socket;
use crate::net::SocketFault;
use crate::net::TlsFault;
use crate::observe::Stage;
use crate::observe::label::BodyRefusal;
use crate::observe::label::Refusal;
use crate::observe::label::ReplyClass;
use crate::observe::label::SessionState;
use crate::observe::label::Verb as VerbLabel;
use crate::observe::log::Record;
use crate::rt::IoFault;
use crate::rt::timer;
use crate::wire::smtp::command::Command;
use crate::wire::smtp::command::Verb;
use crate::wire::smtp::line::LineEnding;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::server::Server;
use crate::wire::smtp::server::ServerConfig;
use crate::wire::smtp::server::Step;
use crate::wire::smtp::server::Verdict;
use crate::wire::smtp::transaction::Transaction;
use crate::wire::smtp::xclient::Attribute;
use crate::wire::smtp::xclient::Xclient;

/// How long a session waits before it asks again for a chunk.
pub(super) const CHUNK_RETRY: Duration = Duration::from_millis(20);

/// How long, and for how many bytes, a peer that was sent away may go on talking.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 << 20;
/// How long a peer may take to read its last reply when the server ends.
const DRAIN_REPLY: Duration = Duration::from_secs(1);

/// The address of a client that its proxy cannot name. It is in no trusted network, and all such
/// clients share its connection limits.
pub(super) const UNKNOWN_CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine said so; its reply is in the output.
    Closed,
    /// The peer went away.
    Gone,
    /// A deadline passed.
    TimedOut(Wait),
    /// The peer sends slower than `limits.min_data_rate`.
    TooSlow,
    /// The process is shutting down.
    Draining,
    /// TLS failed; nothing can be said in plain text any more.
    TlsFailed,
    /// The socket or its TLS failed.
    Broken,
}

/// What the session was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Proxy,
    Command,
    Body,
    Write,
    Handshake,
}

/// Where the connection comes from, as far as it may be believed.
pub struct Peer {
    pub address: SocketAddr,
    pub name: Option<Box<str>>,
    /// What XCLIENT says was said, instead of what was said.
    pub helo: Option<Box<str>>,
}

pub struct Session {
    pub(super) reception: Rc<Reception>,
    pub(super) policy: Arc<Policy>,
    pub(super) listener: Arc<ListenerPolicy>,
    pub(super) channel: Socket,
    pub(super) input: Input,
    pub(super) out: Vec<u8>,
    pub(super) server: Server,
    pub(super) peer: Peer,
    pub(super) intake: Option<Box<Intake>>,
    pub(super) line_ending: LineEnding,
    pub(super) accepted: u32,
    pub(super) bytes_accepted: u64,
    pub(super) transaction_began: Option<Instant>,
    command_began: Option<Instant>,
    /// When the command that is waited for must have come.
    command_until: Instant,
    admission: Option<Admission>,
    arena_account: ArenaAccount,
}

/// What an accepted connection brings with it.
pub struct Arrival {
    pub channel: Socket,
    pub peer: SocketAddr,
    pub listener: Arc<ListenerPolicy>,
    pub policy: Arc<Policy>,
    pub admission: Admission,
}

impl Session {
    pub fn new(reception: Rc<Reception>, arrival: Arrival) -> Session {
        let config = Arc::clone(server_config(&arrival.listener, arrival.peer));
        let line_ending = config.line_ending;
        let server = Server::new(config, arrival.listener.security == Security::Implicit);
        let arena_account = reception.open_arena_account();
        Session {
            reception,
            policy: arrival.policy,
            listener: arrival.listener,
            channel: arrival.channel,
            input: Input::default(),
            out: Vec::new(),
            server,
            peer: Peer { address: arrival.peer, name: None, helo: None },
            intake: None,
            line_ending,
            accepted: 0,
            bytes_accepted: 0,
            transaction_began: None,
            command_began: None,
            command_until: Instant::now(),
            admission: Some(arrival.admission),
            arena_account,
        }
    }

    /// The whole life of the connection.
    pub async fn run(mut self) {
        let _count = self.reception.count_session();
        let protocol = if self.server.is_lmtp() { "lmtp" } else { "smtp" };
        Record::SessionOpened { peer: self.peer.address, protocol }.emit();
        let end = match unwind_safely(self.converse()).await {
            Ok(Ok(())) => End::Closed,
            Ok(Err(end)) => end,
            Err(Panicked) => {
                self.reception.metrics().session_panics_total.add(1);
                let peer = self.peer.address.ip();
                Record::SessionPanicked { peer, message: "see standard error" }.emit();
                self.out.clear();
                self.server.close(&INTERNAL_ERROR, &mut self.out);
                End::Closed
            }
        };
        if self.intake.as_ref().is_some_and(|intake| !intake.is_refused()) {
            let why = match end {
                End::TooSlow => BodyRefusal::TooSlow,
                _ => BodyRefusal::Aborted,
            };
            self.reception.metrics().bodies_refused_total.add(why, 1);
        }
        self.abandon_intake();
        self.part(end).await;
    }

    async fn converse(&mut self) -> Result<(), End> {
        greet::before_greeting(self).await?;
        let mut arena = Bump::new();
        loop {
            self.transaction(&arena).await?;
            self.abandon_intake();
            empty(&mut arena);
            self.arena_account.note(arena.allocated_bytes());
        }
    }

    /// From one reset to the next. `Ok` asks for a fresh transaction.
    async fn transaction(&mut self, arena: &Bump) -> Result<(), End> {
        let mut tx = Transaction::new_in(arena);
        loop {
            let answered = self.out.len();
            let (consumed, mut step) =
                self.server.next(self.input.pending(), &mut tx, &mut self.out);
            self.count_refusal(answered);
            self.count_command(consumed);
            self.input.consume(consumed);
            loop {
                step = match step {
                    // Part of a broken line was swallowed; its end may be here already.
                    Step::NeedInput if consumed > 0 && !self.input.is_empty() => break,
                    Step::NeedInput => {
                        self.await_command().await?;
                        break;
                    }
                    Step::Continue => break,
                    Step::Ask(question) => self.answer(question, &mut tx),
                    Step::ReceiveBody(mode) => Box::pin(self.receive_body(mode, &tx)).await?,
                    Step::StartTls => return Box::pin(self.start_tls()).await,
                    Step::Xclient(attributes) => {
                        return self.apply_xclient(&attributes);
                    }
                    Step::Reset => return Ok(()),
                    Step::Close => return Err(End::Closed),
                };
            }
        }
    }

    fn answer(&mut self, question: Question, tx: &mut Transaction<'_>) -> Step {
        let caller = Caller {
            peer: self.peer.address.ip(),
            policy: &self.policy,
            reception: &self.reception,
            recipients_max: self.listener.server.recipients_max,
        };
        let verdict = caller.judge(question, tx);
        self.arena_account.note(tx.arena.allocated_bytes());
        match question {
            Question::Mail => self.transaction_began = Some(Instant::now()),
            Question::Helo | Question::Recipient | Question::Body => {}
        }
        if let Verdict::Refuse(reply) = &verdict {
            self.report_refusal(question, tx, reply);
        }
        let (more, answered) = (!self.input.is_empty(), self.out.len());
        let step = self.server.on_verdict(verdict, more, tx, &mut self.out);
        self.count_refusal(answered);
        step
    }

    /// Counts the reply to one command that stands behind so many bytes, if it refuses.
    fn count_refusal(&self, answered: usize) {
        if let Some(refusal) = Refusal::of_reply(&self.out[answered..]) {
            self.reception.metrics().refusals_total.add(refusal, 1);
        }
    }

    fn report_refusal(&self, question: Question, tx: &Transaction<'_>, reply: &Reply) {
        let stage = match question {
            Question::Helo => "helo",
            Question::Mail => "mail",
            Question::Recipient => "rcpt",
            Question::Body => "data",
        };
        let to = tx.candidate.as_ref().map(|candidate| candidate.mailbox.as_str());
        self.emit_refused(stage, tx, to, reply);
    }

    pub(super) fn emit_refused(
        &self,
        stage: &'static str,
        tx: &Transaction<'_>,
        to: Option<&str>,
        reply: &Reply,
    ) {
        let mut line = Vec::with_capacity(80);
        reply.write(&mut line);
        Record::Refused {
            peer: self.peer.address.ip(),
            helo: self.helo(),
            from: tx.sender.is_some().then(|| sender_text(tx)),
            to,
            stage,
            reply: std::str::from_utf8(&line).unwrap_or("").trim_end(),
        }
        .emit();
    }

    /// Flushes what was answered, then waits until more has come.
    async fn await_command(&mut self) -> Result<(), End> {
        self.flush().await?;
        if self.reception.is_draining() {
            return Err(End::Draining);
        }
        if self.input.is_empty() && !self.server.is_skipping() {
            // Only a fresh wait arms the deadline: a command that drips in has the same time as
            // one that comes at once.
            let timeouts = &self.policy.timeouts;
            let limit = match (self.server.commands(), self.server.in_transaction()) {
                (0, _) => timeouts.greeting,
                (_, true) => timeouts.command,
                (_, false) => timeouts.idle,
            };
            self.command_until = Instant::now() + limit;
        }
        let left = self.command_until.saturating_duration_since(Instant::now());
        self.channel.stream().deadline().set_idle_in(left);
        self.fill(Wait::Command).await?;
        self.command_began = Some(Instant::now());
        Ok(())
    }

    /// Reads more input. Holds no memory while it waits for the first byte.
    pub(super) async fn fill(&mut self, wait: Wait) -> Result<(), End> {
        if self.input.extend_front() {
            return Ok(());
        }
        if self.out.is_empty() {
            self.reception.give_output(std::mem::take(&mut self.out));
        }
        self.input.release(&self.reception.pool);
        let read = self.read(None).await;
        self.out = match self.out.capacity() {
            0 => self.reception.take_output(),
            _ => std::mem::take(&mut self.out),
        };
        self.input.put(read.map_err(|fault| self.end_of(fault, wait))?);
        Ok(())
    }

    /// Reads once. Under TLS the plaintext needs a chunk of its own, and with none free this waits
    /// as the plain socket does, until the deadline.
    pub(super) async fn read(&mut self, mut chunk: Option<Chunk>) -> Result<Chunk, SocketFault> {
        loop {
            match self.channel.read(&self.reception.pool, chunk.take()).await {
                Err(SocketFault::Tls(TlsFault::NoChunk)) => {
                    if self.channel.stream().deadline().expired() {
                        return Err(SocketFault::Io(IoFault::NoChunk));
                    }
                    timer::sleep(CHUNK_RETRY).await;
                }
                read => return read,
            }
        }
    }

    /// The limits count the client, not the machine that speaks for it.
    pub(super) fn readmit(&mut self) -> Result<(), End> {
        self.admission = None;
        match admit(&self.reception, self.peer.address.ip(), &self.policy) {
            Ok(admission) => {
                self.admission = Some(admission);
                Ok(())
            }
            Err(crowded) => {
                let metrics = self.reception.metrics();
                metrics.connections_refused_total.add(refusal_label(crowded), 1);
                let peer = self.peer.address.ip();
                Record::ConnectionRefused { peer, reason: crowded.name() }.emit();
                // Where TLS comes first, a plain reply would only confuse; the close says enough.
                if self.channel.is_tls() || self.listener.security != Security::Implicit {
                    let reply = Reply::new(421, (4, 7, 0), crowded.text());
                    self.server.close(&reply, &mut self.out);
                }
                Err(End::Closed)
            }
        }
    }

    /// Gives the session the machine that its client deserves. Before the greeting only.
    pub(super) fn settle_server(&mut self) {
        let config = Arc::clone(server_config(&self.listener, self.peer.address));
        self.line_ending = config.line_ending;
        self.server = Server::new(config, self.listener.security == Security::Implicit);
    }

    /// Writes everything that was answered.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.count_replies();
        let limit = match self.reception.is_draining() {
            true => self.policy.timeouts.reply.min(DRAIN_REPLY),
            false => self.policy.timeouts.reply,
        };
        self.channel.stream().deadline().set_in(limit);
        let (written, mut out) = self.channel.write(std::mem::take(&mut self.out)).await;
        out.clear();
        self.out = out;
        written.map_err(|fault| self.end_of(fault, Wait::Write))?;
        if let Some(began) = self.command_began.take() {
            self.record(Stage::Command, began);
        }
        Ok(())
    }

    pub(super) fn end_of(&self, fault: SocketFault, wait: Wait) -> End {
        if fault.is_end() {
            return End::Gone;
        }
        if !fault.is_timeout() {
            return End::Broken;
        }
        if wait != Wait::Write && self.reception.is_draining() {
            return End::Draining;
        }
        End::TimedOut(wait)
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.flush().await?;
        // RFC 3207 s4.2: what was learnt in plain text is forgotten, what was buffered is dropped.
        self.input.drop_all(&self.reception.pool);
        greet::handshake(self).await?;
        self.server.on_tls_started();
        Ok(())
    }

    /// Only the machine of a trusted peer offers XCLIENT; see `settle_server`.
    fn apply_xclient(&mut self, attributes: &Xclient) -> Result<(), End> {
        let Xclient { name, addr, port, helo } = attributes;
        let peer = &mut self.peer;
        if !matches!(addr, Attribute::Absent) {
            let address =
                addr.given().map_or(UNKNOWN_CLIENT, |address| SocketAddr::new(*address, 0));
            *peer = Peer { address, name: None, helo: None };
        }
        if !matches!(port, Attribute::Absent) {
            peer.address.set_port(port.given().copied().unwrap_or(0));
        }
        if !matches!(name, Attribute::Absent) {
            peer.name = name.given().map(|name| name.as_str().into());
        }
        if !matches!(helo, Attribute::Absent) {
            peer.helo = helo.given().map(|helo| helo.as_str().into());
        }
        self.server.on_xclient(&mut self.out);
        self.readmit()
    }

    /// The name to put into the trace: said by the peer, or by whoever speaks for it.
    pub(super) fn helo(&self) -> &str {
        self.peer.helo.as_deref().or(self.server.helo()).unwrap_or("")
    }

    pub(super) fn record(&self, stage: Stage, began: Instant) {
        self.reception.histograms.record(stage, began.elapsed().as_micros() as u64);
    }

    pub(super) fn transaction_began(&mut self) -> Option<Instant> {
        self.transaction_began.take()
    }

    pub(super) fn abandon_intake(&mut self) {
        if let Some(intake) = self.intake.take() {
            intake.abandon(&self.reception);
        }
    }

    /// The last words, then the end of the connection.
    async fn part(&mut self, end: End) {
        let last_words = match end {
            End::TimedOut(Wait::Write | Wait::Handshake) => None,
            End::Gone | End::TlsFailed | End::Broken => None,
            End::TimedOut(_) => Some("Timeout, closing the connection"),
            End::TooSlow => Some("Data comes too slowly, closing the connection"),
            End::Draining => Some("Service shutting down, try again later"),
            End::Closed => Some(""),
        };
        if let Some(state) = end.timed_out_in() {
            self.reception.metrics().sessions_timed_out_total.add(state, 1);
        }
        match last_words {
            None => self.out.clear(),
            Some("") => {}
            Some(text) => {
                let enhanced = if end == End::Draining { (4, 3, 2) } else { (4, 4, 2) };
                self.server.close(&Reply::new(421, enhanced, text), &mut self.out);
            }
        }
        let may_talk_on = matches!(end, End::Closed | End::TooSlow) && !is_goodbye(&self.out);
        if self.flush().await.is_ok() && self.channel.close().await.is_ok() {
            // A peer that is gone already needs no end of stream.
            let _ = self.channel.stream().shutdown_write();
            if may_talk_on {
                self.linger().await;
            }
        }
        self.input.drop_all(&self.reception.pool);
        Record::SessionClosed {
            peer: self.peer.address,
            reason: end.name(),
            messages: u64::from(self.accepted),
            commands: u64::from(self.server.commands()),
            errors: u64::from(self.server.errors()),
            bytes: self.bytes_accepted,
        }
        .emit();
    }

    /// Reads and drops what a peer still sends to a session that we ended. A close with input
    /// unread is a reset, which on its way may overtake the reply that says why.
    async fn linger(&mut self) {
        let pool = &self.reception.pool;
        let stream = self.channel.stream_mut();
        stream.deadline().set_in(LINGER_TIMEOUT);
        let mut dropped = 0;
        while dropped < LINGER_BYTES_MAX
            && let Ok(chunk) = stream.read(pool, None).await
        {
            dropped += chunk.len();
            pool.give(chunk);
        }
    }

    /// Counts the command whose line `next` just took.
    fn count_command(&self, consumed: usize) {
        let line = &self.input.pending()[..consumed];
        if line.ends_with(b"\n") {
            let verb = Command::parse(line.trim_ascii_end()).verb;
            if verb == Verb::Vrfy {
                // Where a test puts a bug, to see that it ends this session only.
                fail::fail_point!("session::panic");
            }
            self.reception.metrics().commands_total.add(verb_label(verb), 1);
        }
    }

    /// Counts the replies that are about to leave, by their last lines.
    fn count_replies(&self) {
        for line in self.out.split_inclusive(|byte| *byte == b'\n') {
            if let [class @ b'2'..=b'5', _, _, b' ', ..] = line {
                let class = ReplyClass::of(u16::from(class - b'0') * 100);
                self.reception.metrics().replies_total.add(class, 1);
            }
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        wall_ms()
    }
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::Gone => "peer-gone",
            End::TimedOut(Wait::Proxy) => "timeout-proxy",
            End::TimedOut(Wait::Command) => "timeout-command",
            End::TimedOut(Wait::Body) => "timeout-body",
            End::TimedOut(Wait::Write) => "timeout-write",
            End::TimedOut(Wait::Handshake) => "timeout-handshake",
            End::TooSlow => "too-slow",
            End::Draining => "draining",
            End::TlsFailed => "tls-failed",
            End::Broken => "broken",
        }
    }
}

impl End {
    fn timed_out_in(self) -> Option<SessionState> {
        match self {
            End::TooSlow => Some(SessionState::Rate),
            End::TimedOut(Wait::Proxy) => Some(SessionState::Proxy),
            End::TimedOut(Wait::Command) => Some(SessionState::Command),
            End::TimedOut(Wait::Body) => Some(SessionState::Body),
            End::TimedOut(Wait::Write) => Some(SessionState::Write),
            End::TimedOut(Wait::Handshake) => Some(SessionState::Handshake),
            End::Closed | End::Gone | End::Draining | End::TlsFailed | End::Broken => None,
        }
    }
}

/// Which of the listener's machines serves this peer.
fn server_config(listener: &ListenerPolicy, peer: SocketAddr) -> &Arc<ServerConfig> {
    let may_xclient = holds(&listener.xclient_from, peer.ip());
    let is_normalised = holds(&listener.normalise_from, peer.ip());
    match (may_xclient, is_normalised) {
        (false, false) => &listener.server,
        (false, true) => &listener.server_normalising,
        (true, false) => &listener.server_xclient,
        (true, true) => &listener.server_normalising_xclient,
    }
}

/// Whether the last reply is the one to QUIT, after which nobody talks.
fn is_goodbye(out: &[u8]) -> bool {
    let last = out.strip_suffix(b"\r\n").unwrap_or(out);
    let start = last.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    last[start..].starts_with(b"221")
}

const INTERNAL_ERROR: Reply = Reply::new(421, (4, 3, 0), "Internal error, closing");

/// Makes an arena ready for the next transaction. One that has grown is freed: `reset` alone would
/// keep its largest chunk for as long as the session is idle.
fn empty(arena: &mut Bump) {
    if arena.allocated_bytes() > ARENA_KEPT_BYTES_MAX {
        *arena = Bump::new();
    } else {
        arena.reset();
    }
}

struct Panicked;

/// Polls to the end or to the first panic, leaving what the future borrowed to its owner.
async fn unwind_safely<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

fn verb_label(verb: Verb) -> VerbLabel {
    match verb {
        Verb::Helo => VerbLabel::Helo,
        Verb::Ehlo => VerbLabel::Ehlo,
        Verb::Lhlo => VerbLabel::Lhlo,
        Verb::Mail => VerbLabel::Mail,
        Verb::Rcpt => VerbLabel::Rcpt,
        Verb::Data => VerbLabel::Data,
        Verb::Bdat => VerbLabel::Bdat,
        Verb::Rset => VerbLabel::Rset,
        Verb::Noop => VerbLabel::Noop,
        Verb::Vrfy => VerbLabel::Vrfy,
        Verb::Expn => VerbLabel::Expn,
        Verb::Help => VerbLabel::Help,
        Verb::Quit => VerbLabel::Quit,
        Verb::StartTls => VerbLabel::StartTls,
        Verb::Auth => VerbLabel::Auth,
        Verb::Xclient => VerbLabel::Xclient,
        Verb::Http | Verb::Unknown => VerbLabel::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_keeps_little_between_transactions() {
        let mut arena = Bump::new();
        for (row, recipients) in [("a few", 5), ("a thousand", 1000), ("none", 0), ("many", 50_000)]
        {
            for _ in 0..recipients {
                arena.alloc_str("recipient@some.domain.example.com");
            }
            empty(&mut arena);
            let kept = arena.allocated_bytes();
            assert!(kept <= ARENA_KEPT_BYTES_MAX, "{row}: {kept} bytes are kept");
        }
    }
}
