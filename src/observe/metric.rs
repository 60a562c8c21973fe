//! How a metric is declared, stored and shown (Prometheus text format 0.0.4).
//!
//! Owner:    one writer per value: the shard for its `ShardMetrics`. The control thread reads.
//! Promise:  writing is a relaxed load and a relaxed store, without a lock or a locked
//!           instruction. A reader sees every value whole, and may see it a moment late.
//! Bounds:   labels are enums, so the number of series is fixed when the program is compiled.
//!
//! `metrics!` declares a struct; each line has scope, name, type, unit and help. The scope says
//! how shards are shown: `each` with a label `shard`, or `sum` as one series. Never both, for
//! then a sum over a metric would count everything twice.

use std::fmt;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// What all names begin with.
pub const PREFIX: &str = "ringpost_";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter([AtomicU64; 1]);

impl Counter {
    pub fn add(&self, count: u64) {
        add_to(&self.0[0], count);
    }

    pub fn value(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }
}

/// A number as it is now.
#[derive(Debug, Default)]
pub struct Gauge([AtomicU64; 1]);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0[0].store(value, Ordering::Relaxed);
    }

    pub fn add(&self, count: u64) {
        add_to(&self.0[0], count);
    }

    /// Stops at 0.
    pub fn subtract(&self, count: u64) {
        self.set(self.value().saturating_sub(count));
    }

    pub fn value(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }
}

/// Counters told apart by a label.
#[derive(Debug)]
pub struct Family<L: Label>(L::Cells);

impl<L: Label> Default for Family<L> {
    fn default() -> Family<L> {
        Family(L::Cells::default())
    }
}

impl<L: Label> Family<L> {
    pub fn add(&self, label: L, count: u64) {
        add_to(&self.0.as_ref()[label.index()], count);
    }

    pub fn value(&self, label: L) -> u64 {
        self.0.as_ref()[label.index()].load(Ordering::Relaxed)
    }
}

fn add_to(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// An enum whose variants are the values of a label.
pub trait Label: Copy {
    const KEY: &'static str;
    const VALUES: &'static [&'static str];
    type Cells: AsRef<[AtomicU64]> + Default + fmt::Debug;

    fn index(self) -> usize;
}

