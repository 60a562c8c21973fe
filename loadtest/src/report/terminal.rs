//! Records as text for a terminal: one as a table, several side by side.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;

use crate::report::record::Hdr;
use crate::report::record::QUANTILES;
use crate::report::record::Record;
use crate::report::record::Verdict;

const NAME_WIDTH: usize = 24;

/// One run.
pub fn one(record: &Record) -> String {
    let (kind, when) = (plain(&record.kind), plain(&record.when));
    let mut text = format!("{kind} {} of {when}\n", plain(&record.run));
    for (name, value) in record.machine.lines() {
        text += &format!("  {name}: {}\n", plain(&value));
    }
    for (name, value) in &record.settings {
        text += &format!("  {}: {}\n", plain(name), plain(value));
    }
    text + &figures(record) + &verdicts(record)
}

/// What was expected of a run, each with what was found.
pub fn verdicts(record: &Record) -> String {
    let line = |one: &Verdict| {
        let word = if one.holds { "holds" } else { "FAILS" };
        format!("  {word}  {}: {}\n", plain(&one.that), plain(&one.found))
    };
    record.verdicts.iter().map(line).collect()
}

/// What came of one run.
pub fn figures(record: &Record) -> String {
    let mut text = format!("{:.2} s, {:.0} per second", record.seconds, record.per_second);
    for (name, count) in &record.counts {
        let _ = write!(text, ", {count} {}", plain(name));
    }
    text.push('\n');
    for (place, (name, count)) in record.ledger.iter().enumerate() {
        let before = if place == 0 { "ledger: " } else { ", " };
        let _ = write!(text, "{before}{count} {}", plain(name));
    }
    text += if record.ledger.is_empty() { "" } else { "\n" };
    if let Some(fault) = &record.first_fault {
        text += &format!("the first fault: {}\n", plain(fault));
    }
    text += &(head_line() + "\n");
    for stage in &record.stages {
        text += &(stage_line(&stage.name, &stage.latencies) + "\n");
    }
    text
}

/// What stands over stages.
pub fn head_line() -> String {
    let names = QUANTILES.map(|(name, _)| format!("{name:>10}")).concat();
    format!("{:<NAME_WIDTH$}{:>10}{names}{:>10}", "milliseconds", "count", "max")
}

/// A stage, or what looks like one.
pub fn stage_line(name: &str, all: &Hdr) -> String {
    let figures = QUANTILES.map(|(_, quantile)| format!("{:>10.3}", all.ms(quantile))).concat();
    let (name, count, max) = (plain(name), all.0.len(), all.max_ms());
    format!("{name:<NAME_WIDTH$}{count:>10}{figures}{max:>10.3}")
}

/// A figure of several runs; `None` where a run has none.
pub struct Row {
    pub name: String,
    pub figures: Vec<Option<f64>>,
    /// Figures are counted rather than measured.
    pub whole: bool,
    pub better: Better,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
    Neither,
}

impl Row {
    /// Of each run behind the first.
    pub fn ratios(&self) -> Vec<Option<f64>> {
        let first = self.figures.first().copied().flatten().filter(|first| *first > 0.0);
        self.figures.iter().skip(1).map(|figure| Some((*figure)? / first?)).collect()
    }

    pub fn shown(&self, figure: Option<f64>) -> String {
        match figure {
            None => "-".to_owned(),
            Some(figure) if self.whole => format!("{figure:.0}"),
            Some(figure) => format!("{figure:.3}"),
        }
    }
}

/// Every figure of these runs.
fn rows(records: &[Record]) -> Vec<Row> {
    let mut rows = total_rows(records);
    for stage in stage_names(records) {
        let of_stage = stage_rows(stage, records).into_iter();
        rows.extend(of_stage.map(|row| Row { name: format!("{stage}, {}", row.name), ..row }));
    }
    rows
}

fn row(
    records: &[Record],
    (name, better): (&str, Better),
    whole: bool,
    figure: &dyn Fn(&Record) -> Option<f64>,
) -> Row {
    Row { name: name.to_owned(), whole, better, figures: records.iter().map(figure).collect() }
}

/// Rates and counts.
pub fn total_rows(records: &[Record]) -> Vec<Row> {
    let measured =
        |name, figure: &dyn Fn(&Record) -> Option<f64>| row(records, name, false, figure);
    let mut rows = vec![
        measured(("seconds", Better::Neither), &|record| Some(record.seconds)),
        measured(("per second", Better::More), &|record| Some(record.per_second)),
    ];
    let mut count = |before: &str, of: &dyn Fn(&Record) -> &BTreeMap<String, u64>| {
        let names: BTreeSet<&String> =
            records.iter().flat_map(|record| of(record).keys()).collect();
        for name in names {
            let count = |record: &Record| of(record).get(name).map(|count| *count as f64);
            let named = format!("{before}{name}");
            rows.push(row(records, (&named, Better::Neither), true, &count));
        }
    };
    count("", &|record| &record.counts);
    count("ledger, ", &|record| &record.ledger);
    rows
}

