//! A run in progress: starts server, sinks and sources and performs the steps in order.
//!
//! Owner:    one thread. Each source has a thread of its own, each sink its shards.
//! Promise:  a server that exits by itself or does not answer ends the run with an error and without
//!           a verdict.

use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use ringpost::boot::signals::Signal;
use toml::Table;

use crate::run::config;
use crate::run::idle::Crowd;
use crate::run::scenario::Action;
use crate::run::scenario::Scale;
use crate::run::scenario::Scenario;
use crate::run::scenario::SourcePart;
use crate::run::server::Audit;
use crate::run::server::Server;
use crate::run::server::Usage;
use crate::run::sinks::Place;
use crate::source;
use crate::source::Finished;

const LOOK: Duration = Duration::from_millis(20);
/// How often the server's audit is read. The audit counts all mail, so that the pause after it is at
/// least `ASKING_SHARE` times its duration.
const ASK: Duration = Duration::from_millis(100);
const ASK_EARLY: Duration = Duration::from_secs(2);
const ASKING_SHARE: u32 = 20;

/// After this silence, mail through a foreign server counts as complete.
const QUIET: Duration = Duration::from_secs(2);
const INTERRUPTED: &str = "interrupted";

/// Why a run stops early.
#[derive(Debug)]
pub enum Stop {
    /// The request cannot be carried out.
    Refused(String),
    /// Something failed during the run.
    Broken(String),
}

impl Stop {
    /// An error during the run; an interrupt is not a failure.
    fn broken(why: String) -> Stop {
        if why == INTERRUPTED { Stop::Refused(why) } else { Stop::Broken(why) }
    }
}

/// `Err` after a signal.
fn go_on(signals: &Receiver<Signal>) -> Result<(), String> {
    match signals.try_recv() {
        Ok(Signal::Term | Signal::Int) => Err(INTERRUPTED.to_owned()),
        _ => Ok(()),
    }
}

/// The server under test.
pub enum Target {
    Ours(Server),
    Other(SocketAddr),
}

impl Target {
    /// A running server at this address.
    pub fn other(server: &str) -> Result<Target, String> {
        let found = server.to_socket_addrs().map_err(|cause| format!("{server}: {cause}"))?;
        let mut found = found;
        let address = found.next().ok_or_else(|| format!("{server} has no address"))?;
        Ok(Target::Other(address))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Target::Ours(server) => server.address(),
            Target::Other(address) => *address,
        }
    }
}

/// All parts that run.
pub struct Drive<'s> {
    scenario: &'s Scenario,
    scale: Scale,
    pub target: Target,
    pub sinks: Vec<Place>,
    signals: &'s Receiver<Signal>,
    /// The configuration keys of the last start.
    overlay: Table,
    began: Instant,
    /// Kills of the server and stops of sinks: mail in transit may arrive twice.
    pub cuts: u64,
    /// Copies in all sinks at that time.
    pub came_before_last_cut: u64,
}

/// The results of sources, idle sessions and server.
pub struct Ended {
    pub reports: Vec<Finished>,
    pub crowds: Vec<CrowdEnd>,
    pub audit: Option<Audit>,
    pub usage: Usage,
    pub took: Duration,
}

pub struct CrowdEnd {
    pub sessions: u64,
    pub alive: u64,
    pub memory_kb_per_session: f64,
}

type Sending = JoinHandle<Result<Finished, String>>;

