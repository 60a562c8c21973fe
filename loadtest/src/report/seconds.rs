//! The seconds of a run: a thread joins the histograms of all shards and prints the last second.
//!
//! Owner:    the thread that started the run holds `Seconds`; each shard holds a sender.
//! Promise:  a second without messages is recorded too: that is how a stall looks.
//! Bounds:   a second takes the used pages of its histogram, mostly less than 50 KB. After a day
//!           (`SECONDS_MAX`) everything goes into the last second.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::io::Write;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::report::collector::Collector;
use crate::report::collector::Slice;
use crate::report::record::Interval;

const SECONDS_MAX: u64 = 86_400;
/// The delay before a second is printed, so that all shards have sent theirs.
const SHOWN_AFTER: Duration = Duration::from_millis(150);

/// Creates collectors and receives their seconds.
pub struct Seconds {
    began: Instant,
    sender: Sender<Slice>,
    keeper: JoinHandle<Keeper>,
}

impl Seconds {
    /// Starts the thread. `shows`: each second is printed on stderr.
    pub fn start(began: Instant, shows: bool) -> Seconds {
        let (sender, receiver) = mpsc::channel();
        let keeper = thread::spawn(move || {
            let mut keeper = Keeper::default();
            keeper.work(&receiver, began, shows);
            keeper
        });
        Seconds { began, sender, keeper }
    }

    pub fn collector(&self, names: &'static [&'static str]) -> Collector {
        Collector::new(names, self.began, self.sender.clone())
    }

    /// All seconds of a run of this duration. Every collector has ended.
    pub fn end(self, took: Duration) -> Vec<Interval> {
        drop(self.sender);
        match self.keeper.join() {
            Ok(keeper) => keeper.into_intervals(took),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[derive(Default)]
struct Keeper {
    seconds: BTreeMap<u64, Slice>,
    done: u64,
    failed: u64,
}

impl Keeper {
    fn work(&mut self, receiver: &Receiver<Slice>, began: Instant, shows: bool) {
        let mut shown = 0;
        loop {
            let due = began + Duration::from_secs(shown + 1) + SHOWN_AFTER;
            match receiver.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(slice) => self.keep(slice),
                Err(RecvTimeoutError::Timeout) => {
                    if shows {
                        self.show(shown);
                    }
                    shown += 1;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if shows && shown > 0 {
            eprintln!();
        }
    }

    fn keep(&mut self, mut slice: Slice) {
        slice.second = slice.second.min(SECONDS_MAX - 1);
        self.done += slice.done.0.len();
        self.failed += slice.failed;
        let sum = self.seconds.entry(slice.second).or_default();
        sum.done.add(&slice.done);
        sum.failed += slice.failed;
    }

    fn show(&self, second: u64) {
        let last = self.seconds.get(&second);
        let figure = |quantile| last.map_or(0.0, |slice| slice.done.ms(quantile));
        let mut line = format!(
            "{:>6} s {:>8}/s  p50 {:>9.3} ms  p99 {:>9.3} ms  {:>10} done",
            second + 1,
            last.map_or(0, |slice| slice.done.0.len()),
            figure(0.5),
            figure(0.99),
            self.done
        );
        if self.failed > 0 {
            line.push_str(&format!("  {} failed", self.failed));
        }
        let mut stderr = std::io::stderr().lock();
        // A closed terminal must not end the run.
        let _ = match stderr.is_terminal() {
            true => write!(stderr, "\r{line}\x1b[K"),
            false => writeln!(stderr, "{line}"),
        };
    }

    fn into_intervals(mut self, took: Duration) -> Vec<Interval> {
        let took = took.as_secs_f64();
        let last = self.seconds.keys().max().copied();
        let whole = (took.ceil() as u64).clamp(1, SECONDS_MAX);
        let count = last.map_or(whole, |last| whole.max(last + 1));
        let interval = |second| {
            let start = second as f64;
            let seconds = if second + 1 == count { took - start } else { 1.0 };
            let slice = self.seconds.remove(&second).unwrap_or_default();
            let (failed, latencies) = (slice.failed, slice.done);
            Interval { start, seconds: seconds.max(0.001), failed, latencies }
        };
        (0..count).map(interval).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(second: u64, us: &[u64], failed: u64) -> Slice {
        let mut slice = Slice { second, failed, ..Slice::default() };
        us.iter().for_each(|us| slice.done.record(*us));
        slice
    }

    #[test]
    fn seconds_of_several_shards_are_joined_also_late() {
        let mut keeper = Keeper::default();
        keeper.keep(slice(0, &[10, 20], 0));
        keeper.keep(slice(7, &[5], 0));
        keeper.keep(slice(0, &[30], 2));
        keeper.keep(slice(SECONDS_MAX + 7, &[1], 0));
        keeper.seconds.remove(&(SECONDS_MAX - 1)).expect("all that is later goes into the last");
        assert_eq!((keeper.done, keeper.failed), (5, 2));
        let intervals = keeper.into_intervals(Duration::from_millis(7250));
        let told: Vec<_> =
            intervals.iter().map(|one| (one.latencies.0.len(), one.failed)).collect();
        let none = (0, 0);
        assert_eq!(told, [(3, 2), none, none, none, none, none, none, (1, 0)]);
        assert_eq!(intervals[0].latencies.0.max(), 30);
        assert_eq!((intervals[7].start, intervals[7].seconds), (7.0, 0.25));
    }

    #[test]
    fn collectors_send_to_it() {
        let began = Instant::now();
        let seconds = Seconds::start(began, false);
        let mut collector = seconds.collector(&["all"]);
        collector.finish(0, Duration::from_millis(3), began);
        assert_eq!(collector.take(began)[0].latencies.0.len(), 1);
        drop(collector);
        let intervals = seconds.end(Duration::from_millis(2500));
        let counts: Vec<_> = intervals.iter().map(|one| one.latencies.0.len()).collect();
        assert_eq!(counts, [1, 0, 0], "seconds in which nothing was done are there");
    }
}
