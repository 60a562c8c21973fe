//! How a counter or gauge is declared, stored and read.
//!
//! Owner:    one writer per value, such as the shard for its `ShardMetrics`. The monitor reads.
//! Promise:  a write is one relaxed load and one relaxed store: no lock, no locked instruction. A
//!           reader sees whole values, possibly a moment late.
//! Bounds:   labels are enums, so the number of series is fixed at compile time.
//!
//! `metrics!` declares a struct. Each line has a scope, a name, a type and a help text. The scope
//! says how the sources of a table (shards or partitions) are exposed: `each` with one series per
//! source, `sum` as one series. Never both, since a sum over the metric would count twice.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A number that only increases.
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

/// A number that may go up and down.
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

/// Counters with one label.
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

/// Counters with two labels.
#[derive(Debug)]
pub struct Grid<A: Label, B: Label> {
    /// Row by row: all values of `B` for the first value of `A`, then for the second.
    cells: Box<[AtomicU64]>,
    labels: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> Default for Grid<A, B> {
    fn default() -> Grid<A, B> {
        let count = A::VALUES.len() * B::VALUES.len();
        Grid { cells: (0..count).map(|_| AtomicU64::new(0)).collect(), labels: PhantomData }
    }
}

impl<A: Label, B: Label> Grid<A, B> {
    pub fn add(&self, row: A, column: B, count: u64) {
        add_to(self.cell(row, column), count);
    }

    pub fn value(&self, row: A, column: B) -> u64 {
        self.cell(row, column).load(Ordering::Relaxed)
    }

    fn cell(&self, row: A, column: B) -> &AtomicU64 {
        &self.cells[row.index() * B::VALUES.len() + column.index()]
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

            /// The value of the label in metrics and logs.
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

/// Declares metrics: `each connections_total: Counter, "Help.";`.
macro_rules! metrics {
    (@each) => { $crate::observe::metric::Scope::Each };
    (@sum) => { $crate::observe::metric::Scope::Sum };
    (
        $(#[$about:meta])*
        pub struct $table:ident {
            $($scope:ident $name:ident: $type:ty, $help:literal;)*
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
                    help: $help,
                    kind: <$type as $crate::observe::metric::Metric>::KIND,
                    labels: <$type as $crate::observe::metric::Metric>::LABELS,
                    scope: $crate::observe::metric::metrics!(@$scope),
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

/// The key of a label and its values.
pub type LabelSet = (&'static str, &'static [&'static str]);

/// The type of a metric in Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// How the values of several sources are exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Each,
    Sum,
}

/// The declaration of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: &'static [LabelSet],
    pub scope: Scope,
}

/// A type of a declared metric.
pub trait Metric {
    const KIND: Kind;
    const LABELS: &'static [LabelSet];

    fn cells(&self) -> &[AtomicU64];
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;
    const LABELS: &'static [LabelSet] = &[];

    fn cells(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;
    const LABELS: &'static [LabelSet] = &[];

    fn cells(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl<L: Label> Metric for Family<L> {
    const KIND: Kind = Kind::Counter;
    const LABELS: &'static [LabelSet] = &[(L::KEY, L::VALUES)];

    fn cells(&self) -> &[AtomicU64] {
        self.0.as_ref()
    }
}

impl<A: Label, B: Label> Metric for Grid<A, B> {
    const KIND: Kind = Kind::Counter;
    const LABELS: &'static [LabelSet] = &[(A::KEY, A::VALUES), (B::KEY, B::VALUES)];

    fn cells(&self) -> &[AtomicU64] {
        &self.cells
    }
}

/// A struct made by `metrics!`.
pub trait Declared {
    const DESCRIPTORS: &'static [Descriptor];

    /// The values, in the order of `DESCRIPTORS`.
    fn cells(&self) -> Vec<&[AtomicU64]>;
}

/// One metric as read: for each source its values, in the order of the label values.
#[derive(Clone, Debug)]
pub struct Reading {
    pub descriptor: &'static Descriptor,
    pub by_source: Vec<Vec<u64>>,
}

impl Reading {
    /// The sums over all sources, one for each combination of label values.
    pub fn sums(&self) -> Vec<u64> {
        let count = self.descriptor.labels.iter().map(|(_, values)| values.len()).product();
        let mut sums = vec![0; count];
        for (place, sum) in sums.iter_mut().enumerate() {
            *sum = self.by_source.iter().map(|values| values[place]).sum();
        }
        sums
    }
}

/// Reads one table of all sources.
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

#[cfg(test)]
mod tests {
    use super::*;

    labels! {
        /// For the test.
        pub enum Fruit: "fruit" {
            Apple = "apple",
            Pear = "pear",
        }

        /// For the test.
        pub enum State: "state" {
            Raw = "raw",
            Cooked = "cooked",
            Dried = "dried",
        }
    }

    metrics! {
        /// For the test.
        pub struct Basket {
            each weight_grams: Gauge, "Weight.";
            sum eaten_total: Family<Fruit>, "Fruit eaten.";
            sum sold_total: Grid<Fruit, State>, "Fruit sold.";
        }
    }

    #[test]
    fn a_table_is_read_from_all_its_sources() {
        let (left, right) = (Basket::default(), Basket::default());
        left.weight_grams.add(5);
        left.weight_grams.subtract(2);
        right.weight_grams.subtract(1);
        left.eaten_total.add(Fruit::Pear, 1);
        right.eaten_total.add(Fruit::Pear, 2);
        left.sold_total.add(Fruit::Apple, State::Dried, 1);
        right.sold_total.add(Fruit::Pear, State::Raw, 4);
        let readings = read(&[&left, &right]);
        assert_eq!(readings[0].by_source, [[3], [0]]);
        assert_eq!(readings[1].sums(), [0, 3]);
        assert_eq!(readings[2].sums(), [0, 0, 1, 4, 0, 0], "row by row");
        assert_eq!(readings[2].descriptor.labels.len(), 2);
        assert_eq!(left.sold_total.value(Fruit::Apple, State::Dried), 1);
        let names: Vec<&str> = Fruit::ALL.iter().map(|fruit| fruit.name()).collect();
        assert_eq!(names, ["apple", "pear"]);
        let states = [State::Raw, State::Cooked, State::Dried];
        assert_eq!((State::ALL, State::Dried.name()), (&states[..], "dried"));
    }
}
