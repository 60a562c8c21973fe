//! One turn of one server: acceptance alone, relaying at full speed, and latencies at a steady rate, each
//! with a fresh instance and an empty queue.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::compare::instance;
use crate::compare::instance::Instance;
use crate::compare::load::Load;
use crate::compare::load::Received;
use crate::compare::load::Receiver;
use crate::compare::load::Sending;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::peer::Purpose;
use crate::ledger::Balance;
use crate::process::Cost;
use crate::process::wall_us;

/// The interval of memory readings, which take some milliseconds for a hundred processes.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// The pause between servers, after all data is on disk.
const SETTLE: Duration = Duration::from_millis(300);

/// One turn of one server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Turn {
    pub greeting: String,
    pub accept: Option<Part>,
    pub relay: Option<Part>,
    /// The peak while relaying.
    pub memory_kb: Option<u64>,
    pub steady: Option<Steady>,
    pub mail: Mail,
}

/// A part at full speed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Part {
    pub messages: u64,
    pub per_second: f64,
    /// Per message.
    pub cpu_us: f64,
    pub written_bytes: Option<f64>,
    /// CPU time per message by thread, of Ringpost.
    pub threads_us: BTreeMap<String, f64>,
}

/// Latencies at a sustainable rate, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Steady {
    pub per_second: f64,
    pub reply_p50: Option<f64>,
    pub reply_p99: Option<f64>,
    /// From the time at which a message was due to its arrival at the sink.
    pub end_p50: Option<f64>,
    pub end_p99: Option<f64>,
}

/// The fate of all mail of a turn.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Mail {
    pub accepted: u64,
    /// Not accepted: refused, not sent in time, or without a reply.
    pub failed: u64,
    /// Not sent in time.
    pub late: u64,
    /// Failed connections.
    pub unconnected: u64,
    pub first_fault: Option<String>,
    /// Of all sinks.
    #[serde(flatten)]
    pub balance: Balance,
}

impl Mail {
    /// Mail that was refused or bounced.
    pub fn not_relayed(&self) -> u64 {
        self.failed + self.balance.bounced
    }

    fn add(&mut self, sending: &Sending) {
        let (failed, unconnected) = (sending.failed(), sending.count("unconnected"));
        self.accepted += sending.count("accepted");
        self.failed += failed;
        self.late += sending.count("late");
        self.unconnected += unconnected;
        if failed + unconnected > 0 {
            self.first_fault.get_or_insert_with(|| sending.fault().to_owned());
        }
    }
}

impl Part {
    pub fn new(messages: u64, per_second: f64, cost: Cost) -> Part {
        let each = |sum: f64| sum / messages as f64;
        Part {
            messages,
            per_second,
            cpu_us: each(cost.cpu.as_secs_f64() * 1e6),
            written_bytes: cost.written_bytes.map(|bytes| each(bytes as f64)),
            threads_us: BTreeMap::new(),
        }
    }

    /// Adds the CPU time of threads since `before`.
    fn with_threads(mut self, before: &BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> Part {
        for (name, us) in now {
            let own = us.saturating_sub(before.get(&name).copied().unwrap_or(0));
            self.threads_us.insert(name, own as f64 / self.messages as f64);
        }
        self
    }
}

/// Measures one turn.
pub fn measure(peer: &Peer, options: &Options, number: usize) -> Result<Turn, String> {
    let bench = Bench { peer, options, number };
    let mut turn = Turn::default();
    bench.accept(&mut turn)?;
    bench.relay(&mut turn)?;
    if !options.no_latency {
        bench.steady(&mut turn)?;
    }
    Ok(turn)
}

struct Bench<'b> {
    peer: &'b Peer,
    options: &'b Options,
    number: usize,
}

