//! The Prometheus text format, version 0.0.4.
//!
//! Promise:  each metric has one HELP, one TYPE and then all its samples. Label values are escaped,
//!           so that a name from outside cannot add a sample.

use std::fmt::Display;
use std::fmt::Write;

use crate::observe::metric::Descriptor;
use crate::observe::metric::Kind;
use crate::observe::metric::Reading;
use crate::observe::metric::Scope;

/// The prefix of all metrics of our own.
const PREFIX: &str = "ringpost_";

/// Labels of a sample: keys and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// The cumulative counts of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Upper bounds, and how many values are at most that large.
    pub up_to: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    page: String,
    /// The metric whose samples follow.
    name: String,
}

impl Exposition {
    /// Begins a metric. A name that starts with `process_` is one of the standard process metrics
    /// and gets no prefix.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> &mut Exposition {
        let prefix = if name.starts_with("process_") { "" } else { PREFIX };
        self.name = format!("{prefix}{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let name = &self.name;
        self.page += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self
    }

    /// A sample of the metric that was begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Exposition {
        self.write("", labels, value);
        self
    }

    /// The samples of a histogram that was begun last.
    pub fn buckets(&mut self, buckets: &Buckets) {
        for (bound, count) in &buckets.up_to {
            self.write("_bucket", &[("le", &bound.to_string())], count);
        }
        self.write("_bucket", &[("le", "+Inf")], buckets.count);
        self.write("_sum", &[], buckets.sum);
        self.write("_count", &[], buckets.count);
    }

    /// Declared metrics. `source` is the label key that tells their sources apart.
    pub fn table(&mut self, readings: &[Reading], source: &str) {
        for reading in readings {
            let Descriptor { name, help, kind, scope, .. } = reading.descriptor;
            self.metric(name, *kind, help);
            match scope {
                Scope::Sum => self.cells(reading.descriptor, None, &reading.sums()),
                Scope::Each => {
                    for (number, values) in reading.by_source.iter().enumerate() {
                        let number = number.to_string();
                        self.cells(reading.descriptor, Some((source, &number)), values);
                    }
                }
            }
        }
    }

    pub fn into_text(self) -> String {
        self.page
    }

    /// One sample for each combination of label values, the last label changing fastest.
    fn cells(&mut self, of: &Descriptor, source: Option<(&str, &str)>, values: &[u64]) {
        for (place, value) in values.iter().enumerate() {
            let mut labels: Vec<(&str, &str)> = source.into_iter().collect();
            let mut below = values.len();
            for (key, words) in of.labels {
                below /= words.len();
                labels.push((key, words[place / below % words.len()]));
            }
            self.write("", &labels, value);
        }
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let Exposition { page, name } = self;
        let written = write!(page, "{name}{suffix}");
        written.expect("a String takes everything");
        for (place, (key, text)) in labels.iter().enumerate() {
            page.push(if place == 0 { '{' } else { ',' });
            page.push_str(key);
            page.push_str("=\"");
            escape(page, text);
            page.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(page, "{end} {value}").expect("a String takes everything");
    }
}

/// Backslash, quote and line feed are the only characters with a meaning in a label value.
fn escape(page: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::observe::label::ReloadOutcome;
    use crate::observe::label::TlsVersion;
    use crate::observe::metric::Family;
    use crate::observe::metric::Gauge;
    use crate::observe::metric::Grid;
    use crate::observe::metric::metrics;
    use crate::observe::metric::read;

    use super::*;

    metrics! {
        /// For the test.
        pub struct Basket {
            each weight_grams: Gauge, "Weight.";
            sum eaten_total: Family<ReloadOutcome>, "Fruit eaten.";
            sum sold_total: Grid<TlsVersion, ReloadOutcome>, "Fruit sold.";
        }
    }

    #[test]
    fn tables_are_exposed_by_scope_and_labels() {
        let (left, right) = (Basket::default(), Basket::default());
        left.weight_grams.set(3);
        right.eaten_total.add(ReloadOutcome::Refused, 3);
        left.sold_total.add(TlsVersion::Tls12, ReloadOutcome::Refused, 1);
        right.sold_total.add(TlsVersion::Tls13, ReloadOutcome::Done, 4);
        let mut page = Exposition::default();
        page.table(&read(&[&left, &right]), "shelf");
        let expected = "\
            # HELP ringpost_weight_grams Weight.\n\
            # TYPE ringpost_weight_grams gauge\n\
            ringpost_weight_grams{shelf=\"0\"} 3\n\
            ringpost_weight_grams{shelf=\"1\"} 0\n\
            # HELP ringpost_eaten_total Fruit eaten.\n\
            # TYPE ringpost_eaten_total counter\n\
            ringpost_eaten_total{outcome=\"done\"} 0\n\
            ringpost_eaten_total{outcome=\"refused\"} 3\n\
            # HELP ringpost_sold_total Fruit sold.\n\
            # TYPE ringpost_sold_total counter\n\
            ringpost_sold_total{version=\"1.2\",outcome=\"done\"} 0\n\
            ringpost_sold_total{version=\"1.2\",outcome=\"refused\"} 1\n\
            ringpost_sold_total{version=\"1.3\",outcome=\"done\"} 4\n\
            ringpost_sold_total{version=\"1.3\",outcome=\"refused\"} 0\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_histogram_ends_with_infinity_sum_and_count() {
        let mut page = Exposition::default();
        let up_to = vec![(0.0005, 1), (1.0, 2), (2.5, 2)];
        page.metric("wait_seconds", Kind::Histogram, "Waiting.");
        page.buckets(&Buckets { up_to, count: 3, sum: 7.25 });
        let text = page.into_text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "ringpost_wait_seconds_bucket{le=\"0.0005\"} 1",
            "ringpost_wait_seconds_bucket{le=\"1\"} 2",
            "ringpost_wait_seconds_bucket{le=\"2.5\"} 2",
            "ringpost_wait_seconds_bucket{le=\"+Inf\"} 3",
            "ringpost_wait_seconds_sum 7.25",
            "ringpost_wait_seconds_count 3",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn a_label_value_cannot_forge_a_sample() {
        let mut page = Exposition::default();
        page.metric("process_x", Kind::Gauge, "X.").sample(&[("a", "b\"} 1\n\\")], 2);
        let expected = "process_x{a=\"b\\\"} 1\\n\\\\\"} 2";
        assert_eq!(page.into_text().lines().last(), Some(expected));
    }
}
