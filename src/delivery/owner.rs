//! The owner half of delivery: the destinations to which this shard connects.
//!
//! Owner:    one shard. A value without I/O, clock and callbacks: `run` feeds it and carries out its
//!           effects, and so does the simulation.
//! Promise:  each job that a home sends is answered once: by the connection that takes it, or here. The
//!           owner counts no places: a home sends on those that it was granted. A job goes back
//!           unwritten when its destination rests, so that deadlines stay at home, and when there is no
//!           room for its destination (`Returned::NoPlaces`).
//! Order:    after each call, `take_effects`. `tick` comes every 20 ms.
//! Bounds:   `DESTINATIONS_MAX` destinations, an idle one for `DESTINATION_IDLE_MS`, or for 10 s while
//!           there are more than 10,000. Full: the home gets no places.
//!
//! The life of a connection, as `connection` tells it:
//!
//! ```text
//! Open    -> connected | ended (failed, or for our own limit)
//! take    -> Job: send it, then `ended` with the job's end, and take again if it was kept
//!         -> IdleUntil: take again on Wake or at that time, whichever is first
//!         -> Close: QUIT, then `ended`
//! ```

mod answering;
mod connecting;
mod known;
mod policies;
mod rates;
mod striping;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
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
use crate::delivery::capacity::Connection;
use crate::delivery::capacity::Gate;
use crate::delivery::capacity::Request;
use crate::delivery::capacity::UsedTokens;
use crate::delivery::destination::Counters;
use crate::delivery::destination::Destination;
use crate::delivery::destination::End;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::Link;
use crate::delivery::destination::LinkEnd;
use crate::delivery::destination::Opening;
use crate::delivery::destination::Rate;
use crate::delivery::destination::Roles;
use crate::delivery::destination::SentBack;
use crate::delivery::destination::Stage;
use crate::delivery::fair::Slot;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::grant::Grants;
use crate::delivery::limit_file::SentBefore;
use crate::delivery::limit_record::StoredLimit;
use crate::delivery::limits::Keeping;
use crate::delivery::limits::RateLimit;
use crate::delivery::limits::Users;
use crate::delivery::owner::rates::RateBook;
use crate::delivery::pace::Pace;
use crate::delivery::stripe;
use crate::delivery::stripe::Share;
use crate::delivery::stripe::Shares;
use crate::delivery::tokens::Tokens;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Frame;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::Returned;
use crate::handoff::frames::Used;
use crate::handoff::frames::What;
use crate::route::DeliveryPolicy;
use crate::route::DestinationPolicy;
use crate::route::HostPort;
use crate::route::Rates;

/// How often leads are looked through for those that nobody uses.
const LEADS_EVERY_NS: u64 = 10_000_000_000;
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
    /// A destination begins or ceases to rest. `returned`: queued jobs that went back to their homes
    /// without an attempt since the destination is known.
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
    /// The names of `Owner::paused` by which hops to it have gone.
    paused_by: BTreeSet<Box<str>>,
    /// The destination in frames between shards, and its rate in the file of limits.
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

impl Entry {
    /// The rates of the destination and of its sources.
    fn rates(&mut self) -> impl Iterator<Item = (u64, &mut Rate)> {
        self.destination.rates(self.key)
    }

    fn rate_mut(&mut self, key: u64) -> Option<&mut Rate> {
        self.rates().find(|(of, _)| *of == key).map(|(_, rate)| rate)
    }
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

/// A striped destination that this shard leads, or a limit that it counts for other shards.
#[derive(Debug)]
struct Lead {
    shares: Shares,
    limit: RateLimit,
    used_at: Mono,
}

impl Lead {
    /// There are no connections to share.
    fn counting(limit: RateLimit, now: Mono) -> Lead {
        Lead { shares: Shares::new(0, 0), limit, used_at: now }
    }
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
    /// By the keys of destinations, and of their sources with rates.
    by_key: HashMap<u64, u32>,
    /// Destinations with connections.
    active: usize,
    pub(super) jobs: HashMap<JobRef, Whereabouts>,
    pub(super) capacity: Capacity,
    timers: BTreeSet<(Mono, u32)>,
    /// Destinations without jobs and connections, the one that has been so for longest first.
    idle: BTreeSet<(Mono, u32)>,
    /// Destinations whose places have to be reckoned again.
    touched: BTreeSet<u32>,
    /// Striped destinations, their sources with rates, and tenants with rates, that this shard counts
    /// for others.
    leads: HashMap<u64, Lead>,
    /// The number of the time when they were looked through last.
    leads_round: u64,
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
            idle: BTreeSet::new(),
            touched: BTreeSet::new(),
            leads: HashMap::new(),
            leads_round: 0,
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
        self.capacity.count()
    }

