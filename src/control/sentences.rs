//! Why a message is still queued, in sentences.
//!
//! Promise:  the sentences are made of the facts alone, so that the same facts always read the same.
//!           A prediction names its pace.

use crate::operations::destination::Binding;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::EvidenceRow;
use crate::operations::destination::RateLimits;
use crate::operations::why::ConnectionHolder;
use crate::operations::why::ExplainedJob;
use crate::operations::why::FiledJob;
use crate::operations::why::Granted;
use crate::operations::why::Place;
use crate::operations::why::QueuedJob;
use crate::operations::why::ResolvingFor;
use crate::operations::why::WaitingJob;
use crate::queue::admin::inspect::FILED_COUNT_MAX;
use crate::wire::mail::date;

/// Recipients and messages that a sentence names.
const NAMED_MAX: usize = 3;

/// When the job should be delivered if the next attempt succeeds.
pub(super) fn finish_ms(job: &ExplainedJob, now_ms: u64) -> Option<u64> {
    match &job.place {
        Place::Sending { .. }
        | Place::Reading
        | Place::Resolving { .. }
        | Place::Passing
        | Place::Writing { .. } => Some(now_ms),
        Place::Store { filed: None } => job.next_attempt_ms,
        Place::Queued(queued) if queued.binding != Binding::Paused => {
            let start_ms = queued.binding.until_ms().unwrap_or(0).max(now_ms);
            Some(start_ms + (queued.ahead + 1) * 60_000 / pace(&queued.destination)?)
        }
        Place::Store { .. } | Place::Waiting(_) | Place::Queued(_) | Place::Silent { .. } => None,
    }
}

/// Messages per minute: the current rate of the destination, or what its rate limits allow.
fn pace(destination: &DestinationRow) -> Option<u64> {
    let sources = destination.sources.len().max(1) as u64;
    let of_sources = per_minute(&destination.source_rates).map(|limit| limit * sources);
    let allowed = [per_minute(&destination.rates), of_sources].into_iter().flatten().min();
    let seen = Some(destination.per_minute).filter(|pace| *pace > 0);
    match (seen, allowed) {
        (Some(seen), Some(allowed)) => Some(seen.min(allowed)),
        (seen, allowed) => seen.or(allowed),
    }
    .filter(|pace| *pace > 0)
}

/// The messages that these rates allow in a minute.
fn per_minute(rates: &RateLimits) -> Option<u64> {
    let allowed = [
        rates.second.map(|limit| limit * 60),
        rates.minute,
        rates.hour.map(|limit| (limit / 60).max(1)),
        rates.day.map(|limit| (limit / 1440).max(1)),
    ];
    allowed.into_iter().flatten().min()
}

pub(super) fn sentences(job: &ExplainedJob, server_runs: bool, now_ms: u64) -> Vec<String> {
    let mut said = vec![format!("To {}.", named(&job.recipients, "recipients"))];
    if let Some(next_hop) = &job.rerouted_to {
        said.push(format!(
            "Rerouted by an operator to {next_hop}; undo with `queue reroute --to default`."
        ));
    }
    let due_ms = job.next_attempt_ms.unwrap_or(0);
    match &job.place {
        Place::Sending { destination } => {
            said.push(format!("Being sent to {} now.", name_of(destination)));
        }
        Place::Queued(queued) => said.extend(queued_sentences(queued, now_ms)),
        Place::Silent { .. } => {
            said.push("The shard that owns the destination does not answer.".to_owned());
        }
        Place::Reading => said.push("Its record is being read.".to_owned()),
        Place::Resolving { waits_for } => said.push(resolving_sentence(waits_for, now_ms)),
        Place::Waiting(waiting) => said.extend(waiting_sentences(waiting, now_ms)),
        Place::Passing => {
            said.push("On its way to or from the shard of its destination.".to_owned());
        }
        Place::Writing { partition } => {
            said.push(format!("A change of it is being written to partition {partition}."));
        }
        Place::Store { .. } if job.state == "held" => {
            said.push("Held: no delivery attempt until `queue release`.".to_owned());
        }
        Place::Store { .. } if !server_runs => {
            said.push("The server is not running; nothing is sent until it starts.".to_owned());
        }
        Place::Store { filed: Some(filed) } => said.extend(filed_sentences(filed, due_ms, now_ms)),
        Place::Store { filed: None } if due_ms > now_ms => {
            said.push(format!("Next attempt at {}, in {}.", at(due_ms), span(due_ms - now_ms)));
        }
        Place::Store { filed: None } => {
            said.push("Due now; about to be read from the store.".to_owned());
        }
    }
    said.push(attempts_sentence(job));
    said.extend(estimate_sentence(job, now_ms));
    said
}

