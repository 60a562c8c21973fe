//! One session without I/O: input becomes replies and steps.
//!
//! Promise:  the ledger has every accepted copy of a message before its reply is returned, and no
//!           other. A refused body is swallowed to its end. Once the sink stops, no body is accepted.
//! Leniency: as smtp-sink: lines may end in LF, EHLO is optional, addresses are not checked.
//! Bounds:   a command line of `LINE_BYTES_MAX`, `RECIPIENTS_MAX` recipients of a message (`greeting`).

mod greeting;
mod transfer;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ringpost::wire::smtp::command::Command;
use ringpost::wire::smtp::command::Verb;

use crate::random::Purpose;
use crate::random::Random;
use crate::sink::behaviour::Action;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Moment;
use crate::sink::body::Scan;
use crate::sink::dot::DotEnd;
use crate::sink::marks::Mark;
use crate::sink::marks::count;
use crate::sink::state::State;

/// A longer line gets 500 and is swallowed.
const LINE_BYTES_MAX: usize = 8192;

pub const CLOSING: &[u8] = b"421 4.3.2 The sink is shutting down\r\n";
const OK: &[u8] = b"250 2.0.0 Ok\r\n";
const BYE: &[u8] = b"221 2.0.0 Bye\r\n";
const TLS_READY: &[u8] = b"220 2.0.0 Ready to start TLS\r\n";
const UNVERIFIED: &[u8] = b"252 2.0.0 Cannot verify the address\r\n";
const UNKNOWN: &[u8] = b"500 5.5.1 Unknown command\r\n";
const BAD_ORDER: &[u8] = b"503 5.5.1 Bad sequence of commands\r\n";
const BAD_SYNTAX: &[u8] = b"501 5.5.4 Syntax error\r\n";
const TOO_LONG: &[u8] = b"500 5.5.2 Line too long\r\n";

/// What the session must do with the replies so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Wait before the reply of this step.
    pub delay: Duration,
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Go,
    Close,
    Drop,
    StartTls,
}

const GO: Step = Step { delay: Duration::ZERO, then: Then::Go };

impl Step {
    pub fn is_plain(&self) -> bool {
        *self == GO
    }

    fn then(then: Then) -> Step {
        Step { delay: Duration::ZERO, then }
    }

    fn after(self, delay: Duration) -> Step {
        Step { delay: self.delay + delay, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Commands,
    /// The rest of a line that is too long.
    SkipLine,
    /// The remaining lines of an AUTH exchange.
    Auth {
        lines: u8,
    },
    Data,
    Chunk(Chunk),
}

/// The rest of a BDAT chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    left: u64,
    last: bool,
    /// Its command was refused.
    swallow: bool,
}

/// An accepted recipient.
#[derive(Clone, Copy, Debug)]
struct Recipient {
    hash: u64,
    /// Of its domain.
    behaviour: Option<usize>,
}

/// A behaviour that counts this connection.
#[derive(Clone, Copy, Debug)]
struct Met {
    behaviour: usize,
    messages: u32,
}

/// The instants from which latencies count.
#[derive(Clone, Copy, Debug)]
struct Clock {
    connected: Instant,
    /// The last input.
    read: Instant,
    /// The last output.
    wrote: Instant,
    mail: Instant,
    body: Instant,
}

pub struct Dialogue {
    state: Rc<State>,
    peer: SocketAddr,
    random: Random,
    phase: Phase,
    /// The begin of an incomplete line.
    held: Vec<u8>,
    is_tls: bool,
    has_sender: bool,
    sender: Vec<u8>,
    recipients: Vec<Recipient>,
    /// A part of the body has come by BDAT.
    in_chunks: bool,
    dot: DotEnd,
    scan: Scan,
    met: Vec<Met>,
    tarpit: Option<u32>,
    clock: Clock,
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.state.marks.record(Mark::Session, self.clock.connected.elapsed());
        if let Some(behaviours) = self.state.behaviours() {
            self.met.iter().for_each(|met| behaviours.get(met.behaviour).disconnect());
        }
    }
}

impl Dialogue {
    pub fn new(state: Rc<State>, peer: SocketAddr) -> Dialogue {
        let number = state.shared.next_session.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        Dialogue {
            is_tls: state.settings.options.tls,
            random: Random::new(state.settings.options.seed).of(Purpose::Session, number),
            state,
            peer,
            phase: Phase::Commands,
            held: Vec::new(),
            has_sender: false,
            sender: Vec::new(),
            recipients: Vec::new(),
            in_chunks: false,
            dot: DotEnd::new(),
            scan: Scan::new(),
            met: Vec::new(),
            tarpit: None,
            clock: Clock { connected: now, read: now, wrote: now, mail: now, body: now },
        }
    }

    pub fn on_read(&mut self, now: Instant) {
        self.clock.read = now;
    }

    pub fn on_written(&mut self, now: Instant) {
        self.clock.wrote = now;
    }

    /// All commands of the last input have been answered.
    pub fn on_answered(&self) {
        let Clock { read, wrote, .. } = self.clock;
        self.state.marks.record(Mark::Answer, wrote.saturating_duration_since(read));
    }

