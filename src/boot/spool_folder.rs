//! The spool's folder: created for the configured user, and checked before the server starts.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::boot::account::Account;
use crate::boot::privilege_fault::PrivilegeFault;
use crate::boot::privileges::runs_as_root;

const SPOOL_MODE: u32 = 0o700;

/// Creates a folder that only `account` may enter, or checks an existing one. As root it gives a new
/// or empty folder to the account. It never changes owners inside a folder: a previous owner may have
/// put a link to a foreign file there.
pub fn own_folder(path: &Path, account: Option<&Account>) -> Result<(), PrivilegeFault> {
    let no_folder = |cause| PrivilegeFault::NoFolder { path: path.to_owned(), cause };
    fs::DirBuilder::new().recursive(true).mode(SPOOL_MODE).create(path).map_err(no_folder)?;
    let (Some(account), true) = (account, runs_as_root()) else {
        return Ok(());
    };
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let folder = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let folder = folder.map_err(no_folder)?;
    let owner = folder.metadata().map_err(no_folder)?.uid();
    if owner == account.uid {
        return Ok(());
    }
    if fs::read_dir(path).map_err(no_folder)?.next().is_some() {
        let user = account.user.clone();
        return Err(PrivilegeFault::NotOwner { path: path.to_owned(), owner, user });
    }
    std::os::unix::fs::fchown(&folder, Some(account.uid), Some(account.gid)).map_err(no_folder)
}

/// Whether this process may create files in `path`. To be called after privileges are dropped.
pub fn check_writable(path: &Path, user: &str) -> Result<(), PrivilegeFault> {
    let Err(cause) = may(path, libc::W_OK | libc::X_OK) else {
        return Ok(());
    };
    // The outermost folder without search permission is the one to correct.
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let barrier = above
        .into_iter()
        .find(|folder| !folder.as_os_str().is_empty() && may(folder, libc::X_OK).is_err());
    Err(PrivilegeFault::NotWritable {
        path: path.to_owned(),
        barrier: barrier.unwrap_or(path).to_owned(),
        user: user.to_owned(),
        cause,
    })
}

fn may(path: &Path, mode: i32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a string that ends with a NUL and outlives the call.
    let failed = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Account {
        Account::find("nobody", None).expect("every machine has nobody")
    }

    #[test]
    fn folders_are_made_given_and_refused() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let spool = root.path().join("a/spool");
        own_folder(&spool, Some(&nobody())).expect("a new folder is made");
        own_folder(&spool, Some(&nobody())).expect("its own folder is taken");
        assert_eq!(fs::metadata(&spool).expect("it is there").mode() & 0o777, SPOOL_MODE);
        let file = root.path().join("file");
        fs::write(&file, "x").expect("written");
        assert!(matches!(own_folder(&file, None), Err(PrivilegeFault::NoFolder { .. })));
        if !runs_as_root() {
            return;
        }
        assert_eq!(fs::metadata(&spool).expect("it is there").uid(), nobody().uid);
        let foreign = own_folder(root.path(), Some(&nobody())).expect_err("it is root's and full");
        assert!(foreign.to_string().contains("chown -R nobody:"), "{foreign}");
        let link = root.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).expect("linked");
        assert!(matches!(own_folder(&link, Some(&nobody())), Err(PrivilegeFault::NoFolder { .. })));
    }
}
