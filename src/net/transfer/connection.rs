//! One connection to one server: the driver of `wire::smtp::Client`.
//!
//! Owner:    the task of the connection.
//! Promise:  every recipient of a message has one outcome when `send` returns, whatever the server, the
//!           network or the source of the body did. If a body cannot be read completely, its end is
//!           never sent, so that the server cannot accept a truncated message. A body sent by DATA
//!           never contains a bare CR, a bare LF or a NUL, whatever is stored, because a server could
//!           take part of it for the end of the message (SMTP smuggling). Such a message fails
//!           permanently at this server. It is not rewritten, which would break its signatures.
//! Waits:    each write and each reply has the time limit of its stage (`ClientTimeouts`), also a reply
//!           that arrives byte by byte. The whole mail has one too (`ClientTimeouts::of_mail`): its last
//!           byte is sent only while the last reply still has its time.
//! Memory:   that of `body_writer` while a body is sent; between messages, a small buffer.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::chunk::Chunk;
use crate::base::chunk::ChunkPool;
use crate::net::stream::Channel;
use crate::net::transfer::body::BodySource;
use crate::net::transfer::peer::Peer;
use crate::net::transfer::timeouts::ClientTimeouts;
use crate::net::transfer::watch::Watch;
use crate::wire::smtp::client::Client;
use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::ClientStep;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage;

/// Memory for commands that an idle connection keeps.
const OUT_BYTES_KEPT: usize = 1024;
/// How long to wait for the last reply of a peer to which nothing can be written any more.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long to wait for plaintext when TLS records have arrived on an idle connection.
const TICKET_WAIT: Duration = Duration::from_millis(20);

/// The result of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// One for each recipient, in the order of the mail.
    pub outcomes: Vec<Outcome>,
    /// DSN parameters were left out; see `Client::relayed_without_dsn`.
    pub relayed_without_dsn: bool,
}

/// When the current mail must have ended.
#[derive(Clone, Copy)]
struct MailLimits {
    /// Leaves time for the last reply.
    last_byte_by: Instant,
    end_by: Instant,
}

/// One connection, from its greeting to its end.
pub struct Transfer<S: Peer, W: Watch = ()> {
    pub(super) channel: Channel<S>,
    pub(super) client: Client,
    pool: Rc<ChunkPool>,
    pub(super) timeouts: ClientTimeouts,
    /// Bytes to write.
    pub(super) out: Vec<u8>,
    /// Bytes that were read, and the number of them that the client has.
    input: Option<(Chunk, usize)>,
    /// The deadline of the awaited reply is set.
    waits: bool,
    /// Nothing can be written any more.
    pub(super) deaf: bool,
    fault: Option<S::Fault>,
    /// Limits of the mail that is being sent.
    mail_limits: Option<MailLimits>,
    pub(super) watch: W,
}

impl<S: Peer> Transfer<S> {
    /// On a new connection. If it began with TLS, `client` knows.
    pub fn new(
        channel: Channel<S>,
        client: Client,
        pool: Rc<ChunkPool>,
        timeouts: ClientTimeouts,
    ) -> Transfer<S> {
        Transfer {
            channel,
            client,
            pool,
            timeouts,
            out: Vec::new(),
            input: None,
            waits: false,
            deaf: false,
            fault: None,
            mail_limits: None,
            watch: (),
        }
    }

    /// The same connection with a watch, before anything was written or read.
    pub fn watched_by<W: Watch>(self, watch: W) -> Transfer<S, W> {
        Transfer {
            channel: self.channel,
            client: self.client,
            pool: self.pool,
            timeouts: self.timeouts,
            out: self.out,
            input: self.input,
            waits: self.waits,
            deaf: self.deaf,
            fault: self.fault,
            mail_limits: None,
            watch,
        }
    }
}

impl<S: Peer, W: Watch> Transfer<S, W> {
    pub(super) fn is_too_late(&self) -> bool {
        self.mail_limits.is_some_and(|limits| Instant::now() >= limits.last_byte_by)
    }

    /// The limits of a mail that begins now.
    fn limits_of(&self, bytes: u64) -> MailLimits {
        let (now, whole) = (Instant::now(), self.timeouts.of_mail(bytes));
        let last_byte_by = now + whole - self.timeouts.data_end.min(whole / 2);
        MailLimits { last_byte_by, end_by: now + whole }
    }

