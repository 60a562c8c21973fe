//! `ringpost-load hold`: the parent process of a server, which keeps track of all its processes.
//!
//! Promise:  all processes of the server stay below this one: an orphan becomes its child and is
//!           reaped, so that the cost of every process is counted, also of servers that start one for
//!           each message.
//! End:      when standard input is closed, which the end of the caller causes too: all processes get
//!           SIGTERM, and SIGKILL after `GRACE`. Then the folder is removed.

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

use crate::process;

/// How long the server may take to exit.
const GRACE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

#[derive(Args, Debug)]
pub struct Hold {
    /// Remove this folder at the end.
    #[arg(long, value_name = "FOLDER")]
    remove: PathBuf,
    /// The command to run; without one only the folder is held.
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

/// A folder and the process in it, until dropped or until this process ends.
pub struct Held {
    child: Child,
    pub folder: PathBuf,
}

impl Held {
    /// Creates a folder that every user may enter.
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

    /// Runs the command, if any. Its output goes to `console` in the folder.
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
        // An interrupt from the terminal must reach the caller only; the pipe reports its end.
        holder.process_group(0).spawn()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the command has exited by itself.
    pub fn has_ended(&mut self) -> bool {
        self.folder.join(ENDED).exists() || !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // An error would mean that it has ended.
        let _ = self.child.wait();
        if self.folder.exists() {
            eprintln!("ringpost-load: could not remove {}", self.folder.display());
        }
    }
}

/// The file with the output.
pub const CONSOLE: &str = "console";

/// The file with the exit status, written when the command has exited.
pub const ENDED: &str = "ended";

/// Runs the command until the input is closed, and removes the folder. After an exit of the command it
/// still waits for the end of the input, since the caller may read the folder.
pub fn run(hold: &Hold) -> Result<bool, String> {
    let own = rustix::process::getpid();
    let taken = rustix::process::set_child_subreaper(Some(own));
    taken.map_err(|cause| format!("prctl(PR_SET_CHILD_SUBREAPER): {cause}"))?;
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
    // Nothing is ever written to it: the read ends at its end or with an error.
    let _ = std::io::stdin().read(&mut [0]);
    end_all();
    // The thread may be creating its file. A panic is printed on the console.
    let _ = reaper.map(thread::JoinHandle::join);
    remove(&hold.remove);
    Ok(true)
}

/// Reaps all children, so that their costs are counted, until there are none.
fn reap_all(first: Option<u32>, ended: &Path) {
    let first = first.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let status = loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == first => break status.exit_status(),
            Ok(_) | Err(Errno::INTR) => {}
            // There are no children.
            Err(_) => break None,
        }
    };
    // If this fails, the caller waits for its timeout instead.
    let _ = fs::write(ended, status.map_or("unknown".to_owned(), |status| status.to_string()));
    while rustix::process::wait(WaitOptions::empty()).is_ok_and(|pid| pid.is_some()) {}
}

/// Ends all processes and returns when none is left.
fn end_all() {
    let killed_at = Instant::now() + GRACE;
    signal_all(Signal::TERM);
    while !below().is_empty() {
        thread::sleep(LOOK);
        if Instant::now() >= killed_at {
            // Repeated, since a process may start others meanwhile.
            signal_all(Signal::KILL);
        }
    }
}

fn below() -> Vec<u32> {
    let own = std::process::id();
    process::of(own).into_iter().filter(|pid| *pid != own).collect()
}

fn signal_all(signal: Signal) {
    for pid in below() {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that it has ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Removes a folder and reports a failure.
pub fn remove(folder: &Path) {
    if let Err(cause) = fs::remove_dir_all(folder) {
        eprintln!("ringpost-load: could not remove {}: {cause}", folder.display());
    }
}
