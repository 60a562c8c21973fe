//! The figures of several runs side by side, and their ratios to the first run.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::report::record::Hdr;
use crate::report::record::QUANTILES;
use crate::report::record::Record;

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
