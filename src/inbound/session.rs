//! A session: the dialogue of one connection.
//!
//! Owner:    one task on the shard that accepted the connection.
//! Promise:  replies leave in the order of their commands; all output is flushed before the session
//!           waits for input. While a question is unanswered, pipelined input waits. A panic inside
//!           unwinds to `run`, is counted, and closes this connection alone, with 421.
//! Bounds:   one chunk while input is pending, one output buffer while output is unsent, neither
//!           while idle. The arena of a transaction is bounded by `gate`, and between two
//!           transactions by `ARENA_KEPT_BYTES_MAX`. Every wait has a deadline.
//! Identity: recomputed after a PROXY header, a TLS handshake and XCLIENT (RFC 3207 s4.2).

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bumpalo::Bump;

use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::directory::Connection;
use crate::directory::Identity;
use crate::directory::identify;
use crate::handoff::NoAnswer;
use crate::inbound::ask::GateQuestion;
use crate::inbound::ask::default_verdict;
use crate::inbound::counts::Admission;
use crate::inbound::gate::Caller;
use crate::inbound::gate::Judgement;
use crate::inbound::input::Input;
use crate::inbound::policy::ListenerPolicy;
use crate::inbound::policy::Policy;
use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::receiving::Receiving;
use crate::inbound::reception::ArenaAccount;
use crate::inbound::reception::Reception;
use crate::net::Socket;
use crate::observe::label::BodyRefusal;
use crate::observe::label::SessionState;
use crate::observe::log::Record;
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

/// The address of a client that its proxy cannot name. It is in no trusted network, and all such
/// clients share its connection limits.
pub(super) const UNKNOWN_CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The protocol machine ended it; its reply is in the output.
    Closed,
    /// The peer closed the connection.
    Gone,
    /// A deadline passed.
    TimedOut(SessionState),
    /// The peer sends slower than `limits.min_data_rate`.
    TooSlow,
    /// The process is shutting down.
    Draining,
    /// TLS failed. No reply can be sent in plain text any more.
    TlsFailed,
    /// The socket or its TLS failed.
    Broken,
}

pub struct Session {
    pub(super) reception: Rc<Reception>,
    pub(super) policy: Arc<Policy>,
    pub(super) listener: Arc<ListenerPolicy>,
    pub(super) channel: Socket,
    pub(super) input: Input,
    pub(super) out: Vec<u8>,
    pub(super) server: Server,
    pub(super) identity: Identity,
    /// The client's name and its HELO, as XCLIENT gave them.
    pub(super) client_name: Option<Box<str>>,
    client_helo: Option<Box<str>>,
    pub(super) receiving: Option<Box<Receiving>>,
    pub(super) line_ending: LineEnding,
    pub(super) accepted: u32,
    pub(super) bytes_accepted: u64,
    pub(super) transaction_began: Option<Instant>,
    pub(super) command_began: Option<Instant>,
    /// Deadline of the next command.
    pub(super) command_until: Instant,
    admission: Option<Admission>,
    arena_account: ArenaAccount,
}

/// An accepted connection, and what was decided for it.
pub struct Arrival {
    pub channel: Socket,
    pub peer: SocketAddr,
    pub listener: Arc<ListenerPolicy>,
    pub policy: Arc<Policy>,
    pub admission: Admission,
}

impl Session {
    pub fn new(reception: Rc<Reception>, arrival: Arrival) -> Session {
        let Arrival { channel, peer, listener, policy, admission } = arrival;
        let config = Arc::clone(server_config(&listener, peer));
        let connection = Connection { peer, tls: false, listener: Arc::clone(&listener.name) };
        let arena_account = reception.open_arena_account();
        Session {
            reception,
            identity: identify::client(&policy.networks, connection),
            line_ending: config.line_ending,
            server: Server::new(config, listener.security == Security::Implicit),
            policy,
            listener,
            channel,
            input: Input::default(),
            out: Vec::new(),
            client_name: None,
            client_helo: None,
            receiving: None,
            accepted: 0,
            bytes_accepted: 0,
            transaction_began: None,
            command_began: None,
            command_until: Instant::now(),
            admission: Some(admission),
            arena_account,
        }
    }

    /// Serves the connection until it ends.
    pub async fn run(mut self) {
        let _count = self.reception.count_session();
        let protocol = if self.server.is_lmtp() { "lmtp" } else { "smtp" };
        Record::SessionOpened { peer: self.identity.peer(), protocol }.emit();
        let end = match unwind_safely(self.converse()).await {
            Ok(Ok(())) => End::Closed,
            Ok(Err(end)) => end,
            Err(Panicked) => {
                self.reception.metrics().session_panics_total.add(1);
                let peer = self.identity.peer().ip();
                Record::SessionPanicked { peer, message: "see standard error" }.emit();
                self.out.clear();
                self.server.close(&INTERNAL_ERROR, &mut self.out);
                End::Closed
            }
        };
        if self.receiving.as_ref().is_some_and(|receiving| !receiving.is_refused()) {
            let why = match end {
                End::TooSlow => BodyRefusal::TooSlow,
                _ => BodyRefusal::Aborted,
            };
            self.reception.metrics().bodies_refused_total.add(why, 1);
        }
        self.abandon_body();
        self.part(end).await;
    }

    async fn converse(&mut self) -> Result<(), End> {
        self.greet().await?;
        let mut arena = Bump::new();
        loop {
            self.transaction(&arena).await?;
            self.abandon_body();
            empty(&mut arena);
            self.arena_account.note(arena.allocated_bytes());
        }
    }

