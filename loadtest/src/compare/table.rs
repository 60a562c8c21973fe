//! A comparison as a table for a terminal and as Markdown.

use std::collections::BTreeMap;

use crate::compare::outcome::Outcome;
use crate::compare::outcome::Spread;
use crate::compare::outcome::Standing;
use crate::compare::outcome::ratios;
use crate::report::rounded;
use crate::report::table;

/// A row: its name, the keys of figures for ratios, and the cell of a server.
type Row = (&'static str, &'static str, fn(&Standing) -> String);

const ROWS: [Row; 15] = [
    ("turns", "", |one| one.turns.len().to_string()),
    ("sessions", "", |one| one.sessions.map_or("-".to_owned(), |sessions| sessions.to_string())),
    ("accepted per second", "accepted_per_second", |one| with_range(one, "accepted_per_second")),
    ("relayed per second", "relayed_per_second", |one| with_range(one, "relayed_per_second")),
    ("synced before 250", "", |one| {
        one.proof.as_ref().map_or("not traced".to_owned(), |proof| proof.verdict())
    }),
    ("syncs per message", "", |one| {
        let syncs = one.proof.as_ref().and_then(|proof| proof.syncs_per_message);
        syncs.map_or("-".to_owned(), |syncs| format!("{syncs:.2}"))
    }),
    ("CPU per message accepted", "accept_cpu_us", |one| unit(one, "accept_cpu_us", "us")),
    ("CPU per message relayed", "relay_cpu_us", |one| bound(one, unit(one, "relay_cpu_us", "us"))),
    ("written per message relayed", "relay_written_bytes", |one| {
        bound(one, unit(one, "relay_written_bytes", "bytes"))
    }),
    ("peak memory", "memory_mb", |one| unit(one, "memory_mb", "MB")),
    ("steady rate for latencies", "", |one| unit(one, "steady_per_second", "/s")),
    ("body to reply p50 / p99", "reply_p99_ms", |one| pair(one, "reply_p50_ms", "reply_p99_ms")),
    ("end to end p50 / p99", "end_p99_ms", |one| pair(one, "end_p50_ms", "end_p99_ms")),
    ("refused or bounced", "", |one| one.not_relayed().to_string()),
    ("lost, duplicated or changed", "", |one| one.wrong().to_string()),
];

/// For a terminal.
pub fn terminal(outcome: &Outcome) -> String {
    let shown = shown(outcome);
    let mut text = String::new();
    for (name, value) in outcome.machine.iter().chain(&outcome.settings) {
        text += &format!("{name}: {value}\n");
    }
    if !shown.is_empty() {
        text += &format!("\n{}", table::text(&cells(&shown)));
    }
    for note in notes(outcome) {
        text += &format!("\n{note}\n");
    }
    text
}

/// As Markdown, with the machine and the settings.
pub fn markdown(outcome: &Outcome) -> String {
    let list = |lines: &BTreeMap<String, String>| {
        lines.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    };
    let (machine, settings) = (list(&outcome.machine), list(&outcome.settings));
    let shown = shown(outcome);
    let mut text = format!("Machine: {machine}.\nLoad: {settings}. Medians of all turns.\n\n");
    text += &table::markdown(&cells(&shown));
    for note in notes(outcome) {
        text += &format!("\n- {note}");
    }
    text + "\n"
}

/// Servers with results.
fn shown(outcome: &Outcome) -> Vec<&Standing> {
    let has = |one: &&Standing| !one.turns.is_empty() || one.proof.is_some();
    outcome.standings.iter().filter(has).collect()
}

fn notes(outcome: &Outcome) -> Vec<String> {
    outcome.standings.iter().flat_map(Standing::notes).collect()
}

/// The head and all rows. Two servers get a column with the ratios of their turns.
fn cells(shown: &[&Standing]) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(shown.iter().map(|one| one.title()));
    if shown.len() == 2 {
        head.push("ratio of turns".to_owned());
    }
    let mut cells = vec![head];
    for (name, key, figure) in ROWS {
        let mut row = vec![name.to_owned()];
        row.extend(shown.iter().map(|one| figure(one)));
        // A row without any figure is left out.
        if row[1..].iter().all(|cell| matches!(&**cell, "-" | "- / - ms" | "not traced")) {
            continue;
        }
        if let [first, second] = shown {
            row.push(ratios(key, first, second).map_or(String::new(), |spread| {
                let Spread { median, least, most } = spread;
                format!("{median:.3} ({least:.3}-{most:.3})")
            }));
        }
        cells.push(row);
    }
    cells
}

fn with_range(one: &Standing, key: &str) -> String {
    let Some(Spread { median, least, most }) = one.spread(key) else { return "-".to_owned() };
    format!("{} ({}-{})", rounded(median), rounded(least), rounded(most))
}

fn unit(one: &Standing, key: &str, unit: &str) -> String {
    one.spread(key).map_or("-".to_owned(), |spread| format!("{} {unit}", rounded(spread.median)))
}

/// Marks a figure that is incomplete.
fn bound(one: &Standing, figure: String) -> String {
    if one.caveat.is_some() && figure != "-" { format!("at least {figure}") } else { figure }
}

fn pair(one: &Standing, first: &str, second: &str) -> String {
    let ms = |key: &str| {
        one.spread(key).map_or("-".to_owned(), |spread| format!("{:.1}", spread.median))
    };
    format!("{} / {} ms", ms(first), ms(second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::outcome::tests::outcome;

    #[test]
    fn both_tables_have_the_same_content() {
        let outcome = outcome(&[11_437.0, 12_000.0, 11_200.0]);
        let terminal = terminal(&outcome);
        let line = |start: &str| {
            let found = terminal.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("{start}: {terminal}"))
        };
        assert!(line("accepted per second").ends_with("11,400 (11,200-12,000)"), "{terminal}");
        assert!(line("synced before 250").ends_with(" yes"), "{terminal}");
        assert!(line("peak memory").ends_with("20.0 MB"), "{terminal}");
        assert!(line("Other: not present").contains("apt install"), "{terminal}");
        let markdown = markdown(&outcome);
        assert!(markdown.contains("|  | Exim 4.96 |\n|---|---|\n"), "{markdown}");
        assert!(
            markdown.contains("| accepted per second | 11,400 (11,200-12,000) |"),
            "{markdown}"
        );
        assert!(markdown.contains("- Other: not present"), "{markdown}");
    }
}
