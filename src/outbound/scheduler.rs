//! When which job goes over which connection: all destinations of one owner shard.
//!
//! Owner:    the shard; not shared. No I/O, no clock, no randomness but the seed: the same calls give
//!           the same answers.
//! Promise:  no limit of a destination or of the shard is exceeded. Destinations take turns at
//!           connections, those without a connection first, so that a dead destination does not
//!           delay others.
//! Order:    after every call, `next_action` until it returns `None`, then sleep until `next_wake_ms`.
//! Bounds:   `destinations_max` destinations, `connections_max` connections, `jobs_max` jobs per
//!           destination.
//!
//! The life of a connection, as reported by its worker:
//!
//! ```text
//! Action::Connect -> connected | connect_failed (gone)
//! take_job        -> Job: send it, then job_done, and ask again
//!                 -> IdleUntil: ask again on Action::Wake or at that time, whichever is first
//!                 -> Close: QUIT, then closed (gone)
//! at any time     -> connection_lost (gone); throttled (a 421 or similar; then closed, or ask again)
//! ```
//!
//! A worker waits for its wake only while it is idle; a late wake has no effect.
//! A call about a connection or a destination that is gone is answered, and changes nothing.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::base::MessageId;
use crate::base::Random;
use crate::base::limits::DESTINATION_CONNECTIONS_MAX;
use crate::base::limits::DESTINATION_FULL_MS;
use crate::base::limits::DESTINATION_IDLE_MS;
use crate::base::limits::DESTINATIONS_MAX;
use crate::base::limits::TURN_MESSAGES;
use crate::delivery::failure::Failure;
use crate::delivery::failure::FailureKind;
use crate::outbound::destination::Binding;
use crate::outbound::destination::ConnectionCounts;
use crate::outbound::destination::Counters;
use crate::outbound::destination::Destination;
use crate::outbound::destination::DestinationState;
use crate::outbound::destination::Full;
use crate::outbound::destination::HandedBack;
use crate::outbound::destination::JobEnd;
use crate::outbound::destination::JobTicket;
use crate::outbound::destination::Role;
use crate::outbound::pace::Pace;
use crate::route::destination::DestinationPolicy;
use crate::route::destination::Rates;

/// A destination of this scheduler, until it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationId {
    index: u32,
    generation: u32,
}

/// A connection of this scheduler, from `Action::Connect` until it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

/// What the pump must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a worker with a new connection to this destination.
    Connect { destination: DestinationId, conn: ConnId },
    /// The idle worker of this connection is to call `take_job` now.
    Wake { conn: ConnId },
    /// Call `drain_deferred`, and send home what it yields.
    HandBack { destination: DestinationId },
}

/// What a worker gets when it asks for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Job(JobTicket),
    IdleUntil(u64),
    Close,
}

#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    pub connections_max: usize,
    pub destinations_max: usize,
}

impl Default for SchedulerLimits {
    fn default() -> SchedulerLimits {
        SchedulerLimits {
            connections_max: DESTINATION_CONNECTIONS_MAX,
            destinations_max: DESTINATIONS_MAX,
        }
    }
}

/// A destination for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSummary {
    pub key: Box<str>,
    pub state: DestinationState,
    pub queued: usize,
    /// When the oldest queued message was accepted, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    pub in_flight: u32,
    pub connections: ConnectionCounts,
    pub window: u32,
    pub counters: Counters,
    /// Transfers that ended, in a minute at the present pace.
    pub per_minute: u64,
    /// What keeps its next job waiting.
    pub binding: Binding,
    pub connections_max: u32,
    pub rates: Rates,
    /// Empty if there was none.
    pub last_error: Box<str>,
    /// See `Destination::lack`.
    pub lack: Box<str>,
    pub last_failure: Option<FailureKind>,
    /// The host that the failure is of; empty if it is of none.
    pub last_host: Box<str>,
}

/// How much a destination has to do; the weightier is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestinationLoad {
    /// Jobs in line and connections.
    pub weight: usize,
    pub queued: usize,
    pub in_flight: u32,
    /// As in `DestinationSummary`.
    pub oldest_ms: Option<u64>,
}

/// Why a job has not gone yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    InFlight,
    Queued { ahead: usize, binding: Binding },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Asking,
    Busy(JobTicket),
    Idle { since_ms: u64, until_ms: u64 },
    Closing,
}

impl Stage {
    fn place(self, tally: &mut ConnectionCounts) -> &mut u32 {
        match self {
            Stage::Opening => &mut tally.opening,
            Stage::Asking => &mut tally.asking,
            Stage::Busy(_) => &mut tally.busy,
            Stage::Idle { .. } => &mut tally.idle,
            Stage::Closing => &mut tally.closing,
        }
    }
}

#[derive(Debug)]
struct Connection {
    destination: u32,
    generation: u32,
    stage: Stage,
    role: Role,
    /// Jobs taken so far.
    taken: u32,
}

#[derive(Debug)]
struct Entry {
    key: Box<str>,
    generation: u32,
    destination: Destination,
    pace: Pace,
    /// Idle connections, the latest last: it is reused first, so that the others may go.
    idle: Vec<ConnId>,
    /// Its place among the destinations that want a connection.
    request: Option<Request>,
    /// Its place among the timers.
    timer_ms: Option<u64>,
    is_handing_back: bool,
    /// Counted among the destinations that have connections or want one.
    is_active: bool,
    idle_since_ms: Option<u64>,
}

/// By claim, then by turn. The first connection of a destination goes before others, unless the destination has
/// just failed: a crowd of dead destinations must not keep a healthy one from its first.
type Request = (Claim, u64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    First,
    Further,
}

/// All destinations of one shard.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    random: Random,
    destinations: Slab<Entry>,
    by_key: HashMap<Box<str>, u32>,
    connections: Slab<Connection>,
    generation: u32,
    requests: BTreeSet<Request>,
    turn: u64,
    timers: BTreeSet<(u64, u32)>,
    wakes: VecDeque<ConnId>,
    hand_backs: VecDeque<DestinationId>,
    /// Oldest first. What is no longer idle since then is skipped.
    idle_connections: VecDeque<(ConnId, u64)>,
    idle_destinations: VecDeque<(DestinationId, u64)>,
    closing: usize,
    active_destinations: usize,
}

impl Scheduler {
    pub fn new(limits: SchedulerLimits, seed: u64) -> Scheduler {
        Scheduler {
            limits,
            random: Random::new(seed),
            destinations: Slab::new(),
            by_key: HashMap::new(),
            connections: Slab::new(),
            generation: 0,
            requests: BTreeSet::new(),
            turn: 0,
            timers: BTreeSet::new(),
            wakes: VecDeque::new(),
            hand_backs: VecDeque::new(),
            idle_connections: VecDeque::new(),
            idle_destinations: VecDeque::new(),
            closing: 0,
            active_destinations: 0,
        }
    }