    fn send(&mut self, to: ShardId, frame: Frame) {
        self.effects.push(OwnerEffect::Send { to, frame });
    }

    fn indexes(&self) -> Vec<u32> {
        self.entries.iter().map(|(index, _)| index as u32).collect()
    }

    /// No new connection and no new job from here on. What is being sent is sent to its end.
    pub fn close(&mut self) {
        self.is_closing = true;
        for index in self.indexes() {
            self.return_all(index, Returned::Closing);
        }
        let idle: Vec<ConnId> = self
            .entries
            .iter_mut()
            .flat_map(|(_, entry)| std::mem::take(&mut entry.idle))
            .collect();
        self.effects.extend(idle.into_iter().map(|conn| OwnerEffect::Wake { conn }));
    }

    /// A frame for the owner.
    pub fn on_frame(&mut self, frame: Frame, now: Mono) {
        match frame {
            Frame::Deliver(delivery) => self.deliver(delivery, now),
            Frame::Want { target, hop, home, jobs, flows } => {
                self.want(&hop, (target, home, jobs, flows), now);
            }
            Frame::Recall { job } => self.recall(job, now),
            Frame::Check { home, jobs } => self.check(home, jobs),
            Frame::Ask { limit, from, tokens, hop } => {
                self.ask(limit, (from, tokens), hop.as_deref(), now);
            }
            Frame::Allow { limit, tokens, until } => self.allow(limit, (tokens, until), now),
            Frame::Unused { limit, tokens, until } => self.unused(limit, (tokens, until), now),
            Frame::Share { target, from, number, connections } => {
                self.share(target, (from, number, connections), now);
            }
            Frame::Used { target, from, hop, used } => {
                self.used(target, from, (hop.as_deref(), used), now);
            }
            other => panic!("{other:?} is not for an owner"),
        }
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
                self.rate_sources(index, now);
                self.enter_tenant(index, tenant, now);
                if self.entries[index as usize].destination.is_rate_spent(now) {
                    // Its home hears what binds, also if no connection is open.
                    self.touched.insert(index);
                }
            }
            Err(delivery) if self.answer_unmet(index, &delivery, now) => {}
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
    pub fn want(&mut self, hop: &Arc<Hop>, wanted: (u64, ShardId, u32, u32), now: Mono) {
        let (target, home, jobs, flows) = wanted;
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
            self.send(home, Frame::Missing { jobs });
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Mono) {
        let round = now.as_ns() / LEADS_EVERY_NS;
        if std::mem::replace(&mut self.leads_round, round) < round {
            self.forget_leads(now);
        }
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
                self.idle.insert((now, index));
            }
            (false, Some(since)) => {
                entry.idle_since = None;
                self.idle.remove(&(since, index));
            }
            _ => {}
        }
        self.note_all_unsaved(index);
        let Entry { destination, grants, member, .. } = &mut self.entries[index as usize];
        let (window, flows) = (destination.window(now), destination.flows() as u32);
        if grants.is_stale(window, flows, now) || member.is_some() {
            self.touched.insert(index);
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
        let tokens = entry.destination.tokens_act_at(now);
        let timer = [change, rest_ends, probe, again, tokens].into_iter().flatten().min();
        let timer = timer.filter(|at| *at < Mono::NEVER);
        let before = std::mem::replace(&mut entry.timer, timer);
        if before != timer {
            if let Some(at) = before {
                self.timers.remove(&(at, index));
            }
            self.timers.extend(timer.map(|at| (at, index)));
        }
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
