//! The folder of the spool: who owns it, what it lies on, what is left there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::boot::account::Account;
use crate::config::Config;
use crate::doctor::device;
use crate::doctor::finding::Finding;
use crate::doctor::knob;
use crate::doctor::mount::mount_of;
use crate::doctor::subject::Subject;
use crate::queue::Space;
use crate::queue::partition::QUARANTINE;
use crate::queue::quarantine;
use crate::queue::space;

/// Permissions of group and others.
const FOREIGN_BITS: u32 = 0o077;
/// Free space is noted below this many times of what must stay free.
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
            findings.push(knob::SPACE.error(seen, "see `df`"));
        }
    }
    match mount_of(root, &there) {
        Some(mount) => {
            findings.extend([mount.judge_kind(), mount.judge_options()]);
            findings.extend(device::judge(root, &mount.device));
        }
        None => {
            let seen = format!("the mount of {} is not to be seen", there.display());
            findings.push(knob::FILE_SYSTEM.note(seen, "look at `findmnt -T` of the spool"));
        }
    }
    findings
}

fn judge_owner(config: &Config, spool: &Path) -> Finding {
    let shown = spool.display();
    let found = match fs::metadata(spool) {
        Ok(found) => found,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return knob::SPOOL.ok(format!("{shown} is not there yet and will be made"));
        }
        Err(cause) => {
            let remedy = "ask as the user of the server, or as root";
            return knob::SPOOL.note(format!("{shown}: {cause}"), remedy);
        }
    };
    if !found.is_dir() {
        return knob::SPOOL.error(format!("{shown} is no folder"), "name another in server.spool");
    }
    let server = &config.server;
    let user = server.user.as_ref().map(|user| Account::find(user, server.group.as_deref()));
    match user {
        Some(Err(fault)) => {
            return knob::SPOOL.error(fault.to_string(), "mend server.user and server.group");
        }
        Some(Ok(account)) if account.uid != found.uid() => {
            let remedy = "a start as root gives it to the user; else `chown -R`";
            let (user, uid) = (account.user, found.uid());
            return knob::SPOOL.warn(format!("{shown} belongs to {uid}, not to {user}"), remedy);
        }
        _ => {}
    }
    let mode = found.mode() & 0o7777;
    if mode & FOREIGN_BITS != 0 {
        let remedy = format!("`chmod 700 {shown}`");
        return knob::SPOOL.warn(format!("others may look into {shown} (mode {mode:o})"), remedy);
    }
    knob::SPOOL.ok(format!("{shown}, owner {}, mode {mode:o}", found.uid()))
}

fn judge_quarantine(spool: &Path) -> Finding {
    let folder = spool.join(QUARANTINE);
    match quarantine::count(&folder) {
        Ok(0) => knob::QUARANTINE.ok("empty".to_owned()),
        Ok(count) => knob::QUARANTINE.error(
            format!("{count} unreadable records or folders in {}", folder.display()),
            "read the `.why` files and the log; remove each item when resolved",
        ),
        Err(cause) => {
            let remedy = "ask as the user of the server, or as root";
            knob::QUARANTINE.note(format!("{}: {cause}", folder.display()), remedy)
        }
    }
}

fn judge_space(config: &Config, space: Space) -> Finding {
    let Space { free_bytes, free_inodes } = space;
    let floor = (config.queue.min_free_space, config.queue.min_free_inodes as u64);
    let inodes = match free_inodes {
        u64::MAX => "inodes without end".to_owned(),
        count => format!("{count} inodes"),
    };
    let seen = format!("{} MiB and {inodes}", free_bytes >> 20);
    let remedy = "make room, or move the spool to a larger disk";
    if free_bytes < floor.0 || free_inodes < floor.1 {
        let seen = format!("{seen}: less than queue.min_free_space or min_free_inodes");
        return knob::SPACE.error(seen, remedy);
    }
    if free_bytes < floor.0.saturating_mul(SPACE_TIMES) || free_inodes < floor.1 * SPACE_TIMES {
        return knob::SPACE.warn(format!("{seen}: mail is soon refused"), remedy);
    }
    knob::SPACE.ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    use crate::config::HostFacts;
    use crate::config::embedded;
    use crate::doctor::finding::Level;
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
