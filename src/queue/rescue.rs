//! Rescue: what can be read of a damaged database becomes a sound one in its place.
//!
//! Why:      a block that cannot be read stays in its table until a compaction meets it; then
//!           RocksDB takes no more writes. A table that does not open stops every start.
//! What:     every readable row is written to a new database. The damaged one goes to quarantine
//!           whole, with every byte as it was found. What the lost rows mean for mail is for
//!           `recover`, which is told which families have lost some.
//! How:      the damaged database is read through a *view*: a folder of links to its tables and
//!           copies of its small files, opened for reading only. Where a table cannot be read, the
//!           rest of its key range is read once more from a view without it, which shows the rows
//!           that other tables have there.
//! Order:    write and sync `pNN.new`; move `pNN` to quarantine; move `pNN.new` to `pNN`. A start
//!           that finds only `pNN.new` does the last step; one that finds both begins again.
//! Cost:     as much room on disk as the readable mail takes, and the time to write it, once.
//! Bounds:   one batch in memory. One flipped bit in a table costs the rows of one block (16 KB);
//!           in its index, head or foot the rows of that table.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use rocksdb::DB;
use rocksdb::LiveFile;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;

use crate::queue::fault::Cause;
use crate::queue::fault::SpoolFault;
use crate::queue::holes;
use crate::queue::ledger::MENDING_KEY;
use crate::queue::lost::Lost;
use crate::queue::manifest;
use crate::queue::mend::mend;
use crate::queue::notice::Notice;
use crate::queue::options;
use crate::queue::options::LogRecovery;
use crate::queue::partition::PartitionDestination;
use crate::queue::partition::is_damaged;
use crate::queue::partition::make_folder;
use crate::queue::partition::sync_folder;
use crate::queue::recover::Recovered;
use crate::queue::schema::DEFAULT;

const BATCH_BYTES: usize = 1 << 20;

/// Rows of one family between two keys, neither of them included.
struct Range {
    family: &'static str,
    after: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
}

/// Ends what an earlier start was doing when it died.
pub fn finish(destination: &PartitionDestination) -> Result<(), SpoolFault> {
    let (path, fresh) = (destination.path(), beside(destination, "new"));
    if fresh.is_dir() && !path.exists() {
        fs::rename(&fresh, &path).map_err(|cause| SpoolFault::io(&fresh, cause))?;
        return sync_folder(&destination.spool);
    }
    remove(&fresh)?;
    remove(&beside(destination, "view"))
}

/// Puts a sound database in the place of a damaged, closed one. `None`: nothing of it can be read,
/// and it stays as it is.
pub fn rescue(
    destination: &PartitionDestination,
    why: &str,
    found: &mut Recovered,
) -> Result<Option<Lost>, SpoolFault> {
    let (view, fresh) = (beside(destination, "view"), beside(destination, "new"));
    lay_out(destination, &view)?;
    remove(&fresh)?;
    make_folder(&fresh)?;
    let copied = copy_rows(destination, &view, &fresh);
    remove(&view)?;
    let Ok(Some(lost)) = copied else {
        remove(&fresh)?;
        return copied;
    };
    let folder = move_aside(destination)?;
    fs::rename(&fresh, destination.path()).map_err(|cause| SpoolFault::io(&fresh, cause))?;
    sync_folder(&destination.spool)?;
    found.quarantined += 1;
    let (partition, why) = (destination.id, why.to_owned());
    found.tell(destination, Notice::Rebuilt { partition, folder, lost, why });
    Ok(Some(lost))
}

