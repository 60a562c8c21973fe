//! The verbs of a session except those that carry a body (`bdat`).
//!
//! Each function checks the phase, then the syntax, then asks the gate or answers.

use crate::wire::mail::address;
use crate::wire::smtp::capability;
use crate::wire::smtp::command;
use crate::wire::smtp::command::Verb;
use crate::wire::smtp::params;
use crate::wire::smtp::params::Allowed;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::FAILED;
use crate::wire::smtp::server::Greeted;
use crate::wire::smtp::server::NO_MAIL;
use crate::wire::smtp::server::Phase;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::server::Server;
use crate::wire::smtp::server::Step;
use crate::wire::smtp::server::Verdict;
use crate::wire::smtp::server::Waiting;
use crate::wire::smtp::transaction::Transaction;
use crate::wire::smtp::xclient::Xclient;

// The most frequent replies, preformatted.
const SENDER_OK: &[u8] = b"250 2.1.0 Ok\r\n";
const RECIPIENT_OK: &[u8] = b"250 2.1.5 Ok\r\n";
const OK: &[u8] = b"250 2.0.0 Ok\r\n";

const UNKNOWN: Reply = Reply::new(500, (5, 5, 1), "Command not recognised");
const HTTP: Reply = Reply::new(521, (5, 5, 1), "This is a mail server, not a web server; closing");
const NO_ARGUMENT: Reply = Reply::new(501, (5, 5, 4), "This command takes no argument");
const NO_EXPN: Reply = Reply::new(502, (5, 5, 1), "EXPN is not offered");
const NO_AUTH: Reply = Reply::new(502, (5, 5, 1), "AUTH is not offered");
const VRFY_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Syntax: VRFY address");
const VRFY_ANSWER: Reply =
    Reply::new(252, (2, 0, 0), "Cannot verify the address, but RCPT may accept it");
const SAY_LHLO: Reply = Reply::new(500, (5, 5, 1), "This is LMTP: greet with LHLO");
const SAY_EHLO: Reply = Reply::new(500, (5, 5, 1), "This is SMTP: greet with EHLO or HELO");
// RFC 2034 s3: answers to a greeting have no enhanced code.
const HELO_SYNTAX: Reply = Reply::plain(501, "Domain name or address literal required");
const UNGREETED: Reply = Reply::new(503, (5, 5, 1), "Send EHLO first");
const UNGREETED_LMTP: Reply = Reply::new(503, (5, 5, 1), "Send LHLO first");
const NESTED_MAIL: Reply = Reply::new(503, (5, 5, 1), "A transaction is open, send RSET first");
const BETWEEN_CHUNKS: Reply =
    Reply::new(503, (5, 5, 1), "Not allowed between the chunks of a message");
const MAIL_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Syntax: MAIL FROM:<address>");
const RCPT_SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Syntax: RCPT TO:<address>");
const TOO_MANY_MESSAGES: Reply =
    Reply::new(421, (4, 7, 0), "Too many messages in one session, closing");
const TOO_MANY_RECIPIENTS: Reply = Reply::new(452, (4, 5, 3), "Too many recipients");
const TLS_READY: Reply = Reply::new(220, (2, 0, 0), "Ready to start TLS");
const TLS_ACTIVE: Reply = Reply::new(503, (5, 5, 1), "TLS is already active");
const NO_TLS: Reply = Reply::new(502, (5, 5, 1), "STARTTLS is not offered");
const NOT_NOW: Reply = Reply::new(503, (5, 5, 1), "Not allowed during a transaction");
const NO_XCLIENT: Reply = Reply::new(550, (5, 7, 0), "Insufficient authorisation for XCLIENT");

