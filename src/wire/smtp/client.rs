//! The client's half of a session: replies in, commands and steps out. SMTP and LMTP.
//!
//! Owner:    the driver of one connection (`outbound::transfer`). One `Client` per connection.
//! Promise:  no command is sent before the reply it depends on, no outcome is given that no reply
//!           stands for, and a reply that nobody asked for ends the connection before it can be
//!           taken for the answer to something else.
//! Groups:   with PIPELINING, RSET, MAIL, every RCPT and DATA leave at once (RFC 2920 s3.1); with
//!           BDAT the body follows MAIL and RCPT, also in the same group if it is short
//!           (`chunk_ahead_bytes_max`). Without, each command waits for the reply before it.
//! Bounds:   one reply and one mail are held; see `client_reply` and `client_mail`.
//! Law:      `feed` what came, then `next`, again and again; the driver's duties stand at each step.
//!           What `feed` leaves is fed after the `next` that follows, and before a `begin`.
//!
//! ```text
//! Greeting -> Ehlo [-> Helo] [-> StartTls -> Handshake -> Ehlo] [-> Login] -> Ready
//! Ready    -> Mail -> Over -> Ready      a mail, from `begin` to `take_outcomes`
//! Ready    -> Quit -> Closed
//! any      -> Closed                     a fault; during a mail by way of Over
//! ```

use std::fmt;
use std::sync::Arc;

use crate::wire::smtp::client_login::Login;
use crate::wire::smtp::client_login::LoginStep;
use crate::wire::smtp::client_login::LoginWay;
use crate::wire::smtp::client_mail::BodyState;
use crate::wire::smtp::client_mail::Exchange;
use crate::wire::smtp::client_mail::Mail;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_mail::Terms;
use crate::wire::smtp::client_mail::needs_chunking;
use crate::wire::smtp::client_offers::Offers;
use crate::wire::smtp::client_reply::ReplyFault;
use crate::wire::smtp::client_reply::ReplyReader;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply::Reply;

/// What all connections to a destination share.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What we call ourselves: a name or an address literal.
    pub ehlo_name: String,
    pub lmtp: bool,
    /// Use PIPELINING where it is offered.
    pub pipelining: bool,
    /// Use BDAT where it is offered.
    pub chunking: bool,
    /// A body of at most so many bytes is sent as a chunk in one group with MAIL and RCPT, ahead
    /// of their replies: the mail takes one round trip. A peer that refuses all recipients must
    /// still swallow the body (RFC 3030 s4.2); 0 where it cannot be trusted to.
    pub chunk_ahead_bytes_max: u64,
    pub tls: TlsUse,
}

/// Whether STARTTLS is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUse {
    Never,
    IfOffered,
    /// No mail without TLS.
    Always,
}

/// What a wait is for; each has a time limit of its own (RFC 5321 s4.5.3.2). It also tells at what
/// a recipient was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    /// EHLO, LHLO and HELO.
    Ehlo,
    StartTls,
    /// AUTH, and each answer of it.
    Auth,
    Mail,
    Rcpt,
    /// DATA, until its 354.
    Data,
    /// The reply to the whole message.
    End,
    Rset,
    Quit,
}

/// How the body is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyForm {
    /// Dots stuffed, and the end behind it: `Stuffer`.
    #[default]
    Dot,
    /// As it is, `Mail::bytes` in all; its BDAT is in `out`.
    Chunk,
}

/// What the driver must do next. Exactly one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Write `out`, read, `feed`, and call `next` again. When no more can be read, or not within
    /// the time of the stage, call `fail`.
    Read(Stage),
    /// Nothing may have come behind the reply: if something has, `fail` with
    /// `Fault::InputBeforeTls` (RFC 3207 s4.2). Shake hands and call `on_tls`, or `fail`.
    StartTls,
    /// The connection is free: `begin` or `quit`. `out` is empty.
    Ready,
    /// Feed what has come already, if anything has, and call `next` again: a peer that speaks now
    /// refuses. Then write `out` and the body, and call `on_body_sent`; or `on_body_broken` once not all of it
    /// can be sent, after which what the peer still says is read.
    SendBody(BodyForm),
    /// `take_outcomes`, then call `next` again.
    Done,
    /// Close. Without a fault it is over in order.
    Close,
}

