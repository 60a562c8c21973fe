//! The record of a run: all that is known of it, in one JSON object.
//!
//! Promise:  what is read has the histograms that were written, to the last count; figures in clear
//!           stand beside them for whoever reads the file by eye or by script.
//! Bad input: a file that is no record, or of another version, is told by name and cause.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::Serializer as _;
use hdrhistogram::serialization::V2DeflateSerializer;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::report::collector::Latencies;
use crate::report::collector::Stages;
use crate::report::collector::latencies;
use crate::report::machine::Machine;
use crate::report::outputs::Outputs;

/// Stands in every record. The number changes when older readers would misread it.
pub const FORMAT: &str = "ringpost-load 1";
/// Whatever is shown of a histogram.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub format: String,
    /// What ran: source, sink...
    pub kind: String,
    /// Its name, as in the header of its messages.
    pub run: String,
    /// When it began, RFC 3339 in UTC.
    pub when: String,
    pub seconds: f64,
    /// Of what was well done.
    pub per_second: f64,
    /// The first thing that went wrong.
    pub first_fault: Option<String>,
    pub machine: Machine,
    pub settings: BTreeMap<String, String>,
    pub counts: BTreeMap<String, u64>,
    /// What a ledger has of each kind; empty where there was none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ledger: BTreeMap<String, u64>,
    pub stages: Vec<Stage>,
    /// Of a load in steps, each; null without.
    #[serde(default)]
    pub steps: Value,
    /// What was expected of the run; empty where nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// Second by second.
    pub intervals: Vec<Interval>,
}

/// What became of one expectation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub holds: bool,
    /// What was expected, in words.
    pub that: String,
    /// What was found, beside what bounds it.
    pub found: String,
}

impl Record {
    /// A run that begins now, with nothing measured.
    pub fn begin(kind: &str, outputs: &Outputs, settings: BTreeMap<String, String>) -> Record {
        Record {
            format: FORMAT.to_owned(),
            kind: kind.to_owned(),
            run: String::new(),
            machine: outputs.machine(),
            when: jiff::Timestamp::now().to_string(),
            seconds: 0.0,
            per_second: 0.0,
            first_fault: None,
            settings,
            counts: BTreeMap::new(),
            ledger: BTreeMap::new(),
            stages: Vec::new(),
            steps: Value::Null,
            verdicts: Vec::new(),
            intervals: Vec::new(),
        }
    }

    pub fn set_stages(&mut self, stages: Stages) {
        let named = stages.0.into_iter();
        self.stages =
            named.map(|(name, all)| Stage { name: name.into(), latencies: Hdr(all) }).collect();
    }

    /// With the counts and the percentiles of each stage again at the top, where scripts look.
    pub fn to_json(&self) -> Value {
        let mut told = serde_json::to_value(self).expect("a record is plain values");
        let counts = self.counts.iter().map(|(name, count)| (name.clone(), json!(count)));
        let stages = self.stages.iter().map(|stage| {
            (format!("{}_us", stage.name.replace(' ', "_")), Value::Object(stage.latencies.told()))
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
            serde_json::from_str(text).map_err(|cause| format!("no JSON: {cause}"))?;
        match value.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(format!(
                    "it is written as {other:?} and this program reads {FORMAT:?}: use the \
                     ringpost-load that wrote it"
                ));
            }
            None => {
                return Err("it is no record of ringpost-load; `ringpost-load source --output \
                            FILE` writes one"
                    .to_owned());
            }
        }
        // Not from the value: from the text, faults have their line.
        serde_json::from_str(text).map_err(|cause| format!("the record is damaged: {cause}"))
    }

    pub fn read(path: &Path) -> Result<Record, String> {
        let text = fs::read_to_string(path).map_err(|cause| cause.to_string());
        text.and_then(|text| Record::from_json(&text))
            .map_err(|cause| format!("{}: {cause}", path.display()))
    }
}

/// What one part of the work took.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "StageText", into = "StageText")]
pub struct Stage {
    pub name: String,
    pub latencies: Hdr,
}

/// One second, or less at the end.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "IntervalText", into = "IntervalText")]
pub struct Interval {
    /// In seconds since the run began.
    pub start: f64,
    pub seconds: f64,
    /// Of what was done.
    pub failed: u64,
    pub latencies: Hdr,
}

/// A histogram of microseconds. Its text is base64 of HDR's compressed form (V2), which other
/// programs read as well.
#[derive(Clone, Debug, PartialEq)]
pub struct Hdr(pub Latencies);

impl Default for Hdr {
    fn default() -> Hdr {
        Hdr(latencies())
    }
}

impl Hdr {
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    pub fn add(&mut self, other: &Hdr) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        written.expect("memory takes every write, and counts of a run fit 63 bits");
        STANDARD.encode(bytes)
    }

    pub fn from_text(text: &str) -> Result<Hdr, String> {
        let bytes = STANDARD.decode(text).map_err(|cause| format!("histogram: {cause}"))?;
        let read = Deserializer::new().deserialize(&mut &*bytes);
        read.map(Hdr).map_err(|cause| format!("histogram: {cause}"))
    }

    /// Milliseconds at this quantile.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }

    /// Figures in microseconds.
    pub fn told(&self) -> serde_json::Map<String, Value> {
        let mut told = serde_json::Map::new();
        told.insert("count".into(), json!(self.0.len()));
        for (name, quantile) in QUANTILES {
            told.insert(name.into(), json!(self.0.value_at_quantile(quantile)));
        }
        told.insert("max".into(), json!(self.0.max()));
        told.insert("mean".into(), json!(self.0.mean()));
        told
    }
}

