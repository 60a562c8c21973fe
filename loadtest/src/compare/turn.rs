//! What is measured of one server in one turn: acceptance alone, relaying as fast as it goes, and
//! latencies at a steady rate; each with a fresh instance and an empty queue.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::compare::hold::Held;
use crate::compare::instance;
use crate::compare::instance::Instance;
use crate::compare::load::Load;
use crate::compare::load::Received;
use crate::compare::load::Receiver;
use crate::compare::load::Sending;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::peer::Purpose;
use crate::compare::tree::Cost;
use crate::ledger::Balance;

/// How often memory is looked at. To add up the pages of a hundred processes takes some milliseconds.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// Between one server and the next, after all that was written is on the disk.
const SETTLE: Duration = Duration::from_millis(300);

/// One turn of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Turn {
    pub greeting: String,
    pub accept: Part,
    pub relay: Part,
    /// The most that was seen while it relayed.
    pub memory_kb: Option<u64>,
    pub steady: Steady,
    pub mail: Mail,
}

/// A part in which it goes as fast as it can.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    pub messages: u64,
    pub per_second: f64,
    /// Of each message.
    pub cpu_us: f64,
    pub written_bytes: Option<f64>,
}

/// At a rate that it can keep up with, in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Steady {
    pub per_second: f64,
    pub reply_p50: Option<f64>,
    pub reply_p99: Option<f64>,
    /// From when a message was to begin until it was at the sink.
    pub end_p50: Option<f64>,
    pub end_p99: Option<f64>,
}

/// What became of it, over the whole turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mail {
    pub accepted: u64,
    /// Not accepted: refused, not sent in time, or nobody knows.
    pub failed: u64,
    /// Of these, those that were still not begun when the time was over.
    pub late: u64,
    /// Sessions that got no connection.
    pub unconnected: u64,
    pub first_fault: Option<String>,
    /// Accepted, and never at the sink, nor a report of it.
    pub lost: u64,
    pub duplicated: u64,
    pub alien: u64,
    /// At the sink, and not as it had been sent.
    pub corrupted: u64,
    /// Accepted, and sent back.
    pub bounced: u64,
    /// Sent back, and at the sink.
    pub bounced_but_seen: u64,
    /// The sink had no room to count these.
    pub unrecorded: u64,
}

impl Mail {
    /// Of what was accepted, what was lost or came as it should not.
    pub fn wrong(&self) -> u64 {
        let came_wrong = self.duplicated + self.alien + self.corrupted + self.bounced_but_seen;
        self.lost + came_wrong + self.unrecorded
    }

    /// What did not get past the server, of which it told.
    pub fn not_relayed(&self) -> u64 {
        self.failed + self.bounced
    }

    fn add_sent(&mut self, sending: &Sending) {
        self.accepted += sending.accepted;
        self.failed += sending.failed;
        self.late += sending.late;
        self.unconnected += sending.unconnected;
        if sending.failed + sending.unconnected > 0 {
            self.first_fault.get_or_insert_with(|| sending.fault().to_owned());
        }
    }

    fn add_balance(&mut self, balance: &Balance) {
        self.lost += balance.lost;
        self.duplicated += balance.duplicated;
        self.alien += balance.alien;
        self.corrupted += balance.corrupted;
        self.bounced += balance.bounced;
        self.bounced_but_seen += balance.bounced_but_seen;
        self.unrecorded += balance.unrecorded;
    }
}

impl Part {
    fn new(messages: u64, per_second: f64, cost: Cost) -> Part {
        let each = |sum: f64| sum / messages as f64;
        Part {
            messages,
            per_second,
            cpu_us: each(cost.cpu.as_secs_f64() * 1e6),
            written_bytes: cost.written_bytes.map(|bytes| each(bytes as f64)),
        }
    }
}

/// Measures it once.
pub fn measure(peer: &Peer, options: &Options, number: usize) -> Result<Turn, String> {
    let files = Held::start(Held::make(&options.spool, "load")?, &[])?;
    let bench = Bench { peer, options, files: &files, number };
    let mut turn = Turn::default();
    bench.accept(&mut turn)?;
    bench.relay(&mut turn)?;
    bench.steady(&mut turn)?;
    Ok(turn)
}

