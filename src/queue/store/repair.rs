//! Opening the database of a partition, with whatever repair is needed.
//!
//! Promise:  damage never hides mail silently, and prevents the start only if the disk is too full even
//!           to drop a table. The first of these repairs that works is made and reported:
//!             1. the list of files (CURRENT, MANIFEST) is mended from its copy; see `manifest`
//!             2. a torn end of the manifest is cut off; see `manifest`
//!             3. the log is read with holes; see `mend`
//!             4. the readable rows become a new database; see `rescue`. If the disk is too full
//!                for that even without the reserve, the damaged table is dropped; see `in_place`
//!             5. the folder is moved to quarantine whole, and the partition starts empty
//!           Faults that may resolve (permissions, a full disk, I/O) and databases of another version
//!           prevent the start, because moving mail away would not help.
//! Bounds:   what one flipped bit may cost: in a table one block of rows, or that table, for its
//!           index and footer; in a blob file one chunk, or the chunks of that file, for its header
//!           and footer; in the log one block of 32 KB, whose mail is missing and whose deliveries
//!           may be repeated; in CURRENT, OPTIONS and the counts nothing; in MANIFEST nothing as far
//!           as its copy reaches, else the whole partition, which is then kept in quarantine.

use crate::queue::record::ledger::MENDING_KEY;
use crate::queue::store::families::Families;
use crate::queue::store::in_place;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;
use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rocksdb::DB;

use crate::queue::cause::Cause;
use crate::queue::cause::table_in;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::Notice;
use crate::queue::points::point;
use crate::queue::points::store_fault;
use crate::queue::record::lost::Lost;
use crate::queue::store::folder::has_tables;
use crate::queue::store::folder::is_empty;
use crate::queue::store::folder::make_folder;
use crate::queue::store::folder::sync_folder;
use crate::queue::store::found::Depth;
use crate::queue::store::found::Recovered;
use crate::queue::store::manifest;
use crate::queue::store::mend::mend;
use crate::queue::store::options::LogRecovery;
use crate::queue::store::rescue;
use crate::queue::store::spec::OnFullDisk;
use crate::queue::store::spec::PartitionSpec;

/// An open database, and how far recovery must look.
pub struct Opened {
    pub db: DB,
    pub depth: Depth,
    pub lost: Lost,
}

/// Makes the database of a new partition, unless it exists.
pub fn create(spec: &PartitionSpec) -> Result<(), SpoolFault> {
    let path = spec.path();
    point("spool::before_partition");
    make_folder(&path)?;
    let mut options = spec.database(LogRecovery::Strict);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    DB::open_cf_descriptors(&options, &path, spec.families())
        .map_err(|cause| SpoolFault::store(&path, cause.into_string()))?;
    sync_folder(&spec.spool)?;
    point("spool::after_partition");
    Ok(())
}

pub fn open_for_reading(spec: &PartitionSpec) -> Result<DB, SpoolFault> {
    let options = spec.database(LogRecovery::Strict);
    let families = spec.families();
    DB::open_cf_descriptors_read_only(&options, spec.path(), families, false)
        .map_err(|cause| SpoolFault::store(spec.path(), cause.into_string()))
}

pub fn open_database(spec: &PartitionSpec, found: &mut Recovered) -> Result<Opened, SpoolFault> {
    // The operator makes an empty folder when a partition is lost.
    if is_empty(&spec.path())? {
        manifest::forget(&spec.copies()).map_err(|cause| SpoolFault::io(spec.path(), cause))?;
        create(spec)?;
    }
    mend_list(spec, found)?;
    // No reader may ever meet the damage that a compaction has met, so it is not searched for.
    let met = spec.copies().suspicion();
    if let Some(why) = met.filter(|why| Cause::of(why) == Cause::Damage && table_in(why).is_some())
    {
        return rescue_or_set_aside(spec, why, found);
    }
    let adding = check_families(spec)?;
    let sound = |db| Ok(Opened { db, depth: Depth::Newest, lost: Lost::default() });
    let why = match open_as(spec, LogRecovery::Strict, adding) {
        Ok(db) => return sound(db),
        Err(cause) => damage_or_fault(spec, cause)?,
    };
    if table_in(&why).is_some() {
        // Neither the log nor the manifest is at fault.
        return rescue_or_set_aside(spec, why, found);
    }
    let copies = copy_logs(spec, "log")?;
    let manifest = cut_torn_end(spec, &copies)?;
    // The list could not be read before it was cut.
    let adding = check_families(spec)?;
    let torn =
        Notice::ManifestTorn { partition: spec.id, folder: copies.clone(), why: why.clone() };
    let why = match manifest.is_some().then(|| open_as(spec, LogRecovery::Strict, adding)) {
        None => why,
        Some(Ok(db)) => {
            found.tell(spec, torn);
            return sound(db);
        }
        Some(Err(cause)) => damage_or_fault(spec, cause)?,
    };
    mend_logs(spec)?;
    match open_as(spec, LogRecovery::Salvage, adding) {
        Ok(db) => {
            if manifest.is_some() {
                found.tell(spec, torn);
            }
            found.quarantined += 1;
            found.tell(spec, Notice::LogDamaged { partition: spec.id, folder: copies, why });
            Ok(Opened { db, depth: Depth::All, lost: Lost::BATCHES })
        }
        Err(cause) => {
            let why = damage_or_fault(spec, cause)?;
            put_back(spec, &copies)?;
            // The whole folder is kept, so copies of its log are not needed.
            let _ = fs::remove_dir_all(copies);
            rescue_or_set_aside(spec, why, found)
        }
    }
}