    /// Finds the destination of this key, or makes it. The policy of a destination that is there is left alone.
    pub fn destination(
        &mut self,
        key: &str,
        policy: &Arc<DestinationPolicy>,
        now_ms: u64,
    ) -> Result<DestinationId, Full> {
        self.forget_idle(now_ms);
        if let Some(index) = self.by_key.get(key) {
            return Ok(self.id_of(*index));
        }
        if self.destinations.len() >= self.limits.destinations_max && !self.forget_oldest(now_ms) {
            return Err(Full {
                due_ms: now_ms + DESTINATION_FULL_MS + self.random.below(DESTINATION_FULL_MS),
            });
        }
        self.generation = self.generation.wrapping_add(1);
        let index = self.destinations.insert(Entry {
            key: key.into(),
            generation: self.generation,
            destination: Destination::new(policy.clone()),
            pace: Pace::default(),
            idle: Vec::new(),
            request: None,
            timer_ms: None,
            is_handing_back: false,
            is_active: false,
            idle_since_ms: None,
        }) as u32;
        self.by_key.insert(key.into(), index);
        self.refresh(index, now_ms);
        Ok(self.id_of(index))
    }

    /// The destination of this key, if it is known.
    pub fn find(&self, key: &str) -> Option<DestinationId> {
        self.by_key.get(key).map(|index| self.id_of(*index))
    }

    /// All destinations, for operators.
    pub fn destinations(&self) -> impl Iterator<Item = DestinationId> {
        self.destinations.iter().map(|(index, _)| self.id_of(index as u32))
    }

    /// A reload, or another share of a striped destination.
    pub fn set_policy(
        &mut self,
        destination: DestinationId,
        policy: Arc<DestinationPolicy>,
        now_ms: u64,
    ) {
        self.change(destination, now_ms, |destination| destination.destination.set_policy(policy));
    }

    /// Operators: no job is begun and no connection opened. What comes is kept as far as it fits.
    pub fn pause(&mut self, destination: DestinationId, now_ms: u64) {
        self.change(destination, now_ms, |destination| destination.destination.pause());
    }

    pub fn resume(&mut self, destination: DestinationId, now_ms: u64) {
        self.change(destination, now_ms, |destination| destination.destination.resume());
    }

    /// Puts a job in line. `Full`: it waits on disk until then.
    pub fn push(
        &mut self,
        destination: DestinationId,
        ticket: JobTicket,
        now_ms: u64,
    ) -> Result<(), Full> {
        let Some(index) = self.index_of(destination) else {
            return Err(Full { due_ms: now_ms });
        };
        let destination = &mut self.destinations[index as usize].destination;
        destination.push(ticket, now_ms, &mut self.random)?;
        self.refresh(index, now_ms);
        Ok(())
    }

    /// Empties the line of a destination. What is being sent is sent to its end.
    pub fn withdraw_all(&mut self, destination: DestinationId, now_ms: u64) -> Vec<JobTicket> {
        let Some(index) = self.index_of(destination) else { return Vec::new() };
        let withdrawn = self.destinations[index as usize].destination.withdraw_all();
        self.refresh(index, now_ms);
        withdrawn
    }

    /// What a destination is treated by here.
    pub fn policy_of(&self, destination: DestinationId) -> Option<Arc<DestinationPolicy>> {
        let index = self.index_of(destination)?;
        Some(Arc::clone(self.destinations[index as usize].destination.policy()))
    }

    /// Takes a job out of line that has not begun.
    pub fn withdraw(
        &mut self,
        destination: DestinationId,
        ticket: &JobTicket,
        now_ms: u64,
    ) -> bool {
        let Some(index) = self.index_of(destination) else { return false };
        let withdrawn = self.destinations[index as usize].destination.withdraw(ticket);
        self.refresh(index, now_ms);
        withdrawn
    }

    /// What to do now, one thing at a time.
    pub fn next_action(&mut self, now_ms: u64) -> Option<Action> {
        self.fire_timers(now_ms);
        while let Some(conn) = self.wakes.pop_front() {
            if self.connection(conn).is_some() {
                return Some(Action::Wake { conn });
            }
        }
        while let Some(destination) = self.hand_backs.pop_front() {
            if self.index_of(destination).is_some() {
                return Some(Action::HandBack { destination });
            }
        }
        while let Some((claim, _, index)) = self.requests.first().copied() {
            if self.connections.len() >= self.room_for(claim) {
                return self.evict(now_ms);
            }
            if let Some(action) = self.open(index, now_ms) {
                return Some(action);
            }
        }
        None
    }

