//! Distributions: one HDR histogram per stage and shard.
//!
//! Owner:    only the shard writes its `Histograms`. Its `Shelf` is shared.
//! Promise:  recording is an array increment. A reader raises `wanted` of the shelf; the shard's
//!           ticker then copies its histograms to the shelf, outside the data path. The ticker never
//!           waits: while a reader holds the shelf, it tries again at the next tick. Distributions without new values are not copied again.
//! Bounds:   memory is fixed at the start. Values above the highest are
//!           recorded as the highest; nothing resizes. Three significant digits.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use crate::observe::exposition::Buckets;
use crate::observe::hgrm;
use crate::observe::stage::Stage;

/// Significant digits: a value is recorded to 0.1 %.
const DIGITS: u8 = 3;

type Set = [Histogram<u64>; Stage::ALL.len()];

fn empty_set() -> Set {
    Stage::ALL.map(|stage| {
        Histogram::new_with_max(stage.highest(), DIGITS).expect("the bounds are valid")
    })
}

/// Holds a copy of a shard's histograms for readers.
#[derive(Debug, Default)]
pub struct Shelf {
    wanted: AtomicU64,
    published: AtomicU64,
    copy: Mutex<Option<Box<Set>>>,
}

/// A shard's own histograms. Stays on the shard.
#[derive(Debug)]
pub struct Histograms {
    own: RefCell<Box<Set>>,
    shelf: Arc<Shelf>,
}

impl Histograms {
    pub fn new(shelf: Arc<Shelf>) -> Histograms {
        Histograms { own: RefCell::new(Box::new(empty_set())), shelf }
    }

    /// Microseconds, or messages for `CommitBatch`.
    pub fn record(&self, stage: Stage, value: u64) {
        self.own.borrow_mut()[stage as usize].saturating_record(value);
    }

    /// For the shard's ticker: copies the histograms if a reader asked. Never waits.
    pub fn publish_if_wanted(&self) -> bool {
        let wanted = self.shelf.wanted.load(Ordering::Acquire);
        if wanted == self.shelf.published.load(Ordering::Relaxed) {
            return false;
        }
        let mut copy = match self.shelf.copy.try_lock() {
            Ok(copy) => copy,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let copy = copy.get_or_insert_with(|| Box::new(empty_set()));
        for (copy, own) in copy.iter_mut().zip(self.own.borrow().iter()) {
            // Counts only grow, so an equal sum is an equal distribution.
            if copy.len() != own.len() {
                copy.set_to(own).expect("both have the same bounds");
            }
        }
        self.shelf.published.store(wanted, Ordering::Release);
        true
    }
}

/// The histograms of all shards, added up.
#[derive(Debug)]
pub struct Merged {
    stages: Box<Set>,
    /// Shards that did not answer in time. Their last answers are included.
    pub silent: Vec<usize>,
}

/// The figures of a distribution without its quantiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub min: u64,
    pub mean: f64,
    pub max: u64,
}

/// The quantiles in `/stats`, with their keys.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)];

impl Merged {
    pub fn summary(&self, stage: Stage) -> Summary {
        let of = &self.stages[stage as usize];
        Summary { count: of.len(), min: of.min(), mean: of.mean(), max: of.max() }
    }

    pub fn at_quantile(&self, stage: Stage, quantile: f64) -> u64 {
        self.stages[stage as usize].value_at_quantile(quantile)
    }

    /// The percentile distribution as the HDR plotters read it (.hgrm).
    pub fn to_hgrm(&self, stage: Stage) -> String {
        hgrm::write(&self.stages[stage as usize])
    }

    /// The distribution as `/metrics` exposes it. A recorded value counts as at most a bound if the
    /// whole interval of values recorded like it is, which is 0.1 % wide. The sum is exact to 0.1 %.
    pub fn buckets(&self, stage: Stage) -> Buckets {
        let of = &self.stages[stage as usize];
        let per_unit = stage.per_unit();
        let mut up_to: Vec<(f64, u64)> = stage.bounds().iter().map(|bound| (*bound, 0)).collect();
        let mut sum = 0.0;
        for step in of.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_at_value());
            let highest = of.highest_equivalent(value) as f64 / per_unit;
            sum += of.median_equivalent(value) as f64 * count as f64;
            let first = up_to.partition_point(|(bound, _)| *bound < highest);
            if let Some((_, bucket)) = up_to.get_mut(first) {
                *bucket += count;
            }
        }
        let mut below = 0;
        for (_, count) in &mut up_to {
            below += *count;
            *count = below;
        }
        Buckets { up_to, count: of.len(), sum: sum / per_unit }
    }
}

/// Reads all shelves.
#[derive(Clone, Debug)]
pub struct HistogramReader {
    shelves: Vec<Arc<Shelf>>,
}

/// Requested copies: for each shelf the number of the copy that answers.
#[derive(Debug)]
pub struct Request(Vec<u64>);

impl HistogramReader {
    pub fn new(shelves: Vec<Arc<Shelf>>) -> HistogramReader {
        HistogramReader { shelves }
    }

    /// Asks every shard for a fresh copy.
    pub fn request(&self) -> Request {
        let ask = |shelf: &Arc<Shelf>| shelf.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        Request(self.shelves.iter().map(ask).collect())
    }

    /// Whether every shard has answered.
    pub fn is_answered(&self, request: &Request) -> bool {
        self.silent(request).is_empty()
    }