/// Declares a label: `pub enum Verb: "verb" { Mail = "mail", .. }`.
macro_rules! labels {
    ($(
        $(#[$about:meta])*
        pub enum $label:ident: $key:literal {
            $($(#[$variant_about:meta])* $variant:ident = $text:literal,)*
        }
    )*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $label { $($(#[$variant_about])* $variant,)* }

        impl $label {
            pub const ALL: &'static [$label] = &[$($label::$variant,)*];

            /// The word in metrics and logs.
            pub fn name(self) -> &'static str {
                <$label as $crate::observe::metric::Label>::VALUES[self as usize]
            }
        }

        impl $crate::observe::metric::Label for $label {
            const KEY: &'static str = $key;
            const VALUES: &'static [&'static str] = &[$($text,)*];
            type Cells = [std::sync::atomic::AtomicU64; [$($text,)*].len()];

            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

/// Declares metrics: `each connections_total: Counter, "connections", "Help.";`.
macro_rules! metrics {
    (
        $(#[$about:meta])*
        pub struct $table:ident {
            $($scope:ident $name:ident: $type:ty, $unit:literal, $help:literal;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $table { $(#[doc = $help] pub $name: $type,)* }

        impl $crate::observe::metric::Declared for $table {
            const DESCRIPTORS: &'static [$crate::observe::metric::Descriptor] = &[$(
                $crate::observe::metric::Descriptor {
                    name: stringify!($name),
                    unit: $unit,
                    help: $help,
                    kind: <$type as $crate::observe::metric::Metric>::KIND,
                    label: <$type as $crate::observe::metric::Metric>::LABEL,
                    scope: $crate::observe::metric::scope::$scope,
                },
            )*];

            fn cells(&self) -> Vec<&[std::sync::atomic::AtomicU64]> {
                vec![$($crate::observe::metric::Metric::cells(&self.$name),)*]
            }
        }
    };
}

pub(crate) use labels;
pub(crate) use metrics;

/// What Prometheus calls the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// How the values of several shards are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    EachShard,
    Sum,
}

/// The words for `Scope` in `metrics!`.
#[allow(non_upper_case_globals)]
pub mod scope {
    use crate::observe::metric::Scope;

    pub const each: Scope = Scope::EachShard;
    pub const sum: Scope = Scope::Sum;
}

/// Everything about a metric but its value.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub name: &'static str,
    pub unit: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// Key and values.
    pub label: Option<(&'static str, &'static [&'static str])>,
    pub scope: Scope,
}

/// One of the types that a declared metric can have.
pub trait Metric {
    const KIND: Kind;
    const LABEL: Option<(&'static str, &'static [&'static str])>;

    fn cells(&self) -> &[AtomicU64];
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;
    const LABEL: Option<(&'static str, &'static [&'static str])> = None;

    fn cells(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;
    const LABEL: Option<(&'static str, &'static [&'static str])> = None;

    fn cells(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl<L: Label> Metric for Family<L> {
    const KIND: Kind = Kind::Counter;
    const LABEL: Option<(&'static str, &'static [&'static str])> = Some((L::KEY, L::VALUES));

    fn cells(&self) -> &[AtomicU64] {
        self.0.as_ref()
    }
}

/// A struct made by `metrics!`.
pub trait Declared {
    const DESCRIPTORS: &'static [Descriptor];

    /// The values, in the order of `DESCRIPTORS`.
    fn cells(&self) -> Vec<&[AtomicU64]>;
}

/// One metric read: for each source its values, one per label value.
#[derive(Clone, Debug)]
pub struct Reading {
    pub descriptor: &'static Descriptor,
    pub by_source: Vec<Vec<u64>>,
}

impl Reading {
    /// All sources together, one number per label value.
    pub fn sums(&self) -> Vec<u64> {
        let count = self.descriptor.label.map_or(1, |(_, values)| values.len());
        let mut sums = vec![0; count];
        for (place, sum) in sums.iter_mut().enumerate() {
            *sum = self.by_source.iter().map(|values| values[place]).sum();
        }
        sums
    }
}

/// Reads the same table of all sources.
pub fn read<D: Declared>(sources: &[&D]) -> Vec<Reading> {
    let mut readings: Vec<Reading> = D::DESCRIPTORS
        .iter()
        .map(|descriptor| Reading { descriptor, by_source: Vec::with_capacity(sources.len()) })
        .collect();
    for source in sources {
        for (reading, cells) in readings.iter_mut().zip(source.cells()) {
            let values = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
            reading.by_source.push(values);
        }
    }
    readings
}

/// Appends metrics as Prometheus reads them.
pub fn expose(out: &mut String, readings: &[Reading]) {
    for reading in readings {
        let Descriptor { name, unit, help, kind, .. } = reading.descriptor;
        expose_head(out, (name, *kind), &format!("{help} Unit: {unit}."));
        match reading.descriptor.scope {
            Scope::Sum => expose_values(out, reading.descriptor, None, &reading.sums()),
            Scope::EachShard => {
                for (shard, values) in reading.by_source.iter().enumerate() {
                    expose_values(out, reading.descriptor, Some(shard), values);
                }
            }
        }
    }
}

/// A metric that is not declared in a table, for what is only known when it is asked for.
pub fn expose_one(out: &mut String, named: (&str, Kind), help: &str, (labels, value): (&str, f64)) {
    expose_head(out, named, help);
    writeln!(out, "{PREFIX}{}{labels} {value}", named.0).expect("a String takes everything");
}

fn expose_head(out: &mut String, (name, kind): (&str, Kind), help: &str) {
    let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
    writeln!(out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}")
        .expect("a String takes everything");
}

fn expose_values(out: &mut String, of: &Descriptor, shard: Option<usize>, values: &[u64]) {
    let shard = shard.map(|shard| format!("shard=\"{shard}\""));
    for (place, value) in values.iter().enumerate() {
        let label = of.label.map(|(key, values)| format!("{key}=\"{}\"", values[place]));
        let labels: Vec<String> = shard.iter().cloned().chain(label).collect();
        let labels = labels.join(",");
        let written = match labels.is_empty() {
            true => writeln!(out, "{PREFIX}{} {value}", of.name),
            false => writeln!(out, "{PREFIX}{}{{{labels}}} {value}", of.name),
        };
        written.expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    labels! {
        /// For the test.
        pub enum Fruit: "fruit" {
            Apple = "apple",
            Pear = "pear",
        }
    }

    metrics! {
        /// For the test.
        pub struct Basket {
            each weight_grams: Gauge, "grams", "How heavy.";
            sum eaten_total: Family<Fruit>, "fruits", "How many are gone.";
        }
    }

    #[test]
    fn metrics_are_shown_by_scope_and_label() {
        let (left, right) = (Basket::default(), Basket::default());
        left.weight_grams.add(5);
        left.weight_grams.subtract(2);
        right.weight_grams.subtract(1);
        left.eaten_total.add(Fruit::Pear, 1);
        right.eaten_total.add(Fruit::Pear, 2);
        let mut out = String::new();
        expose(&mut out, &read(&[&left, &right]));
        let expected = "\
            # HELP ringpost_weight_grams How heavy. Unit: grams.\n\
            # TYPE ringpost_weight_grams gauge\n\
            ringpost_weight_grams{shard=\"0\"} 3\n\
            ringpost_weight_grams{shard=\"1\"} 0\n\
            # HELP ringpost_eaten_total How many are gone. Unit: fruits.\n\
            # TYPE ringpost_eaten_total counter\n\
            ringpost_eaten_total{fruit=\"apple\"} 0\n\
            ringpost_eaten_total{fruit=\"pear\"} 3\n";
        assert_eq!(out, expected);
        assert_eq!(left.eaten_total.value(Fruit::Pear), 1);
        let names: Vec<&str> = Fruit::ALL.iter().map(|fruit| fruit.name()).collect();
        assert_eq!(names, ["apple", "pear"]);
    }
}
