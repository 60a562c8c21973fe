//! Histograms of latencies, and their text in a record.
//!
//! Form:     microseconds with three digits, from 1 us to an hour.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::Serializer as _;
use hdrhistogram::serialization::V2DeflateSerializer;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

/// Longer latencies are recorded as one hour.
pub const LONGEST_US: u64 = 3_600_000_000;
/// Significant digits.
const DIGITS: u8 = 3;
/// The quantiles that are shown of a histogram.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// The latencies of one part of the work.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stage {
    pub name: String,
    #[serde(rename = "us")]
    pub latencies: Hdr,
}

/// Adds the stages of another shard, by their names.
pub fn add_stages(all: &mut Vec<Stage>, other: Vec<Stage>) {
    for stage in other {
        match all.iter_mut().find(|known| known.name == stage.name) {
            Some(known) => known.latencies.add(&stage.latencies),
            None => all.push(stage),
        }
    }
}

/// A histogram of microseconds. Its text is base64 of the compressed form (V2) of HdrHistogram.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "HdrText", into = "HdrText")]
pub struct Hdr(pub Histogram<u64>);

impl Default for Hdr {
    fn default() -> Hdr {
        Hdr(Histogram::new_with_max(LONGEST_US, DIGITS).expect("the bounds are lawful"))
    }
}

impl Hdr {
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    pub fn record_time(&mut self, took: Duration) {
        self.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn add(&mut self, other: &Hdr) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        written.expect("memory takes every write, and counts of a run fit 63 bits");
        STANDARD.encode(bytes)
    }

    fn from_text(text: &str) -> Result<Hdr, String> {
        let bytes = STANDARD.decode(text).map_err(|cause| format!("histogram: {cause}"))?;
        let read = Deserializer::new().deserialize(&mut &*bytes);
        read.map(Hdr).map_err(|cause| format!("histogram: {cause}"))
    }

    /// The value at this quantile in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }

    /// Count and percentiles in microseconds.
    pub fn figures(&self) -> serde_json::Map<String, Value> {
        let mut all = serde_json::Map::new();
        all.insert("count".into(), json!(self.0.len()));
        for (name, quantile) in QUANTILES {
            all.insert(name.into(), json!(self.0.value_at_quantile(quantile)));
        }
        all.insert("max".into(), json!(self.0.max()));
        all.insert("mean".into(), json!(self.0.mean()));
        all
    }
}

/// A histogram with plain figures for readers.
#[derive(Deserialize, Serialize)]
struct HdrText {
    histogram: String,
    #[serde(flatten)]
    figures: serde_json::Map<String, Value>,
}

impl From<Hdr> for HdrText {
    fn from(all: Hdr) -> HdrText {
        HdrText { histogram: all.to_text(), figures: all.figures() }
    }
}

impl TryFrom<HdrText> for Hdr {
    type Error = String;

    fn try_from(text: HdrText) -> Result<Hdr, String> {
        let all = Hdr::from_text(&text.histogram)?;
        match text.figures.get("count").and_then(Value::as_u64) == Some(all.0.len()) {
            true => Ok(all),
            false => Err("the count differs from the histogram".to_owned()),
        }
    }
}