/// Moves the partition's folder to quarantine.
pub fn move_aside(destination: &PartitionDestination) -> Result<PathBuf, SpoolFault> {
    let name = format!("p{:02}-{}", destination.id.0, destination.now_ms);
    let mut names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
    let folder = names.find_map(|name| {
        let folder = destination.quarantine().join(name);
        (!folder.exists()).then_some(folder)
    });
    let folder = folder.expect("some number is free");
    fs::rename(destination.path(), &folder)
        .map_err(|cause| SpoolFault::io(destination.path(), cause))?;
    sync_folder(&destination.quarantine())?;
    // They are of no use to the database that comes in its place.
    manifest::forget(&destination.copies())
        .map_err(|cause| SpoolFault::io(&destination.spool, cause))?;
    Ok(folder)
}

fn beside(destination: &PartitionDestination, end: &str) -> PathBuf {
    destination.path().with_extension(end)
}

fn remove(folder: &Path) -> Result<(), SpoolFault> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(SpoolFault::io(folder, cause)),
        _ => Ok(()),
    }
}

/// Makes the folder of the view.
fn lay_out(destination: &PartitionDestination, view: &Path) -> Result<(), SpoolFault> {
    remove(view)?;
    make_folder(view)?;
    let at = |cause| SpoolFault::io(view, cause);
    let folder = fs::canonicalize(destination.path()).map_err(at)?;
    for entry in fs::read_dir(&folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let (from, to) = (entry.path(), view.join(entry.file_name()));
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sst") || name.ends_with(".blob") {
            symlink(from, to).map_err(at)?;
        } else if name.ends_with(".log") {
            fs::copy(from, &to).map_err(at)?;
            mend(&to).map_err(at)?;
        } else if name == "CURRENT" || name.starts_with("MANIFEST-") {
            fs::copy(from, to).map_err(at)?;
        }
    }
    Ok(())
}

/// Opens the view. Tables that cannot be opened are met when they are read.
fn open_view(destination: &PartitionDestination, view: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = options::database(
        &destination.memory,
        LogRecovery::Salvage,
        destination.id,
        // What it has to say is told as one notice.
        std::sync::Arc::new(|_| ()),
    );
    options.set_paranoid_checks(false);
    // A spool of an older format has fewer.
    let there = DB::list_cf(&options, view)?;
    let families =
        destination.families().filter(|family| there.iter().any(|name| name == family.name()));
    DB::open_cf_descriptors_read_only(&options, view, families, false)
}

/// Copies every row that can be read. `None`: the view does not open.
fn copy_rows(
    destination: &PartitionDestination,
    view: &Path,
    fresh: &Path,
) -> Result<Option<Lost>, SpoolFault> {
    let store = |cause: rocksdb::Error| SpoolFault::store(destination.path(), cause.into_string());
    let mut options = destination.database(LogRecovery::Strict);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let target = DB::open_cf_descriptors(&options, fresh, destination.families()).map_err(store)?;
    let whole = |family| Range { family, after: None, before: None };
    let mut ranges: Vec<Range> = destination.layout.families.iter().copied().map(whole).collect();
    let mut left_out = BTreeSet::new();
    let mut lost = Lost::default();
    while !ranges.is_empty() {
        let db = match open_view(destination, view) {
            Ok(db) => db,
            // A view without some tables: what they hide stays hidden.
            Err(_) if !left_out.is_empty() => break,
            Err(cause) if is_damaged(view, cause.as_ref()) => return Ok(None),
            Err(cause) => return Err(store(cause)),
        };
        let mut gaps = Vec::new();
        let mut tables = BTreeSet::new();
        for range in &ranges {
            copy_range(&db, &target, range, (&mut gaps, &mut tables)).map_err(store)?;
        }
        gaps.iter().for_each(|gap| lost.add(gap.family));
        tables.retain(|table| left_out.insert(*table));
        if tables.is_empty() {
            break;
        }
        let files = db.live_files().map_err(store)?;
        drop(db);
        leave_out(destination, view, &files, &tables)?;
        ranges = gaps;
    }
    let default = target.cf_handle(DEFAULT).expect("opened with every family");
    // Copied with the rest: what an earlier start knew to be lost.
    let earlier = target.get_cf(default, MENDING_KEY).map_err(store)?;
    let lost = earlier.map_or(lost, |bytes| lost.union(Lost::from_bytes(&bytes)));
    target.put_cf(default, MENDING_KEY, lost.to_bytes()).map_err(store)?;
    target.flush_wal(true).map_err(store)?;
    Ok(Some(lost))
}

