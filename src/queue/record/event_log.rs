//! Entries of the event log: the events of one write batch, numbered.
//!
//! ```text
//! key      the number of the first event, u64 big-endian
//! value    outer form of kind `V`: count u32, events as in `event::EventList`
//! ```
//! Numbers are those of the partition, and grow by one with each event. A batch that found the disk full
//! may still be in the log of the database, and the next one takes the same numbers: it first removes
//! what the other one may have left.

use std::net::IpAddr;

use crate::base::MessageId;
use crate::event::EventList;
use crate::event::record::Accepted;
use crate::event::record::Change;
use crate::event::record::Event;
use crate::event::record::Fact;
use crate::event::record::Owner;
use crate::event::record::RECIPIENTS_MAX;
use crate::event::record::fitting;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family::Family;
use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;
use crate::queue::record::rows::Batch;

const KIND_EVENTS: Kind = Kind { byte: b'V', version: 1 };

/// Bytes of events after which an entry ends.
pub const ENTRY_BYTES: usize = 256 << 10;

/// Length of a key of `event`.
pub const EVENT_KEY_LEN: usize = 8;

/// Events of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub first: u64,
    pub count: u32,
    /// As in `event::EventList`.
    pub events: &'a [u8],
}

pub fn key_of(number: u64) -> [u8; EVENT_KEY_LEN] {
    number.to_be_bytes()
}

/// The number of a key.
pub fn number_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// Appends the value of an entry.
pub fn encode(count: u32, events: &[u8], value: &mut Vec<u8>) {
    let mut writer = Writer::new(value, KIND_EVENTS);
    writer.u32(count);
    writer.raw(events);
    writer.seal();
}

impl<'a> Entry<'a> {
    pub fn decode(key: &[u8], value: &'a [u8]) -> Result<Entry<'a>, RecordFault> {
        let first = number_of(key).ok_or(RecordFault::Value("key"))?;
        let mut reader = Reader::open(value, KIND_EVENTS)?;
        Ok(Entry { first, count: reader.u32()?, events: reader.rest() })
    }

    /// The number after its last event.
    pub fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// Events that a batch has gathered for its entries.
#[derive(Debug, Default)]
pub struct Gathered {
    count: u32,
    bytes: Vec<u8>,
    value: Vec<u8>,
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the entry should end here.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= ENTRY_BYTES
    }

    pub fn add(&mut self, list: &EventList) {
        self.count += list.len();
        self.bytes.extend_from_slice(list.bytes());
    }

    /// Puts the entry, unless it has no events, and begins the next one. `next` is the number of the
    /// next event.
    pub fn put(&mut self, batch: &mut impl Batch, next: &mut u64) {
        if self.count == 0 {
            return;
        }
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        encode(self.count, &self.bytes, &mut value);
        batch.put(Family::Event, &key_of(*next), &value);
        *next += u64::from(self.count);
        self.bytes.clear();
        (self.count, self.value) = (0, value);
    }
}

/// Whose a message is.
pub fn owner_of(id: MessageId, envelope: &Envelope<'_>) -> Owner {
    Owner { id, tenant: envelope.tenant, stream: envelope.stream }
}

/// The event that a message is durable. `peer` is the client, if it came from one.
pub fn push_accepted(
    list: &mut EventList,
    id: MessageId,
    envelope: &Envelope<'_>,
    peer: Option<IpAddr>,
) {
    let mut recipients = envelope.recipients.iter().map(|one| one.mailbox);
    let mut first = 0;
    while first < envelope.recipients.len() {
        let each: Vec<&str> = recipients.by_ref().take(RECIPIENTS_MAX).collect();
        let count = each.len();
        let accepted = Accepted {
            credential: envelope.credential.map(|credential| credential.0),
            peer,
            bytes: envelope.bytes(),
            sender: envelope.sender.unwrap_or(""),
            message_id: envelope.message_id,
            first: first as u32,
            recipients: each,
            tags: envelope.tags.iter().collect(),
            metadata: fitting(envelope.metadata.iter()),
        };
        let fact = Fact::Accepted(accepted);
        list.push(&Event::new(owner_of(id, envelope), envelope.received_ms, fact));
        first += count.max(1);
    }
}

/// The event that these recipients of a message were changed by an order.
pub fn push_change<'a>(
    list: &mut EventList,
    (id, at_ms): (MessageId, u64),
    envelope: &Envelope<'a>,
    indexes: impl Iterator<Item = u32>,
    fact: impl Fn(Change<'a>) -> Fact<'a>,
) {
    let all: Vec<&str> = envelope.recipients.iter().map(|one| one.mailbox).collect();
    let mut indexes = indexes.peekable();
    while indexes.peek().is_some() {
        let some: Vec<u32> = indexes.by_ref().take(RECIPIENTS_MAX).collect();
        let change = Change {
            sender: envelope.sender.unwrap_or(""),
            recipients: some.iter().map(|i| all.get(*i as usize).copied().unwrap_or("")).collect(),
            indexes: some,
            tags: envelope.tags.iter().collect(),
            metadata: fitting(envelope.metadata.iter()),
        };
        list.push(&Event::new(owner_of(id, envelope), at_ms, fact(change)));
    }
}
