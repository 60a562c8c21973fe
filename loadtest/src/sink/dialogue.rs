//! One session's words: input becomes replies and steps. No I/O.
//!
//! Promise:  every accepted copy of a message is in the ledger before its answer is given out, and
//!           no other. A body that was refused is swallowed to its end. Once the sink is being stopped
//!           no body is accepted, for the ledger may have been taken.
//! Laxness:  as smtp-sink: lines may end in LF, nobody needs to greet, and addresses are not judged.
//! Bounds:   a command line of `LINE_BYTES_MAX`, `RECIPIENTS_MAX` recipients of a message.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use ringpost::wire::smtp::command;
use ringpost::wire::smtp::command::Command;
use ringpost::wire::smtp::command::Verb;

use crate::ledger::hash_of;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Fortune;
use crate::sink::behaviour::Moment;
use crate::sink::body::DotEnd;
use crate::sink::body::Form;
use crate::sink::body::Scan;
use crate::sink::dump::Letter;
use crate::sink::marks::Mark;
use crate::sink::random::Random;
use crate::sink::stage::Refusal;
use crate::sink::stage::Stage;
use crate::sink::state::State;
use crate::sink::state::count;

/// A longer line is answered by 500, and swallowed.
const LINE_BYTES_MAX: usize = 8192;
/// Further ones are answered by 452. smtp-sink has no limit.
const RECIPIENTS_MAX: usize = 50_000;

pub const CLOSING: &[u8] = b"421 4.3.2 The sink is being stopped\r\n";
const LEAVE: &[u8] = b"421 4.0.0 Server closing connection\r\n";
const ABORT: &[u8] = b"550 5.3.0 This is the end of it\r\n";
const GO_ON: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";
const TOO_LONG: &[u8] = b"500 5.5.2 Line too long\r\n";
const GREY: &[u8] = b"451 4.7.1 Greylisted, please try again later\r\n";
const TOO_MANY_CONNECTIONS: &[u8] =
    b"421 4.7.0 Too many concurrent connections from your address, try again later\r\n";
const TOO_MANY_MESSAGES: &[u8] =
    b"421 4.7.0 Too many messages over this connection, please reconnect\r\n";

/// What is to be done once the replies so far are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Before the reply of this step.
    pub delay: Duration,
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Go,
    /// Write, and read no more for so long.
    Hold(Duration),
    Close,
    CloseAfter(Duration, &'static [u8]),
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
    /// What is left of a line that was too long.
    SkipLine,
    /// Lines of an AUTH exchange are still to come.
    Auth {
        lines: u8,
    },
    Data,
    Chunk(Chunk),
}

/// What is still to come of a BDAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    left: u64,
    last: bool,
    /// Its command was refused, and so is what belongs to it.
    swallow: bool,
}

/// A recipient that was accepted.
#[derive(Clone, Copy, Debug)]
struct Recipient {
    hash: u64,
    /// Of its domain.
    behaviour: Option<usize>,
}

/// A behaviour that this connection counts for.
#[derive(Clone, Copy, Debug)]
struct Met {
    behaviour: usize,
    messages: u32,
}

/// The moments that latencies are counted from.
#[derive(Clone, Copy, Debug)]
struct Clock {
    connected: Instant,
    /// Input came.
    read: Instant,
    /// Something was said.
    wrote: Instant,
    mail: Instant,
    body: Instant,
}

impl Clock {
    fn new(now: Instant) -> Clock {
        Clock { connected: now, read: now, wrote: now, mail: now, body: now }
    }
}

/// What `-d` and `-D` write, gathered only where one of them is given.
#[derive(Debug, Default)]
struct Draft {
    mail: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    body: Vec<u8>,
    is_stuffed: bool,
}

