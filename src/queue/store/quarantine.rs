//! Quarantine: invalid records leave the database, but never the spool.
//!
//! Order:    the file with the bytes and the file with the reason are written and synced, then the
//!           record is removed. A crash in between leaves both, and the next start moves it again.
//! Files:    `<partition>-<family>-<key in hex>.rec` beside the same name with `.why`.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::base::PartitionId;
use crate::queue::points::point;
use crate::queue::record::key;

/// The folder of the spool for records and databases that cannot be understood.
pub const QUARANTINE: &str = "quarantine";

/// A record to be moved.
pub struct Suspect<'s> {
    pub partition: PartitionId,
    pub family: &'static str,
    pub key: &'s [u8],
    pub why: &'s str,
    pub now_ms: u64,
}

/// What the `.why` file says, as JSON.
#[derive(Serialize)]
struct Why<'s> {
    partition: u8,
    family: &'static str,
    key: String,
    why: &'s str,
    bytes: u64,
    quarantined_ms: u64,
}

/// Stores a suspect in `folder`, durably; `write` writes its bytes to the file and returns their
/// number. The caller removes the record afterwards.
pub fn keep(
    folder: &Path,
    suspect: &Suspect<'_>,
    write: impl FnOnce(&mut File) -> io::Result<u64>,
) -> io::Result<PathBuf> {
    point("quarantine::before_file");
    let hex = key::hex(suspect.key);
    // A key of any length may be found; a file name has its bound.
    let short = &hex[..hex.len().min(128)];
    let name = format!("p{:02}-{}-{short}", suspect.partition.0, suspect.family);
    let path = folder.join(format!("{name}.rec"));
    let mut file = create(&path)?;
    let bytes = write(&mut file)?;
    file.sync_all()?;
    let why = Why {
        partition: suspect.partition.0,
        family: suspect.family,
        key: hex,
        why: suspect.why,
        bytes,
        quarantined_ms: suspect.now_ms,
    };
    let mut file = create(&folder.join(format!("{name}.why")))?;
    serde_json::to_writer(&mut file, &why)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    point("quarantine::after_file");
    Ok(path)
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    // What lies there under this name must be a file of ours and no link to another.
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

/// Records and databases in quarantine. The operator removes each once it is dealt with; until then
/// mail may be missing.
pub fn count(folder: &Path) -> io::Result<u64> {
    let mut found = 0;
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        found += (path.is_dir() || path.extension().is_some_and(|end| end == "rec")) as u64;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_in_the_folder_is_followed() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let (kept, target) = (folder.path().join("kept"), folder.path().join("target"));
        fs::create_dir(&kept).expect("made");
        let suspect = Suspect {
            partition: PartitionId(0),
            family: "job",
            key: b"key",
            why: "a test",
            now_ms: 1,
        };
        let keep_it = || keep(&kept, &suspect, |file| file.write_all(b"bytes").map(|()| 5));
        let record = keep_it().expect("nothing is in the way");
        for is_there in [true, false] {
            fs::remove_file(&record).expect("it is there");
            std::os::unix::fs::symlink(&target, &record).expect("linked");
            if is_there {
                fs::write(&target, "precious").expect("written");
            }
            keep_it().expect_err("a link is in the way");
            let held = fs::read_to_string(&target).ok();
            assert_eq!(held.as_deref(), is_there.then_some("precious"));
            let _ = fs::remove_file(&target);
        }
    }
}