    /// When `next_action` may have something to say without any call before.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.timers.first().map(|(at_ms, _)| *at_ms)
    }

    /// The next job for this connection, or what it does without.
    pub fn take_job(&mut self, conn: ConnId, now_ms: u64) -> Take {
        let Some((stage, role, index)) =
            self.connection(conn).map(|c| (c.stage, c.role, c.destination))
        else {
            return Take::Close;
        };
        match stage {
            Stage::Closing => return Take::Close,
            Stage::Busy(_) => panic!("a worker asks for a job while it has one"),
            Stage::Idle { until_ms, .. } if until_ms <= now_ms => {
                return self.close(conn, now_ms);
            }
            Stage::Opening | Stage::Asking | Stage::Idle { .. } => {}
        }
        if self.must_close(conn) {
            return self.close(conn, now_ms);
        }
        let destination = &mut self.destinations[index as usize].destination;
        let idle_ms = destination.idle_reuse_ms();
        let take = match destination.take(role, now_ms) {
            Some(ticket) => {
                self.connections[conn.index as usize].taken += 1;
                self.set_stage(conn, Stage::Busy(ticket));
                Take::Job(ticket)
            }
            None if idle_ms == 0 => return self.close(conn, now_ms),
            None => {
                let until_ms = now_ms + idle_ms;
                self.set_stage(conn, Stage::Idle { since_ms: now_ms, until_ms });
                Take::IdleUntil(until_ms)
            }
        };
        self.refresh(index, now_ms);
        take
    }

    /// The connection is open and the server ready for a message.
    pub fn connected(&mut self, conn: ConnId, now_ms: u64) {
        if let Some(index) = self.connection(conn).map(|connection| connection.destination) {
            self.set_stage(conn, Stage::Asking);
            self.refresh(index, now_ms);
        }
    }

    /// The connection did not come about. It is gone.
    pub fn connect_failed(&mut self, conn: ConnId, failure: Failure, now_ms: u64) {
        let _ = self.connection_lost(conn, failure, now_ms);
    }

    /// The transfer of this connection's job has ended. Its worker asks again, unless the
    /// connection is lost too.
    pub fn job_done(&mut self, conn: ConnId, end: JobEnd, now_ms: u64) -> Option<JobTicket> {
        let connection = self.connection(conn)?;
        let (Stage::Busy(ticket), index) = (connection.stage, connection.destination) else {
            return None;
        };
        if end != JobEnd::Lost {
            self.connections[conn.index as usize].role = Role::Plain;
        }
        let destination = &mut self.destinations[index as usize];
        destination.destination.on_job_end(end);
        if end != JobEnd::Lost {
            destination.pace.count(now_ms);
        }
        self.set_stage(conn, Stage::Asking);
        self.refresh(index, now_ms);
        Some(ticket)
    }

    /// The connection broke. It is gone; a job that was under way over it is the answer, and
    /// counts as lost.
    pub fn connection_lost(
        &mut self,
        conn: ConnId,
        failure: Failure,
        now_ms: u64,
    ) -> Option<JobTicket> {
        let (connection, ticket) = self.remove(conn)?;
        let destination = &mut self.destinations[connection.destination as usize].destination;
        if connection.stage == Stage::Opening && failure.kind != FailureKind::Ours {
            destination.on_connect_failed();
        }
        if connection.stage != Stage::Closing {
            destination.on_failure(failure, connection.role, now_ms, &mut self.random);
        }
        destination.on_probe_gone(connection.role, now_ms);
        self.refresh(connection.destination, now_ms);
        ticket
    }

    /// The connection was closed in order. It is gone. A job that was not reported is the answer.
    pub fn closed(&mut self, conn: ConnId, now_ms: u64) -> Option<JobTicket> {
        let (connection, ticket) = self.remove(conn)?;
        self.destinations[connection.destination as usize]
            .destination
            .on_probe_gone(connection.role, now_ms);
        self.refresh(connection.destination, now_ms);
        ticket
    }

    /// The destination asked for less: a 421, or a reply that speaks of rates. It is a failure too.
    pub fn throttled(&mut self, conn: ConnId, text: &str, now_ms: u64) {
        if let Some((role, index)) = self.connection(conn).map(|c| (c.role, c.destination)) {
            let destination = &mut self.destinations[index as usize].destination;
            destination.on_throttle(text, role, now_ms, &mut self.random);
            self.refresh(index, now_ms);
        }
    }

    /// What goes back to the home shards, each with the time to write as due.
    pub fn drain_deferred(&mut self, destination: DestinationId, now_ms: u64) -> Vec<HandedBack> {
        let Some(index) = self.index_of(destination) else {
            return Vec::new();
        };
        let destination = &mut self.destinations[index as usize];
        destination.is_handing_back = false;
        let handed_back = destination.destination.take_handed_back();
        self.refresh(index, now_ms);
        handed_back
    }

    pub fn summary(
        &mut self,
        destination: DestinationId,
        now_ms: u64,
    ) -> Option<DestinationSummary> {
        let index = self.index_of(destination)?;
        let destination = &mut self.destinations[index as usize];
        Some(DestinationSummary {
            key: destination.key.clone(),
            state: destination.destination.state(now_ms),
            queued: destination.destination.queued(),
            oldest_ms: destination.destination.oldest().map(MessageId::made_ms),
            in_flight: destination.destination.tally.busy,
            connections: destination.destination.tally,
            window: destination.destination.window(),
            counters: destination.destination.counters,
            per_minute: destination.pace.per_minute(now_ms),
            binding: destination.destination.binding(now_ms),
            connections_max: destination.destination.policy().connections_max,
            rates: destination.destination.policy().rates,
            last_error: destination.destination.last_error().into(),
            lack: destination.destination.lack().into(),
            last_failure: destination.destination.last_failure(),
            last_host: destination.destination.last_host().into(),
        })
    }

    /// For operators: looks through the connections and the queue of the destination.
    pub fn why(
        &mut self,
        destination: DestinationId,
        id: MessageId,
        job: u16,
        now_ms: u64,
    ) -> Option<Why> {
        let index = self.index_of(destination)?;
        let is_it = |ticket: JobTicket| ticket.id == id && ticket.job == job;
        let mut connections = self.connections.iter();
        if connections.any(|(_, c)| matches!(c.stage, Stage::Busy(ticket) if is_it(ticket))) {
            return Some(Why::InFlight);
        }
        let room =
            self.destinations[index as usize].request.map(|(claim, _, _)| self.room_for(claim));
        let destination = &mut self.destinations[index as usize].destination;
        let ahead = destination.ahead_of(id, job)?;
        let binding = match destination.binding(now_ms) {
            Binding::Nothing if room.is_some_and(|room| self.connections.len() >= room) => {
                Binding::Overall { connections: self.connections.len() }
            }
            binding => binding,
        };
        Some(Why::Queued { ahead, binding })
    }

    /// The destinations with the most mail, for operators.
    pub fn largest_destinations(&self, max: usize) -> Vec<DestinationId> {
        let load = |destination: &Entry| {
            destination.destination.queued() + destination.destination.tally.all() as usize
        };
        let mut destinations: Vec<(usize, u32)> = self
            .destinations
            .iter()
            .map(|(index, destination)| (load(destination), index as u32))
            .collect();
        let larger_first = |one: &(usize, u32), other: &(usize, u32)| other.cmp(one);
        if destinations.len() > max {
            destinations.select_nth_unstable_by(max, larger_first);
            destinations.truncate(max);
        }
        destinations.sort_unstable_by(larger_first);
        destinations.into_iter().map(|(_, index)| self.id_of(index)).collect()
    }

    /// The loads of destinations in no order, at most `count` places from `from` on. Answers where to go on,
    /// none at the end.
    pub fn loads(
        &self,
        from: usize,
        count: usize,
        each: &mut dyn FnMut(DestinationId, DestinationLoad),
    ) -> Option<usize> {
        let places = self.destinations.capacity();
        let end = from.saturating_add(count).min(places);
        for place in from..end {
            let Some(destination) = self.destinations.get(place) else { continue };
            let (queued, tally) = (destination.destination.queued(), destination.destination.tally);
            let weight = queued + tally.all() as usize;
            each(
                self.id_of(place as u32),
                DestinationLoad {
                    weight,
                    queued,
                    in_flight: tally.busy,
                    oldest_ms: destination.destination.oldest().map(MessageId::made_ms),
                },
            );
        }
        (end < places).then_some(end)
    }

    /// Messages that are being sent to this destination now.
    pub fn under_way(&self, destination: DestinationId) -> Vec<MessageId> {
        let Some(index) = self.index_of(destination) else { return Vec::new() };
        let of_destination = self.connections.iter().filter(|(_, one)| one.destination == index);
        let busy = of_destination.filter_map(|(_, one)| match one.stage {
            Stage::Busy(ticket) => Some(ticket.id),
            _ => None,
        });
        busy.collect()
    }

    /// The destinations with the most connections, and how many.
    pub fn largest_holders(&self, max: usize) -> Vec<(Box<str>, u32)> {
        let mut holders: Vec<(u32, &str)> = self
            .destinations
            .iter()
            .map(|(_, destination)| (destination.destination.tally.all(), &*destination.key))
            .filter(|(connections, _)| *connections > 0)
            .collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        holders.truncate(max);
        holders.into_iter().map(|(connections, key)| (key.into(), connections)).collect()
    }

    /// Connections to all destinations, those that are closing included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn id_of(&self, index: u32) -> DestinationId {
        DestinationId { index, generation: self.destinations[index as usize].generation }
    }

    fn index_of(&self, id: DestinationId) -> Option<u32> {
        let destination = self.destinations.get(id.index as usize)?;
        (destination.generation == id.generation).then_some(id.index)
    }

    fn connection(&self, id: ConnId) -> Option<&Connection> {
        let connection = self.connections.get(id.index as usize)?;
        (connection.generation == id.generation).then_some(connection)
    }

    fn change(&mut self, destination: DestinationId, now_ms: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(index) = self.index_of(destination) {
            change(&mut self.destinations[index as usize]);
            self.refresh(index, now_ms);
        }
    }

    /// Connections below which such a destination may open one: the last quarter is for first
    /// ones.
    fn room_for(&self, claim: Claim) -> usize {
        let all = self.limits.connections_max;
        match claim {
            Claim::First => all,
            Claim::Further => all - all / 4,
        }
    }

    /// Whether a destination waits for a connection to close, and no closing one will do for it.
    fn is_crowded(&self) -> Option<Claim> {
        let (claim, _, _) = *self.requests.first()?;
        let is_full = self.connections.len() >= self.room_for(claim);
        (is_full && self.closing < self.requests.len()).then_some(claim)
    }

    /// Whether a connection that asks for a job has to go.
    fn must_close(&self, conn: ConnId) -> bool {
        let connection = &self.connections[conn.index as usize];
        let destination = &self.destinations[connection.destination as usize].destination;
        if !destination.keeps(connection.role)
            || connection.taken >= destination.policy().messages_per_connection.max(1)
        {
            return true;
        }
        let Some(waiting) = self.is_crowded() else {
            return false;
        };
        let fair = (self.limits.connections_max / self.active_destinations.max(1)).max(1);
        destination.tally.live() as usize > fair
            || waiting == Claim::First && connection.taken >= TURN_MESSAGES
    }

    fn open(&mut self, index: u32, now_ms: u64) -> Option<Action> {
        let destination = self.destinations[index as usize].destination.wants_connection(now_ms);
        let action = destination.then(|| {
            let role = self.destinations[index as usize].destination.on_open();
            self.generation = self.generation.wrapping_add(1);
            let generation = self.generation;
            let stage = Stage::Opening;
            let connection = Connection { destination: index, generation, stage, role, taken: 0 };
            let conn = ConnId { index: self.connections.insert(connection) as u32, generation };
            self.destinations[index as usize].destination.tally.opening += 1;
            Action::Connect { destination: self.id_of(index), conn }
        });
        // To the end of the line.
        if let Some(request) = self.destinations[index as usize].request.take() {
            self.requests.remove(&request);
        }
        self.refresh(index, now_ms);
        action
    }

    /// Closes the connection that has been idle longest, for a destination that waits.
    fn evict(&mut self, now_ms: u64) -> Option<Action> {
        self.is_crowded()?;
        while let Some((conn, since_ms)) = self.idle_connections.pop_front() {
            if self.is_idle_since(conn, since_ms) {
                self.close(conn, now_ms);
                return Some(Action::Wake { conn });
            }
        }
        None
    }

    fn is_idle_since(&self, conn: ConnId, wanted_ms: u64) -> bool {
        let stage = self.connection(conn).map(|connection| connection.stage);
        matches!(stage, Some(Stage::Idle { since_ms, .. }) if since_ms == wanted_ms)
    }

    fn close(&mut self, conn: ConnId, now_ms: u64) -> Take {
        let index = self.connections[conn.index as usize].destination;
        self.set_stage(conn, Stage::Closing);
        self.refresh(index, now_ms);
        Take::Close
    }

    /// The one place where a connection changes what it does, so that all lists agree.
    fn set_stage(&mut self, conn: ConnId, stage: Stage) {
        let connection = &mut self.connections[conn.index as usize];
        let destination = &mut self.destinations[connection.destination as usize];
        let before = std::mem::replace(&mut connection.stage, stage);
        *before.place(&mut destination.destination.tally) -= 1;
        *stage.place(&mut destination.destination.tally) += 1;
        self.closing += usize::from(stage == Stage::Closing);
        self.closing -= usize::from(before == Stage::Closing);
        if let Stage::Idle { .. } = before {
            destination.idle.retain(|other| *other != conn);
        }
        if let Stage::Idle { since_ms, .. } = stage {
            destination.idle.push(conn);
            self.note_idle(conn, since_ms);
        }
    }

    fn note_idle(&mut self, conn: ConnId, since_ms: u64) {
        if self.idle_connections.len() > 2 * self.connections.len() + 64 {
            let mut all = std::mem::take(&mut self.idle_connections);
            all.retain(|(conn, since_ms)| self.is_idle_since(*conn, *since_ms));
            self.idle_connections = all;
        }
        self.idle_connections.push_back((conn, since_ms));
    }

    /// Forgets a connection; the job it had counts as lost. The caller refreshes the destination.
    fn remove(&mut self, conn: ConnId) -> Option<(Connection, Option<JobTicket>)> {
        let stage = self.connection(conn)?.stage;
        if let Stage::Idle { .. } = stage {
            self.set_stage(conn, Stage::Asking);
        }
        let connection = self.connections.remove(conn.index as usize);
        let destination = &mut self.destinations[connection.destination as usize].destination;
        *connection.stage.place(&mut destination.tally) -= 1;
        self.closing -= usize::from(connection.stage == Stage::Closing);
        let ticket = match connection.stage {
            Stage::Busy(ticket) => {
                destination.on_job_end(JobEnd::Lost);
                Some(ticket)
            }
            _ => None,
        };
        Some((connection, ticket))
    }

    fn fire_timers(&mut self, now_ms: u64) {
        while let Some((at_ms, index)) = self.timers.first().copied()
            && at_ms <= now_ms
        {
            self.timers.remove(&(at_ms, index));
            let destination = &mut self.destinations[index as usize];
            destination.timer_ms = None;
            destination.destination.sweep(now_ms);
            self.refresh(index, now_ms);
        }
    }

    /// Brings all lists in line with what the destination wants now. Called after everything that
    /// happens to a destination; it looks at no other.
    fn refresh(&mut self, index: u32, now_ms: u64) {
        self.wake_idle(index, now_ms);
        self.file_request(index, now_ms);
        self.set_timer(index, now_ms);
        let id = self.id_of(index);
        let destination = &mut self.destinations[index as usize];
        if destination.destination.has_handed_back() && !destination.is_handing_back {
            destination.is_handing_back = true;
            self.hand_backs.push_back(id);
        }
        let is_active = destination.request.is_some() || destination.destination.tally.live() > 0;
        self.active_destinations += usize::from(is_active);
        self.active_destinations -=
            usize::from(std::mem::replace(&mut destination.is_active, is_active));
        match (destination.destination.is_idle(), destination.idle_since_ms) {
            (true, None) => {
                destination.idle_since_ms = Some(now_ms);
                self.idle_destinations.push_back((id, now_ms));
            }
            (false, Some(_)) => destination.idle_since_ms = None,
            _ => {}
        }
        if self.idle_destinations.len() > 2 * self.destinations.len() + 64 {
            let destinations = &self.destinations;
            self.idle_destinations
                .retain(|(id, since_ms)| is_idle_destination(destinations, *id, *since_ms));
        }
    }

    fn wake_idle(&mut self, index: u32, now_ms: u64) {
        loop {
            let destination = &mut self.destinations[index as usize];
            let Some(conn) = destination.idle.last().copied() else {
                return;
            };
            if !destination.destination.wants_wake(now_ms) {
                return;
            }
            self.set_stage(conn, Stage::Asking);
            self.wakes.push_back(conn);
        }
    }

    fn file_request(&mut self, index: u32, now_ms: u64) {
        let destination = &mut self.destinations[index as usize];
        let is_first =
            destination.destination.tally.live() == 0 && !destination.destination.is_in_trouble();
        let claim = if is_first { Claim::First } else { Claim::Further };
        let request = destination.destination.wants_connection(now_ms).then(|| {
            let turn = destination.request.map(|(_, turn, _)| turn).unwrap_or_else(|| {
                self.turn += 1;
                self.turn
            });
            (claim, turn, index)
        });
        let before = std::mem::replace(&mut destination.request, request);
        if before != request {
            if let Some(request) = before {
                self.requests.remove(&request);
            }
            self.requests.extend(request);
        }
    }

    fn set_timer(&mut self, index: u32, now_ms: u64) {
        let destination = &mut self.destinations[index as usize];
        let timer_ms = destination.destination.next_change_ms(now_ms);
        let before = std::mem::replace(&mut destination.timer_ms, timer_ms);
        if before != timer_ms {
            if let Some(at_ms) = before {
                self.timers.remove(&(at_ms, index));
            }
            self.timers.extend(timer_ms.map(|at_ms| (at_ms, index)));
        }
    }

    /// Forgets destinations that have been idle for long. Nobody waits for this: it happens in passing.
    fn forget_idle(&mut self, now_ms: u64) {
        while let Some((id, since_ms)) = self.idle_destinations.front().copied()
            && since_ms + DESTINATION_IDLE_MS <= now_ms
        {
            self.idle_destinations.pop_front();
            self.forget_or_keep(id, since_ms, now_ms);
        }
    }

    /// Makes room for a destination by forgetting the one that has been idle longest.
    fn forget_oldest(&mut self, now_ms: u64) -> bool {
        for _ in 0..FORGET_TRIES {
            let Some((id, since_ms)) = self.idle_destinations.pop_front() else {
                return false;
            };
            if self.forget_or_keep(id, since_ms, now_ms) {
                return true;
            }
        }
        false
    }

    /// A destination of which something must be remembered goes to the end of the line.
    fn forget_or_keep(&mut self, id: DestinationId, since_ms: u64, now_ms: u64) -> bool {
        if !is_idle_destination(&self.destinations, id, since_ms) {
            return false;
        }
        let destination = &mut self.destinations[id.index as usize];
        if destination.destination.is_worth_keeping_until_ms(now_ms) > now_ms {
            destination.idle_since_ms = Some(now_ms);
            self.idle_destinations.push_back((id, now_ms));
            return false;
        }
        let destination = self.destinations.remove(id.index as usize);
        assert!(
            destination.request.is_none() && destination.timer_ms.is_none(),
            "an idle destination wants nothing"
        );
        self.by_key.remove(&destination.key);
        true
    }
}

