//! `ringpost-load tied`: becomes a program that ends with its caller, whatever end that is.
//!
//! Promise:  the program has the process id of this one, and costs of its own: what is read of a
//!           process is read of the server. The death of the thread that started it is SIGKILL to it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use rustix::process::Signal;

/// What to become.
#[derive(Args, Debug)]
pub struct Tied {
    /// The process whose end is the end of it.
    #[arg(long, value_name = "PID")]
    to: u32,
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// Returns only where it cannot.
pub fn run(tied: &Tied) -> Result<bool, String> {
    let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    set.map_err(|cause| format!("ending with the caller: {cause}"))?;
    // One that has ended before is told by no signal.
    if std::os::unix::process::parent_id() != tied.to {
        return Err("the caller has ended".to_owned());
    }
    let [program, arguments @ ..] = &tied.command[..] else {
        return Err("there is no command".to_owned());
    };
    let cause = Command::new(program).args(arguments).exec();
    Err(format!("{}: {cause}", program.display()))
}
