//! Records as text for a terminal: one as a table, several side by side.

use std::fmt::Write;

use crate::report::record::Record;
use crate::report::record::Verdict;
use crate::report::rows;
use crate::report::rows::Cell;
use crate::report::rows::Row;
use crate::report::table;

/// One run.
pub fn one(record: &Record) -> String {
    let (kind, when) = (plain(&record.kind), plain(&record.when));
    let mut text = format!("{kind} {} of {when}\n", plain(&record.run));
    for (name, value) in record.machine.iter().chain(&record.settings) {
        text += &format!("  {}: {}\n", plain(name), plain(value));
    }
    text + &verdicts(record) + &figures(record)
}

/// The expectations of a run and what was found.
pub fn verdicts(record: &Record) -> String {
    let line = |one: &Verdict| {
        let word = if one.holds { "holds" } else { "FAILS" };
        format!("  {word}  {}: {}\n", plain(&one.that), plain(&one.found))
    };
    record.verdicts.iter().map(line).collect()
}

/// The figures of one run.
pub fn figures(record: &Record) -> String {
    let mut text = format!("{:.2} s, {:.0} per second", record.seconds, record.per_second);
    for (name, count) in &record.counts {
        let _ = write!(text, ", {count} {}", plain(&name.replace('_', " ")));
    }
    text.push('\n');
    for (place, (name, count)) in record.ledger.iter().enumerate() {
        let before = if place == 0 { "ledger: " } else { ", " };
        let _ = write!(text, "{before}{count} {}", plain(name));
    }
    text += if record.ledger.is_empty() { "" } else { "\n" };
    if let Some(fault) = &record.first_fault {
        text += &format!("first error: {}\n", plain(fault));
    }
    text + &table_of(&rows::stage_table(&record.stages))
}

fn table_of(lines: &[Vec<Cell>]) -> String {
    let plain = |line: &Vec<Cell>| line.iter().map(|cell| plain(&cell.text)).collect();
    table::text(&lines.iter().map(plain).collect::<Vec<_>>())
}

/// All figures of these runs.
fn all_rows(records: &[Record]) -> Vec<Row> {
    let mut all = rows::totals(records);
    for stage in rows::stage_names(records) {
        let of_stage = rows::of_stage(stage, records).into_iter();
        all.extend(of_stage.map(|row| Row { name: format!("{stage}, {}", row.name), ..row }));
    }
    all
}

/// Several runs, with the ratio of each to the first.
pub fn side_by_side(names: &[String], records: &[Record]) -> String {
    let mut text = String::new();
    for (name, record) in names.iter().zip(records) {
        let (kind, when) = (plain(&record.kind), plain(&record.when));
        text += &format!("{}: {kind} {} of {when}\n", plain(name), plain(&record.run));
    }
    text + &table_of(&rows::side_by_side(names, &all_rows(records)))
}

/// Without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::record;

    #[test]
    fn a_run_is_a_table_whose_columns_never_collide() {
        let mut one_run = record(1000, 1000);
        one_run.first_fault = Some("550 \x1b[2Jno".into());
        one_run.run.push('\x1b');
        let text = one(&one_run);
        assert!(!text.contains('\x1b'), "{text}");
        let line = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("{start}: {text}"))
        };
        let (head, row) = (line("milliseconds"), line("message"));
        assert_eq!(head.len(), row.len(), "{text}");
        let cells = row.split_whitespace().skip(1).map(|one| one.replace(',', ""));
        let figures: Vec<f64> = cells.map(|one| one.parse().expect("a number")).collect();
        // A thousand seconds and less, which is more than 99,999 ms.
        let expected = [1.0, 500.0, 900.0, 990.0, 999.0, 1000.0, 1000.0].map(|s| s * 1000.0);
        assert_eq!(figures.len(), expected.len(), "{row}");
        for (figure, expected) in figures.iter().zip(expected) {
            assert!((figure / expected - 1.0).abs() < 0.002, "{row}");
        }
        assert!(line("3.00 s").contains("333 per second, 1000 accepted"), "{text}");
        assert!(line("first error").contains("550 ?[2Jno"), "{text}");
        let (that, found) = ("all arrive".into(), "9 of 10".into());
        one_run.verdicts.push(Verdict { holds: false, that, found });
        assert!(one(&one_run).contains("\n  FAILS  all arrive: 9 of 10\n"));
    }

    #[test]
    fn ratios_are_relative_to_the_first_run() {
        let mut third = record(500, 1);
        third.stages.remove(0);
        third.counts.insert("lost".into(), 3);
        let runs = [record(1000, 2), record(1000, 1), third];
        let rows = all_rows(&runs);
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
        assert_eq!(ratios("body to reply, p50 ms")[1], None, "the third run lacks the stage");
        assert_eq!(ratios("lost"), [None, None], "the first run has none");

        let text = side_by_side(&["a.json".into(), "b.json".into(), "c.json".into()], &runs);
        let row = text.lines().find(|line| line.starts_with("message, p50 ms")).expect(&text);
        let fields: Vec<&str> = row.split_whitespace().skip(3).collect();
        assert_eq!((fields.len(), fields[2], fields[4]), (5, "0.50", "0.25"), "{text}");
        let widths: Vec<usize> = text.lines().skip(3).map(str::len).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
