//! One message while it is received by SMTP: header block, then body, or discarded after a refusal.
//!
//! Owner:    one session, from the first body byte to the commit or the refusal.
//! Promise:  every byte is counted and passed to the intake exactly once, or the message is refused
//!           and its bytes are read and discarded. Only the header block is copied.
//! Bounds:   one chunk being filled, in addition to those of the intake.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::Chunk;
use crate::base::ChunkPool;
use crate::base::limits::SWALLOW_BYTES_MAX;
use crate::inbound::policy::MinimumRate;
use crate::observe::label::BodyRefusal;
use crate::submit::Accepted;
use crate::submit::Incoming;
use crate::submit::Intake;
use crate::submit::Refusal;
use crate::submit::RefusalCode;
use crate::submit::Submission;
use crate::submit::head::Fed;
use crate::submit::intake::BodySlot;
use crate::wire::smtp::line_law::LineLaw;
use crate::wire::smtp::reply::Reply;

/// A chunk with less room is stored as it is: a read into few bytes costs as much as one into many.
const ROOM_WORTH_A_READ: usize = 4096;

/// Limits that are checked while bytes arrive.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// 0 for no limit.
    pub size_max: u64,
    pub line_bytes_max: Option<u64>,
}

/// A message being received.
pub struct Receiving {
    pub began: Instant,
    pub meter: Meter,
    intake: Rc<Intake>,
    limits: MessageLimits,
    bytes: u64,
    swallowed: u64,
    /// Bytes of the current line, if the length of lines is limited.
    line_bytes: u64,
    /// Checks the line endings of a body received by BDAT.
    pub lines: LineLaw,
    current: Option<Chunk>,
    /// Where the body begins in the current chunk.
    body_from: usize,
    stage: Stage,
    slot: BodySlot,
}

enum Stage {
    /// The header block of the submission is being filled.
    Head(Box<Submission>),
    Body(Incoming),
    /// The rest of the message is read and discarded.
    Refused(Reply, BodyRefusal),
    /// Placeholder while one stage is replaced by the next.
    Between,
}

impl Receiving {
    pub fn new(
        intake: &Rc<Intake>,
        limits: MessageLimits,
        submission: Box<Submission>,
    ) -> Receiving {
        Receiving {
            began: submission.envelope.content_began,
            meter: Meter::default(),
            intake: Rc::clone(intake),
            limits,
            bytes: 0,
            swallowed: 0,
            line_bytes: 0,
            lines: LineLaw::default(),
            current: None,
            body_from: 0,
            stage: Stage::Head(submission),
            slot: intake.take_body_slot(),
        }
    }

