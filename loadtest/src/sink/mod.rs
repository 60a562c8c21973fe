//! The sink: takes mail at many addresses, answers as it is told, and keeps a ledger of it.
//!
//! Owner:    one shard per `--cores`, each with a socket on every address (SO_REUSEPORT), its own
//!           sessions and its own ledger. Shards share counts of connections and who is greylisted.
//! Promise:  `Sink::stop` hands out a ledger that holds every copy that was accepted. It takes
//!           `STOP_MAX` at most, whatever the sessions do.
//! Bounds:   `connections_max` for each shard by its share, and one more for each address; the
//!           kernel keeps `backlog` more. A connection costs its socket, a task and about 1 KB; a chunk of 64 KB only while it is
//!           read from. Each address costs each shard two descriptors.

pub mod behaviour;
mod body;
mod dialogue;
mod dump;
mod marks;
mod notice;
pub mod options;
mod place;
mod random;
mod session;
mod stage;
mod state;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::boot::signals;
use ringpost::boot::signals::Signal;
use ringpost::net::TlsServer;
use ringpost::rt;
use ringpost::rt::IoFault;
use ringpost::rt::ListenSpec;
use ringpost::rt::Listener;
use ringpost::rt::ShardSpec;
use ringpost::rt::ShardThread;
use ringpost::rt::Watchdog;
use ringpost::rt::task;
use ringpost::rt::timer;
use socket2::SockRef;

use crate::ledger::Ledger;
use crate::report::Interval;
use crate::report::Latencies;
use crate::report::Live;
use crate::report::Record;
use crate::report::Seconds;
use crate::report::Stages;
use crate::sink::behaviour::Behaviours;
use crate::sink::dump::Dump;
use crate::sink::marks::Marks;
use crate::sink::marks::Measured;
use crate::sink::options::Options;
use crate::sink::stage::Orders;
pub use crate::sink::state::Counts;
use crate::sink::state::Shared;
use crate::sink::state::State;
use crate::sink::state::Tally;
use crate::sink::state::count;
use crate::watch::watch;

/// How often it is looked whether there is an end to it, and whether a place has become free.
const LOOK: Duration = Duration::from_millis(10);
const COUNTER_EVERY: Duration = Duration::from_secs(1);
/// How long sessions may take to end once the sink is stopped.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Of that, how long they may still write, and how long is left once nobody waits for them.
const LAST_WORDS: Duration = Duration::from_millis(500);
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Addresses that are told at start.
const PLACES_TOLD: usize = 8;

/// What a sink is to be.
#[derive(Debug)]
pub struct Settings {
    pub places: Vec<SocketAddr>,
    pub backlog: u32,
    pub cores: usize,
    pub connections_max: usize,
    pub messages_max: Option<u64>,
    pub sessions_max: Option<u64>,
    pub window_bytes: Option<usize>,
    pub hostname: String,
    pub greeting: String,
    pub lmtp: bool,
    pub enhanced: bool,
    /// What EHLO announces; none: EHLO is not known.
    pub offers: Option<Vec<&'static str>>,
    pub tls: Option<Arc<TlsServer>>,
    pub tls_first: bool,
    pub orders: Orders,
    pub soft_reply: Box<[u8]>,
    pub hard_reply: Box<[u8]>,
    pub abort: Option<Duration>,
    pub hold: Option<Duration>,
    pub timeout: Duration,
    pub verbose: bool,
    pub behaviours: Option<Arc<Behaviours>>,
    pub dump: Option<Dump>,
    pub seed: u64,
    /// Of each shard.
    pub ledger_bytes_max: usize,
    /// Whether each second is shown on stderr.
    pub live: Live,
}

/// A sink that runs, on threads of its own.
pub struct Sink {
    shards: Vec<ShardThread>,
    shared: Arc<Shared>,
    tallies: Vec<Arc<Tally>>,
    taken: Arc<Mutex<Taken>>,
    addresses: Vec<SocketAddr>,
    began: Instant,
    seconds: Seconds,
    /// Once all shards run.
    watchdog: Option<Watchdog>,
}

/// What a sink has at its end.
#[derive(Debug, Default)]
pub struct Taken {
    pub counts: Counts,
    pub ledger: Ledger,
    /// Since it listened.
    pub seconds: f64,
    measured: Measured,
    /// Of all its time.
    intervals: Vec<Interval>,
    began: Option<Instant>,
}

impl Taken {
    /// What was measured, by its name: see `marks`.
    pub fn stages(&self) -> &Stages {
        &self.measured.stages
    }

    /// From the begin of each message, where its id tells that, until it was here.
    pub fn end_to_end(&self) -> Option<&Latencies> {
        let name = marks::NAMES[marks::Mark::EndToEnd as usize];
        self.stages().0.iter().find(|(stage, _)| *stage == name).map(|(_, all)| all)
    }