/// Makes a sound database of the readable rows, or an empty one if nothing can be read.
pub fn rescue_or_set_aside(
    spec: &PartitionSpec,
    why: String,
    found: &mut Recovered,
) -> Result<Opened, SpoolFault> {
    let mut lost = None;
    match rescue::rescue(spec, &why, found) {
        Ok(Some(rescued)) => lost = Some(rescued),
        Ok(None) => set_aside(spec, why, found)?,
        Err(fault @ SpoolFault::DiskFull { .. }) if spec.on_full_disk == OnFullDisk::DropTables => {
            lost = Some(in_place::drop_table(spec, &why, found)?.ok_or(fault)?);
        }
        Err(fault) => return Err(fault),
    }
    let store = |cause: rocksdb::Error| SpoolFault::store(spec.path(), cause.into_string());
    // A table that is dropped leaves the families as they were, maybe those of an older format.
    let adding = check_families(spec)?;
    let db = open_as(spec, LogRecovery::Strict, adding).map_err(store)?;
    in_place::let_go(spec)?;
    if let Some(lost) = &mut lost {
        if let Some(text) = store_fault("mending::error") {
            return Err(SpoolFault::store(spec.path(), text));
        }
        let default = Families::of(&db).default;
        // An earlier start may have known of other losses.
        let earlier = db.get_cf(default, MENDING_KEY).map_err(store)?;
        *lost = earlier.map_or(*lost, |bytes| lost.union(Lost::from_bytes(&bytes)));
        // From here on the database knows itself.
        let mut batch = WriteBatch::default();
        batch.put_cf(default, MENDING_KEY, lost.to_bytes());
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        db.write_opt(batch, &synced).map_err(store)?;
    }
    let copies = spec.copies();
    copies.clear_suspicion().map_err(|cause| SpoolFault::io(copies.folder(), cause))?;
    Ok(Opened { db, depth: Depth::All, lost: lost.unwrap_or_default() })
}

/// Mends the list of files before RocksDB reads it; see `manifest`.
fn mend_list(spec: &PartitionSpec, found: &mut Recovered) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(spec.path(), cause);
    let Some(mended) = manifest::mended(&spec.path(), &spec.copies()).map_err(at)? else {
        return Ok(());
    };
    let folder = copy_logs(spec, "list")?;
    if mended.is_cut && !keep_tables(spec, &folder)? {
        return Ok(());
    }
    mended.put(&spec.path()).map_err(at)?;
    found.quarantined += 1;
    let (partition, why) = (spec.id, mended.why.to_owned());
    found.tell(spec, Notice::ManifestMended { partition, folder, why });
    Ok(())
}

/// Cuts a torn end off the manifest and returns its path; a copy of it is in `copies`.
fn cut_torn_end(spec: &PartitionSpec, copies: &Path) -> Result<Option<PathBuf>, SpoolFault> {
    let Some(path) = manifest::current(&spec.path()) else { return Ok(None) };
    let at = |cause| SpoolFault::io(&path, cause);
    let Some(end) = manifest::torn_at(&fs::read(&path).map_err(at)?) else { return Ok(None) };
    if !keep_tables(spec, copies)? {
        return Ok(None);
    }
    manifest::cut(&path, end).map_err(at)?;
    Ok(Some(path))
}

/// Gives all tables a second name in `copies`. `false`: the file system has no hard links (EPERM), and
/// tables that cannot be kept must not be risked.
fn keep_tables(spec: &PartitionSpec, copies: &Path) -> Result<bool, SpoolFault> {
    match manifest::keep_files(&spec.path(), copies, manifest::is_table) {
        Ok(()) => sync_folder(copies).map(|()| true),
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(false)
        }
        Err(cause) => Err(SpoolFault::io(copies, cause)),
    }
}

