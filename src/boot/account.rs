//! Users and groups of this machine, by name.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;

use crate::boot::privilege_fault::PrivilegeFault;

/// Largest buffer for one entry of `getpwnam_r`, as in glibc's own callers.
const ACCOUNT_BYTES_MAX: usize = 1 << 20;

/// A user of this machine that the server can run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account of `user`, with `group` instead of its primary group if given.
    pub fn find(user: &str, group: Option<&str>) -> Result<Account, PrivilegeFault> {
        let (uid, gid) = find_user(user)?;
        let gid = group.map_or(Ok(gid), find_group)?;
        if uid == 0 {
            return Err(PrivilegeFault::IsRoot { user: user.to_owned() });
        }
        Ok(Account { user: user.to_owned(), uid, gid })
    }
}

fn find_user(user: &str) -> Result<(u32, u32), PrivilegeFault> {
    let found = look_up(user, |name, buffer| {
        // SAFETY: a `passwd` is numbers and pointers, for which all zeroes is a value. The buffer
        // and the places for the answer outlive the call; the pointers are not followed later.
        unsafe {
            let mut entry: libc::passwd = std::mem::zeroed();
            let mut found = std::ptr::null_mut();
            let at = buffer.as_mut_ptr().cast();
            let errno = libc::getpwnam_r(name.as_ptr(), &mut entry, at, buffer.len(), &mut found);
            (errno, (!found.is_null()).then_some((entry.pw_uid, entry.pw_gid)))
        }
    })?;
    found.ok_or_else(|| PrivilegeFault::NoSuchUser { user: user.to_owned() })
}

fn find_group(group: &str) -> Result<u32, PrivilegeFault> {
    let found = look_up(group, |name, buffer| {
        // SAFETY: as in `find_user`.
        unsafe {
            let mut entry: libc::group = std::mem::zeroed();
            let mut found = std::ptr::null_mut();
            let at = buffer.as_mut_ptr().cast();
            let errno = libc::getgrnam_r(name.as_ptr(), &mut entry, at, buffer.len(), &mut found);
            (errno, (!found.is_null()).then_some(entry.gr_gid))
        }
    })?;
    found.ok_or_else(|| PrivilegeFault::NoSuchGroup { group: group.to_owned() })
}

/// Calls `ask` with a growing buffer until the entry fits into it.
fn look_up<T>(
    name: &str,
    mut ask: impl FnMut(&CStr, &mut [u8]) -> (i32, Option<T>),
) -> Result<Option<T>, PrivilegeFault> {
    let Ok(c_name) = CString::new(name) else {
        return Ok(None);
    };
    let mut buffer = vec![0; 4096];
    loop {
        match ask(&c_name, &mut buffer) {
            (libc::ERANGE, _) if buffer.len() < ACCOUNT_BYTES_MAX => {
                buffer.resize(buffer.len() * 4, 0);
            }
            (libc::EINTR, _) => {}
            // Several name services answer with these for "not found".
            (0 | libc::ENOENT | libc::ESRCH, found) => return Ok(found),
            (errno, _) => {
                let cause = io::Error::from_raw_os_error(errno);
                return Err(PrivilegeFault::AccountUnreadable { name: name.to_owned(), cause });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Account {
        Account::find("nobody", None).expect("every machine has nobody")
    }

    #[test]
    fn accounts_are_found_or_named() {
        assert!(nobody().uid > 0);
        let rows = [
            ("no user", Account::find("no-such-user", None), "there is no user `no-such-user`"),
            ("no group", Account::find("nobody", Some("no-such-group")), "there is no group"),
            ("root", Account::find("root", None), "`root` has the user id of root"),
            ("a NUL", Account::find("no\0body", None), "there is no user"),
        ];
        for (row, found, text) in rows {
            let fault = found.expect_err(row).to_string();
            assert!(fault.starts_with(text), "{row}: {fault}");
        }
        let daemon = Account::find("nobody", Some("daemon")).expect("every machine has daemon");
        assert_ne!(daemon.gid, nobody().gid);
    }
}
