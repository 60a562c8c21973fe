//! `ringpost why`: what a message waits for, as facts and in sentences.
//!
//! Promise:  no I/O: what the store, the home and the owner have told comes in, and the same facts
//!           always make the same sentences. A prediction says what it is made of.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::json;

use crate::queue::admin::inspect::Details;
use crate::queue::admin::inspect::JobRow;
use crate::wire::mail::date;

/// Recipients and messages that a sentence names.
const NAMED_MAX: usize = 3;

/// All that is known. `places`: where jobs are in memory, by number; `None` when no server runs.
pub fn facts(details: &Details, places: Option<HashMap<u16, Value>>, now_ms: u64) -> Value {
    let jobs: Vec<Value> = details
        .jobs
        .iter()
        .map(|job| {
            let place = places.as_ref().and_then(|places| places.get(&job.number));
            job_facts(details, job, place, (places.is_some(), now_ms))
        })
        .collect();
    json!({
        "id": details.id,
        "now_ms": now_ms,
        "server_runs": places.is_some(),
        "received_ms": details.received_ms,
        "sender": details.sender,
        "jobs": jobs,
    })
}

fn job_facts(
    details: &Details,
    job: &JobRow,
    place: Option<&Value>,
    (runs, now_ms): (bool, u64),
) -> Value {
    let recipients: Vec<&str> = job
        .recipients
        .iter()
        .filter_map(|index| details.recipients.get(*index as usize))
        .map(|recipient| recipient.mailbox.as_str())
        .collect();
    let held = job.state == "held";
    let mut facts = json!({
        "job": job.number,
        "state": job.state,
        "recipients": recipients,
        "attempts": job.attempts,
        "last_attempt_ms": job.last_attempt_ms,
        "last_reply": job.last_reply,
        "rerouted_to": job.rerouted_to,
        "next_attempt_ms": (!held).then_some(job.due_ms.max(now_ms)),
        "place": place.cloned().unwrap_or_else(|| json!({ "stage": "store" })),
    });
    let finish_ms = finish(&facts, now_ms).filter(|_| runs);
    facts["predicted_finish_ms"] = finish_ms.into();
    facts["sentences"] = sentences(&facts, runs, now_ms).into();
    facts
}

/// When it should be gone, if the next attempt succeeds.
fn finish(facts: &Value, now_ms: u64) -> Option<u64> {
    let place = &facts["place"];
    match place["stage"].as_str()? {
        "sending" | "home" => Some(now_ms),
        "store" => facts["next_attempt_ms"].as_u64(),
        "line" => {
            let binding = &place["binding"];
            if binding["kind"] == "paused" {
                return None;
            }
            let start_ms = binding["until_ms"].as_u64().unwrap_or(0).max(now_ms);
            let turns = place["ahead"].as_u64()? + 1;
            let pace = pace(&place["destination"])?;
            Some(start_ms + turns * 60_000 / pace)
        }
        _ => None,
    }
}

/// Messages a minute: what the destination takes now, or what its rate lets through.
fn pace(destination: &Value) -> Option<u64> {
    let rates = &destination["rates"];
    let limit = |span: &str| rates[span].as_u64();
    let minute = [
        limit("second").map(|limit| limit * 60),
        limit("minute"),
        limit("hour").map(|limit| (limit / 60).max(1)),
    ];
    let allowed = minute.into_iter().flatten().min();
    let seen = destination["per_minute"].as_u64().filter(|pace| *pace > 0);
    match (seen, allowed) {
        (Some(seen), Some(allowed)) => Some(seen.min(allowed)),
        (seen, allowed) => seen.or(allowed),
    }
    .filter(|pace| *pace > 0)
}