/// Whether opening may add families to a database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Adding {
    Nothing,
    Families,
}

/// Refuses a database with other families than ours before RocksDB changes anything in it. One may
/// lack what later formats have brought; a list of files that was cut short lacks others, and adding
/// those would drop their tables.
fn check_families(spec: &PartitionSpec) -> Result<Adding, SpoolFault> {
    let listed = DB::list_cf(&spec.database(LogRecovery::Strict), spec.path());
    // An unreadable list is damage, which opening the database will meet.
    let Ok(names) = listed else { return Ok(Adding::Nothing) };
    let known = spec.layout.families;
    let old = spec.layout.families_of(spec.format);
    let is_ours = names.iter().all(|name| known.contains(&name.as_str()));
    let has = |family: &&str| names.iter().any(|name| name == family);
    if (is_ours && known.iter().all(has)) || !manifest::is_sound(&spec.path()) {
        return Ok(Adding::Nothing);
    }
    // Without tables, a start that made the partition died at it.
    if is_ours && (old.iter().all(has) || !has_tables(&spec.path())?) {
        return Ok(Adding::Families);
    }
    let cause = format!("it has the column families {}", names.join(", "));
    Err(SpoolFault::Foreign { path: spec.path(), cause })
}

/// Restores manifest and logs as they were found, because mending them has not helped. Each file is
/// complete before the next begins, so a crash leaves the old file or the new one.
fn put_back(spec: &PartitionSpec, copies: &Path) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(copies, cause);
    let fresh = spec.spool.join(format!("p{:02}.part", spec.id.0));
    for entry in fs::read_dir(copies).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let is_table = |end: &std::ffi::OsStr| end == "sst" || end == "blob";
        if !Path::new(&name).extension().is_some_and(is_table) {
            fs::copy(entry.path(), &fresh).map_err(at)?;
            File::open(&fresh).and_then(|file| file.sync_all()).map_err(at)?;
            fs::rename(&fresh, spec.path().join(name)).map_err(at)?;
        }
    }
    sync_folder(&spec.path())
}

fn open_as(
    spec: &PartitionSpec,
    recovery: LogRecovery,
    adding: Adding,
) -> Result<DB, rocksdb::Error> {
    let mut options = spec.database(recovery);
    options.create_missing_column_families(adding == Adding::Families);
    DB::open_cf_descriptors(&options, spec.path(), spec.families())
}

/// Returns the text of damage; any other fault stops the start.
fn damage_or_fault(spec: &PartitionSpec, cause: rocksdb::Error) -> Result<String, SpoolFault> {
    let text = cause.into_string();
    match manifest::is_damaged(&spec.path(), &text) {
        true => Ok(text),
        false => Err(SpoolFault::store(spec.path(), text)),
    }
}

/// Mends all logs; see `mend`. The copies stay as they were.
fn mend_logs(spec: &PartitionSpec) -> Result<(), SpoolFault> {
    let at = |cause| SpoolFault::io(spec.path(), cause);
    for entry in fs::read_dir(spec.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_some_and(|end| end == "log") {
            mend(&path).map_err(|cause| SpoolFault::io(&path, cause))?;
        }
    }
    Ok(())
}

/// Copies the write-ahead log and the manifest before they are mended or read with holes, for
/// RocksDB removes them afterwards.
fn copy_logs(spec: &PartitionSpec, what: &str) -> Result<PathBuf, SpoolFault> {
    let copies = spec.quarantine().join(format!("p{:02}-{what}-{}", spec.id.0, spec.now_ms));
    make_folder(&copies)?;
    let at = |cause| SpoolFault::io(&copies, cause);
    for entry in fs::read_dir(spec.path()).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if let Some(name) = path.file_name()
            && (path.extension().is_some_and(|end| end == "log") || manifest::is_part(name))
        {
            let copy = copies.join(name);
            fs::copy(&path, &copy).map_err(at)?;
            File::open(&copy).and_then(|file| file.sync_all()).map_err(at)?;
        }
    }
    sync_folder(&copies)?;
    sync_folder(&spec.quarantine())?;
    Ok(copies)
}

/// Moves the folder to quarantine and makes an empty partition in its place.
fn set_aside(spec: &PartitionSpec, why: String, found: &mut Recovered) -> Result<(), SpoolFault> {
    let folder = rescue::move_aside(spec)?;
    // The next start makes a partition of an empty folder, should this one be cut short here.
    make_folder(&spec.path())?;
    sync_folder(&spec.spool)?;
    found.quarantined += 1;
    found.tell(spec, Notice::SetAside { partition: spec.id, folder, why });
    create(spec)
}
