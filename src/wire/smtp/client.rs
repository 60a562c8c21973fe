//! The client side of an SMTP or LMTP session: takes replies, writes commands, returns steps.
//!
//! Owner:    the driver of one connection (`net::transfer`). One `Client` per connection.
//! Promise:  no command is sent before the reply it depends on, every outcome is backed by a reply,
//!           and an unsolicited reply ends the connection before it can be taken for the answer to
//!           a command.
//! Groups:   with PIPELINING, RSET, MAIL, every RCPT and DATA are sent at once (RFC 2920 s3.1).
//!           With BDAT the body follows MAIL and RCPT, in the same group if it is short
//!           (`chunk_ahead_bytes_max`). Without PIPELINING each command waits for the reply to the
//!           one before.
//! Bounds:   memory for one reply and one mail; see `client_reply` and `client_mail`.
//! Calls:    `feed` the input, then `next`, in a loop; each step says what the driver must do.
//!           Input that `feed` has not consumed is fed after the following `next`, and before
//!           `begin`.
//!
//! ```text
//! Greeting -> Ehlo [-> Helo] [-> StartTls -> Handshake -> Ehlo] [-> Login] -> Ready
//! Ready    -> Mail -> Over -> Ready      one mail, from `begin` to `take_outcomes`
//! Ready    -> Quit -> Closed
//! any      -> Closed                     a fault; during a mail through Over
//! ```

use std::sync::Arc;

use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_envelope::Terms;
use crate::wire::smtp::client_envelope::needs_chunking;
use crate::wire::smtp::client_envelope::wants_another;
use crate::wire::smtp::client_login::Login;
use crate::wire::smtp::client_login::LoginStep;
use crate::wire::smtp::client_mail::BodyState;
use crate::wire::smtp::client_mail::Exchange;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_offers::Offers;
use crate::wire::smtp::client_reply::ReplyReader;
use crate::wire::smtp::client_step::ClientConfig;
use crate::wire::smtp::client_step::ClientStep;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage;
use crate::wire::smtp::client_step::TlsUse;
use crate::wire::smtp::line::LineFault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Login(LoginStep),
    Ready,
    Mail,
    /// The outcomes are ready for `take_outcomes`.
    Over,
    Quit,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub(super) config: Arc<ClientConfig>,
    login: Option<Login>,
    pub(super) state: State,
    tls: bool,
    /// A failed transaction may still be open at the peer.
    pub(super) needs_rset: bool,
    /// QUIT is not written yet.
    quits: bool,
    pub(super) reader: ReplyReader,
    pub(super) offers: Offers,
    pub(super) mail: Exchange,
    fault: Option<Fault>,
}

impl Client {
    /// A new connection. `tls` says that it began with TLS.
    pub fn new(config: Arc<ClientConfig>, tls: bool) -> Client {
        let name = config.ehlo_name.as_bytes();
        assert!(
            !name.is_empty() && name.iter().all(u8::is_ascii_graphic),
            "the EHLO name is valid"
        );
        Client {
            config,
            login: None,
            state: State::Greeting,
            tls,
            needs_rset: false,
            quits: false,
            reader: ReplyReader::default(),
            offers: Offers::default(),
            mail: Exchange::default(),
            fault: None,
        }
    }

    /// Authenticates before the first mail, and only under TLS.
    pub fn with_login(self, login: Login) -> Client {
        assert_eq!(self.state, State::Greeting, "the login is set before the session starts");
        Client { login: Some(login), ..self }
    }

    /// Consumes input up to the end of one reply and returns the number of bytes. After a fault all
    /// input is consumed and dropped.
    pub fn feed(&mut self, input: &[u8]) -> usize {
        if self.state == State::Closed || self.fault.is_some() {
            return input.len();
        }
        match self.reader.feed(input) {
            Ok(taken) => taken,
            Err(fault) => {
                self.fail(Fault::BadReply(fault));
                input.len()
            }
        }
    }

    /// Whether a complete reply waits for `next`.
    pub fn has_reply(&self) -> bool {
        self.reader.is_complete()
    }