/// When it should be delivered, of a job that waits for its destination.
fn estimate_sentence(job: &ExplainedJob, now_ms: u64) -> Option<String> {
    let stopped = || Some("No estimate: deliveries to this destination are stopped.".to_owned());
    let is_stopped =
        |granted: &Granted| matches!(granted.binding, Binding::Paused | Binding::Suspended { .. });
    match &job.place {
        Place::Queued(queued) => match (job.predicted_finish_ms, pace(&queued.destination)) {
            (Some(finish_ms), Some(pace)) => Some(format!(
                "At {pace} messages per minute, delivery is expected by {}, in {}, if the \
                 destination accepts the message.",
                at(finish_ms),
                span(finish_ms.saturating_sub(now_ms))
            )),
            (None, Some(_)) => stopped(),
            (_, None) => Some("No estimate: no recent deliveries to this destination.".to_owned()),
        },
        Place::Waiting(waiting) if is_stopped(&waiting.granted) => stopped(),
        Place::Store { filed: Some(filed) } if filed.granted.as_ref().is_some_and(is_stopped) => {
            stopped()
        }
        _ => None,
    }
}

fn attempts_sentence(job: &ExplainedJob) -> String {
    let attempts = match job.attempts {
        1 => "1 attempt so far".to_owned(),
        attempts => format!("{attempts} attempts so far"),
    };
    match (job.attempts, &job.last_reply) {
        (0, None) => "No delivery attempt yet.".to_owned(),
        (0, Some(reply)) => format!("No delivery attempt yet: {reply}"),
        (_, None) => format!("{attempts}."),
        (_, Some(reply)) => {
            let when = job.last_attempt_ms.map(|ms| format!(" ({})", at(ms))).unwrap_or_default();
            format!("{attempts}; last reply{when}: {reply}")
        }
    }
}

fn resolving_sentence(waits_for: &ResolvingFor, now_ms: u64) -> String {
    match waits_for {
        ResolvingFor::Lookup { ahead, places } => format!(
            "Waiting for one of the {places} lookups that the shard makes at a time; {}.",
            ahead_words(*ahead)
        ),
        ResolvingFor::Answer => {
            "Its route, mail exchangers and policies are being looked up.".to_owned()
        }
        ResolvingFor::Again { lack: Some(lack), .. } => format!(
            "Waiting for a resource of this server ({lack}). This does not count as an attempt."
        ),
        ResolvingFor::Again { at_ms, lack: None } => {
            format!("Its lookup begins again at {}.", at(at_ms.unwrap_or(now_ms)))
        }
        ResolvingFor::Numbers => "It is being split by the routes of its recipients.".to_owned(),
    }
}

fn ahead_words(ahead: u64) -> String {
    match ahead {
        0 => "no message is ahead".to_owned(),
        1 => "1 message is ahead".to_owned(),
        ahead => format!("{ahead} messages are ahead"),
    }
}