    /// From the first connection until the last message was here.
    pub fn busy(&self) -> Duration {
        let Measured { first, last, .. } = self.measured;
        first
            .zip(last)
            .map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first))
    }

    /// The seconds of that time, each with the messages of it: how old they were when they came, and
    /// of those that do not tell their begin, how long they took to come.
    pub fn intervals(&self) -> Vec<Interval> {
        let idle = self.began.zip(self.measured.first);
        let begin = idle.map_or(0.0, |(began, first)| (first - began).as_secs_f64());
        let end = begin + self.busy().as_secs_f64();
        let within =
            self.intervals.iter().filter(|one| one.start + 1.0 > begin && one.start <= end);
        let cut = within.map(|one| {
            let start = one.start.max(begin);
            let seconds = ((one.start + 1.0).min(end) - start).max(0.001);
            Interval { start: start - begin, seconds, ..one.clone() }
        });
        cut.collect()
    }

    /// Completes a record that began when the sink did.
    pub fn tell(&self, record: &mut Record) {
        let seconds = self.busy().as_secs_f64();
        if let Some(first) = self.measured.first {
            record.when = (jiff::Timestamp::now() - first.elapsed()).to_string();
        }
        let mut runs = self.ledger.run_names();
        if let (Some(run), None) = (runs.next(), runs.next()) {
            record.run = String::from_utf8_lossy(run).into_owned();
        }
        record.seconds = seconds;
        record.per_second = self.counts.messages as f64 / seconds.max(0.001);
        record.counts = counted(&self.counts);
        record.ledger = counted(&self.ledger.totals());
        record.set_stages(self.stages().clone());
        record.intervals = self.intervals();
    }
}

/// Numbers by their names.
fn counted(counts: &impl serde::Serialize) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counts).expect("they are plain numbers");
    serde_json::from_value(value).expect("all of them are counts")
}

impl Sink {
    /// Listens, and returns when clients may connect.
    pub fn start(settings: Settings) -> Result<Sink, String> {
        let (sockets, addresses) = bind_all(&settings)?;
        let mut settings = settings;
        settings.connections_max = settings.connections_max.div_ceil(settings.cores);
        let settings = Arc::new(settings);
        let began = Instant::now();
        let seconds = Seconds::start(began, settings.live);
        let mut sink = Sink {
            shards: Vec::new(),
            shared: Arc::default(),
            tallies: Vec::new(),
            taken: Arc::default(),
            addresses,
            began,
            seconds,
            watchdog: None,
        };
        for (shard, sockets) in sockets.into_iter().enumerate() {
            let tally = Arc::new(Tally::default());
            sink.tallies.push(Arc::clone(&tally));
            let (settings, shared) = (Arc::clone(&settings), Arc::clone(&sink.shared));
            let taken = Arc::clone(&sink.taken);
            let collector = sink.seconds.collector(marks::NAMES);
            let mut spec = ShardSpec::new(format!("sink-{shard}"), None);
            spec.drain_max = DRAIN_MAX;
            let main = move || async move {
                let state = State::new(settings, shared, tally, Marks::new(collector));
                serve_all(&state, sockets).await;
                let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                taken.ledger.add(state.ledger.take());
                taken.measured.add(state.marks.end());
            };
            match rt::start(spec, main) {
                Ok(thread) => sink.shards.push(thread),
                Err(fault) => {
                    let why = format!("{fault}: {}", fault.remedy());
                    // Those that run already have nothing to tell.
                    let _ = sink.stop();
                    return Err(why);
                }
            }
        }
        sink.watchdog = Some(watch(&sink.shards)?);
        Ok(sink)
    }

    /// Where it listens, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What came so far. Each count is right, but not all are of one moment.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.tallies.iter().for_each(|tally| tally.add_to(&mut counts));
        counts
    }

    /// Whether as many messages or sessions came as were asked for.
    pub fn is_done(&self) -> bool {
        self.shared.is_done()
    }

    /// Ends all sessions and hands out what came.
    pub fn stop(self) -> Result<Taken, String> {
        self.shared.stop();
        let took = self.began.elapsed();
        for shard in self.shards {
            shard.join().map_err(|fault| format!("{fault}: {}", fault.remedy()))?;
        }
        let mut taken =
            std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner));
        self.tallies.iter().for_each(|tally| tally.add_to(&mut taken.counts));
        taken.seconds = took.as_secs_f64();
        taken.began = Some(self.began);
        taken.intervals = self.seconds.end(took);
        Ok(taken)
    }
}

/// For each shard its sockets, all on the same addresses.
fn bind_all(settings: &Settings) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketAddr>), String> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..settings.cores).map(|_| Vec::new()).collect();
    // With SO_REUSEPORT another sink would share the port and take a part of the mail.
    for place in settings.places.iter().filter(|place| settings.cores > 1 && place.port() != 0) {
        bind(*place, settings, false).map_err(|fault| told(*place, fault))?;
    }
    for place in &settings.places {
        let mut address = *place;
        for own in &mut sockets {
            let socket = bind(address, settings, settings.cores > 1);
            let socket = socket.map_err(|fault| told(address, fault))?;
            let bound = SockRef::from(&socket).local_addr().ok();
            // The others have to take the port that the first was given.
            address = bound.and_then(|bound| bound.as_socket()).unwrap_or(address);
            own.push(socket);
        }
        addresses.push(address);
    }
    Ok((sockets, addresses))
}

