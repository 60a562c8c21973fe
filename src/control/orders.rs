//! The commands of operators: orders about messages, `why`, destinations, the queue by domain.
//!
//! Promise:  exit code 0 when all that was ordered was done, or will be. Text for people, `--json`
//!           for machines, both made of the same answer.

use std::process::ExitCode;

use serde_json::Value;
use serde_json::json;

use crate::base::clock::wall_ms;
use crate::config::Config;
use crate::control::admin;
use crate::control::admin::Request;
use crate::control::client::Source;
use crate::control::client::find_source;
use crate::control::client::number;
use crate::control::client::plain;
use crate::control::client::print_answer;
use crate::control::client::text;
use crate::control::client::time;
use crate::control::client::told;
use crate::control::operators::OPERATION_IDS_MAX;
use crate::control::why::span;
use crate::queue::operate::Operation;
use crate::queue::select::Wanted;

/// Which messages an order is about.
pub enum Selection {
    These(Vec<String>),
    Wanted(Wanted),
}

/// What `ringpost destination` may be asked.
pub enum DestinationCommand {
    List { limit: usize },
    Show { destination: String },
    Pause { destination: String },
    Resume { destination: String },
}

/// Orders the same of all messages that are meant, page by page.
pub(super) fn order(
    source: &Source,
    operation: &Operation,
    selection: &Selection,
    json: bool,
) -> Result<(), String> {
    let mut rows = Vec::new();
    match selection {
        Selection::These(ids) => {
            for ids in ids.chunks(OPERATION_IDS_MAX) {
                rows.extend(ask(source, operation, ids.to_vec())?);
            }
        }
        Selection::Wanted(wanted) => {
            // To release is for what is held; the rest is not meant.
            let held = wanted.held || *operation == Operation::Release;
            let wanted = Wanted { held, ..wanted.clone() };
            let mut after = None;
            loop {
                let (limit, wanted) = (OPERATION_IDS_MAX, wanted.clone());
                let page = source.ask(&Request::List { limit, after, wanted })?;
                let ids: Vec<String> = page
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|row| row["id"].as_str().map(str::to_owned))
                    .collect();
                after = ids.last().cloned();
                if after.is_none() {
                    break;
                }
                rows.extend(ask(source, operation, ids)?);
            }
        }
    }
    let faults = rows.iter().filter(|row| row["fault"].is_string()).count();
    let count = rows.len();
    print_answer(&Value::Array(rows), json, |rows| {
        let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().for_each(|row| println!("{}", outcome_line(operation, row)));
    });
    match (faults, selection) {
        (0, _) => Ok(()),
        // Messages that come and go while all are gone through are no fault of the order.
        (faults, Selection::Wanted(_)) if faults < count => Ok(()),
        (faults, _) => Err(format!("{faults} of {count} orders were not carried out")),
    }
}

fn ask(source: &Source, operation: &Operation, ids: Vec<String>) -> Result<Vec<Value>, String> {
    match source.ask(&Request::Operate { operation: operation.clone(), ids })? {
        Value::Array(rows) => Ok(rows),
        _ => Err("the server's answer is no list".to_owned()),
    }
}

fn outcome_line(operation: &Operation, row: &Value) -> String {
    let done = match operation {
        Operation::Hold => "held",
        Operation::Release => "released, and due now",
        Operation::Retry => "due now",
        Operation::Bounce => "bounced",
        Operation::Delete => "deleted",
        Operation::Reroute(Some(_)) => "rerouted",
        Operation::Reroute(None) => "on its own route again",
    };
    let said = match (row["fault"].as_str(), row["outcome"].as_str()) {
        (Some(fault), _) => fault.to_owned(),
        (None, Some("done")) => done.to_owned(),
        (None, Some("after-attempt")) => {
            format!("is being sent now; {done} when that has ended, if it is still there")
        }
        (None, Some("under-way")) => "in line or being sent already; see ringpost why".to_owned(),
        (None, Some("already")) => match operation {
            Operation::Hold => "was held before".to_owned(),
            Operation::Reroute(_) => "goes there already".to_owned(),
            _ => "was due already".to_owned(),
        },
        (None, other) => other.unwrap_or("no answer").to_owned(),
    };
    format!("{}: {said}", text(&row["id"]))
}

