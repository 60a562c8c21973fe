//! The torn end of a manifest, RocksDB's list of its files.
//!
//! Why:      RocksDB appends to the manifest and syncs it. Should the power go in between, ext4 may
//!           have the new length on disk but not each page: such a page reads as zeros. RocksDB
//!           forgives that at the end of its log, not here: "checksum mismatch", and the database
//!           does not open, all for an entry that nobody has built upon.
//! What:     the manifest ends where the torn entry begins. RocksDB acts on an entry (drops a log,
//!           removes a file) only after its sync, so what was there before is all still there.
//! Promise:  only what a power cut leaves is cut off: an entry into which zeros reach up to the end
//!           of a page. Nothing that was synced lies behind such a page. Flipped bits are not that;
//!           they are left to whoever asked.

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
            return reaches_page_end(bytes, place).then_some(begun.unwrap_or(place));
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
        !part.is_empty() && part.iter().all(|byte| *byte == 0)
    };
    // An entry spans several pages at most; the first that did not come decides.
    zeros(place, page_end)
        || (page_end..place + BLOCK_BYTES)
            .step_by(PAGE_BYTES)
            .any(|page| zeros(page, page + PAGE_BYTES))
}

/// Cuts the torn end off. `false`: there is none, and nothing was touched.
pub fn mend(path: &Path) -> io::Result<bool> {
    let Some(end) = torn_at(&fs::read(path)?) else { return Ok(false) };
    let file = File::options().write(true).open(path)?;
    file.set_len(end as u64)?;
    file.sync_all()?;
    Ok(true)
}