pub struct Dialogue {
    state: Rc<State>,
    peer: SocketAddr,
    random: Random,
    phase: Phase,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
    helo: Vec<u8>,
    is_extended: bool,
    is_tls: bool,
    has_sender: bool,
    sender: Vec<u8>,
    recipients: Vec<Recipient>,
    /// A part of a body has come by BDAT.
    in_chunks: bool,
    dot: DotEnd,
    scan: Scan,
    met: Vec<Met>,
    tarpit: Option<u32>,
    clock: Clock,
    draft: Option<Box<Draft>>,
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
        // Seeds of neighbours are far apart, lest their random run after one another.
        let seed = state.settings.seed.wrapping_add(number.wrapping_mul(0xD134_2543_DE82_EF95));
        let draft = state.settings.dump.is_some().then(Box::default);
        Dialogue {
            is_tls: state.settings.tls_first,
            state,
            peer,
            random: Random::new(seed),
            phase: Phase::Commands,
            held: Vec::new(),
            helo: Vec::new(),
            is_extended: false,
            has_sender: false,
            sender: Vec::new(),
            recipients: Vec::new(),
            in_chunks: false,
            dot: DotEnd::new(),
            scan: Scan::new(),
            met: Vec::new(),
            tarpit: None,
            clock: Clock::new(Instant::now()),
            draft,
        }
    }

    /// Input is here.
    pub fn on_read(&mut self, now: Instant) {
        self.clock.read = now;
    }

    /// All that was to be said has been.
    pub fn on_written(&mut self, now: Instant) {
        self.clock.wrote = now;
    }

    /// The commands that were read last have been answered.
    pub fn on_answered(&self) {
        let Clock { read, wrote, .. } = self.clock;
        self.state.marks.record(Mark::Answer, wrote.saturating_duration_since(read));
    }

    fn record_command(&self, mark: Mark) {
        // What came before we last said something was not waited for.
        let Clock { read, wrote, .. } = self.clock;
        if let Some(took) = read.checked_duration_since(wrote) {
            self.state.marks.record(mark, took);
        }
    }

    /// Bytes a second, for whom replies are to be slow.
    pub fn tarpit(&self) -> Option<u32> {
        self.tarpit
    }

    pub fn on_connect(&mut self, out: &mut Vec<u8>) -> Step {
        let state = Rc::clone(&self.state);
        self.tarpit = state.default_behaviour().and_then(|own| own.tarpit_bytes_per_second);
        match self.obey(Stage::Connect, Moment::Connect, out) {
            Ok(delay) => {
                out.extend_from_slice(self.state.settings.greeting.as_bytes());
                GO.after(delay)
            }
            // Whoever is refused at once has no session.
            Err(Step { delay, then: Then::Go }) => Step { delay, then: Then::Close },
            Err(step) => step,
        }
    }

    /// RFC 3207 s4.2: everything learnt before is forgotten.
    pub fn on_tls(&mut self) {
        self.is_tls = true;
        self.helo.clear();
        self.held.clear();
        self.reset();
    }

    /// Takes one command or one piece of a body. No step: all of the input was taken, and more is
    /// needed.
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
            Verb::Helo => self.hello(Stage::Helo, argument, out),
            Verb::Ehlo => self.hello(Stage::Ehlo, argument, out),
            Verb::Lhlo => self.hello(Stage::Lhlo, argument, out),
            Verb::Rset => {
                let step = self.simple(Stage::Rset, |state| state.words.ok, out);
                self.reset();
                step
            }
            Verb::Noop => self.simple(Stage::Noop, |state| state.words.ok, out),
            Verb::Vrfy => self.simple(Stage::Vrfy, |state| state.words.no_verify, out),
            Verb::Xclient => self.simple(Stage::Xclient, |state| state.words.ok, out),
            Verb::Quit => {
                self.record_command(Mark::Quit);
                let step = self.simple(Stage::Quit, |state| state.words.bye, out);
                count(&self.state.tally.quits, 1);
                let is_over = step.then == Then::Go;
                if is_over { Step { then: Then::Close, ..step } } else { step }
            }
            Verb::Auth => self.auth(argument, out),
            Verb::StartTls => self.starttls(out),
            _ if line.get(..8).is_some_and(|verb| verb.eq_ignore_ascii_case(b"XFORWARD")) => {
                self.simple(Stage::Xforward, |state| state.words.ok, out)
            }
            _ => self.refuse(self.state.words.unknown, out),
        }
    }

    /// What the flags and the default behaviour order. `Err`: it has been refused, or more.
    fn obey(&mut self, stage: Stage, moment: Moment, out: &mut Vec<u8>) -> Result<Duration, Step> {
        let delay = self.obey_flags(stage, out)?;
        let state = Rc::clone(&self.state);
        match state.default_behaviour().filter(|_| moment != Moment::End) {
            Some(own) => self.meet(own, moment, out).map(|more| delay + more),
            None => Ok(delay),
        }
        .map_err(|step| step.after(delay))
    }

    fn obey_flags(&mut self, stage: Stage, out: &mut Vec<u8>) -> Result<Duration, Step> {
        let state = Rc::clone(&self.state);
        let orders = &state.settings.orders;
        if orders.is_logged(stage) {
            eprintln!("{} from {}", stage.name(), self.peer);
        }
        if !orders.is_busy(stage) {
            return Ok(Duration::ZERO);
        }
        let delay = orders.delay(stage, &mut self.random);
        let step = match orders.refusal(stage) {
            Refusal::None => return Ok(delay),
            Refusal::Soft => self.refuse(&state.settings.soft_reply, out),
            Refusal::Hard => self.refuse(&state.settings.hard_reply, out),
            Refusal::Leave => self.refuse(LEAVE, out),
            Refusal::Drop => self.break_off(),
        };
        Err(step.after(delay))
    }

    /// What a behaviour does at this moment.
    fn meet(
        &mut self,
        own: &Behaviour,
        moment: Moment,
        out: &mut Vec<u8>,
    ) -> Result<Duration, Step> {
        let delay = own.delay(moment, &mut self.random);
        let step = match own.fortune(moment, &mut self.random) {
            Fortune::Well => return Ok(delay),
            Fortune::Drop => self.break_off(),
            Fortune::Reply(text) => self.refuse(text, out),
        };
        Err(step.after(delay))
    }

    /// Answers, and ends the session if the answer is 421.
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

    fn break_off(&mut self) -> Step {
        count(&self.state.tally.broken_off, 1);
        Step::then(Then::Drop)
    }

    fn simple(
        &mut self,
        stage: Stage,
        word: fn(&State) -> &'static [u8],
        out: &mut Vec<u8>,
    ) -> Step {
        match self.obey_flags(stage, out) {
            Err(step) => step,
            Ok(delay) => {
                out.extend_from_slice(word(&self.state));
                GO.after(delay)
            }
        }
    }

    fn hello(&mut self, stage: Stage, argument: &[u8], out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Ehlo);
        let state = Rc::clone(&self.state);
        let knows_ehlo = state.settings.offers.is_some();
        let is_extended = stage != Stage::Helo;
        // RFC 2033 s4.1: LMTP has its own greeting, so that neither is taken for the other.
        if (stage == Stage::Lhlo) != state.settings.lmtp || is_extended && !knows_ehlo {
            return self.refuse(state.words.unknown, out);
        }
        let delay = match self.obey(stage, Moment::Ehlo, out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        self.reset();
        self.is_extended = is_extended;
        self.helo.clear();
        self.helo.extend_from_slice(argument);
        out.extend_from_slice(match is_extended {
            true => &state.words.ehlo[usize::from(self.is_tls)],
            false => &state.words.helo,
        });
        GO.after(delay)
    }

    fn auth(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let lines = match (&*mechanism, words.next().is_some()) {
            (b"PLAIN", true) => 0,
            (b"PLAIN", false) | (b"LOGIN", true) => 1,
            (b"LOGIN", false) => 2,
            _ => return self.refuse(self.state.words.bad_syntax, out),
        };
        if lines == 0 {
            return self.simple(Stage::Auth, |state| state.words.auth_ok, out);
        }
        self.phase = Phase::Auth { lines };
        out.extend_from_slice(match (&*mechanism, lines) {
            (b"PLAIN", _) => b"334 \r\n".as_slice(),
            (_, 2) => b"334 VXNlcm5hbWU6\r\n",
            _ => b"334 UGFzc3dvcmQ6\r\n",
        });
        GO
    }

    fn auth_line(&mut self, line: &[u8], lines: u8, out: &mut Vec<u8>) -> Step {
        if line == b"*" {
            // RFC 4954 s4: the client has thought better of it.
            self.phase = Phase::Commands;
            return self.refuse(self.state.words.bad_syntax, out);
        }
        if lines > 1 {
            self.phase = Phase::Auth { lines: lines - 1 };
            out.extend_from_slice(b"334 UGFzc3dvcmQ6\r\n");
            return GO;
        }
        self.phase = Phase::Commands;
        self.simple(Stage::Auth, |state| state.words.auth_ok, out)
    }

    fn starttls(&mut self, out: &mut Vec<u8>) -> Step {
        if self.is_tls || self.state.settings.tls.is_none() {
            return self.refuse(self.state.words.bad_order, out);
        }
        let before = out.len();
        let step = self.simple(Stage::StartTls, |state| state.words.tls_ready, out);
        let is_ready = step.then == Then::Go && out[before..].starts_with(b"220");
        if is_ready { Step { then: Then::StartTls, ..step } } else { step }
    }

    fn mail(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Mail);
        self.clock.mail = self.clock.read;
        let delay = match self.obey(Stage::Mail, Moment::Mail, out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        if self.has_sender {
            return self.refuse(self.state.words.bad_order, out).after(delay);
        }
        let Some(sender) = command::after_keyword(argument, b"FROM:") else {
            return self.refuse(self.state.words.bad_syntax, out).after(delay);
        };
        self.has_sender = true;
        if self.state.settings.behaviours.is_some() {
            self.sender.clear();
            self.sender.extend_from_slice(address(sender));
        }
        if let Some(draft) = &mut self.draft {
            draft.mail = argument.to_vec();
        }
        out.extend_from_slice(self.state.words.sender_ok);
        GO.after(delay)
    }

    fn rcpt(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Rcpt);
        let mut delay = match self.obey_flags(Stage::Rcpt, out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        if !self.has_sender {
            return self.refuse(self.state.words.bad_order, out).after(delay);
        }
        let Some(path) = command::after_keyword(argument, b"TO:") else {
            return self.refuse(self.state.words.bad_syntax, out).after(delay);
        };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return self.refuse(self.state.words.too_many_recipients, out).after(delay);
        }
        let mut recipient = Recipient { hash: hash_of(address(path)), behaviour: None };
        let state = Rc::clone(&self.state);
        if let Some(behaviours) = state.behaviours() {
            recipient.behaviour = behaviours.find(&domain_of(address(path)));
            if let Some(place) = recipient.behaviour {
                match self.meet_recipient(place, behaviours.get(place), recipient.hash, out) {
                    Ok(more) => delay += more,
                    Err(step) => return step.after(delay),
                }
            }
        }
        self.recipients.push(recipient);
        if let Some(draft) = &mut self.draft {
            draft.recipients.push(argument.to_vec());
        }
        out.extend_from_slice(self.state.words.recipient_ok);
        GO.after(delay)
    }

    /// What the behaviour of a recipient's domain does, at RCPT.
    fn meet_recipient(
        &mut self,
        place: usize,
        own: &Behaviour,
        hash: u64,
        out: &mut Vec<u8>,
    ) -> Result<Duration, Step> {
        let met = match self.met.iter().position(|met| met.behaviour == place) {
            Some(met) => met,
            None if !own.try_connect() => return Err(self.refuse(TOO_MANY_CONNECTIONS, out)),
            None => {
                self.met.push(Met { behaviour: place, messages: 0 });
                self.met.len() - 1
            }
        };
        if own.messages_max.is_some_and(|most| self.met[met].messages >= most) {
            return Err(self.refuse(TOO_MANY_MESSAGES, out));
        }
        self.tarpit = own.tarpit_bytes_per_second.or(self.tarpit);
        let delay = self.meet(own, Moment::Rcpt, out)?;
        if let Some(wait) = own.greylist
            && self.state.shared.is_grey(self.peer.ip(), &self.sender, hash, wait)
        {
            return Err(self.refuse(GREY, out).after(delay));
        }
        Ok(delay)
    }

    fn begin_data(&mut self, out: &mut Vec<u8>) -> Step {
        let delay = match self.begin_body(out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        if self.in_chunks {
            return self.refuse(self.state.words.bad_order, out).after(delay);
        }
        out.extend_from_slice(GO_ON);
        if let Some(pause) = self.state.settings.abort {
            count(&self.state.tally.broken_off, 1);
            return Step { delay, then: Then::CloseAfter(pause, ABORT) };
        }
        self.dot.begin();
        self.scan.begin(Form::Data);
        if let Some(draft) = &mut self.draft {
            draft.is_stuffed = true;
        }
        self.phase = Phase::Data;
        let hold = self.state.settings.hold;
        Step { delay, then: hold.map_or(Then::Go, Then::Hold) }
    }

    /// What is ordered for DATA and for each first BDAT; of the domains, for that of the first
    /// recipient.
    fn begin_body(&mut self, out: &mut Vec<u8>) -> Result<Duration, Step> {
        self.record_command(Mark::Data);
        self.clock.body = self.clock.read;
        let mut delay = self.obey_flags(Stage::Data, out)?;
        let reply = match self.recipients.first() {
            Some(first) => {
                let state = Rc::clone(&self.state);
                if let (Some(place), Some(behaviours)) = (first.behaviour, state.behaviours()) {
                    let own = behaviours.get(place);
                    let more = self.meet(own, Moment::Data, out);
                    delay += more.map_err(|step| step.after(delay))?;
                }
                return Ok(delay);
            }
            None if self.has_sender => self.state.words.no_recipients,
            None => self.state.words.bad_order,
        };
        Err(self.refuse(reply, out).after(delay))
    }

    fn bdat(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let bytes = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(left), Some(last)) = (bytes, last) else {
            // Nobody knows where the next command begins.
            out.extend_from_slice(self.state.words.bad_syntax);
            return Step::then(Then::Close);
        };
        let mut delay = Duration::ZERO;
        if !self.in_chunks {
            let before = out.len();
            match self.begin_body(out) {
                Ok(more) => delay = more,
                // RFC 3030 s2: the chunk of a refused command comes nevertheless.
                Err(step) => {
                    if last {
                        self.repeat(&step, before, out);
                    }
                    return self.begin_chunk(Chunk { left, last, swallow: true }, step, out);
                }
            }
            self.scan.begin(Form::Chunks);
            if let Some(draft) = &mut self.draft {
                draft.is_stuffed = false;
            }
        }
        self.in_chunks = true;
        self.begin_chunk(Chunk { left, last, swallow: false }, GO.after(delay), out)
    }

    fn begin_chunk(&mut self, chunk: Chunk, step: Step, out: &mut Vec<u8>) -> Step {
        self.phase = Phase::Chunk(chunk);
        if chunk.left > 0 || step.then != Then::Go {
            return step;
        }
        // A chunk without bytes ends with its command.
        self.end_chunk(chunk, out).after(step.delay)
    }

    fn chunk(
        &mut self,
        input: &[u8],
        mut chunk: Chunk,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Step>) {
        let used = usize::try_from(chunk.left).map_or(input.len(), |left| left.min(input.len()));
        let piece = &input[..used];
        match chunk.swallow {
            true => count(&self.state.tally.body_bytes, used as u64),
            false => {
                self.take_body(piece);
                self.draw(piece);
            }
        }
        chunk.left -= used as u64;
        self.phase = Phase::Chunk(chunk);
        let step = (chunk.left == 0).then(|| self.end_chunk(chunk, out));
        (used, step)
    }

    fn end_chunk(&mut self, chunk: Chunk, out: &mut Vec<u8>) -> Step {
        self.phase = Phase::Commands;
        match (chunk.swallow, chunk.last) {
            // It was answered when its command was. RFC 3030 s2: the transaction is over, lest the
            // chunks that follow become a message without a head.
            (true, _) => {
                self.reset();
                GO
            }
            (false, true) => self.finish(out),
            (false, false) => {
                out.extend_from_slice(self.state.words.ok);
                GO
            }
        }
    }

    fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        match self.dot.find(input) {
            None => {
                self.take_body(input);
                self.draw(input);
                (input.len(), None)
            }
            Some(end) => {
                // Where the dot came in the piece before, the scan has taken it out.
                self.take_body(&input[..end.saturating_sub(DOT_BYTES)]);
                self.draw(&input[..end]);
                if let Some(draft) = &mut self.draft {
                    draft.body.truncate(draft.body.len().saturating_sub(DOT_BYTES));
                }
                self.phase = Phase::Commands;
                (end, Some(self.finish(out)))
            }
        }
    }

    fn take_body(&mut self, piece: &[u8]) {
        count(&self.state.tally.body_bytes, piece.len() as u64);
        self.scan.feed(piece, &mut self.state.ledger.borrow_mut());
    }

    fn draw(&mut self, piece: &[u8]) {
        if let Some(draft) = &mut self.draft {
            draft.body.extend_from_slice(piece);
        }
    }

    /// The body is whole.
    fn finish(&mut self, out: &mut Vec<u8>) -> Step {
        if self.state.shared.is_stopping() {
            out.extend_from_slice(CLOSING);
            return Step::then(Then::Close);
        }
        // After DATA it began with our answer, and nothing was said since.
        let Clock { read, wrote, mail, body, .. } = self.clock;
        let begin = if self.in_chunks { body } else { body.max(wrote) };
        self.state.marks.record(Mark::Body, read.saturating_duration_since(begin));
        let took = read.saturating_duration_since(mail);
        let before = out.len();
        let delay = match self.obey_flags(Stage::Dot, out) {
            Ok(delay) => delay,
            Err(step) => {
                self.repeat(&step, before, out);
                self.count_met();
                self.reset();
                return step;
            }
        };
        let state = Rc::clone(&self.state);
        let subject = self.scan.end(&mut state.ledger.borrow_mut());
        let behaviours = state.behaviours();
        let recipients = std::mem::take(&mut self.recipients);
        let (mut most, mut accepted, mut end) = (delay, 0, Then::Go);
        let mut now_us = None;
        for (place, recipient) in recipients.iter().enumerate() {
            // Under LMTP each recipient has a fate of its own, else the first speaks for all.
            let speaks = state.settings.lmtp || place == 0;
            let own = recipient.behaviour.filter(|_| speaks);
            if let (Some(own), Some(behaviours)) = (own, behaviours) {
                match self.meet(behaviours.get(own), Moment::End, out) {
                    Ok(more) => most = most.max(delay + more),
                    Err(step) if state.settings.lmtp && step.then == Then::Go => {
                        most = most.max(delay + step.delay);
                        continue;
                    }
                    Err(step) if state.settings.lmtp => {
                        most = most.max(delay + step.delay);
                        end = step.then;
                        break;
                    }
                    Err(step) => {
                        self.reset();
                        return step.after(delay);
                    }
                }
            }
            accepted += 1;
            let now_us = *now_us.get_or_insert_with(unix_us);
            state.keep_copy(&subject, recipient.hash, now_us);
            if state.settings.lmtp {
                out.extend_from_slice(state.words.ok);
            }
        }
        self.recipients = recipients;
        if !state.settings.lmtp {
            out.extend_from_slice(state.words.ok);
        }
        if accepted > 0 {
            count(&state.tally.messages, 1);
            count(&state.tally.copies, accepted);
            state.keep_message(&subject, now_us.unwrap_or_else(unix_us), (took, read));
            state.end_message();
        }
        self.write_draft();
        self.count_met();
        self.reset();
        Step { delay: most, then: end }
    }

    /// A body was refused as a whole, by what stands in `out` from there on. RFC 2033 s4.2: LMTP says
    /// it for each recipient.
    fn repeat(&self, step: &Step, before: usize, out: &mut Vec<u8>) {
        if self.state.settings.lmtp && step.then == Then::Go {
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

    fn write_draft(&mut self) {
        let (Some(draft), Some(dump)) = (&self.draft, &self.state.settings.dump) else { return };
        let letter = Letter {
            peer: self.peer,
            proto: match (self.state.settings.lmtp, self.is_extended) {
                (true, _) => "LMTP",
                (_, true) => "ESMTP",
                _ => "SMTP",
            },
            hostname: &self.state.settings.hostname,
            helo: &self.helo,
            mail: &draft.mail,
            recipients: &draft.recipients,
            body: &draft.body,
            is_stuffed: draft.is_stuffed,
        };
        if let Err(cause) = dump.write(&letter) {
            eprintln!("ringpost-load: a message was not written: {cause}");
        }
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.recipients.clear();
        self.in_chunks = false;
        if let Some(draft) = &mut self.draft {
            **draft = Draft::default();
        }
    }
}

/// `.` and its line end.
const DOT_BYTES: usize = 3;

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// What is between `<` and `>`, or the first word.
fn address(path: &[u8]) -> &[u8] {
    match path.strip_prefix(b"<") {
        Some(rest) => &rest[..memchr::memchr(b'>', rest).unwrap_or(rest.len())],
        None => path.split(|byte| *byte == b' ').next().unwrap_or(path),
    }
}

fn domain_of(address: &[u8]) -> Vec<u8> {
    let at = memchr::memrchr(b'@', address).map_or(address.len(), |at| at + 1);
    address[at..].to_ascii_lowercase()
}
