//! The torn end of a manifest, RocksDB's list of its files.
//!
//! Why:      RocksDB appends to the manifest and syncs it. Should the power go in between, ext4 may
//!           have the new length on disk but not each page: such a page reads as zeros. RocksDB
//!           forgives that at the end of its log, not here: "checksum mismatch", and the database
//!           does not open, all for an entry that nobody has built upon.
//! What:     the manifest ends where the torn entry begins. RocksDB acts on an entry (drops a log,
//!           removes a file) only after its sync, so what was there before is all still there.
//! Promise:  only what a power cut leaves is cut off: an entry into which zeros reach up to the end
//!           of a page, and no more than one write can have been. Flipped bits are not that, nor is
//!           a hole far before the end; they are left to whoever asked.
//! Beware:   a page that was synced and turned to zeros later, near the end, looks the same. What was
//!           cut off then named tables that RocksDB removes as nobody's. So whoever cuts keeps all
//!           tables first (`keep_tables`).

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::queue::mend::fragment;
use crate::queue::mend::is_whole;

const BLOCK_BYTES: usize = 32 << 10;
const PAGE_BYTES: usize = 4 << 10;
/// Bytes of a block's end in which no entry begins.
const REST_BYTES: usize = 6;
/// Fewer zeros than this may well be an entry's own: the last page of a file can be short.
const ZEROS_MIN: usize = 16;
/// What one write may have been, and so what a power cut can have torn: a flush lists a table or two
/// for each family, a compaction some dozens, with about 200 bytes each.
const CUT_BYTES_MAX: usize = 2 * BLOCK_BYTES;

/// The manifest in use, if `CURRENT` names one.
pub fn current(folder: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(folder.join("CURRENT")).ok()?;
    let path = folder.join(name.trim_end());
    (path.parent() == Some(folder) && path.is_file()).then_some(path)
}

/// Where the torn end begins, if that is what ails the manifest.
pub fn torn_at(bytes: &[u8]) -> Option<usize> {
    let (mut place, mut begun) = (0, None);
    while place < bytes.len() {
        let left = BLOCK_BYTES - place % BLOCK_BYTES;
        if left <= REST_BYTES {
            place += left;
            continue;
        }
        let block = &bytes[place..(place + left).min(bytes.len())];
        let Some((kind, length)) = fragment(block) else {
            let begin = begun.unwrap_or(place);
            let is_one_write = bytes.len() - begin <= CUT_BYTES_MAX;
            return (is_one_write && reaches_page_end(bytes, place)).then_some(begin);
        };
        begun = if is_whole(kind) { None } else { begun.or(Some(place)) };
        place += length;
    }
    None
}

/// Whether zeros from `place`, or from the next page on, reach to that page's end.
fn reaches_page_end(bytes: &[u8], place: usize) -> bool {
    let page_end = (place / PAGE_BYTES + 1) * PAGE_BYTES;
    let zeros = |from: usize, to: usize| {
        let part = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
        part.len() >= ZEROS_MIN && part.iter().all(|byte| *byte == 0)
    };
    // An entry spans several pages at most; the first that did not come decides.
    zeros(place, page_end)
        || (page_end..place + BLOCK_BYTES)
            .step_by(PAGE_BYTES)
            .any(|page| zeros(page, page + PAGE_BYTES))
}

/// Gives each table and blob file of the database a second name in `copies`, which costs no room
/// until RocksDB removes the first.
pub fn keep_tables(folder: &Path, copies: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_table = path.extension().is_some_and(|end| end == "sst" || end == "blob");
        if let Some(name) = path.file_name().filter(|_| is_table) {
            fs::hard_link(&path, copies.join(name))?;
        }
    }
    Ok(())
}

/// Cuts the end off.
pub fn cut(path: &Path, end: usize) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(end as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::queue::mend::mask;

    /// Whole entries of `bytes` each, so that some cross the ends of pages.
    fn manifest(entries: usize, bytes: usize) -> Vec<u8> {
        const WHOLE: u8 = 1;
        let mut log = Vec::new();
        for _ in 0..entries {
            let summed = [&[WHOLE][..], &vec![b'x'; bytes]].concat();
            log.extend_from_slice(&mask(crc32c::crc32c(&summed)).to_le_bytes());
            log.extend_from_slice(&(bytes as u16).to_le_bytes());
            log.extend_from_slice(&summed);
        }
        log
    }

    #[test]
    fn only_one_write_with_a_page_of_zeros_is_cut() {
        const ENTRY: usize = 300;
        let whole = manifest(100, ENTRY - 7);
        let page = whole.len() / PAGE_BYTES * PAGE_BYTES;
        type Spoil = fn(&mut Vec<u8>, usize);
        let rows: &[(&str, Spoil, bool)] = &[
            ("nothing", |_, _| (), false),
            ("the last page", |log, page| log[page..].fill(0), true),
            ("a page of its middle", |log, _| log[PAGE_BYTES..2 * PAGE_BYTES].fill(0), true),
            ("a flipped bit", |log, _| log[9] ^= 1, false),
            (
                "a flipped bit, and an end of two zeros in a page of their own",
                |log, page| {
                    log.truncate(page);
                    log.extend_from_slice(&[0, 0]);
                    log[9] ^= 1;
                },
                false,
            ),
        ];
        for (name, spoil, is_cut) in rows {
            let mut log = whole.clone();
            spoil(&mut log, page);
            let sound = log.iter().zip(&whole).take_while(|(one, other)| one == other).count();
            let expected = is_cut.then_some(sound / ENTRY * ENTRY);
            assert_eq!(torn_at(&log), expected, "{name}");
        }
        // What was synced long ago is not taken for the end, whatever became of it.
        let mut long = whole;
        long[PAGE_BYTES..2 * PAGE_BYTES].fill(0);
        long.resize(PAGE_BYTES + CUT_BYTES_MAX + ENTRY, b'x');
        assert_eq!(torn_at(&long), None);
    }
}