fn sentences(facts: &Value, runs: bool, now_ms: u64) -> Vec<String> {
    let mut said = vec![format!("To {}.", named(&facts["recipients"], "recipients"))];
    if let Some(next_hop) = facts["rerouted_to"].as_str() {
        said.push(format!(
            "An operator sends it to {next_hop}, not where its route says; \
             `queue reroute --to default` ends that."
        ));
    }
    let held = facts["state"] == "held";
    let due_ms = facts["next_attempt_ms"].as_u64().unwrap_or(0);
    let place = &facts["place"];
    match place["stage"].as_str().unwrap_or("") {
        "sending" => {
            said.push(format!("It is being sent to {} at this moment.", destination_name(place)))
        }
        "line" => said.extend(line_sentences(place, now_ms)),
        "silent" => said.push("The shard that owns its destination does not answer.".to_owned()),
        "home" => {
            said.push("It is on its way: being routed, resolved or written at this moment.".into());
        }
        _ if held => said.push("It is held: nothing is tried until `queue release`.".to_owned()),
        _ if !runs => said.push("The server does not run; nothing is sent until it starts.".into()),
        _ if due_ms > now_ms => {
            let wait = span(due_ms - now_ms);
            said.push(format!("It waits for its next attempt, {}, in {wait}.", at(due_ms)));
        }
        _ => said.push("It is due and about to be read from the store.".to_owned()),
    }
    let attempts = facts["attempts"].as_u64().unwrap_or(0);
    said.push(match (attempts, facts["last_reply"].as_str()) {
        (0, None) => "It was not tried yet.".to_owned(),
        (0, Some(reply)) => format!("It was not tried yet: {reply}"),
        (_, Some(reply)) => {
            let when = facts["last_attempt_ms"]
                .as_u64()
                .map_or_else(String::new, |ms| format!(" ({})", at(ms)));
            format!("{} so far; last reply{when}: {reply}", times(attempts))
        }
        (_, None) => format!("{} so far.", times(attempts)),
    });
    if place["stage"] == "line" {
        said.push(match facts["predicted_finish_ms"].as_u64() {
            Some(finish_ms) => {
                let pace = pace(&place["destination"]).unwrap_or(0);
                format!(
                    "At {pace} a minute it should be gone by {}, in {}, if it is taken.",
                    at(finish_ms),
                    span(finish_ms.saturating_sub(now_ms))
                )
            }
            None => "When it will be gone cannot be predicted: nothing goes there now.".to_owned(),
        });
    }
    said
}

fn line_sentences(place: &Value, now_ms: u64) -> Vec<String> {
    let ahead = match place["ahead"].as_u64() {
        Some(0) | None => "nothing is ahead of it".to_owned(),
        Some(1) => "one message is ahead of it".to_owned(),
        Some(ahead) => format!("{ahead} messages are ahead of it"),
    };
    let destination = &place["destination"];
    let mut said = vec![format!("It is in line for {}; {ahead}.", destination_name(place))];
    let binding = &place["binding"];
    let until_ms = binding["until_ms"].as_u64().unwrap_or(now_ms);
    let until =
        format!("until {}, {} from now", at(until_ms), span(until_ms.saturating_sub(now_ms)));
    let connections = destination["connections"]["all"].as_u64().unwrap_or(0);
    let sending = match place["under_way"].as_array().map(Vec::len) {
        Some(1..) => format!("; being sent now: {}", named(&place["under_way"], "messages")),
        _ => String::new(),
    };
    said.push(match binding["kind"].as_str().unwrap_or("") {
        "paused" => "The destination is paused by an operator; `destination resume` ends it.".into(),
        "backing-off" => format!("The destination failed too often and is left alone {until}."),
        "probing" => "The destination failed before; one connection tries it out now.".to_owned(),
        "throttled" => format!("The destination asked for less; nothing is sent {until}."),
        "rate" => {
            let rates = destination["rates"].as_object().into_iter().flatten();
            let rates: Vec<String> =
                rates.map(|(span, limit)| format!("{limit} a {span}")).collect();
            format!(
                "The rate of {} is used up, by the {} messages of the last minute, {until}.",
                rates.join(", "),
                destination["per_minute"]
            )
        }
        "hold" => format!("A connection to it has just failed; none is opened {until}."),
        "window" => format!(
            "The window is {} at a time, grown by success, and {connections} connections use it up{sending}.",
            binding["limit"]
        ),
        "connections" => format!(
            "The limit is {} connections, and {connections} are in use{sending}.",
            destination["connections"]["max"]
        ),
        "overall" => {
            let holders = place["shard_connections"].as_array().into_iter().flatten();
            let holders: Vec<String> = holders
                .map(|one| format!("{} to {}", one["connections"], one["destination"].as_str().unwrap_or("")))
                .collect();
            format!(
                "All {} connections of its shard are in use: {}.",
                binding["limit"],
                holders.join(", ")
            )
        }
        _ => "Nothing holds it back; it goes with the next free turn.".to_owned(),
    });
    if let Some(error) = destination["last_error"].as_str() {
        said.push(format!("The last error of the destination: {error}"));
    }
    said
}