/// Tells what a message waits for.
pub fn why(config: &Config, id: &str, json: bool) -> ExitCode {
    let asked = find_source(config, false).and_then(|source| {
        let id = id.to_owned();
        source.ask(&Request::Why { id })
    });
    shown(asked, json, print_why)
}

pub fn destination(config: &Config, command: &DestinationCommand, json: bool) -> ExitCode {
    let source = match find_source(config, false) {
        Ok(source) => source,
        Err(cause) => return told(&cause),
    };
    let request = match command {
        DestinationCommand::List { limit } => Request::Destinations { limit: *limit },
        DestinationCommand::Show { destination } => {
            Request::Destination { destination: destination.clone() }
        }
        DestinationCommand::Pause { destination } => {
            Request::Pause { destination: destination.clone() }
        }
        DestinationCommand::Resume { destination } => {
            Request::Resume { destination: destination.clone() }
        }
    };
    let asked = source.ask(&request);
    match command {
        DestinationCommand::List { .. } => shown(asked, json, print_destinations),
        DestinationCommand::Show { .. } => shown(asked, json, print_destination),
        DestinationCommand::Pause { .. } => shown(asked, json, |answer| {
            let destinations = destinations_of(answer);
            println!("{}: paused until it is resumed", text(&answer["destination"]));
            print_fault(answer);
            match destinations.is_empty() {
                true => println!("nothing goes there now; what comes is kept"),
                false => println!("destinations: {destinations}"),
            }
        }),
        DestinationCommand::Resume { .. } => shown(asked, json, |answer| {
            println!("{}: resumed", text(&answer["destination"]));
            print_fault(answer);
        }),
    }
}

fn shown(asked: Result<Value, String>, json: bool, print: impl Fn(&Value)) -> ExitCode {
    match asked {
        Ok(answer) => {
            print_answer(&answer, json, print);
            ExitCode::SUCCESS
        }
        Err(cause) => told(&cause),
    }
}

fn print_why(facts: &Value) {
    println!(
        "{} from {}, received {}",
        text(&facts["id"]),
        facts["sender"].as_str().filter(|sender| !sender.is_empty()).unwrap_or("<>"),
        time(&facts["received_ms"]),
    );
    for job in facts["jobs"].as_array().into_iter().flatten() {
        for (place, sentence) in job["sentences"].as_array().into_iter().flatten().enumerate() {
            println!("{}{}", if place == 0 { "" } else { "  " }, plain(sentence));
        }
    }
}

/// What was done and will not last.
fn print_fault(answer: &Value) {
    if answer["fault"].is_string() {
        println!("but {}", plain(&answer["fault"]));
    }
}

fn destinations_of(answer: &Value) -> String {
    let destinations = answer["destinations"].as_array().into_iter().flatten();
    destinations.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

fn print_destinations(rows: &Value) {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    println!(
        "{:32}  {:>8}  {:>7}  {:>11}  {:>8}  {:14}  last error",
        "destination", "queued", "sending", "connections", "a minute", "state"
    );
    let (paused, rows): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row["paused_by_operator"].is_string());
    for row in &rows {
        println!(
            "{:32}  {:>8}  {:>7}  {:>11}  {:>8}  {:14}  {}",
            name_of(row),
            number(&row["queued"]),
            number(&row["in_flight"]),
            number(&row["connections"]["all"]),
            number(&row["per_minute"]),
            text(&row["state"]),
            row["last_error"].as_str().map(|_| plain(&row["last_error"])).unwrap_or_default(),
        );
    }
    println!("{} destinations", rows.len());
    for row in paused {
        println!("paused by an operator: {}", plain(&row["paused_by_operator"]));
    }
}

fn name_of(row: &Value) -> &str {
    row["name"]
        .as_str()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| text(&row["destination"]))
}

fn print_destination(answer: &Value) {
    if answer["paused_by_operator"] == true {
        println!("{}: paused by an operator", text(&answer["destination"]));
    }
    for row in answer["destinations"].as_array().into_iter().flatten() {
        for (key, value) in row.as_object().into_iter().flatten() {
            match value {
                Value::Null => (),
                Value::Array(stripes) => {
                    println!("{key}: {}; see --json for each", stripes.len());
                }
                Value::Object(parts) => {
                    let parts: Vec<String> = parts
                        .iter()
                        .map(|(name, part)| match name.ends_with("_ms") {
                            true => format!("{} {}", name.trim_end_matches("_ms"), time(part)),
                            false => format!("{name} {}", plain(part)),
                        })
                        .collect();
                    println!("{key}: {}", parts.join(", "));
                }
                value => println!("{key}: {}", plain(value)),
            }
        }
    }
}