    /// Adds up the last answer of each shard.
    pub fn merge(&self, request: &Request) -> Merged {
        let mut stages = Box::new(empty_set());
        let silent = self.silent(request);
        for shelf in &self.shelves {
            let copy = shelf.copy.lock().unwrap_or_else(PoisonError::into_inner);
            for (all, one) in stages.iter_mut().zip(copy.iter().flat_map(|set| set.iter())) {
                if !one.is_empty() {
                    all.add(one).expect("both have the same bounds");
                }
            }
        }
        Merged { stages, silent }
    }

    fn silent(&self, request: &Request) -> Vec<usize> {
        let is_behind = |(shelf, wanted): (&Arc<Shelf>, &u64)| {
            shelf.published.load(Ordering::Acquire) < *wanted
        };
        let asked = self.shelves.iter().zip(&request.0).enumerate();
        asked.filter_map(|(place, pair)| is_behind(pair).then_some(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shards(count: usize) -> (Vec<Histograms>, HistogramReader) {
        let shelves: Vec<Arc<Shelf>> = (0..count).map(|_| Arc::default()).collect();
        let shards = shelves.iter().cloned().map(Histograms::new).collect();
        (shards, HistogramReader::new(shelves))
    }

    #[test]
    fn shards_are_merged_and_the_silent_one_is_named() {
        let (shards, reader) = shards(2);
        for value in 1..=100 {
            shards[(value % 2) as usize].record(Stage::Body, value);
        }
        shards[0].record(Stage::Greeting, u64::MAX);
        assert!(!shards[0].publish_if_wanted(), "nobody asked");
        let request = reader.request();
        assert!(shards[0].publish_if_wanted() && !shards[0].publish_if_wanted());
        assert!(!reader.is_answered(&request));
        assert_eq!(reader.merge(&request).silent, [1]);
        assert!(shards[1].publish_if_wanted());
        assert!(reader.is_answered(&request));
        let merged = reader.merge(&request);
        assert!(merged.silent.is_empty());
        let expected = Summary { count: 100, min: 1, mean: 50.5, max: 100 };
        assert_eq!(merged.summary(Stage::Body), expected);
        assert_eq!(merged.at_quantile(Stage::Body, 0.9), 90);
        assert_eq!(merged.summary(Stage::Command).count, 0);
        let highest = Stage::Greeting.highest();
        let (lowest, highest) = (highest, highest + highest / 5);
        assert!((lowest..highest).contains(&merged.summary(Stage::Greeting).max), "saturated");
    }

    #[test]
    fn a_reader_at_the_shelf_does_not_hold_the_shard_up() {
        let (shards, reader) = shards(1);
        let request = reader.request();
        let copy = reader.shelves[0].copy.lock().expect("free");
        assert!(!shards[0].publish_if_wanted(), "it comes back later");
        drop(copy);
        assert!(shards[0].publish_if_wanted());
        assert!(reader.is_answered(&request));
        let unanswered = reader.request();
        assert_eq!(reader.merge(&unanswered).silent, [0]);
    }

    #[test]
    fn a_second_copy_replaces_the_first() {
        let (shards, reader) = shards(1);
        for count in 1..=2 {
            shards[0].record(Stage::Command, 7);
            let request = reader.request();
            shards[0].publish_if_wanted();
            assert_eq!(reader.merge(&request).summary(Stage::Command).count, count);
        }
    }

    #[test]
    fn buckets_are_cumulative_and_in_base_units() {
        let (shards, reader) = shards(1);
        for value in [90, 900, 1_000, 2_000_000, u64::MAX] {
            shards[0].record(Stage::Body, value);
        }
        let request = reader.request();
        shards[0].publish_if_wanted();
        let buckets = reader.merge(&request).buckets(Stage::Body);
        let count = |bound: f64| {
            let found = buckets.up_to.iter().find(|(other, _)| *other == bound);
            found.expect("a bound").1
        };
        assert_eq!([count(0.0001), count(0.0005), count(0.001), count(2.5)], [1, 1, 3, 4]);
        assert_eq!((count(300.0), buckets.count), (4, 5), "the longest is in no bucket");
        assert!((602.0..605.0).contains(&buckets.sum), "{}", buckets.sum);
    }

    #[test]
    fn memory_is_bounded() {
        let values: usize = empty_set().iter().map(Histogram::distinct_values).sum();
        let bytes = 2 * values * size_of::<u64>();
        // Twelve stages of 90 to 260 KB, twice.
        assert!(bytes < 6 << 20, "{bytes}");
    }

    /// `cargo test --release --lib cost_of_a_value -- --ignored --nocapture` shows it.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_value_and_of_a_copy() {
        const VALUES: u32 = 1_000_000;
        let (shards, reader) = shards(1);
        let start = Instant::now();
        for value in 0..VALUES {
            shards[0].record(Stage::Command, u64::from(value) * 37 % 50_000);
        }
        println!("{} ps a value", (start.elapsed() / (VALUES / 1_000)).as_nanos());
        for stage in Stage::ALL {
            shards[0].record(stage, 1);
        }
        for copy in ["first", "second"] {
            reader.request();
            let start = Instant::now();
            assert!(shards[0].publish_if_wanted());
            println!("{copy} copy: {} us", start.elapsed().as_micros());
        }
    }
}
