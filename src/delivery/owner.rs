//! The owner half of delivery: the destinations to which this shard connects.
//!
//! Owner:    one shard. A value without I/O, clock and callbacks: `run` feeds it and carries out its
//!           effects, and so does the simulation.
//! Promise:  each job that a home sends is answered once: by the connection that takes it, or here. The
//!           owner never refuses for want of room: a home sends on the places that it was granted.
//!           A job goes back unwritten when its destination rests, so that deadlines stay at home.
//! Order:    after each call, `take_effects`; then nothing until the next event or `next_wake`.
//! Bounds:   `DESTINATIONS_MAX` destinations, an idle one for `DESTINATION_IDLE_MS`. Full: the home gets
//!           no places.
//!
//! The life of a connection, as `connection` tells it:
//!
//! ```text
//! Open    -> connected | ended (failed, or for our own limit)
//! take    -> Job: send it, then `ended` with the job's end, and take again if it was kept
//!         -> IdleUntil: take again on Wake or at that time, whichever is first
//!         -> Close: QUIT, then `ended`
//! ```

mod rates;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::base::Mono;
use crate::base::Random;
use crate::base::ShardId;
use crate::base::limits::DESTINATION_IDLE_MS;
use crate::base::limits::DESTINATIONS_MAX;
use crate::base::limits::TOKEN_ASK_MS;
use crate::delivery::capacity::Capacity;
use crate::delivery::capacity::Claim;
use crate::delivery::capacity::ConnId;
use crate::delivery::capacity::Gate;
use crate::delivery::capacity::Request;
use crate::delivery::capacity::Stage;
use crate::delivery::destination::Counters;
use crate::delivery::destination::Destination;
use crate::delivery::destination::End;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::Link;
use crate::delivery::destination::LinkEnd;
use crate::delivery::destination::Place;
use crate::delivery::destination::Rate;
use crate::delivery::destination::Roles;
use crate::delivery::destination::SentBack;
use crate::delivery::fair::Slot;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::grant::Grants;
use crate::delivery::limit_file::SentBefore;
use crate::delivery::limit_record::StoredLimit;
use crate::delivery::limits::Keeping;
use crate::delivery::limits::RateLimit;
use crate::delivery::limits::Tokens;
use crate::delivery::limits::Users;
use crate::delivery::owner::rates::RateBook;
use crate::delivery::pace::Pace;
use crate::delivery::stripe;
use crate::delivery::stripe::Share;
use crate::delivery::stripe::Shares;
use crate::delivery::stripe::Used;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Frame;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::route::DeliveryPolicy;
use crate::route::DestinationPolicy;
use crate::route::HostPort;
use crate::route::Rates;

/// Messages after which a connection gives way to a destination that has none.
const TURN_MESSAGES: u32 = 10;
/// Idle destinations looked at for one that may be forgotten.
const FORGET_TRIES: usize = 16;
/// More destinations than that are forgotten after `IDLE_CROWDED_MS`.
const CROWD: usize = 10_000;
const IDLE_CROWDED_MS: u64 = 10_000;
/// How often `tick` is wanted while something waits that no event tells of.
const TICK_MS: u64 = 20;
/// How long nothing is dialled for want of our own resources: doubled up to the most.
const LACK_FIRST_MS: u64 = 20;
const LACK_MAX_MS: u64 = 1000;
/// Destinations whose policy is looked up again in one step after a reload.
const RELOADED_PER_TICK: usize = 256;
/// How often a member of a striped destination tells what it uses, while that changes, and while it
/// has another share than it wants.
const USED_EVERY_MS: u64 = 50;
const USED_AGAIN_MS: u64 = 1000;

pub struct OwnerParts {
    pub me: ShardId,
    pub shards: usize,
    pub policy: Arc<DeliveryPolicy>,
    pub hasher: FlowHasher,
    pub gate: Arc<Gate>,
    /// What operators had paused before.
    pub paused: Vec<Box<str>>,
    /// What an earlier process has sent under rates.
    pub sent_before: Arc<SentBefore>,
    pub seed: u64,
}

/// What is to be done now.
#[derive(Debug)]
pub enum OwnerEffect {
    /// Start a task with a new connection, from this source; `None`: the system chooses the address.
    Open {
        conn: ConnId,
        hop: Arc<Hop>,
        source: Option<Box<str>>,
    },
    /// The idle connection is to call `take` now.
    Wake {
        conn: ConnId,
    },
    Send {
        to: ShardId,
        frame: Frame,
    },
    /// Write these limits to the file, and call `saved` when they are durable.
    Save {
        limits: Vec<(u64, StoredLimit)>,
    },
    /// A destination begins or ceases to rest. `returned`: jobs that went back to their homes unsent
    /// since the destination is known.
    Log {
        destination: Box<str>,
        state: Box<GrantState>,
        failures: u64,
        returned: u64,
    },
}

/// What a connection gets when it asks for a job.
#[derive(Debug)]
pub enum Take {
    Job(Box<Delivery>),
    IdleUntil(Mono),
    Close,
}

/// Where a job of a home is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whereabouts {
    Queued {
        destination: u32,
        slot: Slot,
    },
    /// By a connection.
    Taken,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) destination: Destination,
    /// The last hop that led to it.
    pub(super) hop: Arc<Hop>,
    /// The destination in frames between shards, and in the file of limits.
    key: u64,
    pub(super) pace: Pace,
    pub(super) grants: Grants,
    pub(super) generation: u32,
    /// Of the policy that it follows.
    policy_number: u32,
    /// This shard is an owner of the destination. If not, its jobs go to another one.
    is_here: bool,
    /// Idle connections, the latest last: it is reused first, so that the others may go.
    idle: Vec<ConnId>,
    pub(super) request: Option<Request>,
    timer: Option<Mono>,
    idle_since: Option<Mono>,
    member: Option<Member>,
    is_resting: bool,
}

