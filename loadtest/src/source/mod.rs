//! The source: sessions that send messages, in a closed loop or at a rate of their own.
//!
//! Owner:    one shard per `--cores`, each with its share of the sessions.
//! Promise:  with `--rate`, message n begins at n / rate, whatever became of the ones before; where
//!           no session is free it begins late, and that counts as part of its latency.

mod message;
pub mod options;
mod session;
mod stages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::rt::ShardThread;

use crate::report::Collector;
use crate::report::Live;
use crate::report::Record;
use crate::report::Seconds;
use crate::report::Stages;
use crate::source::options::Options;

/// How long sessions may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(30);
const COUNTER_EVERY: Duration = Duration::from_secs(1);

/// What all sessions share.
pub struct Plan {
    pub options: Options,
    pub address: std::net::SocketAddr,
    pub run: String,
    pub began: Instant,
    next: AtomicU64,
    sent: AtomicU64,
    stop: AtomicBool,
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
        self.first = self.first.take().or(other.first);
    }

    fn is_well(&self) -> bool {
        self.refused + self.lost + self.unconnected == 0
    }
}

impl Plan {
    /// The next message to be sent.
    pub fn take(&self) -> Option<u64> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.options.messages).then_some(number)
    }

    /// When a message is to begin, where there is a rate.
    pub fn begin_of(&self, number: u64) -> Option<Instant> {
        let rate = self.options.rate?;
        Some(self.began + Duration::from_secs_f64(number as f64 / rate))
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

    fn report(&self, found: Found) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(found);
    }
}

/// Sends all there is to send. `false`: not all of it was accepted.
pub fn run(options: Options) -> Result<bool, String> {
    options.check()?;
    options.outputs.check()?;
    // Before the clock runs, for the syncs of a disk may be measured.
    let mut record = Record::begin("source", &options.outputs, settings(&options));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = now.map_or(0, |since| since.as_millis());
    let plan = Arc::new(Plan {
        address: options.address()?,
        run: format!("{now_ms:x}.{:x}", std::process::id()),
        began: Instant::now(),
        next: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        found: Mutex::default(),
        options,
    });
    message::Pattern::new(&plan.options, &plan.run)?;
    let live = if plan.options.counter { Live::Never } else { plan.options.outputs.live() };
    let seconds = Seconds::start(plan.began, live);
    let shards: Vec<ShardThread> = (0..plan.options.cores.min(plan.options.sessions))
        .map(|shard| start(&plan, shard, seconds.collector(stages::NAMES)))
        .collect::<Result<_, _>>()?;
    let counter = plan.options.counter.then(|| count(&plan));
    for shard in shards {
        shard.join().map_err(|fault| format!("{fault}: {}", fault.remedy()))?;
    }
    let took = plan.began.elapsed();
    plan.stop.store(true, Ordering::Relaxed);
    if let Some(counter) = counter {
        counter.thread().unpark();
        // It only prints.
        let _ = counter.join();
    }
    let found = std::mem::take(&mut *plan.found.lock().unwrap_or_else(PoisonError::into_inner));
    let is_well = found.is_well();
    record.intervals = seconds.end(took);
    complete(&mut record, &plan, found, took);
    plan.options.outputs.tell(&record)?;
    Ok(is_well)
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

/// What a reader must know to run the same again.
fn settings(options: &Options) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([
        ("server".to_owned(), options.server.clone()),
        ("sessions".to_owned(), options.sessions.to_string()),
        ("messages".to_owned(), options.messages.to_string()),
        ("body bytes".to_owned(), options.length.to_string()),
        ("recipients".to_owned(), options.recipients.to_string()),
        ("domains".to_owned(), options.domains.to_string()),
        ("cores".to_owned(), options.cores.to_string()),
        ("connections kept".to_owned(), options.keep.to_string()),
        ("protocol".to_owned(), if options.lmtp { "LMTP" } else { "SMTP" }.to_owned()),
        ("pipelining".to_owned(), (!options.no_pipelining).to_string()),
        ("chunking".to_owned(), (!options.no_chunking).to_string()),
    ]);
    if let Some(rate) = options.rate {
        settings.insert("intended per second".to_owned(), rate.to_string());
    }
    if let Some(file) = &options.file {
        settings.insert("file".to_owned(), file.display().to_string());
    }
    settings
}

fn complete(record: &mut Record, plan: &Plan, found: Found, took: Duration) {
    let seconds = took.as_secs_f64();
    record.run.clone_from(&plan.run);
    record.seconds = seconds;
    record.per_second = found.accepted as f64 / seconds;
    record.first_fault = found.first;
    let counts = [
        ("accepted", found.accepted),
        ("refused", found.refused),
        ("lost", found.lost),
        ("unconnected", found.unconnected),
    ];
    record.counts = counts.map(|(name, count)| (name.to_owned(), count)).into();
    record.set_stages(found.stages);
}