/// A job at its home shard.
fn waiting_sentences(waiting: &WaitingJob, now_ms: u64) -> Vec<String> {
    let WaitingJob { destination, name, places, places_per_flow, out, .. } = waiting;
    let key = match name == destination {
        true => destination.clone(),
        false => format!("{name} ({destination})"),
    };
    let Some(ahead) = waiting.ahead else {
        return vec![format!(
            "For {key}; waits because earlier deliveries of its partition are not yet durable."
        )];
    };
    let mut said = vec![format!("Waiting at its home shard for {key}; {}.", ahead_words(ahead))];
    said.push(match waiting.granted.binding {
        Binding::Places { .. } => format!(
            "The home shard may have {places} messages at shard {} ({places_per_flow} of one tenant \
             and class); {out} are there.",
            waiting.owner
        ),
        _ => granted_sentence(&waiting.granted, now_ms),
    });
    said.extend(grant_facts(&waiting.granted));
    said
}

/// A job on disk.
fn filed_sentences(filed: &FiledJob, due_ms: u64, now_ms: u64) -> Vec<String> {
    let destination = filed.destination.as_deref().unwrap_or("its destination");
    let ahead = match filed.ahead {
        ahead if ahead >= FILED_COUNT_MAX as u64 => format!("more than {ahead} messages are ahead"),
        ahead => ahead_words(ahead),
    };
    let mut said = vec![format!("On disk, filed under {destination}; {ahead}.")];
    if due_ms > now_ms {
        said.push(format!("Next attempt not before {}, in {}.", at(due_ms), span(due_ms - now_ms)));
    }
    if let Some(granted) = &filed.granted {
        said.push(granted_sentence(granted, now_ms));
        said.extend(grant_facts(granted));
    }
    said
}

/// What the owner of the destination told with its last grant.
fn granted_sentence(granted: &Granted, now_ms: u64) -> String {
    told_sentence(granted.binding, granted.spent_source.as_deref(), now_ms)
}

fn told_sentence(binding: Binding, source: Option<&str>, now_ms: u64) -> String {
    let until_ms = binding.until_ms().unwrap_or(now_ms);
    let until =
        format!("until {}, {} from now", at(until_ms), span(until_ms.saturating_sub(now_ms)));
    match binding {
        Binding::Paused => {
            "The destination is paused by an operator; resume it with `destination resume`.".into()
        }
        Binding::BackingOff { .. } => {
            format!("The destination failed repeatedly (backoff); no connection is opened {until}.")
        }
        Binding::Suspended { .. } => {
            format!("A rule for replies has suspended the destination {until}.")
        }
        Binding::Probing => {
            "The destination failed before; one connection is probing it now.".into()
        }
        Binding::Rate { .. } => format!("The rate limit of the destination is exhausted {until}."),
        Binding::SourceRate { .. } => source_sentence("rate limit", source, &until),
        Binding::TenantRate { .. } => tenant_sentence(&until),
        Binding::OwnLimit { .. } => format!(
            "This server lacks a resource for a connection {until}. This counts neither as an \
             attempt nor as a failure of the destination."
        ),
        Binding::Places { limit } => {
            format!("The home shard may have {limit} messages at the shard of the destination.")
        }
        _ => "No limit is reached.".into(),
    }
}

fn source_sentence(limits: &str, source: Option<&str>, until: &str) -> String {
    format!(
        "The {limits} of source address {} for this destination is exhausted {until}, and no other \
         source of the pool can send now.",
        source.unwrap_or("(any)")
    )
}

fn tenant_sentence(until: &str) -> String {
    format!("The rate limit of the tenant, over all destinations, is exhausted {until}.")
}

fn grant_facts(granted: &Granted) -> Vec<String> {
    let error = error_sentence(granted.last_error.as_deref(), granted.last_host.as_deref());
    error.into_iter().chain(granted.evidence.as_ref().map(evidence_sentence)).collect()
}

fn error_sentence(error: Option<&str>, host: Option<&str>) -> Option<String> {
    let host = host.map(|host| format!(" ({host})")).unwrap_or_default();
    error.map(|error| format!("Last error of the destination{host}: {error}"))
}

fn evidence_sentence(evidence: &EvidenceRow) -> String {
    let EvidenceRow { at_ms, until_ms, rule, reply, message } = evidence;
    let to = message.as_deref().unwrap_or("a connection");
    let (at, until) = (at(*at_ms), at(*until_ms));
    format!("The rule {rule} has acted at {at}, until {until}, on the reply to {to}: {reply}")
}

