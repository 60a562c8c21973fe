//! The form of RocksDB's log files: write-ahead log and manifest.
//!
//! ```text
//! file      blocks of 32 KB, each filled with fragments; 6 bytes or fewer at its end are padding
//! fragment  masked crc32c of all behind the length: 4, length: 2, type: 1, [log number: 4], bytes
//! ```

use crc32c::crc32c;

pub const BLOCK_BYTES: usize = 32 << 10;

/// Before the bytes of a fragment: checksum, length, type.
pub const HEAD_BYTES: usize = 7;

/// The head of a fragment in a log that may be reused.
const LONG_HEAD_BYTES: usize = 11;

/// The place of a fragment in its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    First,
    Middle,
    /// The last one, a whole entry, or no entry at all.
    End,
}

/// The fragment at the head of `rest`, with its length in all. `None`: it is not sound.
pub fn fragment(rest: &[u8]) -> Option<(Part, usize)> {
    let (head, _) = rest.split_first_chunk::<HEAD_BYTES>()?;
    let [crc @ .., low, high, kind] = head;
    let (head_bytes, kind) = match kind {
        0 => return None,
        2 => (HEAD_BYTES, Part::First),
        3 => (HEAD_BYTES, Part::Middle),
        6 => (LONG_HEAD_BYTES, Part::First),
        7 => (LONG_HEAD_BYTES, Part::Middle),
        5 | 8 | 11 | 131 => (LONG_HEAD_BYTES, Part::End),
        _ => (HEAD_BYTES, Part::End),
    };
    let bytes = head_bytes + usize::from(u16::from_le_bytes([*low, *high]));
    let told = crc.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let summed = rest.get(HEAD_BYTES - 1..bytes)?;
    (mask(crc32c(summed)) == told).then_some((kind, bytes))
}

/// RocksDB stores checksums so, for a checksum of data that holds checksums is a weak one.
pub fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// What a read through a log file has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes up to the end of the last entry that is sound with all before it.
    pub sound_bytes: usize,
    /// Where the first bad fragment begins.
    pub bad_at: Option<usize>,
}

/// Reads the fragments up to the first bad one.
pub fn scan(bytes: &[u8]) -> Scan {
    let (mut place, mut found) = (0, Scan::default());
    while place < bytes.len() {
        let left = BLOCK_BYTES - place % BLOCK_BYTES;
        if left < HEAD_BYTES {
            place += left;
            continue;
        }
        let block = &bytes[place..(place + left).min(bytes.len())];
        let Some((part, length)) = fragment(block) else {
            return Scan { bad_at: Some(place), ..found };
        };
        place += length;
        if part == Part::End {
            found.sound_bytes = place;
        }
    }
    found
}

/// Appends one entry, in two fragments where a block ends.
pub fn append_entry(log: &mut Vec<u8>, entry: &[u8]) {
    const WHOLE: u8 = 1;
    const FIRST: u8 = 2;
    const LAST: u8 = 4;
    let left = BLOCK_BYTES - log.len() % BLOCK_BYTES;
    if left < HEAD_BYTES {
        log.resize(log.len() + left, 0);
    }
    let room = BLOCK_BYTES - log.len() % BLOCK_BYTES - HEAD_BYTES;
    if entry.len() <= room {
        put_fragment(log, WHOLE, entry);
    } else {
        put_fragment(log, FIRST, &entry[..room]);
        put_fragment(log, LAST, &entry[room..]);
    }
}

pub fn put_fragment(log: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    let summed = [&[kind], bytes].concat();
    log.extend_from_slice(&mask(crc32c::crc32c(&summed)).to_le_bytes());
    log.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    log.extend_from_slice(&summed);
}
