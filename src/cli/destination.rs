//! `ringpost destination`.

use crate::cli::arguments::DestinationCommand;
use crate::cli::source::Source;
use crate::cli::text;
use crate::cli::text::field;
use crate::cli::text::field_if;
use crate::cli::text::plain;
use crate::cli::text::time;
use crate::config::Config;
use crate::operations::OpFault;
use crate::operations::destination::DestinationDetails;
use crate::operations::destination::DestinationList;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::ListDestinations;
use crate::operations::destination::PauseDestination;
use crate::operations::destination::PausedDestination;
use crate::operations::destination::ResumeDestination;
use crate::operations::destination::ShowDestination;

/// Carries out `ringpost destination`.
pub fn destination(
    config: &Config,
    command: DestinationCommand,
    json: bool,
) -> Result<(), OpFault> {
    let source = Source::running(config)?;
    match command {
        DestinationCommand::List { limit } => {
            text::print(&source.call(ListDestinations { limit })?, json, print_list)
        }
        DestinationCommand::Show { destination } => {
            text::print(&source.call(ShowDestination { destination })?, json, print_details)
        }
        DestinationCommand::Pause { destination } => {
            text::print(&source.call(PauseDestination { destination })?, json, print_pause)
        }
        DestinationCommand::Resume { destination } => {
            text::print(&source.call(ResumeDestination { destination })?, json, |done| {
                println!("{}: resumed", plain(&done.destination));
                print_warning(done);
            })
        }
    }
}

fn print_list(list: &DestinationList) {
    println!(
        "{:32}  {:>8}  {:>7}  {:>11}  {:>8}  {:14}  last error",
        "destination", "queued", "sending", "connections", "per min", "state"
    );
    for row in &list.destinations {
        println!(
            "{:32}  {:>8}  {:>7}  {:>11}  {:>8}  {:14}  {}",
            if row.name.is_empty() { &row.destination } else { &row.name },
            row.queued,
            row.in_flight,
            row.connections.all,
            row.per_minute,
            row.state.as_str(),
            row.lack.as_deref().or(row.last_error.as_deref()).map(plain).unwrap_or_default(),
        );
    }
    println!("{} destinations", list.destinations.len());
    for name in &list.paused {
        println!("paused by an operator: {}", plain(name));
    }
}

fn print_details(details: &DestinationDetails) {
    if details.paused_by_operator {
        println!("{}: paused by an operator", plain(&details.destination));
    }
    for row in &details.destinations {
        print_row(row);
    }
}

fn print_row(row: &DestinationRow) {
    field("destination", &row.destination);
    if row.name != row.destination {
        field("name", &row.name);
    }
    field_if("shard", row.shard);
    field("state", row.state.as_str());
    field_if("until", row.binding.until_ms().map(time));
    field("queued", row.queued);
    field("of these, at home shards", row.waiting);
    field("being sent", row.in_flight);
    field("sent per minute", row.per_minute);
    let connections = &row.connections;
    println!(
        "connections: {} of {} ({} opening, {} busy, {} idle, {} closing)",
        connections.all,
        connections.max,
        connections.opening,
        connections.busy,
        connections.idle,
        connections.closing,
    );
    field("window", row.window);
    for (span, limit) in row.rates.each() {
        println!("rate limit: {limit} per {span}");
    }
    for (span, limit) in row.source_rates.each() {
        println!("rate limit of each source address: {limit} per {span}");
    }
    println!(
        "recipients: {} delivered, {} refused, {} deferred",
        row.delivered, row.refused, row.deferred
    );
    println!("connections lost: {}, failures: {}", row.lost, row.failures);
    field("returned from queue", row.handed_back);
    field_if("last error", row.last_error.as_ref());
    field_if("of host", row.last_host.as_ref());
    field_if("this server lacked", row.lack.as_ref());
    field_if("waits for the rate limit of source address", row.spent_source.as_ref());
    for one in &row.sources {
        println!(
            "source {}: {} connections, window {}, {}{}",
            one.source.as_deref().unwrap_or("(any address)"),
            one.connections,
            one.window,
            one.binding.state().as_str(),
            one.binding
                .until_ms()
                .map(|until| format!(" until {}", time(until)))
                .unwrap_or_default(),
        );
    }
    for one in &row.evidence {
        println!(
            "rule {} acted at {}, until {}, on the reply to {}: {}",
            plain(&one.rule),
            time(one.at_ms),
            time(one.until_ms),
            one.message.as_deref().unwrap_or("a connection"),
            plain(&one.reply),
        );
    }
    if !row.stripes.is_empty() {
        println!("split over {} shards; see --json for each", row.stripes.len());
    }
}

fn print_pause(done: &PausedDestination) {
    println!("{}: paused until resumed", plain(&done.destination));
    print_warning(done);
    match done.destinations.is_empty() {
        true => println!("no destination with mail matches now; new mail for it will stay queued"),
        false => println!("destinations: {}", plain(&done.destinations.join("; "))),
    }
}

fn print_warning(done: &PausedDestination) {
    if let Some(warning) = &done.warning {
        println!("warning: {}", plain(warning));
    }
}
