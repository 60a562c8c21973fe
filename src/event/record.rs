//! The types of events, and their binary form.

use std::net::IpAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::CredentialId;
use crate::base::MessageId;
use crate::base::StreamNumber;
use crate::base::TenantId;

/// Recipients of one `accepted`.
pub const RECIPIENTS_MAX: usize = 200;
/// Bytes of a reply that an event keeps.
pub const REPLY_BYTES_MAX: usize = 200;
/// Bytes of names and values of the metadata that an event keeps.
pub const METADATA_BYTES_MAX: usize = 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event<'a> {
    /// The local id of the message.
    id: u64,
    /// From the time of the id.
    after_ms: i64,
    tenant: u64,
    stream: u16,
    #[serde(borrow)]
    pub fact: Fact<'a>,
}

/// What has become true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fact<'a> {
    /// The message is durable, with these recipients.
    #[serde(borrow)]
    Accepted(Accepted<'a>),
    /// An attempt has failed for now.
    #[serde(borrow)]
    Deferred(Outcome<'a>),
    /// A server has taken the message.
    #[serde(borrow)]
    Delivered(Outcome<'a>),
    /// Refused for good, by a server or by us.
    #[serde(borrow)]
    Bounced(Outcome<'a>),
    /// Given up for its age. The reply is that of the last attempt.
    #[serde(borrow)]
    Expired(Outcome<'a>),
    /// Removed on request.
    #[serde(borrow)]
    Cancelled(Change<'a>),
    /// Kept from delivery by an operator or a route.
    #[serde(borrow)]
    Held(Change<'a>),
}

/// A message that was accepted or made here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accepted<'a> {
    pub credential: Option<u64>,
    /// The client; `None` for a report that was made here.
    pub peer: Option<IpAddr>,
    /// Of the whole message.
    pub bytes: u64,
    /// Empty is the null sender.
    pub sender: &'a str,
    /// The header field.
    pub message_id: Option<&'a str>,
    /// The index of the first recipient here.
    pub first: u32,
    #[serde(borrow)]
    pub recipients: Vec<&'a str>,
    #[serde(borrow)]
    pub tags: Vec<&'a str>,
    #[serde(borrow)]
    pub metadata: Vec<(&'a str, &'a str)>,
}

/// The outcome of an attempt, or of a decision of ours, for one recipient.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome<'a> {
    /// The index of the recipient in the message.
    pub index: u32,
    pub recipient: &'a str,
    pub sender: &'a str,
    #[serde(borrow)]
    pub tags: Vec<&'a str>,
    #[serde(borrow)]
    pub metadata: Vec<(&'a str, &'a str)>,
    /// Attempts so far, with this one.
    pub attempts: u32,
    pub destination: &'a str,
    /// The server that was talked to; empty if none was.
    pub host: &'a str,
    pub address: Option<IpAddr>,
    /// The address that it was sent from, if one is configured.
    pub source: Option<&'a str>,
    pub status: (u8, u16, u16),
    /// The reply with its code, or our own text.
    pub reply: &'a str,
    /// Whether the remote server sent the reply.
    pub is_remote: bool,
    pub category: Option<&'a str>,
    /// Since the message was received.
    pub age_ms: u64,
    pub wait_us: u64,
    pub connect_us: u64,
    pub transfer_us: u64,
    /// When it is tried again, from the time of the event.
    pub again_in_ms: Option<u64>,
}

/// A change that an operator or a rule has ordered, for some recipients of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change<'a> {
    pub sender: &'a str,
    /// The indexes of the recipients in the message.
    pub indexes: Vec<u32>,
    #[serde(borrow)]
    pub recipients: Vec<&'a str>,
    #[serde(borrow)]
    pub tags: Vec<&'a str>,
    #[serde(borrow)]
    pub metadata: Vec<(&'a str, &'a str)>,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub id: MessageId,
    pub tenant: TenantId,
    pub stream: StreamNumber,
}

impl<'a> Event<'a> {
    pub fn new(owner: Owner, at_ms: u64, fact: Fact<'a>) -> Event<'a> {
        let Owner { id, tenant, stream } = owner;
        let after_ms = at_ms.wrapping_sub(id.made_ms()) as i64;
        Event { id: id.as_u64(), after_ms, tenant: tenant.0, stream: stream.0, fact }
    }

    pub fn owner(&self) -> Owner {
        Owner {
            id: MessageId::from_u64(self.id),
            tenant: TenantId(self.tenant),
            stream: StreamNumber(self.stream),
        }
    }

    pub fn at_ms(&self) -> u64 {
        MessageId::from_u64(self.id).made_ms().wrapping_add_signed(self.after_ms)
    }
}

impl Accepted<'_> {
    pub fn credential(&self) -> Option<CredentialId> {
        self.credential.map(CredentialId)
    }
}

impl Fact<'_> {
    /// The name of its type.
    pub const fn name(&self) -> &'static str {
        match self {
            Fact::Accepted(_) => "accepted",
            Fact::Deferred(_) => "deferred",
            Fact::Delivered(_) => "delivered",
            Fact::Bounced(_) => "bounced",
            Fact::Expired(_) => "expired",
            Fact::Cancelled(_) => "cancelled",
            Fact::Held(_) => "held",
        }
    }
}

/// As much of a reply as an event keeps.
pub fn cut(reply: &str) -> &str {
    &reply[..reply.floor_char_boundary(REPLY_BYTES_MAX)]
}

/// As many pairs as an event keeps.
pub fn fitting<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    let mut left = METADATA_BYTES_MAX;
    let fits = |(name, value): &(&str, &str)| {
        let next = left.checked_sub(name.len() + value.len());
        left = next.unwrap_or(0);
        next.is_some()
    };
    pairs.take_while(fits).collect()
}
