//! The second half of a transaction: DATA or BDAT, the body, and its reply.

use std::rc::Rc;
use std::time::Duration;

use crate::process::wall_us;
use crate::sink::behaviour::Moment;
use crate::sink::body::Form;
use crate::sink::dot::DOT_BYTES;
use crate::sink::marks::Mark;
use crate::sink::marks::count;

use super::BAD_ORDER;
use super::BAD_SYNTAX;
use super::CLOSING;
use super::Chunk;
use super::Clock;
use super::Dialogue;
use super::GO;
use super::OK;
use super::Phase;
use super::Recipient;
use super::Step;
use super::Then;
use super::say;

const START_BODY: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";
const NO_RECIPIENTS: &[u8] = b"554 5.5.1 No valid recipients\r\n";

impl Dialogue {
    pub(super) fn begin_data(&mut self, out: &mut Vec<u8>) -> Step {
        let delay = match self.begin_body(out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        if self.in_chunks {
            return self.refuse(BAD_ORDER, out).after(delay);
        }
        self.dot.begin();
        self.scan.begin(Form::Data);
        self.phase = Phase::Data;
        say(START_BODY, out).after(delay)
    }

    /// At DATA and the first BDAT: the behaviour of the first recipient's domain.
    fn begin_body(&mut self, out: &mut Vec<u8>) -> Result<Duration, Step> {
        self.record_command(Mark::Data);
        self.clock.body = self.clock.read;
        let Some(first) = self.recipients.first().copied() else {
            let reply = if self.has_sender { NO_RECIPIENTS } else { BAD_ORDER };
            return Err(self.refuse(reply, out));
        };
        let state = Rc::clone(&self.state);
        match (first.behaviour, state.behaviours()) {
            (Some(place), Some(all)) => self.meet(all.get(place), Moment::Data, out),
            _ => Ok(Duration::ZERO),
        }
    }

    pub(super) fn bdat(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let bytes = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(left), Some(last)) = (bytes, last) else {
            // The begin of the next command is unknown.
            out.extend_from_slice(BAD_SYNTAX);
            return Step::then(Then::Close);
        };
        let mut delay = Duration::ZERO;
        if !self.in_chunks {
            let before = out.len();
            match self.begin_body(out) {
                Ok(own) => delay = own,
                // RFC 3030 s2: the chunk follows even if its command is refused.
                Err(step) => {
                    if last {
                        self.repeat(&step, before, out);
                    }
                    return self.begin_chunk(Chunk { left, last, swallow: true }, step, out);
                }
            }
            self.scan.begin(Form::Chunks);
        }
        self.in_chunks = true;
        self.begin_chunk(Chunk { left, last, swallow: false }, GO.after(delay), out)
    }

    fn begin_chunk(&mut self, chunk: Chunk, step: Step, out: &mut Vec<u8>) -> Step {
        self.phase = Phase::Chunk(chunk);
        if chunk.left > 0 || step.then != Then::Go {
            return step;
        }
        // A chunk of 0 bytes ends with its command.
        self.end_chunk(chunk, out).after(step.delay)
    }

    pub(super) fn chunk(
        &mut self,
        input: &[u8],
        mut chunk: Chunk,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Step>) {
        let used = usize::try_from(chunk.left).map_or(input.len(), |left| left.min(input.len()));
        match chunk.swallow {
            true => count(&self.state.tally.body_bytes, used as u64),
            false => self.take_body(&input[..used]),
        }
        chunk.left -= used as u64;
        self.phase = Phase::Chunk(chunk);
        let step = (chunk.left == 0).then(|| self.end_chunk(chunk, out));
        (used, step)
    }

    fn end_chunk(&mut self, chunk: Chunk, out: &mut Vec<u8>) -> Step {
        self.phase = Phase::Commands;
        match (chunk.swallow, chunk.last) {
            // Its command was answered. RFC 3030 s2: the transaction is over, so that later chunks
            // do not become a message without a header.
            (true, _) => {
                self.reset();
                GO
            }
            (false, true) => self.finish(out),
            (false, false) => say(OK, out),
        }
    }

    pub(super) fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let Some(end) = self.dot.find(input) else {
            self.take_body(input);
            return (input.len(), None);
        };
        // If the dot came in the piece before, the scan has removed it.
        self.take_body(&input[..end.saturating_sub(DOT_BYTES)]);
        self.phase = Phase::Commands;
        (end, Some(self.finish(out)))
    }

    fn take_body(&mut self, piece: &[u8]) {
        count(&self.state.tally.body_bytes, piece.len() as u64);
        self.scan.feed(piece, &mut self.state.ledger.borrow_mut());
    }

    /// The body is complete.
    fn finish(&mut self, out: &mut Vec<u8>) -> Step {
        if self.state.shared.is_stopping() {
            out.extend_from_slice(CLOSING);
            return Step::then(Then::Close);
        }
        // The body of DATA begins with our reply, the last output.
        let Clock { read, wrote, mail, body, .. } = self.clock;
        let begin = if self.in_chunks { body } else { body.max(wrote) };
        self.state.marks.record(Mark::Body, read.saturating_duration_since(begin));
        let took = read.saturating_duration_since(mail);
        let state = Rc::clone(&self.state);
        let lmtp = state.settings.options.lmtp;
        let subject = self.scan.end(&mut state.ledger.borrow_mut());
        let behaviours = state.behaviours();
        let recipients = std::mem::take(&mut self.recipients);
        let (mut delay, mut accepted, mut end) = (Duration::ZERO, 0, Then::Go);
        let now_us = wall_us();
        for (place, recipient) in recipients.iter().enumerate() {
            // LMTP has a result per recipient; in SMTP the first one decides for all.
            let own = recipient.behaviour.filter(|_| lmtp || place == 0);
            if let (Some(own), Some(behaviours)) = (own, behaviours) {
                match self.meet(behaviours.get(own), Moment::End, out) {
                    Ok(own) => delay = delay.max(own),
                    Err(step) if lmtp => {
                        delay = delay.max(step.delay);
                        end = step.then;
                        if end == Then::Go { continue } else { break }
                    }
                    Err(step) => {
                        self.reset();
                        return step;
                    }
                }
            }
            accepted += 1;
            state.keep_copy(&subject, recipient.hash, now_us);
            if lmtp {
                out.extend_from_slice(OK);
            }
        }
        self.recipients = recipients;
        if !lmtp {
            out.extend_from_slice(OK);
        }
        if accepted > 0 {
            count(&state.tally.messages, 1);
            count(&state.tally.copies, accepted);
            state.keep_message(&subject, now_us, (took, read));
            state.end_message();
        }
        self.count_met();
        self.reset();
        Step { delay, then: end }
    }

    /// RFC 2033 s4.2: LMTP repeats the refusal of a whole body for each recipient.
    fn repeat(&self, step: &Step, before: usize, out: &mut Vec<u8>) {
        if self.state.settings.options.lmtp && step.then == Then::Go {
            let reply = out.split_off(before);
            (0..self.recipients.len().max(1)).for_each(|_| out.extend_from_slice(&reply));
        }
    }

    fn count_met(&mut self) {
        for met in &mut self.met {
            let own = |recipient: &&Recipient| recipient.behaviour == Some(met.behaviour);
            met.messages += u32::from(self.recipients.iter().any(|one| own(&one)));
        }
    }
}
