//! The report of the doctor.
//!
//! Promise:  the exit code is that of the most severe finding: 0 for `ok` and `note`, 1 for `warn`, 2
//!           for `error`. In the JSON form every finding has all fields.

use std::fmt;
use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;
use serde_json::json;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::check::Level;

const EXIT_WARN: u8 = 1;
pub const EXIT_ERROR: u8 = 2;

/// All findings, in the order of the checks.
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(mut findings: Vec<Finding>) -> Report {
        findings.sort_by_key(|finding| {
            let place = check::ALL.iter().position(|check| check.id == finding.check.id);
            place.expect("`ALL` holds every check")
        });
        Report { findings }
    }

    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.level).max() {
            None | Some(Level::Ok | Level::Note) => 0,
            Some(Level::Warn) => EXIT_WARN,
            Some(Level::Error) => EXIT_ERROR,
        }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// The report as text: one line for each finding; those that are not `ok` with reason, remedy and
    /// file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, level, seen, remedy } in &self.findings {
            let mut line = |name: &dyn fmt::Display, what: &dyn fmt::Display| {
                writeln!(text, "{name:<5} {what}").expect("writing to a String cannot fail");
            };
            line(level, &format_args!("{:<15} {seen}", check.id));
            if *level != Level::Ok {
                line(&"", &format_args!("{:<15} why: {}", "", check.why));
                line(&"", &format_args!("{:<15} do:  {remedy} (tuning/{})", "", check.file));
            }
        }
        let [errors, warnings, notes] =
            [Level::Error, Level::Warn, Level::Note].map(|level| self.count(level));
        writeln!(text, "\n{errors} errors, {warnings} warnings, {notes} notes")
            .expect("writing to a String cannot fail");
        text
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "id": finding.check.id,
                "level": finding.level.name(),
                "seen": finding.seen,
                "why": finding.check.why,
                "remedy": finding.remedy,
                "file": format!("tuning/{}", finding.check.file),
            })
        };
        json!({
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warn),
            "notes": self.count(Level::Note),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    /// Prints the report and returns the exit code.
    pub fn print(&self, as_json: bool) -> ExitCode {
        if as_json {
            println!("{:#}", self.json());
        } else {
            print!("{}", self.text());
        }
        ExitCode::from(self.exit_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_printed_and_judged() {
        let report = Report::new(vec![
            check::CLOCK.warn("not synchronised", "run chrony"),
            check::KERNEL.ok("Linux 6.1"),
            check::MEMLOCK.note("unlimited", "nothing"),
        ]);
        let expected = "\
ok    kernel          Linux 6.1
note  memlock         unlimited
                      why: io_uring rings and their buffers are locked memory
                      do:  nothing (tuning/memlock.md)
warn  clock           not synchronised
                      why: retries, TLS and the Date fields of mail depend on the clock
                      do:  run chrony (tuning/clock.md)

0 errors, 1 warnings, 1 notes
";
        assert_eq!(report.text(), expected);
        assert_eq!(report.json()["findings"][2]["file"], "tuning/clock.md");
        assert_eq!(report.json()["findings"][0]["remedy"], "");
        assert_eq!(report.json()["warnings"], 1);
    }

    #[test]
    fn the_worst_decides_the_exit_code() {
        let code = |findings| Report::new(findings).exit_code();
        assert_eq!(code(vec![]), 0);
        assert_eq!(code(vec![check::CLOCK.ok(""), check::SYNC.note("", "")]), 0);
        assert_eq!(code(vec![check::CLOCK.warn("", ""), check::SYNC.note("", "")]), 1);
        assert_eq!(code(vec![check::CLOCK.error("", ""), check::SYNC.warn("", "")]), 2);
    }
}
