//! The sans-I/O server as a peer: a minimal driver, and a gate that refuses senders and recipients
//! at `refused.test`, and bodies from `full@...`.

use std::sync::Arc;

use bumpalo::Bump;
use ringpost::wire::mail::ReversePath;
use ringpost::wire::smtp::BodyMode;
use ringpost::wire::smtp::BodyOutcome;
use ringpost::wire::smtp::BodyType;
use ringpost::wire::smtp::DotDecoder;
use ringpost::wire::smtp::LineEnding;
use ringpost::wire::smtp::LineFault;
use ringpost::wire::smtp::LineLaw;
use ringpost::wire::smtp::Protocol;
use ringpost::wire::smtp::Question;
use ringpost::wire::smtp::Reply;
use ringpost::wire::smtp::Server;
use ringpost::wire::smtp::ServerConfig;
use ringpost::wire::smtp::Step;
use ringpost::wire::smtp::Transaction;
use ringpost::wire::smtp::Verdict;

use crate::dialogue::Peer;
use crate::dialogue::script::Settings;

const REFUSED: Reply = Reply::new(550, (5, 7, 1), "Not here");
const FULL: Reply = Reply::new(452, (4, 3, 1), "No room");
const TOO_BIG: Reply = Reply::new(552, (5, 3, 4), "Message exceeds the size limit");

pub struct MachinePeer {
    server: Server,
    size_max: u64,
    ending: LineEnding,
    tx: Transaction<'static>,
    receiving: Receiving,
    input: Vec<u8>,
    body: Vec<u8>,
    /// The CRLF check of a body that is not binary.
    lines: LineLaw,
    broken: Option<LineFault>,
    kept: Vec<Vec<u8>>,
    out: Vec<u8>,
    /// Bytes of `out` that were returned as replies.
    read: usize,
    started_tls: bool,
}

enum Receiving {
    Commands,
    Dot(DotDecoder),
    Chunk { bytes: u64, left: u64, last: bool },
    Swallow { left: u64 },
    Closed,
}

impl MachinePeer {
    pub fn new(settings: &Settings) -> MachinePeer {
        let ending = if settings.normalise { LineEnding::Normalise } else { LineEnding::Strict };
        let config = ServerConfig {
            hostname: "mx.test".into(),
            banner: "ESMTP ready".into(),
            protocol: if settings.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            size_max: settings.size_max,
            recipients_max: settings.recipients_max,
            messages_max: settings.messages_max,
            commands_max: settings.commands_max,
            errors_max: settings.errors_max,
            line_ending: ending,
            starttls: settings.starttls,
            tls_required: settings.tls_required,
            xclient: settings.xclient,
            reject_pipelining_violations: settings.pipelining_check,
        };
        let mut server = Server::new(Arc::new(config), settings.tls);
        let mut out = Vec::new();
        server.greet(&mut out);
        MachinePeer {
            server,
            size_max: settings.size_max,
            ending,
            tx: blank(),
            receiving: Receiving::Commands,
            input: Vec::new(),
            body: Vec::new(),
            lines: LineLaw::default(),
            broken: None,
            kept: Vec::new(),
            out,
            read: 0,
            started_tls: false,
        }
    }

    /// All replies so far.
    pub fn said(&self) -> String {
        String::from_utf8(self.out.clone()).expect("replies are ASCII")
    }

    pub fn has_started_tls(&self) -> bool {
        self.started_tls
    }

    /// Runs until more input is needed.
    fn drive(&mut self) {
        loop {
            let step = match &mut self.receiving {
                Receiving::Closed => return self.input.clear(),
                Receiving::Commands => self.next(),
                Receiving::Dot(decoder) => {
                    match decode(decoder, self.ending, &mut self.input, &mut self.body) {
                        Ok(false) => return,
                        Ok(true) => self.finish_body(),
                        Err(fault) => self.refuse_body(fault),
                    }
                }
                Receiving::Chunk { bytes, left, last } => {
                    let taken = take(left, &mut self.input);
                    let (bytes, left, last) = (*bytes, *left, *last);
                    self.keep_chunk(&taken, left == 0 && last);
                    match (left, last, self.broken.take()) {
                        (0, _, Some(fault)) => self.refuse_body(fault),
                        (0, true, None) => self.finish_body(),
                        (0, false, None) => self.finish_chunk(bytes),
                        (.., broken) => return self.broken = broken,
                    }
                }
                Receiving::Swallow { left } => {
                    take(left, &mut self.input);
                    if *left > 0 {
                        return;
                    }
                    self.server.on_swallowed(self.tx.recipients.len(), &mut self.out)
                }
            };
            if self.perform(step) {
                return;
            }
        }
    }

    fn next(&mut self) -> Step {
        let (consumed, step) = self.server.next(&self.input, &mut self.tx, &mut self.out);
        self.input.drain(..consumed);
        step
    }