impl Server {
    pub(super) fn hello(&mut self, verb: Verb, argument: &[u8], out: &mut Vec<u8>) -> Step {
        // RFC 2033 s4.1: LMTP has its own greeting, so that neither protocol is taken for the
        // other.
        if (verb == Verb::Lhlo) != self.is_lmtp() {
            let reply = if self.is_lmtp() { SAY_LHLO } else { SAY_EHLO };
            return self.refuse(&reply, out);
        }
        let Some(name) = read_name(argument) else { return self.refuse(&HELO_SYNTAX, out) };
        let extended = verb != Verb::Helo;
        let previous = self.greeted.replace(Greeted { name: name.into(), extended });
        self.waiting = Waiting::Helo { previous };
        Step::Ask(Question::Helo)
    }

    /// RFC 5321 s4.1.4: an accepted greeting also resets the session; a refused one changes
    /// nothing.
    pub(super) fn on_helo_verdict(
        &mut self,
        verdict: Verdict,
        previous: Option<Greeted>,
        out: &mut Vec<u8>,
    ) -> Step {
        if let Verdict::Refuse(reply) = verdict {
            self.greeted = previous;
            return self.refuse(&reply, out);
        }
        if self.is_esmtp() {
            capability::write(&self.config, self.tls, out);
        } else {
            reply::push_code(250, b' ', out);
            reply::push_printable(self.config.hostname.as_bytes(), out);
            out.extend_from_slice(b"\r\n");
        }
        self.leave_for(Phase::Ready)
    }

    pub(super) fn mail(
        &mut self,
        argument: &[u8],
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        if self.phase == Phase::Fresh {
            return self.refuse(&self.say_hello(), out);
        }
        // RFC 9422 s4: MAILMAX counts every MAIL. The client continues in a new session.
        self.messages = self.messages.saturating_add(1);
        if self.messages > self.config.messages_max {
            return self.end(&TOO_MANY_MESSAGES, out);
        }
        match self.phase {
            Phase::Fresh | Phase::Ready => {}
            Phase::Envelope | Phase::Chunks => return self.refuse(&NESTED_MAIL, out),
            Phase::Failed => return self.refuse(&FAILED, out),
        }
        debug_assert!(tx.is_blank(), "the driver starts a new transaction at each reset");
        let Some(path) = command::after_keyword(argument, b"FROM:") else {
            return self.refuse(&MAIL_SYNTAX, out);
        };
        match params::read_mail(path, self.allowed(), tx) {
            Ok(()) => {
                self.waiting = Waiting::Mail;
                Step::Ask(Question::Mail)
            }
            Err(reply) => self.refuse_mail(&reply, out),
        }
    }

    pub(super) fn on_mail_verdict(&mut self, verdict: Verdict, out: &mut Vec<u8>) -> Step {
        match verdict {
            Verdict::Refuse(reply) => self.refuse_mail(&reply, out),
            Verdict::Accept => {
                out.extend_from_slice(SENDER_OK);
                self.phase = Phase::Envelope;
                Step::Continue
            }
        }
    }