/// Each stage that any of them has.
pub fn stage_names(records: &[Record]) -> Vec<&String> {
    let mut names: Vec<&String> = Vec::new();
    for stage in records.iter().flat_map(|record| &record.stages) {
        if !names.contains(&&stage.name) {
            names.push(&stage.name);
        }
    }
    names
}

/// The figures of one stage.
pub fn stage_rows(stage: &str, records: &[Record]) -> Vec<Row> {
    let of = |record: &Record, figure: &dyn Fn(&Hdr) -> f64| {
        let found = record.stages.iter().find(|one| one.name == *stage);
        found.map(|stage| figure(&stage.latencies))
    };
    let count = |record: &Record| of(record, &|all| all.0.len() as f64);
    let mut rows = vec![row(records, ("count", Better::Neither), true, &count)];
    for (short, quantile) in QUANTILES {
        let at = |record: &Record| of(record, &|all| all.ms(quantile));
        rows.push(row(records, (&format!("{short} ms"), Better::Less), false, &at));
    }
    let max = |record: &Record| of(record, &|all| all.max_ms());
    rows.push(row(records, ("max ms", Better::Less), false, &max));
    rows
}

/// Several runs, each ratio to the first.
pub fn side_by_side(names: &[String], records: &[Record]) -> String {
    let rows = rows(records);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(NAME_WIDTH);
    let columns: Vec<usize> = names.iter().map(|name| name.chars().count().max(12) + 2).collect();
    let mut text = String::new();
    for (place, name) in names.iter().enumerate() {
        let record = &records[place];
        let (kind, when) = (plain(&record.kind), plain(&record.when));
        text += &format!("{}: {kind} {} of {when}\n", plain(name), plain(&record.run));
    }
    text += &format!("{:<width$}", "");
    for (place, (name, column)) in names.iter().zip(&columns).enumerate() {
        text += &format!("{:>column$}", plain(name));
        text += if place == 0 { "" } else { "     ratio" };
    }
    text.push('\n');
    for row in &rows {
        text += &format!("{:<width$}", plain(&row.name));
        let ratios = std::iter::once(None).chain(row.ratios());
        for (place, (ratio, column)) in ratios.zip(&columns).enumerate() {
            text += &format!("{:>column$}", row.shown(row.figures[place]));
            if place > 0 {
                let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                text += &format!("{ratio:>10}");
            }
        }
        text.push('\n');
    }
    text
}

/// Nothing that a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::record;

    #[test]
    fn a_run_is_a_table() {
        let mut one_run = record(1000, 1);
        one_run.first_fault = Some("550 \x1b[2Jno".into());
        one_run.run.push('\x1b');
        let text = one(&one_run);
        assert!(!text.contains('\x1b'), "{text}");
        let line = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("{start}: {text}"))
        };
        let head = line("milliseconds");
        let row = line("message");
        assert_eq!(head.len(), row.len(), "{text}");
        let figures: Vec<f64> =
            row.split_whitespace().skip(1).map(|one| one.parse().expect("a number")).collect();
        let expected = [1000.0, 500.0, 900.0, 990.0, 999.0, 1000.0, 1000.0];
        for (figure, expected) in figures.iter().zip(expected) {
            assert!((figure / expected - 1.0).abs() < 0.002, "{row}");
        }
        assert!(line("3.00 s").contains("333 per second, 1000 accepted"), "{text}");
        assert!(line("the first fault").contains("550 ?[2Jno"), "{text}");
        let (that, found) = ("all arrive".into(), "9 of 10".into());
        one_run.verdicts.push(Verdict { holds: false, that, found });
        assert!(one(&one_run).ends_with("\n  FAILS  all arrive: 9 of 10\n"));
    }

    #[test]
    fn ratios_are_those_to_the_first() {
        let mut third = record(500, 1);
        third.stages.remove(0);
        third.counts.insert("lost".into(), 3);
        let runs = [record(1000, 2), record(1000, 1), third];
        let rows = rows(&runs);
        let ratios = |name: &str| {
            let row = rows.iter().find(|row| row.name == name);
            row.unwrap_or_else(|| panic!("{name}")).ratios()
        };
        let near = |ratio: Option<f64>, expected: f64| {
            assert!(ratio.is_some_and(|ratio| (ratio / expected - 1.0).abs() < 0.003), "{ratio:?}");
        };
        near(ratios("per second")[1], 0.5);
        near(ratios("accepted")[0], 1.0);
        near(ratios("message, p99 ms")[0], 0.5);
        near(ratios("message, p99 ms")[1], 0.25);
        near(ratios("body to reply, max ms")[0], 0.5);
        assert_eq!(ratios("body to reply, p50 ms")[1], None, "it has no such stage");
        assert_eq!(ratios("lost"), [None, None], "there is none to the first's none");

        let text = side_by_side(&["a.json".into(), "b.json".into(), "c.json".into()], &runs);
        let row = text.lines().find(|line| line.starts_with("message, p50 ms")).expect(&text);
        let fields: Vec<&str> = row.split_whitespace().skip(3).collect();
        assert_eq!((fields.len(), fields[2], fields[4]), (5, "0.50", "0.25"), "{text}");
        let widths: Vec<usize> = text.lines().skip(3).map(str::len).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
