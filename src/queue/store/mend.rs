//! Mending a damaged write-ahead log before it is read with holes.
//!
//! Why:      a batch longer than a block lies in the log as several fragments. RocksDB 11.8, told to
//!           skip damage, drops a batch of which a later fragment is bad, but keeps the running hash
//!           of the earlier fragments; the next batch in fragments, which is sound, then fails with
//!           "Write batch content corrupted" and the database does not open. One flipped bit would
//!           cost the partition.
//! How:      the first fragment of every such batch gets a wrong checksum too, so that none of it is
//!           hashed. The batch was lost already; everything after it is read.
//! Order:    after the log was copied to quarantine: the copy has the bytes as they were found.
//! Bounds:   one block in memory.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::queue::store::log_file::BLOCK_BYTES;
use crate::queue::store::log_file::HEAD_BYTES;
use crate::queue::store::log_file::Part;
use crate::queue::store::log_file::fragment;

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
            Part::First => *begun = Some(at + place as u64),
            Part::Middle => (),
            Part::End => *begun = None,
        }
        place += bytes;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::store::log_file::put_fragment;

    #[test]
    fn only_batches_cut_by_a_bad_fragment_are_given_up() {
        const FULL: u8 = 1;
        const FIRST: u8 = 2;
        const LAST: u8 = 4;
        let mut log = Vec::new();
        put_fragment(&mut log, FULL, b"a whole batch");
        let begins = log.len();
        put_fragment(&mut log, FIRST, &vec![b'x'; BLOCK_BYTES - begins - HEAD_BYTES]);
        put_fragment(&mut log, LAST, b"its end");
        let behind = log.len();
        put_fragment(&mut log, FULL, b"another batch");
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
