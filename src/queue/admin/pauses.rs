//! Paused destinations: `pauses.json` in the spool, so that a pause survives restarts.
//!
//! Owner:    the control plane, one operation at a time; read once at start.
//! Promise:  a new file is written, synced and renamed, so that a crash leaves the old or the new
//!           one. An unreadable file never stops a start: it is renamed, and nothing is paused.
//! Bounds:   `PAUSES_MAX` names of `NAME_BYTES_MAX`. Full: refused.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

const FILE: &str = "pauses.json";
const FORMAT: u32 = 1;
/// Names that can be paused at the same time.
pub const PAUSES_MAX: usize = 1000;
/// Long enough for the name of a destination with many hosts.
const NAME_BYTES_MAX: usize = 1024;
/// Larger than any valid file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a name was not paused, or the pause will not survive a restart.
#[derive(Debug, Error)]
pub enum PauseFault {
    /// Empty, too long, or with control characters.
    #[error("is not the name of a destination; see `ringpost destination list`")]
    Name,
    #[error("{PAUSES_MAX} destinations are paused already; resume one first, or pause a domain")]
    Full,
    /// The change holds until a restart.
    #[error("{FILE} cannot be written: {0}; the change will be lost at the next restart")]
    Unwritten(io::Error),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    paused: BTreeSet<Box<str>>,
}

/// The names, and their file.
pub struct Pauses {
    folder: PathBuf,
    names: Mutex<BTreeSet<Box<str>>>,
}

impl Pauses {
    /// Reads the file of this spool. The text describes a fault.
    pub fn read(folder: &Path) -> (Pauses, Option<String>) {
        let path = folder.join(FILE);
        let (names, wrong) = match read(&path) {
            Ok(names) => (names, None),
            Err(cause) => (BTreeSet::new(), Some(put_aside(&path, &cause))),
        };
        (Pauses { folder: folder.to_owned(), names: Mutex::new(names) }, wrong)
    }

    pub fn names(&self) -> Vec<Box<str>> {
        self.lock().iter().cloned().collect()
    }

    /// The stored form of a name: hosts and domains are case-insensitive.
    pub fn settled(name: &str) -> String {
        name.trim().trim_end_matches('.').to_ascii_lowercase()
    }

    /// Adds a name in stored form. The name is added even if the file cannot be written.
    pub fn add(&self, name: &str) -> Result<(), PauseFault> {
        let mut names = self.lock();
        if !is_name(name) {
            return Err(PauseFault::Name);
        }
        if !names.contains(name) && names.len() >= PAUSES_MAX {
            return Err(PauseFault::Full);
        }
        names.insert(name.into());
        self.write(&names)
    }

    /// Removes a name in stored form. The name is removed even if the file cannot be
    /// written.
    pub fn remove(&self, name: &str) -> Result<(), PauseFault> {
        let mut names = self.lock();
        names.remove(name);
        // Even if the name was absent: the last write may have failed.
        self.write(&names)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Box<str>>> {
        // A panic leaves the set whole.
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, names: &BTreeSet<Box<str>>) -> Result<(), PauseFault> {
        write(&self.folder, names).map_err(PauseFault::Unwritten)
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

fn read(path: &Path) -> io::Result<BTreeSet<Box<str>>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_string(&mut text)?,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(cause) => return Err(cause),
    };
    let stored: Stored = serde_json::from_str(&text)?;
    let is_good = stored.format == FORMAT
        && stored.paused.len() <= PAUSES_MAX
        && stored.paused.iter().all(|name| is_name(name));
    let foreign = || io::Error::new(io::ErrorKind::InvalidData, "another version wrote it");
    is_good.then_some(stored.paused).ok_or_else(foreign)
}

/// Renames an unreadable file, so that the next pause does not overwrite it.
fn put_aside(path: &Path, cause: &io::Error) -> String {
    let aside = path.with_extension("json.bad");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("it was renamed to {}", aside.display()),
        Err(cause) => format!("renaming it failed too: {cause}"),
    };
    format!("{} is unreadable, so nothing is paused: {cause}; {moved}", path.display())
}

fn write(folder: &Path, names: &BTreeSet<Box<str>>) -> io::Result<()> {
    let fresh = folder.join(format!("{FILE}.new"));
    let text = serde_json::to_string_pretty(&Stored { format: FORMAT, paused: names.clone() })?;
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let (pauses, wrong) = Pauses::read(folder);
        assert_eq!(wrong, None);
        pauses.names().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pauses_survive_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pauses, wrong) = Pauses::read(folder.path());
        assert_eq!(wrong, None, "a new spool has no file");
        pauses.add("b.test").expect("it is written");
        pauses.add(&Pauses::settled(" MX.A.test. ")).expect("it is written");
        assert_eq!(names(folder.path()), ["b.test", "mx.a.test"]);
        pauses.remove("b.test").expect("it is written");
        pauses.remove("never.test").expect("nothing is to do");
        assert_eq!(names(folder.path()), ["mx.a.test"]);
    }

    #[test]
    fn a_bad_file_is_put_aside() {
        let long = format!("{{\"format\":1,\"paused\":[\"{}\"]}}", "x".repeat(2000));
        for (what, held) in [
            ("nothing", ""),
            ("half", "{\"format\":1,\"paused\":[\"a.te"),
            ("other things", "{\"format\":1}"),
            ("a newer one", "{\"format\":2,\"paused\":[]}"),
            ("no text", "\u{fffd}\u{0}"),
            ("a long name", &long),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(FILE), held).expect("it is written");
            let (pauses, wrong) = Pauses::read(folder.path());
            let wrong = wrong.expect(what);
            assert!(wrong.contains("pauses.json.bad"), "{what}: {wrong}");
            assert!(pauses.names().is_empty(), "{what}");
            let kept = fs::read_to_string(folder.path().join("pauses.json.bad"));
            assert_eq!(kept.expect("it is kept"), held, "{what}");
            pauses.add("a.test").expect("it is written");
            assert_eq!(names(folder.path()), ["a.test"], "{what}");
        }
    }

    #[test]
    fn limits_and_failures_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pauses, _) = Pauses::read(folder.path());
        for name in ["", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(pauses.add(name), Err(PauseFault::Name)), "{name}");
        }
        *pauses.lock() = (0..PAUSES_MAX).map(|one| one.to_string().into()).collect();
        assert!(matches!(pauses.add("a.test"), Err(PauseFault::Full)));
        pauses.add("7").expect("it is there already");
        fs::create_dir(folder.path().join(format!("{FILE}.new"))).expect("in the way");
        assert!(matches!(pauses.remove("7"), Err(PauseFault::Unwritten(_))));
        assert!(!pauses.names().contains(&"7".into()), "it ends though it is not written");
    }
}
