//! Reads bodies from the socket into chunks, by DATA (dots) or BDAT (counts).
//!
//! Promise:  between socket and store, only the header block and bytes read together with a command are
//!           copied. Each final dot or LAST ends exactly one message.
//!           Every byte is treated once, in order, as body or as input. Pending input is copied first
//!           and consumed once the length of the body in it is known; the socket is read only while no
//!           input is pending.
//! Order:    354 is flushed before the body is read; the reply to the body after the commit.
//! Bounds:   see `receiving`, and one chunk of input after the end of a body. A body slower than the
//!           minimum rate ends the session.

use std::time::Instant;

use crate::base::Chunk;
use crate::inbound::flow::CHUNK_RETRY;
use crate::inbound::receiving::Meter;
use crate::inbound::receiving::Receiving;
use crate::inbound::session::End;
use crate::inbound::session::Session;
use crate::observe::Stage;
use crate::observe::label::BodyRefusal;
use crate::observe::label::SessionState;
use crate::rt::timer;
use crate::submit::Accepted;
use crate::wire::smtp::dot::DotDecoder;
use crate::wire::smtp::line::LineEnding;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::line_law::LineLaw;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::BodyMode;
use crate::wire::smtp::server::BodyOutcome;
use crate::wire::smtp::server::Step;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Transaction;

/// How the reading of a body ended.
enum Received {
    Whole,
    Fault(LineFault),
    /// The message was refused, but its sender keeps sending.
    Flood,
}

impl Session {
    pub(super) async fn receive_body(
        &mut self,
        mode: BodyMode,
        tx: &Transaction<'_>,
    ) -> Result<Step, End> {
        match mode {
            BodyMode::Dot => {
                self.begin_receiving(tx);
                self.flush().await?;
                let received = self.receive_dot().await?;
                self.end_body(received, tx).await
            }
            BodyMode::Counted { bytes, last } => {
                if self.receiving.is_none() {
                    self.begin_receiving(tx);
                }
                // RFC 3030 s3: a binary body has no lines.
                let is_binary = tx.params.body == BodyType::BinaryMime;
                let law = (!is_binary).then_some(self.line_ending);
                let received = self.receive_counted(bytes, law).await?;
                if last && let Some(law) = law {
                    self.end_lines(law).await?;
                }
                let refused =
                    self.receiving.as_ref().is_some_and(|receiving| receiving.is_refused());
                if last || refused {
                    return self.end_body(received, tx).await;
                }
                Ok(self.server.on_body(BodyOutcome::ChunkKept { bytes }, 0, &mut self.out))
            }
            BodyMode::Swallow { bytes } => {
                self.swallow(bytes).await?;
                Ok(self.server.on_swallowed(tx.recipients.len(), &mut self.out))
            }
        }
    }

    /// The message under way.
    fn begun(&mut self) -> &mut Receiving {
        self.receiving.as_mut().expect("a message is begun before its body is read")
    }

