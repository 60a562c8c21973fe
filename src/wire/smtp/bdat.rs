//! Bodies: DATA (RFC 5321 s4.1.1.4), BDAT (RFC 3030), and the replies after them.
//!
//! Promise:  the bytes after a BDAT are never read as commands, even if its line is malformed
//!           (`BDAT<TAB>9`). The announced bytes are received or swallowed; if the number is
//!           unreadable, the session ends.
//! Bounds:   `SWALLOW_BYTES_MAX` for a refused chunk; a larger one closes the session.

use crate::base::limits::SWALLOW_BYTES_MAX;
use crate::wire::smtp::bdat_line::Announced;
use crate::wire::smtp::params;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::BodyMode;
use crate::wire::smtp::server::BodyOutcome;
use crate::wire::smtp::server::FAILED;
use crate::wire::smtp::server::More;
use crate::wire::smtp::server::NEED_TLS;
use crate::wire::smtp::server::NO_MAIL;
use crate::wire::smtp::server::Phase;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::server::Server;
use crate::wire::smtp::server::Step;
use crate::wire::smtp::server::Verdict;
use crate::wire::smtp::server::Waiting;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Transaction;

const GO_AHEAD: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";

const DATA_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "DATA takes no argument");
const SIZE_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Bad chunk size in BDAT, closing");
const MARKER_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Syntax: BDAT size [LAST]");
const NO_RECIPIENT: Reply = Reply::new(503, (5, 5, 1), "Send RCPT first");
const NONE_VALID: Reply = Reply::new(554, (5, 5, 1), "No valid recipients");
const NONE_VALID_LMTP: Reply = Reply::new(503, (5, 5, 1), "No valid recipients");
const DATA_AFTER_BDAT: Reply = Reply::new(503, (5, 5, 1), "DATA after BDAT, send RSET first");
const BINARY: Reply = Reply::new(503, (5, 5, 1), "BODY=BINARYMIME requires BDAT");
const NOT_EXTENDED: Reply = Reply::new(503, (5, 5, 1), "BDAT needs EHLO");

impl Server {
    pub(super) fn data(
        &mut self,
        argument: &[u8],
        tx: &Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let refusal = match self.phase {
            Phase::Fresh => self.say_hello(),
            Phase::Ready => NO_MAIL,
            Phase::Failed => FAILED,
            Phase::Chunks => return self.fail(&DATA_AFTER_BDAT, tx.recipients.len(), out),
            Phase::Envelope if !argument.is_empty() => DATA_SYNTAX,
            // RFC 3030 s3: a binary body may contain CRLF.CRLF.
            Phase::Envelope if tx.params.body == BodyType::BinaryMime => BINARY,
            Phase::Envelope if tx.recipients.is_empty() => self.lack_of_recipients(),
            Phase::Envelope => {
                self.waiting = Waiting::Data;
                return Step::Ask(Question::Body);
            }
        };
        self.refuse(&refusal, out)
    }

    /// RFC 3030 s2: only RSET is accepted after this, so nothing of the message is kept.
    fn fail(&mut self, reply: &Reply, recipients: usize, out: &mut Vec<u8>) -> Step {
        match self.refuse(reply, out) {
            Step::Continue => self.leave_failed(recipients),
            step => step,
        }
    }

    /// RFC 5321 s3.3 and RFC 2033 s4.2.
    fn lack_of_recipients(&self) -> Reply {
        match (self.recipients, self.is_lmtp()) {
            (0, _) => NO_RECIPIENT,
            (_, false) => NONE_VALID,
            (_, true) => NONE_VALID_LMTP,
        }
    }

    /// With pipelined input a refused DATA also ends the session: the input may be the body.
    pub(super) fn on_data_verdict(
        &mut self,
        verdict: Verdict,
        more: More,
        out: &mut Vec<u8>,
    ) -> Step {
        if more == More::Follows && self.config.reject_pipelining_violations {
            return self.end_for_violation(out);
        }
        match verdict {
            Verdict::Refuse(reply) => self.refuse(&reply, out),
            Verdict::Accept => {
                out.extend_from_slice(GO_AHEAD);
                self.waiting = Waiting::Dot;
                Step::ReceiveBody(BodyMode::Dot)
            }
        }
    }

    pub(super) fn bdat(
        &mut self,
        argument: &[u8],
        tx: &Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let Some(announced) = Announced::parse(argument) else {
            return self.end(&SIZE_SYNTAX, out);
        };
        if let Some(reply) = self.chunk_refusal(announced, tx) {
            return self.swallow(announced, reply, out);
        }
        let Announced { bytes, last, .. } = announced;
        if self.phase == Phase::Envelope {
            self.waiting = Waiting::FirstChunk { bytes, last };
            return Step::Ask(Question::Body);
        }
        self.receive_chunk(bytes, last)
    }

    /// Refuses a malformed BDAT: after its chunk, or by ending the session if the size is
    /// unreadable.
    #[cold]
    pub(super) fn malformed_bdat(
        &mut self,
        line: &[u8],
        tx: &Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        match Announced::parse_malformed(line) {
            None => self.end(&SIZE_SYNTAX, out),
            Some(announced) => {
                let reply = self.chunk_refusal(announced, tx).unwrap_or(MARKER_SYNTAX);
                self.swallow(announced, reply, out)
            }
        }
    }

