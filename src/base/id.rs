//! Names of things: shards, partitions, messages.
//!
//! Promise:  a `MessageId` is unique in a spool for ever and sorts by time of acceptance. Its text
//!           is thirteen characters that survive a telephone (Crockford's base 32).

use std::fmt;
use std::str::FromStr;

/// One executor on one core, numbered from 0 within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// One RocksDB database of the spool, numbered from 0 for the life of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u8);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 44 bits of milliseconds since 1970 (until the year 2527), 6 of partition, 14 of sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u64);

const SEQUENCE_BITS: u32 = 14;
const PARTITION_BITS: u32 = 6;
const TEXT_LEN: usize = 13;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Partitions that an id can name.
pub const PARTITIONS_MAX: usize = 1 << PARTITION_BITS;

impl MessageId {
    pub fn from_u64(raw: u64) -> MessageId {
        MessageId(raw)
    }

    pub fn as_u64(self) -> u64 {
        self.0
    }

    pub fn partition(self) -> PartitionId {
        PartitionId(((self.0 >> SEQUENCE_BITS) & (PARTITIONS_MAX as u64 - 1)) as u8)
    }

    /// When it was made, in milliseconds since 1970.
    pub fn made_ms(self) -> u64 {
        self.0 >> (SEQUENCE_BITS + PARTITION_BITS)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_LEN];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = ALPHABET[(self.0 >> (5 * place)) as usize & 31];
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

/// Why a text is not a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message id has {TEXT_LEN} letters and digits, as `ringpost queue list` shows")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for MessageId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<MessageId, NotAnId> {
        if text.len() != TEXT_LEN {
            return Err(NotAnId);
        }
        let mut raw: u128 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|a| *a == byte.to_ascii_uppercase());
            raw = raw << 5 | digit.ok_or(NotAnId)? as u128;
        }
        u64::try_from(raw).map(MessageId).map_err(|_| NotAnId)
    }
}

/// Makes the ids of one partition. One per partition, on its home shard.
#[derive(Debug)]
pub struct IdSource {
    partition: PartitionId,
    last: u64,
}

impl IdSource {
    /// Every id made is larger than `newest`, the largest that the partition holds, also when the
    /// clock has been set back since.
    pub fn new(partition: PartitionId, newest: Option<MessageId>) -> IdSource {
        assert!((partition.0 as usize) < PARTITIONS_MAX, "an id can name this partition");
        IdSource { partition, last: newest.map_or(0, MessageId::as_u64) }
    }

    pub fn next_id(&mut self, now_ms: u64) -> MessageId {
        let stamp = now_ms << (SEQUENCE_BITS + PARTITION_BITS);
        let fresh = stamp | (self.partition.0 as u64) << SEQUENCE_BITS;
        self.last = if fresh > self.last { fresh } else { self.after_last() };
        MessageId(self.last)
    }

    /// The next sequence number of the same millisecond, or the first of the one after it.
    fn after_last(&self) -> u64 {
        let last = MessageId(self.last);
        if (self.last + 1) & ((1 << SEQUENCE_BITS) - 1) != 0 {
            return self.last + 1;
        }
        (last.made_ms() + 1) << (SEQUENCE_BITS + PARTITION_BITS)
            | (self.partition.0 as u64) << SEQUENCE_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_clock_stands_still_or_goes_back() {
        let mut source = IdSource::new(PartitionId(3), None);
        let mut last = source.next_id(1_700_000_000_000);
        for now in [1_700_000_000_000; 40_000].into_iter().chain([5, 1_700_000_000_001]) {
            let next = source.next_id(now);
            assert!(next > last, "{next} follows {last}");
            assert_eq!(next.partition(), PartitionId(3));
            last = next;
        }
        let mut again = IdSource::new(PartitionId(3), Some(last));
        assert!(again.next_id(0) > last, "a restart with an old clock repeats nothing");
    }

    #[test]
    fn the_text_of_an_id_is_read_back() {
        for raw in [0, 1, 31, 32, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let id = MessageId::from_u64(raw);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        }
        for bad in ["", "0", "ZZZZZZZZZZZZZ", "000000000000U", "00000000000000"] {
            assert_eq!(bad.parse::<MessageId>(), Err(NotAnId), "{bad}");
        }
    }
}