/// Why the connection is good for nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer ended the connection.
    Ended,
    /// It did not answer in time.
    TimedOut(Stage),
    /// It will not talk to us: its greeting, its answer to EHLO, or a 421 at any point.
    Refused { stage: Stage, reply: Reply },
    /// What it sent is no reply.
    BadReply(ReplyFault),
    /// A reply that means nothing at this stage.
    Unexpected { stage: Stage, reply: Reply },
    /// A reply to nothing.
    Unasked,
    /// TLS is a must, and it is not offered.
    TlsNotOffered,
    /// TLS is a must, and STARTTLS was refused.
    TlsRefused(Reply),
    /// The handshake failed.
    TlsFailed,
    /// Something was sent in the clear behind the reply to STARTTLS.
    InputBeforeTls,
    /// We are to log in, and the peer offers no way that we know.
    LoginNotOffered,
    /// It does not take our user and password.
    LoginRefused(Reply),
    /// Not all of the body could be sent.
    BodyBroken,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Ended => f.write_str("the peer ended the connection"),
            Fault::TimedOut(stage) => write!(f, "no answer in time, at {stage:?}"),
            Fault::Refused { stage, reply } => {
                write!(f, "refused at {stage:?}: {}", reply.in_one_line())
            }
            Fault::BadReply(fault) => fault.fmt(f),
            Fault::Unexpected { stage, reply } => {
                write!(f, "unexpected reply at {stage:?}: {}", reply.in_one_line())
            }
            Fault::Unasked => f.write_str("the peer sent a reply that was not asked for"),
            Fault::TlsNotOffered => f.write_str("the peer does not offer STARTTLS"),
            Fault::TlsRefused(reply) => {
                write!(f, "STARTTLS was refused: {}", reply.in_one_line())
            }
            Fault::TlsFailed => f.write_str("the TLS handshake failed"),
            Fault::InputBeforeTls => f.write_str("the peer sent input ahead of the TLS handshake"),
            Fault::LoginNotOffered => f.write_str(
                "the peer offers neither AUTH PLAIN nor AUTH LOGIN, and we are to log in",
            ),
            Fault::LoginRefused(reply) => {
                let reply = reply.in_one_line();
                write!(f, "AUTH was refused, it does not take our user: {reply}")
            }
            Fault::BodyBroken => f.write_str("not all of the body could be sent"),
        }
    }
}

impl std::error::Error for Fault {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Login(LoginStep),
    Ready,
    Mail,
    /// The outcomes wait to be taken.
    Over,
    Quit,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    login: Option<Login>,
    /// Another way is not gone, also where it is the only one.
    login_way: Option<LoginWay>,
    /// The login may be told to whoever listens on the way.
    clear_login: bool,
    /// Nothing is said between the greeting and the first mail.
    skips_ehlo: bool,
    state: State,
    tls: bool,
    /// The peer may still hold a transaction that failed.
    needs_rset: bool,
    /// QUIT waits to be written.
    quits: bool,
    reader: ReplyReader,
    offers: Offers,
    mail: Exchange,
    fault: Option<Fault>,
}

