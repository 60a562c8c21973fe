//! The mount that holds a folder: file system, options and device.

use std::path::Path;
use std::path::PathBuf;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::proc::text_of;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    /// The device number, as in `/sys/dev/block`: `259:1`.
    pub device: String,
}

/// The mount that contains `folder`: the one with the longest path, and of equal ones the last.
pub fn mount_of(root: &Path, folder: &Path) -> Option<Mount> {
    let text = text_of(root, "proc/self/mountinfo");
    let mounts = text.lines().filter_map(read).filter(|mount| folder.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.components().count())
}

/// proc_pid_mountinfo(5).
fn read(line: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let (device, _, point, own) = (before.next()?, before.next()?, before.next()?, before.next()?);
    let mut behind = behind.split(' ');
    let kind = behind.next()?.to_owned();
    let of_file_system = behind.nth(1).unwrap_or("");
    let options = own.split(',').chain(of_file_system.split(',')).map(str::to_owned).collect();
    Some(Mount { point: unescaped(point).into(), kind, options, device: device.to_owned() })
}

/// The kernel writes white space and backslashes in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, letter)| text.replace(octal, letter))
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }

    /// Judges the durability of the file system.
    pub fn judge_kind(&self) -> Finding {
        let Mount { point, kind, .. } = self;
        let seen = format!("{kind} at {}", point.display());
        let local = "put the spool on a local disk with ext4 or XFS";
        match kind.as_str() {
            "tmpfs" | "ramfs" | "devtmpfs" => check::FILE_SYSTEM.error(
                format!("{seen}: a file system in memory; a sync does not make data durable"),
                local,
            ),
            "overlay" | "aufs" | "fuse-overlayfs" => check::FILE_SYSTEM.warn(
                format!("{seen}: the spool is deleted with its container"),
                "mount a volume at the spool (`docker run -v`)",
            ),
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" | "glusterfs" => {
                check::FILE_SYSTEM
                    .warn(format!("{seen}: every fsync is a network round trip"), local)
            }
            kind if kind.starts_with("fuse") => check::FILE_SYSTEM.warn(
                format!("{seen}: a user-space program decides whether a sync is durable"),
                local,
            ),
            "btrfs" | "zfs" | "bcachefs" => check::FILE_SYSTEM.note(
                format!("{seen}: copy-on-write makes each sync slower"),
                "ext4 and XFS sync faster; compare with the check sync-latency",
            ),
            _ => check::FILE_SYSTEM.ok(seen),
        }
    }

    /// Judges the mount options.
    pub fn judge_options(&self) -> Finding {
        let lies = ["barrier=0", "nobarrier", "sync=disabled", "eatmydata"];
        if let Some(lie) = lies.iter().find(|option| self.has(option)) {
            return check::MOUNT.error(
                format!(
                    "{lie}: a sync does not reach the disk; a power failure loses accepted mail"
                ),
                "mount without this option, whatever the cache of the disk promises",
            );
        }
        if self.has("ro") {
            return check::MOUNT.error(
                "mounted read-only",
                "find the cause with `dmesg` and repair the file system",
            );
        }
        let risks = ["journal_async_commit", "data=writeback", "noload", "norecovery"];
        if let Some(risk) = risks.iter().find(|option| self.has(option)) {
            let remedy = "mount with the default options; this one gives no speed here";
            return check::MOUNT
                .warn(format!("{risk}: files may have stale content after a crash"), remedy);
        }
        if self.has("sync") || self.has("dirsync") {
            let remedy = "mount without this option; the server syncs whatever must be durable";
            return check::MOUNT.warn("sync: every write waits for the disk", remedy);
        }
        if self.has("discard") {
            return check::MOUNT.note(
                "discard: deleting files trims the disk and delays mail",
                "mount with `nodiscard` and run `systemctl enable --now fstrim.timer`",
            );
        }
        if !self.has("noatime") {
            return check::MOUNT.note(
                "noatime is not set: reading a file may write its access time",
                "add noatime to its line in /etc/fstab, then `mount -o remount,noatime`",
            );
        }
        check::MOUNT.ok("noatime; no option weakens syncs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;

    const MOUNTS: &str = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
30 22 0:30 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1g
31 22 259:3 /a /var/spool/with\\040blank rw,noatime - xfs /dev/nvme0n1p3 rw,attr2
32 22 8:1 / /var/spool/lies rw,noatime shared:2 - ext4 /dev/sda1 rw,nobarrier
";

    #[test]
    fn mounts_are_found_and_judged() {
        let root = tempfile::tempdir().expect("a folder for the test");
        let file = root.path().join("proc/self/mountinfo");
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("made");
        std::fs::write(file, MOUNTS).expect("written");
        let rows = [
            ("/var/lib/ringpost", "259:2", Level::Ok, Level::Note),
            ("/tmp/spool", "0:30", Level::Error, Level::Note),
            ("/tmpfoo", "259:2", Level::Ok, Level::Note),
            ("/var/spool/with blank/x", "259:3", Level::Ok, Level::Ok),
            ("/var/spool/lies", "8:1", Level::Ok, Level::Error),
        ];
        for (folder, device, kind, options) in rows {
            let mount = mount_of(root.path(), Path::new(folder)).expect("there is a root");
            assert_eq!(mount.device, device, "{folder}");
            assert_eq!(mount.judge_kind().level, kind, "{folder}");
            assert_eq!(mount.judge_options().level, options, "{folder}");
        }
    }

    #[test]
    fn options_are_judged() {
        for (options, level) in [
            ("rw,noatime", Level::Ok),
            ("rw,relatime", Level::Note),
            ("rw,noatime,barrier=0", Level::Error),
            ("rw,noatime,barrier=1", Level::Ok),
            ("ro,noatime", Level::Error),
            ("rw,noatime,data=writeback", Level::Warn),
            ("rw,noatime,data=ordered", Level::Ok),
            ("rw,noatime,sync", Level::Warn),
            ("rw,noatime,discard", Level::Note),
        ] {
            let line = format!("22 1 259:2 / / {options} - ext4 /dev/x rw");
            let mount = read(&line).expect("a line");
            assert_eq!(mount.judge_options().level, level, "{options}");
        }
    }
}