    /// Resets the transaction too: the arena contains a copy of the refused address.
    fn refuse_mail(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Step {
        match self.refuse(reply, out) {
            Step::Continue => Step::Reset,
            step => step,
        }
    }

    pub(super) fn rcpt(
        &mut self,
        argument: &[u8],
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        match self.phase {
            Phase::Envelope => {}
            Phase::Fresh => return self.refuse(&self.say_hello(), out),
            Phase::Ready => return self.refuse(&NO_MAIL, out),
            Phase::Chunks => return self.refuse(&BETWEEN_CHUNKS, out),
            Phase::Failed => return self.refuse(&FAILED, out),
        }
        // RFC 9422 s4: RCPTMAX counts every RCPT, which also limits the refused addresses in the
        // arena.
        self.recipients = self.recipients.saturating_add(1);
        if self.recipients > self.config.recipients_max {
            return self.refuse(&TOO_MANY_RECIPIENTS, out);
        }
        let Some(path) = command::after_keyword(argument, b"TO:") else {
            return self.refuse(&RCPT_SYNTAX, out);
        };
        match params::read_recipient(path, self.allowed(), tx) {
            Err(reply) => self.refuse(&reply, out),
            Ok(recipient) => {
                tx.candidate = Some(recipient);
                self.waiting = Waiting::Recipient;
                Step::Ask(Question::Recipient)
            }
        }
    }

    pub(super) fn on_recipient_verdict(
        &mut self,
        verdict: Verdict,
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let candidate = tx.candidate.take();
        match verdict {
            Verdict::Refuse(reply) => self.refuse(&reply, out),
            Verdict::Accept => {
                tx.recipients.push(candidate.expect("`rcpt` stores the candidate before it asks"));
                out.extend_from_slice(RECIPIENT_OK);
                Step::Continue
            }
        }
    }

    pub(super) fn starttls(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        let refusal = if self.tls {
            TLS_ACTIVE
        } else if !self.config.starttls {
            NO_TLS
        } else if !argument.is_empty() {
            NO_ARGUMENT
        } else if self.phase == Phase::Fresh {
            self.say_hello()
        } else if self.phase != Phase::Ready {
            NOT_NOW
        } else {
            TLS_READY.write(out);
            self.waiting = Waiting::Tls;
            return Step::StartTls;
        };
        self.refuse(&refusal, out)
    }

    pub(super) fn xclient(&mut self, argument: &[u8], out: &mut Vec<u8>) -> Step {
        if !self.config.xclient {
            return self.refuse(&NO_XCLIENT, out);
        }
        if !matches!(self.phase, Phase::Fresh | Phase::Ready) {
            return self.refuse(&NOT_NOW, out);
        }
        match Xclient::parse(argument) {
            Err(reply) => self.refuse(&reply, out),
            Ok(attributes) => {
                self.waiting = Waiting::Xclient;
                Step::Xclient(Box::new(attributes))
            }
        }
    }

    /// The verbs that need no decision of the gate.
    pub(super) fn simple(&mut self, verb: Verb, argument: &[u8], out: &mut Vec<u8>) -> Step {
        match verb {
            Verb::Noop => out.extend_from_slice(OK),
            Verb::Help => help().write(out),
            Verb::Vrfy if argument.is_empty() => return self.refuse(&VRFY_SYNTAX, out),
            Verb::Vrfy => VRFY_ANSWER.write(out),
            Verb::Rset | Verb::Quit if !argument.is_empty() => {
                return self.refuse(&NO_ARGUMENT, out);
            }
            Verb::Rset => {
                out.extend_from_slice(OK);
                let fresh = self.greeted.is_none();
                return self.leave_for(if fresh { Phase::Fresh } else { Phase::Ready });
            }
            Verb::Quit => return self.quit(out),
            Verb::Http => return self.end(&HTTP, out),
            Verb::Expn => return self.refuse(&NO_EXPN, out),
            Verb::Auth => return self.auth(out),
            _ => return self.refuse(&UNKNOWN, out),
        }
        Step::Continue
    }

    /// AUTH (RFC 4954) is not offered.
    fn auth(&mut self, out: &mut Vec<u8>) -> Step {
        let reply = if self.in_transaction() { NOT_NOW } else { NO_AUTH };
        self.refuse(&reply, out)
    }

    fn quit(&mut self, out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(b"221 2.0.0 ");
        reply::push_printable(self.config.hostname.as_bytes(), out);
        out.extend_from_slice(b" closing connection\r\n");
        self.waiting = Waiting::Closed;
        Step::Close
    }

    fn allowed(&self) -> Allowed {
        Allowed {
            parameters: self.is_esmtp(),
            requiretls: self.tls,
            size_max: self.config.size_max,
        }
    }

    pub(super) fn say_hello(&self) -> Reply {
        if self.is_lmtp() { UNGREETED_LMTP } else { UNGREETED }
    }
}

fn read_name(argument: &[u8]) -> Option<&str> {
    if !address::is_domain_or_literal(argument) {
        return None;
    }
    std::str::from_utf8(argument).ok()
}

fn help() -> Reply {
    let text = format!("Commands: {}\nSTARTTLS where EHLO announces it", Verb::KNOWN);
    Reply::composed(214, (2, 0, 0), text)
}
