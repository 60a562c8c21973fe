//! The load harness of Ringpost. So far its source and its reports; `relay.py` and the other scripts
//! beside it drive Debian's `smtp-source` and `smtp-sink`.

mod figures;
mod report;
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
    Source(Box<source::options::Options>),
    /// Show what runs measured: one as tables, several side by side with ratios to the first.
    Report(report::command::Report),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Source(options) => source::run(*options),
        Command::Report(report) => report::command::run(report).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("ringpost-load: {cause}");
            ExitCode::from(2)
        }
    }
}
