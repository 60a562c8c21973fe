//! Disks that fail on purpose: a small tmpfs, and an ext4 whose power can be cut.
//!
//! ```text
//! ext4 -> loop -> nbdfuse (a file that is a block device) -> nbdkit -> filter -> backing file
//! ```
//! nbdkit's `cache` filter keeps every write to itself until the file system says flush. `kill -9`
//! of nbdkit is the power cut: what was not flushed is gone, in whatever state that leaves the rest.
//! Its `error` filter fails writes while a trigger file exists.
//!
//! Promise:  whatever the test does, mounts and processes are gone when the value is dropped.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a disk may take to come and go.
const PATIENCE: Duration = Duration::from_secs(20);

const NO_WORDS: [&str; 0] = [];

/// A tmpfs that is unmounted when dropped.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, and a line that says why, where it cannot be mounted.
    pub fn mount(options: &str) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let mounted = run("mount", ["-t", "tmpfs", "-o", options, "tmpfs"], folder.path());
        match mounted {
            Ok(()) => Some(SmallDisk { folder }),
            Err(why) => {
                println!("SKIPPED: a tmpfs cannot be mounted: {why}");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that stays behind is a nuisance, not a failed test.
        let _ = run("umount", ["-l"], self.path());
    }
}

/// What nbdkit does with the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Keeps them until a flush.
    Cache,
    /// Fails them with EIO while the trigger is there.
    Error,
}

/// An ext4 on a disk that can fail. Off when made.
pub struct FailingDisk {
    folder: tempfile::TempDir,
    filter: Filter,
    nbdkit: Option<Child>,
    nbdfuse: Option<Child>,
}

impl FailingDisk {
    /// A disk with an empty file system. `None`, and a line that says why, where that cannot be.
    pub fn new(filter: Filter) -> Option<FailingDisk> {
        match FailingDisk::try_new(filter) {
            Ok(disk) => Some(disk),
            Err(why) => {
                println!("SKIPPED: no disk that can fail: {why}");
                None
            }
        }
    }

    fn try_new(filter: Filter) -> Result<FailingDisk, String> {
        let folder = tempfile::tempdir().map_err(|cause| cause.to_string())?;
        let mut disk = FailingDisk { folder, filter, nbdkit: None, nbdfuse: None };
        let at = |cause: std::io::Error| cause.to_string();
        fs::create_dir(disk.mount_point()).map_err(at)?;
        File::create(disk.device()).map_err(at)?;
        let image = File::create(disk.image()).map_err(at)?;
        image.set_len(512 << 20).map_err(at)?;
        run("mkfs.ext4", ["-q", "-F"], &disk.image())?;
        disk.try_power_on()?;
        disk.power_off()?;
        Ok(disk)
    }

    /// Where the file system is when the power is on.
    pub fn mount_point(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn device(&self) -> PathBuf {
        self.folder.path().join("device")
    }

    fn trigger(&self) -> PathBuf {
        self.folder.path().join("trigger")
    }

    /// Starts the disk and mounts it; the journal is replayed.
    #[track_caller]
    pub fn power_on(&mut self) {
        self.try_power_on().unwrap_or_else(|why| panic!("the disk does not come back: {why}"));
    }

    fn try_power_on(&mut self) -> Result<(), String> {
        let socket = self.folder.path().join("socket");
        // One that a cut left behind; none is there at first.
        let _ = fs::remove_file(&socket);
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.arg("-f").arg("-U").arg(&socket);
        // The cache lies in a file of its own, unlinked, beside ours.
        nbdkit.env("TMPDIR", self.folder.path());
        match self.filter {
            Filter::Cache => nbdkit.args(["--filter=cache", "file"]),
            Filter::Error => nbdkit.args(["--filter=error", "file"]),
        };
        nbdkit.arg(joined("file=", &self.image()));
        match self.filter {
            Filter::Cache => nbdkit.arg("cache=writeback"),
            Filter::Error => nbdkit
                .args(["error=EIO", "error-pwrite-rate=100%"])
                .arg(joined("error-pwrite-file=", &self.trigger())),
        };
        self.nbdkit = Some(quiet(nbdkit).map_err(|cause| format!("nbdkit: {cause}"))?);
        await_that("nbdkit listens", || socket.exists())?;
        let device = self.device();
        await_that("nbdfuse serves the device", || {
            // It ends when it comes between nbdkit's bind and its listen.
            if self.nbdfuse.as_mut().is_none_or(|running| !matches!(running.try_wait(), Ok(None))) {
                let mut nbdfuse = Command::new("nbdfuse");
                nbdfuse.arg(&device).arg(joined("nbd+unix:///?socket=", &socket));
                self.nbdfuse = quiet(nbdfuse).ok();
            }
            fs::metadata(&device).is_ok_and(|found| found.len() > 0)
        })?;
        let device = device.as_os_str();
        // Without `noatime` who connects to a socket there may wait for a disk that hangs.
        let options = OsStr::new("loop,noatime");
        run("mount", [OsStr::new("-o"), options, device], &self.mount_point())
    }

    /// The power fails: what was not flushed is gone.
    pub fn cut(&mut self) {
        assert_eq!(self.filter, Filter::Cache, "only the cache forgets");
        end(&mut self.nbdkit);
    }

    /// Takes away what a cut or a failure left, once nobody has a file open there.
    pub fn clear_away(&mut self) {
        let gone = run("umount", NO_WORDS, &self.mount_point());
        gone.unwrap_or_else(|why| panic!("the dead disk stays mounted: {why}"));
        self.end_device();
        end(&mut self.nbdkit);
    }

    /// Unmounts and ends in good order.
    pub fn power_off(&mut self) -> Result<(), String> {
        run("umount", NO_WORDS, &self.mount_point())?;
        self.end_device();
        end(&mut self.nbdkit);
        Ok(())
    }

    /// From now on every write fails, or none does.
    pub fn fail_writes(&self, failing: bool) {
        assert_eq!(self.filter, Filter::Error, "only that filter fails writes");
        if failing {
            File::create(self.trigger()).expect("the folder is writable");
        } else {
            fs::remove_file(self.trigger()).expect("it was there");
        }
    }

    /// From now on the disk answers nothing, or goes on where it stood still.
    pub fn hang(&self, hanging: bool) {
        let pid = self.nbdkit.as_ref().expect("the power is on").id().to_string();
        let signal = if hanging { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.expect("kill(1) exists").success());
    }

    fn end_device(&mut self) {
        // Where nbdfuse is dead already there is nothing to unmount.
        let _ = run("umount", ["-l"], &self.device());
        end(&mut self.nbdfuse);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Not mounted, most often; and a mount that stays behind is no failed test.
        let _ = run("umount", ["-l"], &self.mount_point());
        self.end_device();
        end(&mut self.nbdkit);
    }
}

fn quiet(mut command: Command) -> std::io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// kill -9, and nothing of it is left.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn joined(word: &str, path: &Path) -> std::ffi::OsString {
    let mut joined = std::ffi::OsString::from(word);
    joined.push(path);
    joined
}

fn run<A: AsRef<OsStr>>(
    program: &str,
    words: impl IntoIterator<Item = A>,
    path: &Path,
) -> Result<(), String> {
    let paths = ["/usr/local/sbin", "/usr/sbin", "/sbin"].join(":");
    let found = std::env::var("PATH").unwrap_or_default();
    let done = Command::new(program)
        .env("PATH", format!("{found}:{paths}"))
        .args(words)
        .arg(path)
        .output()
        .map_err(|cause| format!("{program}: {cause}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return Err(format!("waited in vain: {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
