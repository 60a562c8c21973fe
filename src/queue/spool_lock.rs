//! The lock of a spool: one process serves it at a time.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::queue::fault::SpoolFault;
use crate::queue::store::folder::make_folder;

const LOCK: &str = "lock";

/// Creates the folder if there is none, and takes the lock.
pub(in crate::queue) fn claim(path: &Path) -> Result<File, SpoolFault> {
    if !path.exists() {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|cause| SpoolFault::io(parent, cause))?;
        }
        make_folder(path)?;
    }
    let mode =
        fs::metadata(path).map_err(|cause| SpoolFault::io(path, cause))?.permissions().mode()
            & 0o7777;
    if mode & 0o022 != 0 {
        return Err(SpoolFault::Writable { path: path.into(), mode });
    }
    lock(path)
}

fn lock(path: &Path) -> Result<File, SpoolFault> {
    let lock_path = path.join(LOCK);
    let at = |cause| SpoolFault::io(&lock_path, cause);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(at)?;
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::Error(cause)) => return Err(at(cause)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The pid is for the error text only; a failure is harmless.
            let _ = file.read_to_string(&mut text);
            return Err(SpoolFault::Locked { path: path.into(), pid: text.trim().parse().ok() });
        }
    }
    file.set_len(0).map_err(at)?;
    file.rewind().map_err(at)?;
    match writeln!(file, "{}", std::process::id()) {
        // The lock is held. A full disk must not prevent a start that can free space.
        Err(cause) if cause.kind() == std::io::ErrorKind::StorageFull => Ok(file),
        written => written.map(|()| file).map_err(at),
    }
}
