//! Mending a damaged log before it is read with holes.
//!
//! Why:      a batch longer than a block lies in the log as several fragments. RocksDB 11.8, told to
//!           skip what is damaged, drops a batch of which a later fragment is bad, but keeps the
//!           running hash of its earlier ones; the next batch in fragments, which is sound, then
//!           fails with "Write batch content corrupted" and the database does not open. One flipped
//!           bit would cost the partition.
//! What:     the first fragment of every such batch gets a wrong checksum too, so that none of it
//!           is hashed. The batch was lost already; everything after it is read.
//! Order:    after the log was copied to quarantine: the copy has the bytes as they were found.
//! Bounds:   one block of 32 KB in memory.
//!
//! ```text
//! log       blocks of 32 KB, each filled with fragments; 6 bytes or fewer at its end are nothing
//! fragment  masked crc32c of all behind the length: 4, length: 2, type: 1, [log number: 4], bytes
//! ```

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crc32c::crc32c;

const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;
/// The head of a fragment in a log that may be reused.
const LONG_HEAD_BYTES: usize = 11;

/// What a fragment is to its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    First,
    Middle,
    /// The last one, a whole batch, or no batch at all.
    End,
}

/// Mends one log. Answers how many batches were given up.
pub fn mend(path: &Path) -> io::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut given_up = 0;
    let mut begun = None;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    for at in (0_u64..).step_by(BLOCK_BYTES) {
        block.clear();
        (&file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Some(first) = broken_in(&block, at, &mut begun) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, first)?;
            file.write_all_at(&[!byte[0]], first)?;
            given_up += 1;
        }
        if block.len() < BLOCK_BYTES {
            break;
        }
    }
    file.sync_all()?;
    Ok(given_up)
}

/// Where the batches begin that a bad fragment of this block cuts short. `begun` is where the one
/// under way began.
fn broken_in(block: &[u8], at: u64, begun: &mut Option<u64>) -> Option<u64> {
    let mut place = 0;
    while place + HEAD_BYTES <= block.len() {
        let Some((kind, bytes)) = fragment(&block[place..]) else {
            // As RocksDB does: the rest of the block is not looked at.
            return begun.take();
        };
        match kind {
            Kind::First => *begun = Some(at + place as u64),
            Kind::Middle => (),
            Kind::End => *begun = None,
        }
        place += bytes;
    }
    None
}

/// Whether nothing of its batch is to follow.
pub fn is_whole(kind: Kind) -> bool {
    kind == Kind::End
}

/// The fragment at the head of `rest`, with its length in all. `None`: it is not sound.
pub fn fragment(rest: &[u8]) -> Option<(Kind, usize)> {
    let (head, _) = rest.split_first_chunk::<HEAD_BYTES>()?;
    let [crc @ .., low, high, kind] = head;
    let (head_bytes, kind) = match kind {
        0 => return None,
        2 => (HEAD_BYTES, Kind::First),
        3 => (HEAD_BYTES, Kind::Middle),
        6 => (LONG_HEAD_BYTES, Kind::First),
        7 => (LONG_HEAD_BYTES, Kind::Middle),
        5 | 8 | 11 | 131 => (LONG_HEAD_BYTES, Kind::End),
        _ => (HEAD_BYTES, Kind::End),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
        let summed = [&[kind], bytes].concat();
        log.extend_from_slice(&mask(crc32c(&summed)).to_le_bytes());
        log.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        log.extend_from_slice(&summed);
    }

    #[test]
    fn only_batches_cut_by_a_bad_fragment_are_given_up() {
        const FULL: u8 = 1;
        const FIRST: u8 = 2;
        const LAST: u8 = 4;
        let mut log = Vec::new();
        put(&mut log, FULL, b"a whole batch");
        let begins = log.len();
        put(&mut log, FIRST, &vec![b'x'; BLOCK_BYTES - begins - HEAD_BYTES]);
        put(&mut log, LAST, b"its end");
        let behind = log.len();
        put(&mut log, FULL, b"another batch");
        for (name, flipped, given_up) in [
            ("nothing", None, 0),
            ("the first batch", Some(3), 0),
            ("the first fragment itself", Some(begins + 9), 0),
            ("the last fragment", Some(BLOCK_BYTES + 8), 1),
            ("its length", Some(BLOCK_BYTES + 5), 1),
            ("the batch behind it", Some(behind + 8), 0),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut damaged = log.clone();
            if let Some(place) = flipped {
                damaged[place] ^= 0x55;
            }
            std::fs::write(file.path(), &damaged).unwrap();
            assert_eq!(mend(file.path()).unwrap(), given_up, "{name}");
            let mended = std::fs::read(file.path()).unwrap();
            let changed: Vec<usize> =
                (0..log.len()).filter(|place| mended[*place] != damaged[*place]).collect();
            let expected: Vec<usize> = (0..given_up).map(|_| begins).collect();
            assert_eq!(changed, expected, "{name}");
        }
    }
}