/// This shard's part in a striped destination.
#[derive(Debug)]
struct Member {
    lead: ShardId,
    /// The share that it has heard of last.
    number: u32,
    told: Option<Used>,
    told_at: Mono,
}

/// A striped destination that this shard leads.
#[derive(Debug)]
struct Lead {
    shares: Shares,
    limit: RateLimit,
    used_at: Mono,
}

pub struct Owner {
    me: ShardId,
    shards: usize,
    pub(super) policy: Arc<DeliveryPolicy>,
    policy_number: u32,
    hasher: FlowHasher,
    pub(super) gate: Arc<Gate>,
    pub(super) entries: Slab<Entry>,
    pub(super) by_name: HashMap<Box<str>, u32>,
    by_key: HashMap<u64, u32>,
    /// Destinations with connections.
    active: usize,
    pub(super) jobs: HashMap<JobRef, Whereabouts>,
    pub(super) capacity: Capacity,
    timers: BTreeSet<(Mono, u32)>,
    idle: VecDeque<(u32, u32, Mono)>,
    /// Destinations whose places have to be reckoned again.
    touched: BTreeSet<u32>,
    /// Striped destinations, and tenants with rates, that this shard counts for others.
    leads: HashMap<u64, Lead>,
    pub(super) rates: RateBook,
    /// The policy that changed which tenants have rates.
    tenants_since: u32,
    /// Higher than the number of every share given.
    share_number: u32,
    /// The place of the next destination whose policy is looked up again after a reload.
    reloading: Option<usize>,
    paused: BTreeSet<Box<str>>,
    generation: u32,
    random: Random,
    is_closing: bool,
    /// Nothing is dialled before, and how long the last such pause was.
    dials_at: Mono,
    lack_ms: u64,
    ticked: Mono,
    effects: Vec<OwnerEffect>,
}

impl Owner {
    pub fn new(parts: OwnerParts) -> Owner {
        Owner {
            me: parts.me,
            shards: parts.shards,
            policy_number: 0,
            hasher: parts.hasher,
            gate: parts.gate,
            entries: Slab::new(),
            by_name: HashMap::new(),
            by_key: HashMap::new(),
            active: 0,
            jobs: HashMap::new(),
            capacity: Capacity::default(),
            timers: BTreeSet::new(),
            idle: VecDeque::new(),
            touched: BTreeSet::new(),
            leads: HashMap::new(),
            rates: RateBook::new(parts.sent_before, &parts.policy, &parts.hasher),
            tenants_since: 0,
            policy: parts.policy,
            share_number: 0,
            reloading: None,
            paused: parts.paused.into_iter().collect(),
            generation: 0,
            random: Random::new(parts.seed),
            is_closing: false,
            dials_at: Mono::ZERO,
            lack_ms: 0,
            ticked: Mono::ZERO,
            effects: Vec::new(),
        }
    }

    pub fn take_effects(&mut self) -> Vec<OwnerEffect> {
        std::mem::take(&mut self.effects)
    }

    /// Gives the memory of effects that are carried out to the next ones.
    pub fn reuse(&mut self, carried_out: Vec<OwnerEffect>) {
        if self.effects.is_empty() {
            self.effects = carried_out;
        }
    }

    /// Connections that are open or being opened.
    pub fn connections(&self) -> usize {
        self.capacity.len()
    }

