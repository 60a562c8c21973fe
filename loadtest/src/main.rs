//! The load harness of Ringpost: a source and a sink of mail, the ledger between them, and reports of
//! what they measured; and `compare`, which measures servers side by side.

mod compare;
mod ledger;
mod report;
mod run;
mod sink;
mod source;
mod watch;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::ledger::Balance;
use crate::ledger::Ledger;
use crate::ledger::Sent;

/// Sends and takes mail, and tells how that went.
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
    /// Take messages, as Postfix's smtp-sink does, with the same flags.
    Sink(Box<sink::options::Options>),
    /// Weigh what a sink has seen (its --ledger) against what a source has sent.
    Ledger {
        sent: PathBuf,
        seen: PathBuf,
        /// Print the balance as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario: a server, sinks and sources, and whether all is as it should be.
    Run(Box<run::RunOptions>),
    /// Measure Ringpost and other servers on this machine, in turns.
    Compare(Box<compare::options::Options>),
    /// Run a command and all it starts until the input is closed; `compare` does so.
    #[command(hide = true)]
    Hold(compare::hold::Hold),
    /// Become a command that is killed when its caller ends; `run` does so.
    #[command(hide = true)]
    Tied(run::tied::Tied),
    /// Show what runs measured: one as tables, several side by side with ratios to the first.
    Report(report::command::Report),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Source(options) => source::run(*options),
        Command::Sink(options) => sink::run(&options),
        Command::Ledger { sent, seen, json } => weigh(&sent, &seen, json),
        Command::Run(options) => run::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Hold(hold) => compare::hold::run(&hold),
        Command::Tied(tied) => run::tied::run(&tied),
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

/// Tells the balance of two files. `false`: something was lost, duplicated or alien.
fn weigh(sent: &Path, seen: &Path, is_json: bool) -> Result<bool, String> {
    let sent = Sent::read(open(sent)?).map_err(|why| format!("{}: {why}", sent.display()))?;
    let seen = Ledger::read(open(seen)?).map_err(|why| format!("{}: {why}", seen.display()))?;
    let balance = seen.compare(&sent);
    match is_json {
        true => println!("{}", serde_json::json!(balance)),
        false => {
            let Balance { lost, duplicated, alien, corrupted, arrived, bounced, .. } = balance;
            println!(
                "{arrived} arrived, {bounced} bounced, {lost} lost, {duplicated} duplicated, \
                 {alien} alien, {corrupted} corrupted"
            );
            let Balance { unknown_but_seen, refused_but_seen, .. } = balance;
            let Balance { bounced_but_seen, unrecorded, .. } = balance;
            println!(
                "{unknown_but_seen} came of what nobody knew, {refused_but_seen} of what was \
                 refused, {bounced_but_seen} of what bounced, {unrecorded} were not recorded"
            );
        }
    }
    Ok(balance.is_well())
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let file = File::open(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(BufReader::new(file))
}
