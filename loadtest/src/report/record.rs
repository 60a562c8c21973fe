//! The record of a run as one JSON object.
//!
//! Promise:  histograms are read exactly as they were written; plain figures are beside them for
//!           people and scripts.
//! Errors:   a file that is not a record, or of another version, is refused with its name and the cause.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::report::histogram::Hdr;
use crate::report::histogram::Stage;

/// In every record. The number changes when older readers would misread the file.
pub const FORMAT: &str = "ringpost-load 3";
/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub format: String,
    /// source, sink, or run and the name of the scenario.
    pub kind: String,
    /// The id of the run in the header of its messages.
    pub run: String,
    /// The begin, RFC 3339 in UTC.
    pub when: String,
    pub seconds: f64,
    /// Successful messages per second.
    pub per_second: f64,
    /// The first error.
    pub first_fault: Option<String>,
    pub machine: BTreeMap<String, String>,
    pub settings: BTreeMap<String, String>,
    pub counts: BTreeMap<String, u64>,
    /// Totals of the ledger; empty without one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ledger: BTreeMap<String, u64>,
    pub stages: Vec<Stage>,
    /// The expectations of a scenario.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// Second by second.
    pub intervals: Vec<Interval>,
}

/// The result of one expectation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub holds: bool,
    /// The expectation in words.
    pub that: String,
    /// The figure and its bounds.
    pub found: String,
}

impl Record {
    /// A run that begins now.
    pub fn begin(
        kind: &str,
        machine: BTreeMap<String, String>,
        settings: BTreeMap<String, String>,
    ) -> Record {
        Record {
            format: FORMAT.to_owned(),
            kind: kind.to_owned(),
            run: String::new(),
            machine,
            when: jiff::Timestamp::now().to_string(),
            seconds: 0.0,
            per_second: 0.0,
            first_fault: None,
            settings,
            counts: BTreeMap::new(),
            ledger: BTreeMap::new(),
            stages: Vec::new(),
            verdicts: Vec::new(),
            intervals: Vec::new(),
        }
    }

    /// With counts and percentiles repeated at the top level for scripts.
    pub fn to_json(&self) -> Value {
        let mut told = serde_json::to_value(self).expect("a record is plain values");
        let counts = self.counts.iter().map(|(name, count)| (name.clone(), json!(count)));
        let stages = self.stages.iter().map(|stage| {
            (
                format!("{}_us", stage.name.replace(' ', "_")),
                Value::Object(stage.latencies.figures()),
            )
        });
        for (name, value) in counts.chain(stages) {
            if told.get(&name).is_none() {
                told[name] = value;
            }
        }
        told
    }

    pub fn from_json(text: &str) -> Result<Record, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|cause| format!("not JSON: {cause}"))?;
        match value.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(format!(
                    "the format is {other:?} and this program reads {FORMAT:?}; use the \
                     ringpost-load that wrote the file"
                ));
            }
            None => {
                return Err("not a record of ringpost-load; `ringpost-load source --output FILE` \
                            writes one"
                    .to_owned());
            }
        }
        // Parsed from the text and not from the value, so that errors have a line.
        let record: Record = serde_json::from_str(text)
            .map_err(|cause| format!("the record is damaged: {cause}"))?;
        let is_time = |time: f64| (0.0..=1e9).contains(&time);
        let is_good =
            |one: &Interval| is_time(one.start) && is_time(one.seconds) && one.seconds > 0.0;
        match record.intervals.iter().find(|one| !is_good(one)) {
            Some(bad) => Err(format!("the time of the interval at {} s is invalid", bad.start)),
            None => Ok(record),
        }
    }

    pub fn read(path: &Path) -> Result<Record, String> {
        let text = fs::read_to_string(path).map_err(|cause| cause.to_string());
        text.and_then(|text| Record::from_json(&text))
            .map_err(|cause| format!("{}: {cause}", path.display()))
    }
}

/// One second; the last one may be shorter.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Interval {
    /// In seconds since the begin of the run.
    pub start: f64,
    pub seconds: f64,
    /// Messages that failed in this second.
    pub failed: u64,
    #[serde(rename = "us")]
    pub latencies: Hdr,
}

