//! The latencies that a sink measures.
//!
//! A command counts from our last output to its arrival: one round trip plus the client's own time.
//! Pipelined commands all count from the same output.

use std::cell::Cell;
use std::cell::RefCell;
use std::time::Duration;
use std::time::Instant;

use crate::report::Collector;
use crate::report::Stages;
use crate::report::marks;

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

/// What one shard has measured.
#[derive(Debug, Default)]
pub struct Measured {
    pub stages: Stages,
    pub first: Option<Instant>,
    pub last: Option<Instant>,
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
    pub fn end(&self) -> Measured {
        let collector = self.collector.borrow_mut().take();
        let stages = collector.map(|mut own| own.take(Instant::now())).unwrap_or_default();
        Measured { stages, first: self.first.get(), last: self.last.get() }
    }
}

impl Measured {
    pub fn add(&mut self, other: Measured) {
        self.stages.add(other.stages);
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
    }
}
