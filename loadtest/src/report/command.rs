//! `ringpost-load report`: records that were written before, shown again or side by side.

use std::path::PathBuf;

use clap::Args;

use crate::report::outputs::Outputs;
use crate::report::outputs::write_all;
use crate::report::record::Record;
use crate::report::terminal;

/// Which, and how.
#[derive(Args, Debug)]
pub struct Report {
    /// Records, as `--output` and `--json` of a run write them. Ratios are those to the first.
    #[arg(value_name = "RECORD", required = true)]
    records: Vec<PathBuf>,
    /// Write a page with tables and charts to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write percentile distributions into this folder, a file for each stage, for the plotters of
    /// HdrHistogram. Those of several records have its place before their name.
    #[arg(long, value_name = "FOLDER")]
    hgrm: Option<PathBuf>,
    /// Write a histogram for each second to this file, for the log viewers of HdrHistogram. A log
    /// is of one record.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Shows them. All are read before anything is written.
pub fn run(report: Report) -> Result<(), String> {
    if report.log.is_some() && report.records.len() > 1 {
        return Err("--log: a log is of one record; give one at a time".to_owned());
    }
    let records: Vec<Record> =
        report.records.iter().map(|path| Record::read(path)).collect::<Result<_, _>>()?;
    let names = names(&report.records);
    match &records[..] {
        [one] => print!("{}", terminal::one(one)),
        several => print!("{}", terminal::side_by_side(&names, several)),
    }
    let Report { html, hgrm, log, .. } = report;
    let outputs = Outputs { html, hgrm, interval_log: log, ..Outputs::default() };
    outputs.check()?;
    write_all(&outputs, &names, &records)
}

/// What files are called, and where two are called the same, their paths.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        path.file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into_owned())
    };
    let is_shared = |name: &String| paths.iter().filter(|path| short(path) == *name).count() > 1;
    paths
        .iter()
        .map(|path| Some(short(path)).filter(|name| !is_shared(name)))
        .zip(paths)
        .map(|(name, path)| name.unwrap_or_else(|| path.display().to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_their_files() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["x/a.json", "b.json"]), ["a", "b"]);
        assert_eq!(names(&["x/a.json", "y/a.json"]), ["x/a.json", "y/a.json"]);
    }
}
