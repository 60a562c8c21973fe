//! Encoded events, one behind the other.
//!
//! ```text
//! event    length, 3 bytes little-endian; the event in postcard's form
//! ```
//! Who does not know the type of an event skips it by its length, and ignores what follows the fields
//! that it knows.

use crate::event::record::Event;

const LENGTH_BYTES: usize = 3;
const LENGTH_MAX: usize = (1 << (8 * LENGTH_BYTES)) - 1;

/// Room for most events.
const USUAL_BYTES: usize = 384;

/// Events on their way to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventList {
    count: u32,
    bytes: Vec<u8>,
}

impl EventList {
    /// An event longer than `LENGTH_MAX` is left out; the bounds of its fields keep it far below.
    pub fn push(&mut self, event: &Event<'_>) {
        let before = self.bytes.len();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.reserve(USUAL_BYTES);
        bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        let mut bytes = postcard::to_extend(event, bytes).expect("a `Vec` takes every event");
        let length = bytes.len() - before - LENGTH_BYTES;
        if length <= LENGTH_MAX {
            let head = &mut bytes[before..before + LENGTH_BYTES];
            head.copy_from_slice(&(length as u32).to_le_bytes()[..LENGTH_BYTES]);
            self.count += 1;
        } else {
            bytes.truncate(before);
        }
        self.bytes = bytes;
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }
}

/// The events of a list, those of unknown types as `None`.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = Option<Event<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let (event, after) = after.split_at_checked(length)?;
        rest = after;
        Some(postcard::take_from_bytes(event).ok().map(|(event, _)| event))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MessageId;
    use crate::base::StreamNumber;
    use crate::base::TenantId;
    use crate::event::record::Accepted;
    use crate::event::record::Change;
    use crate::event::record::Fact;
    use crate::event::record::Outcome;
    use crate::event::record::Owner;

    const OWNER: Owner = Owner {
        id: MessageId::from_u64(1_700_000_000_000 << 20),
        tenant: TenantId(300),
        stream: StreamNumber(2),
    };

    fn outcome() -> Outcome<'static> {
        Outcome {
            index: 1,
            recipient: "you@b.test",
            sender: "me@a.test",
            tags: vec!["welcome"],
            metadata: vec![("order", "17")],
            attempts: 2,
            destination: "mx.b.test",
            host: "mx1.b.test",
            address: Some("192.0.2.9".parse().expect("an address")),
            source: Some("east"),
            status: (4, 2, 2),
            reply: "452 4.2.2 full",
            is_remote: true,
            category: Some("quota-full"),
            age_ms: 900,
            wait_us: 1,
            connect_us: 2,
            transfer_us: 3,
            again_in_ms: Some(60_000),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn events_have_their_golden_bytes_and_are_read_back() {
        let change = Change {
            sender: "me@a.test",
            indexes: vec![0, 2],
            recipients: vec!["x@b.test", "y@b.test"],
            ..Change::default()
        };
        let accepted = Accepted {
            peer: Some("2001:db8::1".parse().expect("an address")),
            bytes: 4096,
            sender: "me@a.test",
            message_id: Some("<1@a.test>"),
            recipients: vec!["you@b.test"],
            ..Accepted::default()
        };
        let facts = [
            Fact::Accepted(accepted),
            Fact::Deferred(outcome()),
            Fact::Delivered(outcome()),
            Fact::Bounced(outcome()),
            Fact::Expired(outcome()),
            Fact::Cancelled(change.clone()),
            Fact::Held(change),
        ];
        for (number, fact) in facts.into_iter().enumerate() {
            let mut list = EventList::default();
            let event = Event::new(OWNER, 1_700_000_000_000 - 5, fact);
            list.push(&event);
            let found: Vec<_> = read(list.bytes()).collect();
            assert_eq!(found, [Some(event)]);
            let bytes = list.bytes();
            assert_eq!(usize::from(bytes[0]) + LENGTH_BYTES, bytes.len());
            // Id, 5 ms before it, tenant, stream; then the number of the type, which never changes.
            let front = "80808080e8cabfde1809ac0202";
            let type_at = LENGTH_BYTES + front.len() / 2;
            assert_eq!(hex(&bytes[LENGTH_BYTES..type_at]), front);
            assert_eq!(usize::from(bytes[type_at]), number);
        }
        let mut list = EventList::default();
        list.push(&Event::new(OWNER, OWNER.id.made_ms(), Fact::Delivered(outcome())));
        assert_eq!(
            hex(&list.bytes()[LENGTH_BYTES + 13..]),
            "02010a796f7540622e74657374096d6540612e74657374010777656c636f6d6501056f72646572023137\
             02096d782e622e746573740a6d78312e622e746573740100c000020901046561737404020\
             20e34353220342e322e322066756c6c01010a71756f74612d66756c6c840701020301e0d403"
        );
    }

    #[test]
    fn an_unknown_type_is_skipped_and_more_fields_are_ignored() {
        let mut list = EventList::default();
        list.push(&Event::new(OWNER, 0, Fact::Delivered(outcome())));
        let mut bytes = list.bytes().to_vec();
        let known = bytes.clone();
        // One more field of a later version.
        bytes[0] += 2;
        bytes.extend_from_slice(b"\x01x");
        let mut unknown = known.clone();
        let type_at = LENGTH_BYTES + list.bytes().len().min(LENGTH_BYTES);
        unknown[type_at..].fill(0xff);
        bytes.extend_from_slice(&unknown);
        bytes.extend_from_slice(&known);
        let found: Vec<bool> = read(&bytes).map(|event| event.is_some()).collect();
        assert_eq!(found, [true, false, true]);
        // A list that was cut short ends before the event that it cuts.
        for end in 0..known.len() {
            assert_eq!(read(&known[..end]).count(), 0, "{end}");
        }
    }
}
