//! One mail transaction: who sends, to whom, and what was asked for on the way.
//!
//! Owner:    the driver of the session. It makes one with an arena and drops both at `Step::Reset`.
//! Promise:  all text in it was validated by the grammar of its parameter and lives in the arena.
//! Bounds:   `ServerConfig::recipients_max` RCPT commands, each of at most `COMMAND_BYTES_MAX`.

use bumpalo::Bump;
use bumpalo::collections::Vec;

use crate::wire::mail::address::Mailbox;
use crate::wire::mail::address::ReversePath;

/// What MAIL and RCPT said so far.
#[derive(Debug)]
pub struct Transaction<'t> {
    pub arena: &'t Bump,
    /// `None` until MAIL has come. While the gate is asked about it, it stands here already.
    pub sender: Option<ReversePath<'t>>,
    pub params: MailParams<'t>,
    /// The accepted ones.
    pub recipients: Vec<'t, Recipient<'t>>,
    /// The one that the gate is asked about.
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

    /// Whether no MAIL was accepted into it.
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
    /// ENVID (RFC 3461), xtext as given.
    pub envid: Option<&'t str>,
    /// AUTH (RFC 4954), xtext as given, or `<>`. It says what the client claims, no more.
    pub auth: Option<&'t str>,
}

/// What the body may consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
    BinaryMime,
}

/// How much of the message a failure report returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// When the sender wants to hear of a recipient (RFC 3461 s4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    Never,
    On { success: bool, failure: bool, delay: bool },
}

/// One recipient and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'t> {
    pub mailbox: Mailbox<'t>,
    /// NOTIFY; `None` leaves it to the default, failures and perhaps delays.
    pub notify: Option<Notify>,
    /// ORCPT, as given: `type;xtext`.
    pub orcpt: Option<&'t str>,
}
