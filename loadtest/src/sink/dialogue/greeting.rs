//! The first half of a session: EHLO, AUTH, MAIL and RCPT.

use std::rc::Rc;
use std::time::Duration;

use ringpost::wire::smtp::command;
use ringpost::wire::smtp::command::Verb;

use crate::ledger::hash_of;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Moment;
use crate::sink::marks::Mark;

use super::BAD_ORDER;
use super::BAD_SYNTAX;
use super::Dialogue;
use super::GO;
use super::Met;
use super::Phase;
use super::Recipient;
use super::Step;
use super::UNKNOWN;
use super::say;

/// More recipients get 452. smtp-sink has no limit.
const RECIPIENTS_MAX: usize = 50_000;

const SENDER_OK: &[u8] = b"250 2.1.0 Ok\r\n";
const RECIPIENT_OK: &[u8] = b"250 2.1.5 Ok\r\n";
const AUTH_OK: &[u8] = b"235 2.7.0 Authentication successful\r\n";
const TOO_MANY_RECIPIENTS: &[u8] = b"452 4.5.3 Too many recipients\r\n";
const GREY: &[u8] = b"451 4.7.1 Greylisted, please try again later\r\n";
const TOO_MANY_CONNECTIONS: &[u8] =
    b"421 4.7.0 Too many concurrent connections from your address, try again later\r\n";
const TOO_MANY_MESSAGES: &[u8] =
    b"421 4.7.0 Too many messages over this connection, please reconnect\r\n";
const USERNAME: &[u8] = b"334 VXNlcm5hbWU6\r\n";
const PASSWORD: &[u8] = b"334 UGFzc3dvcmQ6\r\n";

impl Dialogue {
    pub(super) fn hello(&mut self, verb: Verb, out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Ehlo);
        let state = Rc::clone(&self.state);
        // RFC 2033 s4.1: LMTP uses LHLO alone, and SMTP never does.
        if matches!(verb, Verb::Lhlo) != state.settings.options.lmtp {
            return self.refuse(UNKNOWN, out);
        }
        let delay = match self.meet_default(Moment::Ehlo, out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        self.reset();
        match verb {
            Verb::Helo => {
                out.extend(format!("250 {}\r\n", state.settings.options.hostname).bytes())
            }
            _ => out.extend_from_slice(&state.ehlo[usize::from(self.is_tls)]),
        }
        GO.after(delay)
    }

    pub(super) fn auth(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let (lines, reply) = match (&*mechanism, words.next().is_some()) {
            (b"PLAIN", true) => return say(AUTH_OK, out),
            (b"PLAIN", false) => (1, b"334 \r\n".as_slice()),
            (b"LOGIN", true) => (1, PASSWORD),
            (b"LOGIN", false) => (2, USERNAME),
            _ => return self.refuse(BAD_SYNTAX, out),
        };
        self.phase = Phase::Auth { lines };
        say(reply, out)
    }

    pub(super) fn auth_line(&mut self, line: &[u8], lines: u8, out: &mut Vec<u8>) -> Step {
        self.phase = Phase::Commands;
        match lines {
            // RFC 4954 s4: the client cancels the exchange.
            _ if line == b"*" => self.refuse(BAD_SYNTAX, out),
            1 => say(AUTH_OK, out),
            _ => {
                self.phase = Phase::Auth { lines: lines - 1 };
                say(PASSWORD, out)
            }
        }
    }

    pub(super) fn mail(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Mail);
        self.clock.mail = self.clock.read;
        let delay = match self.meet_default(Moment::Mail, out) {
            Ok(delay) => delay,
            Err(step) => return step,
        };
        if self.has_sender {
            return self.refuse(BAD_ORDER, out).after(delay);
        }
        let Some(sender) = command::after_keyword(argument, b"FROM:") else {
            return self.refuse(BAD_SYNTAX, out).after(delay);
        };
        self.has_sender = true;
        if self.state.settings.behaviours.is_some() {
            self.sender.clear();
            self.sender.extend_from_slice(address(sender));
        }
        say(SENDER_OK, out).after(delay)
    }

    pub(super) fn rcpt(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        self.record_command(Mark::Rcpt);
        if !self.has_sender {
            return self.refuse(BAD_ORDER, out);
        }
        let Some(path) = command::after_keyword(argument, b"TO:") else {
            return self.refuse(BAD_SYNTAX, out);
        };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return self.refuse(TOO_MANY_RECIPIENTS, out);
        }
        let mut recipient = Recipient { hash: hash_of(address(path)), behaviour: None };
        let mut delay = Duration::ZERO;
        let state = Rc::clone(&self.state);
        if let Some(behaviours) = state.behaviours() {
            recipient.behaviour = behaviours.find(&domain_of(address(path)));
            if let Some(place) = recipient.behaviour {
                match self.meet_recipient(place, behaviours.get(place), recipient.hash, out) {
                    Ok(own) => delay = own,
                    Err(step) => return step,
                }
            }
        }
        self.recipients.push(recipient);
        say(RECIPIENT_OK, out).after(delay)
    }

    /// Applies the behaviour of a recipient's domain at RCPT.
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
}

/// The text between `<` and `>`, or the first word.
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