fn destination_name(place: &Value) -> String {
    let text = |key: &str| place["destination"][key].as_str().unwrap_or("");
    match text("name") {
        "" => text("destination").to_owned(),
        name if name == text("destination") => name.to_owned(),
        name => format!("{name} ({})", text("destination")),
    }
}

/// A few of a list by name, the others by number.
fn named(list: &Value, what: &str) -> String {
    let all: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match all.len() {
        0 => format!("no {what}"),
        1..=NAMED_MAX => all.join(", "),
        count => format!("{} and {} more", all[..NAMED_MAX].join(", "), count - NAMED_MAX),
    }
}

fn times(attempts: u64) -> String {
    match attempts {
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    }
}

fn at(ms: u64) -> String {
    date::rfc3339(ms)
}

/// A time as people say it.
pub fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0 => "no time".to_owned(),
        1 => "1 second".to_owned(),
        2..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: &str, place: Value) -> Value {
        let facts = json!({
            "state": state, "recipients": ["b@y.test"], "attempts": 2,
            "last_attempt_ms": 1000, "last_reply": "450 later",
            "next_attempt_ms": 120_000, "place": place,
        });
        let finish_ms = finish(&facts, 60_000);
        let mut facts = facts;
        facts["predicted_finish_ms"] = finish_ms.into();
        facts
    }

    fn line(kind: &str, per_minute: u64) -> Value {
        json!({
            "stage": "line", "ahead": 3, "under_way": ["A", "B"],
            "binding": { "kind": kind, "until_ms": 90_000, "limit": 2 },
            "destination": { "destination": "mx.y.test:25", "name": "y.test", "per_minute": per_minute,
                "rates": { "minute": 30 }, "connections": { "all": 2, "max": 2 },
                "last_error": null },
            "shard_connections": [{ "destination": "big.test", "connections": 9 }],
        })
    }

    #[test]
    fn each_wait_has_its_words() {
        let rows: [(&str, Value, bool, &[&str]); 9] = [
            (
                "store",
                job("waiting", json!({ "stage": "store" })),
                true,
                &["in 60 seconds", "2 attempts so far", "450 later"],
            ),
            ("held", job("held", json!({ "stage": "store" })), true, &["It is held"]),
            ("stopped", job("waiting", json!({ "stage": "store" })), false, &["does not run"]),
            (
                "sending",
                job(
                    "waiting",
                    json!({ "stage": "sending", "destination": { "destination": "s" } }),
                ),
                true,
                &["being sent to"],
            ),
            (
                "paused",
                job("waiting", line("paused", 10)),
                true,
                &["3 messages are ahead", "paused by an operator", "cannot be predicted"],
            ),
            (
                "connections",
                job("waiting", line("connections", 10)),
                true,
                &[
                    "limit is 2 connections, and 2 are in use; being sent now: A, B",
                    "At 10 a minute",
                    "in 54 seconds",
                ],
            ),
            (
                "rate",
                job("waiting", line("rate", 0)),
                true,
                &["30 a minute is used up", "30 seconds from now", "At 30 a minute"],
            ),
            ("overall", job("waiting", line("overall", 9)), true, &["9 to big.test"]),
            ("backoff", job("waiting", line("backing-off", 9)), true, &["left alone until"]),
        ];
        for (name, facts, runs, words) in rows {
            let said = sentences(&facts, runs, 60_000).join("\n");
            for word in words {
                assert!(said.contains(word), "{name}: {word:?} is not in\n{said}");
            }
        }
    }

    #[test]
    fn spans_are_said_in_round_numbers() {
        let rows =
            [(0, "no time"), (1, "1 second"), (61_000, "61 seconds"), (7_000_000, "116 minutes")];
        for (ms, said) in rows {
            assert_eq!(span(ms), said);
        }
    }
}
