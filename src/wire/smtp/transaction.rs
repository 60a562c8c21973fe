//! One mail transaction: the sender, the recipients and their parameters.
//!
//! Owner:    the driver of the session. It creates one with an arena and drops both at
//!           `Step::Reset`.
//! Promise:  all text was validated by the grammar of its parameter and lives in the arena.
//! Bounds:   `ServerConfig::recipients_max` RCPT commands, each of at most `COMMAND_BYTES_MAX`.

use bumpalo::Bump;
use bumpalo::collections::Vec;

use crate::labelled;
use crate::wire::mail::address::Mailbox;
use crate::wire::mail::address::ReversePath;

/// The sender, the recipients and the parameters so far.
#[derive(Debug)]
pub struct Transaction<'t> {
    pub arena: &'t Bump,
    /// `None` before MAIL. Set before the question `Mail` is asked.
    pub sender: Option<ReversePath<'t>>,
    pub params: MailParams<'t>,
    /// The accepted recipients.
    pub recipients: Vec<'t, Recipient<'t>>,
    /// The recipient of the question `Recipient`.
    pub candidate: Option<Recipient<'t>>,
}

impl<'t> Transaction<'t> {
    pub fn new_in(arena: &'t Bump) -> Transaction<'t> {
        Transaction {
            arena,
            sender: None,
            params: MailParams::default(),
            recipients: Vec::new_in(arena),
            candidate: None,
        }
    }

    /// The sender as the log and relay rules name it: empty for the null sender.
    pub fn sender_text(&self) -> &'t str {
        match self.sender {
            Some(ReversePath::Mailbox(mailbox)) => mailbox.as_str(),
            Some(ReversePath::Null) | None => "",
        }
    }

    /// Whether the transaction holds no sender and no recipient.
    pub fn is_blank(&self) -> bool {
        self.sender.is_none() && self.recipients.is_empty() && self.candidate.is_none()
    }
}

/// The parameters of MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParams<'t> {
    /// SIZE (RFC 1870), as declared.
    pub size: Option<u64>,
    /// BODY (RFC 6152, RFC 3030).
    pub body: BodyType,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// REQUIRETLS (RFC 8689).
    pub requiretls: bool,
    /// RET (RFC 3461).
    pub ret: Option<Ret>,
    /// ENVID (RFC 3461), in xtext.
    pub envid: Option<&'t str>,
    /// AUTH (RFC 4954), in xtext, or `<>`. A claim of the client, not verified.
    pub auth: Option<&'t str>,
}

labelled! {
    /// The contents of the body, labelled as in BODY.
    #[derive(Default)]
    pub enum BodyType {
        #[default]
        SevenBit = "7BIT",
        EightBitMime = "8BITMIME",
        BinaryMime = "BINARYMIME",
    }
}

labelled! {
    /// How much of the message a failure report returns, labelled as in RET.
    pub enum Ret {
        Full = "FULL",
        Headers = "HDRS",
    }
}

/// One recipient and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'t> {
    pub mailbox: Mailbox<'t>,
    /// `dsn::NOTIFY_*` joined by `|`; 0 without NOTIFY.
    pub notify: u8,
    /// ORCPT, unchanged: `type;xtext`.
    pub orcpt: Option<&'t str>,
}
