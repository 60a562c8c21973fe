//! `ringpost-load tied`: becomes a program that is killed when its parent ends.
//!
//! Promise:  the program keeps the process id, so that figures of the process are those of the program.
//!           It gets SIGKILL when the thread that started it ends.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;

use clap::Args;
use rustix::process::Signal;

#[derive(Args, Debug)]
pub struct Tied {
    /// The process id of the parent.
    #[arg(long, value_name = "PID")]
    to: u32,
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// A command for this program that ends with this thread, without input.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|cause| format!("this program: {cause}"))?;
    let mut command = Command::new(own);
    command.args(["tied", "--to", &std::process::id().to_string(), "--"]).arg(program);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Returns only on failure.
pub fn run(tied: &Tied) -> Result<bool, String> {
    let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    set.map_err(|cause| format!("prctl(PR_SET_PDEATHSIG): {cause}"))?;
    // A parent that ended before sends no signal.
    if std::os::unix::process::parent_id() != tied.to {
        return Err("the parent has ended".to_owned());
    }
    let [program, arguments @ ..] = &tied.command[..] else {
        return Err("the command is missing".to_owned());
    };
    let cause = Command::new(program).args(arguments).exec();
    Err(format!("{}: {cause}", program.display()))
}