struct Bench<'b> {
    peer: &'b Peer,
    options: &'b Options,
    files: &'b Held,
    number: usize,
}

impl Bench<'_> {
    fn start(&self, purpose: Purpose, sink: u16) -> Result<Instance, String> {
        // What the one before left for the disk to do is not to be paid by this one.
        rustix::fs::sync();
        thread::sleep(SETTLE);
        Instance::start(self.peer, &self.options.spool, purpose, sink, &[])
    }

    fn load(&self, port: u16, rate: Option<f64>) -> Load<'_> {
        let sessions = self.options.sessions_for(self.peer.kind);
        let options = self.options;
        Load { options, sessions, port, rate, messages: None, folder: &self.files.folder }
    }

    fn keep(&self, load: &Load, part: &str) -> Result<(), String> {
        load.keep(&format!("{}-{}-{part}", self.peer.kind.key(), self.number + 1))
    }

    fn accept(&self, turn: &mut Turn) -> Result<(), String> {
        // Nobody listens there.
        let server = self.start(Purpose::Accept, instance::free_port()?)?;
        turn.greeting.clone_from(&server.greeting);
        let load = self.load(server.port, None);
        let before = server.cost();
        let sending = load.run().map_err(|cause| told(&cause, &server))?;
        let cost = server.cost().since(before);
        self.keep(&load, "accept")?;
        turn.mail.add_sent(&sending);
        turn.accept = Part::new(sending.accepted, sending.per_second, cost);
        Ok(())
    }

    fn relay(&self, turn: &mut Turn) -> Result<(), String> {
        let (sink, port) = Receiver::start(&self.files.folder)?;
        let server = self.start(Purpose::Relay, port)?;
        let load = self.load(server.port, None);
        let before = server.cost();
        let began_us = now_us();
        let watch = AtomicBool::new(true);
        let (sending, memory_kb) = thread::scope(|scope| {
            let watcher = scope.spawn(|| peak_memory(&server, &watch));
            let sending = load.run();
            if let Ok(sending) = &sending {
                sink.wait(sending.accepted);
            }
            watch.store(false, Ordering::Relaxed);
            (sending, watcher.join().unwrap_or_default())
        });
        let sending = sending.map_err(|cause| told(&cause, &server))?;
        let cost = server.cost().since(before);
        let received = sink.stop(&load)?;
        self.keep(&load, "relay")?;
        turn.mail.add_sent(&sending);
        turn.mail.add_balance(&received.balance);
        turn.memory_kb = memory_kb;
        turn.relay = Part::new(sending.accepted, rate(&received, began_us), cost);
        Ok(())
    }

    fn steady(&self, turn: &mut Turn) -> Result<(), String> {
        let (sink, port) = Receiver::start(&self.files.folder)?;
        let server = self.start(Purpose::Relay, port)?;
        // Below one a second nothing would be left to measure.
        let rate = self.options.rate.unwrap_or((turn.relay.per_second / 2.0).max(1.0).round());
        let load = self.load(server.port, Some(rate));
        let sending = load.run().map_err(|cause| told(&cause, &server))?;
        sink.wait(sending.accepted);
        let received = sink.stop(&load)?;
        self.keep(&load, "steady")?;
        turn.mail.add_sent(&sending);
        turn.mail.add_balance(&received.balance);
        turn.steady = Steady {
            per_second: rate,
            reply_p50: sending.ms("body_to_reply", "p50"),
            reply_p99: sending.ms("body_to_reply", "p99"),
            end_p50: received.ms("p50"),
            end_p99: received.ms("p99"),
        };
        Ok(())
    }
}

/// Of what arrived, from the start of the source until the last of it was there.
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

fn told(cause: &str, server: &Instance) -> String {
    format!("{cause}; its last words: {}", server.last_words())
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros() as u64)
}
