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
