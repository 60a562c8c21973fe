//! Rescue in place, for a disk that is too full for a second database.
//!
//! How:      the damaged table is taken out of the list of files. All of its rows are lost to the
//!           queue, where a rescue loses one block of them; the others are served.
//! Order:    the table, and the blob files that only a table of bodies names, get a second name in
//!           quarantine; the lost family is noted in `copies`, synced; then the list of files is
//!           changed, and the suspicion that named the table is settled. A start that is cut short
//!           in between begins again, or knows what is lost.
//! Cost:     a few entries of folders. What is in quarantine takes its space until someone removes it.
//!           For a table of bodies that is the table, and the blob files that RocksDB has dropped with
//!           it: names of files that the open database still uses are removed (`let_go`).

use std::collections::BTreeSet;
use std::fs;

use crate::queue::cause::table_in;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::Notice;
use crate::queue::record::family;
use crate::queue::record::lost::Lost;
use crate::queue::store::folder::make_folder;
use crate::queue::store::folder::sync_folder;
use crate::queue::store::found::Recovered;
use crate::queue::store::manifest;
use crate::queue::store::rescue;
use crate::queue::store::spec::PartitionSpec;

/// Takes the table that an error names out of a closed database, unless an earlier start that was cut
/// short has done so. `None`: its tables cannot be listed.
pub fn drop_table(
    spec: &PartitionSpec,
    why: &str,
    found: &mut Recovered,
) -> Result<Option<Lost>, SpoolFault> {
    let path = spec.path();
    let Some(number) = table_in(why) else { return Ok(None) };
    let Ok(db) = rescue::open_leniently(spec, &path) else { return Ok(None) };
    let Ok(files) = db.live_files() else { return Ok(None) };
    drop(db);
    let copies = spec.copies();
    let at_copies = |cause| SpoolFault::io(copies.folder(), cause);
    let Some(table) = files.iter().find(|file| table_in(&file.name) == Some(number)) else {
        copies.note_repaired().map_err(at_copies)?;
        return Ok(Some(copies.lost()));
    };
    let mut lost = Lost::default();
    lost.add(&table.column_family_name);
    let folder = spec.quarantine().join(format!("{}{number}-{}", prefix(spec), spec.now_ms));
    make_folder(&folder)?;
    let at = |cause| SpoolFault::io(&folder, cause);
    let is_kept = |name: &str| match table.column_family_name == family::BODY {
        true => manifest::is_table(name.as_ref()),
        false => table_in(name) == Some(number),
    };
    manifest::keep_files(&path, &folder, |name| name.to_str().is_some_and(is_kept)).map_err(at)?;
    sync_folder(&folder)?;
    sync_folder(&spec.quarantine())?;
    copies.note_lost(lost).map_err(at_copies)?;
    rescue::leave_out(spec, &path, &files, &BTreeSet::from([number]))?;
    copies.note_repaired().map_err(at_copies)?;
    found.quarantined += 1;
    let (partition, why) = (spec.id, why.to_owned());
    found.tell(spec, Notice::TableDropped { partition, folder, lost, why });
    Ok(Some(lost))
}

/// The names of the folders for dropped tables begin with it.
fn prefix(spec: &PartitionSpec) -> String {
    format!("p{:02}-table-", spec.id.0)
}

/// Removes the second names of files that the database still uses: they would keep the space of all
/// bodies for good, on a disk that is full. The database must be open, and so must have removed the
/// files that it no longer uses. Looks into the folders of earlier starts too, for those that were cut
/// short.
pub fn let_go(spec: &PartitionSpec) -> Result<(), SpoolFault> {
    let quarantine = spec.quarantine();
    let at = |cause| SpoolFault::io(&quarantine, cause);
    for entry in fs::read_dir(&quarantine).map_err(at)? {
        let folder = entry.map_err(at)?;
        let name = folder.file_name().to_string_lossy().into_owned();
        let Some(dropped) = name.strip_prefix(&prefix(spec)) else { continue };
        let dropped = dropped.split('-').next().and_then(|number| number.parse().ok());
        for entry in fs::read_dir(folder.path()).map_err(at)? {
            let (copy, name) = entry.map(|entry| (entry.path(), entry.file_name())).map_err(at)?;
            let is_dropped = dropped.is_some() && table_in(&name.to_string_lossy()) == dropped;
            if !is_dropped && manifest::is_same_file(&spec.path().join(&name), &copy) {
                fs::remove_file(&copy).map_err(at)?;
            }
        }
    }
    Ok(())
}