    async fn receive_dot(&mut self) -> Result<Received, End> {
        let ending = self.line_ending;
        let mut decoder = DotDecoder::new();
        loop {
            let Some((mut chunk, noted)) = self.receive_some(u64::MAX).await? else {
                return Ok(Received::Flood);
            };
            let decoded = match ending {
                LineEnding::Strict => decoder.decode(&mut chunk.bytes_mut()[noted..]),
                LineEnding::Normalise => {
                    let mut plain = Vec::with_capacity(chunk.len() - noted + 512);
                    let fresh = &chunk.bytes()[noted..];
                    let decoded = decoder.decode_normalising(fresh, &mut plain);
                    if let Ok(decoded) = &decoded {
                        self.split_input(&chunk, noted + decoded.consumed, noted).await?;
                        chunk.truncate(noted);
                        self.put_normalised(chunk, noted, &plain).await;
                        if decoded.end {
                            return Ok(Received::Whole);
                        }
                        continue;
                    }
                    decoded
                }
            };
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(fault) => {
                    self.reception.pool.give(chunk);
                    return Ok(Received::Fault(fault));
                }
            };
            self.split_input(&chunk, noted + decoded.consumed, noted).await?;
            chunk.truncate(noted + decoded.kept);
            self.keep_received(chunk, noted).await;
            if decoded.end {
                return Ok(Received::Whole);
            }
        }
    }

    /// Fills the current chunk from pending input, or by one read. Returns the chunk and where its
    /// fresh bytes start; `None` when a refused body does not end. Call `split_input` next. At most
    /// `missing` bytes of input are copied: copying all of it for each of many small chunks would
    /// be quadratic.
    async fn receive_some(&mut self, missing: u64) -> Result<Option<(Chunk, usize)>, End> {
        if self.begun().is_flooded() {
            return Ok(None);
        }
        if !self.input.is_empty() {
            // These bytes were read together with a command.
            let mut chunk = self.take_chunk().await?;
            let noted = chunk.len();
            let pending = self.input.pending();
            chunk.fill_from(&pending[..part_of(missing, pending.len())]);
            return Ok(Some((chunk, noted)));
        }
        // A client may wait for the replies to MAIL and RCPT before it sends its chunk.
        self.flush().await?;
        self.input.drop_all(&self.reception.pool);
        let is_fresh = self.begun().is_fresh();
        let timeouts = &self.policy.timeouts;
        let limit = if is_fresh { timeouts.data_init } else { timeouts.data_block };
        let current = self.begun().take_current();
        let noted = current.as_ref().map_or(0, |chunk| chunk.len());
        self.channel.stream().deadline().set_in(limit);
        let began = Instant::now();
        let read = self.read(current).await;
        let chunk = read.map_err(|fault| self.end_of(fault, SessionState::Body))?;
        let rate = self.policy.rate;
        if self.begun().meter.is_too_slow(chunk.len() - noted, began, &rate) {
            return Err(End::TooSlow);
        }
        Ok(Some((chunk, noted)))
    }

    /// Splits the chunk that `receive_some` returned: its bytes from `noted` to `end` are body, the
    /// bytes after `end` are input.
    async fn split_input(&mut self, chunk: &Chunk, end: usize, noted: usize) -> Result<(), End> {
        if !self.input.is_empty() {
            // The bytes are a copy of pending input, which still contains the rest.
            self.input.consume(end - noted);
            return Ok(());
        }
        let rest = &chunk.bytes()[end..];
        if rest.is_empty() {
            return Ok(());
        }
        let mut behind = self.free_chunk().await?;
        let filled = behind.fill_from(rest);
        assert_eq!(filled, rest.len(), "the rest of one chunk fits into another");
        self.input.put(behind);
        Ok(())
    }

    /// Returns the current chunk, or waits for an empty one from the pool.
    async fn take_chunk(&mut self) -> Result<Chunk, End> {
        match self.receiving.as_mut().and_then(|receiving| receiving.take_current()) {
            Some(chunk) => Ok(chunk),
            None => self.free_chunk().await,
        }
    }

    async fn free_chunk(&mut self) -> Result<Chunk, End> {
        self.channel.stream().deadline().set_in(self.policy.timeouts.data_block);
        loop {
            if let Some(chunk) = self.reception.pool.try_take() {
                return Ok(chunk);
            }
            if self.channel.stream().deadline().expired() {
                return Err(End::TimedOut(SessionState::Body));
            }
            timer::sleep(CHUNK_RETRY).await;
        }
    }

    async fn put_normalised(&mut self, mut chunk: Chunk, noted: usize, plain: &[u8]) {
        let mut rest = plain;
        let mut from = noted;
        loop {
            let filled = chunk.fill_from(rest);
            rest = &rest[filled..];
            self.keep_received(chunk, from).await;
            if rest.is_empty() {
                return;
            }
            match self.take_chunk().await {
                Ok(next) => chunk = next,
                Err(_) => {
                    let reply = Reply::new(452, (4, 3, 1), "Too much mail in progress");
                    return self.begun().refuse(reply, BodyRefusal::Memory);
                }
            }
            from = chunk.len();
        }
    }

    async fn keep_received(&mut self, chunk: Chunk, noted: usize) {
        self.begun().put_current(chunk, noted).await;
    }

    /// Receives exactly `bytes` bytes of any value (RFC 3030 s2). A chunk with forbidden line endings
    /// is read to its end before it is refused.
    async fn receive_counted(
        &mut self,
        bytes: u64,
        law: Option<LineEnding>,
    ) -> Result<Received, End> {
        let mut missing = bytes;
        while missing > 0 {
            let Some((mut chunk, noted)) = self.receive_some(missing).await? else {
                return Ok(Received::Flood);
            };
            let ours = part_of(missing, chunk.len() - noted);
            self.split_input(&chunk, noted + ours, noted).await?;
            chunk.truncate(noted + ours);
            missing -= ours as u64;
            match law {
                None => self.keep_received(chunk, noted).await,
                Some(LineEnding::Strict) => {
                    self.judge_lines(|lines| lines.judge(&chunk.bytes()[noted..]));
                    self.keep_received(chunk, noted).await;
                }
                Some(LineEnding::Normalise) => {
                    let mut plain = Vec::with_capacity(ours + 512);
                    self.judge_lines(|lines| lines.normalise(&chunk.bytes()[noted..], &mut plain));
                    chunk.truncate(noted);
                    self.put_normalised(chunk, noted, &plain).await;
                }
            }
        }
        Ok(Received::Whole)
    }

    /// Checks the end of a body received by BDAT: a CR at the end is a bare CR.
    async fn end_lines(&mut self, law: LineEnding) -> Result<(), End> {
        let receiving =
            self.receiving.as_ref().expect("a message is begun before its body is read");
        let missing = receiving.lines.normalised_end();
        if law == LineEnding::Strict {
            self.judge_lines(|lines| lines.judge_end());
        } else if !missing.is_empty() && !receiving.is_refused() {
            let chunk = self.take_chunk().await?;
            let noted = chunk.len();
            self.put_normalised(chunk, noted, missing).await;
        }
        Ok(())
    }

    /// Refuses the body if `judge` finds a forbidden line ending.
    fn judge_lines(&mut self, judge: impl FnOnce(&mut LineLaw) -> Result<(), LineFault>) {
        let receiving = self.begun();
        if !receiving.is_refused()
            && let Err(fault) = judge(&mut receiving.lines)
        {
            receiving.refuse(law_broken(fault), BodyRefusal::LineEnd);
        }
    }

    /// Reads and discards the bytes of a refused chunk.
    async fn swallow(&mut self, bytes: u64) -> Result<(), End> {
        self.flush().await?;
        let mut missing = bytes;
        let mut meter = Meter::default();
        loop {
            let ours = part_of(missing, self.input.pending().len());
            self.input.consume(ours);
            missing -= ours as u64;
            if missing == 0 {
                return Ok(());
            }
            // The start of an earlier line may be pending in front of them.
            if !self.input.is_empty() {
                continue;
            }
            self.channel.stream().deadline().set_in(self.policy.timeouts.data_block);
            let began = Instant::now();
            self.fill(SessionState::Body).await?;
            if meter.is_too_slow(self.input.pending().len(), began, &self.policy.rate) {
                return Err(End::TooSlow);
            }
        }
    }

    async fn end_body(&mut self, received: Received, tx: &Transaction<'_>) -> Result<Step, End> {
        let receiving = self.receiving.take().expect("a message is begun before its body is read");
        let recipients = tx.recipients.len();
        let began = receiving.began;
        let (reply, why) = match received {
            Received::Whole => {
                self.record(Stage::Body, began);
                match receiving.finish().await {
                    Ok(accepted) => return self.answer_accepted(&accepted, tx).await,
                    Err(refusal) => refusal,
                }
            }
            Received::Flood => {
                receiving.abandon(&self.reception.pool);
                (Reply::new(521, (5, 3, 4), "Message is far too large"), BodyRefusal::Size)
            }
            Received::Fault(fault) => {
                receiving.abandon(&self.reception.pool);
                (law_broken(fault), BodyRefusal::LineEnd)
            }
        };
        self.reception.metrics().bodies_refused_total.add(why, 1);
        self.emit_refused("body", tx, None, &reply);
        let outcome = match reply.code {
            521 => BodyOutcome::Fatal(reply),
            _ => BodyOutcome::Refused(reply),
        };
        Ok(self.server.on_body(outcome, recipients, &mut self.out))
    }

    /// Tells the client that the message is durable.
    async fn answer_accepted(
        &mut self,
        accepted: &Accepted,
        tx: &Transaction<'_>,
    ) -> Result<Step, End> {
        let text = accepted.id.to_string();
        let outcome = BodyOutcome::Kept { id: &text };
        let step = self.server.on_body(outcome, tx.recipients.len(), &mut self.out);
        self.accepted += 1;
        self.bytes_accepted += accepted.bytes;
        let flushed = self.flush().await;
        self.record(Stage::Accept, accepted.began);
        // The client did not receive the reply and will send the durable message again (RFC 1047).
        flushed?;
        Ok(step)
    }
}

/// How many of `here` bytes belong to a body of which `missing` bytes are still to come.
fn part_of(missing: u64, here: usize) -> usize {
    usize::try_from(missing).map_or(here, |missing| missing.min(here))
}

fn law_broken(fault: LineFault) -> Reply {
    Reply::composed(521, (5, 5, 2), fault.to_string())
}
