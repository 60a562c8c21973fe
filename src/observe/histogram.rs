//! Latencies and sizes with their tails: one HDR histogram per stage and shard.
//!
//! Owner:    `Histograms` is written by its shard only. Its `Shelf` is shared.
//! Promise:  recording is an array increment. A reader asks by raising the shelf's `wanted`; the
//!           shard's ticker then copies its histograms onto the shelf, outside the data path, and
//!           never waits: while a reader is at the shelf it comes back with the next tick.
//! Bounds:   fixed at the start, see `histogram_bytes`: values over the highest count as the
//!           highest, nothing resizes. Three significant digits.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

/// Three digits: p99 = 1234 us is not 1233 or 1235 by more than one.
const DIGITS: u8 = 3;

/// Sub-buckets that three digits need, as the .hgrm format wants them named.
const SUB_BUCKETS: u64 = 2048;

/// The longest latency told apart: ten minutes, the longest time that a state may take.
const LATENCY_US_MAX: u64 = 600_000_000;

/// The largest batch told apart.
const BATCH_MESSAGES_MAX: u64 = (1 << 16) - 1;

/// Pause between two looks at the shelves.
const LOOK_MS: u64 = 1;

/// Lines per halving of the distance to 100 % in a .hgrm file.
const TICKS_PER_HALF: u32 = 5;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Banner,
    Command,
    Body,
    CommitWait,
    BatchSize,
    AcceptTo250,
    QueueWait,
    Connect,
    Transfer,
    Delivered,
}

const STAGES: usize = Stage::ALL.len();

impl Stage {
    pub const ALL: [Stage; 10] = [
        Stage::Banner,
        Stage::Command,
        Stage::Body,
        Stage::CommitWait,
        Stage::BatchSize,
        Stage::AcceptTo250,
        Stage::QueueWait,
        Stage::Connect,
        Stage::Transfer,
        Stage::Delivered,
    ];

    /// Its name in `/stats`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Banner => "banner",
            Stage::Command => "command",
            Stage::Body => "body",
            Stage::CommitWait => "commit_wait",
            Stage::BatchSize => "batch_size",
            Stage::AcceptTo250 => "accept_to_250",
            Stage::QueueWait => "queue_wait",
            Stage::Connect => "connect",
            Stage::Transfer => "transfer",
            Stage::Delivered => "accept_to_delivered",
        }
    }

    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    pub fn unit(self) -> &'static str {
        match self {
            Stage::BatchSize => "messages",
            _ => "microseconds",
        }
    }

    pub fn help(self) -> &'static str {
        match self {
            Stage::Banner => "from an accepted connection to its banner",
            Stage::Command => "from a command's last byte to its reply",
            Stage::Body => "from 354 (or the first BDAT) to the body's last byte",
            Stage::CommitWait => "from the body's last byte until it is durable",
            Stage::BatchSize => "messages made durable by one sync",
            Stage::AcceptTo250 => "from MAIL to the 250 after the body",
            Stage::QueueWait => "from the moment a job was issued until it was sent",
            Stage::Connect => "from a connection's begin until it could take mail",
            Stage::Transfer => "from MAIL to the last reply of a mail sent on",
            Stage::Delivered => "from the body's last byte until the end of delivery was durable",
        }
    }

    fn highest(self) -> u64 {
        if self == Stage::BatchSize { BATCH_MESSAGES_MAX } else { LATENCY_US_MAX }
    }
}

type Set = [Histogram<u64>; STAGES];

fn empty_set() -> Set {
    Stage::ALL.map(|stage| {
        Histogram::new_with_max(stage.highest(), DIGITS).expect("the bounds are valid")
    })
}

/// Bytes that a shard's histograms and their copy on the shelf may come to hold together.
pub fn histogram_bytes() -> usize {
    let values: usize = empty_set().iter().map(Histogram::distinct_values).sum();
    2 * values * size_of::<u64>()
}

/// Where a shard lays out a copy for readers.
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

    /// Microseconds, or messages for `BatchSize`.
    pub fn record(&self, stage: Stage, value: u64) {
        self.own.borrow_mut()[stage as usize].saturating_record(value);
    }

    /// For the shard's ticker: lays out a copy if somebody wants one. Never waits.
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
            copy.set_to(own).expect("both have the same bounds");
        }
        self.shelf.published.store(wanted, Ordering::Release);
        true
    }
}

