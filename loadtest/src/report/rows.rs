//! Tables of figures: the stages of one run, or several runs side by side with their ratios to the first.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::report::histogram::Hdr;
use crate::report::histogram::QUANTILES;
use crate::report::histogram::Stage;
use crate::report::number::figure;
use crate::report::number::grouped;
use crate::report::record::Record;

/// Ratios further from 1 are better or worse.
const RATIO_EVEN: f64 = 0.05;

/// A cell of a table.
#[derive(Clone)]
pub struct Cell {
    pub text: String,
    /// Of a ratio; `None`: neither better nor worse.
    pub is_better: Option<bool>,
}

/// A figure of several runs; `None` if a run does not have it.
pub struct Row {
    pub name: String,
    pub figures: Vec<Option<f64>>,
    /// Figures are counts.
    pub whole: bool,
    pub better: Better,
}

/// Which of two figures is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
    Neither,
}

impl Row {
    /// The ratio of each run after the first.
    pub fn ratios(&self) -> Vec<Option<f64>> {
        let first = self.figures.first().copied().flatten().filter(|first| *first > 0.0);
        self.figures.iter().skip(1).map(|figure| Some((*figure)? / first?)).collect()
    }

    fn shown(&self, place: usize) -> Cell {
        cell(match self.figures[place] {
            None => "-".to_owned(),
            Some(value) if self.whole => grouped(value as u64),
            Some(value) => figure(value),
        })
    }

    fn ratio_shown(&self, ratio: Option<f64>) -> Cell {
        let is_better = match (ratio, self.better) {
            (Some(ratio), Better::More) => Some(ratio > 1.0),
            (Some(ratio), Better::Less) => Some(ratio < 1.0),
            _ => None,
        };
        let is_even = ratio.is_none_or(|ratio| (ratio - 1.0).abs() <= RATIO_EVEN);
        let text = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        Cell { text, is_better: is_better.filter(|_| !is_even) }
    }

    fn new(
        records: &[Record],
        name: &str,
        (better, whole): (Better, bool),
        figure: &dyn Fn(&Record) -> Option<f64>,
    ) -> Row {
        Row { name: name.to_owned(), whole, better, figures: records.iter().map(figure).collect() }
    }
}

/// Rates and counts.
pub fn totals(records: &[Record]) -> Vec<Row> {
    let mut rows = vec![
        Row::new(records, "seconds", (Better::Neither, false), &|record| Some(record.seconds)),
        Row::new(records, "per second", (Better::More, false), &|record| Some(record.per_second)),
    ];
    let mut count = |before: &str, of: &dyn Fn(&Record) -> &BTreeMap<String, u64>| {
        let names: BTreeSet<&String> =
            records.iter().flat_map(|record| of(record).keys()).collect();
        for name in names {
            let count = |record: &Record| of(record).get(name).map(|count| *count as f64);
            let named = format!("{before}{}", name.replace('_', " "));
            rows.push(Row::new(records, &named, (Better::Neither, true), &count));
        }
    };
    count("", &|record| &record.counts);
    count("ledger, ", &|record| &record.ledger);
    rows
}

/// Every stage of any run.
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
pub fn of_stage(stage: &str, records: &[Record]) -> Vec<Row> {
    let of = |record: &Record, figure: &dyn Fn(&Hdr) -> f64| {
        let found = record.stages.iter().find(|one| one.name == *stage);
        found.map(|stage| figure(&stage.latencies))
    };
    let count = |record: &Record| of(record, &|all| all.0.len() as f64);
    let mut rows = vec![Row::new(records, "count", (Better::Neither, true), &count)];
    for (short, quantile) in QUANTILES {
        let at = |record: &Record| of(record, &|all| all.ms(quantile));
        rows.push(Row::new(records, &format!("{short} ms"), (Better::Less, false), &at));
    }
    let max = |record: &Record| of(record, &|all| all.max_ms());
    rows.push(Row::new(records, "max ms", (Better::Less, false), &max));
    rows
}

/// A table with a line for each stage of one run.
pub fn stage_table(stages: &[Stage]) -> Vec<Vec<Cell>> {
    let quantiles = QUANTILES.map(|(name, _)| name);
    let head = ["milliseconds", "count"].into_iter().chain(quantiles).chain(["max"]);
    let mut table = vec![head.map(|name| cell(name.to_owned())).collect()];
    for Stage { name, latencies: all } in stages {
        let quantiles = QUANTILES.map(|(_, quantile)| figure(all.ms(quantile)));
        let cells = [name.clone(), grouped(all.0.len())].into_iter().chain(quantiles);
        table.push(cells.chain([figure(all.max_ms())]).map(cell).collect());
    }
    table
}

/// A table with a line for each figure, and behind each run except the first its ratio.
pub fn side_by_side(names: &[String], rows: &[Row]) -> Vec<Vec<Cell>> {
    let mut head = vec![cell(String::new())];
    for (place, name) in names.iter().enumerate() {
        head.push(cell(name.clone()));
        head.extend((place > 0).then(|| cell("ratio".to_owned())));
    }
    let mut table = vec![head];
    for row in rows {
        let mut line = vec![cell(row.name.clone())];
        let ratios = std::iter::once(None).chain(row.ratios());
        for (place, ratio) in ratios.enumerate().take(names.len()) {
            line.push(row.shown(place));
            line.extend((place > 0).then(|| row.ratio_shown(ratio)));
        }
        table.push(line);
    }
    table
}

/// The columns of a table as its lines.
pub fn transposed(table: &[Vec<Cell>]) -> Vec<Vec<Cell>> {
    let columns = table.first().map_or(0, Vec::len);
    (0..columns).map(|column| table.iter().map(|line| line[column].clone()).collect()).collect()
}

fn cell(text: String) -> Cell {
    Cell { text, is_better: None }
}
