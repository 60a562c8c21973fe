//! `ringpost-load run` and `compare` with real servers.

mod compare;
mod run;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

fn load() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringpost-load"))
}

/// The server, which cargo builds beside this program in a test of the workspace.
fn server() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_ringpost-load")).with_file_name("ringpost");
    let hint = "build it by `cargo build --release -p ringpost`, or test the whole workspace";
    assert!(program.is_file(), "{} is missing: {hint}", program.display());
    program
}

/// What a command printed on both outputs.
fn texts(output: &Output) -> (String, String) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
