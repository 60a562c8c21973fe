//! The lines of a session: each is cut, checked against the limits and the order of commands, and
//! passed to the function of its verb (`verb`, `bdat`).
//!
//! Promise:  no part of a broken or overlong line is taken for a command.
//! Bounds:   `SKIPPED_BYTES_MAX` for one broken line; past that, 521 and the end of the session.

use crate::wire::smtp::bdat_line;
use crate::wire::smtp::command::Command;
use crate::wire::smtp::command::Verb;
use crate::wire::smtp::line;
use crate::wire::smtp::line::Line;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::More;
use crate::wire::smtp::server::NEED_TLS;
use crate::wire::smtp::server::Server;
use crate::wire::smtp::server::Step;
use crate::wire::smtp::server::VIOLATION;
use crate::wire::smtp::server::Waiting;
use crate::wire::smtp::transaction::Transaction;

/// Bytes of a broken or overlong line that are skipped before the session is closed.
pub const SKIPPED_BYTES_MAX: usize = 64 << 10;

const TOO_MANY_COMMANDS: Reply = Reply::new(421, (4, 7, 0), "Too many commands, closing");
const TOO_MANY_ERRORS: Reply = Reply::new(421, (4, 7, 0), "Too many errors, closing");
const BARE_LF: Reply = Reply::new(521, (5, 5, 2), "Bare <LF> received, closing");
const LINE_FLOOD: Reply = Reply::new(521, (5, 5, 2), "Line far too long, closing");
const TLS_ON_PLAIN_PORT: Reply =
    Reply::new(521, (5, 5, 2), "TLS handshake on a port that starts in plain text");

impl Server {
    /// Takes one line from the front of `input`. Returns the bytes consumed and the next step.
    pub fn next(
        &mut self,
        input: &[u8],
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        match self.waiting {
            Waiting::Nothing => {}
            Waiting::LineEnd { fault, skipped } => return self.skip(input, (fault, skipped), out),
            Waiting::Closed => return (input.len(), Step::Close),
            _ => panic!("`next` was called before the last step was answered"),
        }
        if self.commands == 0 && !self.tls && input.starts_with(b"\x16\x03") {
            return (input.len(), self.end(&TLS_ON_PLAIN_PORT, out));
        }
        match line::cut(input, self.config.line_ending) {
            Line::Partial => (0, Step::NeedInput),
            Line::Complete { text, consumed } => {
                let more = More::behind(input, consumed);
                (consumed, self.on_line(text, more, tx, out))
            }
            Line::Fault { fault, consumed } => self.on_line_fault(input, (fault, consumed), out),
        }
    }

    fn on_line(
        &mut self,
        text: &[u8],
        more: More,
        tx: &mut Transaction<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let Command { verb, argument } = Command::parse(text);
        self.commands = self.commands.saturating_add(1);
        if verb != Verb::Quit
            && let Some(reply) = self.exhausted()
        {
            return self.end(&reply, out);
        }
        if more == More::Follows && self.must_end_group(verb) {
            return self.end(&VIOLATION, out);
        }
        if self.needs_tls(verb) {
            return self.refuse(&NEED_TLS, out);
        }
        match verb {
            Verb::Mail => self.mail(argument, tx, out),
            Verb::Rcpt => self.rcpt(argument, tx, out),
            Verb::Data => self.data(argument, tx, out),
            Verb::Bdat => self.bdat(argument, tx, out),
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.hello(verb, argument, out),
            Verb::StartTls => self.starttls(argument, out),
            Verb::Xclient => self.xclient(argument, out),
            Verb::Unknown if bdat_line::looks_like_bdat(text) => self.malformed_bdat(text, tx, out),
            _ => self.simple(verb, argument, out),
        }
    }

    fn exhausted(&self) -> Option<Reply> {
        if self.commands > self.config.commands_max {
            return Some(TOO_MANY_COMMANDS);
        }
        (self.errors >= self.config.errors_max).then_some(TOO_MANY_ERRORS)
    }

    /// RFC 2920 s3.1. Input after DATA and before its 354 may be body or commands, and input after
    /// STARTTLS was not protected; neither is guessed. NOOP, VRFY and QUIT are not checked: many
    /// clients break the rule for them, and the rule protects nothing.
    fn must_end_group(&self, verb: Verb) -> bool {
        self.config.reject_pipelining_violations
            && matches!(verb, Verb::Data | Verb::StartTls | Verb::Ehlo | Verb::Helo | Verb::Lhlo)
    }

    /// RFC 3207 s4. For BDAT `bdat` does this check, because its bytes must be swallowed.
    fn needs_tls(&self, verb: Verb) -> bool {
        let concerned = matches!(
            verb,
            Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Vrfy | Verb::Expn | Verb::Auth
        );
        concerned && self.lacks_tls()
    }

    fn on_line_fault(
        &mut self,
        input: &[u8],
        (fault, consumed): (LineFault, usize),
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        if fault == LineFault::BareLf {
            return (input.len(), self.end(&BARE_LF, out));
        }
        // The bytes after a BDAT are no commands, and their number is unknown.
        if bdat_line::looks_like_bdat(input) {
            return (input.len(), self.end(&line_fault(fault, 521), out));
        }
        if input[..consumed].ends_with(b"\r\n") {
            return (consumed, self.on_broken_line(fault, out));
        }
        (consumed, self.await_line_end(fault, consumed, out))
    }

    /// Skips the rest of a broken line, so that no part of it is taken for a command.
    fn skip(
        &mut self,
        input: &[u8],
        (fault, skipped): (LineFault, usize),
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let (consumed, ended) = line::skip(input);
        let skipped = skipped + consumed;
        if ended {
            self.waiting = Waiting::Nothing;
            return (consumed, self.on_broken_line(fault, out));
        }
        (consumed, self.await_line_end(fault, skipped, out))
    }

    fn await_line_end(&mut self, fault: LineFault, skipped: usize, out: &mut Vec<u8>) -> Step {
        if skipped > SKIPPED_BYTES_MAX {
            return self.end(&LINE_FLOOD, out);
        }
        self.waiting = Waiting::LineEnd { fault, skipped };
        Step::NeedInput
    }

    fn on_broken_line(&mut self, fault: LineFault, out: &mut Vec<u8>) -> Step {
        self.commands = self.commands.saturating_add(1);
        match self.exhausted() {
            Some(reply) => self.end(&reply, out),
            None => self.refuse(&line_fault(fault, 500), out),
        }
    }
}

fn line_fault(fault: LineFault, code: u16) -> Reply {
    Reply::composed(code, (5, 5, 2), fault.to_string())
}
