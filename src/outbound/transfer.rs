//! One connection to one server: the driver of `wire::smtp::Client`.
//!
//! Owner:    one worker of the shard that owns the destination.
//! Promise:  every recipient of a message has one outcome when `send` returns, whatever the server, the
//!           network or the source of the body did. If a body cannot be read completely, its end is
//!           never sent, so that the server cannot accept a truncated message. A body sent by DATA
//!           never contains a bare CR, a bare LF or a NUL, whatever is stored, because a server could
//!           take part of it for the end of the message (SMTP smuggling). Such a message fails
//!           permanently at this server. It is not rewritten, which would break its signatures.
//! Waits:    each write and each reply has the time limit of its stage (`ClientTimeouts`), also a reply
//!           that arrives byte by byte.
//! Body:     a short body is sent in one write with its BDAT and its end. A long one is sent in
//!           vectored writes of its own bytes, with dots between them; under TLS the pieces are
//!           gathered, because encryption copies them anyway.
//! Memory:   `GATHER_BYTES_MAX` and one piece while a body is sent; between messages, a small buffer.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::chunk::Chunk;
use crate::base::chunk::ChunkPool;
use crate::net::socket::SocketFault;
use crate::net::stream::Channel;
use crate::net::stream::Transport;
use crate::net::tls_fault::TlsFault;
use crate::rt::Stream;
use crate::rt::timer;
use crate::wire::smtp::client::Client;
use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::BodyForm;
use crate::wire::smtp::client_step::ClientStep;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::line_law::LineLaw;
use crate::wire::smtp::stuff::Stuffer;

/// Bytes that are put together before they are written.
const GATHER_BYTES_MAX: usize = 64 << 10;
/// Parts of one vectored write. A piece with more lines that start with a dot is gathered.
const PARTS_MAX: usize = 64;
/// Memory for commands that an idle connection keeps.
const OUT_BYTES_KEPT: usize = 1024;
/// How long is listened for the last words of a peer to which nothing more can be written.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long is waited under TLS for what stands behind bytes that have come to an idle connection.
const TICKET_WAIT: Duration = Duration::from_millis(20);
/// How long a read waits that found no chunk for its plaintext.
const CHUNK_RETRY: Duration = Duration::from_millis(20);

/// How long each wait may take. RFC 5321 s4.5.3.2 where it names one; a greeting is not waited
/// for five minutes, for there are other peers and other times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    pub greeting: Duration,
    /// And each reply to AUTH.
    pub ehlo: Duration,
    /// The reply to STARTTLS, and then the handshake.
    pub starttls: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    /// DATA, until its 354.
    pub data_init: Duration,
    /// Each write of the body.
    pub data_block: Duration,
    /// The reply to the whole message. Too short, and mail is delivered twice.
    pub data_end: Duration,
    pub rset: Duration,
    pub quit: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> ClientTimeouts {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        ClientTimeouts {
            greeting: Duration::from_secs(30),
            ehlo: minutes(2),
            starttls: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data_init: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            rset: Duration::from_secs(20),
            quit: Duration::from_secs(5),
        }
    }
}

impl ClientTimeouts {
    fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Greeting => self.greeting,
            Stage::Ehlo | Stage::Auth => self.ehlo,
            Stage::StartTls => self.starttls,
            Stage::Mail => self.mail,
            Stage::Rcpt => self.rcpt,
            Stage::Data => self.data_init,
            Stage::End => self.data_end,
            Stage::Rset => self.rset,
            Stage::Quit => self.quit,
        }
    }
}

/// A transport with deadlines and vectored writes.
// A shard's futures never leave their thread, so nothing asks whether they are `Send`.
#[allow(async_fn_in_trait)]
pub trait Peer: Transport {
    /// From now on, every wait together may take so long.
    fn set_deadline_in(&self, limit: Duration);

    fn is_timeout(fault: &Self::Fault) -> bool;

    /// Whether a read would not wait: bytes have come in, or the connection has ended.
    fn has_unread(&self) -> bool;

    /// Whether the fault passes if the read is tried again, which has been waited for.
    async fn may_read_again(&self, fault: &Self::Fault) -> bool;

