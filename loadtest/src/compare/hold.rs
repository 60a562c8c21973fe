//! `ringpost-load hold`: the process in whose care a server runs, so that none of its processes is ever
//! lost sight of.
//!
//! Promise:  whatever the server starts stays below this process: an orphan becomes its child, and is
//!           reaped by it. So what the tree costs is counted to the last process, also of servers
//!           that start one for each message.
//! End:      when the standard input is closed, which the end of the caller does as well, whatever
//!           that end was: all are told to end, and killed after `GRACE`. Then the folder is removed.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitOptions;

use crate::compare::tree;

/// How long the server may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// What to run, and what is to go with it.
#[derive(Args, Debug)]
pub struct Hold {
    /// Remove this folder at the end.
    #[arg(long, value_name = "FOLDER")]
    remove: PathBuf,
    /// What to run there; nothing: only the folder is held.
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

/// A folder, and what runs in it, until this is dropped or the process ends.
pub struct Held {
    child: Child,
    pub folder: PathBuf,
}

impl Held {
    /// Makes a folder of our own, which every user may enter.
    pub fn make(parent: &Path, name: &str) -> Result<PathBuf, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = std::process::id();
        let folder = parent.join(format!("ringpost-compare-{own}-{number}-{name}"));
        let made = fs::create_dir(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::canonicalize(&folder));
        made.map_err(|cause| format!("{}: {cause}", folder.display()))
    }

    /// Runs the command, if there is one. What it prints goes to `console` in the folder.
    pub fn start(folder: PathBuf, command: &[OsString]) -> Result<Held, String> {
        let started = Held::spawn(&folder, command);
        started.map(|child| Held { child, folder: folder.clone() }).map_err(|cause| {
            remove(&folder);
            format!("{}: {cause}", folder.display())
        })
    }

    fn spawn(folder: &Path, command: &[OsString]) -> std::io::Result<Child> {
        let console = File::create(folder.join(CONSOLE))?;
        let mut holder = Command::new(std::env::current_exe()?);
        holder.arg("hold").arg("--remove").arg(folder).arg("--").args(command);
        holder.current_dir(folder).stdin(Stdio::piped());
        holder.stdout(console.try_clone()?).stderr(console);
        // An interrupt from the terminal is for the caller alone, whose end is told by the pipe.
        holder.process_group(0).spawn()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The command has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.folder.join(ENDED).exists() || !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // A fault would be that it is gone.
        let _ = self.child.wait();
        if self.folder.exists() {
            eprintln!("ringpost-load: {} could not be removed; remove it", self.folder.display());
        }
    }
}

/// Where all that runs prints to.
pub const CONSOLE: &str = "console";

/// Made in the folder when the command has ended by itself.
pub const ENDED: &str = "ended";

/// Runs it until the input is closed, and removes the folder. Should it end by itself, the end of the
/// input is waited for all the same, as there may be something to read in the folder.
pub fn run(hold: &Hold) -> Result<bool, String> {
    let own = rustix::process::getpid();
    let taken = rustix::process::set_child_subreaper(Some(own));
    taken.map_err(|cause| format!("becoming the parent of orphans: {cause}"))?;
    let mut reaper = None;
    if let [program, arguments @ ..] = &hold.command[..] {
        let mut command = Command::new(program);
        let child = command.args(arguments).stdin(Stdio::null()).spawn();
        if let Err(cause) = &child {
            eprintln!("{}: {cause}", program.display());
        }
        let first = child.ok().map(|child| child.id());
        let ended = hold.remove.join(ENDED);
        reaper = Some(thread::spawn(move || reap_all(first, &ended)));
    }
    // It is never written to: what ends the read is its end, or a fault that is as good.
    let _ = std::io::stdin().read(&mut [0]);
    end_all();
    // It may be about to make its file. A panic of it is on the console that goes now.
    let _ = reaper.map(thread::JoinHandle::join);
    remove(&hold.remove);
    Ok(true)
}

/// Waits for whatever ends, so that its costs are counted, until there is nothing left.
fn reap_all(first: Option<u32>, ended: &Path) {
    let first = first.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if Some(pid) == first => break,
            Ok(_) | Err(Errno::INTR) => {}
            // There is no child.
            Err(_) => break,
        }
    }
    // Where that fails, the caller waits for a greeting in vain instead.
    let _ = File::create(ended);
    while rustix::process::wait(WaitOptions::empty()).is_ok_and(|pid| pid.is_some()) {}
}

/// Returns when nothing is left.
fn end_all() {
    let killed_at = Instant::now() + GRACE;
    signal_all(Signal::TERM);
    while !below().is_empty() {
        thread::sleep(LOOK);
        if Instant::now() >= killed_at {
            // Again and again, for a process may start others meanwhile.
            signal_all(Signal::KILL);
        }
    }
}

fn below() -> Vec<u32> {
    let own = std::process::id();
    tree::of(own).into_iter().filter(|pid| *pid != own).collect()
}

fn signal_all(signal: Signal) {
    for pid in below() {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that is gone is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Says so where it cannot.
pub fn remove(folder: &Path) {
    if let Err(cause) = fs::remove_dir_all(folder) {
        eprintln!("ringpost-load: {}: {cause}; remove it", folder.display());
    }
}