    fn chunk_refusal(&self, announced: Announced, tx: &Transaction<'_>) -> Option<Reply> {
        match self.phase {
            _ if self.lacks_tls() => return Some(NEED_TLS),
            _ if announced.garbled => return Some(MARKER_SYNTAX),
            Phase::Fresh => return Some(self.say_hello()),
            _ if !self.is_esmtp() => return Some(NOT_EXTENDED),
            Phase::Ready => return Some(NO_MAIL),
            Phase::Failed => return Some(FAILED),
            Phase::Envelope if tx.recipients.is_empty() => return Some(self.lack_of_recipients()),
            Phase::Envelope | Phase::Chunks => {}
        }
        let size_max = self.config.size_max;
        let all = self.chunk_bytes.saturating_add(announced.bytes);
        (size_max != 0 && all > size_max).then_some(params::TOO_BIG)
    }

    fn receive_chunk(&mut self, bytes: u64, last: bool) -> Step {
        self.chunk_bytes = self.chunk_bytes.saturating_add(bytes);
        self.waiting = Waiting::Chunk { last };
        Step::ReceiveBody(BodyMode::Counted { bytes, last })
    }

    pub(super) fn on_chunk_verdict(
        &mut self,
        verdict: Verdict,
        bytes: u64,
        last: bool,
        out: &mut Vec<u8>,
    ) -> Step {
        match verdict {
            Verdict::Accept => self.receive_chunk(bytes, last),
            Verdict::Refuse(reply) => {
                self.swallow(Announced { bytes, last, garbled: false }, reply, out)
            }
        }
    }

    /// RFC 3030 s2: the bytes of a refused chunk are read and dropped before the refusal is sent.
    fn swallow(&mut self, announced: Announced, reply: Reply, out: &mut Vec<u8>) -> Step {
        let Announced { bytes, last, .. } = announced;
        if bytes > SWALLOW_BYTES_MAX || reply.ends_session() {
            return self.end(&reply, out);
        }
        self.waiting = Waiting::Swallow { reply: Box::new(reply), last };
        Step::ReceiveBody(BodyMode::Swallow { bytes })
    }

    /// The bytes of a refused chunk were dropped. In LMTP the last chunk gets one reply for each
    /// accepted recipient (RFC 2033 s4.2), like any other body.
    pub fn on_swallowed(&mut self, recipients: usize, out: &mut Vec<u8>) -> Step {
        let Waiting::Swallow { reply, last } = self.stop_waiting() else {
            panic!("the session does not swallow a chunk");
        };
        match self.phase {
            Phase::Fresh | Phase::Ready => self.refuse(&reply, out),
            // Pipelined chunks after a failure do not count as further errors.
            Phase::Failed => {
                let recipients = self.failed_recipients;
                (0..self.replies(last, recipients)).for_each(|_| reply.write(out));
                self.leave_refused(last, recipients)
            }
            Phase::Envelope | Phase::Chunks => {
                (1..self.replies(last, recipients)).for_each(|_| reply.write(out));
                self.refuse(&reply, out);
                self.leave_refused(last, recipients)
            }
        }
    }

    /// Number of replies to a body or a chunk (RFC 2033 s4.2).
    fn replies(&self, last: bool, recipients: usize) -> usize {
        if last && self.is_lmtp() { recipients.max(1) } else { 1 }
    }

    /// The phase after a refused body or chunk.
    fn leave_refused(&mut self, last: bool, recipients: usize) -> Step {
        if last { self.leave_for(Phase::Ready) } else { self.leave_failed(recipients) }
    }

    /// The body or the chunk was read. In LMTP each accepted recipient gets a reply (RFC 2033
    /// s4.2); in SMTP there is one reply.
    pub fn on_body(
        &mut self,
        outcome: BodyOutcome<'_>,
        recipients: usize,
        out: &mut Vec<u8>,
    ) -> Step {
        let last = match self.stop_waiting() {
            Waiting::Dot => true,
            Waiting::Chunk { last } => last,
            other => panic!("a body ended while the session waits for {other:?}"),
        };
        let replies = self.replies(last, recipients);
        match outcome {
            BodyOutcome::Kept { id } => {
                assert!(last, "only the last chunk completes a message");
                (0..replies).for_each(|_| push_kept(id, out));
                self.leave_for(Phase::Ready)
            }
            BodyOutcome::ChunkKept { bytes } => {
                assert!(!last, "the last chunk completes the message");
                push_chunk_kept(bytes, out);
                self.phase = Phase::Chunks;
                Step::Continue
            }
            BodyOutcome::Refused(reply) => {
                (1..replies).for_each(|_| reply.write(out));
                match self.refuse(&reply, out) {
                    Step::Continue => self.leave_refused(last, recipients),
                    step => step,
                }
            }
            BodyOutcome::Fatal(reply) => {
                (1..replies).for_each(|_| reply.write(out));
                self.end(&reply, out)
            }
        }
    }

    fn stop_waiting(&mut self) -> Waiting {
        std::mem::replace(&mut self.waiting, Waiting::Nothing)
    }
}

fn push_kept(id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"250 2.0.0 Ok: queued as ");
    reply::push_printable(id.as_bytes(), out);
    out.extend_from_slice(b"\r\n");
}

fn push_chunk_kept(bytes: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"250 2.0.0 Ok: ");
    reply::push_decimal(bytes, out);
    out.extend_from_slice(b" octets\r\n");
}
