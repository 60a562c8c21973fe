//! What a sink counts and measures, and its result when it stops.
//!
//! A command counts from our last output to its arrival: one round trip plus the client's own time.
//! Pipelined commands all count from the same output.

use std::cell::Cell;
use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::ledger::Ledger;
use crate::report::Collector;
use crate::report::Hdr;
use crate::report::Interval;
use crate::report::Record;
use crate::report::Stage;
use crate::report::add_stages;
use crate::report::by_name;
use crate::report::marks;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counts of one shard.
        #[derive(Debug, Default)]
        pub struct Tally { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The counts of a sink.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
            }
        }

        impl Tally {
            pub fn add_to(&self, counts: &mut Counts) {
                $(counts.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

tally! {
    /// Connections accepted.
    connections,
    /// Connections ended.
    sessions,
    /// Sessions ended by QUIT.
    quits,
    /// Messages accepted for at least one recipient.
    messages,
    /// Messages times recipients accepted.
    copies,
    /// Copies whose body differs from the one that was sent.
    corrupted,
    /// Delivery status notifications.
    reports,
    /// Bytes of bodies, refused ones included.
    body_bytes,
    /// 4xx replies.
    soft_refusals,
    /// 5xx replies.
    hard_refusals,
    /// Connections that a behaviour ended, without a reply or with 421.
    broken_off,
    /// Failed attempts to accept a connection, mostly for lack of file descriptors.
    accept_faults,
}

/// Adds to a count that only this thread writes.
pub fn count(one: &AtomicU64, more: u64) {
    one.store(one.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

marks! {
    Tls = "TLS handshake",
    Ehlo = "until EHLO",
    Mail = "until MAIL",
    Rcpt = "until RCPT",
    /// Also BDAT.
    Data = "until DATA",
    /// From our 354, or from BDAT, to the end of the body.
    Body = "body",
    /// From MAIL to the end of the body.
    Message = "MAIL to dot",
    /// From the arrival of commands to the last reply, with configured delays.
    Answer = "answer",
    Quit = "until QUIT",
    /// From the connection to its end.
    Session = "session",
    /// From the begin of a message, if its id has it, to its arrival; for each recipient.
    EndToEnd = "end to end",
    /// From the begin of a message to the arrival of a notification about it.
    Report = "begin to report",
}

/// Measured by all sessions of a shard.
pub struct Marks {
    collector: RefCell<Option<Collector>>,
    /// The first connection and the last message of this shard.
    first: Cell<Option<Instant>>,
    last: Cell<Option<Instant>>,
}

impl Marks {
    pub fn new(collector: Collector) -> Marks {
        let collector = RefCell::new(Some(collector));
        Marks { collector, first: Cell::default(), last: Cell::default() }
    }

    pub fn record(&self, mark: Mark, took: Duration) {
        if let Some(collector) = &mut *self.collector.borrow_mut() {
            collector.record(mark as usize, took);
        }
    }

    pub fn connect(&self, now: Instant) {
        if self.first.get().is_none() {
            self.first.set(Some(now));
        }
    }

    /// An accepted message; `took` counts for its second.
    pub fn finish(&self, took: Duration, now: Instant) {
        self.last.set(Some(now));
        if let Some(collector) = &mut *self.collector.borrow_mut() {
            collector.count(took, now);
        }
    }

    /// Call this a few times a second.
    pub fn turn(&self) {
        if let Some(collector) = &mut *self.collector.borrow_mut() {
            collector.turn(Instant::now());
        }
    }

    /// Ends the measurement; sessions that are still open record nothing more.
    pub fn end(&self, taken: &mut Taken) {
        if let Some(mut own) = self.collector.borrow_mut().take() {
            add_stages(&mut taken.stages, own.take(Instant::now()));
        }
        taken.first = taken.first.into_iter().chain(self.first.get()).min();
        taken.last = taken.last.max(self.last.get());
    }
}

/// The result of a sink.
#[derive(Debug, Default)]
pub struct Taken {
    pub counts: Counts,
    pub ledger: Ledger,
    pub stages: Vec<Stage>,
    /// The first connection and the last message.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    /// Every second since the sink started.
    pub intervals: Vec<Interval>,
    pub began: Option<Instant>,
}

impl Taken {
    /// Adds counts, stages and ledger of another life of the sink.
    pub fn add(&mut self, other: Taken) {
        self.counts.add(&other.counts);
        self.ledger.add(other.ledger);
        add_stages(&mut self.stages, other.stages);
    }

    /// From the begin of each message, if its id has it, to its arrival.
    pub fn end_to_end(&self) -> Option<&Hdr> {
        let name = NAMES[Mark::EndToEnd as usize];
        self.stages.iter().find(|stage| stage.name == name).map(|stage| &stage.latencies)
    }

    /// From the first connection to the last message.
    fn busy(&self) -> Duration {
        let ends = self.first.zip(self.last);
        ends.map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first))
    }

    /// The seconds between the first connection and the last message.
    fn busy_intervals(&self) -> Vec<Interval> {
        let idle = self.began.zip(self.first);
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
        if let Some(first) = self.first {
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
        record.stages.clone_from(&self.stages);
        record.intervals = self.busy_intervals();
    }
}
