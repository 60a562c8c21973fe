//! A comparison as a table: for a terminal, and as Markdown.

use crate::compare::outcome::Outcome;
use crate::compare::outcome::Spread;
use crate::compare::outcome::Standing;

/// A row: what it is called, and what it says of a server.
type Row = (&'static str, fn(&Standing) -> String);

const ROWS: [Row; 15] = [
    ("turns", |one| one.turns.len().to_string()),
    ("sessions", |one| one.sessions.map_or("-".to_owned(), |sessions| sessions.to_string())),
    ("accepted a second", |one| with_spread(one.spread("accepted_per_second"))),
    ("relayed a second", |one| with_spread(one.spread("relayed_per_second"))),
    ("synced before 250", |one| {
        one.proof.as_ref().map_or("not traced".to_owned(), |proof| proof.verdict())
    }),
    ("syncs per message", |one| {
        let syncs = one.proof.as_ref().and_then(|proof| proof.syncs_per_message);
        syncs.map_or("-".to_owned(), |syncs| format!("{syncs:.2}"))
    }),
    ("CPU per message accepted", |one| unit(one.spread("accept_cpu_us"), "us")),
    ("CPU per message relayed", |one| bound(one, unit(one.spread("relay_cpu_us"), "us"))),
    ("written per message relayed", |one| bound(one, kilobytes(one.spread("relay_written_bytes")))),
    ("peak memory", |one| unit(one.spread("memory_mb"), "MB")),
    ("steady rate for latencies", |one| unit(one.spread("steady_per_second"), "/s")),
    ("body to reply p50 / p99", |one| pair(one, "reply_p50_ms", "reply_p99_ms")),
    ("end to end p50 / p99", |one| pair(one, "end_p50_ms", "end_p99_ms")),
    ("not accepted or sent back", |one| one.not_relayed().to_string()),
    ("lost (not there after 20 s without any) or wrong", |one| one.wrong().to_string()),
];

/// For a terminal.
pub fn terminal(outcome: &Outcome) -> String {
    let shown = shown(outcome);
    let mut text = String::new();
    for (name, value) in outcome.machine.lines() {
        text += &format!("{name}: {value}\n");
    }
    for (name, value) in &outcome.settings {
        text += &format!("{name}: {value}\n");
    }
    if !shown.is_empty() {
        let cells = cells(&shown);
        let width =
            |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=shown.len()).map(width).collect();
        text.push('\n');
        for row in &cells {
            let padded: Vec<String> = row.iter().zip(&widths).enumerate().map(pad).collect();
            text += padded.join("  ").trim_end();
            text.push('\n');
        }
    }
    for note in notes(outcome) {
        text += &format!("\n{note}\n");
    }
    text
}

/// As Markdown, the machine and the conditions before it.
pub fn markdown(outcome: &Outcome) -> String {
    let list = |lines: Vec<(String, String)>| {
        lines.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    };
    let machine = outcome.machine.lines().into_iter();
    let machine = list(machine.map(|(name, value)| (name.to_owned(), value)).collect());
    let settings = list(outcome.settings.clone().into_iter().collect());
    let shown = shown(outcome);
    let mut text = format!("Machine: {machine}.\nLoad: {settings}. Medians of the turns.\n\n");
    for (place, row) in cells(&shown).iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if place == 0 {
            text += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    for note in notes(outcome) {
        text += &format!("\n- {note}");
    }
    text + "\n"
}

/// Those of which there is something to show.
fn shown(outcome: &Outcome) -> Vec<&Standing> {
    let has = |one: &&Standing| !one.turns.is_empty() || one.proof.is_some();
    outcome.standings.iter().filter(has).collect()
}

fn notes(outcome: &Outcome) -> Vec<String> {
    outcome.standings.iter().flat_map(Standing::notes).collect()
}

/// The head and all rows.
fn cells(shown: &[&Standing]) -> Vec<Vec<String>> {
    let head = std::iter::once(String::new()).chain(shown.iter().map(|one| one.title()));
    let mut cells = vec![head.collect()];
    for (name, figure) in ROWS {
        let figures = shown.iter().map(|one| figure(one));
        cells.push(std::iter::once(name.to_owned()).chain(figures).collect());
    }
    cells
}

fn pad((place, (text, width)): (usize, (&String, &usize))) -> String {
    // Names to the left, figures to the right.
    if place == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn with_spread(spread: Option<Spread>) -> String {
    let Some(Spread { median, least, most }) = spread else { return "-".to_owned() };
    format!("{} ({}-{})", round(median), round(least), round(most))
}

fn unit(spread: Option<Spread>, unit: &str) -> String {
    spread.map_or("-".to_owned(), |spread| format!("{} {unit}", round(spread.median)))
}

/// Of a figure that leaves something out.
fn bound(one: &Standing, figure: String) -> String {
    if one.caveat.is_some() && figure != "-" { format!("at least {figure}") } else { figure }
}

fn kilobytes(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |spread| format!("{:.1} KB", spread.median / 1000.0))
}

fn pair(one: &Standing, first: &str, second: &str) -> String {
    let ms = |key: &str| {
        one.spread(key).map_or("-".to_owned(), |spread| format!("{:.1}", spread.median))
    };
    format!("{} / {} ms", ms(first), ms(second))
}

/// To three digits; more would be noise.
fn round(figure: f64) -> String {
    if figure == 0.0 {
        return "0".to_owned();
    }
    let digits = 2 - figure.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    let rounded = (figure * scale).round() / scale;
    let decimals = usize::try_from(digits).unwrap_or(0);
    let text = format!("{rounded:.decimals$}");
    let whole = text.split('.').next().unwrap_or_default().len();
    // 11,400 reads better than 11400.
    let mut grouped = String::new();
    for (place, digit) in text.chars().enumerate() {
        if place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::outcome::tests::outcome;

    #[test]
    fn figures_have_three_digits() {
        let rows = [
            (11_437.2, "11,400"),
            (1_234_567.0, "1,230,000"),
            (999.4, "999"),
            (61.23, "61.2"),
            (0.0123, "0.0123"),
            (0.0, "0"),
        ];
        for (figure, expected) in rows {
            assert_eq!(round(figure), expected);
        }
    }

    #[test]
    fn both_tables_say_the_same() {
        let outcome = outcome(&[11_437.0, 12_000.0, 11_200.0]);
        let terminal = terminal(&outcome);
        let line = |start: &str| {
            let found = terminal.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("{start}: {terminal}"))
        };
        assert!(line("accepted a second").ends_with("11,400 (11,200-12,000)"), "{terminal}");
        assert!(line("synced before 250").ends_with(" yes"), "{terminal}");
        assert!(line("peak memory").ends_with("20.0 MB"), "{terminal}");
        assert!(line("Other: not present").contains("apt install"), "{terminal}");
        let markdown = markdown(&outcome);
        assert!(markdown.contains("|  | Exim 4.96 |\n|---|---|\n"), "{markdown}");
        assert!(markdown.contains("| accepted a second | 11,400 (11,200-12,000) |"), "{markdown}");
        assert!(markdown.contains("- Other: not present"), "{markdown}");
    }
}