/// Copies the rows of a range, and notes gaps in it and the tables that are to blame.
fn copy_range(
    db: &DB,
    target: &DB,
    range: &Range,
    (gaps, tables): (&mut Vec<Range>, &mut BTreeSet<u64>),
) -> Result<(), rocksdb::Error> {
    let Some(from) = db.cf_handle(range.family) else { return Ok(()) };
    let to = target.cf_handle(range.family).expect("opened with every family");
    let open = || {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        if let Some(before) = &range.before {
            options.set_iterate_upper_bound(before.clone());
        }
        db.raw_iterator_cf_opt(from, options)
    };
    let mut rows = open();
    let mut last = range.after.clone().unwrap_or_default();
    match &range.after {
        Some(after) => rows.seek(after),
        None => rows.seek_to_first(),
    }
    let mut batch = WriteBatch::default();
    loop {
        while let Some((key, value)) = rows.item() {
            if range.after.as_deref() != Some(key) {
                batch.put_cf(to, key, value);
            }
            if batch.size_in_bytes() >= BATCH_BYTES {
                target.write(std::mem::take(&mut batch))?;
            }
            last.clear();
            last.extend_from_slice(key);
            rows.next();
        }
        let Err(cause) = rows.status() else { break };
        let mut strange = None;
        let mut met = |cause: rocksdb::Error| match Cause::of(cause.as_ref()) {
            Cause::Damage => tables.extend(table_in(cause.as_ref())),
            _ => strange = Some(cause),
        };
        met(cause);
        rows = holes::skip(&open, &last, &mut met);
        if let Some(cause) = strange {
            // Too few descriptors, for one: that is no reason to give rows up.
            return Err(cause);
        }
        let before = rows.key().map(<[u8]>::to_vec).or_else(|| range.before.clone());
        let after = (!last.is_empty()).then(|| last.clone());
        gaps.push(Range { family: range.family, after, before });
        if rows.key().is_none() {
            break;
        }
    }
    target.write(batch)
}

/// The number of the table that a fault names.
fn table_in(text: &str) -> Option<u64> {
    let name = &text[..text.rfind(".sst")?];
    let digits = name.rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |place| place + 1);
    name[digits..].parse().ok()
}

/// Takes tables out of the view's list of files.
fn leave_out(
    destination: &PartitionDestination,
    view: &Path,
    files: &[LiveFile],
    tables: &BTreeSet<u64>,
) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(view, cause);
    let Some(path) = manifest::current(view) else { return Ok(()) };
    // Families are numbered in the order in which they were made, and none is ever dropped.
    let families = DB::list_cf(&destination.database(LogRecovery::Strict), view)
        .map_err(|cause| SpoolFault::store(destination.path(), cause.into_string()))?;
    let mut list = fs::read(&path).map_err(at)?;
    list.truncate(manifest::sound_len(&list));
    for file in files {
        let family = families.iter().position(|name| *name == file.column_family_name);
        if let (Some(number), Some(family)) = (table_in(&file.name), family)
            && tables.contains(&number)
        {
            manifest::append_removal(&mut list, family as u64, file.level as u64, number);
        }
    }
    fs::write(&path, list).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_table() {
        for (text, table) in [
            ("Corruption: block checksum mismatch ... in /p00/000123.sst offset 0", Some(123)),
            ("IO error: No such file or directory: /p00/000007.sst: gone", Some(7)),
            ("Corruption: Bad table magic number in 12.sst", Some(12)),
            ("Corruption: blob", None),
            ("x.sst", None),
        ] {
            assert_eq!(table_in(text), table, "{text}");
        }
    }
}
