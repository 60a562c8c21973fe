//! The output flags that every kind of run has.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::flags::check_writable;
use crate::flags::read_folder;
use crate::report::html;
use crate::report::machine::describe_machine;
use crate::report::record::Record;
use crate::report::terminal;

#[derive(Args, Clone, Debug, Default)]
pub struct Outputs {
    /// Print the record of the run as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the record as JSON to this file, for `ringpost-load report`. Its histograms are in the
    /// format of HdrHistogram (V2, compressed, base64).
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a page with charts and tables to this file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print a line per second on standard error even if it is not a terminal.
    #[arg(short = 'c', long)]
    pub live: bool,
    /// Describe the disk of this folder in the record, and measure the duration of a sync before the
    /// run.
    #[arg(long, value_name = "FOLDER", value_parser = read_folder)]
    pub disk: Option<PathBuf>,
}

impl Outputs {
    /// Checks before the run that the files can be written.
    pub fn check(&self) -> Result<(), String> {
        check_writable("--output", self.output.as_deref())?;
        check_writable("--html", self.html.as_deref())
    }

    /// The machine, with the disk of `--disk`.
    pub fn machine(&self) -> BTreeMap<String, String> {
        describe_machine(self.disk.as_deref())
    }

    /// Whether to show each second on stderr.
    pub fn live(&self) -> bool {
        self.live || std::io::stderr().is_terminal()
    }

    /// Prints the record and writes all files, even if one of them fails.
    pub fn write(&self, record: &Record) -> Result<(), String> {
        match self.json {
            true => println!("{}", record.to_json()),
            false => print!("{}{}", terminal::verdicts(record), terminal::figures(record)),
        }
        let mut faults = Vec::new();
        if let Some(path) = &self.output {
            faults.extend(write(path, &format!("{}\n", record.to_json())).err());
        }
        let (name, record) = (std::slice::from_ref(&record.kind), std::slice::from_ref(record));
        faults.extend(write_page(self, name, record).err());
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// Writes the page of `--html`.
pub fn write_page(outputs: &Outputs, names: &[String], records: &[Record]) -> Result<(), String> {
    let Some(path) = &outputs.html else { return Ok(()) };
    html::page(names, records).and_then(|page| write(path, &page))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))
}
