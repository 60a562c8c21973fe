//! One mail on its way to a peer: its commands, written at once, and what came of each recipient.
//!
//! Owner:    the `Client`, which reuses its memory from mail to mail.
//! Promise:  every recipient has exactly one outcome in the end. What the peer cannot do is never
//!           asked of it: the mail or the recipient fails here, or the parameter is left out where
//!           its RFC allows that.
//! Bounds:   the commands of one mail and a slot per recipient; the caller cuts recipient lists.

use crate::wire::dsn::NOTIFY_DELAY;
use crate::wire::dsn::NOTIFY_FAILURE;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::dsn::NOTIFY_SUCCESS;
use crate::wire::smtp::client::BodyForm;
use crate::wire::smtp::client::Stage;
use crate::wire::smtp::client_offers::Offers;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// What is to be sent. All text was validated when it was received.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// `None` is the null reverse-path.
    pub sender: Option<&'a str>,
    pub recipients: &'a [MailRecipient<'a>],
    /// Bytes of the body, before dots are stuffed. With BDAT exactly so many are sent.
    pub bytes: u64,
    pub body: BodyType,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub ret: Option<Ret>,
    /// xtext, as given.
    pub envid: Option<&'a str>,
}

/// One recipient of it.
#[derive(Clone, Copy, Debug)]
pub struct MailRecipient<'a> {
    pub mailbox: &'a str,
    /// `dsn::NOTIFY_*` joined by `|` (RFC 3461 s4.1); 0 when nothing was said.
    pub notify: u8,
    /// The value of ORCPT, as given.
    pub orcpt: Option<&'a str>,
}

/// What came of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer has taken the responsibility for it.
    Accepted(Reply),
    /// The peer has not, and said so when it was told this. A 421 closes the connection too.
    Refused { stage: Stage, reply: Reply },
    /// It was not asked, because it cannot do what the mail needs. For good, as far as this peer
    /// is concerned.
    Local(Reply),
    /// The connection ended before the peer said which.
    Lost {
        /// The body may have come through to its end, so the peer may have accepted it, and
        /// another try may deliver it twice.
        after_body: bool,
    },
}

const NEEDS_CONVERSION: Reply =
    Reply::new(554, (5, 6, 3), "The next server does not take 8-bit mail");
const NEEDS_BINARY: Reply = Reply::new(554, (5, 6, 3), "The next server does not take binary mail");
const ADDRESS_NEEDS_UTF8: Reply =
    Reply::new(553, (5, 6, 7), "The next server does not take UTF-8 addresses");
const HEADER_NEEDS_UTF8: Reply =
    Reply::new(550, (5, 6, 9), "The next server does not take UTF-8 headers");
const TOO_BIG: Reply =
    Reply::new(552, (5, 3, 4), "The message is larger than the next server allows");
const NEEDS_REQUIRETLS: Reply =
    Reply::new(550, (5, 7, 30), "The next server does not support REQUIRETLS");
const BAD_SENDER: Reply = Reply::new(553, (5, 1, 7), "The sender address cannot be sent");
const BAD_RECIPIENT: Reply = Reply::new(553, (5, 1, 3), "The recipient address cannot be sent");

/// RFC 3463 s3.7: a conversion would be required, and is not supported.
pub(super) fn needs_chunking(fault: LineFault) -> Reply {
    let cause = fault.cause();
    let text = format!(
        "The message contains a {cause}, so it can only be sent by BDAT, which the next server does not support"
    );
    Reply::composed(554, (5, 6, 3), text)
}

/// What of a connection a mail must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub offers: Offers,
    pub tls: bool,
    /// BDAT may be used.
    pub chunking: bool,
    /// RSET must be said first.
    pub rset: bool,
}

/// How far the body has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyState {
    #[default]
    Unsent,
    /// The driver is sending it.
    Under,
    /// All of it, with its end.
    Sent,
    /// A part of it; the connection is good for reading a last reply only.
    Broken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Asked,
    /// RCPT was accepted.
    Taken,
    Settled(Outcome),
}

/// The mail under way.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// RSET if need be, MAIL, each RCPT, and DATA unless BDAT is used: lines with their CRLF.
    script: Vec<u8>,
    script_sent: usize,
    /// Commands in the script, how many of them were sent and how many were answered.
    commands: usize,
    sent: usize,
    answered: usize,
    has_rset: bool,
    /// RCPT commands.
    asked: usize,
    slots: Vec<Slot>,
    /// Where the recipient of the next reply is looked for.
    cursor: usize,
    /// Recipients whose slot is `Taken`.
    taken: usize,
    bytes: u64,
    pub form: BodyForm,
    pub body: BodyState,
    pub without_dsn: bool,
}

impl Exchange {
    /// Starts over with another mail. Recipients that cannot be asked for are settled.
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

    /// Appends the next command, or with `all` every one that is left.
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

    /// Whether there is nobody to ask for, so that the peer need not hear of the mail.
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

    /// Of the command that is answered next.
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

    /// The next command to be sent is DATA.
    pub fn data_is_next(&self) -> bool {
        self.form == BodyForm::Dot && self.sent + 1 == self.commands
    }

    pub fn count_answer(&mut self) {
        debug_assert!(self.awaits_answer(), "an answer without a command");
        self.answered += 1;
    }

    /// The answer to the next RCPT. One who is settled already stays so.
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

    /// One reply for all that were taken.
    pub fn settle_taken(&mut self, outcome: &Outcome) {
        self.settle(|slot| *slot == Slot::Taken, outcome);
    }