    /// Carries out a step; `true` if the server waits for input.
    fn perform(&mut self, step: Step) -> bool {
        self.receiving = Receiving::Commands;
        match step {
            Step::NeedInput => return true,
            Step::Continue => {}
            Step::Ask(question) => {
                let verdict = self.judge(question);
                let more = !self.input.is_empty();
                let step = self.server.on_verdict(verdict, more, &mut self.tx, &mut self.out);
                return self.perform(step);
            }
            Step::ReceiveBody(BodyMode::Dot) => {
                self.receiving = Receiving::Dot(DotDecoder::new());
            }
            Step::ReceiveBody(BodyMode::Counted { bytes, last }) => {
                self.receiving = Receiving::Chunk { bytes, left: bytes, last };
            }
            Step::ReceiveBody(BodyMode::Swallow { bytes }) => {
                self.receiving = Receiving::Swallow { left: bytes };
            }
            Step::StartTls => {
                self.input.clear();
                self.started_tls = true;
                self.server.on_tls_started();
            }
            Step::Xclient(_) => self.server.on_xclient(&mut self.out),
            Step::Reset => {
                self.tx = blank();
                self.body.clear();
                self.lines = LineLaw::default();
            }
            Step::Close => self.receiving = Receiving::Closed,
        }
        false
    }

    fn judge(&self, question: Question) -> Verdict {
        let sender = match self.tx.sender {
            Some(ReversePath::Mailbox(mailbox)) => Some(mailbox),
            _ => None,
        };
        let refusal = match question {
            Question::Helo => (self.server.helo() == Some("refused.test")).then_some(REFUSED),
            Question::Mail => {
                sender.is_some_and(|who| who.domain() == "refused.test").then_some(REFUSED)
            }
            Question::Recipient => {
                let candidate = self.tx.candidate.expect("the question has a candidate").mailbox;
                let unwanted = candidate.domain() == "refused.test" || candidate.is_rerouting();
                unwanted.then_some(REFUSED)
            }
            Question::Body => sender.is_some_and(|who| who.local() == "full").then_some(FULL),
        };
        refusal.map_or(Verdict::Accept, Verdict::Refuse)
    }

    fn finish_body(&mut self) -> Step {
        let recipients = self.tx.recipients.len();
        let body = std::mem::take(&mut self.body);
        if self.size_max != 0 && body.len() as u64 > self.size_max {
            return self.server.on_body(BodyOutcome::Refused(TOO_BIG), recipients, &mut self.out);
        }
        self.kept.push(body);
        self.server.on_body(BodyOutcome::Kept { id: "TEST" }, recipients, &mut self.out)
    }

    /// Stores a chunk, and checks it unless the body is binary.
    fn keep_chunk(&mut self, taken: &[u8], end: bool) {
        if self.tx.params.body == BodyType::BinaryMime {
            return self.body.extend_from_slice(taken);
        }
        let judged = match self.ending {
            LineEnding::Normalise => self.lines.normalise(taken, &mut self.body),
            LineEnding::Strict => self.lines.judge(taken),
        };
        let ended = match self.ending {
            LineEnding::Normalise if end => {
                self.body.extend_from_slice(self.lines.normalised_end());
                Ok(())
            }
            LineEnding::Strict => {
                self.body.extend_from_slice(taken);
                if end { self.lines.judge_end() } else { Ok(()) }
            }
            LineEnding::Normalise => Ok(()),
        };
        self.broken = self.broken.or(judged.and(ended).err());
    }

    fn refuse_body(&mut self, fault: LineFault) -> Step {
        let reply = Reply::composed(521, (5, 5, 2), fault.to_string());
        let recipients = self.tx.recipients.len();
        self.server.on_body(BodyOutcome::Fatal(reply), recipients, &mut self.out)
    }

    fn finish_chunk(&mut self, bytes: u64) -> Step {
        let refused = self.body.ends_with(b"unwelcome");
        let outcome =
            if refused { BodyOutcome::Refused(REFUSED) } else { BodyOutcome::ChunkKept { bytes } };
        self.server.on_body(outcome, self.tx.recipients.len(), &mut self.out)
    }
}

impl Peer for MachinePeer {
    fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.drive();
    }

    fn receive_reply(&mut self) -> Option<String> {
        let start = self.read;
        while let Some(length) = memchr::memmem::find(&self.out[self.read..], b"\r\n") {
            let line = &self.out[self.read..self.read + length];
            assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{line:?} is unclean");
            self.read += length + 2;
            if line[3] == b' ' {
                let reply = self.out[start..self.read].to_vec();
                return Some(String::from_utf8(reply).expect("the text is ASCII"));
            }
        }
        assert_eq!(start, self.out.len(), "an incomplete reply");
        None
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.receiving, Receiving::Closed)
    }

    fn start_tls(&mut self) {
        assert!(self.started_tls, "the server has not started TLS");
    }

    fn kept(&mut self) -> Option<(usize, Vec<u8>)> {
        Some((self.kept.len(), self.kept.last().cloned().unwrap_or_default()))
    }

    fn all_kept(&mut self) -> Vec<Vec<u8>> {
        self.kept.clone()
    }
}

/// Leaks an arena, so that a transaction can refer to it until the test ends.
fn blank() -> Transaction<'static> {
    Transaction::new_in(Box::leak(Box::new(Bump::new())))
}

/// Moves body bytes from `input` to `body`; `true` at the end of the body.
fn decode(
    decoder: &mut DotDecoder,
    ending: LineEnding,
    input: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> Result<bool, LineFault> {
    let decoded = match ending {
        LineEnding::Normalise => decoder.decode_normalising(input, body)?,
        LineEnding::Strict => {
            let decoded = decoder.decode(input)?;
            body.extend_from_slice(&input[..decoded.kept]);
            decoded
        }
    };
    input.drain(..decoded.consumed);
    Ok(decoded.end)
}

fn take(left: &mut u64, input: &mut Vec<u8>) -> Vec<u8> {
    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= count as u64;
    input.drain(..count).collect()
}
