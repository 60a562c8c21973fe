//! Counts and logs the commands, replies and refusals of a session.

use crate::inbound::session::Session;
use crate::observe::label::Refusal;
use crate::observe::label::ReplyClass;
use crate::observe::label::Verb as VerbLabel;
use crate::observe::log::Record;
use crate::wire::smtp::command::Command;
use crate::wire::smtp::command::Verb;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::transaction::Transaction;

impl Session {
    /// Counts the reply to a command, which begins after `answered` bytes of output, if it is a refusal.
    pub(super) fn count_refusal(&self, answered: usize) {
        if let Some(refusal) = Refusal::of_reply(&self.out[answered..]) {
            self.reception.metrics().refusals_total.add(refusal, 1);
        }
    }

    pub(super) fn report_refusal(&self, question: Question, tx: &Transaction<'_>, reply: &Reply) {
        let stage = match question {
            Question::Helo => "helo",
            Question::Mail => "mail",
            Question::Recipient => "rcpt",
            Question::Body => "data",
        };
        let to = tx.candidate.as_ref().map(|candidate| candidate.mailbox.as_str());
        self.emit_refused(stage, tx, to, reply);
    }

    pub(super) fn emit_refused(
        &self,
        stage: &'static str,
        tx: &Transaction<'_>,
        to: Option<&str>,
        reply: &Reply,
    ) {
        let mut line = Vec::with_capacity(80);
        reply.write(&mut line);
        Record::Refused {
            peer: self.identity.peer().ip(),
            helo: self.helo(),
            from: tx.sender.is_some().then(|| tx.sender_text()),
            to,
            stage,
            reply: std::str::from_utf8(&line).unwrap_or("").trim_end(),
        }
        .emit();
    }

    /// Counts the command whose line `next` has just read.
    pub(super) fn count_command(&self, consumed: usize) {
        let line = &self.input.pending()[..consumed];
        if line.ends_with(b"\n") {
            let verb = Command::parse(line.trim_ascii_end()).verb;
            if verb == Verb::Vrfy {
                // A test causes a panic here, to check that it ends only this session.
                fail::fail_point!("session::panic");
            }
            self.reception.metrics().commands_total.add(verb_label(verb), 1);
        }
    }

    /// Counts the replies that are about to be sent, by their last lines.
    pub(super) fn count_replies(&self) {
        for line in self.out.split_inclusive(|byte| *byte == b'\n') {
            if let [class @ b'2'..=b'5', _, _, b' ', ..] = line {
                let class = ReplyClass::of(u16::from(class - b'0') * 100);
                self.reception.metrics().replies_total.add(class, 1);
            }
        }
    }
}

fn verb_label(verb: Verb) -> VerbLabel {
    match verb {
        Verb::Helo => VerbLabel::Helo,
        Verb::Ehlo => VerbLabel::Ehlo,
        Verb::Lhlo => VerbLabel::Lhlo,
        Verb::Mail => VerbLabel::Mail,
        Verb::Rcpt => VerbLabel::Rcpt,
        Verb::Data => VerbLabel::Data,
        Verb::Bdat => VerbLabel::Bdat,
        Verb::Rset => VerbLabel::Rset,
        Verb::Noop => VerbLabel::Noop,
        Verb::Vrfy => VerbLabel::Vrfy,
        Verb::Expn => VerbLabel::Expn,
        Verb::Help => VerbLabel::Help,
        Verb::Quit => VerbLabel::Quit,
        Verb::StartTls => VerbLabel::StartTls,
        Verb::Auth => VerbLabel::Auth,
        Verb::Xclient => VerbLabel::Xclient,
        Verb::Http | Verb::Unknown => VerbLabel::Unknown,
    }
}
