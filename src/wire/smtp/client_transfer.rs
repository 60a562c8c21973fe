//! One mail of a client session: which commands may be sent, and what each reply means.

use crate::wire::smtp::client::Client;
use crate::wire::smtp::client::State;
use crate::wire::smtp::client_mail::BodyState;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::BodyForm;
use crate::wire::smtp::client_step::ClientStep;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage;
use crate::wire::smtp::reply::Reply;

impl Client {
    /// Sends the commands that may be sent, then returns the next step.
    pub(super) fn step_mail(&mut self, out: &mut Vec<u8>) -> ClientStep {
        if !self.mail.is_all_sent() && !self.mail.awaits_answer() {
            if self.mail.data_is_next() && self.mail.taken() == 0 && !self.pipelines() {
                return self.end_mail();
            }
            self.mail.send(self.pipelines(), out);
        }
        if self.may_send_ahead() || self.may_send_chunk() {
            self.mail.push_bdat(out);
            self.mail.body = BodyState::Sending;
        }
        if self.mail.body == BodyState::Sending {
            // Input before the body is sent cannot be its reply.
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
            // No recipient was accepted, so no BDAT was sent.
            BodyState::Unsent => self.end_mail(),
            _ => ClientStep::Read(Stage::End),
        }
    }

    fn pipelines(&self) -> bool {
        self.config.pipelining && self.offers.pipelining
    }

    /// A short chunk need not wait for the replies to MAIL and RCPT. In LMTP it waits: the number
    /// of replies to a chunk without recipients is not specified.
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

    pub(super) fn on_mail_reply(&mut self, out: &mut Vec<u8>) {
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
            BodyState::Sending if self.reader.code() >= 400 => self.on_broken_reply(),
            BodyState::Sending | BodyState::Unsent => self.fail(Fault::Unasked),
        }
    }

    fn on_envelope_reply(&mut self, stage: Stage, out: &mut Vec<u8>) {
        match (stage, self.reader.code() / 100) {
            (Stage::Rset, 2) => self.needs_rset = false,
            // A transaction is open at the peer until its last reply.
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

    /// RFC 5321 s4.5.3.1.10: old servers answer 552 to RCPT for too many recipients, which means
    /// 452. An enhanced code with another meaning takes precedence.
    fn recipient_reply(&self) -> Reply {
        let mut reply = self.reader.reply();
        if reply.code == 552 && matches!(reply.enhanced, None | Some((5, 5, 3))) {
            reply.code = 452;
            reply.enhanced = reply.enhanced.map(|(_, subject, detail)| (4, subject, detail));
        }
        reply
    }

    /// The 354 after DATA.
    fn on_go_ahead(&mut self, out: &mut Vec<u8>) {
        if self.mail.taken() > 0 {
            self.mail.body = BodyState::Sending;
            return;
        }
        // RFC 2033 s4.2 forbids this 354, and the number of replies to follow is unknown.
        if self.config.lmtp {
            return self.unexpected(Stage::Data);
        }
        // RFC 2920 s3.1: DATA was pipelined and all recipients were refused, but the peer waits for
        // a body. Send an empty one.
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
        // A refused BDAT leaves the transaction open (RFC 3030 s2). RSET does no harm otherwise.
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

    /// The peer refused the body before its end. The connection cannot be used again, because the
    /// peer waits for the rest.
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
}