impl<'s> Drive<'s> {
    pub fn new(
        scenario: &'s Scenario,
        scale: Scale,
        (target, sinks): (Target, Vec<Place>),
        signals: &'s Receiver<Signal>,
    ) -> Drive<'s> {
        let (overlay, began) = (Table::new(), Instant::now());
        Drive {
            scenario,
            scale,
            target,
            sinks,
            signals,
            overlay,
            began,
            cuts: 0,
            came_before_last_cut: 0,
        }
    }

    /// From the first connection until every message has reached its final state.
    pub fn run(&mut self, live: bool) -> Result<Ended, Stop> {
        self.start_server().map_err(Stop::Refused)?;
        let mut crowds = Vec::new();
        for idle in &self.scenario.idle {
            crowds.push(self.open_crowd(idle.sessions).map_err(Stop::Refused)?);
        }
        self.began = Instant::now();
        let sources = self.scenario.sources.iter().map(|part| self.send(part, live));
        let mut sources: Vec<Sending> = sources.collect::<Result<_, _>>().map_err(Stop::Refused)?;
        let mut reports = Vec::new();
        for step in &self.scenario.steps {
            let at = self.began + self.scale.time(step.at);
            self.await_that(|_| Ok(Instant::now() >= at))?;
            self.say(&describe(&step.action, self.scale));
            match &step.action {
                Action::AwaitSources {} => reports.extend(self.join(&mut sources)?),
                action => self.perform(action)?,
            }
        }
        reports.extend(self.join(&mut sources)?);
        let accepted = reports.iter().map(Finished::accepted).sum();
        let audit = self.await_end(accepted)?;
        let took = self.began.elapsed();
        let usage = match &self.target {
            Target::Ours(server) => server.usage(),
            Target::Other(_) => Usage::default(),
        };
        let crowds = crowds.into_iter().map(|(mut crowd, sessions, memory_kb)| CrowdEnd {
            sessions,
            alive: crowd.alive(),
            memory_kb_per_session: memory_kb / sessions as f64,
        });
        let crowds = crowds.collect();
        if let Target::Ours(server) = &mut self.target {
            server.terminate(&|| go_on(self.signals)).map_err(Stop::broken)?;
        }
        Ok(Ended { reports, crowds, audit, usage, took })
    }

    fn start_server(&mut self) -> Result<(), String> {
        let Target::Ours(server) = &mut self.target else { return Ok(()) };
        let sinks = self.sinks.iter().map(|sink| (&sink.part, sink.addresses.as_slice()));
        let text = config::write(&config::Parts {
            folder: server.folder(),
            address: server.address(),
            sinks: sinks.collect(),
            overlays: [&self.scenario.config, &self.overlay],
        });
        server.start(&text, &|| go_on(self.signals))
    }

    /// Opens idle sessions; returns them, their number, and the growth of the server's memory in KB.
    fn open_crowd(&self, sessions: u64) -> Result<(Crowd, u64, f64), String> {
        let memory = || match &self.target {
            Target::Ours(server) => server.usage().memory_kb as f64,
            Target::Other(_) => 0.0,
        };
        let (sessions, before) = (self.scale.count(sessions), memory());
        let crowd = Crowd::open(sessions, self.target.address(), &|| go_on(self.signals))?;
        Ok((crowd, sessions, memory() - before))
    }

    fn send(&self, part: &SourcePart, live: bool) -> Result<Sending, String> {
        let options = part.parsed(self.scale, &self.target.address().to_string())?;
        let begin = self.began + self.scale.time(part.begin);
        let name = part.name.clone();
        Ok(thread::spawn(move || {
            thread::sleep(begin.saturating_duration_since(Instant::now()));
            let sent = source::send_live(options, live);
            sent.map_err(|why| format!("source `{name}`: {why}"))
        }))
    }

    /// Waits for the sources that have not been joined before.
    fn join(&mut self, sources: &mut Vec<Sending>) -> Result<Vec<Finished>, Stop> {
        self.await_that(|_| Ok(sources.iter().all(JoinHandle::is_finished)))?;
        let ended = sources.drain(..).map(|source| match source.join() {
            // The options were checked before, so that this is a failure during the run.
            Ok(report) => report.map_err(Stop::Broken),
            Err(_) => Err(Stop::Broken("a source panicked, see above".to_owned())),
        });
        ended.collect()
    }

    fn perform(&mut self, action: &Action) -> Result<(), Stop> {
        if let Action::Start { config } = action {
            self.overlay.clone_from(config);
            return self.start_server().map_err(Stop::broken);
        }
        if let Action::Kill {} | Action::StopSink { .. } = action {
            self.cuts += 1;
            self.came_before_last_cut = self.came();
        }
        let sink = action.sink().and_then(|sink| self.scenario.sink(sink)).unwrap_or_default();
        let ours = match &mut self.target {
            Target::Ours(server) => Some(server),
            Target::Other(_) => None,
        };
        let done = match (action, ours) {
            (Action::Kill {}, Some(server)) => server.kill(),
            (Action::Terminate {}, Some(server)) => server.terminate(&|| go_on(self.signals)),
            (Action::DeleteSpool {}, Some(server)) => server.delete_spool(),
            (Action::StopSink { .. }, _) => self.sinks[sink].suspend(),
            (Action::StartSink { behaviour, .. }, _) => {
                self.sinks[sink].resume(behaviour.as_deref())
            }
            (Action::AwaitArrivals { count, .. }, _) => {
                let count = self.scale.count(*count);
                let end = Instant::now() + self.scenario.deadline;
                return self.await_that(|drive| match drive.sinks[sink].copies() {
                    copies if copies >= count => Ok(true),
                    copies if Instant::now() >= end => Err(Stop::Broken(format!(
                        "{copies} of {count} messages arrived at `{}` before the deadline",
                        drive.sinks[sink].part.name
                    ))),
                    _ => Ok(false),
                });
            }
            (Action::AwaitEmptyQueue {}, Some(_)) => {
                let queued = self.await_empty_queue(None)?.queued;
                let left = |count| Err(format!("{count} recipients are queued at the deadline"));
                if queued == 0 { Ok(()) } else { left(queued) }
            }
            // The others need a server of our own, or are handled elsewhere.
            _ => Ok(()),
        };
        done.map_err(Stop::broken)
    }

    /// Waits until no mail is in transit, or for the deadline.
    fn await_end(&mut self, accepted: u64) -> Result<Option<Audit>, Stop> {
        if matches!(self.target, Target::Ours(_)) {
            return self.await_empty_queue(Some(accepted)).map(Some);
        }
        let end = Instant::now() + self.scenario.deadline;
        // Copies are counted: one message may have arrived twice and another not yet.
        let mut last = (0, Instant::now());
        self.await_that(|drive| {
            let (came, now) = (drive.came(), Instant::now());
            if came != last.0 {
                last = (came, now);
            }
            Ok(came >= accepted && now >= last.1 + QUIET || now >= end)
        })?;
        Ok(None)
    }

    /// The server's audit when its queue is empty, or at the deadline. The audit is read less often while
    /// fewer than `expected` copies have arrived.
    fn await_empty_queue(&mut self, expected: Option<u64>) -> Result<Audit, Stop> {
        let end = Instant::now() + self.scenario.deadline;
        let mut last = None;
        let mut asked: Option<(Instant, Duration)> = None;
        self.await_that(|drive| {
            let now = Instant::now();
            let is_late = now >= end;
            let is_early = expected.is_some_and(|expected| drive.came() < expected);
            let rest = if is_early { ASK_EARLY } else { ASK };
            let is_near =
                |(at, took): (Instant, Duration)| now < at + rest.max(took * ASKING_SHARE);
            if !is_late && asked.is_some_and(is_near) {
                return Ok(false);
            }
            let Target::Ours(server) = &drive.target else { return Ok(true) };
            let audit = server.audit().map_err(Stop::Broken)?;
            asked = Some((Instant::now(), now.elapsed()));
            last = Some(audit);
            Ok(audit.queued == 0 || is_late)
        })?;
        Ok(last.unwrap_or_default())
    }

    /// Copies in all sinks, bounces included.
    fn came(&self) -> u64 {
        self.sinks.iter().map(Place::copies).sum()
    }

    /// Waits until `is_so`, and checks that the server still runs.
    fn await_that(
        &mut self,
        mut is_so: impl FnMut(&mut Drive<'s>) -> Result<bool, Stop>,
    ) -> Result<(), Stop> {
        while !is_so(self)? {
            if let Target::Ours(server) = &mut self.target
                && let Some(status) = server.exited()
            {
                let words = server.last_words();
                return Err(Stop::Broken(format!(
                    "the server exited unexpectedly, {status}: {words}"
                )));
            }
            match self.signals.recv_timeout(LOOK) {
                Ok(Signal::Term | Signal::Int) => {
                    return Err(Stop::Refused(INTERRUPTED.to_owned()));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
            }
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        eprintln!("{:>8.1} s  {text}", self.began.elapsed().as_secs_f64());
    }
}

fn describe(action: &Action, scale: Scale) -> String {
    match action {
        Action::Kill {} => "SIGKILL to the server".to_owned(),
        Action::Terminate {} => "SIGTERM to the server".to_owned(),
        Action::Start { .. } => "the server starts".to_owned(),
        Action::DeleteSpool {} => "the spool is deleted".to_owned(),
        Action::StopSink { sink } => format!("sink `{sink}` stops"),
        Action::StartSink { sink, .. } => format!("sink `{sink}` starts"),
        Action::AwaitSources {} => "waiting for the sources to end".to_owned(),
        Action::AwaitArrivals { sink, count } => {
            format!("waiting for {} messages at `{sink}`", scale.count(*count))
        }
        Action::AwaitEmptyQueue {} => "waiting for an empty queue".to_owned(),
    }
}