#[derive(Deserialize, Serialize)]
struct StageText {
    name: String,
    /// Made of the histogram, and read only to see that it belongs to it.
    us: serde_json::Map<String, Value>,
    histogram: String,
}

impl From<Stage> for StageText {
    fn from(stage: Stage) -> StageText {
        let Stage { name, latencies } = stage;
        StageText { name, us: latencies.told(), histogram: latencies.to_text() }
    }
}

impl TryFrom<StageText> for Stage {
    type Error = String;

    fn try_from(text: StageText) -> Result<Stage, String> {
        let StageText { name, us, histogram } = text;
        let latencies = Hdr::from_text(&histogram).map_err(|fault| format!("{name}: {fault}"))?;
        match us.get("count").and_then(Value::as_u64) == Some(latencies.0.len()) {
            true => Ok(Stage { name, latencies }),
            false => Err(format!("{name}: the count is not that of the histogram")),
        }
    }
}

#[derive(Deserialize, Serialize)]
struct IntervalText {
    start: f64,
    seconds: f64,
    count: u64,
    failed: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    histogram: String,
}

impl From<Interval> for IntervalText {
    fn from(interval: Interval) -> IntervalText {
        let all = &interval.latencies.0;
        IntervalText {
            start: interval.start,
            seconds: interval.seconds,
            count: all.len(),
            failed: interval.failed,
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            max_us: all.max(),
            histogram: interval.latencies.to_text(),
        }
    }
}

impl TryFrom<IntervalText> for Interval {
    type Error = String;

    fn try_from(text: IntervalText) -> Result<Interval, String> {
        let IntervalText { start, seconds, failed, count, .. } = text;
        let at = |fault| format!("interval at {start} s: {fault}");
        let latencies = Hdr::from_text(&text.histogram).map_err(at)?;
        if latencies.0.len() != count {
            return Err(at("the count is not that of the histogram".into()));
        }
        let is_time = |time: f64| (0.0..=1e9).contains(&time);
        if !is_time(start) || !is_time(seconds) || seconds == 0.0 {
            return Err(at("that is no time".into()));
        }
        Ok(Interval { start, seconds, failed, latencies })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::report::collector::LONGEST_US;

    fn hdr(values: impl Iterator<Item = u64>) -> Hdr {
        let mut all = latencies();
        values.for_each(|value| all.saturating_record(value));
        Hdr(all)
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
            machine: Machine::describe(None),
            settings: BTreeMap::from([("-s <i>".into(), "1 & 2".into())]),
            counts: BTreeMap::from([("accepted".into(), count)]),
            ledger: BTreeMap::from([("distinct".into(), count)]),
            stages: vec![
                Stage { name: "body to reply".into(), latencies: hdr(all().map(|us| us / 2)) },
                Stage { name: "message".into(), latencies: hdr(all()) },
            ],
            steps: Value::Null,
            verdicts: Vec::new(),
            intervals: vec![
                interval(0, hdr(all().take(half as usize))),
                interval(1, hdr(std::iter::empty())),
                interval(2, hdr(all().skip(half as usize))),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut written = record(1000, 1);
        written.stages[0].latencies.0.saturating_record(u64::MAX);
        written.stages[0].latencies.0.saturating_record(0);
        let told = written.to_json();
        assert_eq!((&told["accepted"], &told["message_us"]["count"]), (&1000.into(), &1000.into()));
        let p50 = told["message_us"]["p50"].as_u64().expect("it is told");
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
    fn what_is_no_record_is_told() {
        let good = record(10, 1).to_json();
        let turned = |turn: &dyn Fn(&mut Value)| {
            let mut bad = good.clone();
            turn(&mut bad);
            bad.to_string()
        };
        let rows = [
            ("not JSON", "mesg=1".to_owned(), "no JSON"),
            ("cut off", good.to_string()[..500].to_owned(), "no JSON"),
            ("foreign", "{\"accepted\": 7}".to_owned(), "no record of ringpost-load"),
            ("a list", "[]".to_owned(), "no record of ringpost-load"),
            ("newer", turned(&|v| v["format"] = "ringpost-load 2".into()), "ringpost-load 2"),
            ("a key gone", turned(&|v| _ = v.as_object_mut().map(|v| v.remove("run"))), "`run`"),
            (
                "a bad histogram",
                turned(&|v| v["stages"][1]["histogram"] = "SElT".into()),
                "message",
            ),
            ("another count", turned(&|v| v["stages"][1]["us"]["count"] = 9.into()), "the count"),
            ("no time", turned(&|v| v["intervals"][2]["seconds"] = 0.into()), "at 2 s"),
        ];
        for (name, text, expected) in rows {
            let fault = Record::from_json(&text).expect_err(name);
            assert!(fault.contains(expected), "{name}: {fault}");
        }
    }
}