    /// How long a reply may take.
    fn limit_of(&self, stage: Stage) -> Duration {
        let left = self.mail_limits.map(|limits| until(limits.end_by));
        self.timeouts.of(stage).min(left.unwrap_or(Duration::MAX))
    }

    /// How long a write of the body may take: a peer that reads slowly must not get the end late.
    pub(super) fn block_limit(&self) -> Duration {
        let left = self.mail_limits.map(|limits| until(limits.last_byte_by));
        self.timeouts.data_block.min(left.unwrap_or(Duration::MAX))
    }

    /// Greeting, EHLO, and STARTTLS if the client asks for it: `start_tls` makes the handshake within
    /// the deadline that is set. Afterwards mail may be sent.
    pub async fn handshake(
        &mut self,
        start_tls: impl AsyncFnOnce(&mut Channel<S>, &ChunkPool) -> Result<(), S::Fault>,
    ) -> Result<(), Fault> {
        if self.advance().await == ClientStep::StartTls {
            self.secure(start_tls).await;
            self.advance().await;
        }
        match self.client.fault() {
            None => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// Sends one mail. On a connection that has ended, all its recipients are `Lost`.
    pub async fn send<B: BodySource>(&mut self, mail: &Mail<'_>, body: &mut B) -> Sent {
        self.hear_what_came().await;
        self.send_heard(mail, body).await
    }

    /// As `send`, but without asking the kernel for input that has arrived since the last reply, which
    /// saves a call per mail. The end of the connection is then noticed too late: for callers that
    /// have just read a reply and may lose a mail.
    pub async fn send_at_once<B: BodySource>(&mut self, mail: &Mail<'_>, body: &mut B) -> Sent {
        self.hear(self.channel.has_input()).await;
        self.send_heard(mail, body).await
    }

    async fn send_heard<B: BodySource>(&mut self, mail: &Mail<'_>, body: &mut B) -> Sent {
        if !self.client.is_ready() {
            let lost = Outcome::Lost { after_body: false };
            let outcomes = vec![lost; mail.recipients.len()];
            return Sent { outcomes, relayed_without_dsn: false };
        }
        self.client.begin(mail);
        self.mail_limits = Some(self.limits_of(mail.bytes));
        while let ClientStep::SendBody(form) = self.advance().await {
            self.send_body(form, mail.bytes, body).await;
        }
        self.mail_limits = None;
        let relayed_without_dsn = self.client.relayed_without_dsn();
        let outcomes = self.client.take_outcomes();
        self.out.shrink_to(OUT_BYTES_KEPT);
        Sent { outcomes, relayed_without_dsn }
    }

    /// Sends QUIT if the peer may still read it, and closes.
    pub async fn quit(mut self) {
        if self.client.is_ready() {
            self.client.quit();
            self.advance().await;
        }
        if !self.deaf {
            self.channel.stream().set_deadline_in(self.timeouts.quit);
            // The connection ends either way.
            let _ = self.channel.close().await;
        }
        self.release();
    }

    /// Whether another mail may be sent.
    pub fn is_ready(&self) -> bool {
        self.client.is_ready()
    }

    /// Why the connection has ended.
    pub fn fault(&self) -> Option<&Fault> {
        self.client.fault()
    }

    /// The fault of the transport behind it.
    pub fn transport_fault(&self) -> Option<&S::Fault> {
        self.fault.as_ref()
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn channel(&self) -> &Channel<S> {
        &self.channel
    }

    /// Writes and reads until the client has another step.
    async fn advance(&mut self) -> ClientStep {
        let mut asked = None;
        loop {
            self.feed();
            if let Some(stage) = asked.filter(|_| self.client.has_reply()) {
                self.watch.on_reply(stage);
            }
            match self.client.next(&mut self.out) {
                ClientStep::Read(stage) => {
                    asked = Some(stage);
                    self.converse(stage).await;
                }
                // A reply before the body refuses it.
                ClientStep::SendBody(_) if self.input.is_some() => asked = Some(Stage::End),
                step => return step,
            }
        }
    }

    async fn converse(&mut self, stage: Stage) {
        if let Some((chunk, at)) = &self.input {
            // Input that precedes the command is no reply to it, unless it is a 421.
            if !self.out.is_empty() && !chunk.bytes()[*at..].starts_with(b"421") {
                self.client.fail(Fault::Unasked);
            }
            return;
        }
        if !self.out.is_empty()
            && let Err(fault) = self.write(self.limit_of(stage)).await
        {
            self.on_write_fault(fault, stage);
            return;
        }
        self.read(stage).await;
    }

    /// Writes `out`.
    pub(super) async fn write(&mut self, limit: Duration) -> Result<(), S::Fault> {
        self.channel.stream().set_deadline_in(limit);
        self.watch.on_write();
        let (written, out) = self.channel.write(std::mem::take(&mut self.out)).await;
        self.out = out;
        written
    }

    /// Which limit has ended a wait.
    fn time_fault(&self, stage: Stage) -> Fault {
        match self.mail_limits.is_some_and(|limits| until(limits.end_by).is_zero()) {
            true => Fault::TooSlow,
            false => Fault::TimedOut(stage),
        }
    }

    /// The peer may have sent a reply before it closed the connection.
    pub(super) fn on_write_fault(&mut self, fault: S::Fault, stage: Stage) {
        self.deaf = true;
        if S::is_timeout(&fault) {
            self.client.fail(self.time_fault(stage));
        }
        self.fault.get_or_insert(fault);
    }

    async fn read(&mut self, stage: Stage) {
        if !std::mem::replace(&mut self.waits, true) {
            let limit = self.limit_of(stage);
            let limit = if self.deaf { limit.min(LAST_WORDS) } else { limit };
            self.channel.stream().set_deadline_in(limit);
        }
        loop {
            match self.channel.read(&self.pool, None).await {
                Ok(chunk) => return self.input = Some((chunk, 0)),
                Err(fault) if self.channel.stream().may_read_again(&fault).await => {}
                Err(fault) => {
                    let timed_out = S::is_timeout(&fault) && !self.deaf;
                    self.client.fail(match timed_out {
                        true => self.time_fault(stage),
                        false => Fault::Ended,
                    });
                    self.deaf = true;
                    self.fault.get_or_insert(fault);
                    return;
                }
            }
        }
    }

    /// Under TLS the input may be a session ticket alone, which is ignored.
    async fn read_briefly(&mut self) {
        self.channel.stream().set_deadline_in(TICKET_WAIT);
        match self.channel.read(&self.pool, None).await {
            Ok(chunk) => self.input = Some((chunk, 0)),
            Err(fault) if S::is_timeout(&fault) => {}
            Err(fault) => {
                self.client.fail(Fault::Ended);
                self.deaf = true;
                self.fault.get_or_insert(fault);
            }
        }
    }

    /// Gives the client one reply of the input.
    fn feed(&mut self) {
        let Some((chunk, at)) = &mut self.input else { return };
        *at += self.client.feed(&chunk.bytes()[*at..]);
        if *at == chunk.len() {
            self.release();
        }
        if self.client.has_reply() {
            self.waits = false;
        }
    }

    fn release(&mut self) {
        if let Some((chunk, _)) = self.input.take() {
            self.pool.give(chunk);
        }
    }

    /// Input that arrived while the connection was idle: most often its end, or a 421.
    async fn hear_what_came(&mut self) {
        let may_come = self.client.is_ready();
        let came = may_come && (self.channel.has_input() || self.channel.stream().has_unread());
        self.hear(came).await;
    }

    /// Reads once if input has arrived, and gives the client all of it.
    async fn hear(&mut self, came: bool) {
        if !self.client.is_ready() {
            return;
        }
        match (self.input.is_none() && came, self.channel.is_tls()) {
            (true, false) => self.read(Stage::Rset).await,
            (true, true) => self.read_briefly().await,
            (false, _) => {}
        }
        while self.client.is_ready() {
            let fed = self.input.is_some();
            self.feed();
            self.client.next(&mut self.out);
            if !fed {
                break;
            }
        }
        self.waits = false;
    }

    async fn secure(
        &mut self,
        start_tls: impl AsyncFnOnce(&mut Channel<S>, &ChunkPool) -> Result<(), S::Fault>,
    ) {
        if self.input.is_some() {
            return self.client.fail(Fault::InputBeforeTls);
        }
        self.channel.stream().set_deadline_in(self.timeouts.starttls);
        match start_tls(&mut self.channel, &self.pool).await {
            Ok(()) => {
                self.watch.on_tls();
                self.client.on_tls(&mut self.out);
            }
            Err(fault) => {
                self.deaf = true;
                self.client.fail(Fault::TlsFailed);
                self.fault.get_or_insert(fault);
            }
        }
    }
}

fn until(at: Instant) -> Duration {
    at.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