    /// Handles the complete reply, if there is one, and appends the next commands to `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) -> ClientStep {
        if self.reader.is_complete() {
            self.on_reply(out);
            self.reader.clear();
        }
        match self.state {
            State::Greeting => ClientStep::Read(Stage::Greeting),
            State::Ehlo | State::Helo => ClientStep::Read(Stage::Ehlo),
            State::StartTls => ClientStep::Read(Stage::StartTls),
            State::Login(_) => ClientStep::Read(Stage::Auth),
            State::Handshake => ClientStep::StartTls,
            State::Ready if self.reader.is_midway() => {
                self.fail(Fault::Unasked);
                ClientStep::Close
            }
            State::Ready => ClientStep::Ready,
            State::Mail => self.step_mail(out),
            State::Over => ClientStep::Done,
            State::Quit => {
                if std::mem::take(&mut self.quits) {
                    out.extend_from_slice(b"QUIT\r\n");
                }
                ClientStep::Read(Stage::Quit)
            }
            State::Closed => ClientStep::Close,
        }
    }

    /// Starts a mail. The last step was `Ready`, and no input has arrived since.
    pub fn begin(&mut self, mail: &Mail<'_>) {
        assert_eq!(self.state, State::Ready, "the session is ready for a mail");
        assert!(!mail.recipients.is_empty(), "a mail has recipients");
        self.mail.begin(mail, self.terms());
        self.state = if self.mail.is_void() { State::Over } else { State::Mail };
    }

    /// Whether the peer lacks something that the mail needs, such as 8BITMIME.
    pub fn lacks(&self, mail: &Mail<'_>) -> bool {
        wants_another(mail, self.terms())
    }

    fn terms(&self) -> Terms {
        Terms {
            offers: self.offers,
            tls: self.tls,
            chunking: self.config.chunking && self.offers.chunking,
            rset: self.needs_rset,
        }
    }

    /// Ends the session with QUIT.
    pub fn quit(&mut self) {
        assert_eq!(self.state, State::Ready, "QUIT is sent between two mails");
        self.state = State::Quit;
        self.quits = true;
    }

    /// The handshake is done. The earlier offers are dropped (RFC 3207 s4.2).
    pub fn on_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.state, State::Handshake, "the session does not wait for a handshake");
        self.tls = true;
        self.offers = Offers::default();
        self.say_ehlo(out);
    }

    /// The body and its end were written completely.
    pub fn on_body_sent(&mut self) {
        assert_eq!(self.mail.body, BodyState::Sending, "the session does not wait for a body");
        self.mail.body = BodyState::Sent;
    }

    /// The body could not be written completely. The peer's reply may still be read.
    pub fn on_body_broken(&mut self) {
        assert_eq!(self.mail.body, BodyState::Sending, "the session does not wait for a body");
        self.mail.body = BodyState::Broken;
    }

    /// The body breaks the CRLF rule and cannot be sent by DATA. Its end was not sent, so the peer
    /// has accepted nothing and still waits.
    pub fn refuse_body(&mut self, fault: LineFault) {
        assert_eq!(self.mail.body, BodyState::Sending, "the session does not wait for a body");
        self.mail.settle_open(&Outcome::Local(needs_chunking(fault)));
        self.fail(Fault::BodyBroken);
    }

    /// The driver cannot continue. Recipients without an outcome become `Lost`.
    pub fn fail(&mut self, fault: Fault) {
        self.reader.clear();
        // After QUIT the peer may close the connection in any way.
        if self.fault.is_none() && !matches!(self.state, State::Quit | State::Closed) {
            self.fault = Some(fault);
        }
        if self.state == State::Mail {
            let after_body = self.mail.body == BodyState::Sent;
            self.mail.settle_open(&Outcome::Lost { after_body });
            self.state = State::Over;
        } else if self.state != State::Over {
            self.state = State::Closed;
        }
    }

    /// The outcome of each recipient, in the order of the mail. The last step was `Done`.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        assert_eq!(self.state, State::Over, "the mail is not finished");
        self.state = if self.fault.is_some() { State::Closed } else { State::Ready };
        self.mail.take_outcomes()
    }

    /// Whether DSN parameters of the last mail were left out because the peer does not offer DSN. A
    /// sender that requested a success report is then told that the mail was relayed (RFC 3461
    /// s5.2.2).
    pub fn relayed_without_dsn(&self) -> bool {
        self.mail.without_dsn
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// The extensions in the last answer to EHLO.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether `begin` may be called.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    fn on_reply(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Greeting => {
                if self.is_positive(Stage::Greeting) {
                    self.say_ehlo(out);
                }
            }
            State::Helo => {
                if self.is_positive(Stage::Ehlo) {
                    self.state = State::Ready;
                }
            }
            State::Ehlo => self.on_ehlo(out),
            State::StartTls => self.on_starttls(out),
            State::Login(step) => self.on_login(step, out),
            State::Mail => self.on_mail_reply(out),
            State::Quit => self.state = State::Closed,
            // A 421 on an idle connection gives the reason for closing it.
            State::Ready if self.reader.code() == 421 => self.refuse(Stage::Greeting),
            State::Handshake | State::Ready | State::Over => self.fail(Fault::Unasked),
            State::Closed => {}
        }
    }

    /// Whether the reply is positive. Any other reply ends the session.
    fn is_positive(&mut self, stage: Stage) -> bool {
        match self.reader.code() / 100 {
            2 => return true,
            4 | 5 => self.refuse(stage),
            _ => self.unexpected(stage),
        }
        false
    }

    fn say_ehlo(&mut self, out: &mut Vec<u8>) {
        let verb = if self.config.lmtp { "LHLO " } else { "EHLO " };
        self.say(verb, out);
        self.state = State::Ehlo;
    }

    fn say(&self, verb: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(self.config.ehlo_name.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn on_ehlo(&mut self, out: &mut Vec<u8>) {
        let is_helo_fit = !self.config.lmtp && !self.must_start_tls() && self.login.is_none();
        // RFC 5321 s3.2: a server without EHLO has HELO. Such a server has neither STARTTLS nor AUTH.
        if self.reader.code() / 100 == 5 && is_helo_fit {
            self.say("HELO ", out);
            self.state = State::Helo;
        } else if self.is_positive(Stage::Ehlo) {
            self.offers = Offers::read(&self.reader);
            self.choose_tls(out);
        }
    }

    fn must_start_tls(&self) -> bool {
        (self.config.tls == TlsUse::Always || self.login.is_some()) && !self.tls
    }

    fn choose_tls(&mut self, out: &mut Vec<u8>) {
        let wants_tls = !self.tls && (self.config.tls != TlsUse::Never || self.must_start_tls());
        match (wants_tls, self.offers.starttls) {
            (true, true) => {
                out.extend_from_slice(b"STARTTLS\r\n");
                self.state = State::StartTls;
            }
            (true, false) if self.must_start_tls() => self.fail(Fault::TlsNotOffered),
            _ => self.log_in(out),
        }
    }

    fn on_starttls(&mut self, out: &mut Vec<u8>) {
        match self.reader.code() {
            220 => self.state = State::Handshake,
            421 => self.refuse(Stage::StartTls),
            400.. if self.must_start_tls() => self.fail(Fault::TlsRefused(self.reader.reply())),
            400.. => self.log_in(out),
            _ => self.unexpected(Stage::StartTls),
        }
    }

    fn log_in(&mut self, out: &mut Vec<u8>) {
        let is_fit = self.tls || self.login.is_none();
        assert!(is_fit, "a password is sent under TLS only");
        let begun = self.login.as_ref().map(|login| login.begin(&self.offers, out));
        match begun {
            None => self.state = State::Ready,
            Some(Some(step)) => self.state = State::Login(step),
            Some(None) => self.fail(Fault::LoginNotOffered),
        }
    }

    fn on_login(&mut self, step: LoginStep, out: &mut Vec<u8>) {
        match (self.reader.code(), step) {
            (235, LoginStep::PlainEnd | LoginStep::End) => self.state = State::Ready,
            (334, _) => match self.login.as_ref().and_then(|login| login.go_on(step, out)) {
                Some(next) => self.state = State::Login(next),
                None => self.unexpected(Stage::Auth),
            },
            (421, _) => self.refuse(Stage::Auth),
            (504, _) => self.log_in_otherwise(step, out),
            (400.., _) => self.fail(Fault::LoginRefused(self.reader.reply())),
            _ => self.unexpected(Stage::Auth),
        }
    }

    fn log_in_otherwise(&mut self, step: LoginStep, out: &mut Vec<u8>) {
        match Login::begin_anew(step, &self.offers, out) {
            Some(step) => self.state = State::Login(step),
            None => self.fail(Fault::LoginRefused(self.reader.reply())),
        }
    }

    /// The reply ends the session and becomes the outcome of all recipients without one.
    pub(super) fn refuse(&mut self, stage: Stage) {
        let reply = self.reader.reply();
        if self.state == State::Mail {
            self.mail.settle_open(&Outcome::Refused { stage, reply: reply.clone() });
        }
        self.fail(Fault::Refused { stage, reply });
    }

    pub(super) fn unexpected(&mut self, stage: Stage) {
        self.fail(Fault::Unexpected { stage, reply: self.reader.reply() });
    }
}

#[cfg(test)]
mod tests;
