//! Rescue: the readable rows of a damaged database become a sound one in its place.
//!
//! Why:      a block that cannot be read stays in its table until a compaction meets it; then RocksDB
//!           accepts no more writes. A table that does not open stops every start.
//! How:      every readable row is written to a new database. The damaged one goes to quarantine
//!           whole, with every byte as it was found. `recover` decides what the lost rows mean for
//!           mail; it is told which families have lost some.
//!           The damaged database is read through a *view*: a folder of links to its tables and
//!           copies of its small files, opened for reading only. Where a table cannot be read, the
//!           rest of its key range is read once more from a view without it, which shows the rows
//!           that other tables have there.
//! Order:    write and sync `pNN.new`; move `pNN` to quarantine; move `pNN.new` to `pNN`. A start
//!           that finds only `pNN.new` does the last step; one that finds both begins again. Then the
//!           suspicion of the old database is settled: its table may be a sound one of the new.
//! Cost:     as much disk space as the readable mail takes, and the time to write it, once.
//! Bounds:   one batch in memory. One flipped bit in a table costs the rows of one block (16 KB);
//!           in its index, header or footer the rows of that table.

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

use crate::queue::cause::Cause;
use crate::queue::cause::table_in;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::Notice;
use crate::queue::points::store_fault;
use crate::queue::record::family::DEFAULT;
use crate::queue::record::ledger::MENDING_KEY;
use crate::queue::record::lost::Lost;
use crate::queue::store::folder::make_folder;
use crate::queue::store::folder::sync_folder;
use crate::queue::store::found::Recovered;
use crate::queue::store::holes;
use crate::queue::store::log_file::scan;
use crate::queue::store::manifest;
use crate::queue::store::mend::mend;
use crate::queue::store::options;
use crate::queue::store::options::LogRecovery;
use crate::queue::store::spec::PartitionSpec;

const BATCH_BYTES: usize = 1 << 20;

/// Rows of one family between two keys, neither of them included.
struct Range {
    family: &'static str,
    after: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
}

/// Completes or undoes a rescue that was cut short.
pub fn finish(spec: &PartitionSpec) -> Result<(), SpoolFault> {
    let (path, fresh) = (spec.path(), beside(spec, "new"));
    if fresh.is_dir() && !path.exists() {
        fs::rename(&fresh, &path).map_err(|cause| SpoolFault::io(&fresh, cause))?;
        return sync_folder(&spec.spool);
    }
    remove(&fresh)?;
    remove(&beside(spec, "view"))
}

/// Replaces a damaged, closed database by a sound one. `None`: nothing of it can be read, and it stays
/// as it is.
pub fn rescue(
    spec: &PartitionSpec,
    why: &str,
    found: &mut Recovered,
) -> Result<Option<Lost>, SpoolFault> {
    let (view, fresh) = (beside(spec, "view"), beside(spec, "new"));
    lay_out(spec, &view)?;
    remove(&fresh)?;
    make_folder(&fresh)?;
    let copied = copy_rows(spec, &view, &fresh);
    remove(&view)?;
    let Ok(Some(lost)) = copied else {
        remove(&fresh)?;
        return copied;
    };
    let folder = move_aside(spec)?;
    fs::rename(&fresh, spec.path()).map_err(|cause| SpoolFault::io(&fresh, cause))?;
    sync_folder(&spec.spool)?;
    let copies = spec.copies();
    copies.note_repaired().map_err(|cause| SpoolFault::io(copies.folder(), cause))?;
    found.quarantined += 1;
    let (partition, why) = (spec.id, why.to_owned());
    found.tell(spec, Notice::Rebuilt { partition, folder, lost, why });
    Ok(Some(lost))
}

/// Moves the partition's folder to quarantine.
pub fn move_aside(spec: &PartitionSpec) -> Result<PathBuf, SpoolFault> {
    let name = format!("p{:02}-{}", spec.id.0, spec.now_ms);
    let mut names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
    let folder = names.find_map(|name| {
        let folder = spec.quarantine().join(name);
        (!folder.exists()).then_some(folder)
    });
    let folder = folder.expect("some number is free");
    fs::rename(spec.path(), &folder).map_err(|cause| SpoolFault::io(spec.path(), cause))?;
    sync_folder(&spec.quarantine())?;
    // The copies do not belong to the database that takes its place.
    manifest::forget(&spec.copies()).map_err(|cause| SpoolFault::io(&spec.spool, cause))?;
    Ok(folder)
}

fn beside(spec: &PartitionSpec, end: &str) -> PathBuf {
    spec.path().with_extension(end)
}

fn remove(folder: &Path) -> Result<(), SpoolFault> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(SpoolFault::io(folder, cause)),
        _ => Ok(()),
    }
}

