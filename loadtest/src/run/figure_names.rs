//! The names of all figures of a scenario.
//!
//! ```text
//! total.NAME         the account: accepted, arrived, bounced, stuck, lost...
//! server.NAME        counts and costs of the server, if the run starts it
//! SOURCE.NAME        counts; SOURCE.STAGE.p99_ms for each stage, and `end_to_end` with a rate
//! SINK.NAME          counts; SINK.end_to_end.p99_ms
//! IDLE.NAME          sessions, alive, memory_kb_per_session
//! ```

use crate::report::QUANTILES;
use crate::report::by_name;
use crate::run::account::Account;
use crate::run::figures::END_TO_END;
use crate::run::scenario::Scenario;
use crate::sink::Counts;
use crate::source::stages;

const SERVER: [&str; 9] = [
    "taken",
    "delivered",
    "bounced",
    "queued",
    "cpu_ms",
    "cpu_us_per_message",
    "memory_mb",
    "memory_mb_max",
    "written_bytes_per_message",
];
const SOURCE: [&str; 14] = [
    "planned",
    "accepted",
    "refused",
    "unknown",
    "not_sent",
    "late",
    "unconnected",
    "tls_handshakes",
    "tls_resumed",
    "arrived",
    "bounced",
    "missing",
    "seconds",
    "per_second",
];
const IDLE: [&str; 3] = ["sessions", "alive", "memory_kb_per_session"];

/// Checks that a run of this scenario has this figure.
pub fn check_name(figure: &str, scenario: &Scenario) -> Result<(), String> {
    let (of, name) = figure.split_once('.').unwrap_or((figure, ""));
    let known: Vec<String> = if of == "total" {
        by_name(&Account::default()).into_keys().collect()
    } else if of == "server" {
        SERVER.map(str::to_owned).to_vec()
    } else if let Some(source) = scenario.sources.iter().find(|source| source.name == of) {
        let stages = stages::NAMES.iter().map(|name| name.replace(' ', "_"));
        let end_to_end = source.rate.map(|_| END_TO_END.to_owned());
        SOURCE
            .map(str::to_owned)
            .into_iter()
            .chain(with_quantiles(stages.chain(end_to_end)))
            .collect()
    } else if scenario.sink(of).is_some() {
        let stages = with_quantiles(std::iter::once(END_TO_END.to_owned()));
        by_name(&Counts::default()).into_keys().chain(stages).collect()
    } else if scenario.idle.iter().any(|idle| idle.name == of) {
        IDLE.map(str::to_owned).to_vec()
    } else {
        return Err(format!(
            "`{figure}`: there is no `{of}`; a figure starts with total, server, or the name of a \
             part"
        ));
    };
    match known.iter().any(|one| one == name) {
        true => Ok(()),
        false => Err(format!("`{figure}`: unknown figure; `{of}` has {}", known.join(", "))),
    }
}

fn with_quantiles(stages: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let each = |stage: String| {
        let quantiles = QUANTILES.map(|(name, _)| format!("{stage}.{name}_ms"));
        quantiles.into_iter().chain(["max_ms", "count"].map(|name| format!("{stage}.{name}")))
    };
    stages.flat_map(each)
}