impl Client {
    /// A connection that has just been made. `tls` tells that it began with TLS.
    pub fn new(config: Arc<ClientConfig>, tls: bool) -> Client {
        let name = config.ehlo_name.as_bytes();
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "a name for EHLO");
        Client {
            config,
            login: None,
            login_way: None,
            clear_login: false,
            skips_ehlo: false,
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

    /// Logs in before the first mail, and not without TLS, whatever is offered.
    pub fn with_login(self, login: Login) -> Client {
        assert_eq!(self.state, State::Greeting, "who we are is known before the connection is");
        Client { login: Some(login), ..self }
    }

    /// Logs in this way or not at all. For tests of servers alone: delivery takes what there is.
    pub fn only_by(self, way: LoginWay) -> Client {
        Client { login_way: Some(way), ..self }
    }

    /// As `with_login`, and without TLS where there is none. For tests of servers alone: delivery
    /// tells no password in the clear.
    pub fn with_login_in_clear(self, login: Login) -> Client {
        Client { clear_login: true, ..self.with_login(login) }
    }

    /// Says no EHLO, as clients older than RFC 821 do, and so uses nothing that is offered. For
    /// tests of servers alone.
    pub fn without_ehlo(self) -> Client {
        let bare = self.config.tls != TlsUse::Always && self.login.is_none();
        assert!(bare, "TLS and AUTH begin with EHLO");
        Client { skips_ehlo: true, ..self }
    }

    /// Takes bytes that came, up to the end of one reply, and says how many. Behind a fault they
    /// are all taken, and dropped.
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

    /// Whether a reply has come in whole that `next` has not seen.
    pub fn has_reply(&self) -> bool {
        self.reader.is_complete()
    }

    /// Acts on the reply that has come, if one has; appends what is to be written to `out`.
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

    /// Starts a mail; the step before was `Ready`, and nothing has come since.
    pub fn begin(&mut self, mail: &Mail<'_>) {
        assert_eq!(self.state, State::Ready, "one mail at a time, and after the greeting");
        assert!(!mail.recipients.is_empty(), "a mail has recipients");
        let terms = Terms {
            offers: self.offers,
            tls: self.tls,
            chunking: self.config.chunking && self.offers.chunking,
            rset: self.needs_rset,
        };
        self.mail.begin(mail, terms);
        self.state = if self.mail.is_void() { State::Over } else { State::Mail };
    }

    /// Ends the session in order.
    pub fn quit(&mut self) {
        assert_eq!(self.state, State::Ready, "a session ends in order between two mails");
        self.state = State::Quit;
        self.quits = true;
    }

    /// The handshake is done. What the peer said before is forgotten (RFC 3207 s4.2).
    pub fn on_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.state, State::Handshake, "no handshake was asked for");
        self.tls = true;
        self.offers = Offers::default();
        self.say_ehlo(out);
    }

    /// The body and its end were written in whole.
    pub fn on_body_sent(&mut self) {
        assert_eq!(self.mail.body, BodyState::Under, "no body was asked for");
        self.mail.body = BodyState::Sent;
    }

    /// Not all of the body could be written. What the peer has to say to that may still be read.
    pub fn on_body_broken(&mut self) {
        assert_eq!(self.mail.body, BodyState::Under, "no body was asked for");
        self.mail.body = BodyState::Broken;
    }

    /// The body breaks the line law and cannot be sent by DATA. Its end was not sent, so the peer
    /// has accepted nothing and still waits.
    pub fn refuse_body(&mut self, fault: LineFault) {
        assert_eq!(self.mail.body, BodyState::Under, "no body was asked for");
        self.mail.settle_open(&Outcome::Local(needs_chunking(fault)));
        self.fail(Fault::BodyBroken);
    }

    /// The driver cannot go on. Recipients without an outcome are lost.
    pub fn fail(&mut self, fault: Fault) {
        self.reader.clear();
        // Behind QUIT the peer may end the connection as it likes.
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

    /// What came of each recipient, in the order of the mail; the step was `Done`.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        assert_eq!(self.state, State::Over, "the mail is not over");
        self.state = if self.fault.is_some() { State::Closed } else { State::Ready };
        self.mail.take_outcomes()
    }

    /// Whether what the last mail asked of DSN was left out because the peer does not offer it:
    /// who asked for a report of success is told that the mail was relayed (RFC 3461 s5.2.2).
    pub fn relayed_without_dsn(&self) -> bool {
        self.mail.without_dsn
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// What the peer offered last.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether another mail may be begun.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    fn on_reply(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Greeting => self.on_greeting(out),
            State::Ehlo => self.on_ehlo(out),
            State::Helo => self.on_helo(),
            State::StartTls => self.on_starttls(out),
            State::Login(step) => self.on_login(step, out),
            State::Mail => self.on_mail_reply(out),
            State::Quit => self.state = State::Closed,
            // A 421 that came while the connection was idle says why it ends.
            State::Ready if self.reader.code() == 421 => self.refuse(Stage::Greeting),
            State::Handshake | State::Ready | State::Over => self.fail(Fault::Unasked),
            State::Closed => {}
        }
    }

    fn on_greeting(&mut self, out: &mut Vec<u8>) {
        match self.reader.code() / 100 {
            2 if self.skips_ehlo => self.state = State::Ready,
            2 => self.say_ehlo(out),
            4 | 5 => self.refuse(Stage::Greeting),
            _ => self.unexpected(Stage::Greeting),
        }
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
        match self.reader.code() / 100 {
            2 => {
                self.offers = Offers::read(&self.reader);
                self.choose_tls(out);
            }
            // RFC 5321 s3.2: a server that knows no EHLO knows HELO. It knows no STARTTLS either, and
            // no AUTH.
            5 if !self.config.lmtp && !self.must_start_tls() && self.login.is_none() => {
                self.say("HELO ", out);
                self.state = State::Helo;
            }
            4 | 5 => self.refuse(Stage::Ehlo),
            _ => self.unexpected(Stage::Ehlo),
        }
    }

    fn on_helo(&mut self) {
        match self.reader.code() / 100 {
            2 => self.state = State::Ready,
            4 | 5 => self.refuse(Stage::Ehlo),
            _ => self.unexpected(Stage::Ehlo),
        }
    }

    fn must_start_tls(&self) -> bool {
        let needs_tls = self.login.is_some() && !self.clear_login;
        (self.config.tls == TlsUse::Always || needs_tls) && !self.tls
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
        let is_fit = self.tls || self.login.is_none() || self.clear_login;
        assert!(is_fit, "a password is told under TLS only");
        let offers = self.login_offers();
        let begun = self.login.as_ref().map(|login| login.begin(&offers, out));
        match begun {
            None => self.state = State::Ready,
            Some(Some(step)) => self.state = State::Login(step),
            Some(None) => self.fail(Fault::LoginNotOffered),
        }
    }

    /// What is offered, as far as it may be used.
    fn login_offers(&self) -> Offers {
        let Offers { auth_plain, auth_login, .. } = self.offers;
        Offers {
            auth_plain: auth_plain && self.login_way != Some(LoginWay::Login),
            auth_login: auth_login && self.login_way != Some(LoginWay::Plain),
            ..self.offers
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
        match Login::begin_anew(step, &self.login_offers(), out) {
            Some(step) => self.state = State::Login(step),
            None => self.fail(Fault::LoginRefused(self.reader.reply())),
        }
    }

    /// Sends what may be sent, then says what to wait for.
    fn step_mail(&mut self, out: &mut Vec<u8>) -> ClientStep {
        if !self.mail.is_all_sent() && !self.mail.awaits_answer() {
            if self.mail.data_is_next() && self.mail.taken() == 0 && !self.pipelines() {
                return self.end_mail();
            }
            self.mail.send(self.pipelines(), out);
        }
        if self.may_send_ahead() || self.may_send_chunk() {
            self.mail.push_bdat(out);
            self.mail.body = BodyState::Under;
        }
        if self.mail.body == BodyState::Under {
            // What has begun to come now cannot be the answer to a body that has not left.
            if self.reader.is_midway() && !self.mail.awaits_answer() {
                self.fail(Fault::Unasked);
                return ClientStep::Done;
            }
            return ClientStep::SendBody(self.mail.form);
        }
        if self.mail.awaits_answer() {
            return ClientStep::Read(self.mail.stage());
        }
        match self.mail.body {
            // Nobody was accepted, so no BDAT was sent.
            BodyState::Unsent => self.end_mail(),
            _ => ClientStep::Read(Stage::End),
        }
    }

    fn pipelines(&self) -> bool {
        self.config.pipelining && self.offers.pipelining
    }

    /// A short chunk need not wait for the replies to MAIL and RCPT. LMTP has no say in how many
    /// replies a chunk for nobody gets, so there it waits.
    fn may_send_ahead(&self) -> bool {
        self.is_chunk_due()
            && self.pipelines()
            && !self.config.lmtp
            && self.mail.bytes() <= self.config.chunk_ahead_bytes_max
    }

    fn may_send_chunk(&self) -> bool {
        self.is_chunk_due() && self.mail.is_all_answered() && self.mail.taken() > 0
    }

    fn is_chunk_due(&self) -> bool {
        self.mail.form == BodyForm::Chunk
            && self.mail.body == BodyState::Unsent
            && self.mail.is_all_sent()
    }

    fn on_mail_reply(&mut self, out: &mut Vec<u8>) {
        let answers_command = self.mail.awaits_answer();
        let stage = if answers_command { self.mail.stage() } else { Stage::End };
        if self.reader.code() == 421 {
            return self.refuse(stage);
        }
        if answers_command {
            self.mail.count_answer();
            return self.on_envelope_reply(stage, out);
        }
        match self.mail.body {
            BodyState::Sent => self.on_end_reply(),
            BodyState::Broken => self.on_broken_reply(),
            BodyState::Under if self.reader.code() >= 400 => self.on_broken_reply(),
            BodyState::Under | BodyState::Unsent => self.fail(Fault::Unasked),
        }
    }

    fn on_envelope_reply(&mut self, stage: Stage, out: &mut Vec<u8>) {
        match (stage, self.reader.code() / 100) {
            (Stage::Rset, 2) => self.needs_rset = false,
            // The transaction is open at the peer until the reply to its end.
            (Stage::Mail, 2) => self.needs_rset = true,
            (Stage::Rcpt, 2) => self.mail.on_recipient(None),
            (Stage::Rcpt, 4 | 5) => {
                let reply = self.recipient_reply();
                self.mail.on_recipient(Some(reply));
            }
            (Stage::Data, 3) => self.on_go_ahead(out),
            (Stage::Mail | Stage::Data, 4 | 5) => {
                let reply = self.reader.reply();
                self.mail.settle_open(&Outcome::Refused { stage, reply });
                if stage == Stage::Data || !self.pipelines() {
                    self.state = State::Over;
                }
            }
            _ => self.unexpected(stage),
        }
    }

    /// RFC 5321 s4.5.3.1.10: 552 to RCPT was once said for too many recipients, and then is meant
    /// as 452. Where the enhanced code says something else, that counts.
    fn recipient_reply(&self) -> Reply {
        let mut reply = self.reader.reply();
        if reply.code == 552 && matches!(reply.enhanced, None | Some((5, 5, 3))) {
            reply.code = 452;
            reply.enhanced = reply.enhanced.map(|(_, subject, detail)| (4, subject, detail));
        }
        reply
    }

    /// 354.
    fn on_go_ahead(&mut self, out: &mut Vec<u8>) {
        if self.mail.taken() > 0 {
            self.mail.body = BodyState::Under;
            return;
        }
        // RFC 2033 s4.2 forbids this 354, and how many replies would follow is not known.
        if self.config.lmtp {
            return self.unexpected(Stage::Data);
        }
        // RFC 2920 s3.1: DATA was sent ahead, all recipients were refused, and the peer waits for
        // a body all the same. It gets an empty one.
        out.extend_from_slice(b".\r\n");
        self.mail.body = BodyState::Sent;
    }

    fn on_end_reply(&mut self) {
        let reply = self.reader.reply();
        let outcome = match reply.code / 100 {
            2 => Outcome::Accepted(reply),
            4 | 5 => Outcome::Refused { stage: Stage::End, reply },
            _ => return self.unexpected(Stage::End),
        };
        // A refused BDAT leaves the transaction open (RFC 3030 s2); RSET harms in no case.
        self.needs_rset = !matches!(outcome, Outcome::Accepted(_));
        if self.config.lmtp {
            self.mail.settle_first_taken(outcome);
        } else {
            self.mail.settle_taken(&outcome);
        }
        if self.mail.taken() == 0 {
            self.state = State::Over;
        }
    }

    /// The peer refuses a body before its end. It is good for nothing afterwards, for it waits for
    /// the rest.
    fn on_broken_reply(&mut self) {
        if self.reader.code() >= 400 {
            let reply = self.reader.reply();
            self.mail.settle_open(&Outcome::Refused { stage: Stage::End, reply });
        }
        self.fail(Fault::BodyBroken);
    }

    fn end_mail(&mut self) -> ClientStep {
        self.state = State::Over;
        ClientStep::Done
    }

    /// The reply ends the session, and says why to whoever has no outcome.
    fn refuse(&mut self, stage: Stage) {
        let reply = self.reader.reply();
        if self.state == State::Mail {
            self.mail.settle_open(&Outcome::Refused { stage, reply: reply.clone() });
        }
        self.fail(Fault::Refused { stage, reply });
    }

    fn unexpected(&mut self, stage: Stage) {
        self.fail(Fault::Unexpected { stage, reply: self.reader.reply() });
    }
}

#[cfg(test)]
mod tests;