fn queued_sentences(queued: &QueuedJob, now_ms: u64) -> Vec<String> {
    let destination = &queued.destination;
    let mut said =
        vec![format!("Queued for {}; {}.", name_of(destination), ahead_words(queued.ahead))];
    said.push(binding_sentence(queued, now_ms));
    said.extend(error_sentence(
        destination.last_error.as_deref(),
        destination.last_host.as_deref(),
    ));
    said.extend(destination.evidence.last().map(evidence_sentence));
    said
}

/// What keeps the job waiting.
fn binding_sentence(queued: &QueuedJob, now_ms: u64) -> String {
    let destination = &queued.destination;
    let until_ms = queued.binding.until_ms().unwrap_or(now_ms);
    let until =
        format!("until {}, {} from now", at(until_ms), span(until_ms.saturating_sub(now_ms)));
    let in_use = destination.connections.all;
    let sending = match queued.under_way.is_empty() {
        true => String::new(),
        false => format!("; being sent now: {}", named(&queued.under_way, "messages")),
    };
    match queued.binding {
        Binding::Throttled { .. } => {
            format!("The destination asked for less mail; nothing is sent {until}.")
        }
        Binding::Rate { .. } => {
            format!(
                "The rate limit of {} is exhausted ({} messages in the last minute) {until}.",
                limits_of(&destination.rates),
                destination.per_minute
            )
        }
        Binding::SourceRate { .. } => {
            let limits = format!("rate limit of {}", limits_of(&destination.source_rates));
            source_sentence(&limits, destination.spent_source.as_deref(), &until)
        }
        Binding::TenantRate { .. } => tenant_sentence(&until),
        Binding::Hold { .. } => {
            format!("A connection to the destination just failed; none is opened {until}.")
        }
        Binding::OwnLimit { .. } => format!(
            "This server lacks a resource for a connection ({}); the next one is tried {}. This \
             counts neither as an attempt nor as a failure of the destination.",
            destination.lack.as_deref().unwrap_or("unknown"),
            at(until_ms)
        ),
        Binding::Window { limit } => format!(
            "The window allows {limit} connections and grows with success; {in_use} are in use{sending}."
        ),
        Binding::Connections { limit } if limit < destination.connections.max => format!(
            "This shard's share of the limit of {} connections is {limit}; {in_use} are in use{sending}.",
            destination.connections.max
        ),
        Binding::Connections { limit } => {
            format!("The limit is {limit} connections; {in_use} are in use{sending}.")
        }
        Binding::ServerConnections { limit } => {
            let holder =
                |one: &ConnectionHolder| format!("{} to {}", one.connections, one.destination);
            let holders: Vec<String> = queued.shard_connections.iter().map(holder).collect();
            format!(
                "All {limit} connections of the server are in use; on this shard: {}.",
                holders.join(", ")
            )
        }
        Binding::Nothing => {
            "No limit is reached; the next free connection sends the message.".to_owned()
        }
        binding => told_sentence(binding, None, now_ms),
    }
}

fn limits_of(rates: &RateLimits) -> String {
    let each = rates.each().map(|(span, limit)| format!("{limit} per {span}"));
    each.collect::<Vec<_>>().join(", ")
}

fn name_of(destination: &DestinationRow) -> String {
    let DestinationRow { destination: key, name, .. } = destination;
    match name.is_empty() || name == key {
        true => key.clone(),
        false => format!("{name} ({key})"),
    }
}

/// A few of a list by name, the others by number.
fn named(list: &[String], what: &str) -> String {
    match list.len() {
        0 => format!("no {what}"),
        1..=NAMED_MAX => list.join(", "),
        count => format!("{} and {} more", list[..NAMED_MAX].join(", "), count - NAMED_MAX),
    }
}

fn at(ms: u64) -> String {
    date::rfc3339(ms)
}