    /// One reply for the first of those that were taken and have none (RFC 2033 s4.2).
    pub fn settle_first_taken(&mut self, outcome: Outcome) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Slot::Taken) {
            *slot = Slot::Settled(outcome);
            self.taken -= 1;
        }
    }

    /// Whoever has no outcome gets this one.
    pub fn settle_open(&mut self, outcome: &Outcome) {
        self.settle(|slot| !matches!(slot, Slot::Settled(_)), outcome);
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Appends the command before a body that is sent as one chunk (RFC 3030 s2).
    pub fn push_bdat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"BDAT ");
        reply::push_decimal(self.bytes, out);
        out.extend_from_slice(b" LAST\r\n");
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What came of each recipient, in the order of the mail.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        let outcomes = self.slots.drain(..).map(|slot| match slot {
            Slot::Settled(outcome) => outcome,
            Slot::Asked | Slot::Taken => panic!("a mail is over while a recipient is open"),
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

/// Why the mail cannot go to this peer at all.
fn obstacle(mail: &Mail<'_>, terms: Terms) -> Option<Reply> {
    let offers = terms.offers;
    let sender = mail.sender.unwrap_or_default();
    if !is_clean(sender) {
        return Some(BAD_SENDER);
    }
    // RFC 8689 s4.2.1: never without it, and it is offered under TLS only.
    if mail.requiretls && !(offers.requiretls && terms.tls) {
        return Some(NEEDS_REQUIRETLS);
    }
    // RFC 6531 s3.1 (8): what was flagged stays flagged, though the addresses be ASCII.
    if !offers.smtputf8 && !sender.is_ascii() {
        return Some(ADDRESS_NEEDS_UTF8);
    }
    if !offers.smtputf8 && mail.smtputf8 {
        let in_addresses = mail.recipients.iter().any(|one| !one.mailbox.is_ascii());
        return Some(if in_addresses { ADDRESS_NEEDS_UTF8 } else { HEADER_NEEDS_UTF8 });
    }
    // RFC 1870 s6.1 lets us spare the peer the attempt.
    if offers.size_max.is_some_and(|size_max| mail.bytes > size_max) {
        return Some(TOO_BIG);
    }
    match mail.body {
        BodyType::EightBitMime if !offers.eight_bit_mime => Some(NEEDS_CONVERSION),
        BodyType::BinaryMime if !(offers.binary_mime && terms.chunking) => Some(NEEDS_BINARY),
        _ => None,
    }
}

fn recipient_obstacle(recipient: &MailRecipient<'_>, terms: Terms) -> Option<Reply> {
    if recipient.mailbox.is_empty() || !is_clean(recipient.mailbox) {
        return Some(BAD_RECIPIENT);
    }
    let needs_utf8 = !terms.offers.smtputf8 && !recipient.mailbox.is_ascii();
    needs_utf8.then_some(ADDRESS_NEEDS_UTF8)
}

/// Nothing in it can end a command line.
fn is_clean(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// As `is_clean`, and nothing in it can end a parameter.
fn is_value(text: &&str) -> bool {
    is_clean(text) && !text.is_empty() && !text.contains(' ')
}

/// Whether MAIL must say SMTPUTF8 (RFC 6531 s3.4).
fn utf8_is_used(mail: &Mail<'_>, slots: &[Slot]) -> bool {
    let mut asked = slots.iter().zip(mail.recipients).filter(|(slot, _)| **slot == Slot::Asked);
    mail.smtputf8
        || !mail.sender.is_none_or(str::is_ascii)
        || asked.any(|(_, recipient)| !recipient.mailbox.is_ascii())
}

/// Appends MAIL; says whether something for DSN was left out.
fn push_mail(mail: &Mail<'_>, utf8: bool, terms: Terms, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(mail.sender.unwrap_or_default().as_bytes());
    out.push(b'>');
    if terms.offers.size {
        out.extend_from_slice(b" SIZE=");
        reply::push_decimal(mail.bytes, out);
    }
    match mail.body {
        BodyType::SevenBit => {}
        BodyType::EightBitMime => out.extend_from_slice(b" BODY=8BITMIME"),
        BodyType::BinaryMime => out.extend_from_slice(b" BODY=BINARYMIME"),
    }
    if utf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if mail.requiretls {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if terms.offers.dsn {
        match mail.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = mail.envid.filter(is_value) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    !terms.offers.dsn && (mail.ret.is_some() || mail.envid.is_some())
}

/// Appends RCPT; says whether something for DSN was left out.
fn push_recipient(
    recipient: &MailRecipient<'_>,
    utf8: bool,
    terms: Terms,
    out: &mut Vec<u8>,
) -> bool {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.mailbox.as_bytes());
    out.push(b'>');
    if terms.offers.dsn {
        push_notify(recipient.notify, out);
        // RFC 6533 s3: raw UTF-8 only in a mail that says SMTPUTF8.
        let orcpt = recipient.orcpt.filter(is_value).filter(|orcpt| utf8 || orcpt.is_ascii());
        if let Some(orcpt) = orcpt {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(orcpt.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    !terms.offers.dsn && (recipient.notify != 0 || recipient.orcpt.is_some())
}

fn push_notify(notify: u8, out: &mut Vec<u8>) {
    if notify & NOTIFY_NEVER != 0 {
        out.extend_from_slice(b" NOTIFY=NEVER");
        return;
    }
    let mut lead: &[u8] = b" NOTIFY=";
    let words: [(u8, &[u8]); 3] =
        [(NOTIFY_SUCCESS, b"SUCCESS"), (NOTIFY_FAILURE, b"FAILURE"), (NOTIFY_DELAY, b"DELAY")];
    for (bit, word) in words {
        if notify & bit != 0 {
            out.extend_from_slice(lead);
            out.extend_from_slice(word);
            lead = b",";
        }
    }
}