impl Bench<'_> {
    fn start(&self, purpose: Purpose, sink: u16) -> Result<Instance, String> {
        // Data that the previous server left to write must not slow down this one.
        rustix::fs::sync();
        thread::sleep(SETTLE);
        let domains = self.options.domains;
        Instance::start(self.peer, &self.options.spool, (purpose, domains), sink, &[])
    }

    /// CPU time by thread is only meaningful for one process with named threads.
    fn threads(&self, server: &Instance) -> BTreeMap<String, u64> {
        if self.peer.kind.is_ringpost() { server.threads() } else { BTreeMap::new() }
    }

    fn load(&self, port: u16, rate: Option<f64>) -> Load<'_> {
        let sessions = self.options.sessions_for(self.peer.kind);
        let options = self.options;
        Load { options, sessions, port, rate, messages: None, domains: options.domains }
    }

    /// Adds the result of a source to the turn, and saves its record.
    fn count(&self, turn: &mut Turn, sending: &Sending, part: &str) -> Result<(), String> {
        turn.mail.add(sending);
        let name = format!("{}-{}-{part}", self.peer.kind.key(), self.number + 1);
        sending.keep(self.options, &name)
    }

    fn accept(&self, turn: &mut Turn) -> Result<(), String> {
        // Nothing listens on the port of the sink.
        let server = self.start(Purpose::Accept, instance::free_port()?)?;
        turn.greeting.clone_from(&server.greeting);
        let load = self.load(server.port, None);
        let (before, threads) = (server.cost(), self.threads(&server));
        let sending = load.run().map_err(|cause| explain(&cause, &server))?;
        let cost = server.cost().since(before);
        self.count(turn, &sending, "accept")?;
        let part = Part::new(sending.count("accepted"), sending.record.per_second, cost);
        turn.accept = Some(part.with_threads(&threads, self.threads(&server)));
        Ok(())
    }

    fn relay(&self, turn: &mut Turn) -> Result<(), String> {
        let (sink, port) = Receiver::start(self.options.domains)?;
        let server = self.start(Purpose::Relay, port)?;
        let load = self.load(server.port, None);
        let (before, threads) = (server.cost(), self.threads(&server));
        let began_us = wall_us();
        let watch = AtomicBool::new(true);
        let (sending, memory_kb) = thread::scope(|scope| {
            let watcher = scope.spawn(|| peak_memory(&server, &watch));
            let sending = load.run();
            if let Ok(sending) = &sending {
                sink.wait(sending.count("accepted"));
            }
            watch.store(false, Ordering::Relaxed);
            (sending, watcher.join().unwrap_or_default())
        });
        let sending = sending.map_err(|cause| explain(&cause, &server))?;
        let cost = server.cost().since(before);
        let received = sink.stop(&sending)?;
        self.count(turn, &sending, "relay")?;
        turn.mail.balance.add(&received.balance);
        turn.memory_kb = memory_kb;
        let part = Part::new(sending.count("accepted"), rate(&received, began_us), cost);
        turn.relay = Some(part.with_threads(&threads, self.threads(&server)));
        Ok(())
    }

    fn steady(&self, turn: &mut Turn) -> Result<(), String> {
        let (sink, port) = Receiver::start(self.options.domains)?;
        let server = self.start(Purpose::Relay, port)?;
        let relayed = turn.relay.as_ref().map_or(0.0, |relay| relay.per_second);
        // At least one message per second.
        let rate = self.options.rate.unwrap_or((relayed / 2.0).max(1.0).round());
        let load = self.load(server.port, Some(rate));
        let sending = load.run().map_err(|cause| explain(&cause, &server))?;
        sink.wait(sending.count("accepted"));
        let received = sink.stop(&sending)?;
        self.count(turn, &sending, "steady")?;
        turn.mail.balance.add(&received.balance);
        turn.steady = Some(Steady {
            per_second: rate,
            reply_p50: sending.replies().map(|all| all.ms(0.5)),
            reply_p99: sending.replies().map(|all| all.ms(0.99)),
            end_p50: received.end_to_end.as_ref().map(|all| all.ms(0.5)),
            end_p99: received.end_to_end.as_ref().map(|all| all.ms(0.99)),
        });
        Ok(())
    }
}

/// The rate of arrivals from the start of the source to the last one.
fn rate(received: &Received, began_us: u64) -> f64 {
    let took_us = received.last_us.saturating_sub(began_us).max(1);
    received.balance.arrived as f64 * 1e6 / took_us as f64
}

fn peak_memory(server: &Instance, watch: &AtomicBool) -> Option<u64> {
    let mut peak = Some(0);
    loop {
        peak = peak.zip(server.memory_kb()).map(|(peak, now)| peak.max(now));
        if !watch.load(Ordering::Relaxed) {
            return peak;
        }
        thread::sleep(MEMORY_EVERY);
    }
}

fn explain(cause: &str, server: &Instance) -> String {
    format!("{cause}; its last output: {}", server.last_words())
}
