//! `ringpost-load report`: shows saved records, one or several side by side.

use std::path::PathBuf;

use clap::Args;

use crate::report::outputs::Outputs;
use crate::report::outputs::write_page;
use crate::report::record::Record;
use crate::report::terminal;

#[derive(Args, Debug)]
pub struct Report {
    /// Records written by `--output` or `--json`. Ratios are relative to the first.
    #[arg(value_name = "RECORD", required = true)]
    records: Vec<PathBuf>,
    /// Write a page with charts and tables to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Reads all records, then prints them.
pub fn run(report: Report) -> Result<(), String> {
    let records: Vec<Record> =
        report.records.iter().map(|path| Record::read(path)).collect::<Result<_, _>>()?;
    let names = names(&report.records);
    match &records[..] {
        [one] => print!("{}", terminal::one(one)),
        several => print!("{}", terminal::side_by_side(&names, several)),
    }
    let outputs = Outputs { html: report.html, ..Outputs::default() };
    outputs.check()?;
    write_page(&outputs, &names, &records)
}

/// The names of the files, or their paths if two files have the same name.
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
    fn runs_are_named_after_their_files() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["x/a.json", "b.json"]), ["a", "b"]);
        assert_eq!(names(&["x/a.json", "y/a.json"]), ["x/a.json", "y/a.json"]);
    }
}
