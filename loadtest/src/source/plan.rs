//! The plan of a run, shared by all sessions, and the results that they report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use ringpost::base::clock;
use ringpost::boot::hostname;
use ringpost::boot::signals::Signal;

use crate::process::wall_us;
use crate::random::Random;
use crate::report::Stage;
use crate::report::add_stages;
use crate::source::fates::Fates;
use crate::source::message::Pattern;
use crate::source::options::Options;
use crate::source::place;
use crate::source::schedule::Schedule;
use crate::source::schedule::Turn;
use crate::source::secure::Handshakes;
use crate::source::secure::Secure;
use crate::source::shape::Shape;
use crate::source::shape::Stretch;
use crate::source::steps::StepFigures;

/// Runs of this process, which may begin in the same millisecond.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// What all sessions share.
pub struct Plan {
    pub options: Options,
    pub server: SocketAddr,
    pub hostname: String,
    pub run: String,
    pub pattern: Pattern,
    pub fates: Fates,
    /// The begin of the first session, on the monotonic clock and in microseconds of Unix time. No
    /// message waits for the start of a thread.
    began: OnceLock<(Instant, u64)>,
    pub schedule: Schedule,
    sent: AtomicU64,
    stop: AtomicBool,
    signalled: AtomicBool,
    pub found: Mutex<SessionResults>,
}

/// The results of the sessions.
#[derive(Default)]
pub struct SessionResults {
    pub stages: Vec<Stage>,
    pub accepted: u64,
    pub refused: u64,
    /// Messages without an answer.
    pub lost: u64,
    /// Failed connections.
    pub unconnected: u64,
    pub handshakes: Handshakes,
    pub steps: StepFigures,
    /// Messages accepted for some of their recipients, with their number.
    pub partly: BTreeMap<u64, u64>,
    /// The first error.
    pub first: Option<String>,
}

impl SessionResults {
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.first.get_or_insert_with(text);
    }

    fn add(&mut self, other: SessionResults) {
        add_stages(&mut self.stages, other.stages);
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.lost += other.lost;
        self.unconnected += other.unconnected;
        self.handshakes.add(other.handshakes);
        self.steps.add(other.steps);
        self.partly.extend(other.partly);
        self.first = self.first.take().or(other.first);
    }

    /// Messages with a known fate.
    pub fn ended(&self) -> u64 {
        self.accepted + self.refused + self.lost
    }
}

impl Plan {
    pub fn new(options: Options) -> Result<Plan, String> {
        let own = || hostname::read(Path::new("/"));
        let hostname = options.hostname.clone().unwrap_or_else(own);
        let place = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = format!("{:x}.{:x}.{place:x}", clock::wall_ms(), std::process::id());
        let pattern = Pattern::new(&options, &hostname, &run)?;
        // Each shard makes its own. This reports errors before the run.
        Secure::new(&options.secure, place::host_of(&options.server))?;
        let times = &options.shape;
        let goes_on = times.duration.is_some() || options.messages.is_some();
        let shape = times.shape(goes_on);
        let random = times.poisson.then(|| Random::new(options.seed));
        let count = options.count();
        Ok(Plan {
            server: place::find(&options.server)?,
            hostname,
            schedule: Schedule::new(shape, times.duration, count, random),
            run,
            pattern,
            fates: Fates::default(),
            began: OnceLock::new(),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
            found: Mutex::default(),
            options,
        })
    }

    /// The next message to send.
    pub fn take(&self) -> Option<Turn> {
        if self.is_stopped() {
            return None;
        }
        self.schedule.next(self.began().0.elapsed())
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Relaxed)
    }

    /// Begins no more messages.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether no more messages begin, except overdue ones.
    pub fn is_ending(&self) -> bool {
        self.is_stopped() || self.end().is_some_and(|end| end <= Instant::now())
    }

    /// The end of the run, if its duration is limited.
    pub fn end(&self) -> Option<Instant> {
        self.schedule.end().map(|end| self.began().0 + end)
    }

    /// Whether the duration is limited. The server may then be unreachable for a while.
    pub fn is_timed(&self) -> bool {
        self.schedule.end().is_some()
    }

    /// The begin of the run on both clocks.
    pub fn began(&self) -> (Instant, u64) {
        *self.began.get_or_init(|| (Instant::now(), wall_us()))
    }

    /// When a message begins, if there is a schedule.
    pub fn begin_of(&self, turn: Turn) -> Option<Instant> {
        turn.begin.map(|since| self.began().0 + since)
    }

    /// Microseconds of Unix time.
    pub fn wall_us(&self, at: Instant) -> u64 {
        let (began, began_us) = self.began();
        began_us + at.saturating_duration_since(began).as_micros() as u64
    }

    /// The steps of `--steps`.
    pub fn stretches(&self) -> &[Stretch] {
        let shape = self.schedule.shape().filter(|_| self.options.shape.steps.is_some());
        shape.map_or(&[][..], Shape::stretches)
    }

    /// Messages that have ended.
    pub fn count_of_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the run after an error, unless -A is given.
    pub fn fail(&self) {
        if !self.options.go_on {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the run at a signal. The results are printed.
    pub fn end_by(&self, signals: &Receiver<Signal>) {
        while let Ok(signal) = signals.recv() {
            if matches!(signal, Signal::Term | Signal::Int) {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.note(|| "stopped by a signal".to_owned());
                self.signalled.store(true, Ordering::Relaxed);
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    pub fn report(&self, found: SessionResults) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(found);
    }
}
