//! The source: sessions that send messages, in a closed loop or at a rate of their own.
//!
//! Owner:    one shard per `--cores`, each with its share of the sessions.
//! Promise:  with `--rate`, message n begins at n / rate, whatever became of the ones before; where
//!           no session is free it begins late, and that counts as part of its latency. Ramps,
//!           steps and random arrivals likewise. What was to begin and was not sent is counted.
//!
//! ```text
//! shape      when messages are to begin            random       draws that depend on the number alone
//! schedule   which one is next                     sizes, weights, domains, header, eml
//! message    what it says, from whom and to whom   what `message` is made of
//! session    sends it                              place, secure   how the server is reached
//! fates      what became of it                     steps      what became of each step
//! settings   what was asked for
//! ```

mod domains;
mod eml;
pub mod fates;
mod header;
mod message;
pub mod options;
mod place;
mod random;
mod schedule;
mod secure;
mod session;
mod settings;
pub mod shape;
mod sizes;
pub mod stages;
mod steps;
mod weights;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use ringpost::boot;
use ringpost::boot::signals;
use ringpost::boot::signals::Signal;
use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::rt::ShardThread;
use ringpost::wire::smtp::client_login::Login;

use crate::ledger::Sent;
use crate::report::Collector;
use crate::report::Interval;
use crate::report::Live;
use crate::report::Record;
use crate::report::Seconds;
use crate::report::Stages;
use crate::report::head_line;
use crate::source::fates::Fates;
use crate::source::message::Pattern;
use crate::source::options::Options;
use crate::source::place::Place;
use crate::source::random::Random;
use crate::source::schedule::Planned;
use crate::source::schedule::Schedule;
use crate::source::schedule::Turn;
use crate::source::secure::Handshakes;
use crate::source::secure::Secure;
use crate::source::settings::settings;
use crate::source::shape::Shape;
use crate::source::shape::Stretch;
use crate::source::steps::StepFigures;
use crate::watch::watch;

/// Runs of this process, which may begin in the same millisecond.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// How long nothing may end once no more is begun, before the sessions are broken off; and how long
/// they have in all after a signal.
const GOODBYE: Duration = Duration::from_secs(30);
const SIGNAL_GOODBYE: Duration = Duration::from_secs(5);
const COUNTER_EVERY: Duration = Duration::from_secs(1);

/// What all sessions share.
pub struct Plan {
    pub options: Options,
    pub place: Place,
    pub run: String,
    pub pattern: Pattern,
    pub login: Option<Login>,
    pub fates: Fates,
    /// When the first session began, so that no message waits for the start of a thread; on both
    /// clocks, the second in microseconds since 1970.
    began: OnceLock<(Instant, u64)>,
    schedule: Schedule,
    sent: AtomicU64,
    stop: AtomicBool,
    signalled: AtomicBool,
    found: Mutex<Found>,
}

/// What came of it.
#[derive(Default)]
pub struct Found {
    pub stages: Stages,
    pub accepted: u64,
    pub refused: u64,
    /// Nobody knows what became of them.
    pub lost: u64,
    /// Connections that could not be made.
    pub unconnected: u64,
    pub handshakes: Handshakes,
    pub steps: StepFigures,
    /// Messages that were accepted for some of their recipients: for how many.
    pub partly: BTreeMap<u64, u64>,
    /// The first thing that went wrong.
    pub first: Option<String>,
}

impl Found {
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.first.get_or_insert_with(text);
    }

    fn add(&mut self, other: Found) {
        self.stages.add(other.stages);
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.lost += other.lost;
        self.unconnected += other.unconnected;
        self.handshakes.add(other.handshakes);
        self.steps.add(other.steps);
        self.partly.extend(other.partly);
        self.first = self.first.take().or(other.first);
    }

    /// Messages of which it is known what the server said, or that it said nothing.
    fn ended(&self) -> u64 {
        self.accepted + self.refused + self.lost
    }
}

