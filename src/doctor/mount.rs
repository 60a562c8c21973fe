//! The mount that holds a folder: its file system, its options and its device.

use std::path::Path;
use std::path::PathBuf;

use crate::boot::proc::text_of;
use crate::doctor::finding::Finding;
use crate::doctor::knob;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
    /// Those of the mount and those of the file system.
    pub options: Vec<String>,
    /// `259:1`, which `/sys/dev/block` knows.
    pub device: String,
}

/// The mount that `folder` lies in: the longest that contains it, of those the last one made.
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

/// The kernel writes blanks and backslashes in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, letter)| text.replace(octal, letter))
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }

    /// What the file system promises at all.
    pub fn judge_kind(&self) -> Finding {
        let Mount { point, kind, .. } = self;
        let seen = format!("{kind} at {}", point.display());
        let local = "put the spool on a local disk with ext4 or XFS";
        match kind.as_str() {
            "tmpfs" | "ramfs" | "devtmpfs" => knob::FILE_SYSTEM
                .error(format!("{seen}: it is memory, and a sync there keeps nothing"), local),
            "overlay" | "aufs" | "fuse-overlayfs" => knob::FILE_SYSTEM.warn(
                format!("{seen}: the spool goes when its container does"),
                "mount a volume on the spool (`docker run -v`)",
            ),
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" | "glusterfs" => {
                knob::FILE_SYSTEM
                    .warn(format!("{seen}: each sync is a way to another machine"), local)
            }
            kind if kind.starts_with("fuse") => knob::FILE_SYSTEM
                .warn(format!("{seen}: whether a sync holds is up to a program"), local),
            "btrfs" | "zfs" | "bcachefs" => knob::FILE_SYSTEM.note(
                format!("{seen}: it writes all that it changes twice or anew"),
                "ext4 and XFS sync sooner; measure by sync-latency",
            ),
            _ => knob::FILE_SYSTEM.ok(seen),
        }
    }

    /// What the options take away from it.
    pub fn judge_options(&self) -> Finding {
        let lies = ["barrier=0", "nobarrier", "sync=disabled", "eatmydata"];
        if let Some(lie) = lies.iter().find(|option| self.has(option)) {
            return knob::MOUNT.error(
                format!("{lie}: a sync does not reach the disk, a power cut loses accepted mail"),
                "mount without it, whatever the disk's cache is said to be",
            );
        }
        if self.has("ro") {
            return knob::MOUNT.error("mounted read-only", "see `dmesg` for why, then repair it");
        }
        let risks = ["journal_async_commit", "data=writeback", "noload", "norecovery"];
        if let Some(risk) = risks.iter().find(|option| self.has(option)) {
            let remedy = "mount with the defaults; it gains nothing here";
            return knob::MOUNT.warn(format!("{risk}: old content may show after a crash"), remedy);
        }
        if self.has("sync") || self.has("dirsync") {
            let remedy = "mount without it; what must be on the disk is synced by the server";
            return knob::MOUNT.warn("sync: every write waits for the disk, not only ours", remedy);
        }
        if self.has("discard") {
            return knob::MOUNT.note(
                "discard: deletes trim the disk while mail waits for it",
                "`nodiscard` and `systemctl enable --now fstrim.timer`; compare sync-latency",
            );
        }
        if !self.has("noatime") {
            return knob::MOUNT.note(
                "without noatime some reads are writes",
                "add noatime to its line in /etc/fstab, then `mount -o remount,noatime`",
            );
        }
        knob::MOUNT.ok("noatime, and nothing that lies")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::doctor::finding::Level;

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