    /// Runs one transaction, from one reset to the next. `Ok`: begin another.
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
                    // Part of a broken line was discarded; the rest of it may be pending.
                    Step::NeedInput if consumed > 0 && !self.input.is_empty() => break,
                    Step::NeedInput => {
                        self.await_command().await?;
                        break;
                    }
                    Step::Continue => break,
                    Step::Ask(question) => {
                        let verdict = match self.judge(question, &tx) {
                            Judgement::Now(verdict) => verdict,
                            Judgement::Ask(asked) => Box::pin(self.ask(asked)).await?,
                        };
                        self.answer(question, verdict, &mut tx)
                    }
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

    fn judge(&mut self, question: Question, tx: &Transaction<'_>) -> Judgement {
        let caller = Caller {
            identity: &self.identity,
            policy: &self.policy,
            reception: &self.reception,
            recipients_max: self.listener.server.recipients_max,
        };
        let judgement = caller.judge(question, tx);
        self.arena_account.note(tx.arena.allocated_bytes());
        judgement
    }

    /// Waits for the answer of another thread. Meanwhile pipelined input and a drain wait too, at most
    /// until the deadline of the question.
    async fn ask(&mut self, question: GateQuestion) -> Result<Verdict, End> {
        self.flush().await?;
        let asked = match &self.reception.asker {
            Some(asker) => asker.ask(question).await,
            None => Err(NoAnswer::Away),
        };
        Ok(asked.unwrap_or_else(default_verdict))
    }

    fn answer(&mut self, question: Question, verdict: Verdict, tx: &mut Transaction<'_>) -> Step {
        if question == Question::Mail {
            self.transaction_began = Some(Instant::now());
        }
        if let Verdict::Refuse(reply) = &verdict {
            self.report_refusal(question, tx, reply);
        }
        let (more, answered) = (!self.input.is_empty(), self.out.len());
        let step = self.server.on_verdict(verdict, more, tx, &mut self.out);
        self.count_refusal(answered);
        step
    }

    /// Determines the identity again. All earlier facts about the client are dropped.
    pub(super) fn identify(&mut self, peer: SocketAddr) {
        let tls = self.channel.is_tls();
        let connection = Connection { peer, tls, listener: Arc::clone(&self.listener.name) };
        self.identity = identify::client(&self.policy.networks, connection);
    }

    /// Counts the client instead of its proxy.
    pub(super) fn readmit(&mut self) -> Result<(), End> {
        self.admission = None;
        let peer = self.identity.peer().ip();
        match self.reception.admit(peer, &self.policy) {
            Ok(admission) => {
                self.admission = Some(admission);
                Ok(())
            }
            Err(limit) => {
                self.reception.note_refused(peer, limit);
                // Before implicit TLS a plain reply would only confuse the client.
                if self.channel.is_tls() || self.listener.security != Security::Implicit {
                    let reply = Reply::new(421, (4, 7, 0), limit.text());
                    self.server.close(&reply, &mut self.out);
                }
                Err(End::Closed)
            }
        }
    }

    /// Replaces the protocol machine by the one for this client. Before the greeting only.
    pub(super) fn settle_server(&mut self) {
        let config = Arc::clone(server_config(&self.listener, self.identity.peer()));
        self.line_ending = config.line_ending;
        self.server = Server::new(config, self.listener.security == Security::Implicit);
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.flush().await?;
        // RFC 3207 s4.2: facts learnt in plain text and buffered input are dropped.
        self.input.drop_all(&self.reception.pool);
        (self.client_name, self.client_helo) = (None, None);
        self.handshake().await?;
        self.server.on_tls_started();
        Ok(())
    }

    /// Only trusted clients are offered XCLIENT; see `server_config`.
    fn apply_xclient(&mut self, attributes: &Xclient) -> Result<(), End> {
        let Xclient { name, addr, port, helo } = attributes;
        let mut peer = self.identity.peer();
        if !matches!(addr, Attribute::Absent) {
            peer = addr.given().map_or(UNKNOWN_CLIENT, |address| SocketAddr::new(*address, 0));
            (self.client_name, self.client_helo) = (None, None);
        }
        if !matches!(port, Attribute::Absent) {
            peer.set_port(port.given().copied().unwrap_or(0));
        }
        if !matches!(name, Attribute::Absent) {
            self.client_name = name.given().map(|name| name.as_str().into());
        }
        if !matches!(helo, Attribute::Absent) {
            self.client_helo = helo.given().map(|helo| helo.as_str().into());
        }
        self.identify(peer);
        self.server.on_xclient(&mut self.out);
        self.readmit()
    }

    /// The client's name for the trace field: from HELO, or from XCLIENT.
    pub(super) fn helo(&self) -> &str {
        self.client_helo.as_deref().or(self.server.helo()).unwrap_or("")
    }

    /// Abandons the body in progress. The store removes the chunks that it has.
    pub(super) fn abandon_body(&mut self) {
        if let Some(receiving) = self.receiving.take() {
            receiving.abandon(&self.reception.pool);
        }
    }
}

/// The protocol machine of the listener that serves this client.
fn server_config(listener: &ListenerPolicy, peer: SocketAddr) -> &Arc<ServerConfig> {
    let may_xclient = holds(&listener.xclient_from, peer.ip());
    let is_normalised = holds(&listener.normalise_from, peer.ip());
    &listener.servers[usize::from(may_xclient)][usize::from(is_normalised)]
}

const INTERNAL_ERROR: Reply = Reply::new(421, (4, 3, 0), "Internal error, closing");

/// Prepares an arena for the next transaction. A large arena is freed, because `reset` would keep its
/// largest chunk while the session is idle.
fn empty(arena: &mut Bump) {
    if arena.allocated_bytes() > ARENA_KEPT_BYTES_MAX {
        *arena = Bump::new();
    } else {
        arena.reset();
    }
}

struct Panicked;

/// Polls the future until it ends or panics. Values that it borrowed stay with their owners.
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
