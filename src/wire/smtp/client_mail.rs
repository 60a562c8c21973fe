//! The exchange of one mail: its commands, and the outcome of each recipient.
//!
//! Owner:    the `Client`, which reuses its memory for the next mail.
//! Promise:  every recipient gets exactly one outcome. Nothing is requested that the peer does not
//!           offer: the mail or the recipient fails locally, or the parameter is left out where its
//!           RFC allows that.
//! Bounds:   the commands of one mail and a slot per recipient; the caller splits recipient lists.

use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_envelope::Terms;
use crate::wire::smtp::client_envelope::obstacle;
use crate::wire::smtp::client_envelope::push_mail;
use crate::wire::smtp::client_envelope::push_recipient;
use crate::wire::smtp::client_envelope::recipient_obstacle;
use crate::wire::smtp::client_step::BodyForm;
use crate::wire::smtp::client_step::Stage;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;

/// The outcome of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer has taken responsibility for the mail.
    Accepted(Reply),
    /// The peer refused it at this stage. A 421 also closes the connection.
    Refused { stage: Stage, reply: Reply },
    /// Not sent, because the peer lacks an extension that the mail needs. Permanent for this peer.
    Local(Reply),
    /// The connection ended before the peer answered.
    Lost {
        /// The whole body was sent. The peer may have accepted it, so a retry may deliver twice.
        after_body: bool,
    },
}

/// The progress of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyState {
    #[default]
    Unsent,
    /// The driver is sending it.
    Sending,
    /// Sent completely, with its end.
    Sent,
    /// Sent in part. Only a last reply can be read.
    Broken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Asked,
    /// RCPT was accepted.
    Taken,
    Settled(Outcome),
}

/// The current mail.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// RSET if required, MAIL, each RCPT, and DATA unless BDAT is used: lines with their CRLF.
    script: Vec<u8>,
    script_sent: usize,
    /// Commands in the script, and how many of them were sent and answered.
    commands: usize,
    sent: usize,
    answered: usize,
    has_rset: bool,
    /// RCPT commands.
    asked: usize,
    slots: Vec<Slot>,
    /// The slot from which to search for the recipient of the next reply.
    cursor: usize,
    /// Slots that are `Taken`.
    taken: usize,
    bytes: u64,
    pub form: BodyForm,
    pub body: BodyState,
    pub without_dsn: bool,
}

impl Exchange {
    /// Starts another mail. Recipients that cannot be sent to this peer are settled at once.
    pub fn begin(&mut self, mail: &Mail<'_>, terms: Terms) {
        let mut script = std::mem::take(&mut self.script);
        let mut slots = std::mem::take(&mut self.slots);
        script.clear();
        slots.clear();
        *self = Exchange { script, slots, bytes: mail.bytes, ..Exchange::default() };
        self.form = if terms.chunking { BodyForm::Chunk } else { BodyForm::Dot };
        if let Some(reply) = obstacle(mail, terms) {
            let outcome = Outcome::Local(reply);
            self.slots.resize(mail.recipients.len(), Slot::Settled(outcome));
            return;
        }
        for recipient in mail.recipients {
            self.slots.push(match recipient_obstacle(recipient, terms) {
                Some(reply) => Slot::Settled(Outcome::Local(reply)),
                None => Slot::Asked,
            });
        }
        self.asked = self.slots.iter().filter(|slot| **slot == Slot::Asked).count();
        if self.asked > 0 {
            self.write_script(mail, terms);
        }
    }

    /// Appends the next command, or with `all` all remaining ones.
    pub fn send(&mut self, all: bool, out: &mut Vec<u8>) {
        let rest = &self.script[self.script_sent..];
        let end = match memchr::memchr(b'\n', rest) {
            Some(line_feed) if !all => line_feed + 1,
            _ => rest.len(),
        };
        out.extend_from_slice(&rest[..end]);
        self.script_sent += end;
        self.sent = if all { self.commands } else { self.sent + 1 };
    }

    /// Whether no recipient is left, so that nothing is sent.
    pub fn is_void(&self) -> bool {
        self.commands == 0
    }

    pub fn is_all_sent(&self) -> bool {
        self.sent == self.commands
    }

    pub fn is_all_answered(&self) -> bool {
        self.answered == self.commands
    }

    pub fn awaits_answer(&self) -> bool {
        self.answered < self.sent
    }