/// All shards' histograms as one.
#[derive(Debug)]
pub struct Merged {
    stages: Box<Set>,
    /// Places of the shards that did not answer in time; what they answered last is counted.
    pub silent: Vec<usize>,
}

/// What people look at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub min: u64,
    pub mean: f64,
    pub max: u64,
}

/// The quantiles that `/stats` shows, with their keys.
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
        let of = &self.stages[stage as usize];
        let mut out = String::new();
        let mut total = 0;
        write_hgrm_head(&mut out);
        for step in of.iter_quantiles(TICKS_PER_HALF) {
            total += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to(), step.quantile_iterated_to());
            write!(out, "{:12.3} {quantile:14.12} {total:10}", value as f64)
                .expect("a String takes everything");
            if quantile < 1.0 {
                write!(out, " {:14.2}", 1.0 / (1.0 - quantile)).expect("a String takes everything");
            }
            out.push('\n');
        }
        write_hgrm_foot(&mut out, of);
        out
    }
}

fn write_hgrm_head(out: &mut String) {
    let columns = ("Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", columns.0, columns.1, columns.2, columns.3)
        .expect("a String takes everything");
}

fn write_hgrm_foot(out: &mut String, of: &Histogram<u64>) {
    let rows = [
        format!("Mean    = {:12.3}, StdDeviation   = {:12.3}", of.mean(), of.stdev()),
        format!("Max     = {:12.3}, Total count    = {:12}", of.max() as f64, of.len()),
        format!("Buckets = {:12}, SubBuckets     = {:12}", of.buckets(), SUB_BUCKETS),
    ];
    for row in rows {
        writeln!(out, "#[{row}]").expect("a String takes everything");
    }
}

/// Reads all shelves. For the control thread.
#[derive(Clone, Debug)]
pub struct HistogramReader {
    shelves: Vec<Arc<Shelf>>,
}

/// Copies that were asked for: for each shelf the number that it must reach.
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

    /// What the shards answered, this time or before.
    pub fn merge(&self, request: &Request) -> Merged {
        let mut stages = Box::new(empty_set());
        let silent = self.silent(request);
        for shelf in &self.shelves {
            let copy = shelf.copy.lock().unwrap_or_else(PoisonError::into_inner);
            for (all, one) in stages.iter_mut().zip(copy.iter().flat_map(|set| set.iter())) {
                all.add(one).expect("both have the same bounds");
            }
        }
        Merged { stages, silent }
    }

    /// Asks, waits for the answers on this thread up to `timeout`, and merges them.
    pub fn collect(&self, timeout: Duration) -> Merged {
        let request = self.request();
        let deadline = Instant::now() + timeout;
        while !self.is_answered(&request) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(LOOK_MS));
        }
        self.merge(&request)
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
        shards[0].record(Stage::Banner, u64::MAX);
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
        let (lowest, highest) = (LATENCY_US_MAX, LATENCY_US_MAX + LATENCY_US_MAX / 5);
        assert!((lowest..highest).contains(&merged.summary(Stage::Banner).max), "saturated");
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
        assert_eq!(reader.collect(Duration::ZERO).silent, [0]);
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
    fn a_hgrm_file_is_as_the_plotters_read_it() {
        let (shards, reader) = shards(1);
        for value in 1..=4 {
            shards[0].record(Stage::BatchSize, value);
        }
        let request = reader.request();
        shards[0].publish_if_wanted();
        let hgrm = reader.merge(&request).to_hgrm(Stage::BatchSize);
        let lines: Vec<&str> = hgrm.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(lines.contains(&"       2.000 0.500000000000          2           2.00"), "{hgrm}");
        assert!(lines.contains(&"       4.000 1.000000000000          4"), "{hgrm}");
        let foot = [
            "#[Mean    =        2.500, StdDeviation   =        1.118]",
            "#[Max     =        4.000, Total count    =            4]",
            "#[Buckets =            6, SubBuckets     =         2048]",
        ];
        assert_eq!(lines[lines.len() - 3..], foot);
        let empty = reader.merge(&request).to_hgrm(Stage::Banner);
        assert!(empty.contains("Total count    =            0"), "{empty}");
    }

    #[test]
    fn memory_is_bounded() {
        let bytes = histogram_bytes();
        // Ten stages of 90 to 180 KB, twice.
        assert!(bytes < 4 << 20, "{bytes}");
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
        println!("histograms of one shard and their copy: {} bytes", histogram_bytes());
    }
}
