//! Collects the latencies of one shard.
//!
//! Owner:    one shard. A latency costs one counter of a histogram and no lock.
//! Promise:  the histogram of each second is sent whole to the thread that joins the seconds.
//! Bounds:   one histogram per stage and one for the current second, about 200 KB each, of which only
//!           the used pages are touched.

use std::sync::mpsc::Sender;
use std::time::Duration;
use std::time::Instant;

use crate::report::histogram::Hdr;
use crate::report::histogram::Stage;

const SECOND: Duration = Duration::from_secs(1);

/// Defines `Mark`, the stages of a session in order, and `NAMES`, the name of each at its index.
macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident = $name:literal,)*) => {
        /// The names of the stages, in the order of `Mark`.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The stages of a session, in order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mark { $($(#[$doc])* $mark,)* }
    };
}

pub(crate) use marks;

/// One second of one shard.
#[derive(Default)]
pub struct Slice {
    /// Seconds since the begin of the run.
    pub second: u64,
    pub done: Hdr,
    pub failed: u64,
}

/// All measurements of one shard.
pub struct Collector {
    names: &'static [&'static str],
    stages: Vec<Hdr>,
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
        let stages = names.iter().map(|_| Hdr::default()).collect();
        Collector { names, stages, began, slice: Slice::default(), ends_at: began + SECOND, keeper }
    }

    /// Records a latency of a stage, by its index.
    pub fn record(&mut self, stage: usize, took: Duration) {
        self.stages[stage].record_time(took);
    }

    /// Records a latency of a stage and of the current second.
    pub fn finish(&mut self, stage: usize, took: Duration, now: Instant) {
        self.record(stage, took);
        self.count(took, now);
    }

    /// Records a latency of the current second only.
    pub fn count(&mut self, took: Duration, now: Instant) {
        self.turn(now);
        self.slice.done.record_time(took);
    }

    /// Records a failure: its latency counts for the stage and not for the second.
    pub fn fail(&mut self, stage: usize, took: Duration, now: Instant) {
        self.record(stage, took);
        self.turn(now);
        self.slice.failed += 1;
    }

    /// Sends the last second if it is over. Call this a few times a second.
    pub fn turn(&mut self, now: Instant) {
        if now < self.ends_at {
            return;
        }
        let second = now.saturating_duration_since(self.began).as_secs();
        self.ends_at = self.began + Duration::from_secs(second + 1);
        self.send(Slice { second, ..Slice::default() });
    }

    /// Returns the stages that were measured; the collector starts over.
    pub fn take(&mut self, now: Instant) -> Vec<Stage> {
        self.turn(now);
        self.send(Slice { second: self.slice.second, ..Slice::default() });
        let named = self.names.iter().zip(&mut self.stages).map(|(name, latencies)| Stage {
            name: (*name).to_owned(),
            latencies: std::mem::take(latencies),
        });
        named.filter(|stage| !stage.latencies.0.is_empty()).collect()
    }

    fn send(&mut self, next: Slice) {
        let slice = std::mem::replace(&mut self.slice, next);
        if !slice.done.0.is_empty() || slice.failed > 0 {
            // The receiver ends last, or has panicked, which is reported there.
            let _ = self.keeper.send(slice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::histogram::LONGEST_US;
    use crate::report::histogram::add_stages;
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
        add_stages(&mut sum, other.take(began + ms(4100)));
        assert!(one.take(began + ms(9000)).is_empty(), "it started over");
        drop((one, other));

        let kept: Vec<_> = kept.iter().map(|s| (s.second, s.done.0.len(), s.failed)).collect();
        assert_eq!(kept, [(0, 3, 0), (1, 2, 0), (4, 1, 1)]);
        let counts: Vec<_> = sum.iter().map(|one| (&*one.name, one.latencies.0.len())).collect();
        assert_eq!(counts, [("a", 1), ("b", 7)], "empty stages are left out");
        assert!(sum[0].latencies.0.max() >= LONGEST_US);
    }
}