    /// The stage of the command that the next reply answers.
    pub fn stage(&self) -> Stage {
        let mail = usize::from(self.has_rset);
        if self.answered < mail {
            Stage::Rset
        } else if self.answered == mail {
            Stage::Mail
        } else if self.answered <= mail + self.asked {
            Stage::Rcpt
        } else {
            Stage::Data
        }
    }

    /// Whether the next command is DATA.
    pub fn data_is_next(&self) -> bool {
        self.form == BodyForm::Dot && self.sent + 1 == self.commands
    }

    pub fn count_answer(&mut self) {
        debug_assert!(self.awaits_answer(), "a reply without a command");
        self.answered += 1;
    }

    /// The answer to the next RCPT. A recipient that is already settled keeps its outcome.
    pub fn on_recipient(&mut self, refused: Option<Reply>) {
        let is_local = |slot: &Slot| matches!(slot, Slot::Settled(Outcome::Local(_)));
        while self.slots.get(self.cursor).is_some_and(is_local) {
            self.cursor += 1;
        }
        let slot = &mut self.slots[self.cursor];
        self.cursor += 1;
        if *slot != Slot::Asked {
            return;
        }
        *slot = match refused {
            None => {
                self.taken += 1;
                Slot::Taken
            }
            Some(reply) => Slot::Settled(Outcome::Refused { stage: Stage::Rcpt, reply }),
        };
    }

    /// Settles all accepted recipients with one reply.
    pub fn settle_taken(&mut self, outcome: &Outcome) {
        self.settle(|slot| *slot == Slot::Taken, outcome);
    }

    /// Settles the first accepted recipient that is open (RFC 2033 s4.2).
    pub fn settle_first_taken(&mut self, outcome: Outcome) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Slot::Taken) {
            *slot = Slot::Settled(outcome);
            self.taken -= 1;
        }
    }

    /// Settles all recipients without an outcome.
    pub fn settle_open(&mut self, outcome: &Outcome) {
        self.settle(|slot| !matches!(slot, Slot::Settled(_)), outcome);
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Appends the BDAT command for a body that is sent as one chunk (RFC 3030 s2).
    pub fn push_bdat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"BDAT ");
        reply::push_decimal(self.bytes, out);
        out.extend_from_slice(b" LAST\r\n");
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The outcome of each recipient, in the order of the mail.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        let outcomes = self.slots.drain(..).map(|slot| match slot {
            Slot::Settled(outcome) => outcome,
            Slot::Asked | Slot::Taken => panic!("a mail ended with an open recipient"),
        });
        outcomes.collect()
    }

    fn settle(&mut self, chosen: impl Fn(&Slot) -> bool, outcome: &Outcome) {
        for slot in self.slots.iter_mut().filter(|slot| chosen(slot)) {
            *slot = Slot::Settled(outcome.clone());
        }
        self.taken = self.slots.iter().filter(|slot| **slot == Slot::Taken).count();
    }

    fn write_script(&mut self, mail: &Mail<'_>, terms: Terms) {
        let utf8 = utf8_is_used(mail, &self.slots);
        let out = &mut self.script;
        self.has_rset = terms.rset;
        if terms.rset {
            out.extend_from_slice(b"RSET\r\n");
        }
        let mut left_out = push_mail(mail, utf8, terms, out);
        let asked = self.slots.iter().zip(mail.recipients);
        for (_, recipient) in asked.filter(|(slot, _)| **slot == Slot::Asked) {
            left_out |= push_recipient(recipient, utf8, terms, out);
        }
        if self.form == BodyForm::Dot {
            out.extend_from_slice(b"DATA\r\n");
        }
        self.without_dsn = left_out;
        self.commands =
            usize::from(terms.rset) + 1 + self.asked + usize::from(self.form == BodyForm::Dot);
    }
}

/// Whether MAIL needs SMTPUTF8 (RFC 6531 s3.4).
fn utf8_is_used(mail: &Mail<'_>, slots: &[Slot]) -> bool {
    let mut asked = slots.iter().zip(mail.recipients).filter(|(slot, _)| **slot == Slot::Asked);
    mail.smtputf8
        || !mail.sender.is_none_or(str::is_ascii)
        || asked.any(|(_, recipient)| !recipient.mailbox.is_ascii())
}
