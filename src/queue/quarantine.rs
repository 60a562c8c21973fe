//! Quarantine: bytes that cannot be understood leave the database, never the spool.
//!
//! Order:    the file with the bytes and the one that says why are written and synced, then the
//!           record is removed. A crash between leaves both, and the next start moves it again.
//!
//! Files:    `<partition>-<family>-<key in hex>.rec` beside the same name with `.why`.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::base::PartitionId;
use crate::queue::key;
use crate::queue::points::point;

/// One thing to be moved.
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

/// Keeps a suspect in `folder`, durably; `write` puts its bytes into the file and says how many
/// they were. The record itself is the caller's to remove, afterwards.
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
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Things in quarantine: records, and folders of partitions set aside.
pub fn count(folder: &Path) -> io::Result<u64> {
    let mut found = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        found += (path.is_dir() || path.extension().is_some_and(|end| end == "rec")) as u64;
    }
    Ok(found)
}
