//! Drops the privileges that the server no longer needs once its ports are bound.
//!
//! Order:    limits raised, ports bound and the spool's folder created as root; then `drop_to` (or
//!           `lock_down`, if not started as root); then threads. The functions refuse to run beside
//!           other threads: glibc applies a change of ids to all threads, but capabilities, the
//!           bounding set and `no_new_privs` belong to one thread and pass only to those it starts.
//! Promise:  afterwards no id of the process is root's, the process holds no capability, no program
//!           that it starts can gain one, and other processes of the same user can neither dump nor
//!           trace its memory (mail, passwords, TLS keys). The ids and capabilities are read back
//!           after a drop from root; if they differ from those requested, the server does not start.
//!           If `server.user` is not set, a server started as root stays root.
//! Kept:     no capability. CAP_NET_BIND_SERVICE is not needed any more: a reload binds no port,
//!           because changed listeners need a restart. CAP_SYS_NICE would help `set_mempolicy` in
//!           containers only, where a pinned thread gets memory of its node anyway. A raised memlock
//!           limit replaces CAP_IPC_LOCK.
//! Commands: a command that root runs on the spool of another user changes to that user before it
//!           opens anything in the spool (`act_as_owner`). So a link that the service's user left
//!           there, to a file that only root may read, is followed with that user's rights.
//! Costs:    an undumpable process cannot read its own `/proc/self/{fd,io,maps}`; `status`, `stat`
//!           and `statm` stay readable. The log file, certificates and the spool are opened as the
//!           configured user, at start and on reload, so that user must have access. There are no
//!           core dumps.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use caps::CapSet;
use caps::Capability;

use crate::boot::account::Account;
use crate::boot::privilege_fault::PrivilegeFault;

/// The group id of `nogroup`.
const NOGROUP: u32 = 65_534;

/// Whether the effective user is root.
pub fn runs_as_root() -> bool {
    // SAFETY: reads a number; it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// For a command that root runs: changes permanently to the owner of the spool at `path`, before
/// anything in it is opened. Does nothing if the caller is not root, if root owns the spool, or if
/// there is no spool.
pub fn act_as_owner(path: &Path) -> Result<(), PrivilegeFault> {
    if !runs_as_root() {
        return Ok(());
    }
    let no_folder = |cause| PrivilegeFault::NoFolder { path: path.to_owned(), cause };
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let folder = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(folder) => folder,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(no_folder(cause)),
    };
    let found = folder.metadata().map_err(no_folder)?;
    // Only the owner may read a spool, so any group will do that is not root's.
    let (uid, gid) = (found.uid(), if found.gid() == 0 { NOGROUP } else { found.gid() });
    if uid == 0 {
        return Ok(());
    }
    let refused = |step| PrivilegeFault::Refused { step, cause: io::Error::last_os_error() };
    // The user id goes last, because changing the groups needs root.
    // SAFETY: no group is read from the null pointer, since there are none; the others take numbers.
    unsafe {
        if libc::setgroups(0, std::ptr::null()) != 0 {
            return Err(refused("dropping root's groups (setgroups)"));
        }
        if libc::setresgid(gid, gid, gid) != 0 {
            return Err(refused("changing to the spool's group (setresgid)"));
        }
        if libc::setresuid(uid, uid, uid) != 0 {
            return Err(refused("changing to the spool's owner (setresuid)"));
        }
        if libc::setresuid(0, 0, 0) == 0 {
            return Err(PrivilegeFault::NotDropped {
                what: "the process can still become root".into(),
            });
        }
    }
    Ok(())
}

/// Changes permanently from root to `account`.
pub fn drop_to(account: &Account) -> Result<(), PrivilegeFault> {
    assert_ne!(account.uid, 0, "`Account::find` refuses root");
    check_single_thread()?;
    // First, because this needs CAP_SETPCAP, which is lost with the user id.
    clear_bounding()?;
    change_ids(account)?;
    lock_down()?;
    check_dropped(account)
}

/// Drops all capabilities, and forbids new ones and core dumps. All that a process needs that is not
/// root, and the last step of `drop_to`.
pub fn lock_down() -> Result<(), PrivilegeFault> {
    check_single_thread()?;
    if !runs_as_root() {
        clear_capabilities()?;
    }
    set_flag(libc::PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")?;
    set_flag(libc::PR_SET_DUMPABLE, 0, "disabling core dumps (PR_SET_DUMPABLE)")
}

fn check_single_thread() -> Result<(), PrivilegeFault> {
    match fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) => Ok(()),
        Ok(count) => Err(PrivilegeFault::ThreadsRun { count }),
        Err(cause) => Err(PrivilegeFault::Refused { step: "counting threads in /proc", cause }),
    }
}

fn change_ids(account: &Account) -> Result<(), PrivilegeFault> {
    let refused = |step| PrivilegeFault::Refused { step, cause: io::Error::last_os_error() };
    let user = CString::new(account.user.as_str()).expect("it was found by this name");
    let (uid, gid) = (account.uid, account.gid);
    // The user id goes last, because changing the groups needs root.
    // SAFETY: `user` ends with a NUL and outlives the call; the others take numbers.
    unsafe {
        if libc::initgroups(user.as_ptr(), gid) != 0 {
            return Err(refused("setting the groups of the user (initgroups)"));
        }
        if libc::setresgid(gid, gid, gid) != 0 {
            return Err(refused("changing the group id (setresgid)"));
        }
        if libc::setresuid(uid, uid, uid) != 0 {
            return Err(refused("changing the user id (setresuid)"));
        }
    }
    Ok(())
}