    /// Writes all of `parts`, in their order. None is empty.
    async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), Self::Fault> {
        self.write(parts.concat()).await.0
    }
}

impl Peer for Stream {
    fn set_deadline_in(&self, limit: Duration) {
        self.deadline().set_in(limit);
    }

    fn is_timeout(fault: &SocketFault) -> bool {
        fault.is_timeout()
    }

    fn has_unread(&self) -> bool {
        self.is_readable()
    }

    async fn may_read_again(&self, fault: &SocketFault) -> bool {
        if *fault != SocketFault::Tls(TlsFault::NoChunk) || self.deadline().expired() {
            return false;
        }
        timer::sleep(CHUNK_RETRY).await;
        true
    }

    async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), SocketFault> {
        Ok(Stream::write_parts(self, parts).await?)
    }
}

/// The body could not be read to its end. Its owner knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyUnreadable;

/// Where a body comes from, piece by piece: `Mail::bytes` in all, or it is not sent.
#[allow(async_fn_in_trait)]
pub trait BodySource {
    type Piece: AsRef<[u8]>;

    /// `None` behind the last piece.
    async fn next(&mut self) -> Option<Result<Self::Piece, BodyUnreadable>>;
}

/// A body that is in memory.
impl<'p, P: AsRef<[u8]>> BodySource for std::slice::Iter<'p, P> {
    type Piece = &'p P;

    async fn next(&mut self) -> Option<Result<&'p P, BodyUnreadable>> {
        Iterator::next(self).map(Ok)
    }
}

/// Who is told when something is written and answered. Delivery has `()`, which compiles to nothing;
/// a load generator measures by it.
///
/// Commands that leave in one write are answered one by one: each reply then counts from that write.
pub trait Watch {
    /// A write begins: of commands, or of a part of a body.
    fn on_write(&mut self);

    /// The reply has come in whole. At AUTH there may be several, under LMTP one for each recipient
    /// at `Stage::End`.
    fn on_reply(&mut self, stage: Stage);

    /// The TLS handshake behind STARTTLS is done.
    fn on_tls(&mut self);
}

impl Watch for () {
    #[inline]
    fn on_write(&mut self) {}

    #[inline]
    fn on_reply(&mut self, _: Stage) {}

    #[inline]
    fn on_tls(&mut self) {}
}

/// What came of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Of each recipient, in the order of the mail.
    pub outcomes: Vec<Outcome>,
    /// What was asked of DSN was left out; see `Client::relayed_without_dsn`.
    pub relayed_without_dsn: bool,
}

/// Why a body was not sent to its end.
enum Unsent<F> {
    Transport(F),
    Source,
    /// The body breaks the line law, and the peer takes DATA only.
    Unlawful(LineFault),
}

/// One connection, from its greeting to its end.
pub struct Transfer<S: Peer, W: Watch = ()> {
    channel: Channel<S>,
    client: Client,
    pool: Rc<ChunkPool>,
    timeouts: ClientTimeouts,
    /// What is to be written.
    out: Vec<u8>,
    /// What has come, and up to where it was fed.
    input: Option<(Chunk, usize)>,
    /// The time of the reply that is waited for runs.
    waits: bool,
    /// Nothing can be written any more.
    deaf: bool,
    fault: Option<S::Fault>,
    /// Behind it the last byte of a mail is not sent.
    last_byte_by: Option<Instant>,
    watch: W,
}

impl<S: Peer> Transfer<S> {
    /// On a connection that has just been made. When it began with TLS, so did `client`.
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
            last_byte_by: None,
            watch: (),
        }
    }

    /// The same connection, of which nothing was written or read so far, with a watch.
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
            last_byte_by: self.last_byte_by,
            watch,
        }
    }
}

impl<S: Peer, W: Watch> Transfer<S, W> {
    /// From then on the mail may be given to another connection, so this one must not end it.
    pub fn set_last_byte_by(&mut self, at: Instant) {
        self.last_byte_by = Some(at);
    }

    fn is_too_late(&self) -> bool {
        self.last_byte_by.is_some_and(|at| Instant::now() >= at)
    }

