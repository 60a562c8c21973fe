//! The source: sessions that send messages, in a closed loop or at a rate of their own.
//!
//! Owner:    one shard per `--cores`, each with its share of the sessions.
//! Promise:  with `--rate`, message n begins at n / rate, whatever became of the ones before; where
//!           no session is free it begins late, and that counts as part of its latency.

mod message;
pub mod options;
mod session;

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
use serde_json::json;

use crate::figures::Latencies;
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
    /// From connect to the answer to EHLO.
    pub connect: Latencies,
    /// From when a message began, or was to begin, to the last answer.
    pub message: Latencies,
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
        self.connect.add(&other.connect);
        self.message.add(&other.message);
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
    let shards: Vec<ShardThread> = (0..plan.options.cores.min(plan.options.sessions))
        .map(|shard| start(&plan, shard))
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
    tell(&plan, &found, took);
    Ok(found.is_well())
}

fn start(plan: &Arc<Plan>, shard: usize) -> Result<ShardThread, String> {
    let cores = plan.options.cores.min(plan.options.sessions);
    let sessions =
        plan.options.sessions / cores + usize::from(shard < plan.options.sessions % cores);
    let mut spec = ShardSpec::new(format!("source-{shard}"), None);
    spec.drain_max = GOODBYE;
    let plan = Arc::clone(plan);
    let main = move || async move {
        let found = session::all(&plan, sessions, shard).await;
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

fn tell(plan: &Plan, found: &Found, took: Duration) {
    let rate = found.accepted as f64 / took.as_secs_f64();
    if plan.options.json {
        let told = json!({
            "run": plan.run,
            "seconds": took.as_secs_f64(),
            "per_second": rate,
            "intended_per_second": plan.options.rate,
            "accepted": found.accepted,
            "refused": found.refused,
            "lost": found.lost,
            "unconnected": found.unconnected,
            "first_fault": found.first,
            "connect_us": found.connect.to_json(),
            "message_us": found.message.to_json(),
        });
        println!("{told}");
        return;
    }
    println!("{} accepted in {:.2} s: {rate:.0} per second", found.accepted, took.as_secs_f64());
    if !found.is_well() {
        println!(
            "{} refused, {} lost, {} connections failed",
            found.refused, found.lost, found.unconnected
        );
    }
    if let Some(first) = &found.first {
        println!("the first: {first}");
    }
    println!("{}", Latencies::head());
    println!("{}", found.connect.to_line("connect to EHLO"));
    println!("{}", found.message.to_line("begin to last reply"));
}
