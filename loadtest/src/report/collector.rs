//! Latencies as they are measured, on one shard.
//!
//! Owner:    one shard. Nothing is shared: a latency costs a histogram's counter and no lock.
//! Promise:  each second's histogram leaves whole, for the thread that keeps the seconds.
//! Bounds:   a histogram for each stage and one for the second under way, some 200 KB each, of which
//!           only the pages in use are touched.

use std::sync::mpsc::Sender;
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

/// An hour and more is recorded as this.
pub const LONGEST_US: u64 = 3_600_000_000;
/// Three digits of each latency are kept.
const DIGITS: u8 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// A histogram of microseconds.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    Histogram::new_with_max(LONGEST_US, DIGITS).expect("the bounds are lawful")
}

/// The histograms of a run by the names of their stages.
#[derive(Clone, Debug, Default)]
pub struct Stages(pub Vec<(&'static str, Latencies)>);

impl Stages {
    pub fn add(&mut self, other: Stages) {
        for (name, latencies) in other.0 {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => sum.add(&latencies).expect("all have the same bounds"),
                None => self.0.push((name, latencies)),
            }
        }
    }
}

/// What one shard did in one second of the run.
pub struct Slice {
    /// Since the run began.
    pub second: u64,
    pub done: Latencies,
    pub failed: u64,
}

impl Slice {
    pub fn new(second: u64) -> Slice {
        Slice { second, done: latencies(), failed: 0 }
    }
}

/// What one shard measures.
pub struct Collector {
    names: &'static [&'static str],
    stages: Vec<Latencies>,
    began: Instant,
    slice: Slice,
    ends_at: Instant,
    keeper: Sender<Slice>,
}

impl Collector {
    pub(super) fn new(
        names: &'static [&'static str],
        began: Instant,
        keeper: Sender<Slice>,
    ) -> Collector {
        let stages = names.iter().map(|_| latencies()).collect();
        Collector { names, stages, began, slice: Slice::new(0), ends_at: began + SECOND, keeper }
    }

    /// Keeps what the stage at this place of the names took.
    pub fn record(&mut self, stage: usize, took: Duration) {
        self.stages[stage].saturating_record(micros(took));
    }

    /// Keeps it also for the second it ended in: one thing of those that are counted is done.
    pub fn finish(&mut self, stage: usize, took: Duration, now: Instant) {
        self.record(stage, took);
        self.count(took, now);
    }

    /// Keeps it for the second it ended in, and for no stage.
    pub fn count(&mut self, took: Duration, now: Instant) {
        self.turn(now);
        self.slice.done.saturating_record(micros(took));
    }

    /// As `finish`, of one that failed: it is none of those that are done.
    pub fn fail(&mut self, stage: usize, took: Duration, now: Instant) {
        self.record(stage, took);
        self.turn(now);
        self.slice.failed += 1;
    }

    /// Lets go of the last second if it is over. To be called a few times a second.
    pub fn turn(&mut self, now: Instant) {
        if now < self.ends_at {
            return;
        }
        let second = now.saturating_duration_since(self.began).as_secs();
        self.ends_at = self.began + Duration::from_secs(second + 1);
        self.send(Slice::new(second));
    }

    /// What was measured in all; the collector starts over.
    pub fn take(&mut self, now: Instant) -> Stages {
        self.turn(now);
        self.send(Slice::new(self.slice.second));
        let stages = self.stages.iter_mut().map(|stage| std::mem::replace(stage, latencies()));
        let named = self.names.iter().copied().zip(stages);
        Stages(named.filter(|(_, latencies)| !latencies.is_empty()).collect())
    }

    fn send(&mut self, next: Slice) {
        let slice = std::mem::replace(&mut self.slice, next);
        if !slice.done.is_empty() || slice.failed > 0 {
            // Who keeps the seconds goes last, or died of a panic that is told elsewhere.
            let _ = self.keeper.send(slice);
        }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn seconds_leave_whole_and_stages_add_up() {
        let (keeper, kept) = mpsc::channel();
        let began = Instant::now();
        let ms = Duration::from_millis;
        let mut one = Collector::new(&["a", "b", "c"], began, keeper.clone());
        for at in [0, 10, 999, 1000, 1500, 4001] {
            one.finish(1, ms(at + 1), began + ms(at));
        }
        one.fail(0, Duration::MAX, began + ms(4001));
        let mut sum = one.take(began + ms(4100));
        let mut other = Collector::new(&["a", "b", "c"], began, keeper);
        other.record(1, ms(7));
        sum.add(other.take(began + ms(4100)));
        assert!(one.take(began + ms(9000)).0.is_empty(), "it started over");
        drop((one, other));

        let kept: Vec<_> = kept.iter().map(|s| (s.second, s.done.len(), s.failed)).collect();
        assert_eq!(kept, [(0, 3, 0), (1, 2, 0), (4, 1, 1)]);
        let counts: Vec<_> = sum.0.iter().map(|(name, kept)| (*name, kept.len())).collect();
        assert_eq!(counts, [("a", 1), ("b", 7)], "what never was is left out");
        assert!(sum.0[0].1.max() >= LONGEST_US);
    }
}