    /// When something may have to be done without an event.
    pub fn next_wake(&self) -> Option<Mono> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let waits = self.capacity.has_requests() && !self.is_closing;
        let has_work = waits || !self.touched.is_empty() || self.reloading.is_some();
        let tick = has_work.then(|| self.ticked.plus_ms(TICK_MS));
        let idle = self.idle.front().map(|(_, _, since)| since.plus_ms(self.idle_ms()));
        [timer, tick, idle, self.rates.next_wake(self.ticked)].into_iter().flatten().min()
    }

    /// A reload: the policies of destinations follow in steps, at ticks.
    pub fn replace_policy(&mut self, policy: Arc<DeliveryPolicy>, now: Mono) {
        self.gate.set_max(policy.connections_max);
        self.policy = policy;
        self.policy_number += 1;
        self.reloading = Some(0);
        self.replace_tenants(now);
    }

    /// No new connection and no new job from here on. What is being sent is sent to its end.
    pub fn close(&mut self) {
        self.is_closing = true;
        let indexes: Vec<u32> = self.entries.iter().map(|(index, _)| index as u32).collect();
        for index in indexes {
            let drained = self.entries[index as usize].destination.drain();
            for sent_back in drained {
                self.return_job(sent_back.delivery, Returned::Closing);
            }
        }
        let idle: Vec<ConnId> = self
            .entries
            .iter_mut()
            .flat_map(|(_, entry)| std::mem::take(&mut entry.idle))
            .collect();
        self.effects.extend(idle.into_iter().map(|conn| OwnerEffect::Wake { conn }));
    }

    /// A job has come from its home.
    pub fn deliver(&mut self, delivery: Box<Delivery>, now: Mono) {
        if self.is_closing {
            return self.return_job(delivery, Returned::Closing);
        }
        let (job, home, target) = (delivery.job, delivery.home, delivery.flow.target);
        let tenant = delivery.flow.tenant;
        if let Some(until) = self.rates.spent_until(tenant, now) {
            return self.return_job(delivery, Returned::TenantRate { until });
        }
        let Some(index) = self.entry_of(&delivery.hop, now) else {
            self.return_job(delivery, Returned::NoPlaces);
            return self.send_grant(home, target, (0, 0), GrantState::default());
        };
        let entry = &mut self.entries[index as usize];
        if !entry.is_here {
            return self.return_job(delivery, Returned::NotHere);
        }
        entry.grants.meet(target, delivery.hop.pool.as_deref(), (home, now));
        match entry.destination.push(delivery, (&self.policy.sources, now)) {
            Ok(slot) => {
                self.jobs.insert(job, Whereabouts::Queued { destination: index, slot });
                self.enter_tenant(index, tenant, now);
                if self.entries[index as usize].destination.is_rate_spent(now) {
                    // Its home hears what binds, also if no connection is open.
                    self.touched.insert(index);
                }
            }
            Err(delivery) => {
                self.return_job(delivery, Returned::NoPlaces);
                // It has not heard yet that it has no places, or had none to hear of.
                self.entries[index as usize].grants.tell(target, home);
                self.touched.insert(index);
            }
        }
        self.refresh(index, now);
        self.pump(now);
    }

    /// A home has mail that waits for places.
    pub fn want(&mut self, hop: &Arc<Hop>, wish: (u64, ShardId, u32, u32), now: Mono) {
        let (target, home, jobs, flows) = wish;
        let Some(index) = self.entry_of(hop, now) else {
            return self.send_grant(home, target, (0, 0), GrantState::default());
        };
        let grants = &mut self.entries[index as usize].grants;
        grants.want(target, hop.pool.as_deref(), (home, now), (jobs, flows));
        self.grant(index, now);
        self.refresh(index, now);
        self.pump(now);
    }

    /// A home wants a job back. One that has begun stays.
    pub fn recall(&mut self, job: JobRef, now: Mono) {
        let Some(Whereabouts::Queued { destination, slot }) = self.jobs.get(&job).copied() else {
            return;
        };
        if let Some(delivery) = self.entries[destination as usize].destination.remove(slot) {
            self.return_job(delivery, Returned::Recalled);
        }
        self.refresh(destination, now);
    }

    /// A home asks for jobs that are out for long.
    pub fn check(&mut self, home: ShardId, mut jobs: Vec<JobRef>) {
        jobs.retain(|job| !self.jobs.contains_key(job));
        if !jobs.is_empty() {
            self.effects.push(OwnerEffect::Send { to: home, frame: Frame::Missing { jobs } });
        }
    }

    /// The connection is open and the server ready for a message.
    pub fn connected(&mut self, conn: ConnId, now: Mono) {
        self.lack_ms = 0;
        if let Some(index) = self.set_stage(conn, Stage::Asking) {
            self.refresh(index, now);
        }
    }

    /// The next job for a connection, or what it does without.
    pub fn take(&mut self, conn: ConnId, now: Mono) -> Take {
        let Some(connection) = self.capacity.get(conn) else { return Take::Close };
        let (index, link, taken) = (connection.destination, connection.link, connection.taken);
        let is_leaving = connection.is_leaving || self.is_closing;
        let is_over = match connection.stage {
            Stage::Closing => return Take::Close,
            Stage::Busy(_) => panic!("a connection asks for a job while it has one"),
            Stage::Idle { until, .. } => until <= now,
            Stage::Opening | Stage::Asking => false,
        };
        if is_over || is_leaving || self.must_close(index, &link, taken, now) {
            return self.close_connection(conn, now);
        }
        if self.entries[index as usize].policy_number < self.tenants_since {
            self.apply_policy(index, now);
        }
        self.hold_expired(now);
        let destination = &mut self.entries[index as usize].destination;
        let idle_reuse = destination.policy().idle_reuse;
        let take = match destination.take(&link, now) {
            Some(delivery) => {
                let (job, tenant) = (delivery.job, delivery.flow.tenant);
                self.jobs.insert(job, Whereabouts::Taken);
                self.use_token(tenant, now);
                self.leave_tenant(index, tenant);
                if let Some(connection) = self.capacity.get_mut(conn) {
                    connection.taken += 1;
                    connection.taken_at = now;
                }
                self.set_stage(conn, Stage::Busy(job));
                self.entries[index as usize].grants.begun(now);
                Take::Job(delivery)
            }
            // A probe without mail finds out nothing, and others wait for its place.
            None if idle_reuse == Duration::ZERO
                || self.capacity.waiting().is_some()
                || link.roles.is_probe() && !destination.has_mail(&link) =>
            {
                return self.close_connection(conn, now);
            }
            None => {
                if destination.has_mail(&link) {
                    // Its homes hear what binds.
                    self.touched.insert(index);
                }
                let until = now.plus(idle_reuse);
                self.set_stage(conn, Stage::Idle { since: now, until });
                Take::IdleUntil(until)
            }
        };
        self.refresh(index, now);
        take
    }

    /// A job that a connection took does not begin: its home gets it back, and the connection asks again.
    pub fn give_back(&mut self, conn: ConnId, delivery: Box<Delivery>, why: Returned, now: Mono) {
        self.return_job(delivery, why);
        let taken_at = self.capacity.get(conn).map_or(now, |connection| connection.taken_at);
        if let Some(index) = self.set_stage(conn, Stage::Asking) {
            self.entries[index as usize].destination.untake(taken_at, now);
            self.refresh(index, now);
        }
    }

    /// All that a connection has found out. Its job has been answered by the caller.
    pub fn ended(&mut self, conn: ConnId, end: &End, now: Mono) {
        let Some(connection) = self.capacity.get_mut(conn) else { return };
        let (index, mut link, stage) = (connection.destination, connection.link, connection.stage);
        if let Stage::Busy(job) = stage {
            self.jobs.remove(&job);
        }
        link.is_opening = stage == Stage::Opening;
        let entry = &mut self.entries[index as usize];
        if matches!(end.job, Some(job) if job != JobEnd::Lost) {
            entry.pace.count(now);
        }
        let was_in_trouble = entry.destination.is_in_trouble();
        let back =
            entry.destination.ended(&link, end, (&self.policy.sources, now), &mut self.random);
        let is_plain =
            end.action.is_none() && end.asks_for_less.is_none() && !link.roles.is_probe();
        match end.link {
            LinkEnd::Kept => {
                if let Some(connection) = self.capacity.get_mut(conn) {
                    connection.is_leaving |= end.asks_for_less.is_some();
                    if end.job.is_some() {
                        connection.link.roles = Roles::PLAIN;
                    }
                }
                self.set_stage(conn, Stage::Asking);
                if was_in_trouble || !is_plain {
                    self.touched.insert(index);
                }
            }
            LinkEnd::Closed | LinkEnd::Failed(_) | LinkEnd::OurLimit(_) => {
                self.forget_connection(conn);
                self.touched.insert(index);
            }
        }
        if let LinkEnd::OurLimit(_) = end.link
            && self.dials_at <= now
        {
            self.lack_ms = (2 * self.lack_ms).clamp(LACK_FIRST_MS, LACK_MAX_MS);
            self.dials_at = now.plus_ms(self.lack_ms);
        }
        self.send_back(index, back, now);
        self.refresh(index, now);
        self.pump(now);
    }

    /// Answers all jobs that the connection could carry: their way leads nowhere.
    pub fn refuse(&mut self, conn: ConnId, now: Mono, answer: impl Fn(&Delivery) -> What) {
        let Some(connection) = self.capacity.get(conn) else { return };
        let (index, link) = (connection.destination, connection.link);
        while let Some(delivery) = self.entries[index as usize].destination.take_refused(&link) {
            let what = answer(&delivery);
            self.settle(&delivery, what);
        }
        self.refresh(index, now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Mono) {
        self.ticked = now;
        while let Some((at, index)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, index));
            self.entries[index as usize].timer = None;
            self.touched.insert(index);
            self.refresh(index, now);
        }
        self.follow_reload(now);
        let touched = std::mem::take(&mut self.touched);
        for index in touched {
            if self.entries.contains(index as usize) {
                self.tell_used(index, now);
                self.grant(index, now);
            }
        }
        self.tick_tenants(now);
        self.forget_idle(now);
        self.pump(now);
        self.save_limits(now);
    }

    /// Reckons the places of a destination anew, and tells the homes whose places change.
    fn grant(&mut self, index: u32, now: Mono) {
        let Entry { destination, grants, .. } = &mut self.entries[index as usize];
        let sources = &self.policy.sources;
        let places_for = (destination.window(now), destination.flows() as u32);
        let mut told = Vec::new();
        let mut state_of = |pool: Option<&str>| {
            (destination.state(pool, sources, now), destination.awaits_probe(pool))
        };
        grants.reckon(places_for, now, &mut state_of, &mut told);
        self.set_timer(index, now);
        for one in told {
            self.send_grant(one.home, one.target, (one.total, one.per_flow), one.state);
        }
        self.note_rest(index, now);
    }

    fn note_rest(&mut self, index: u32, now: Mono) {
        let entry = &mut self.entries[index as usize];
        let pool = entry.hop.pool.clone();
        let state = entry.destination.state(pool.as_deref(), &self.policy.sources, now);
        let rests = match state.binds {
            // Hides whether it rests otherwise.
            Binds::Paused => return,
            Binds::BackingOff | Binds::Suspended => true,
            _ => false,
        };
        if std::mem::replace(&mut entry.is_resting, rests) != rests {
            let Counters { failures, returned, .. } = entry.destination.counters;
            let (destination, state) = (entry.destination.name.clone(), Box::new(state));
            self.effects.push(OwnerEffect::Log { destination, state, failures, returned });
        }
    }

    fn send_grant(&mut self, to: ShardId, target: u64, places: (u32, u32), state: GrantState) {
        let (total, per_flow) = places;
        let frame = Frame::Grant { target, from: self.me, total, per_flow, state: Arc::new(state) };
        self.effects.push(OwnerEffect::Send { to, frame });
    }

    /// Jobs of a destination that rests go home: one for each connection that failed for it as tried.
    fn send_back(&mut self, index: u32, back: Vec<SentBack>, now: Mono) {
        if back.is_empty() {
            return;
        }
        self.touched.insert(index);
        for SentBack { delivery, was_tried } in back {
            let entry = &mut self.entries[index as usize];
            entry.destination.counters.returned += 1;
            let pool = delivery.hop.pool.as_deref();
            let state = entry.destination.state(pool, &self.policy.sources, now);
            match state.last.filter(|_| was_tried) {
                Some(answer) => {
                    let not_before = state.until.unwrap_or(now);
                    let (answer, host) = ((*answer).clone(), state.last_host);
                    self.settle(&delivery, What::Unreached { answer, host, not_before });
                }
                None => self.return_job(delivery, Returned::NoPlaces),
            }
        }
        self.grant(index, now);
    }

    fn return_job(&mut self, delivery: Box<Delivery>, why: Returned) {
        self.settle(&delivery, What::Returned(why));
    }

    fn settle(&mut self, delivery: &Delivery, what: What) {
        if let Some(Whereabouts::Queued { destination, .. }) = self.jobs.remove(&delivery.job) {
            self.leave_tenant(destination, delivery.flow.tenant);
        }
        let outcome = Outcome { job: delivery.job, what, unsettled: None };
        let frame = Frame::Settle(Box::new(outcome));
        self.effects.push(OwnerEffect::Send { to: delivery.home, frame });
    }

    /// Opens the connections for which there is room.
    fn pump(&mut self, now: Mono) {
        while !self.is_closing && self.dials_at <= now {
            let Some((_, _, index)) = self.capacity.next_request(&self.gate) else {
                if let Some(conn) = self.capacity.evict() {
                    self.close_connection(conn, now);
                    self.effects.push(OwnerEffect::Wake { conn });
                }
                return;
            };
            let entry = &mut self.entries[index as usize];
            let opening = entry.destination.open(&self.policy.sources, now, &mut self.random);
            // To the end of the line.
            entry.request = self.capacity.request(entry.request, index, None);
            let Some(opening) = opening else {
                self.capacity.give_up(&self.gate);
                self.set_timer(index, now);
                continue;
            };
            let link = Link {
                class: opening.class,
                outlet: opening.outlet,
                roles: opening.roles,
                is_opening: true,
            };
            let conn = self.capacity.add(index, link);
            self.shift(index, &link, None, Some(Stage::Opening.place()));
            let (hop, source) = (opening.hop, opening.source);
            self.effects.push(OwnerEffect::Open { conn, hop, source });
            self.refresh(index, now);
        }
    }

    /// Whether a connection that asks for a job has to go.
    fn must_close(&self, index: u32, link: &Link, taken: u32, now: Mono) -> bool {
        let destination = &self.entries[index as usize].destination;
        if destination.must_close(link, taken, now) {
            return true;
        }
        let Some(waiting) = self.capacity.waiting() else { return false };
        // Not only this shard's part of the gate: on many cores that is less than one destination
        // needs, while other shards leave theirs unused.
        let own = self.capacity.len().max(self.gate.max() as usize / self.shards.max(1));
        let fair = (own / self.active.max(1)).max(1);
        destination.counts.live() as usize > fair
            || waiting == Claim::First && taken >= TURN_MESSAGES
    }

    fn close_connection(&mut self, conn: ConnId, now: Mono) -> Take {
        if let Some(index) = self.set_stage(conn, Stage::Closing) {
            self.refresh(index, now);
        }
        Take::Close
    }

    /// The one place where a connection changes what it does, so that all counts agree.
    fn set_stage(&mut self, conn: ConnId, stage: Stage) -> Option<u32> {
        let before = self.capacity.set(conn, stage)?;
        let connection = self.capacity.get(conn)?;
        let (index, link) = (connection.destination, connection.link);
        self.shift(index, &link, Some(before.place()), Some(stage.place()));
        let entry = &mut self.entries[index as usize];
        if let Stage::Idle { .. } = before
            && let Some(place) = entry.idle.iter().rposition(|other| *other == conn)
        {
            entry.idle.remove(place);
        }
        if let Stage::Idle { .. } = stage {
            entry.idle.push(conn);
        }
        Some(index)
    }

    fn shift(&mut self, index: u32, link: &Link, from: Option<Place>, to: Option<Place>) {
        let destination = &mut self.entries[index as usize].destination;
        self.active -= usize::from(destination.counts.live() > 0);
        destination.shift(link, from, to);
        self.active += usize::from(destination.counts.live() > 0);
    }

    fn forget_connection(&mut self, conn: ConnId) {
        if matches!(self.capacity.get(conn), Some(one) if matches!(one.stage, Stage::Idle { .. })) {
            self.set_stage(conn, Stage::Asking);
        }
        let Some(connection) = self.capacity.remove(conn, &self.gate) else { return };
        let place = connection.stage.place();
        self.shift(connection.destination, &connection.link, Some(place), None);
    }

    /// Brings all lists in line with what the destination wants now. Called after everything that
    /// happens to a destination; it looks at no other.
    fn refresh(&mut self, index: u32, now: Mono) {
        self.wake_idle(index, now);
        let entry = &mut self.entries[index as usize];
        let destination = &mut entry.destination;
        let is_first = destination.counts.live() == 0 && !destination.is_in_trouble();
        let claim = if is_first { Claim::First } else { Claim::Further };
        let claim = destination.wants_connection(now).then_some(claim);
        entry.request = self.capacity.request(entry.request, index, claim);
        self.set_timer(index, now);
        let entry = &mut self.entries[index as usize];
        match (entry.destination.is_idle(), entry.idle_since) {
            (true, None) => {
                entry.idle_since = Some(now);
                let generation = entry.generation;
                self.note_idle(index, generation, now);
            }
            (false, Some(_)) => entry.idle_since = None,
            _ => {}
        }
        let Entry { destination, key, .. } = &self.entries[index as usize];
        if matches!(&destination.rate, Rate::Own(limit) if limit.saves_at().is_some()) {
            self.note_unsaved(*key);
        }
        let Entry { destination, grants, member, .. } = &mut self.entries[index as usize];
        let (window, flows) = (destination.window(now), destination.flows() as u32);
        if grants.is_stale(window, flows, now) || member.is_some() {
            self.touched.insert(index);
        }
    }

    fn note_idle(&mut self, index: u32, generation: u32, now: Mono) {
        if self.idle.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.idle.retain(|(index, generation, since)| {
                entries.get(*index as usize).is_some_and(|entry| {
                    entry.generation == *generation && entry.idle_since == Some(*since)
                })
            });
        }
        self.idle.push_back((index, generation, now));
    }

    fn wake_idle(&mut self, index: u32, now: Mono) {
        // The latest first; those of other connection classes stay idle.
        let mut place = self.entries[index as usize].idle.len();
        while place > 0 && self.entries[index as usize].destination.wakes_any(now) {
            place -= 1;
            let conn = self.entries[index as usize].idle[place];
            let Some(class) = self.capacity.get(conn).map(|one| one.link.class) else { continue };
            if self.entries[index as usize].destination.wakes(class) {
                self.set_stage(conn, Stage::Asking);
                self.effects.push(OwnerEffect::Wake { conn });
            }
        }
        // The oldest makes room if it has to. When it has closed, the next one does.
        let Entry { destination, idle, .. } = &self.entries[index as usize];
        let Some(conn) = idle.first().copied().filter(|_| destination.counts.asking == 0) else {
            return;
        };
        let link = self.capacity.get(conn).map(|one| one.link);
        if link.is_some_and(|link| destination.must_close(&link, 0, now)) {
            self.set_stage(conn, Stage::Asking);
            self.effects.push(OwnerEffect::Wake { conn });
        }
    }

    fn set_timer(&mut self, index: u32, now: Mono) {
        let entry = &mut self.entries[index as usize];
        let rest_ends = entry.destination.rest_ends(now);
        // Homes that have mail and no places hear when it is over.
        let rest_ends = rest_ends.filter(|_| entry.grants.waiting() > 0);
        let probe = entry.grants.next_change().filter(|at| now < *at);
        let change = entry.destination.next_change(now);
        let lacks = entry.destination.wants_share().is_some();
        let again = entry.member.as_ref().filter(|_| lacks);
        let again = again.map(|member| member.told_at.plus_ms(USED_AGAIN_MS));
        let again = again.filter(|at| now < *at);
        let timer = [change, rest_ends, probe, again].into_iter().flatten().min();
        let timer = timer.filter(|at| *at < Mono::NEVER);
        let before = std::mem::replace(&mut entry.timer, timer);
        if before != timer {
            if let Some(at) = before {
                self.timers.remove(&(at, index));
            }
            self.timers.extend(timer.map(|at| (at, index)));
        }
    }

    /// The destination of a hop, made if need be. `None`: there is no room for another one.
    fn entry_of(&mut self, hop: &Arc<Hop>, now: Mono) -> Option<u32> {
        if let Some(index) = self.by_name.get(&hop.destination).copied() {
            let entry = &mut self.entries[index as usize];
            let is_known = Arc::ptr_eq(&entry.hop, hop);
            if entry.policy_number != self.policy_number {
                self.apply_policy(index, now);
            }
            if !is_known {
                self.entries[index as usize].hop = Arc::clone(hop);
                // What one hop is paused by, other hops do not resume.
                if !self.entries[index as usize].destination.is_paused() && self.is_paused(hop) {
                    self.set_paused(index, true, now);
                }
            }
            return Some(index);
        }
        if self.entries.len() >= DESTINATIONS_MAX && !self.forget_oldest(now) {
            return None;
        }
        let policy = self.policy_for(hop);
        let stripes = stripe::count(&policy, self.shards);
        let key = self.hasher.destination(&hop.destination, None);
        let lead = stripe::lead(&hop.destination, self.shards);
        // Others may have connections yet if it was striped, or if this shard is not the only owner.
        let is_member = stripes > 1 || self.me != lead || self.leads.contains_key(&key);
        let rate = Rate::Own(self.rates.limit(key, &policy.rates, Users::OneShard, now));
        let mut destination = Destination::new(&hop.destination, policy, rate);
        destination.pause(self.is_paused(hop));
        self.generation = self.generation.wrapping_add(1);
        let index = self.entries.insert(Entry {
            destination,
            hop: Arc::clone(hop),
            key,
            pace: Pace::default(),
            grants: Grants::default(),
            generation: self.generation,
            policy_number: self.policy_number,
            is_here: self.is_owner(lead, stripes),
            idle: Vec::new(),
            request: None,
            timer: None,
            idle_since: None,
            member: None,
            is_resting: false,
        }) as u32;
        self.by_name.insert(hop.destination.clone(), index);
        self.by_key.insert(key, index);
        if is_member {
            self.become_member(index, now);
        }
        Some(index)
    }

    fn is_owner(&self, lead: ShardId, stripes: u32) -> bool {
        stripe::owner(lead, stripes, self.me, self.shards) == self.me
    }

    /// The destination has several owners from now on. It stays so until it is forgotten: the others
    /// may have connections for long.
    fn become_member(&mut self, index: u32, now: Mono) {
        let entry = &mut self.entries[index as usize];
        let lead = stripe::lead(&entry.hop.destination, self.shards);
        let key = entry.key;
        let destination = &mut entry.destination;
        let connections = destination.counts.all();
        // Without any it has none until the lead gives it some.
        destination.set_share(Some(connections));
        let policy = Arc::clone(destination.policy());
        let before = std::mem::replace(&mut destination.rate, shared_rate(&policy));
        let (number, told, told_at) = (0, None, Mono::ZERO);
        entry.member = Some(Member { lead, number, told, told_at });
        self.touched.insert(index);
        if let Rate::Own(mut limit) = before
            && lead == self.me
            && !self.leads.contains_key(&key)
        {
            limit.set_users(Users::Shards, now);
            limit.set_rates(&policy.rates);
            let mut shares = Shares::new(policy.connections_max, self.share_number);
            let used = Used { number: 0, connections, wanted: connections };
            let changed = shares.on_used(self.me, used);
            self.share_number = self.share_number.max(shares.number());
            self.leads.insert(key, Lead { shares, limit, used_at: now });
            self.send_shares(key, changed);
        }
    }

    fn policy_for(&self, hop: &Hop) -> Arc<DestinationPolicy> {
        let hosts: Vec<&str> = hop.known_by.iter().map(AsRef::as_ref).collect();
        self.policy.destinations.policy(&hop.domain, &hosts)
    }

    fn apply_policy(&mut self, index: u32, now: Mono) {
        let hop = Arc::clone(&self.entries[index as usize].hop);
        let policy = self.policy_for(&hop);
        let stripes = stripe::count(&policy, self.shards);
        let lead = stripe::lead(&hop.destination, self.shards);
        let is_here = self.is_owner(lead, stripes);
        let entry = &mut self.entries[index as usize];
        let are_others_limited = entry.policy_number < self.tenants_since;
        (entry.policy_number, entry.is_here) = (self.policy_number, is_here);
        let is_member = entry.member.is_some();
        if let Some(member) = &mut entry.member {
            // The lead looks up the limit too.
            member.told = None;
        }
        let destination = &mut entry.destination;
        if *destination.policy() != policy {
            let is_limited = matches!(destination.rate, Rate::Tokens(_));
            if is_member && is_limited != policy.rates.is_limited() {
                destination.rate = shared_rate(&policy);
            }
            destination.set_policy(policy);
        }
        if !is_here {
            entry.grants.forget_waiting();
            for sent_back in destination.drain() {
                self.return_job(sent_back.delivery, Returned::NotHere);
            }
        } else if are_others_limited {
            for sent_back in destination.drain() {
                self.return_job(sent_back.delivery, Returned::NoPlaces);
            }
        }
        if stripes > 1 && !is_member {
            self.become_member(index, now);
        }
        self.touched.insert(index);
        self.refresh(index, now);
    }

    fn follow_reload(&mut self, now: Mono) {
        let Some(from) = self.reloading else { return };
        let end = (from + RELOADED_PER_TICK).min(self.entries.capacity());
        for index in from..end {
            if self.entries.contains(index) {
                self.apply_policy(index as u32, now);
            }
        }
        self.reloading = (end < self.entries.capacity()).then_some(end);
    }

    fn is_paused(&self, hop: &Hop) -> bool {
        self.paused.iter().any(|word| goes_by(hop, word))
    }

    /// Whether this name is paused.
    pub fn has_paused(&self, word: &str) -> bool {
        self.paused.contains(word)
    }

    /// Pauses all destinations that go by this name, known already or not. The destinations that are known.
    pub fn pause(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        // `Pauses` bounds them.
        self.paused.insert(word.into());
        self.apply_pauses(word, now)
    }

    /// Ends the pause of this name. A destination that is paused by another name too stays so.
    pub fn resume(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        self.paused.remove(word);
        self.apply_pauses(word, now)
    }

    fn apply_pauses(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        let mut touched = Vec::new();
        let indexes: Vec<u32> = self.entries.iter().map(|(index, _)| index as u32).collect();
        for index in indexes {
            let hop = Arc::clone(&self.entries[index as usize].hop);
            let is_paused = self.is_paused(&hop);
            let destination = &self.entries[index as usize].destination;
            if destination.is_paused() != is_paused {
                self.set_paused(index, is_paused, now);
                touched.push(hop.destination.clone());
            } else if goes_by(&hop, word) && !is_paused {
                touched.push(hop.destination.clone());
            }
        }
        self.pump(now);
        touched
    }

    fn set_paused(&mut self, index: u32, is_paused: bool, now: Mono) {
        let destination = &mut self.entries[index as usize].destination;
        destination.pause(is_paused);
        let drained = if is_paused { destination.drain() } else { Vec::new() };
        for sent_back in drained {
            self.return_job(sent_back.delivery, Returned::NoPlaces);
        }
        self.touched.insert(index);
        self.grant(index, now);
        self.refresh(index, now);
    }

    /// Tells the lead of a striped destination what this member uses, and asks it for tokens.
    fn tell_used(&mut self, index: u32, now: Mono) {
        let Entry { destination, member, hop, key, .. } = &mut self.entries[index as usize];
        let Some(member) = member else { return };
        let (connections, wanted) = (destination.counts.all(), destination.wanted());
        let used = Used { number: member.number, connections, wanted };
        let (key, lead) = (*key, member.lead);
        let told_ms = now.ms_since(member.told_at);
        let changes = member.told != Some(used);
        // A frame may be lost.
        let lacks = destination.wants_share().is_some() && told_ms >= USED_AGAIN_MS;
        if changes && told_ms < USED_EVERY_MS {
            self.touched.insert(index);
        } else if changes || lacks {
            (member.told, member.told_at) = (Some(used), now);
            let Used { number, connections, wanted } = used;
            let (from, hop) = (self.me, Some(Arc::clone(hop)));
            let frame = Frame::Used { target: key, from, hop, number, connections, wanted };
            self.effects.push(OwnerEffect::Send { to: lead, frame });
        }
        let queued = destination.queued();
        let Rate::Tokens(tokens) = &mut destination.rate else { return };
        if queued > 0 {
            // Asked again when they do not come.
            self.touched.insert(index);
        }
        let me = self.me;
        let unused = tokens.unused(queued, now).into_iter();
        let unused = unused.map(|(tokens, until)| Frame::Unused { limit: key, tokens, until });
        let asked = tokens.ask(queued as u32, now);
        let asked = asked.map(|tokens| Frame::Ask { limit: key, from: me, tokens });
        let frames = unused.chain(asked);
        self.effects.extend(frames.map(|frame| OwnerEffect::Send { to: lead, frame }));
    }

    /// To the lead: what a member uses of a striped destination.
    pub fn used(&mut self, key: u64, from: ShardId, (hop, used): (Option<&Hop>, Used), now: Mono) {
        let Some(hop) = hop else {
            if let Some(lead) = self.leads.get_mut(&key) {
                let changed = lead.shares.on_used(from, used);
                self.share_number = self.share_number.max(lead.shares.number());
                self.send_shares(key, changed);
            }
            return;
        };
        let policy = self.policy_for(hop);
        if !self.leads.contains_key(&key) {
            if self.leads.len() >= DESTINATIONS_MAX {
                self.forget_leads(now);
            }
            // Until now this shard was the only owner: what it has counts first.
            if let Some(index) = self.by_name.get(&hop.destination).copied()
                && self.entries[index as usize].member.is_none()
            {
                self.become_member(index, now);
            }
        }
        let (number, users) = (self.share_number, Users::Shards);
        let lead = self.leads.entry(key).or_insert_with(|| Lead {
            shares: Shares::new(policy.connections_max, number),
            limit: self.rates.limit(key, &policy.rates, users, now),
            used_at: now,
        });
        lead.used_at = now;
        lead.limit.set_rates(&policy.rates);
        let mut changed = lead.shares.again(from, used);
        changed.extend(lead.shares.set_limit(policy.connections_max));
        changed.extend(lead.shares.on_used(from, used));
        self.share_number = self.share_number.max(lead.shares.number());
        self.send_shares(key, changed);
    }

    fn send_shares(&mut self, key: u64, changed: Vec<Share>) {
        for share in changed {
            let (number, connections) = (share.number, share.connections);
            let frame = Frame::Share { target: key, from: self.me, number, connections };
            self.effects.push(OwnerEffect::Send { to: share.to, frame });
        }
    }

    /// To a member: the connections that it may have.
    pub fn share(&mut self, key: u64, (lead, number, connections): (ShardId, u32, u32), now: Mono) {
        let is_member = |index: &u32| self.entries[*index as usize].member.is_some();
        let Some(index) = self.by_key.get(&key).copied().filter(is_member) else {
            let (from, connections, wanted) = (self.me, 0, 0);
            let frame = Frame::Used { target: key, from, hop: None, number, connections, wanted };
            return self.effects.push(OwnerEffect::Send { to: lead, frame });
        };
        let entry = &mut self.entries[index as usize];
        if let Some(member) = &mut entry.member {
            if member.number == number && now.ms_since(member.told_at) >= USED_AGAIN_MS {
                // The lead has missed the answer.
                member.told = None;
            }
            member.number = number;
        }
        entry.destination.set_share(Some(connections));
        self.touched.insert(index);
        self.refresh(index, now);
        self.pump(now);
    }

    fn idle_ms(&self) -> u64 {
        if self.entries.len() > CROWD { IDLE_CROWDED_MS } else { DESTINATION_IDLE_MS }
    }

    /// Forgets destinations that have been idle for long.
    fn forget_idle(&mut self, now: Mono) {
        while let Some((index, generation, since)) = self.idle.front().copied()
            && now.ms_since(since) >= self.idle_ms()
        {
            self.idle.pop_front();
            self.forget_or_keep((index, generation, since), false, now);
        }
    }

    /// Makes room for a destination by forgetting the one that has been idle longest.
    fn forget_oldest(&mut self, now: Mono) -> bool {
        for _ in 0..FORGET_TRIES {
            let Some(idle) = self.idle.pop_front() else { return false };
            if self.forget_or_keep(idle, true, now) {
                return true;
            }
        }
        false
    }

    /// A destination of which something must be remembered goes to the end of the line.
    fn forget_or_keep(
        &mut self,
        (index, generation, since): (u32, u32, Mono),
        is_full: bool,
        now: Mono,
    ) -> bool {
        let is_it =
            |entry: &Entry| entry.generation == generation && entry.idle_since == Some(since);
        let Some(entry) = self.entries.get_mut(index as usize).filter(|entry| is_it(entry)) else {
            return false;
        };
        // The lead must hear that it has nothing any more, and say so.
        let lacks = entry.destination.wants_share().is_some();
        let holds = |member: &Member| {
            let idle = Used { number: member.number, ..Used::default() };
            lacks || member.told.is_some_and(|told| told != idle)
        };
        if entry.member.as_ref().is_some_and(holds)
            || entry.destination.is_worth_keeping_until(is_full, now) > now
        {
            entry.idle_since = Some(now);
            self.idle.push_back((index, generation, now));
            return false;
        }
        let entry = self.entries.remove(index as usize);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, index));
        }
        self.capacity.request(entry.request, index, None);
        self.touched.remove(&index);
        self.by_name.remove(&entry.destination.name);
        self.by_key.remove(&entry.key);
        if let Rate::Own(_) = entry.destination.rate {
            self.rates.forget(entry.key);
        }
        true
    }
}

/// What counts the messages of a member: tokens, or nothing if no rate is set.
fn shared_rate(policy: &DestinationPolicy) -> Rate {
    match policy.rates.is_limited() {
        true => Rate::Tokens(Tokens::default()),
        false => Rate::Own(RateLimit::new(&policy.rates, Keeping::InMemory, Users::OneShard)),
    }
}

/// Whether an operator may mean this hop: its destination, its route's name, its domain or a host of it.
pub(super) fn goes_by(hop: &Hop, word: &str) -> bool {
    let word = word.trim_end_matches('.');
    let is_host = |host: &HostPort| host.to_string().eq_ignore_ascii_case(word);
    [&hop.destination, &hop.name, &hop.domain].iter().any(|name| name.eq_ignore_ascii_case(word))
        || hop.hosts.iter().any(is_host)
        // All of them; which are tried is a matter of chance.
        || hop.known_by.iter().any(|host| host.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