/// A struct of numbers as a map.
pub fn by_name(counts: &impl Serialize) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counts).expect("they are plain numbers");
    serde_json::from_value(value).expect("all of them are counts")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::report::histogram::LONGEST_US;

    fn hdr(values: impl Iterator<Item = u64>) -> Hdr {
        let mut all = Hdr::default();
        values.for_each(|value| all.record(value));
        all
    }

    /// A run whose latencies are those of `1..=count` milliseconds, times `factor`.
    pub fn record(count: u64, factor: u64) -> Record {
        let all = || (1..=count).map(|ms| ms * 1000 * factor);
        let half = count / 2;
        let interval = |start: u64, latencies| Interval {
            start: start as f64,
            seconds: 1.0,
            failed: start,
            latencies,
        };
        Record {
            format: FORMAT.into(),
            kind: "source".into(),
            run: "a.b".into(),
            when: "2026-01-02T03:04:05Z".into(),
            seconds: 3.0,
            per_second: count as f64 / 3.0,
            first_fault: Some("<b>550 & \"no\"</b>".into()),
            machine: crate::report::describe_machine(None),
            settings: BTreeMap::from([("-s <i>".into(), "1 & 2".into())]),
            counts: BTreeMap::from([("accepted".into(), count)]),
            ledger: BTreeMap::from([("distinct".into(), count)]),
            stages: vec![
                Stage { name: "body to reply".into(), latencies: hdr(all().map(|us| us / 2)) },
                Stage { name: "message".into(), latencies: hdr(all()) },
            ],
            verdicts: Vec::new(),
            intervals: vec![
                interval(0, hdr(all().take(half as usize))),
                interval(1, hdr(std::iter::empty())),
                interval(2, hdr(all().skip(half as usize))),
            ],
        }
    }

    #[test]
    fn records_are_read_as_written() {
        let mut written = record(1000, 1);
        written.stages[0].latencies.0.saturating_record(u64::MAX);
        written.stages[0].latencies.0.saturating_record(0);
        let told = written.to_json();
        assert_eq!((&told["accepted"], &told["message_us"]["count"]), (&1000.into(), &1000.into()));
        let p50 = told["message_us"]["p50"].as_u64().expect("it is there");
        assert!((499_000..=502_000).contains(&p50), "{told}");
        assert!(told["body_to_reply_us"]["max"].as_u64() >= Some(LONGEST_US), "{told}");
        let read = Record::from_json(&told.to_string()).expect("it is a record");
        for (a, b) in written.stages.iter().zip(&read.stages) {
            assert_eq!((&a.name, &a.latencies), (&b.name, &b.latencies));
        }
        for (a, b) in written.intervals.iter().zip(&read.intervals) {
            assert_eq!(
                (a.start, a.seconds, a.failed, &a.latencies),
                (b.start, b.seconds, b.failed, &b.latencies)
            );
        }
        assert_eq!(read.to_json(), told);
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        let good = record(10, 1).to_json();
        let turned = |turn: &dyn Fn(&mut Value)| {
            let mut bad = good.clone();
            turn(&mut bad);
            bad.to_string()
        };
        let rows = [
            ("not JSON", "mesg=1".to_owned(), "not JSON"),
            ("cut off", good.to_string()[..500].to_owned(), "not JSON"),
            ("foreign", "{\"accepted\": 7}".to_owned(), "not a record of ringpost-load"),
            ("a list", "[]".to_owned(), "not a record of ringpost-load"),
            ("newer", turned(&|v| v["format"] = "ringpost-load 9".into()), "ringpost-load 9"),
            ("a key gone", turned(&|v| _ = v.as_object_mut().map(|v| v.remove("run"))), "`run`"),
            (
                "a bad histogram",
                turned(&|v| v["stages"][1]["us"]["histogram"] = "SElT".into()),
                "histogram",
            ),
            ("another count", turned(&|v| v["stages"][1]["us"]["count"] = 9.into()), "the count"),
            ("invalid time", turned(&|v| v["intervals"][2]["seconds"] = 0.into()), "invalid"),
        ];
        for (name, text, expected) in rows {
            let fault = Record::from_json(&text).expect_err(name);
            assert!(fault.contains(expected), "{name}: {fault}");
        }
    }
}
