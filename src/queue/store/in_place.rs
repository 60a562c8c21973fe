//! Rescue in place, for a disk that is too full for a second database.
//!
//! How:      the damaged table is taken out of the list of files. All of its rows are lost to the
//!           queue, where a rescue loses one block of them; the others are served.
//! Order:    the table, and the blob files that only a table of bodies names, get a second name in
//!           quarantine; the lost family is noted in `copies`, synced; then the list of files is
//!           changed, and the suspicion that named the table is settled. A start that is cut short
//!           in between begins again, or knows what is lost.
//! Cost:     a few entries of folders. What is in quarantine takes its space until someone removes it.

use std::collections::BTreeSet;

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
    let folder =
        spec.quarantine().join(format!("p{:02}-table-{number}-{}", spec.id.0, spec.now_ms));
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
