//! The load generator of Ringpost: a source and a sink of mail, scenarios with a verdict, reports, and
//! comparisons of servers.

mod compare;
mod flags;
mod ledger;
mod process;
mod random;
mod report;
mod run;
mod sink;
mod smtp_client;
mod source;
mod tied;
mod watch;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::ledger::Ledger;
use crate::ledger::Sent;
use crate::report::by_name;

/// Send and receive test mail, run scenarios, compare mail servers.
#[derive(Parser)]
#[command(name = "ringpost-load", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages, with the common flags of Postfix's smtp-source.
    Source(Box<source::options::Options>),
    /// Receive messages, with the common flags of Postfix's smtp-sink.
    Sink(Box<sink::options::Options>),
    /// Check what a sink received against what a source sent: lost, duplicated, corrupted messages.
    Ledger {
        /// The file of `source --sent`.
        sent: PathBuf,
        /// The file of `sink --ledger`.
        seen: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario: a server, sinks and sources, and a verdict.
    Run(Box<run::RunOptions>),
    /// Measure Ringpost and other servers, or two builds of Ringpost, in alternating turns.
    Compare(Box<compare::options::Options>),
    /// Run a command until standard input is closed, then kill its process tree; for `compare`.
    #[command(hide = true)]
    Hold(compare::hold::Hold),
    /// Become a command that is killed when its parent ends; for `run`.
    #[command(hide = true)]
    Tied(tied::Tied),
    /// Show saved records: one as tables, several side by side with ratios.
    Report(report::command::Report),
}

fn main() -> ExitCode {
    let passed = match Arguments::parse().command {
        Command::Source(options) => source::run(*options),
        Command::Sink(options) => sink::run(&options),
        Command::Ledger { sent, seen, json } => weigh(&sent, &seen, json),
        Command::Run(options) => run::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Hold(hold) => compare::hold::run(&hold),
        Command::Tied(tied) => tied::run(&tied),
        Command::Report(report) => report::command::run(report).map(|()| true),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("ringpost-load: {cause}");
            ExitCode::from(2)
        }
    }
}

/// Prints the balance of two files. `false`: a message was lost, duplicated, alien or corrupted.
fn weigh(sent: &Path, seen: &Path, is_json: bool) -> Result<bool, String> {
    let sent = Sent::read(open(sent)?).map_err(|why| format!("{}: {why}", sent.display()))?;
    let seen = Ledger::read(open(seen)?).map_err(|why| format!("{}: {why}", seen.display()))?;
    let balance = seen.compare(&sent);
    match is_json {
        true => println!("{}", serde_json::json!(balance)),
        false => {
            let counts = by_name(&balance).into_iter();
            let told = counts.map(|(name, count)| format!("{count} {}", name.replace('_', " ")));
            println!("{}", told.collect::<Vec<_>>().join(", "));
        }
    }
    Ok(balance.is_well())
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let file = File::open(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(BufReader::new(file))
}