fn clear_bounding() -> Result<(), PrivilegeFault> {
    let step = "clearing the bounding set";
    // Without CAP_SETPCAP the set cannot be cleared. `no_new_privs` has the same effect.
    if !has(CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    for capability in caps::runtime::thread_all_supported() {
        if has(CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability).map_err(|f| capabilities(step, f))?;
        }
    }
    Ok(())
}

/// A service manager may have given an ordinary user the capability to bind low ports.
fn clear_capabilities() -> Result<(), PrivilegeFault> {
    let clear = |set, step| caps::clear(None, set).map_err(|fault| capabilities(step, fault));
    // The ambient set is part of the others, and the effective one of the permitted: in this
    // order each call leaves a state that the kernel accepts.
    if caps::runtime::ambient_set_supported().is_ok() {
        clear(CapSet::Ambient, "clearing the ambient set")?;
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        clear(set, "clearing the sets of the process")?;
    }
    Ok(())
}

fn has(set: CapSet, capability: Capability) -> Result<bool, PrivilegeFault> {
    caps::has_cap(None, set, capability).map_err(|fault| capabilities("reading", fault))
}

fn capabilities(step: &'static str, fault: caps::errors::CapsError) -> PrivilegeFault {
    PrivilegeFault::Capabilities { step, cause: fault.to_string() }
}

fn set_flag(option: i32, value: libc::c_ulong, step: &'static str) -> Result<(), PrivilegeFault> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers only, and change nothing but this process.
    if unsafe { libc::prctl(option, value, zero, zero, zero) } == 0 {
        return Ok(());
    }
    Err(PrivilegeFault::Refused { step, cause: io::Error::last_os_error() })
}

/// Reads the ids and capabilities back: a setuid that fails silently is a known way to exploits.
fn check_dropped(account: &Account) -> Result<(), PrivilegeFault> {
    let not_dropped = |what: String| Err(PrivilegeFault::NotDropped { what });
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    // SAFETY: six places for numbers that outlive the calls.
    unsafe {
        let [real, effective, saved] = &mut uids;
        libc::getresuid(real, effective, saved);
        let [real, effective, saved] = &mut gids;
        libc::getresgid(real, effective, saved);
    }
    if uids != [account.uid; 3] || gids != [account.gid; 3] {
        return not_dropped(format!("the ids are {uids:?} and {gids:?}"));
    }
    // SAFETY: takes a number. If the call succeeds, the next line aborts the start.
    if unsafe { libc::setresuid(0, 0, 0) } == 0 {
        return not_dropped("the process can still become root".to_owned());
    }
    let held = caps::read(None, CapSet::Permitted).map_err(|f| capabilities("reading", f))?;
    if held.is_empty() { Ok(()) } else { not_dropped(format!("the process holds {held:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    use crate::boot::alone;
    use crate::boot::spool_folder::check_writable;
    use crate::boot::spool_folder::own_folder;

    fn nobody() -> Account {
        Account::find("nobody", None).expect("every machine has nobody")
    }

    #[test]
    fn rights_are_not_dropped_beside_other_threads() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let fault = lock_down().expect_err("another thread runs");
        assert!(matches!(fault, PrivilegeFault::ThreadsRun { count: 2.. }), "{fault}");
        drop(done);
        assert!(other.join().expect("it ended").is_err());
    }

    fn status_of(text: &str, key: &str) -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{key} in {text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Drops in a process of its own and prints what the kernel then says about it.
    #[test]
    fn root_drops_everything() {
        let name = "boot::privileges::tests::root_drops_everything";
        if !runs_as_root() {
            println!("{name}: only root has something to drop; not tested");
            return;
        }
        let out = alone::run(name, || {
            let root = tempfile::tempdir().expect("a folder for the test");
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("opened");
            let (own, shut) = (root.path().join("own"), root.path().join("shut"));
            own_folder(&own, Some(&nobody())).expect("it is made");
            fs::create_dir_all(shut.join("inner")).expect("made");
            fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).expect("shut");
            drop_to(&nobody()).expect("root may drop");
            check_writable(&own, "nobody").expect("it owns this");
            let fault = check_writable(&shut.join("inner"), "nobody").expect_err("it is shut");
            let PrivilegeFault::NotWritable { barrier, .. } = fault else {
                panic!("{fault}");
            };
            assert_eq!(barrier, shut);
            println!("{}", fs::read_to_string("/proc/self/status").expect("readable"));
            println!("Task: {}", std::thread::spawn(runs_as_root).join().expect("it ran"));
            // The folder is root's; a former root cannot remove it, the parent's test run can.
            println!("Left: {}", root.keep().display());
        });
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        fs::remove_dir_all(status_of(&text, "Left:")).expect("root may remove it");
        let (uid, gid) = (nobody().uid, nobody().gid);
        let rows = [
            ("Uid:", format!("{uid} {uid} {uid} {uid}")),
            ("Gid:", format!("{gid} {gid} {gid} {gid}")),
            ("Groups:", gid.to_string()),
            ("CapPrm:", "0000000000000000".to_owned()),
            ("CapEff:", "0000000000000000".to_owned()),
            ("CapInh:", "0000000000000000".to_owned()),
            ("CapAmb:", "0000000000000000".to_owned()),
            ("CapBnd:", "0000000000000000".to_owned()),
            ("NoNewPrivs:", "1".to_owned()),
            ("CoreDumping:", "0".to_owned()),
            ("Task:", "false".to_owned()),
        ];
        for (key, value) in rows {
            assert_eq!(status_of(&text, key), value, "{key}");
        }
    }
}
