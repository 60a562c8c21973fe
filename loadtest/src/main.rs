//! The load harness of Ringpost. So far its source; `relay.py` and the other scripts beside it drive
//! Debian's `smtp-source` and `smtp-sink`.

mod figures;
mod source;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

/// Sends mail and tells how that went.
#[derive(Parser)]
#[command(name = "ringpost-load", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages, as Postfix's smtp-source does, with the same flags.
    Source(source::options::Options),
}

fn main() -> ExitCode {
    let Command::Source(options) = Arguments::parse().command;
    match source::run(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("ringpost-load: {cause}");
            ExitCode::from(2)
        }
    }
}
