//! A running sink: its threads, listeners and limits.
//!
//! Owner:    one shard per `--cores`, each with a socket on every address (SO_REUSEPORT), its own
//!           sessions and its own ledger. Shards share connection counts and the greylist.
//! Promise:  `Sink::stop` returns a ledger with every copy that was accepted, within `STOP_MAX`.
//! Bounds:   `-m` connections divided among the shards, plus one per address; the kernel queues
//!           `backlog` more. A connection costs its socket, a task and about 1 KB; a chunk of 64 KB
//!           only while data is read. An address costs each shard two file descriptors.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

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

use crate::report::Seconds;
use crate::sink::marks;
use crate::sink::marks::Counts;
use crate::sink::marks::Marks;
use crate::sink::marks::Taken;
use crate::sink::marks::Tally;
use crate::sink::marks::count;
use crate::sink::options::Settings;
use crate::sink::session;
use crate::sink::state::Shared;
use crate::sink::state::State;
use crate::watch::watch;

/// How often a shard checks for the end of the run and for free connections.
const LOOK: Duration = Duration::from_millis(10);
/// How long sessions may take to end after `stop`.
const STOP_MAX: Duration = Duration::from_secs(5);
/// The part of `STOP_MAX` in which sessions may still write, and the part after the last wait.
const LAST_WORDS: Duration = Duration::from_millis(500);
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// A sink that runs on threads of its own.
pub struct Sink {
    shards: Vec<ShardThread>,
    shared: Arc<Shared>,
    tallies: Vec<Arc<Tally>>,
    taken: Arc<Mutex<Taken>>,
    addresses: Vec<SocketAddr>,
    began: Instant,
    seconds: Seconds,
    /// Set once all shards run.
    watchdog: Option<Watchdog>,
}

impl Sink {
    /// Listens, and returns when clients may connect.
    pub fn start(mut settings: Settings) -> Result<Sink, String> {
        let (sockets, addresses) = bind_all(&settings)?;
        let options = &mut settings.options;
        options.connections = options.connections.div_ceil(options.cores);
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
                state.marks.end(&mut taken);
            };
            match rt::start(spec, main) {
                Ok(thread) => sink.shards.push(thread),
                Err(fault) => {
                    let why = format!("{fault}: {}", fault.remedy());
                    // The shards that run have received nothing yet.
                    let _ = sink.stop();
                    return Err(why);
                }
            }
        }
        sink.watchdog = Some(watch(&sink.shards)?);
        Ok(sink)
    }

    /// The addresses, with the port that the kernel chose in place of port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The counts so far. Each is exact, but they are not of the same instant.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.tallies.iter().for_each(|tally| tally.add_to(&mut counts));
        counts
    }

    /// Whether the requested number of messages has been reached.
    pub fn is_done(&self) -> bool {
        self.shared.is_done()
    }

    /// Ends all sessions and returns the result.
    pub fn stop(self) -> Result<Taken, String> {
        self.shared.stop();
        let took = self.began.elapsed();
        for shard in self.shards {
            shard.join().map_err(|fault| format!("{fault}: {}", fault.remedy()))?;
        }
        let mut taken =
            std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner));
        self.tallies.iter().for_each(|tally| tally.add_to(&mut taken.counts));
        taken.began = Some(self.began);
        taken.intervals = self.seconds.end(took);
        Ok(taken)
    }
}

/// The sockets of each shard, all on the same addresses.
fn bind_all(settings: &Settings) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketAddr>), String> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..settings.options.cores).map(|_| Vec::new()).collect();
    // With SO_REUSEPORT a second sink could share the port and receive part of the mail.
    for place in
        settings.places.iter().filter(|place| settings.options.cores > 1 && place.port() != 0)
    {
        bind(*place, settings.backlog, false).map_err(|fault| explain(*place, fault))?;
    }
    for place in &settings.places {
        let mut address = *place;
        for own in &mut sockets {
            let socket = bind(address, settings.backlog, settings.options.cores > 1);
            let socket = socket.map_err(|fault| explain(address, fault))?;
            let bound = SockRef::from(&socket).local_addr().ok();
            // The other shards use the port that the first one was given.
            address = bound.and_then(|bound| bound.as_socket()).unwrap_or(address);
            own.push(socket);
        }
        addresses.push(address);
    }
    Ok((sockets, addresses))
}

fn explain(address: SocketAddr, fault: IoFault) -> String {
    match fault {
        IoFault::NoFiles => format!("{address}: {fault}; raise the limit with `ulimit -n`"),
        IoFault::AddressInUse => {
            format!("{address}: {fault}; `ss -ltnp` shows the process, port 0 finds a free port")
        }
        _ => format!("{address}: {fault}"),
    }
}

fn bind(address: SocketAddr, backlog: u32, reuse_port: bool) -> Result<OwnedFd, IoFault> {
    rt::bind_socket(ListenSpec { address, backlog, reuse_port, v6_only: true, inherited: None })
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
        // As in smtp-sink, connections above the limit stay in the kernel's queue.
        while state.open.get() >= state.settings.options.connections && !state.shared.is_stopping()
        {
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
                // Most errors pass; `accept` itself pauses after the others.
                task::yield_if_needed().await;
            }
        }
    }
}

/// Counts a connection for as long as it lives.
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
        count(&self.0.tally.sessions, 1);
    }
}