    fn record_command(&self, mark: Mark) {
        // Input that came before our last output was not waited for.
        let Clock { read, wrote, .. } = self.clock;
        if let Some(took) = read.checked_duration_since(wrote) {
            self.state.marks.record(mark, took);
        }
    }

    /// Bytes per second at which replies are written, if slowed.
    pub fn tarpit(&self) -> Option<u32> {
        self.tarpit
    }

    pub fn on_connect(&mut self, out: &mut Vec<u8>) -> Step {
        let default = self.state.behaviours().and_then(|all| all.of_default());
        self.tarpit = default.and_then(|own| own.tarpit_bytes_per_second);
        match self.meet_default(Moment::Connect, out) {
            Ok(delay) => {
                let options = &self.state.settings.options;
                let protocol = if options.lmtp { "LMTP" } else { "ESMTP" };
                out.extend(format!("220 {} {protocol}\r\n", options.hostname).bytes());
                GO.after(delay)
            }
            // A refused connection has no session.
            Err(Step { delay, then: Then::Go }) => Step { delay, then: Then::Close },
            Err(step) => step,
        }
    }

    /// RFC 3207 s4.2: state from before TLS is discarded.
    pub fn on_tls(&mut self) {
        self.is_tls = true;
        self.held.clear();
        self.reset();
    }

    /// Takes one command or one piece of a body. No step: all input was taken, more is needed.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        match self.phase {
            Phase::Data => self.data(input, out),
            Phase::Chunk(chunk) => self.chunk(input, chunk, out),
            Phase::Commands | Phase::Auth { .. } | Phase::SkipLine => self.cut(input, out),
        }
    }

    fn cut(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.phase != Phase::SkipLine {
                self.held.extend_from_slice(input);
                if self.held.len() > LINE_BYTES_MAX {
                    self.held.clear();
                    self.phase = Phase::SkipLine;
                }
            }
            return (input.len(), None);
        };
        if self.phase == Phase::SkipLine {
            self.phase = Phase::Commands;
            return (end + 1, Some(self.refuse(TOO_LONG, out)));
        }
        if self.held.is_empty() {
            let step = self.line(&input[..end], out);
            return (end + 1, Some(step));
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&input[..end]);
        let step = self.line(&held, out);
        held.clear();
        self.held = held;
        (end + 1, Some(step))
    }

    /// A line without its LF.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.state.show(">", line);
        if let Phase::Auth { lines } = self.phase {
            return self.auth_line(line, lines, out);
        }
        let Command { verb, argument } = Command::parse(line);
        match verb {
            Verb::Mail => self.mail(argument, out),
            Verb::Rcpt => self.rcpt(argument, out),
            Verb::Bdat => self.bdat(argument, out),
            Verb::Data => self.begin_data(out),
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.hello(verb, out),
            Verb::Rset => {
                self.reset();
                say(OK, out)
            }
            Verb::Noop => say(OK, out),
            Verb::Vrfy => say(UNVERIFIED, out),
            Verb::Quit => {
                self.record_command(Mark::Quit);
                count(&self.state.tally.quits, 1);
                out.extend_from_slice(BYE);
                Step::then(Then::Close)
            }
            Verb::Auth => self.auth(argument, out),
            Verb::StartTls if self.is_tls || self.state.settings.tls.is_none() => {
                self.refuse(BAD_ORDER, out)
            }
            Verb::StartTls => {
                out.extend_from_slice(TLS_READY);
                Step::then(Then::StartTls)
            }
            _ => self.refuse(UNKNOWN, out),
        }
    }

    /// Applies the default behaviour. `Err`: the command was refused, or the connection ends.
    fn meet_default(&mut self, moment: Moment, out: &mut Vec<u8>) -> Result<Duration, Step> {
        let state = Rc::clone(&self.state);
        match state.behaviours().and_then(|all| all.of_default()) {
            Some(own) => self.meet(own, moment, out),
            None => Ok(Duration::ZERO),
        }
    }

    fn meet(
        &mut self,
        own: &Behaviour,
        moment: Moment,
        out: &mut Vec<u8>,
    ) -> Result<Duration, Step> {
        let delay = own.delay(moment, &mut self.random);
        let step = match own.action(moment, &mut self.random) {
            Action::Proceed => return Ok(delay),
            Action::Reply(text) => self.refuse(text, out),
            Action::Drop => {
                count(&self.state.tally.broken_off, 1);
                Step::then(Then::Drop)
            }
        };
        Err(step.after(delay))
    }

    /// Replies, and ends the session if the reply is 421.
    fn refuse(&mut self, reply: &[u8], out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(reply);
        let tally = &self.state.tally;
        let soft = reply.first() == Some(&b'4');
        count(if soft { &tally.soft_refusals } else { &tally.hard_refusals }, 1);
        if !reply.starts_with(b"421") {
            return GO;
        }
        count(&tally.broken_off, 1);
        Step::then(Then::Close)
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.recipients.clear();
        self.in_chunks = false;
    }
}

fn say(reply: &[u8], out: &mut Vec<u8>) -> Step {
    out.extend_from_slice(reply);
    GO
}
