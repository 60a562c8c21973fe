//! Disks that fail on purpose: a small tmpfs, and an ext4 whose power can be cut.
//!
//! ```text
//! ext4 -> loop -> nbdfuse (a file that is a block device) -> nbdkit -> filter -> backing file
//! ```
//! nbdkit's `cache` filter holds every write until the file system flushes. `kill -9` of nbdkit is
//! the power cut: all writes since the last flush are lost. Its `error` filter fails writes while a
//! trigger file exists.
//!
//! Promise:  all mounts and processes are removed when the value is dropped.

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

/// Time limit for starting and stopping a disk.
const PATIENCE: Duration = Duration::from_secs(20);

const NO_WORDS: [&str; 0] = [];

/// A tmpfs, unmounted when dropped.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a message that says why, if it cannot be mounted.
    pub fn mount(options: &str) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a temporary folder");
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
        // A mount that cannot be removed does not fail the test.
        let _ = run("umount", ["-l"], self.path());
    }
}

/// The nbdkit filter for writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Holds them until a flush.
    Cache,
    /// Fails them with EIO while the trigger file exists.
    Error,
}

/// An ext4 on a disk that can fail. New disks are off.
pub struct FailingDisk {
    folder: tempfile::TempDir,
    filter: Filter,
    nbdkit: Option<Child>,
    nbdfuse: Option<Child>,
}

impl FailingDisk {
    /// A disk with an empty file system. `None`, with a message that says why, if that is not
    /// possible.
    pub fn new(filter: Filter) -> Option<FailingDisk> {
        match FailingDisk::try_new(filter) {
            Ok(disk) => Some(disk),
            Err(why) => {
                println!("SKIPPED: the failing disk cannot be set up: {why}");
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

    /// The mount point while the power is on.
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

    /// Starts the disk and mounts it, which replays the journal.
    #[track_caller]
    pub fn power_on(&mut self) {
        self.try_power_on().unwrap_or_else(|why| panic!("the disk does not start again: {why}"));
    }

    fn try_power_on(&mut self) -> Result<(), String> {
        let socket = self.folder.path().join("socket");
        // Left behind by a power cut; absent at the first start.
        let _ = fs::remove_file(&socket);
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.arg("-f").arg("-U").arg(&socket);
        // The cache is an unlinked file in the same folder.
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
            // nbdfuse exits if it starts between nbdkit's bind and its listen.
            if self.nbdfuse.as_mut().is_none_or(|running| !matches!(running.try_wait(), Ok(None))) {
                let mut nbdfuse = Command::new("nbdfuse");
                nbdfuse.arg(&device).arg(joined("nbd+unix:///?socket=", &socket));
                self.nbdfuse = quiet(nbdfuse).ok();
            }
            fs::metadata(&device).is_ok_and(|found| found.len() > 0)
        })?;
        let device = device.as_os_str();
        // Without `noatime` connecting to a Unix socket on the disk may wait for a hung disk.
        let options = OsStr::new("loop,noatime");
        run("mount", [OsStr::new("-o"), options, device], &self.mount_point())
    }

    /// Cuts the power: all writes since the last flush are lost.
    pub fn cut(&mut self) {
        assert_eq!(self.filter, Filter::Cache, "only the cache filter loses writes");
        end(&mut self.nbdkit);
    }

    /// Removes the mounts left by a cut or a failure, once no process has a file open there.
    pub fn clear_away(&mut self) {
        let gone = run("umount", NO_WORDS, &self.mount_point());
        gone.unwrap_or_else(|why| panic!("the dead disk stays mounted: {why}"));
        self.end_device();
        end(&mut self.nbdkit);
    }

    /// Unmounts and stops the disk.
    pub fn power_off(&mut self) -> Result<(), String> {
        run("umount", NO_WORDS, &self.mount_point())?;
        self.end_device();
        end(&mut self.nbdkit);
        Ok(())
    }

    /// Makes every write fail, or stops that.
    pub fn fail_writes(&self, failing: bool) {
        assert_eq!(self.filter, Filter::Error, "only the error filter fails writes");
        if failing {
            File::create(self.trigger()).expect("the folder is writable");
        } else {
            fs::remove_file(self.trigger()).expect("the trigger file exists");
        }
    }

    /// Stops the disk from answering, or lets it continue.
    pub fn hang(&self, hanging: bool) {
        let pid = self.nbdkit.as_ref().expect("the power is on").id().to_string();
        let signal = if hanging { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.expect("kill(1) exists").success());
    }

    fn end_device(&mut self) {
        // If nbdfuse has died there is nothing to unmount.
        let _ = run("umount", ["-l"], &self.device());
        end(&mut self.nbdfuse);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Usually not mounted; a mount that cannot be removed does not fail the test.
        let _ = run("umount", ["-l"], &self.mount_point());
        self.end_device();
        end(&mut self.nbdkit);
    }
}

fn quiet(mut command: Command) -> std::io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Kills the process and waits for its end.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended already.
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
            return Err(format!("timed out waiting until {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
