//! The spool's folder: owner, quarantine, free space, file system and disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::boot::account::Account;
use crate::boot::check;
use crate::boot::check::Finding;
use crate::config::Config;
use crate::doctor::device;
use crate::doctor::mount::mount_of;
use crate::doctor::subject::Subject;
use crate::queue::Space;
use crate::queue::space;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::QUARANTINE;

/// The permissions of group and others.
const FOREIGN_BITS: u32 = 0o077;
/// Free space below this multiple of the configured minimum is a warning.
const SPACE_TIMES: u64 = 4;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let Subject { root, config, .. } = subject;
    let spool = &config.server.spool;
    let there = subject.nearest_to_spool();
    let mut findings = vec![judge_owner(config, spool), judge_quarantine(spool)];
    match space(&there) {
        Ok(space) => findings.push(judge_space(config, space)),
        Err(cause) => {
            let seen = format!("{}: {cause}", there.display());
            findings.push(check::SPACE.error(seen, "see `df`"));
        }
    }
    match mount_of(root, &there) {
        Some(mount) => {
            findings.extend([mount.judge_kind(), mount.judge_options()]);
            findings.extend(device::judge(root, &mount.device));
        }
        None => {
            let seen = format!("the mount of {} was not found", there.display());
            findings.push(
                check::FILE_SYSTEM.note(seen, "check `findmnt -T` with the path of the spool"),
            );
        }
    }
    findings
}

fn judge_owner(config: &Config, spool: &Path) -> Finding {
    let shown = spool.display();
    let found = match fs::metadata(spool) {
        Ok(found) => found,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return check::SPOOL.ok(format!("{shown} does not exist yet and will be created"));
        }
        Err(cause) => {
            let remedy = "run the doctor as the user of the server, or as root";
            return check::SPOOL.note(format!("{shown}: {cause}"), remedy);
        }
    };
    if !found.is_dir() {
        return check::SPOOL.error(format!("{shown} is not a folder"), "correct server.spool");
    }
    let server = &config.server;
    let user = server.user.as_ref().map(|user| Account::find(user, server.group.as_deref()));
    match user {
        Some(Err(fault)) => {
            return check::SPOOL.error(fault.to_string(), "correct server.user and server.group");
        }
        Some(Ok(account)) if account.uid != found.uid() => {
            let remedy = "start the server as root, which changes the owner of an empty folder, or use `chown -R`";
            let (user, uid) = (account.user, found.uid());
            return check::SPOOL
                .warn(format!("{shown} belongs to user id {uid}, not to {user}"), remedy);
        }
        _ => {}
    }
    let mode = found.mode() & 0o7777;
    if mode & FOREIGN_BITS != 0 {
        let remedy = format!("`chmod 700 {shown}`");
        return check::SPOOL.warn(format!("other users can read {shown} (mode {mode:o})"), remedy);
    }
    check::SPOOL.ok(format!("{shown}, owner {}, mode {mode:o}", found.uid()))
}

fn judge_quarantine(spool: &Path) -> Finding {
    let folder = spool.join(QUARANTINE);
    match quarantine::count(&folder) {
        Ok(0) => check::QUARANTINE.ok("empty".to_owned()),
        Ok(count) => check::QUARANTINE.error(
            format!("{count} unreadable records or folders in {}", folder.display()),
            "read the `.why` files and the log; delete each item once resolved",
        ),
        Err(cause) => {
            let remedy = "run the doctor as the user of the server, or as root";
            check::QUARANTINE.note(format!("{}: {cause}", folder.display()), remedy)
        }
    }
}

fn judge_space(config: &Config, space: Space) -> Finding {
    let Space { free_bytes, free_inodes } = space;
    let floor = (config.queue.min_free_space, config.queue.min_free_inodes as u64);
    let inodes = match free_inodes {
        u64::MAX => "unlimited inodes".to_owned(),
        count => format!("{count} inodes"),
    };
    let seen = format!("{} MiB and {inodes} free", free_bytes >> 20);
    let remedy = "free space, or move the spool to a larger disk";
    if free_bytes < floor.0 || free_inodes < floor.1 {
        let seen = format!("{seen}: below queue.min_free_space or queue.min_free_inodes");
        return check::SPACE.error(seen, remedy);
    }
    if free_bytes < floor.0.saturating_mul(SPACE_TIMES) || free_inodes < floor.1 * SPACE_TIMES {
        return check::SPACE.warn(format!("{seen}: new mail will soon be refused"), remedy);
    }
    check::SPACE.ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    use crate::boot::check::Level;
    use crate::config::HostFacts;
    use crate::config::embedded;
    use crate::doctor::subject::nearest;

    #[test]
    fn spools_are_judged() {
        let config = embedded(&HostFacts {
            hostname: "mx.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        });
        let folder = tempfile::tempdir().expect("a folder for the test");
        let spool = folder.path().join("spool");
        assert_eq!(judge_owner(&config, &spool).level, Level::Ok, "to be made");
        assert_eq!(nearest(&spool), fs::canonicalize(folder.path()).expect("it is there"));
        fs::create_dir(&spool).expect("made");
        assert_eq!(judge_quarantine(&spool).level, Level::Ok, "none yet");
        fs::create_dir(spool.join(QUARANTINE)).expect("made");
        assert_eq!(judge_quarantine(&spool).level, Level::Ok, "empty");
        fs::write(spool.join(QUARANTINE).join("p00-job-00.rec"), "x").expect("written");
        assert_eq!(judge_quarantine(&spool).level, Level::Error);
        for (mode, level) in [(0o700, Level::Ok), (0o750, Level::Warn)] {
            fs::set_permissions(&spool, fs::Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(judge_owner(&config, &spool).level, level, "{mode:o}");
        }
        let mut foreign = config.clone();
        foreign.server.user = Some("nobody-of-that-name".to_owned());
        assert_eq!(judge_owner(&foreign, &spool).level, Level::Error, "no such user");
        fs::write(folder.path().join("file"), "").expect("written");
        assert_eq!(judge_owner(&config, &folder.path().join("file")).level, Level::Error);
    }

    #[test]
    fn space_is_judged() {
        let config = embedded(&HostFacts {
            hostname: "mx.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        });
        let bytes = config.queue.min_free_space;
        for (free_bytes, free_inodes, level) in [
            (bytes * 10, u64::MAX, Level::Ok),
            (bytes * 2, u64::MAX, Level::Warn),
            (bytes - 1, u64::MAX, Level::Error),
            (bytes * 10, 999, Level::Error),
            (bytes * 10, 2000, Level::Warn),
        ] {
            let found = judge_space(&config, Space { free_bytes, free_inodes });
            assert_eq!(found.level, level, "{found:?}");
        }
    }
}
