//! Each command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::boot::run::serve;
use crate::boot::signals;
use crate::cli::arguments::Arguments;
use crate::cli::arguments::Command;
use crate::cli::arguments::ConfigPage;
use crate::cli::destination;
use crate::cli::events;
use crate::cli::load::Loaded;
use crate::cli::load::invalid;
use crate::cli::load::load;
use crate::cli::load::load_for_spool;
use crate::cli::queue;
use crate::cli::route;
use crate::cli::source::Source;
use crate::cli::text;
use crate::config;
use crate::config::Config;
use crate::config::Origin;
use crate::control::assemble;
use crate::doctor;
use crate::operations::OpFault;
use crate::operations::server::CheckHealth;
use crate::operations::server::Health;
use crate::operations::server::ReloadConfig;
use crate::operations::server::Reloaded;

/// Carries out the command line of this process.
pub fn run() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    if let Command::Serve = command {
        return load(config).map_or_else(|fault| failed(&fault, 1), |loaded| serve(loaded.into()));
    }
    signals::end_with_the_reader();
    match command {
        // 1 would be a warning.
        Command::Doctor(options) => load(config).map_or_else(
            |fault| failed(&fault, doctor::EXIT_ERROR),
            |loaded| doctor::doctor(&loaded.config, options.json),
        ),
        // Container engines know no other code for an unhealthy container.
        Command::Health => load_for_spool(config)
            .and_then(|loaded| health(&loaded.config))
            .map_or_else(|fault| failed(&fault, 1), |()| ExitCode::SUCCESS),
        command => {
            try_run(command, config).unwrap_or_else(|fault| failed(&fault, fault.kind.exit_code()))
        }
    }
}

fn try_run(command: Command, config: Option<PathBuf>) -> Result<ExitCode, OpFault> {
    match command {
        Command::Check(options) => {
            check(&load(config)?, options.show_origin, options.json)?;
        }
        Command::Config { page: ConfigPage::Reference } => print!("{}", config::reference()),
        Command::Config { page: ConfigPage::Sample } => print!("{}", config::sample()),
        Command::Queue { options, command } => {
            queue::queue(&load_for_spool(config)?.config, command, options.json)?;
        }
        Command::Audit(options) => {
            let loaded = load_for_spool(config)?;
            if !queue::audit(&loaded.config, options.json)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Why { id, options } => {
            queue::why(&load_for_spool(config)?.config, id, options.json)?;
        }
        Command::Events { command } => {
            events::events(&load_for_spool(config)?.config, command)?;
        }
        Command::Destination { options, command } => {
            let loaded = load_for_spool(config)?;
            destination::destination(&loaded.config, command, options.json)?;
        }
        Command::Route { command } => {
            let (asked, options) = command.into_parts();
            route::test(&load(config)?.config, &asked, options.json)?;
        }
        Command::Reload(options) => {
            let loaded = load_for_spool(config)?;
            let reloaded = Source::running(&loaded.config)?.call(ReloadConfig {})?;
            text::print(&reloaded, options.json, print_reloaded)?;
        }
        Command::Topology(options) => {
            return Ok(doctor::topology(&load(config)?.config, options.json));
        }
        Command::Serve | Command::Doctor(_) | Command::Health => {
            unreachable!("`run` carries these out")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(loaded: &Loaded, show_origin: bool, json: bool) -> Result<(), OpFault> {
    let found = assemble::check(&loaded.config).map_err(|faults| invalid(&faults))?;
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(found.iter().map(|(what, remedy)| format!("{what} - {remedy}")));
    if json {
        let keys: Vec<_> = loaded.origins.iter().map(Origin::json).collect();
        println!("{:#}", serde_json::json!({ "warnings": warnings, "keys": keys }));
        return Ok(());
    }
    for origin in loaded.origins.iter().filter(|_| show_origin) {
        println!("{origin}");
    }
    for warning in warnings {
        println!("warning: {warning}");
    }
    println!("{}: no errors", loaded.name);
    Ok(())
}

/// What `/health` and `/ready` say together.
fn health(config: &Config) -> Result<(), OpFault> {
    let Health { faults, obstacles, warnings } = Source::running(config)?.call(CheckHealth {})?;
    let causes = [faults, obstacles].concat();
    if !causes.is_empty() {
        return Err(OpFault::away("unhealthy", causes.join("; ")));
    }
    match warnings.is_empty() {
        true => println!("ok"),
        false => println!("degraded: {}", warnings.join("; ")),
    }
    Ok(())
}

fn print_reloaded(reloaded: &Reloaded) {
    match reloaded.changed.is_empty() {
        true => println!("reloaded; no setting changed"),
        false => println!("reloaded; changed: {}", reloaded.changed.join(", ")),
    }
    if !reloaded.needs_restart.is_empty() {
        println!("needs a restart: {}", reloaded.needs_restart.join(", "));
    }
    for warning in &reloaded.warnings {
        println!("warning: {warning}");
    }
}

fn failed(fault: &OpFault, code: u8) -> ExitCode {
    for line in fault.to_string().lines() {
        eprintln!("ringpost: {line}");
    }
    ExitCode::from(code)
}