pub(super) fn print_summary(summary: &Value) {
    let now_ms = wall_ms();
    println!(
        "{:32}  {:>10}  {:>12}  {:28}  last reply",
        "recipient domain", "recipients", "oldest", "state"
    );
    for row in summary["rows"].as_array().into_iter().flatten() {
        let age = now_ms.saturating_sub(row["oldest_ms"].as_u64().unwrap_or(now_ms));
        println!(
            "{:32}  {:>10}  {:>12}  {:28}  {}",
            text(&row["domain"]),
            number(&row["recipients"]),
            span(age),
            domain_state(row, now_ms),
            row["last_reply"].as_str().map(|_| plain(&row["last_reply"])).unwrap_or_default(),
        );
    }
    println!("{} recipients in {} domains", summary["recipients"], summary["domains"]);
    if let Some(others @ 1..) = summary["others"].as_u64() {
        println!("{others} of them are of domains not shown; see --limit");
    }
}

/// How the mail of a domain stands, in few words.
fn domain_state(row: &Value, now_ms: u64) -> String {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let (all, held) = (number("recipients"), number("held"));
    let mut words = Vec::new();
    if held > 0 {
        words.push(if held == all { "held".to_owned() } else { format!("{held} held") });
    }
    match row["next_due_ms"].as_u64() {
        Some(due_ms) if due_ms > now_ms => words.push(format!("next in {}", span(due_ms - now_ms))),
        Some(_) => words.push("due".to_owned()),
        None => (),
    }
    words.join(", ")
}

/// What answers without a server, beside what only looks.
pub(super) fn without_server(
    spool: &crate::queue::Spool,
    request: &Request,
) -> Option<Result<Value, String>> {
    match request {
        Request::Operate { operation, ids } => {
            let row = |id: &String| {
                let done = admin::parse(spool, id).and_then(|parsed| {
                    let carried =
                        crate::queue::operate::carry_out(spool, parsed, operation, wall_ms());
                    carried.map_err(|fault| fault.to_string())
                });
                match done {
                    Ok(carried) => json!({ "id": id, "outcome": carried }),
                    Err(fault) => json!({ "id": id, "fault": fault }),
                }
            };
            Some(Ok(ids.iter().map(row).collect()))
        }
        Request::Why { id } => Some(admin::parse(spool, id).and_then(|parsed| {
            let details = crate::queue::inspect::show(spool, parsed);
            let details = details.map_err(|fault| format!("{id}: {fault}"))?;
            Ok(crate::control::why::facts(&details, None, wall_ms()))
        })),
        Request::Destinations { .. }
        | Request::Destination { .. }
        | Request::Pause { .. }
        | Request::Resume { .. } => {
            Some(Err("the server does not run; destinations are known while it does".to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_states_are_told_in_words() {
        let rows = [
            (Operation::Hold, json!({ "id": "A", "outcome": "done" }), "A: held"),
            (Operation::Hold, json!({ "id": "A", "outcome": "already" }), "A: was held before"),
            (Operation::Retry, json!({ "id": "A", "outcome": "done" }), "A: due now"),
            (Operation::Bounce, json!({ "id": "A", "fault": "gone" }), "A: gone"),
            (
                Operation::Reroute(None),
                json!({ "id": "A", "outcome": "done" }),
                "A: on its own route again",
            ),
            (
                Operation::Reroute(Some("hold".into())),
                json!({ "id": "A", "outcome": "already" }),
                "A: goes there already",
            ),
        ];
        for (operation, row, line) in rows {
            assert_eq!(outcome_line(&operation, &row), line);
        }
        let rows = [
            (json!({ "recipients": 3, "held": 3 }), "held"),
            (json!({ "recipients": 3, "held": 1, "next_due_ms": 5 }), "1 held, due"),
            (json!({ "recipients": 3, "held": 0, "next_due_ms": 61_000 }), "next in 60 seconds"),
        ];
        for (row, words) in rows {
            assert_eq!(domain_state(&row, 1000), words);
        }
    }
}
