//! `ringpost-load hold`: the process in whose care a server runs, so that none of its processes is ever
//! lost sight of.
//!
//! Promise:  whatever the server starts stays below this process: an orphan becomes its child, and is
//!           reaped by it. So what the tree costs is counted to the last process, also of servers
//!           that start one for each message.
//! End:      when the standard input is closed, which the end of the caller does as well, whatever
//!           that end was: all are told to end, and killed after `GRACE`.

use std::ffi::OsString;
use std::io::Read;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::process::WaitOptions;

use crate::compare::tree;

/// How long the server may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Args, Debug)]
pub struct Hold {
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Runs it until the input is closed, or until it ends by itself. `false`: by itself.
pub fn run(hold: &Hold) -> Result<bool, String> {
    let own = rustix::process::getpid();
    let taken = rustix::process::set_child_subreaper(Some(own));
    taken.map_err(|cause| format!("becoming the parent of orphans: {cause}"))?;
    let [program, arguments @ ..] = &hold.command[..] else {
        return Err("there is nothing to run".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let child = command.spawn().map_err(|cause| format!("{}: {cause}", program.display()))?;
    let first = i32::try_from(child.id()).expect("a process id is one");
    thread::spawn(|| {
        // It is never written to: what ends the read is its end, or a fault that is as good.
        let _ = std::io::stdin().read(&mut [0]);
        end_all();
    });
    let mut ended_itself = true;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if pid.as_raw_nonzero().get() == first => {
                ended_itself = !IS_ENDING.load(std::sync::atomic::Ordering::Relaxed);
                // What it left behind has no use.
                thread::spawn(end_all);
            }
            Ok(_) | Err(Errno::INTR) => {}
            // There is no child any more.
            Err(_) => return Ok(!ended_itself),
        }
    }
}

static IS_ENDING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Returns only if it cannot be seen what there is.
fn end_all() {
    IS_ENDING.store(true, std::sync::atomic::Ordering::Relaxed);
    signal_all(Signal::TERM);
    let end = Instant::now() + GRACE;
    while Instant::now() < end {
        thread::sleep(LOOK);
    }
    // Processes may start others meanwhile. The process ends when there is none left.
    loop {
        signal_all(Signal::KILL);
        thread::sleep(LOOK);
    }
}

fn signal_all(signal: Signal) {
    let own = std::process::id();
    for pid in tree::of(own).into_iter().filter(|pid| *pid != own) {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // One that is gone is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