    /// How long a write of the body may take. A peer that reads slowly must not get its end late.
    fn block_limit(&self) -> Duration {
        let left = self.last_byte_by.map(|at| at.saturating_duration_since(Instant::now()));
        self.timeouts.data_block.min(left.unwrap_or(Duration::MAX))
    }

    /// Greeting, EHLO, and STARTTLS if it is wanted: `start_tls` starts it and shakes hands, within
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

    /// Sends one mail. On a connection that has ended all its recipients are `Lost`.
    pub async fn send<B: BodySource>(&mut self, mail: &Mail<'_>, body: &mut B) -> Sent {
        self.hear_what_came().await;
        self.send_heard(mail, body).await
    }

    /// As `send`, by whoever has just had the last reply and minds no lost mail: what has come since
    /// is not looked for in the kernel, and so is heard too late. It saves a call for each mail.
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
        while let ClientStep::SendBody(form) = self.advance().await {
            self.send_body(form, mail.bytes, body).await;
        }
        let relayed_without_dsn = self.client.relayed_without_dsn();
        let outcomes = self.client.take_outcomes();
        self.out.shrink_to(OUT_BYTES_KEPT);
        Sent { outcomes, relayed_without_dsn }
    }

    /// Says goodbye as far as the peer will hear it, and closes.
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

    /// Why the connection is over.
    pub fn fault(&self) -> Option<&Fault> {
        self.client.fault()
    }

    /// What the transport had to say to that.
    pub fn transport_fault(&self) -> Option<&S::Fault> {
        self.fault.as_ref()
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn channel(&self) -> &Channel<S> {
        &self.channel
    }

    /// Writes and reads until something else is to be done.
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
                // A peer that speaks before it has the body refuses it.
                ClientStep::SendBody(_) if self.input.is_some() => asked = Some(Stage::End),
                step => return step,
            }
        }
    }

    async fn converse(&mut self, stage: Stage) {
        if let Some((chunk, at)) = &self.input {
            // What came before the command was written is no answer to it. A 421 needs no question.
            if !self.out.is_empty() && !chunk.bytes()[*at..].starts_with(b"421") {
                self.client.fail(Fault::Unasked);
            }
            return;
        }
        if !self.out.is_empty()
            && let Err(fault) = self.write(self.timeouts.of(stage)).await
        {
            self.on_write_fault(fault, stage);
            return;
        }
        self.read(stage).await;
    }

    /// Writes `out`.
    async fn write(&mut self, limit: Duration) -> Result<(), S::Fault> {
        self.channel.stream().set_deadline_in(limit);
        self.watch.on_write();
        let (written, out) = self.channel.write(std::mem::take(&mut self.out)).await;
        self.out = out;
        written
    }

    /// The peer may have said why before it closed.
    fn on_write_fault(&mut self, fault: S::Fault, stage: Stage) {
        self.deaf = true;
        if S::is_timeout(&fault) {
            self.client.fail(Fault::TimedOut(stage));
        }
        self.fault.get_or_insert(fault);
    }

    async fn read(&mut self, stage: Stage) {
        if !std::mem::replace(&mut self.waits, true) {
            let limit = self.timeouts.of(stage);
            let limit = if self.deaf { limit.min(LAST_WORDS) } else { limit };
            self.channel.stream().set_deadline_in(limit);
        }
        loop {
            match self.channel.read(&self.pool, None).await {
                Ok(chunk) => return self.input = Some((chunk, 0)),
                Err(fault) if self.channel.stream().may_read_again(&fault).await => {}
                Err(fault) => {
                    let timed_out = S::is_timeout(&fault) && !self.deaf;
                    self.client.fail(if timed_out { Fault::TimedOut(stage) } else { Fault::Ended });
                    self.deaf = true;
                    self.fault.get_or_insert(fault);
                    return;
                }
            }
        }
    }

    /// Under TLS what has come may be no more than a session ticket, which is no matter.
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

    /// Feeds one reply of what has come.
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

    /// What came while the connection was idle: most often its end, or a 421.
    async fn hear_what_came(&mut self) {
        let may_come = self.client.is_ready();
        let came = may_come && (self.channel.has_input() || self.channel.stream().has_unread());
        self.hear(came).await;
    }

    /// Reads once if something came, and feeds what there is.
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

    async fn send_body<B: BodySource>(&mut self, form: BodyForm, bytes: u64, body: &mut B) {
        match self.write_body(form, bytes, body).await {
            Ok(()) => self.client.on_body_sent(),
            Err(Unsent::Source) => {
                self.out.clear();
                self.deaf = true;
                self.client.fail(Fault::BodyBroken);
            }
            Err(Unsent::Unlawful(fault)) => {
                self.out.clear();
                self.deaf = true;
                self.client.refuse_body(fault);
            }
            Err(Unsent::Transport(fault)) => {
                self.out.clear();
                self.client.on_body_broken();
                self.on_write_fault(fault, Stage::End);
            }
        }
    }

    async fn write_body<B: BodySource>(
        &mut self,
        form: BodyForm,
        bytes: u64,
        body: &mut B,
    ) -> Result<(), Unsent<S::Fault>> {
        let mut stuffer = Stuffer::new();
        let mut lines = LineLaw::default();
        let mut left = bytes;
        while left > 0 {
            let piece = body.next().await.ok_or(Unsent::Source)?;
            let piece = piece.map_err(|BodyUnreadable| Unsent::Source)?;
            let piece = piece.as_ref();
            left = left.checked_sub(piece.len() as u64).ok_or(Unsent::Source)?;
            if form == BodyForm::Dot {
                // Judged here and not only at intake, so that mail stored by older versions is
                // covered too. Peers that offer CHUNKING never come here.
                lines.judge(piece).map_err(Unsent::Unlawful)?;
            }
            if left == 0 {
                // The end leaves with the last piece, so that the body must be known to be good.
                no_more(body).await?;
                lines.judge_end().map_err(Unsent::Unlawful)?;
            }
            if self.is_too_late() {
                return Err(Unsent::Source);
            }
            let written = match form {
                BodyForm::Dot => {
                    let segments = stuffer.segments(piece);
                    let end = if left == 0 { stuffer.end() } else { b"" };
                    self.write_piece(piece.len(), segments, end).await
                }
                BodyForm::Chunk => {
                    self.write_piece(piece.len(), Some(piece).into_iter(), b"").await
                }
            };
            written.map_err(Unsent::Transport)?;
        }
        if bytes == 0 {
            no_more(body).await?;
            if self.is_too_late() {
                return Err(Unsent::Source);
            }
            if form == BodyForm::Dot {
                self.out.extend_from_slice(stuffer.end());
            }
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.write(self.block_limit()).await.map_err(Unsent::Transport)
    }

    /// Gathers the piece and what is behind it, or writes it with what was gathered before it.
    async fn write_piece<'p>(
        &mut self,
        bytes: usize,
        segments: impl Iterator<Item = &'p [u8]> + Clone,
        end: &'static [u8],
    ) -> Result<(), S::Fault> {
        let fits = self.out.len() + bytes <= GATHER_BYTES_MAX;
        let is_vectored =
            !fits && !self.channel.is_tls() && segments.clone().nth(PARTS_MAX - 1).is_none();
        if !is_vectored {
            segments.for_each(|segment| self.out.extend_from_slice(segment));
            self.out.extend_from_slice(end);
            if self.out.len() > GATHER_BYTES_MAX {
                self.write(self.block_limit()).await?;
            }
            return Ok(());
        }
        let limit = self.block_limit();
        let gathered = std::mem::take(&mut self.out);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(PARTS_MAX);
        if !gathered.is_empty() {
            parts.push(&gathered);
        }
        // Not `extend`, which would make the gathered bytes live as long as the piece.
        for segment in segments {
            parts.push(segment);
        }
        if !end.is_empty() {
            parts.push(end);
        }
        let stream = self.channel.stream_mut();
        stream.set_deadline_in(limit);
        self.watch.on_write();
        stream.write_parts(&parts).await
    }
}

/// A source that has more to say than the mail has bytes is not believed at all.
async fn no_more<B: BodySource, F>(body: &mut B) -> Result<(), Unsent<F>> {
    while let Some(piece) = body.next().await {
        let is_empty = piece.is_ok_and(|piece| piece.as_ref().is_empty());
        is_empty.then_some(()).ok_or(Unsent::Source)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