    /// Whether the client has sent so much of a refused message that it will not stop by itself.
    pub fn is_flooded(&self) -> bool {
        self.swallowed > SWALLOW_BYTES_MAX
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.stage, Stage::Refused(..))
    }

    /// Whether no byte of the message has arrived.
    pub fn is_fresh(&self) -> bool {
        self.bytes == 0
    }

    /// Takes the chunk that is being filled, if there is one.
    pub fn take_current(&mut self) -> Option<Chunk> {
        self.current.take()
    }

    /// Puts the chunk back; its bytes from `fresh` on are new.
    pub async fn put_current(&mut self, mut chunk: Chunk, fresh: usize) {
        self.measure(&chunk.bytes()[fresh..]);
        if let Stage::Head(submission) = &mut self.stage {
            let head = &mut submission.head;
            let fed = head.feed(&chunk.bytes()[fresh..]);
            match fed.and_then(|fed| self.slot.count_head(head.block().len()).map(|()| fed)) {
                Ok(Fed::More) => chunk.truncate(0),
                Ok(Fed::End { body_from }) => {
                    self.body_from = fresh + body_from;
                    self.begin().await;
                }
                Err(code) => self.refuse_with(Refusal::new(code)),
            }
        }
        let pool = self.intake.pool();
        match &mut self.stage {
            Stage::Head(_) => self.current = Some(chunk),
            Stage::Body(incoming) => {
                if chunk.room().len() >= ROOM_WORTH_A_READ && !chunk.is_empty() {
                    self.current = Some(chunk);
                } else {
                    let from = std::mem::take(&mut self.body_from);
                    if let Err(refusal) = incoming.push(chunk, from).await {
                        self.refuse_with(refusal);
                    }
                }
            }
            Stage::Refused(..) | Stage::Between => {
                self.swallowed += (chunk.len() - fresh) as u64;
                pool.give(chunk);
            }
        }
        self.judge();
    }

    /// Refuses the message: the rest of it is read and discarded.
    pub fn refuse(&mut self, reply: Reply, why: BodyRefusal) {
        self.stage = Stage::Refused(reply, why);
        if let Some(chunk) = self.current.take() {
            self.intake.pool().give(chunk);
        }
    }

    /// Drops the message because the session ended or the transaction was reset.
    pub fn abandon(mut self: Box<Receiving>, pool: &ChunkPool) {
        if let Some(chunk) = self.current.take() {
            pool.give(chunk);
        }
    }

    /// Commits the complete message, or returns the refusal.
    pub async fn finish(mut self: Box<Receiving>) -> Result<Accepted, (Reply, BodyRefusal)> {
        if let Stage::Head(submission) = &mut self.stage {
            submission.head.finish();
            if let Some(chunk) = self.current.take() {
                self.intake.pool().give(chunk);
            }
            self.begin().await;
        }
        let current = self.current.take();
        let mut incoming = match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Body(incoming) => incoming,
            Stage::Refused(reply, why) => return Err((reply, why)),
            Stage::Head(_) | Stage::Between => {
                return Err(answer(Refusal::new(RefusalCode::Aborted)));
            }
        };
        if let Some(chunk) = current {
            incoming.push(chunk, self.body_from).await.map_err(answer)?;
        }
        incoming.finish().await.map_err(answer)
    }

    /// Passes the complete header block to the intake.
    async fn begin(&mut self) {
        let Stage::Head(submission) = std::mem::replace(&mut self.stage, Stage::Between) else {
            return;
        };
        match self.intake.begin(submission).await {
            Ok(incoming) => self.stage = Stage::Body(incoming),
            Err(refusal) => self.refuse_with(refusal),
        }
    }

    fn refuse_with(&mut self, refusal: Refusal) {
        let why = refusal.label();
        self.refuse(refusal.reply, why);
    }

    fn measure(&mut self, fresh: &[u8]) {
        self.bytes += fresh.len() as u64;
        let Some(line_bytes_max) = self.limits.line_bytes_max else { return };
        if self.is_refused() {
            return;
        }
        for line in fresh.split_inclusive(|byte| *byte == b'\n') {
            self.line_bytes += line.len() as u64;
            if self.line_bytes > line_bytes_max {
                // One long line is enough: from now on no line end resets the count.
                self.line_bytes = u64::MAX >> 1;
                return;
            }
            if line.ends_with(b"\n") {
                self.line_bytes = 0;
            }
        }
    }

    /// Checks the limits between two chunks, so that a refusal frees the current chunk.
    fn judge(&mut self) {
        if self.is_refused() {
            return;
        }
        let limits = self.limits;
        if limits.size_max > 0 && self.bytes > limits.size_max {
            self.refuse_with(Refusal::new(RefusalCode::MessageTooLarge));
        } else if limits.line_bytes_max.is_some_and(|most| self.line_bytes > most) {
            self.refuse_with(Refusal::new(RefusalCode::LineTooLong));
        }
    }
}

fn answer(refusal: Refusal) -> (Reply, BodyRefusal) {
    let why = refusal.label();
    (refusal.reply, why)
}

/// Measures the speed of one body. Only time spent waiting for the client counts, not for the disk.
#[derive(Default)]
pub struct Meter {
    waited: Duration,
    bytes: u64,
}

impl Meter {
    pub fn is_too_slow(&mut self, bytes: usize, read_began: Instant, rate: &MinimumRate) -> bool {
        self.bytes += bytes as u64;
        self.waited += read_began.elapsed();
        self.waited > rate.grace && self.bytes < rate.bytes_per_second * self.waited.as_secs()
    }
}
