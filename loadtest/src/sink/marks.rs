//! What a sink measures of its clients and of itself.
//!
//! A command counts from when we last said something until it was here: that is the way to the client
//! and back, and what the client did meanwhile. Commands that come together all count from the same
//! moment.

use std::cell::Cell;
use std::cell::RefCell;
use std::time::Duration;
use std::time::Instant;

use crate::report::Collector;
use crate::report::Stages;

/// In the order of a session; `Mark` is the place of each.
pub const NAMES: &[&str] = &[
    "TLS handshake",
    "until EHLO",
    "until MAIL",
    "until RCPT",
    "until DATA",
    "body",
    "MAIL to dot",
    "answer",
    "until QUIT",
    "session",
    "end to end",
    "begin to report",
];

/// See `NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Tls,
    Ehlo,
    Mail,
    Rcpt,
    /// Also BDAT.
    Data,
    /// From our 354, or from BDAT, until all of it was here.
    Body,
    /// Both of one message.
    Message,
    /// From when commands were here until they were answered, with all that was to be waited for.
    Answer,
    Quit,
    /// From the connection to its end.
    Session,
    /// From the begin of a message, where its id tells that, until it was here; for each recipient.
    EndToEnd,
    /// From the begin of a message until it was here that it could not be delivered, or not yet.
    Report,
}

/// What the sessions of a shard measure together.
pub struct Marks {
    collector: RefCell<Option<Collector>>,
    /// Of this shard: when the first connection came, and the last message was here.
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

    /// A message was accepted; this is what its second is told to have had.
    pub fn finish(&self, took: Duration, now: Instant) {
        self.last.set(Some(now));
        if let Some(collector) = &mut *self.collector.borrow_mut() {
            collector.count(took, now);
        }
    }

    /// To be called a few times a second.
    pub fn turn(&self) {
        if let Some(collector) = &mut *self.collector.borrow_mut() {
            collector.turn(Instant::now());
        }
    }

    /// What was measured. Sessions that did not end in time measure in vain.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_its_name() {
        let rows = [
            (Mark::Tls, "TLS handshake"),
            (Mark::Body, "body"),
            (Mark::Answer, "answer"),
            (Mark::Session, "session"),
            (Mark::EndToEnd, "end to end"),
            (Mark::Report, "begin to report"),
        ];
        for (mark, name) in rows {
            assert_eq!(NAMES[mark as usize], name);
        }
        assert_eq!(NAMES.len(), Mark::Report as usize + 1);
    }
}
