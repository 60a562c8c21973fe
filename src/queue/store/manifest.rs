//! The manifest, RocksDB's list of its files, and CURRENT, which names it.
//!
//! Copies:   RocksDB only appends to a manifest, so a copy is kept up to date by appending too. Bytes
//!           that differ from the copy are damage, and so is a manifest that is shorter or missing;
//!           both are restored from the copy before RocksDB reads them. The copy is not synced: it is
//!           used as far as it is sound.
//! Beware:   before a single partition is restored from a backup, its files in `copies` must be removed.
//!
//! # The torn end
//!
//! Why:      RocksDB appends to the manifest and syncs it. If the power fails in between, ext4 may have
//!           the new length on disk but not every page: a missing page reads as zeros. RocksDB
//!           tolerates that at the end of its log, but not here: the database does not open
//!           ("checksum mismatch") because of an entry on which nothing depends.
//! How:      the manifest is cut where the torn entry begins. RocksDB acts on an entry (drops a log,
//!           removes a file) only after its sync, so everything from before is still there.
//! Promise:  only what a power cut leaves is cut off: an entry into which zeros reach up to the end
//!           of a page, no longer than one write. Flipped bits are left alone, and so is a hole far
//!           before the end.
//! Beware:   a page near the end that was synced and turned to zeros later looks the same. RocksDB
//!           then removes the tables that the cut entries named. So all tables are kept first
//!           (`keep_files`).

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::queue::cause::Cause;
use crate::queue::store::copies::Copies;
use crate::queue::store::log_file::BLOCK_BYTES;
use crate::queue::store::log_file::Scan;
use crate::queue::store::log_file::append_entry;
use crate::queue::store::log_file::scan;

const CURRENT: &str = "CURRENT";
const PREFIX: &str = "MANIFEST-";
const PAGE_BYTES: usize = 4 << 10;
/// Fewer zeros than this may well be an entry's own: the last page of a file can be short, and the
/// last entry of an atomic flush ends in a zero.
const ZEROS_MIN: usize = 3;
/// What one write may have been, and so what a power cut can have torn: a flush lists a table or two
/// for each family, a compaction some dozens, with about 200 bytes each.
const CUT_BYTES_MAX: usize = 2 * BLOCK_BYTES;

/// Whether a file of the database belongs to its list of files.
pub fn is_part(name: &OsStr) -> bool {
    name == CURRENT || number_of(name).is_some()
}

/// The number of a manifest.
fn number_of(name: &OsStr) -> Option<u64> {
    name.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// The manifest of the highest number in a folder.
fn newest_in(folder: &Path) -> io::Result<Option<OsString>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        newest = newest.max(number_of(&name).map(|number| (number, name)));
    }
    Ok(newest.map(|(_, name)| name))
}

