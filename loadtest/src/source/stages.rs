//! The latencies that a source measures.
//!
//! A reply counts from the write that ended its command or body. Pipelined commands all count from the
//! same write, so that later latencies include earlier ones; so does a short body in the same write
//! (BDAT).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use ringpost::outbound::transfer::Watch;
use ringpost::wire::smtp::Stage;

use crate::report::Collector;

/// In the order of a session; `Mark` is the index of each.
pub const NAMES: &[&str] = &[
    "connect",
    "banner",
    "EHLO",
    "STARTTLS",
    "TLS handshake",
    "AUTH",
    "RSET",
    "MAIL",
    "RCPT",
    "DATA",
    "body to reply",
    "message",
    "refused or lost",
    "QUIT",
];

/// See `NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// TCP alone.
    Connect,
    Banner,
    Ehlo,
    StartTls,
    Tls,
    Auth,
    Rset,
    Mail,
    Rcpt,
    Data,
    Body,
    /// An accepted message, from when it was due to the last reply, with a new connection if it needed
    /// one.
    Message,
    /// As `Message`, for messages that were not accepted.
    Failed,
    Quit,
}

/// Measured by all sessions of a shard.
pub type Marks = Rc<RefCell<Collector>>;

/// Measures one connection.
pub struct Watcher {
    marks: Marks,
    since: Instant,
}

impl Watcher {
    /// For a new connection.
    pub fn new(marks: &Marks) -> Watcher {
        Watcher { marks: Rc::clone(marks), since: Instant::now() }
    }

    fn record(&self, mark: Mark) {
        self.marks.borrow_mut().record(mark as usize, self.since.elapsed());
    }
}

impl Watch for Watcher {
    fn on_write(&mut self) {
        self.since = Instant::now();
    }

    fn on_reply(&mut self, stage: Stage) {
        self.record(match stage {
            Stage::Greeting => Mark::Banner,
            Stage::Ehlo => Mark::Ehlo,
            Stage::StartTls => Mark::StartTls,
            Stage::Auth => Mark::Auth,
            Stage::Rset => Mark::Rset,
            Stage::Mail => Mark::Mail,
            Stage::Rcpt => Mark::Rcpt,
            Stage::Data => Mark::Data,
            Stage::End => Mark::Body,
            Stage::Quit => Mark::Quit,
        });
        if stage == Stage::StartTls {
            self.since = Instant::now();
        }
    }

    fn on_tls(&mut self) {
        self.record(Mark::Tls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_its_name() {
        let rows = [
            (Mark::Connect, "connect"),
            (Mark::Tls, "TLS handshake"),
            (Mark::Body, "body to reply"),
            (Mark::Message, "message"),
            (Mark::Failed, "refused or lost"),
            (Mark::Quit, "QUIT"),
        ];
        for (mark, name) in rows {
            assert_eq!(NAMES[mark as usize], name);
        }
        assert_eq!(NAMES.len(), Mark::Quit as usize + 1);
    }
}
