//! Latencies as histograms, and how they are told.

use hdrhistogram::Histogram;
use serde_json::Value;
use serde_json::json;

/// A minute and more is recorded as this.
const LONGEST_US: u64 = 3_600_000_000;
/// Three digits of each latency are kept.
const DIGITS: u8 = 3;
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// What a stage of a mail took, in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_max(LONGEST_US, DIGITS).expect("the bounds are lawful"))
    }
}

impl Latencies {
    pub fn record(&mut self, us: u128) {
        self.0.saturating_record(u64::try_from(us).unwrap_or(u64::MAX));
    }

    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// All of them, with the bounds of a report's histograms.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Each percentile in microseconds, and the longest.
    pub fn to_json(&self) -> Value {
        let mut told = serde_json::Map::new();
        told.insert("count".into(), json!(self.0.len()));
        for (name, quantile) in QUANTILES {
            told.insert(name.into(), json!(self.0.value_at_quantile(quantile)));
        }
        told.insert("max".into(), json!(self.0.max()));
        Value::Object(told)
    }

    /// One line of a table, in milliseconds.
    pub fn to_line(&self, name: &str) -> String {
        let ms = |us: u64| format!("{:>10.3}", us as f64 / 1000.0);
        let quantiles = QUANTILES.map(|(_, quantile)| ms(self.0.value_at_quantile(quantile)));
        format!("{name:<22}{:>10}{}{}", self.0.len(), quantiles.concat(), ms(self.0.max()))
    }

    pub fn head() -> String {
        let names = QUANTILES.map(|(name, _)| format!("{name:>10}"));
        format!("{:<22}{:>10}{}{:>10}", "milliseconds", "count", names.concat(), "max")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_told() {
        let mut one = Latencies::default();
        (1..=1000).for_each(|us| one.record(us * 1000));
        let mut sum = Latencies::default();
        sum.add(&one);
        sum.record(u128::MAX);
        let told = sum.to_json();
        assert_eq!(told["count"], 1001);
        let p50 = told["p50"].as_u64().expect("it is told");
        assert!((499_000..=502_000).contains(&p50), "{told}");
        assert!(told["max"].as_u64() >= Some(LONGEST_US), "{told}");
        assert_eq!(one.to_line("x").len(), Latencies::head().len());
    }
}