/// A time span for people.
pub fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0 => "0 seconds".to_owned(),
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

    use crate::control::rows;

    use crate::operations::destination::RateLimits;

    const NOW_MS: u64 = 60_000;

    fn job(state: &'static str, place: Place) -> ExplainedJob {
        let mut job = ExplainedJob {
            job: 0,
            state: state.into(),
            recipients: vec!["b@y.test".to_owned()],
            attempts: 2,
            last_attempt_ms: Some(1000),
            last_reply: Some("450 later".to_owned()),
            rerouted_to: None,
            next_attempt_ms: Some(120_000),
            place,
            predicted_finish_ms: None,
            sentences: Vec::new(),
        };
        job.predicted_finish_ms = finish_ms(&job, NOW_MS);
        job
    }

    fn queued(binding: Binding, per_minute: u64) -> ExplainedJob {
        let mut destination = rows::sample_row("mx.y.test:25", 0, binding);
        destination.per_minute = per_minute;
        destination.connections.max = 2;
        destination.rates = RateLimits { minute: Some(30), ..RateLimits::default() };
        let shard_connections =
            vec![ConnectionHolder { destination: "big.test".to_owned(), connections: 9 }];
        let under_way = vec!["A".to_owned(), "B".to_owned()];
        let queued = QueuedJob { ahead: 3, binding, destination, under_way, shard_connections };
        job("waiting", Place::Queued(Box::new(queued)))
    }

    fn granted(binding: Binding) -> Granted {
        let evidence = EvidenceRow {
            at_ms: 1000,
            until_ms: 2000,
            rule: "rules:7".to_owned(),
            reply: "450 too much".to_owned(),
            message: Some("M".to_owned()),
        };
        Granted {
            binding,
            last_error: Some("421 busy".to_owned()),
            last_host: Some("mx.y.test".to_owned()),
            evidence: Some(evidence),
            spent_source: matches!(binding, Binding::SourceRate { .. }).then(|| "out-1".to_owned()),
        }
    }

    fn waiting(ahead: Option<u64>, binding: Binding) -> ExplainedJob {
        let waiting = WaitingJob {
            destination: "mx.y.test:25".to_owned(),
            name: "mx:y.test".to_owned(),
            owner: 3,
            ahead,
            places: 16,
            places_per_flow: 8,
            out: 8,
            granted: granted(binding),
        };
        job("waiting", Place::Waiting(Box::new(waiting)))
    }

    fn filed(ahead: u64, granted: Option<Granted>) -> ExplainedJob {
        let destination = granted.as_ref().map(|_| "mx:y.test".to_owned());
        let filed = FiledJob { destination, ahead, granted };
        job("waiting", Place::Store { filed: Some(Box::new(filed)) })
    }

    fn resolving(waits_for: ResolvingFor) -> ExplainedJob {
        job("waiting", Place::Resolving { waits_for })
    }

    #[test]
    fn each_place_has_its_sentences() {
        let until_ms = 90_000;
        let again = |lack: Option<&str>| ResolvingFor::Again {
            at_ms: Some(until_ms),
            lack: lack.map(str::to_owned),
        };
        let rows: [(&str, ExplainedJob, &[&str]); 12] = [
            ("reading", job("waiting", Place::Reading), &["record is being read"]),
            ("writing", job("waiting", Place::Writing { partition: 2 }), &["to partition 2"]),
            (
                "lookup",
                resolving(ResolvingFor::Lookup { ahead: 5, places: 64 }),
                &["one of the 64 lookups", "5 messages are ahead"],
            ),
            ("answer", resolving(ResolvingFor::Answer), &["are being looked up"]),
            (
                "lack",
                resolving(again(Some("no local port is free"))),
                &["resource of this server (no local port is free)", "not count as an attempt"],
            ),
            ("again", resolving(again(None)), &["lookup begins again at 1970-01-01T00:01:30"]),
            (
                "places",
                waiting(Some(4), Binding::Places { limit: 16 }),
                &[
                    "Waiting at its home shard for mx:y.test (mx.y.test:25); 4 messages are ahead",
                    "may have 16 messages at shard 3 (8 of one tenant and class); 8 are there",
                    "Last error of the destination (mx.y.test): 421 busy",
                    "The rule rules:7 has acted at",
                    "on the reply to M: 450 too much",
                ],
            ),
            (
                "suspended",
                waiting(Some(0), Binding::Suspended { until_ms }),
                &[
                    "no message is ahead",
                    "suspended the destination until",
                    "30 seconds from now",
                    "No estimate: deliveries",
                ],
            ),
            (
                "rate of a source",
                waiting(Some(0), Binding::SourceRate { until_ms }),
                &["rate limit of source address out-1 for this destination", "30 seconds from now"],
            ),
            ("behind", waiting(None, Binding::Nothing), &["are not yet durable"]),
            (
                "filed",
                filed(FILED_COUNT_MAX as u64, Some(granted(Binding::Paused))),
                &[
                    "filed under mx:y.test; more than 10000 messages are ahead",
                    "Next attempt not before",
                    "paused by an operator",
                ],
            ),
            (
                "filed, unknown",
                filed(1, None),
                &["filed under its destination; 1 message is ahead"],
            ),
        ];
        for (name, job, words) in rows {
            let said = sentences(&job, true, NOW_MS).join("\n");
            for word in words {
                assert!(said.contains(word), "{name}: {word:?} is not in\n{said}");
            }
        }
    }

    #[test]
    fn each_wait_has_its_sentence() {
        let until_ms = 90_000;
        let sending =
            Place::Sending { destination: Box::new(rows::sample_row("s:25", 0, Binding::Nothing)) };
        let mut of_source = queued(Binding::SourceRate { until_ms }, 0);
        if let Place::Queued(queued) = &mut of_source.place {
            queued.destination.rates = RateLimits::default();
            queued.destination.source_rates.hour = Some(120);
            queued.destination.spent_source = Some("out-1 (192.0.2.1)".to_owned());
        }
        let rows: [(&str, ExplainedJob, bool, &[&str]); 10] = [
            (
                "store",
                job("waiting", Place::Store { filed: None }),
                true,
                &["in 60 seconds", "2 attempts so far", "450 later"],
            ),
            (
                "held",
                job("held", Place::Store { filed: None }),
                true,
                &["Held: no delivery attempt"],
            ),
            ("stopped", job("waiting", Place::Store { filed: None }), false, &["is not running"]),
            ("sending", job("waiting", sending), true, &["Being sent to a (s:25) now"]),
            (
                "paused",
                queued(Binding::Paused, 10),
                true,
                &["3 messages are ahead", "paused by an operator", "No estimate: deliveries"],
            ),
            (
                "connections",
                queued(Binding::Connections { limit: 2 }, 10),
                true,
                &[
                    "limit is 2 connections; 2 are in use; being sent now: A, B",
                    "At 10 messages per minute",
                    "in 24 seconds",
                ],
            ),
            (
                "rate",
                queued(Binding::Rate { until_ms }, 0),
                true,
                &["30 per minute is exhausted", "30 seconds from now", "At 30 messages per minute"],
            ),
            (
                "rate of a source",
                of_source,
                true,
                &[
                    "120 per hour of source address out-1 (192.0.2.1) for this",
                    "30 seconds from now",
                ],
            ),
            ("shard", queued(Binding::ServerConnections { limit: 9 }, 9), true, &["9 to big.test"]),
            ("back-off", queued(Binding::BackingOff { until_ms }, 9), true, &["opened until"]),
        ];
        for (name, job, runs, words) in rows {
            let said = sentences(&job, runs, NOW_MS).join("\n");
            for word in words {
                assert!(said.contains(word), "{name}: {word:?} is not in\n{said}");
            }
        }
    }

    #[test]
    fn spans_are_said_in_round_numbers() {
        let rows =
            [(0, "0 seconds"), (1, "1 second"), (61_000, "61 seconds"), (7_000_000, "116 minutes")];
        for (ms, said) in rows {
            assert_eq!(span(ms), said);
        }
    }
}
