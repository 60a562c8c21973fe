//! What a sink has received and measured when it stops.

use std::time::Duration;
use std::time::Instant;

use crate::ledger::Ledger;
use crate::report::Interval;
use crate::report::Latencies;
use crate::report::Record;
use crate::report::Stages;
use crate::report::by_name;
use crate::sink::marks;
use crate::sink::marks::Measured;
use crate::sink::tally::Counts;

/// The result of a sink.
#[derive(Debug, Default)]
pub struct Taken {
    pub counts: Counts,
    pub ledger: Ledger,
    pub measured: Measured,
    /// Every second since the sink started.
    pub intervals: Vec<Interval>,
    pub began: Option<Instant>,
}

impl Taken {
    pub fn stages(&self) -> &Stages {
        &self.measured.stages
    }

    /// From the begin of each message, if its id has it, to its arrival.
    pub fn end_to_end(&self) -> Option<&Latencies> {
        let name = marks::NAMES[marks::Mark::EndToEnd as usize];
        self.stages().0.iter().find(|(stage, _)| *stage == name).map(|(_, all)| all)
    }

    /// From the first connection to the last message.
    fn busy(&self) -> Duration {
        let Measured { first, last, .. } = self.measured;
        let ends = first.zip(last);
        ends.map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first))
    }

    /// The seconds between the first connection and the last message.
    fn busy_intervals(&self) -> Vec<Interval> {
        let idle = self.began.zip(self.measured.first);
        let begin = idle.map_or(0.0, |(began, first)| (first - began).as_secs_f64());
        let end = begin + self.busy().as_secs_f64();
        let within =
            self.intervals.iter().filter(|one| one.start + 1.0 > begin && one.start <= end);
        let cut = within.map(|one| {
            let start = one.start.max(begin);
            let seconds = ((one.start + 1.0).min(end) - start).max(0.001);
            Interval { start: start - begin, seconds, ..one.clone() }
        });
        cut.collect()
    }

    /// Completes a record that began when the sink did.
    pub fn complete(&self, record: &mut Record) {
        let seconds = self.busy().as_secs_f64();
        if let Some(first) = self.measured.first {
            record.when = (jiff::Timestamp::now() - first.elapsed()).to_string();
        }
        let mut runs = self.ledger.run_names();
        if let (Some(run), None) = (runs.next(), runs.next()) {
            record.run = String::from_utf8_lossy(run).into_owned();
        }
        record.seconds = seconds;
        record.per_second = self.counts.messages as f64 / seconds.max(0.001);
        record.counts = by_name(&self.counts);
        record.ledger = by_name(&self.ledger.totals());
        record.set_stages(self.stages().clone());
        record.intervals = self.busy_intervals();
    }
}
