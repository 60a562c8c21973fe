//! Where a run tells what it measured: the flags that every kind of run has.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::report::hgrm;
use crate::report::html;
use crate::report::interval_log;
use crate::report::machine::Machine;
use crate::report::record::Record;
use crate::report::seconds::Live;
use crate::report::terminal;

/// See each.
#[derive(Args, Clone, Debug, Default)]
pub struct Outputs {
    /// Print the record of the run as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the record as JSON to this file, for `ringpost-load report`.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a page with tables and charts to this file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write percentile distributions into this folder, a file for each stage, for the plotters of
    /// HdrHistogram.
    #[arg(long, value_name = "FOLDER")]
    pub hgrm: Option<PathBuf>,
    /// Write a histogram for each second to this file, for the log viewers of HdrHistogram.
    #[arg(long, value_name = "FILE")]
    pub interval_log: Option<PathBuf>,
    /// Show each second on stderr when it is over, also where that is no terminal.
    #[arg(long)]
    pub live: bool,
    /// Describe the disk of this folder in the record, and measure its syncs before the run.
    #[arg(long, value_name = "FOLDER")]
    pub disk: Option<PathBuf>,
}

impl Outputs {
    /// What cannot be written after the run is better told before it.
    pub fn check(&self) -> Result<(), String> {
        let files = [("--output", &self.output), ("--html", &self.html)];
        let files = files.into_iter().chain([("--interval-log", &self.interval_log)]);
        for (flag, path) in files {
            let Some(path) = path else { continue };
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if path.is_dir() {
                return Err(format!("{flag}: {} is a folder; name a file in it", path.display()));
            }
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                return Err(format!("{flag}: there is no folder {}; make it", folder.display()));
            }
        }
        if let Some(path) = self.disk.as_ref().filter(|path| !path.is_dir()) {
            return Err(format!("--disk: {} is no folder", path.display()));
        }
        match &self.hgrm {
            Some(folder) => make_folder(folder),
            None => Ok(()),
        }
    }

    /// The machine, as far as was asked for.
    pub fn machine(&self) -> Machine {
        Machine::describe(self.disk.as_deref())
    }

    /// Whether seconds are shown, where nothing else is shown on stderr.
    pub fn live(&self) -> Live {
        if self.live { Live::Always } else { Live::OnTerminal }
    }

    /// Prints the record, and writes all that is to be written, whatever fails of it.
    pub fn tell(&self, record: &Record) -> Result<(), String> {
        match self.json {
            true => println!("{}", record.to_json()),
            false => print!("{}{}", terminal::figures(record), terminal::verdicts(record)),
        }
        let mut faults = Vec::new();
        if let Some(path) = &self.output {
            faults.extend(write(path, &format!("{}\n", record.to_json())).err());
        }
        let records = std::slice::from_ref(record);
        faults.extend(write_all(self, std::slice::from_ref(&record.kind), records).err());
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// The forms other than JSON.
pub fn write_all(outputs: &Outputs, names: &[String], records: &[Record]) -> Result<(), String> {
    let mut faults = Vec::new();
    if let Some(path) = &outputs.html {
        faults.extend(html::page(names, records).and_then(|page| write(path, &page)).err());
    }
    if let Some(folder) = &outputs.hgrm {
        for (place, record) in records.iter().enumerate() {
            let prefix = if records.len() > 1 { format!("{}-", place + 1) } else { String::new() };
            faults.extend(write_distributions(folder, &prefix, record).err());
        }
    }
    if let Some(path) = &outputs.interval_log {
        // Several runs have their own times, so that they never share a log.
        for record in records.iter().take(1) {
            faults.extend(interval_log::to_text(record).and_then(|text| write(path, &text)).err());
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn write_distributions(folder: &Path, prefix: &str, record: &Record) -> Result<(), String> {
    make_folder(folder)?;
    for stage in &record.stages {
        let name = format!("{prefix}{}", hgrm::file_name(&stage.name));
        write(&folder.join(name), &hgrm::to_text(&stage.latencies.0))?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|cause| format!("{}: {cause}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))
}