impl Plan {
    fn new(options: Options) -> Result<Plan, String> {
        options.check()?;
        let options = options.complete();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |since| since.as_millis());
        let place = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = format!("{now_ms:x}.{:x}.{place:x}", std::process::id());
        let pattern = Pattern::new(&options, &run)?;
        let login = options.secure.login()?;
        // Each shard makes its own; what is wrong with it is told before there is any.
        Secure::new(&options.secure, place::host_of(&options.server), login.clone())?;
        let times = &options.shape;
        let goes_on = times.duration.is_some() || options.messages.is_some();
        let shape = Shape::new(options.rate, times, goes_on);
        let random = times.poisson.then(|| Random::new(options.content.seed));
        let count = options.count();
        Ok(Plan {
            place: options.place()?,
            login,
            schedule: Schedule::new(shape, times.duration, count, times.overdue, random),
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

    /// The next message to be sent.
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

    /// No more is begun, whatever is still under way.
    pub fn give_up(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// No more is begun but for what is overdue.
    pub fn is_ending(&self) -> bool {
        self.is_stopped() || self.end().is_some_and(|end| end <= Instant::now())
    }

    /// When its time is over, if it has one.
    pub fn end(&self) -> Option<Instant> {
        self.schedule.end().map(|end| self.began().0 + end)
    }

    /// The run has a time of its own, in which a server may come and go.
    pub fn is_timed(&self) -> bool {
        self.schedule.end().is_some()
    }

    /// When the run began, on both clocks.
    fn began(&self) -> (Instant, u64) {
        *self.began.get_or_init(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            (Instant::now(), now.map_or(0, |since| since.as_micros() as u64))
        })
    }

    /// When a message is to begin, where messages have times of their own.
    pub fn begin_of(&self, turn: Turn) -> Option<Instant> {
        turn.begin.map(|since| self.began().0 + since)
    }

    /// A moment of the run, in microseconds since 1970.
    pub fn wall_us(&self, at: Instant) -> u64 {
        let (began, began_us) = self.began();
        began_us + at.saturating_duration_since(began).as_micros() as u64
    }

    /// Of a load in steps, each; none without.
    fn stretches(&self) -> &[Stretch] {
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

    /// Something went wrong; without -A that is the end of it.
    pub fn fail(&self) {
        if !self.options.go_on {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Begins no more messages once a signal asks for the end. What was measured is told; a second
    /// signal ends the process at once.
    fn end_by(&self, signals: &Receiver<Signal>) {
        while let Ok(signal) = signals.recv() {
            if matches!(signal, Signal::Term | Signal::Int) {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.note(|| "ended by a signal".to_owned());
                self.signalled.store(true, Ordering::Relaxed);
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn report(&self, found: Found) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(found);
    }
}

/// A run that is over.
pub struct Report {
    plan: Arc<Plan>,
    found: Found,
    planned: Planned,
    took: Duration,
    intervals: Vec<Interval>,
}

impl Report {
    /// Not even begun, or begun in vain; those that were late are among them.
    fn not_sent(&self) -> u64 {
        self.planned.messages.saturating_sub(self.found.ended())
    }

    /// Recipients whose messages were accepted.
    pub fn accepted(&self) -> u64 {
        self.found.accepted * self.plan.options.recipients as u64
    }

    fn late(&self) -> u64 {
        self.planned.late.iter().sum()
    }

    /// All of it was accepted.
    pub fn is_well(&self) -> bool {
        let found = &self.found;
        found.refused + found.lost + found.unconnected + self.not_sent() == 0
    }

    /// What became of each message.
    pub fn sent(&self) -> Sent {
        Sent {
            run: self.plan.run.clone(),
            recipients_per_message: self.plan.options.recipients as u64,
            fates: self.plan.fates.take(self.planned.messages),
            partly: self.found.partly.clone(),
        }
    }

    /// When a message was to begin, in microseconds since 1970, where that follows from its number.
    pub fn begin_us(&self, number: u64) -> Option<u64> {
        let since = self.plan.schedule.begin_of(number)?;
        Some(self.plan.wall_us(self.plan.began().0 + since))
    }

    /// Completes the record of the run, into which its histograms go.
    pub fn complete(&mut self, record: &mut Record) {
        let (not_sent, late) = (self.not_sent(), self.late());
        let Report { plan, found, planned, took, intervals } = self;
        let stretches = plan.stretches();
        record.run.clone_from(&plan.run);
        record.seconds = took.as_secs_f64();
        record.per_second = found.accepted as f64 / record.seconds;
        record.first_fault = found.first.take();
        let counts = [
            ("planned", planned.messages),
            ("accepted", found.accepted),
            ("refused", found.refused),
            ("lost", found.lost),
            ("not_sent", not_sent),
            ("late", late),
            ("unconnected", found.unconnected),
            ("tls_handshakes", found.handshakes.made),
            ("tls_resumed", found.handshakes.resumed),
        ];
        record.counts = counts.map(|(name, count)| (name.to_owned(), count)).into();
        record.set_stages(std::mem::take(&mut found.stages));
        record.intervals = std::mem::take(intervals);
        record.steps = found.steps.to_json(stretches, &planned.late);
    }

    /// Completes the record of the run and shows it.
    fn tell(mut self, mut record: Record) -> Result<(), String> {
        self.complete(&mut record);
        let Report { plan, found, planned, .. } = &self;
        plan.options.outputs.tell(&record)?;
        if !plan.options.outputs.json && plan.options.shape.steps.is_some() {
            println!("\n{}", head_line());
            for line in found.steps.to_lines(plan.stretches(), &planned.late) {
                println!("{line}");
            }
        }
        Ok(())
    }

    fn write_sent(&self) -> Result<(), String> {
        let Some(path) = &self.plan.options.sent else { return Ok(()) };
        let file = File::create(path).map(BufWriter::new);
        let written = file.and_then(|mut file| self.sent().write(&mut file));
        written.map_err(|cause| format!("{}: {cause}", path.display()))
    }
}

/// Sends all there is to send, and tells of it. `false`: not all of it was accepted.
pub fn run(options: Options) -> Result<bool, String> {
    options.outputs.check()?;
    options.check_sent()?;
    // Before the clock runs, for the syncs of a disk may be measured.
    let record = Record::begin("source", &options.outputs, settings(&options));
    let signals = signals::block().and_then(signals::listen);
    let signals = signals.map_err(|cause| format!("signals: {cause}"))?;
    let live = if options.counter { Live::Never } else { options.outputs.live() };
    let plan = Arc::new(Plan::new(options)?);
    let running = Arc::clone(&plan);
    // The process ends with it, however long it waits.
    thread::spawn(move || running.end_by(&signals));
    let report = carry_out(plan, live)?;
    let is_well = report.is_well();
    // What was measured is told whatever becomes of the file.
    let written = report.write_sent();
    report.tell(record)?;
    written?;
    Ok(is_well)
}

/// Sends all there is to send.
pub fn send_live(options: Options, live: Live) -> Result<Report, String> {
    carry_out(Arc::new(Plan::new(options)?), live)
}

fn carry_out(plan: Arc<Plan>, live: Live) -> Result<Report, String> {
    warn(&plan);
    boot::host::raise_limits(&plan.options.needs());
    let started = Instant::now();
    let seconds = Seconds::start(started, live);
    let shards: Vec<ShardThread> = (0..plan.options.cores.min(plan.options.sessions))
        .map(|shard| start(&plan, shard, seconds.collector(stages::NAMES)))
        .collect::<Result<_, _>>()?;
    let _watchdog = watch(&shards)?;
    let counter = plan.options.counter.then(|| count(&plan));
    for shard in shards {
        shard.join().map_err(|fault| format!("{fault}: {}", fault.remedy()))?;
    }
    let took = plan.began().0.elapsed();
    plan.stop.store(true, Ordering::Relaxed);
    if let Some(counter) = counter {
        counter.thread().unpark();
        // It only prints.
        let _ = counter.join();
    }
    let found = std::mem::take(&mut *plan.found.lock().unwrap_or_else(PoisonError::into_inner));
    let planned = plan.schedule.planned();
    // By their own clock: it runs since before the threads were started, the run since the first
    // message.
    let intervals = seconds.end(started.elapsed());
    Ok(Report { plan, found, planned, took, intervals })
}

/// Of what is done otherwise than it may be thought.
fn warn(plan: &Plan) {
    let broken = plan.pattern.broken_lines();
    if broken > 0 {
        eprintln!("ringpost-load: {broken} lines of more than 998 bytes are broken into several");
    }
    if plan.options.window.is_some() && matches!(plan.place, Place::Unix(_)) {
        eprintln!("ringpost-load: -T: a Unix socket has no TCP window; it is ignored");
    }
}

fn start(plan: &Arc<Plan>, shard: usize, collector: Collector) -> Result<ShardThread, String> {
    let cores = plan.options.cores.min(plan.options.sessions);
    let sessions =
        plan.options.sessions / cores + usize::from(shard < plan.options.sessions % cores);
    let mut spec = ShardSpec::new(format!("source-{shard}"), None);
    spec.drain_max = GOODBYE;
    let plan = Arc::clone(plan);
    let main = move || async move {
        let found = session::all(&plan, sessions, shard, collector).await;
        plan.report(found);
    };
    rt::start(spec, main).map_err(|fault| format!("{fault}: {}", fault.remedy()))
}

fn count(plan: &Arc<Plan>) -> thread::JoinHandle<()> {
    let plan = Arc::clone(plan);
    thread::spawn(move || {
        while !plan.stop.load(Ordering::Relaxed) {
            thread::park_timeout(COUNTER_EVERY);
            eprint!("\r{}", plan.sent.load(Ordering::Relaxed));
        }
        eprintln!();
    })
}