/// Makes the folder of the view.
fn lay_out(spec: &PartitionSpec, view: &Path) -> Result<(), SpoolFault> {
    remove(view)?;
    make_folder(view)?;
    let at = |cause| SpoolFault::io(view, cause);
    let folder = fs::canonicalize(spec.path()).map_err(at)?;
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

/// Opens a database for reading. Tables that cannot be opened are met when they are read.
pub fn open_leniently(spec: &PartitionSpec, folder: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = options::database(
        &spec.memory,
        LogRecovery::Salvage,
        spec.id,
        // One notice reports all of the damage.
        std::sync::Arc::new(|_| ()),
    );
    options.set_paranoid_checks(false);
    // A spool of an older format has fewer.
    let there = DB::list_cf(&options, folder)?;
    let families = spec.families().filter(|family| there.iter().any(|name| name == family.name()));
    DB::open_cf_descriptors_read_only(&options, folder, families, false)
}

/// Copies every row that can be read. `None`: the view does not open.
fn copy_rows(spec: &PartitionSpec, view: &Path, fresh: &Path) -> Result<Option<Lost>, SpoolFault> {
    let store = |cause: rocksdb::Error| SpoolFault::store(spec.path(), cause.into_string());
    let mut options = spec.database(LogRecovery::Strict);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let target = DB::open_cf_descriptors(&options, fresh, spec.families()).map_err(store)?;
    if let Some(text) = store_fault("rescue::error") {
        return Err(SpoolFault::store(fresh, text));
    }
    let whole = |family| Range { family, after: None, before: None };
    let mut ranges: Vec<Range> = spec.layout.families.iter().copied().map(whole).collect();
    let mut left_out = BTreeSet::new();
    let mut lost = Lost::default();
    while !ranges.is_empty() {
        let db = match open_leniently(spec, view) {
            Ok(db) => db,
            // The view without these tables does not open: their rows stay lost.
            Err(_) if !left_out.is_empty() => break,
            Err(cause) if manifest::is_damaged(view, cause.as_ref()) => return Ok(None),
            Err(cause) => return Err(store(cause)),
        };
        let mut unread = Unread::default();
        for range in &ranges {
            copy_range(&db, &target, range, &mut unread).map_err(store)?;
        }
        let Unread { gaps, mut tables } = unread;
        gaps.iter().for_each(|gap| lost.add(gap.family));
        tables.retain(|table| left_out.insert(*table));
        if tables.is_empty() {
            break;
        }
        let files = db.live_files().map_err(store)?;
        drop(db);
        leave_out(spec, view, &files, &tables)?;
        ranges = gaps;
    }
    let default = target.cf_handle(DEFAULT).expect("opened with every family");
    // The copied rows include what an earlier start knew to be lost.
    let earlier = target.get_cf(default, MENDING_KEY).map_err(store)?;
    let lost = earlier.map_or(lost, |bytes| lost.union(Lost::from_bytes(&bytes)));
    target.put_cf(default, MENDING_KEY, lost.to_bytes()).map_err(store)?;
    target.flush_wal(true).map_err(store)?;
    Ok(Some(lost))
}

/// What could not be read of a view.
#[derive(Default)]
struct Unread {
    gaps: Vec<Range>,
    /// The tables that caused the gaps.
    tables: BTreeSet<u64>,
}

/// Copies the rows of a range, and notes gaps in it.
fn copy_range(
    db: &DB,
    target: &DB,
    range: &Range,
    unread: &mut Unread,
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
            Cause::Damage => unread.tables.extend(table_in(cause.as_ref())),
            _ => strange = Some(cause),
        };
        met(cause);
        rows = holes::skip(&open, &last, &mut met);
        if let Some(cause) = strange {
            // A fault that is not damage, such as too few descriptors, must not cost rows.
            return Err(cause);
        }
        let before = rows.key().map(<[u8]>::to_vec).or_else(|| range.before.clone());
        let after = (!last.is_empty()).then(|| last.clone());
        unread.gaps.push(Range { family: range.family, after, before });
        if rows.key().is_none() {
            break;
        }
    }
    target.write(batch)
}

/// Takes tables out of the list of files in a folder.
pub fn leave_out(
    spec: &PartitionSpec,
    folder: &Path,
    files: &[LiveFile],
    tables: &BTreeSet<u64>,
) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(folder, cause);
    let Some(path) = manifest::current(folder) else { return Ok(()) };
    // Families are numbered in the order in which they were made, and none is ever dropped.
    let families = DB::list_cf(&spec.database(LogRecovery::Strict), folder)
        .map_err(|cause| SpoolFault::store(spec.path(), cause.into_string()))?;
    let mut list = fs::read(&path).map_err(at)?;
    let sound_bytes = scan(&list).sound_bytes;
    list.truncate(sound_bytes);
    for file in files {
        let family = families.iter().position(|name| *name == file.column_family_name);
        if let (Some(number), Some(family)) = (table_in(&file.name), family)
            && tables.contains(&number)
        {
            manifest::append_removal(&mut list, family as u64, file.level as u64, number);
        }
    }
    manifest::extend(&path, sound_bytes, &list).map_err(at)
}
