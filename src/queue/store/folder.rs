//! Folders of the spool: made private, listed, and synced.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::queue::fault::SpoolFault;

/// Makes a folder that only our user may read, unless it is there.
pub fn make_folder(path: &Path) -> Result<(), SpoolFault> {
    use std::os::unix::fs::DirBuilderExt as _;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(|cause| SpoolFault::io(path, cause)),
    }
}

/// Makes names in a folder durable.
pub fn sync_folder(path: &Path) -> Result<(), SpoolFault> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| SpoolFault::io(path, cause))
}

/// Whether a database has written tables.
pub fn has_tables(path: &Path) -> Result<bool, SpoolFault> {
    for entry in fs::read_dir(path).map_err(|cause| SpoolFault::io(path, cause))? {
        let name = entry.map_err(|cause| SpoolFault::io(path, cause))?.file_name();
        if Path::new(&name).extension().is_some_and(|end| end == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a folder has no entries.
pub fn is_empty(path: &Path) -> Result<bool, SpoolFault> {
    let mut entries = fs::read_dir(path).map_err(|cause| SpoolFault::io(path, cause))?;
    Ok(entries.next().is_none())
}