/// Idle destinations looked at for one that may be forgotten.
const FORGET_TRIES: usize = 16;

fn is_idle_destination(destinations: &Slab<Entry>, id: DestinationId, since_ms: u64) -> bool {
    let destination = destinations.get(id.index as usize);
    destination.is_some_and(|destination| {
        destination.generation == id.generation && destination.idle_since_ms == Some(since_ms)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::limits::JOB_LEASE_MS;
    use crate::base::limits::JOB_TRANSFER_MS_MAX;
    use crate::delivery::failure::FailureKind;
    use crate::route::destination::Rates;

    const DEAD: Failure =
        Failure { kind: FailureKind::Connect, text: "connection refused", host: "mx" };

    fn scheduler(connections_max: usize) -> Scheduler {
        Scheduler::new(SchedulerLimits { connections_max, destinations_max: 4 }, 1)
    }

    fn ticket(raw: u64, now_ms: u64) -> JobTicket {
        JobTicket {
            id: MessageId::from_u64(raw),
            lease_until_ms: now_ms + JOB_LEASE_MS,
            bytes: 1000,
            tenant: 1,
            sender: 1,
            lease: 1,
            recipients: 1,
            job: 0,
        }
    }

    fn destination(
        scheduler: &mut Scheduler,
        key: &str,
        policy: DestinationPolicy,
    ) -> DestinationId {
        scheduler.destination(key, &Arc::new(policy), 0).expect("room for a destination")
    }

    fn push(
        scheduler: &mut Scheduler,
        destination: DestinationId,
        jobs: std::ops::Range<u64>,
        now_ms: u64,
    ) {
        for raw in jobs {
            scheduler.push(destination, ticket(raw, now_ms), now_ms).expect("room for a job");
        }
    }

    fn actions(scheduler: &mut Scheduler, now_ms: u64) -> Vec<Action> {
        std::iter::from_fn(|| scheduler.next_action(now_ms)).collect()
    }

    /// The connections that are opened now, with their destinations.
    fn opened(scheduler: &mut Scheduler, now_ms: u64) -> Vec<(DestinationId, ConnId)> {
        let connects = actions(scheduler, now_ms).into_iter().filter_map(|action| match action {
            Action::Connect { destination, conn } => Some((destination, conn)),
            _ => None,
        });
        connects.collect()
    }

    fn connect(scheduler: &mut Scheduler, now_ms: u64) -> Vec<ConnId> {
        let opened: Vec<_> = opened(scheduler, now_ms).into_iter().map(|(_, conn)| conn).collect();
        for conn in &opened {
            scheduler.connected(*conn, now_ms);
        }
        opened
    }

    fn delivers(scheduler: &mut Scheduler, conn: ConnId, now_ms: u64) -> bool {
        let Take::Job(_) = scheduler.take_job(conn, now_ms) else {
            return false;
        };
        scheduler.job_done(conn, JobEnd::Delivered, now_ms).is_some()
    }

    fn window(scheduler: &mut Scheduler, destination: DestinationId) -> u32 {
        scheduler.summary(destination, 0).expect("it is known").window
    }

    #[test]
    fn connections_are_opened_for_jobs_within_the_window_which_grows_on_success() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { window_start: 2, ..DestinationPolicy::default() },
        );
        push(&mut s, destination, 0..1, 0);
        let mut conns = connect(&mut s, 0);
        assert_eq!(conns.len(), 1, "one job needs one");
        push(&mut s, destination, 1..100, 0);
        conns.extend(connect(&mut s, 0));
        assert_eq!(conns.len(), 2, "no more than the window");
        for (round, wanted) in [(1, 3), (2, 4)] {
            let before = conns.clone();
            for conn in before {
                assert!(delivers(&mut s, conn, round));
            }
            conns.extend(connect(&mut s, round));
            assert_eq!(window(&mut s, destination), wanted, "a window of successes adds one");
            assert_eq!(conns.len(), wanted as usize);
        }
    }

    #[test]
    fn the_window_stops_at_the_policy_and_counts_what_is_closing() {
        let mut s = scheduler(100);
        let policy = DestinationPolicy {
            connections_max: 2,
            window_start: 9,
            ..DestinationPolicy::default()
        };
        let destination =
            destination(&mut s, "a", DestinationPolicy { messages_per_connection: 1, ..policy });
        push(&mut s, destination, 0..9, 0);
        let conns = connect(&mut s, 0);
        assert_eq!(conns.len(), 2);
        assert!(delivers(&mut s, conns[0], 1));
        assert_eq!(s.take_job(conns[0], 1), Take::Close, "one message each");
        assert!(opened(&mut s, 1).is_empty(), "it is still open at the other end");
        s.closed(conns[0], 2);
        assert_eq!(opened(&mut s, 2).len(), 1);
    }

    #[test]
    fn an_idle_connection_is_woken_and_in_time_closed() {
        let mut s = scheduler(100);
        let destination = destination(&mut s, "a", DestinationPolicy::default());
        push(&mut s, destination, 0..1, 0);
        let conn = connect(&mut s, 0)[0];
        assert!(delivers(&mut s, conn, 10));
        assert_eq!(s.take_job(conn, 10), Take::IdleUntil(5010));
        push(&mut s, destination, 1..2, 4000);
        assert_eq!(actions(&mut s, 4000), [Action::Wake { conn }]);
        assert!(delivers(&mut s, conn, 4000));
        assert_eq!(s.take_job(conn, 4000), Take::IdleUntil(9000));
        assert_eq!(s.take_job(conn, 9000), Take::Close);
        s.closed(conn, 9001);
        assert_eq!(s.connections(), 0);
        assert_eq!(s.take_job(conn, 9001), Take::Close, "a connection that is gone");
    }

    #[test]
    fn failures_in_a_row_back_off_and_one_probe_ends_it() {
        let mut s = scheduler(100);
        let policy = DestinationPolicy { failures_to_back_off: 3, ..DestinationPolicy::default() };
        let destination = destination(&mut s, "a", policy);
        push(&mut s, destination, 0..50, 0);
        let conns: Vec<_> = opened(&mut s, 0).into_iter().map(|(_, conn)| conn).collect();
        assert_eq!(conns.len(), 5);
        for conn in &conns[..3] {
            s.connect_failed(*conn, DEAD, 0);
        }
        assert_eq!(actions(&mut s, 0), [Action::HandBack { destination }]);
        let back = s.drain_deferred(destination, 0);
        assert_eq!(back.len(), 50, "no memory is held");
        let tried = back.iter().filter(|job| job.was_tried).count();
        assert_eq!(tried, 3, "one for each connection; the others stood in line");
        let DestinationState::BackingOff { until_ms } =
            s.summary(destination, 0).expect("known").state
        else {
            panic!("it backs off");
        };
        assert!((48_000..=60_000).contains(&until_ms));
        assert!(back.iter().all(|job| job.due_ms >= until_ms));
        assert_eq!(s.take_job(conns[3], 1), Take::Close);
        s.closed(conns[3], 1);
        s.connect_failed(conns[4], DEAD, 2);
        assert!(s.push(destination, ticket(1, 5), 5).is_err_and(|full| full.due_ms >= until_ms));

        push(&mut s, destination, 0..9, until_ms);
        let probe = opened(&mut s, until_ms);
        assert_eq!(probe.len(), 1, "one probe");
        s.connect_failed(probe[0].1, DEAD, until_ms);
        let back = s.drain_deferred(destination, until_ms);
        assert_eq!((back.len(), back.iter().filter(|job| job.was_tried).count()), (9, 1));
        let second_ms = match s.summary(destination, until_ms).expect("known").state {
            DestinationState::BackingOff { until_ms: second } => second,
            state => panic!("{state:?}"),
        };
        assert!((96_000..=120_000).contains(&(second_ms - until_ms)), "twice as long");

        push(&mut s, destination, 0..9, second_ms);
        let probe = connect(&mut s, second_ms);
        assert_eq!(
            s.summary(destination, second_ms).expect("known").state,
            DestinationState::Probing
        );
        assert!(delivers(&mut s, probe[0], second_ms));
        assert_eq!(window(&mut s, destination), 1, "it starts anew");
        assert!(delivers(&mut s, probe[0], second_ms));
        assert_eq!(s.summary(destination, second_ms).expect("known").state, DestinationState::Open);
    }

    #[test]
    fn a_probe_that_finds_nothing_out_is_followed_by_another() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { failures_to_back_off: 1, ..DestinationPolicy::default() },
        );
        push(&mut s, destination, 0..1, 0);
        let conn = opened(&mut s, 0)[0].1;
        s.connect_failed(conn, DEAD, 0);
        let later = s.drain_deferred(destination, 0)[0].due_ms;
        push(&mut s, destination, 0..1, later);
        let probe = connect(&mut s, later)[0];
        s.closed(probe, later);
        assert_eq!(opened(&mut s, later).len(), 1);
    }

    #[test]
    fn a_deferral_that_is_a_421_does_not_end_the_backoff_it_began() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { failures_to_back_off: 1, ..DestinationPolicy::default() },
        );
        push(&mut s, destination, 0..1, 0);
        let conn = connect(&mut s, 0)[0];
        let Take::Job(_) = s.take_job(conn, 0) else { panic!("a job") };
        s.throttled(conn, "421 go away", 0);
        s.job_done(conn, JobEnd::Deferred, 0);
        let state = s.summary(destination, 0).expect("known").state;
        assert!(matches!(state, DestinationState::BackingOff { .. }), "{state:?}");
    }

    #[test]
    fn destinations_that_failed_do_not_take_the_last_connections() {
        let mut s =
            Scheduler::new(SchedulerLimits { connections_max: 8, destinations_max: 100 }, 1);
        let policy = DestinationPolicy { window_start: 1, ..DestinationPolicy::default() };
        for key in 0..20 {
            let dead = destination(&mut s, &key.to_string(), policy.clone());
            push(&mut s, dead, key..key + 1, 0);
        }
        for now_ms in [0, 0, 0] {
            for (_, conn) in opened(&mut s, now_ms) {
                s.connect_failed(conn, DEAD, now_ms);
            }
        }
        assert_eq!(opened(&mut s, 10_000).len(), 6);
        let healthy = destination(&mut s, "healthy", policy);
        push(&mut s, healthy, 99..100, 10_000);
        assert_eq!(opened(&mut s, 10_000).len(), 1);
    }

    #[test]
    fn our_own_shortage_is_not_held_against_the_destination() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { failures_to_back_off: 1, ..DestinationPolicy::default() },
        );
        push(&mut s, destination, 0..1, 0);
        let conn = opened(&mut s, 0)[0].1;
        s.connect_failed(conn, Failure { kind: FailureKind::Ours, text: "EMFILE", host: "mx" }, 0);
        assert!(opened(&mut s, 0).is_empty(), "but not at once again");
        assert_eq!(window(&mut s, destination), 5);
        let summary = s.summary(destination, 0).expect("it is known");
        assert!(matches!(summary.binding, Binding::OwnLimit { .. }), "{summary:?}");
        assert_eq!((&*summary.lack, &*summary.last_error), ("EMFILE", ""));
        assert_eq!((summary.counters.failures, summary.queued), (0, 1));
        let wake_ms = s.next_wake_ms().expect("it tries again");
        assert_eq!(opened(&mut s, wake_ms).len(), 1);
    }

    #[test]
    fn mail_does_not_wait_in_line_for_a_proxy_that_is_down() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { failures_to_back_off: 2, ..DestinationPolicy::default() },
        );
        push(&mut s, destination, 0..3, 0);
        let conns = opened(&mut s, 0);
        let failure = Failure { kind: FailureKind::WayOut, text: "the proxy is down", host: "mx2" };
        s.connect_failed(conns[0].1, failure, 0);
        assert_eq!(window(&mut s, destination), 5, "the destination is not to blame");
        assert!(s.drain_deferred(destination, 0).is_empty());
        s.connect_failed(conns[1].1, failure, 0);
        assert_eq!(s.drain_deferred(destination, 0).len(), 3);
        let summary = s.summary(destination, 0).expect("it is known");
        assert_eq!(summary.last_failure, Some(FailureKind::WayOut));
        assert_eq!(&*summary.last_error, "the proxy is down");
        assert_eq!(&*summary.last_host, "mx2");
    }

    #[test]
    fn a_throttled_destination_gets_silence_and_a_smaller_window() {
        let mut s = scheduler(100);
        let destination = destination(&mut s, "a", DestinationPolicy::default());
        push(&mut s, destination, 0..50, 0);
        let conns = connect(&mut s, 0);
        let Take::Job(_) = s.take_job(conns[0], 0) else { panic!("a job") };
        s.throttled(conns[0], "421 slow down", 0);
        s.job_done(conns[0], JobEnd::Deferred, 0);
        s.closed(conns[0], 0);
        assert_eq!(window(&mut s, destination), 2);
        assert_eq!(s.take_job(conns[1], 1), Take::Close, "the window is smaller");
        assert_eq!(s.take_job(conns[2], 1), Take::Close);
        assert!(matches!(s.take_job(conns[3], 1), Take::IdleUntil(_)));
        assert!(matches!(s.take_job(conns[4], 1), Take::IdleUntil(_)));
        let summary = s.summary(destination, 1).expect("known");
        assert_eq!(&*summary.last_error, "421 slow down");
        let DestinationState::RateLimited { until_ms } = summary.state else { panic!("silence") };
        assert!(until_ms >= 1000);
        assert!(actions(&mut s, until_ms - 1).is_empty());
        let woken = actions(&mut s, until_ms);
        assert_eq!(woken.len(), 2, "{woken:?}");
    }

    #[test]
    fn a_rate_wakes_as_many_connections_as_it_admits_jobs() {
        let mut s = scheduler(100);
        let rates = Rates { per_second: Some(3), ..Rates::default() };
        let policy = DestinationPolicy {
            rates,
            idle_reuse: Duration::from_secs(60),
            ..DestinationPolicy::default()
        };
        let destination = destination(&mut s, "a", policy);
        push(&mut s, destination, 0..50, 0);
        let conns = connect(&mut s, 0);
        assert_eq!(conns.len(), 3, "more could do nothing");
        assert!(conns.iter().all(|conn| delivers(&mut s, *conn, 0)));
        assert!(!conns.iter().any(|conn| delivers(&mut s, *conn, 0)));
        assert!(actions(&mut s, 1000).is_empty());
        let why = s.why(destination, MessageId::from_u64(49), 0, 500);
        let binding = Binding::Rate { until_ms: 1050 };
        assert_eq!(why, Some(Why::Queued { ahead: 46, binding }));
        assert_eq!(s.next_wake_ms(), Some(1050));
        assert_eq!(actions(&mut s, 1050).len(), 3);
    }

    #[test]
    fn a_pause_stops_everything_and_keeps_the_jobs() {
        let mut s = scheduler(100);
        let destination = destination(&mut s, "a", DestinationPolicy::default());
        push(&mut s, destination, 0..1, 0);
        let conn = connect(&mut s, 0)[0];
        s.pause(destination, 0);
        assert_eq!(s.take_job(conn, 0), Take::IdleUntil(5000));
        push(&mut s, destination, 1..3, 1);
        assert!(actions(&mut s, 1).is_empty());
        assert_eq!(
            s.why(destination, MessageId::from_u64(2), 0, 1),
            Some(Why::Queued { ahead: 2, binding: Binding::Paused })
        );
        s.resume(destination, 2);
        assert_eq!(actions(&mut s, 2).len(), 3, "one is woken, two are opened");
    }

    #[test]
    fn a_full_destination_refuses_and_a_running_out_lease_goes_home() {
        let mut s = scheduler(100);
        let destination = destination(
            &mut s,
            "a",
            DestinationPolicy { jobs_max: 2, ..DestinationPolicy::default() },
        );
        s.pause(destination, 0);
        push(&mut s, destination, 0..2, 0);
        assert!(
            s.push(destination, ticket(2, 0), 0)
                .is_err_and(|full| full.due_ms >= DESTINATION_FULL_MS)
        );
        let wake_ms = s.next_wake_ms().expect("leases end also in a pause");
        assert_eq!(wake_ms, JOB_LEASE_MS - JOB_TRANSFER_MS_MAX);
        assert_eq!(actions(&mut s, wake_ms), [Action::HandBack { destination }]);
        assert_eq!(s.drain_deferred(destination, wake_ms).len(), 2);
        assert_eq!(s.next_wake_ms(), None);
    }

    #[test]
    fn a_job_without_enough_lease_is_not_begun() {
        let mut s = scheduler(100);
        let destination = destination(&mut s, "a", DestinationPolicy::default());
        push(&mut s, destination, 0..1, 0);
        let conn = connect(&mut s, 0)[0];
        let late_ms = JOB_LEASE_MS - JOB_TRANSFER_MS_MAX + 1;
        assert!(matches!(s.take_job(conn, late_ms), Take::IdleUntil(_)));
        assert_eq!(s.drain_deferred(destination, late_ms).len(), 1);
    }

    #[test]
    fn destinations_share_the_connections_of_the_shard() {
        let mut s = scheduler(8);
        let wide = DestinationPolicy { window_start: 20, ..DestinationPolicy::default() };
        let (a, b) = (destination(&mut s, "a", wide.clone()), destination(&mut s, "b", wide));
        push(&mut s, a, 0..1000, 0);
        let conns = connect(&mut s, 0);
        assert_eq!(conns.len(), 6, "the last quarter is for destinations without any");
        push(&mut s, b, 100..200, 0);
        assert_eq!(connect(&mut s, 0).len(), 1);
        let mut of_b = 1;
        for round in 1..50 {
            for conn in &conns {
                if s.take_job(*conn, round) == Take::Close {
                    s.closed(*conn, round);
                } else {
                    s.job_done(*conn, JobEnd::Delivered, round);
                }
            }
            of_b += connect(&mut s, round).len();
        }
        let of_a = s.summary(a, 50).expect("known").connections.live();
        assert!((3..=4).contains(&of_a) && of_b >= 3, "{of_a} and {of_b}");
    }

    #[test]
    fn an_idle_connection_makes_room_for_a_destination_that_waits() {
        let mut s = scheduler(1);
        let (a, b) = (
            destination(&mut s, "a", DestinationPolicy::default()),
            destination(&mut s, "b", DestinationPolicy::default()),
        );
        push(&mut s, a, 0..1, 0);
        let conn = connect(&mut s, 0)[0];
        push(&mut s, b, 1..2, 0);
        assert!(actions(&mut s, 0).is_empty());
        let why = s.why(b, MessageId::from_u64(1), 0, 0);
        assert_eq!(
            why,
            Some(Why::Queued { ahead: 0, binding: Binding::Overall { connections: 1 } })
        );
        assert!(delivers(&mut s, conn, 1));
        assert!(matches!(s.take_job(conn, 1), Take::IdleUntil(_)));
        assert_eq!(actions(&mut s, 1), [Action::Wake { conn }]);
        assert_eq!(s.take_job(conn, 1), Take::Close);
        s.closed(conn, 1);
        assert_eq!(opened(&mut s, 1)[0].0, b);
    }

    #[test]
    fn idle_destinations_are_forgotten_and_busy_ones_are_not() {
        let mut s = scheduler(8);
        let policy = Arc::new(DestinationPolicy::default());
        let keys = ["a", "b", "c", "d"];
        let ids = keys.map(|key| s.destination(key, &policy, 0).expect("room"));
        push(&mut s, ids[0], 0..1, 0);
        let fifth = s.destination("e", &policy, 1).expect("an idle one makes room");
        assert_eq!((s.find("b"), s.find("a")), (None, Some(ids[0])));
        assert!(s.push(ids[1], ticket(9, 1), 1).is_err(), "a destination that was forgotten");
        for destination in [ids[2], ids[3], fifth] {
            push(&mut s, destination, 1..2, 1);
        }
        assert!(s.destination("f", &policy, 2).is_err(), "all are in use");
        let mut s = scheduler(8);
        s.destination("a", &policy, 0).expect("room");
        s.destination("b", &policy, DESTINATION_IDLE_MS).expect("room");
        assert_eq!(s.find("a"), None);
    }

    #[test]
    fn a_destination_is_not_forgotten_before_its_hour_is_over() {
        let mut s = scheduler(8);
        let rates = Rates { per_hour: Some(9), ..Rates::default() };
        let a =
            destination(&mut s, "a", DestinationPolicy { rates, ..DestinationPolicy::default() });
        push(&mut s, a, 0..1, 1);
        let conn = connect(&mut s, 1)[0];
        assert!(delivers(&mut s, conn, 1));
        s.closed(conn, 1);
        let policy = Arc::new(DestinationPolicy::default());
        for (key, now_ms) in
            [("b", DESTINATION_IDLE_MS), ("b", 2 * DESTINATION_IDLE_MS), ("c", 3_600_000)]
        {
            s.destination(key, &policy, now_ms).expect("room");
            assert_eq!(s.find("a"), Some(a), "at {now_ms}");
        }
        for now_ms in [7_200_000, 9_000_000] {
            s.destination("b", &policy, now_ms).expect("room");
        }
        assert_eq!(s.find("a"), None);
    }

    #[test]
    fn a_lost_connection_gives_its_job_back() {
        let mut s = scheduler(8);
        let destination = destination(&mut s, "a", DestinationPolicy::default());
        push(&mut s, destination, 7..8, 0);
        let conn = connect(&mut s, 0)[0];
        let Take::Job(job) = s.take_job(conn, 0) else { panic!("a job") };
        assert_eq!(s.why(destination, job.id, 0, 0), Some(Why::InFlight));
        let lost = Failure { kind: FailureKind::Lost, text: "reset", host: "mx" };
        assert_eq!(s.connection_lost(conn, lost, 1), Some(job));
        let summary = s.summary(destination, 1).expect("known");
        assert_eq!((summary.counters.lost, summary.counters.failures), (1, 1));
        assert_eq!(summary.connections, ConnectionCounts::default());
        assert_eq!(s.connection_lost(conn, lost, 1), None, "once");
    }
}
