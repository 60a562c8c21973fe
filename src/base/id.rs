//! Ids: shards, partitions, messages, spools, tenants, credentials.
//!
//! Promise:  a `MessageId` is unique in its spool for ever and sorts by time of acceptance. A
//!           `PublicId` is unique across servers; its text has seventeen characters of Crockford's
//!           base 32, without letters that are easily mistaken, and is read in either case.

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

/// A message within its spool: 44 bits of milliseconds since 1970 (until the year 2527), 6 of
/// partition, 14 of sequence. It has no text of its own; what people and programs see is `PublicId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u64);

const SEQUENCE_BITS: u32 = 14;
const PARTITION_BITS: u32 = 6;

/// Partitions that an id can name.
pub const PARTITIONS_MAX: usize = 1 << PARTITION_BITS;

impl MessageId {
    pub const fn from_u64(raw: u64) -> MessageId {
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

/// Tells the spools of several servers apart: 20 bits, drawn at random when a spool is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpoolNumber(u32);

const SPOOL_BITS: u32 = 20;

impl SpoolNumber {
    /// Takes the lowest 20 bits.
    pub fn from_bits(bits: u32) -> SpoolNumber {
        SpoolNumber(bits & ((1 << SPOOL_BITS) - 1))
    }

    pub fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SpoolNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crockford::<SPOOL_LEN>(f, self.0.into())
    }
}

/// A message as all servers know it: every reply, log record, listing and argument has this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicId {
    pub local: MessageId,
    pub spool: SpoolNumber,
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crockford::<U64_LEN>(f, self.local.0)?;
        self.spool.fmt(f)
    }
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnId {
    Message,
    /// An id of the directory, with its prefix.
    Directory(&'static str),
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAnId::Message => write!(
                f,
                "a message id has {} letters and digits, as `ringpost queue list` shows",
                U64_LEN + SPOOL_LEN
            ),
            NotAnId::Directory(prefix) => {
                write!(f, "such an id is `{prefix}` and {U64_LEN} letters and digits")
            }
        }
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for PublicId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<PublicId, NotAnId> {
        let (local, spool) = text.split_at_checked(U64_LEN).ok_or(NotAnId::Message)?;
        let local = from_crockford(local, U64_LEN).ok_or(NotAnId::Message)?;
        let spool = from_crockford(spool, SPOOL_LEN).ok_or(NotAnId::Message)?;
        Ok(PublicId { local: MessageId(local), spool: SpoolNumber(spool as u32) })
    }
}

macro_rules! directory_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                crockford::<U64_LEN>(f, self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<$name, NotAnId> {
                let digits = text.strip_prefix($prefix);
                let raw = digits.and_then(|digits| from_crockford(digits, U64_LEN));
                raw.map($name).ok_or(NotAnId::Directory($prefix))
            }
        }
    };
}

directory_id!(
    /// A customer. Drawn at random and never given again.
    TenantId,
    "tn_"
);
directory_id!(
    /// A user name with its password, or an API key.
    CredentialId,
    "cr_"
);

impl TenantId {
    /// Owns what no customer owns: reports made here, mail of networks without a tenant.
    pub const OPERATOR: TenantId = TenantId(0);
}

/// A stream within its tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamNumber(pub u16);

impl StreamNumber {
    pub const TRANSACTIONAL: StreamNumber = StreamNumber(0);
    pub const BROADCAST: StreamNumber = StreamNumber(1);
}

/// Characters of 64 bits, and of a spool number, in Crockford's base 32.
const U64_LEN: usize = 13;
const SPOOL_LEN: usize = 4;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

const _: () = assert!(SPOOL_BITS as usize == 5 * SPOOL_LEN);

fn crockford<const LEN: usize>(f: &mut fmt::Formatter<'_>, raw: u64) -> fmt::Result {
    let mut text = [0; LEN];
    for (place, byte) in text.iter_mut().rev().enumerate() {
        *byte = ALPHABET[(raw >> (5 * place)) as usize & 31];
    }
    f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
}

/// Reads exactly `len` characters of either case.
fn from_crockford(text: &str, len: usize) -> Option<u64> {
    let mut raw: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|a| *a == byte.to_ascii_uppercase())?;
        raw = raw << 5 | digit as u128;
    }
    (text.len() == len).then(|| u64::try_from(raw).ok()).flatten()
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
        let times = std::iter::repeat_n(1_700_000_000_000, 40_000);
        for now in times.chain([5, 1_700_000_000_001]) {
            let next = source.next_id(now);
            assert!(next > last, "{next:?} follows {last:?}");
            assert_eq!(next.partition(), PartitionId(3));
            last = next;
        }
        let mut again = IdSource::new(PartitionId(3), Some(last));
        assert!(again.next_id(0) > last, "a restart with an old clock repeats nothing");
    }

    #[test]
    fn public_ids_are_read_back_in_either_case() {
        for (raw, bits) in [(0, 0), (31, 1), (u64::MAX, u32::MAX), (0x0123_4567_89AB_CDEF, 77)] {
            let spool = SpoolNumber::from_bits(bits);
            let id = PublicId { local: MessageId::from_u64(raw), spool };
            let text = id.to_string();
            assert_eq!(text.len(), 17, "{text}");
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(text.to_lowercase().parse(), Ok(id));
        }
        let golden = PublicId { local: MessageId(1), spool: SpoolNumber::from_bits(33) };
        assert_eq!(golden.to_string(), "00000000000010011");
        for bad in ["", "0", "ZZZZZZZZZZZZZ0000", "000000000000U0000", "0000000000000", "éééééééé0"]
        {
            assert_eq!(bad.parse::<PublicId>(), Err(NotAnId::Message), "{bad}");
        }
    }

    #[test]
    fn directory_ids_have_their_prefix() {
        let tenant = TenantId(0x7FFF_FFFF_FFFF_FFFF);
        assert_eq!(tenant.to_string(), "tn_7ZZZZZZZZZZZZ");
        assert_eq!(tenant.to_string().parse(), Ok(tenant));
        assert_eq!("cr_000000000000a".parse(), Ok(CredentialId(10)));
        for bad in ["7ZZZZZZZZZZZZ", "cr_7ZZZZZZZZZZZZ", "tn_7ZZZZZZZZZZZ", "tn_7ZZZZZZZZZZZZZ"] {
            assert_eq!(bad.parse::<TenantId>(), Err(NotAnId::Directory("tn_")), "{bad}");
        }
    }
}
