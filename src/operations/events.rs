//! Operations on the event log.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::operations::operation::operation;

/// Events of one page.
pub const EVENT_PAGE_ROWS: usize = 1000;

operation! {
    /// Events from a position on, page by page. Those of one message come in the order in which they
    /// became true; those of different messages by time, but for what became readable later.
    #[derive(Default)]
    #[serde(default)]
    ListEvents {
        /// Where the last page ended: its `next`. None: from the oldest event on.
        after: Option<String>,
        /// Without `after`: begin with so many events of each partition before the end.
        last: Option<u64>,
        /// Events of the page, at most `EVENT_PAGE_ROWS`.
        limit: Option<usize>,
        /// Only these types, separated by commas.
        types: Option<String>,
        /// Only events of this message.
        id: Option<String>,
        /// Only events of this recipient, or of recipients of `@domain`.
        recipient: Option<String>,
        /// Only messages from this envelope sender; `<>` is the null sender.
        sender: Option<String>,
        tenant: Option<String>,
        tag: Option<String>,
        /// Only events from this time on, and before the other one, in milliseconds since 1970.
        from_ms: Option<u64>,
        to_ms: Option<u64>,
    }
    "events.list", Get "/v1/events", ReadEvents => EventPage
}

/// One page of events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventPage {
    pub events: Vec<EventRow>,
    /// Numbers that the log does not have any more: they were dropped for their age or for space, or
    /// lost to damage.
    pub gaps: Vec<EventGap>,
    /// `after` of the next page.
    pub next: String,
    /// There was nothing more to read.
    pub is_end: bool,
}

/// Events of a partition that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventGap {
    pub partition: u8,
    pub from: u64,
    /// The first number after the gap.
    pub to: u64,
}

/// One event. Fields without a value are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRow {
    /// Names the event on this server: partition and number.
    pub event: String,
    /// RFC 3339.
    pub time: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// The message.
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub stream: u16,
    /// Empty is the null sender.
    pub sender: String,
    /// The recipients that the event is about.
    pub recipients: Vec<String>,
    /// Their places in the message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Of an accepted message.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedRow>,
    /// Of an attempt, or of a decision that takes its place.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AcceptedRow {
    /// Of the whole message.
    pub bytes: u64,
    /// The client; none if the message was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// Attempts so far.
    pub attempts: u32,
    pub destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The source that it was sent from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The enhanced status code.
    pub status: String,
    /// The reply with its code, or our own text.
    pub reply: String,
    /// Whether the remote server sent the reply.
    pub remote: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Since the message was received.
    pub age_ms: u64,
    pub wait_us: u64,
    pub connect_us: u64,
    pub transfer_us: u64,
    /// When it is tried again, after this event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again_in_ms: Option<u64>,
}