fn told(address: SocketAddr, fault: IoFault) -> String {
    match fault {
        IoFault::NoFiles => format!("{address}: {fault}; raise it by `ulimit -n`"),
        IoFault::AddressInUse => {
            format!("{address}: {fault}; `ss -ltnp` names who listens there, port 0 is a free one")
        }
        _ => format!("{address}: {fault}"),
    }
}

fn bind(address: SocketAddr, settings: &Settings, shared: bool) -> Result<OwnedFd, IoFault> {
    let socket = rt::bind_socket(ListenSpec {
        address,
        backlog: settings.backlog,
        reuse_port: shared,
        v6_only: true,
        inherited: None,
    })?;
    if let Some(bytes) = settings.window_bytes {
        // Accepted sockets inherit it.
        SockRef::from(&socket).set_recv_buffer_size(bytes)?;
    }
    Ok(socket)
}

/// The life of a shard.
async fn serve_all(state: &Rc<State>, sockets: Vec<OwnedFd>) {
    let listeners: Vec<Rc<Listener>> =
        sockets.into_iter().map(|socket| Rc::new(Listener::from_socket(socket))).collect();
    let accepting = Rc::new(Cell::new(listeners.len()));
    for listener in &listeners {
        let (state, listener) = (Rc::clone(state), Rc::clone(listener));
        let accepting = Rc::clone(&accepting);
        task::spawn(async move {
            accept_all(&state, &listener).await;
            accepting.set(accepting.get() - 1);
        });
    }
    while !state.shared.is_stopping() {
        timer::sleep(LOOK).await;
        state.marks.turn();
    }
    listeners.iter().for_each(|listener| listener.stop());
    let began = Instant::now();
    while (accepting.get() > 0 || state.open.get() > 0) && began.elapsed() < STOP_MAX - DRAIN_MAX {
        match began.elapsed() < LAST_WORDS {
            true => timer::interrupt_idle(),
            false => timer::interrupt_all(),
        }
        timer::sleep(LOOK).await;
    }
}

async fn accept_all(state: &Rc<State>, listener: &Listener) {
    loop {
        // As with smtp-sink, whoever comes too many waits in the kernel.
        while state.open.get() >= state.settings.connections_max && !state.shared.is_stopping() {
            timer::sleep(LOOK).await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let open = Open::new(state);
                task::spawn(async move { session::serve(Rc::clone(&open.0), stream).await });
            }
            Err(IoFault::Stopped) => return,
            Err(_) => {
                count(&state.tally.accept_faults, 1);
                // Most faults pass; `accept` rests by itself where they do not.
                task::yield_if_needed().await;
            }
        }
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Open(Rc<State>);

impl Open {
    fn new(state: &Rc<State>) -> Open {
        state.open.set(state.open.get() + 1);
        count(&state.tally.connections, 1);
        state.marks.connect(Instant::now());
        Open(Rc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.end_session();
    }
}

/// Serves until it is told to end, and tells what came. `false`: not all of it could be counted.
pub fn run(options: &Options) -> Result<bool, String> {
    let blocked = signals::block().map_err(|cause| format!("signals: {cause}"))?;
    let signals = signals::listen(blocked).map_err(|cause| format!("signals: {cause}"))?;
    options.outputs.check()?;
    options.check_ledger()?;
    let settings = options.settings()?;
    let mut record = Record::begin("sink", &options.outputs, options.described());
    let sink = Sink::start(settings)?;
    let told: Vec<String> =
        sink.addresses().iter().take(PLACES_TOLD).map(ToString::to_string).collect();
    let more = sink.addresses().len() - told.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    eprintln!("listening on {}{more}", told.join(" "));
    if options.with_input {
        thread::spawn(end_with_input);
    }
    let mut next = Instant::now();
    while !sink.is_done() {
        match signals.recv_timeout(LOOK) {
            Ok(Signal::Term | Signal::Int) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Signal::Hup | Signal::Usr1) => show_counts(&sink, "\n"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if options.counter && next <= Instant::now() {
            show_counts(&sink, "\r");
            next += COUNTER_EVERY;
        }
    }
    let taken = sink.stop()?;
    // What was measured is told whatever becomes of the file.
    let written = options.ledger.as_ref().map_or(Ok(()), |path| {
        write_ledger(&taken.ledger, path).map_err(|cause| format!("{}: {cause}", path.display()))
    });
    taken.tell(&mut record);
    options.outputs.tell(&record)?;
    written?;
    Ok(taken.ledger.unrecorded == 0)
}

/// Tells this process to end when whoever holds its input has ended.
fn end_with_input() {
    // A fault of the input is as good as its end; where the signal fails, this process is ending.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process(own, rustix::process::Signal::TERM);
}

fn show_counts(sink: &Sink, end: &str) {
    let counts = sink.counts();
    eprint!("sess={} quit={} mesg={}{end}", counts.sessions, counts.quits, counts.messages);
}

fn write_ledger(ledger: &Ledger, path: &Path) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    ledger.write(&mut out)?;
    out.flush()
}
