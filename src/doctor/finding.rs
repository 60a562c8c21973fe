//! What was seen: one finding for each thing, good or bad, and how they are told.
//!
//! Promise:  the exit code follows from the worst level: 0 for `ok` and `note`, 1 for `warn`, 2 for
//!           `error`. The fields of the JSON form are those of `Finding`; none is ever left out.

use std::fmt;
use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;
use serde_json::json;

use crate::doctor::knob;
use crate::doctor::knob::Knob;

const EXIT_WARN: u8 = 1;
pub const EXIT_ERROR: u8 = 2;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// Worth knowing, or not to be seen from here.
    Note,
    /// Slower or smaller than the machine could be, or mail that others distrust.
    Warn,
    /// The server does not start, or does not keep its promises.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub knob: &'static Knob,
    pub level: Level,
    pub seen: String,
    /// What to do; empty when all is well.
    pub remedy: String,
}

impl Knob {
    pub fn ok(&'static self, seen: impl Into<String>) -> Finding {
        self.at(Level::Ok, seen, "")
    }

    pub fn note(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Note, seen, remedy)
    }

    pub fn warn(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Warn, seen, remedy)
    }

    pub fn error(&'static self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.at(Level::Error, seen, remedy)
    }

    fn at(
        &'static self,
        level: Level,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { knob: self, level, seen: seen.into(), remedy: remedy.into() }
    }
}

/// Everything that was seen, in the order of the knobs.
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(mut findings: Vec<Finding>) -> Report {
        findings.sort_by_key(|finding| {
            let place = knob::ALL.iter().position(|knob| knob.id == finding.knob.id);
            place.expect("each knob is one of all")
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

    /// For people: what is well in one line each, all else with reason, remedy and file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { knob, level, seen, remedy } in &self.findings {
            let mut line = |name: &dyn fmt::Display, what: &dyn fmt::Display| {
                writeln!(text, "{name:<5} {what}").expect("text takes all");
            };
            line(level, &format_args!("{:<15} {seen}", knob.id));
            if *level != Level::Ok {
                line(&"", &format_args!("{:<15} why: {}", "", knob.why));
                line(&"", &format_args!("{:<15} do:  {remedy} (tuning/{})", "", knob.file));
            }
        }
        let [errors, warnings, notes] =
            [Level::Error, Level::Warn, Level::Note].map(|level| self.count(level));
        writeln!(text, "\n{errors} errors, {warnings} warnings, {notes} notes")
            .expect("text takes all");
        text
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "id": finding.knob.id,
                "level": finding.level.name(),
                "seen": finding.seen,
                "why": finding.knob.why,
                "remedy": finding.remedy,
                "file": format!("tuning/{}", finding.knob.file),
            })
        };
        json!({
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warn),
            "notes": self.count(Level::Note),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    /// Prints all and says how it stands by the exit code.
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
            knob::CLOCK.warn("not synchronised", "run chrony"),
            knob::KERNEL.ok("Linux 6.1"),
            knob::MEMLOCK.note("unlimited", "nothing"),
        ]);
        let expected = "\
ok    kernel          Linux 6.1
note  memlock         unlimited
                      why: rings and their buffers are locked memory
                      do:  nothing (tuning/memlock.md)
warn  clock           not synchronised
                      why: retries, TLS and the dates of mail go by it
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
        assert_eq!(code(vec![knob::CLOCK.ok(""), knob::SYNC.note("", "")]), 0);
        assert_eq!(code(vec![knob::CLOCK.warn("", ""), knob::SYNC.note("", "")]), 1);
        assert_eq!(code(vec![knob::CLOCK.error("", ""), knob::SYNC.warn("", "")]), 2);
    }
}