/// Brings the copy of the manifest in use up to date.
pub fn copy(folder: &Path, copies: &Copies) -> io::Result<()> {
    let Some(path) = current(folder) else { return Ok(()) };
    let Some(name) = path.file_name() else { return Ok(()) };
    let copy = copies.of_manifest(name);
    let copied = fs::metadata(&copy).map_or(0, |copy| copy.len());
    let mut live = File::open(&path)?;
    if copied >= live.metadata()?.len() {
        return Ok(());
    }
    live.seek(SeekFrom::Start(copied))?;
    let mut file = File::options().append(true).create(true).mode(0o600).open(&copy)?;
    io::copy(&mut live, &mut file)?;
    for (old, path) in copies.manifests()? {
        if old != name {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Removes the copies, because another database takes the place of theirs.
pub fn forget(copies: &Copies) -> io::Result<()> {
    copies.manifests()?.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
}

/// A list of files mended from its copy.
pub struct Mended {
    pub why: &'static str,
    name: OsString,
    /// The new bytes of the manifest, if they differ.
    bytes: Option<Vec<u8>>,
    /// Entries were cut off, and RocksDB may remove the tables that they named.
    pub is_cut: bool,
}

impl Mended {
    pub fn put(&self, folder: &Path) -> io::Result<()> {
        if let Some(bytes) = &self.bytes {
            replace(&folder.join(&self.name), bytes)?;
        }
        replace(&folder.join(CURRENT), &[self.name.as_encoded_bytes(), b"\n"].concat())?;
        File::open(folder)?.sync_all()
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("dbtmp");
    fs::write(&fresh, bytes)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(fresh, path)
}

/// Compares the list of files with its copy. `None`: it is sound, or there is no copy.
pub fn mended(folder: &Path, copies: &Copies) -> io::Result<Option<Mended>> {
    let copy = copies.manifests()?.into_iter().max_by_key(|(name, _)| number_of(name));
    let copy = match copy {
        Some((name, path)) => {
            let mut bytes = fs::read(path)?;
            bytes.truncate(scan(&bytes).sound_bytes);
            Some((name, bytes))
        }
        None => None,
    };
    let named = current(folder).and_then(|path| path.file_name().map(OsStr::to_owned));
    let is_named = named.is_some();
    let copied_name = copy.as_ref().map(|(name, _)| name.clone());
    let newest = newest_in(folder)?.into_iter().chain(copied_name).max_by_key(|n| number_of(n));
    let Some(name) = named.or(newest) else { return Ok(None) };
    let live = match fs::read(folder.join(&name)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    let copied = copy.filter(|(copied, _)| *copied == name).map(|(_, bytes)| bytes);
    let (why, bytes) = match (live, copied) {
        (Some(live), Some(copied)) if !live.starts_with(&copied) => {
            let rest = live.get(copied.len()..).unwrap_or_default();
            let is_short = live.len() < copied.len();
            let why = if is_short { "it was truncated" } else { "its bytes have changed" };
            (why, Some([&copied[..], rest].concat()))
        }
        (None, Some(copied)) => ("it was missing", Some(copied)),
        (Some(_), _) if is_named => return Ok(None),
        (Some(_), _) => ("CURRENT did not name it", None),
        (None, None) => return Ok(None),
    };
    let sound = bytes.as_deref().map(|bytes| scan(bytes).sound_bytes);
    let is_cut = bytes.as_ref().map(Vec::len) != sound;
    // RocksDB 11.8 may loop forever over garbage behind the last entry.
    let bytes = bytes.map(|mut bytes| {
        bytes.truncate(sound.unwrap_or(0));
        bytes
    });
    Ok(Some(Mended { why, name, bytes, is_cut }))
}

/// The manifest in use, if `CURRENT` names one.
pub fn current(folder: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(folder.join(CURRENT)).ok()?;
    // RocksDB accepts no other form.
    let path = folder.join(text.strip_suffix('\n')?);
    (path.parent() == Some(folder) && path.is_file()).then_some(path)
}

/// Where the torn end begins, if a power cut has torn the manifest.
pub fn torn_at(bytes: &[u8]) -> Option<usize> {
    let Scan { sound_bytes, bad_at } = scan(bytes);
    let is_one_write = bytes.len() - sound_bytes <= CUT_BYTES_MAX;
    (is_one_write && reaches_page_end(bytes, bad_at?)).then_some(sound_bytes)
}

/// Whether a database in that folder does not open because of damage. A list of files that is cut
/// short may lack families, and then looks like one of another version.
pub fn is_damaged(folder: &Path, why: &str) -> bool {
    match Cause::of(why) {
        Cause::Damage => true,
        Cause::Foreign => !is_sound(folder),
        _ => false,
    }
}

/// Whether there is a list of files, and all of it is sound.
pub fn is_sound(folder: &Path) -> bool {
    let list = current(folder).and_then(|path| fs::read(path).ok()).unwrap_or_default();
    !list.is_empty() && scan(&list).sound_bytes == list.len()
}

/// Appends an entry that takes a table out of the list, as `ldb unsafe_remove_sst_file` does.
pub fn append_removal(list: &mut Vec<u8>, family: u64, level: u64, table: u64) {
    const DELETED_FILE: u64 = 6;
    const COLUMN_FAMILY: u64 = 200;
    let mut entry = Vec::new();
    for number in [DELETED_FILE, level, table, COLUMN_FAMILY, family] {
        put_varint(&mut entry, number);
    }
    append_entry(list, &entry);
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Whether zeros from `place`, or from the next page on, reach to that page's end.
fn reaches_page_end(bytes: &[u8], place: usize) -> bool {
    let page_end = (place / PAGE_BYTES + 1) * PAGE_BYTES;
    let zeros = |from: usize, to: usize| {
        let part = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
        part.len() >= ZEROS_MIN && part.iter().all(|byte| *byte == 0)
    };
    // An entry spans few pages; the first that was not written decides.
    zeros(place, page_end)
        || (page_end..place + BLOCK_BYTES)
            .step_by(PAGE_BYTES)
            .any(|page| zeros(page, page + PAGE_BYTES))
}

/// Whether a file of the database is a table or a blob file.
pub fn is_table(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "sst" || end == "blob")
}

/// Gives files of the database a second name in `copies`, which costs no space until RocksDB removes
/// the first. A start that is tried again has given some of them their names before.
pub fn keep_files(
    folder: &Path,
    copies: &Path,
    is_wanted: impl Fn(&OsStr) -> bool,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|name| is_wanted(name)) {
            let copy = copies.join(name);
            match fs::hard_link(&path, &copy) {
                Err(cause)
                    if cause.kind() == io::ErrorKind::AlreadyExists
                        && is_same_file(&path, &copy) => {}
                kept => kept?,
            }
        }
    }
    Ok(())
}

/// Whether both are names of one file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.symlink_metadata().map(|found| (found.dev(), found.ino()));
    inode(one).is_ok_and(|one| inode(other).is_ok_and(|other| one == other))
}

/// Writes the list of files anew behind its sound part, and syncs it.
pub fn extend(path: &Path, sound_bytes: usize, list: &[u8]) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(sound_bytes as u64)?;
    file.write_all_at(&list[sound_bytes..], sound_bytes as u64)?;
    file.sync_all()
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
    use crate::queue::store::log_file::put_fragment;

    /// Whole entries of `bytes` each, so that some cross the ends of pages.
    fn manifest(entries: usize, bytes: usize) -> Vec<u8> {
        const WHOLE: u8 = 1;
        let mut log = Vec::new();
        (0..entries).for_each(|_| put_fragment(&mut log, WHOLE, &vec![b'x'; bytes]));
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
        // A hole far before the end is not taken for a torn end.
        let mut long = whole;
        long[PAGE_BYTES..2 * PAGE_BYTES].fill(0);
        long.resize(PAGE_BYTES + CUT_BYTES_MAX + ENTRY, b'x');
        assert_eq!(torn_at(&long), None);
    }
}
