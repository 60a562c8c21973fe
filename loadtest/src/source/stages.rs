//! The latencies that a source measures.
//!
//! A reply counts from the write that ended its command or body. Pipelined commands all count from the
//! same write, so that later latencies include earlier ones; so does a short body in the same write
//! (BDAT).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use ringpost::net::transfer::Watch;
use ringpost::wire::smtp::Stage;

use crate::report::Collector;
use crate::report::marks;

marks! {
    /// TCP alone.
    Connect = "connect",
    Banner = "banner",
    Ehlo = "EHLO",
    StartTls = "STARTTLS",
    Tls = "TLS handshake",
    Auth = "AUTH",
    Rset = "RSET",
    Mail = "MAIL",
    Rcpt = "RCPT",
    Data = "DATA",
    Body = "body to reply",
    /// An accepted message, from when it was due to the last reply, with a new connection if it needed
    /// one.
    Message = "message",
    /// As `Message`, for messages that were not accepted.
    Failed = "refused or lost",
    Quit = "QUIT",
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
