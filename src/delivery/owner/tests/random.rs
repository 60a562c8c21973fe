//! Owners of several shards under random mail, servers, operators and reloads, in virtual time.
//!
//! Promise:  no job is answered twice or lost; no limit of connections and no rate is exceeded; nobody
//!           is busy without mail; when all servers work, all mail is delivered.

use std::collections::BTreeMap;

use super::*;

use crate::config::DestinationDefaults;
use crate::config::Stripes;
use crate::route::TenantTable;
use crate::route::destination::DestinationTable;

const SHARDS: u16 = 3;
const DESTINATIONS: usize = 4;
const SEEDS: u64 = 200;
/// From then on all servers work, and operators leave them alone.
const HEALED_MS: u64 = 20_000;
const LIMIT_MS: u64 = 2 * 3_600_000;

#[derive(Debug)]
enum Event {
    Frame {
        to: usize,
        frame: Frame,
    },
    Tick(usize),
    Mail {
        home: usize,
        number: usize,
    },
    Home {
        home: usize,
        number: usize,
    },
    /// The connection could be opened or not.
    Dialed(usize, ConnId),
    Take(usize, ConnId, u64),
    Replied(usize, ConnId),
    Gone(usize, ConnId),
    /// The limits of a shard are durable.
    Saved(usize, Vec<(u64, StoredLimit)>),
    /// The process is killed and starts again.
    Kill,
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Good,
    Dead,
    /// It often asks for less.
    Strict,
    /// It does not talk to half of the sources.
    Blocks,
    /// It breaks connections.
    Breaks,
}

struct Connection {
    number: usize,
    source: Option<Box<str>>,
    stamp: u64,
    job: Option<Box<Delivery>>,
}

/// The mail of one home for one destination.
#[derive(Debug, Default)]
struct Waiting {
    jobs: Vec<u32>,
    out: u32,
    places: u32,
    owner: usize,
    not_before_ms: u64,
    want_ms: u64,
    until_ms: u64,
}

struct World {
    random: Random,
    now_ms: u64,
    owners: Vec<Owner>,
    gate: Arc<Gate>,
    hops: Vec<Arc<Hop>>,
    peers: Vec<Peer>,
    homes: Vec<Vec<Waiting>>,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    connections: HashMap<(usize, ConnId), Connection>,
    /// Jobs at owners, with their homes and destinations.
    out: HashMap<JobRef, (usize, usize)>,
    jobs: u32,
    expected: u32,
    delivered: u32,
    ticks: Vec<u64>,
    /// The last ones.
    ticked: Vec<Mono>,
    /// When frames between two shards arrive at the earliest.
    order: HashMap<(usize, usize), u64>,
    policy: Arc<DeliveryPolicy>,
    rates: (u32, u32),
    source_rates: (u32, u32),
    /// The limits of late, with the time until which they hold.
    limits: Vec<(u64, u32)>,
    sent: Vec<Vec<u64>>,
    sent_by_source: HashMap<(usize, Option<Box<str>>), Vec<u64>>,
    /// The same for the tenant with rates, and what those are.
    sent_by_tenant: Vec<u64>,
    tenant_rates: (u32, u32),
    killed_ms: u64,
    /// The file of limits: each with the time at which it was written.
    disk: HashMap<u64, (StoredLimit, u64)>,
    paused: Vec<bool>,
    calls: u64,
}

fn tenant_of(number: u32) -> u64 {
    FlowHasher::new((1, 2)).tenant(Some(&format!("t{number}")))
}

/// Rates of a second count from the last kill on, those of a minute over it.
fn keeps_rates(sent: &[u64], rates: (u32, u32), (now_ms, killed_ms): (u64, u64)) {
    let since = (now_ms + 1).saturating_sub(1000).max(killed_ms);
    for (limit, since) in [(rates.0, since), (rates.1, (now_ms + 1).saturating_sub(60_000))] {
        let count = sent.iter().rev().take_while(|one| **one >= since).count();
        assert!(limit == 0 || count <= limit as usize, "{count} since {since} ms");
    }
}

/// Small limits, so that they bind. To read a config would take longer than all the rest.
fn policy_of(
    base: &DeliveryPolicy,
    random: &mut Random,
    (rates, source_rates): ((u32, u32), (u32, u32)),
) -> Arc<DeliveryPolicy> {
    let connections_max = 1 + random.below(6) as u32;
    let mut seconds = |most| Duration::from_secs(1 + random.below(most));
    let (back_off_first, idle_reuse) = (seconds(20), seconds(5) - Duration::from_secs(1));
    let standard = DestinationDefaults {
        connections_max,
        window_start: 1 + random.below(u64::from(connections_max)) as u32,
        stripes: [Stripes::Count(1), Stripes::Count(2), Stripes::All][random.below(3) as usize],
        messages_per_connection: 1 + random.below(20) as u32,
        failures_to_back_off: 1 + random.below(4) as u32,
        back_off_first,
        back_off_max: Duration::from_secs(60),
        idle_reuse,
        messages_per_second: rates.0,
        messages_per_minute: rates.1,
        source_messages_per_second: source_rates.0,
        source_messages_per_minute: source_rates.1,
        ..DestinationDefaults::default()
    };
    let destinations = DestinationTable::build(&[], &standard);
    let connections_max = 2 + random.below(20) as u32;
    Arc::new(DeliveryPolicy { destinations, connections_max, ..base.clone() })
}

impl World {
    fn new(base: &DeliveryPolicy, seed: u64) -> World {
        let mut random = Random::new(seed * 7919 + 13);
        let limited = [(0, 0), (3, 0), (0, 60), (5, 100)];
        let rates = limited[random.below(4) as usize];
        let limited = [(0, 0), (2, 0), (0, 15), (3, 20)];
        let source_rates = limited[random.below(4) as usize];
        let pool = [None, Some("p")];
        let mut policy = policy_of(base, &mut random, (rates, source_rates));
        let tenant_rates = match random.below(2) {
            0 => (4, 12),
            _ => {
                let policy = Arc::make_mut(&mut policy);
                policy.tenants = TenantTable::default();
                (0, 0)
            }
        };
        let gate = Arc::new(Gate::new(policy.connections_max));
        let hops = (0..DESTINATIONS).map(|number| {
            let pool = pool[random.below(2) as usize].map(Box::from);
            Arc::new(Hop {
                domain: format!("d{number}.test").into(),
                pool,
                ..hop(&format!("mx{number}"))
            })
        });
        let hops: Vec<_> = hops.collect();
        let kinds = [Peer::Good, Peer::Dead, Peer::Strict, Peer::Blocks, Peer::Breaks];
        let peers = (0..DESTINATIONS).map(|_| kinds[random.below(5) as usize]).collect();
        let limit = policy.destinations.policy("", &[]).connections_max;
        let mut world = World {
            random,
            now_ms: 0,
            owners: Vec::new(),
            gate,
            hops,
            peers,
            homes: Vec::new(),
            events: BTreeMap::new(),
            number: 0,
            connections: HashMap::new(),
            out: HashMap::new(),
            jobs: 0,
            expected: 0,
            delivered: 0,
            ticks: vec![u64::MAX; usize::from(SHARDS)],
            ticked: vec![Mono::ZERO; usize::from(SHARDS)],
            order: HashMap::new(),
            policy,
            rates,
            source_rates,
            limits: vec![(u64::MAX, limit)],
            sent: vec![Vec::new(); DESTINATIONS],
            sent_by_source: HashMap::new(),
            sent_by_tenant: Vec::new(),
            tenant_rates,
            killed_ms: 0,
            disk: HashMap::new(),
            paused: vec![false; DESTINATIONS],
            calls: 0,
        };
        world.start();
        for home in 0..usize::from(SHARDS) {
            let waiting = (0..DESTINATIONS).map(|number| Waiting {
                places: PLACES_OPENING,
                owner: world.owner_of(home, number),
                ..Waiting::default()
            });
            let waiting = waiting.collect();
            world.homes.push(waiting);
        }
        for _ in 0..world.random.below(3) {
            let at_ms = world.random.below(HEALED_MS);
            world.at(at_ms, Event::Kill);
        }
        world.expected = 20 + world.random.below(60) as u32;
        for _ in 0..world.expected {
            let home = world.random.below(u64::from(SHARDS)) as usize;
            let number = world.random.below(DESTINATIONS as u64) as usize;
            let at_ms = world.random.below(HEALED_MS);
            world.at(at_ms, Event::Mail { home, number });
        }
        for _ in 0..world.random.below(6) {
            let at_ms = world.random.below(HEALED_MS);
            world.at(at_ms, Event::Operator);
        }
        world.at(HEALED_MS, Event::Operator);
        world
    }

    fn start(&mut self) {
        let disk = self.disk.iter().map(|(key, (limit, written_ms))| {
            let age_ms = limit.age_ms + self.now_ms - written_ms;
            (*key, StoredLimit { age_ms, ..limit.clone() })
        });
        let sent_before = Arc::new(SentBefore::new(disk, (0, at(self.now_ms))));
        self.gate = Arc::new(Gate::new(self.policy.connections_max));
        let paused = (0..DESTINATIONS).filter(|number| self.paused[*number]);
        let paused: Vec<Box<str>> = paused.map(|number| format!("d{number}.test").into()).collect();
        let owners = (0..SHARDS).map(|me| {
            Owner::new(OwnerParts {
                me: ShardId(me),
                shards: usize::from(SHARDS),
                policy: Arc::clone(&self.policy),
                hasher: FlowHasher::new((1, 2)),
                gate: Arc::clone(&self.gate),
                paused: paused.clone(),
                sent_before: Arc::clone(&sent_before),
                seed: self.random.below(1 << 40) + u64::from(me),
            })
        });
        self.owners = owners.collect::<Vec<_>>();
    }

    /// All jobs that were at owners are tried again.
    fn kill(&mut self) {
        let lives = |event: &Event| {
            matches!(event, Event::Mail { .. } | Event::Home { .. } | Event::Operator | Event::Kill)
        };
        self.events.retain(|_, event| lives(event));
        self.connections.clear();
        self.order.clear();
        self.ticks.fill(u64::MAX);
        self.ticked.fill(Mono::ZERO);
        self.killed_ms = self.now_ms;
        self.start();
        for home in 0..usize::from(SHARDS) {
            for number in 0..DESTINATIONS {
                let (owner, jobs) =
                    (self.owner_of(home, number), self.homes[home][number].jobs.len());
                let waiting = Waiting { places: PLACES_OPENING, owner, ..Waiting::default() };
                self.homes[home][number] = waiting;
                (0..jobs).for_each(|_| self.after(0, Event::Mail { home, number }));
            }
        }
        let mut out: Vec<_> = self.out.drain().collect();
        out.sort_unstable();
        for (_, (home, number)) in out {
            self.after(1, Event::Mail { home, number });
        }
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.events.insert((at_ms.max(self.now_ms), self.number), event);
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    fn one_of(&mut self, count: u64) -> bool {
        self.now_ms < HEALED_MS && self.random.below(count) == 0
    }

    fn owner_of(&self, home: usize, number: usize) -> usize {
        let shards = usize::from(SHARDS);
        let lead = stripe::lead(&self.hops[number].destination, shards);
        let policy = self.policy.destinations.policy("", &[]);
        let stripes = stripe::count(&policy, shards);
        usize::from(stripe::owner(lead, stripes, ShardId(home as u16), shards).0)
    }

    fn send(&mut self, from: usize, to: usize, frame: Frame) {
        let is_repeated = matches!(frame, Frame::Share { .. } | Frame::Used { .. });
        if is_repeated && self.one_of(20) {
            return;
        }
        let latency = self.random.below(4);
        let earliest = self.order.entry((from, to)).or_default();
        let at_ms = (self.now_ms + latency).max(*earliest);
        *earliest = at_ms;
        self.at(at_ms, Event::Frame { to, frame });
    }

    /// Calls an owner, and carries out what it wants.
    fn call<T>(&mut self, shard: usize, call: impl FnOnce(&mut Owner, Mono) -> T) -> T {
        self.calls += 1;
        let now = at(self.now_ms);
        let answer = call(&mut self.owners[shard], now);
        for effect in self.owners[shard].take_effects() {
            match effect {
                OwnerEffect::Open { conn, hop, source } => self.open(shard, conn, (&hop, source)),
                OwnerEffect::Wake { conn } => {
                    let connection = self.connections.get_mut(&(shard, conn)).expect("it is open");
                    connection.stamp += 1;
                    let stamp = connection.stamp;
                    self.after(0, Event::Take(shard, conn, stamp));
                }
                OwnerEffect::Send { to, frame } => self.send(shard, usize::from(to.0), frame),
                OwnerEffect::Save { limits } => {
                    let after_ms = 1 + self.random.below(200);
                    self.after(after_ms, Event::Saved(shard, limits));
                }
                OwnerEffect::Log { .. } => {}
            }
        }
        assert_eq!(self.gate.used() as usize, self.connections.len(), "the gate counts all");
        if let Some(wake) = self.owners[shard].next_wake(self.ticked[shard]) {
            let wake_ms = wake.as_ns().div_ceil(1_000_000).max(self.now_ms);
            if wake_ms < self.ticks[shard] {
                self.ticks[shard] = wake_ms;
                self.at(wake_ms, Event::Tick(shard));
            }
        }
        answer
    }

    fn open(&mut self, shard: usize, conn: ConnId, (hop, source): (&Hop, Option<Box<str>>)) {
        let number = self.hops.iter().position(|one| one.destination == hop.destination);
        let number = number.expect("there are no others");
        let stamp = 0;
        self.connections.insert((shard, conn), Connection { number, source, stamp, job: None });
        let open = self.connections.values().filter(|one| one.number == number).count();
        self.limits.retain(|(until_ms, _)| *until_ms >= self.now_ms);
        let most = self.limits.iter().map(|(_, limit)| *limit).max().expect("one holds");
        assert!(open <= most as usize, "{open} connections to {number}, at most {most}");
        let after_ms = 1 + self.random.below(600);
        self.after(after_ms, Event::Dialed(shard, conn));
    }

    fn peer(&self, number: usize) -> Peer {
        if self.now_ms < HEALED_MS { self.peers[number] } else { Peer::Good }
    }

    fn end(&mut self, shard: usize, conn: ConnId, end: End) {
        if !matches!(end.link, LinkEnd::Kept) {
            self.connections.remove(&(shard, conn));
        }
        self.call(shard, |owner, now| owner.ended(conn, &end, now));
    }

    fn take(&mut self, shard: usize, conn: ConnId) {
        let take = self.call(shard, |owner, now| owner.take(conn, now));
        let gives_back = self.one_of(15);
        let connection = self.connections.get_mut(&(shard, conn)).expect("it is open");
        match take {
            Take::Job(delivery) if gives_back => {
                let job = delivery.job;
                self.call(shard, |owner, now| {
                    owner.give_back(conn, delivery, Returned::Hidden, now)
                });
                assert!(self.out.contains_key(&job));
                self.after(1, Event::Take(shard, conn, 0));
            }
            Take::Job(delivery) => {
                let number = connection.number;
                let is_limited = delivery.flow.tenant == tenant_of(0);
                connection.job = Some(delivery);
                let sent = &mut self.sent[number];
                sent.push(self.now_ms);
                let (now_ms, killed_ms) = (self.now_ms, self.killed_ms);
                keeps_rates(sent, self.rates, (now_ms, killed_ms));
                let source = connection.source.clone();
                let sent = self.sent_by_source.entry((number, source)).or_default();
                sent.push(now_ms);
                keeps_rates(sent, self.source_rates, (now_ms, killed_ms));
                if is_limited {
                    self.sent_by_tenant.push(now_ms);
                    keeps_rates(&self.sent_by_tenant, self.tenant_rates, (now_ms, killed_ms));
                }
                let after_ms = 1 + self.random.below(200);
                self.after(after_ms, Event::Replied(shard, conn));
            }
            Take::IdleUntil(until) => {
                connection.stamp += 1;
                let stamp = connection.stamp;
                let until_ms = until.as_ns().div_ceil(1_000_000);
                assert!(until_ms > self.now_ms, "an idle time has a length");
                self.at(until_ms, Event::Take(shard, conn, stamp));
            }
            Take::Close => {
                let after_ms = self.random.below(30);
                self.after(after_ms, Event::Gone(shard, conn));
            }
        }
    }

    fn replied(&mut self, shard: usize, conn: ConnId) {
        let connection = self.connections.get_mut(&(shard, conn)).expect("it is open");
        let (number, delivery) = (connection.number, connection.job.take().expect("it has a job"));
        let roll = self.random.below(10);
        let end = match self.peer(number) {
            Peer::Strict if roll < 4 => too_fast(LinkEnd::Closed),
            Peer::Strict if roll < 6 => too_fast(LinkEnd::Kept),
            Peer::Breaks if roll < 5 => {
                End { job: Some(JobEnd::Lost), ..only(failed(Blame::Destination)) }
            }
            Peer::Blocks if roll == 0 => {
                let action = suspend("r", Duration::from_secs(10), Scope::Source);
                End { action, ..done(JobEnd::Deferred) }
            }
            Peer::Good | Peer::Blocks if roll == 1 => done(JobEnd::Refused),
            Peer::Dead => End { job: Some(JobEnd::Lost), ..only(failed(Blame::Destination)) },
            _ => done(JobEnd::Delivered),
        };
        let is_over = matches!(end.job, Some(JobEnd::Delivered | JobEnd::Refused));
        let (home, _) = self.out.remove(&delivery.job).expect("it is answered once");
        let state = &mut self.homes[home][number];
        state.out -= 1;
        match is_over {
            true => self.delivered += 1,
            false => {
                let again_ms = 100 + self.random.below(3000);
                self.after(again_ms, Event::Mail { home, number });
            }
        }
        self.pump(home, number);
        let is_kept = matches!(end.link, LinkEnd::Kept);
        self.end(shard, conn, end);
        if is_kept {
            self.take(shard, conn);
        }
    }

    /// A home sends what it has places for, or asks for some.
    fn pump(&mut self, home: usize, number: usize) {
        loop {
            let state = &mut self.homes[home][number];
            let may_go = state.out < state.places && state.not_before_ms <= self.now_ms;
            let Some(job) = state.jobs.first().copied().filter(|_| may_go) else { break };
            state.jobs.remove(0);
            state.out += 1;
            let owner = state.owner;
            let hop = Arc::clone(&self.hops[number]);
            let flow =
                Flow { target: target_of(&hop), tenant: tenant_of(job % 3), class: Class::Normal };
            let delivery = delivery(job, (&hop, ShardId(home as u16)), flow);
            assert!(self.out.insert(delivery.job, (home, number)).is_none());
            self.send(home, owner, Frame::Deliver(delivery));
        }
        let state = &mut self.homes[home][number];
        if state.jobs.is_empty() || state.places > 0 || state.want_ms > self.now_ms {
            return;
        }
        state.want_ms = (self.now_ms + 5000).max(state.until_ms);
        let (jobs, want_ms, owner) = (state.jobs.len() as u32, state.want_ms, state.owner);
        let (hop, from) = (Arc::clone(&self.hops[number]), ShardId(home as u16));
        let target = target_of(&hop);
        self.send(home, owner, Frame::Want { target, hop, home: from, jobs, flows: 1 });
        self.at(want_ms, Event::Home { home, number });
    }

    fn settled(&mut self, outcome: &Outcome) {
        let (home, number) = self.out.remove(&outcome.job).expect("it is answered once");
        let lead = stripe::lead(&self.hops[number].destination, usize::from(SHARDS));
        let opening = PLACES_OPENING;
        let state = &mut self.homes[home][number];
        state.out -= 1;
        let after_ms = match &outcome.what {
            What::Returned(Returned::NotHere) if state.owner != usize::from(lead.0) => {
                (state.owner, state.places, state.want_ms) = (usize::from(lead.0), opening, 0);
                0
            }
            What::Returned(Returned::TenantRate { until }) => {
                let until_ms = until.as_ns().div_ceil(1_000_000);
                assert!(until_ms > self.now_ms, "to send it again at once is of no use");
                until_ms - self.now_ms
            }
            What::Returned(_) => {
                state.not_before_ms = self.now_ms + 100;
                self.after(100, Event::Home { home, number });
                0
            }
            What::Unreached { not_before, .. } => {
                not_before.as_ns().div_ceil(1_000_000).saturating_sub(self.now_ms)
            }
            What::Tried { .. } => panic!("an owner does not send mail itself"),
        };
        self.after(after_ms, Event::Mail { home, number });
    }

    fn granted(
        &mut self,
        home: usize,
        (target, from): (u64, usize),
        total: u32,
        state: &GrantState,
    ) {
        let number = self.hops.iter().position(|hop| target_of(hop) == target);
        let number = number.expect("there are no others");
        let own = self.owner_of(home, number);
        let waiting = &mut self.homes[home][number];
        if from != waiting.owner {
            if from != home || from != own || total == 0 {
                return;
            }
            waiting.owner = from;
        }
        waiting.places = total;
        waiting.until_ms = state.until.map_or(0, |until| until.as_ns().div_ceil(1_000_000));
        self.pump(home, number);
    }

    fn frame(&mut self, to: usize, frame: Frame) {
        match frame {
            Frame::Settle(outcome) => self.settled(&outcome),
            Frame::Grant { target, from, total, state, .. } => {
                self.granted(to, (target, usize::from(from.0)), total, &state);
            }
            frame => self.call(to, |owner, now| owner.on_frame(frame, now)),
        }
    }

    fn operator(&mut self) {
        if self.now_ms >= HEALED_MS {
            for number in 0..DESTINATIONS {
                self.set_paused(number, false);
            }
            return;
        }
        // As if there were no room for another destination.
        let shard = self.random.below(u64::from(SHARDS)) as usize;
        self.call(shard, |owner, now| owner.forget_oldest(now));
        if self.random.below(2) == 0 {
            let number = self.random.below(DESTINATIONS as u64) as usize;
            return self.set_paused(number, !self.paused[number]);
        }
        let rates = (self.rates, self.source_rates);
        self.policy = policy_of(&self.policy, &mut self.random, rates);
        let limit = self.policy.destinations.policy("", &[]).connections_max;
        for (until_ms, _) in &mut self.limits {
            *until_ms = (*until_ms).min(self.now_ms + 2000);
        }
        self.limits.push((u64::MAX, limit));
        for shard in 0..usize::from(SHARDS) {
            let policy = Arc::clone(&self.policy);
            self.call(shard, |owner, now| owner.replace_policy(policy, now));
            for number in 0..DESTINATIONS {
                let owner = self.owner_of(shard, number);
                let state = &mut self.homes[shard][number];
                if state.owner != owner {
                    (state.owner, state.places, state.want_ms) = (owner, PLACES_OPENING, 0);
                }
                self.after(0, Event::Home { home: shard, number });
            }
        }
    }

    fn set_paused(&mut self, number: usize, is_paused: bool) {
        self.paused[number] = is_paused;
        let word = format!("d{number}.test");
        for shard in 0..usize::from(SHARDS) {
            self.call(shard, |owner, now| match is_paused {
                true => owner.pause(&word, now),
                false => owner.resume(&word, now),
            });
        }
    }

    fn step(&mut self) -> bool {
        let Some(((at_ms, _), event)) = self.events.pop_first() else { return false };
        self.now_ms = at_ms;
        match event {
            Event::Frame { to, frame } => self.frame(to, frame),
            Event::Tick(shard) => {
                if self.ticks[shard] == at_ms {
                    (self.ticks[shard], self.ticked[shard]) = (u64::MAX, at(at_ms));
                    self.call(shard, Owner::tick);
                    let wake = self.owners[shard].next_wake(self.ticked[shard]);
                    assert!(wake.is_none_or(|wake| wake > at(at_ms)), "{wake:?} at {at_ms}");
                }
            }
            Event::Mail { home, number } => {
                self.homes[home][number].jobs.push(self.jobs);
                self.jobs += 1;
                self.pump(home, number);
            }
            Event::Home { home, number } => self.pump(home, number),
            Event::Dialed(shard, conn) => {
                let connection = &self.connections[&(shard, conn)];
                let (number, source) = (connection.number, connection.source.clone());
                match self.peer(number) {
                    Peer::Dead => self.end(shard, conn, only(failed(Blame::Destination))),
                    Peer::Blocks if source.as_deref() != Some("y") => {
                        self.end(shard, conn, only(failed(Blame::Source)));
                    }
                    _ if self.one_of(20) => {
                        let link = LinkEnd::OurLimit(OurLimit::Descriptors);
                        self.end(shard, conn, only(link));
                    }
                    _ => {
                        self.call(shard, |owner, now| owner.connected(conn, now));
                        self.take(shard, conn);
                    }
                }
            }
            Event::Take(shard, conn, stamp) => {
                let connection = self.connections.get(&(shard, conn));
                if connection.is_some_and(|one| stamp == 0 || one.stamp == stamp) {
                    self.take(shard, conn);
                }
            }
            Event::Replied(shard, conn) => self.replied(shard, conn),
            Event::Gone(shard, conn) => self.end(shard, conn, only(LinkEnd::Closed)),
            Event::Saved(shard, limits) => {
                let now_ms = self.now_ms;
                let limits = limits.into_iter().map(|(key, limit)| (key, (limit, now_ms)));
                self.disk.extend(limits);
                self.call(shard, Owner::saved);
            }
            Event::Kill => self.kill(),
            Event::Operator => self.operator(),
        }
        true
    }

    fn run(mut self, seed: u64) {
        while self.step() {
            let is_done = self.delivered == self.expected && self.connections.is_empty();
            if is_done && self.now_ms > HEALED_MS {
                break;
            }
            assert!(self.now_ms < LIMIT_MS, "seed {seed}: mail waits: {:#?}", self.homes);
            assert!(self.calls < 60_000, "seed {seed}: busy at {} ms", self.now_ms);
        }
        assert_eq!(self.delivered, self.expected, "seed {seed}");
        assert!(self.out.is_empty() && self.gate.used() == 0, "seed {seed}");
        for owner in &self.owners {
            assert!(owner.jobs.is_empty() && owner.active == 0, "seed {seed}");
            for (_, entry) in &owner.entries {
                assert_eq!(entry.destination.counts, Default::default(), "seed {seed}");
            }
        }
    }
}

#[test]
fn owners_keep_their_promises_whatever_happens() {
    let seeds = match std::env::var("RINGPOST_TEST_OWNER_SEED") {
        Ok(seed) => seed.parse().map_or(0..SEEDS, |seed| seed..seed + 1),
        Err(_) => 0..SEEDS,
    };
    let text = "[[tenant]]\nname = 't0'\nmessages_per_second = 4\nmessages_per_minute = 12\n";
    let base = pools(text, &[("p", &["x:1", "y:2"])]);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| World::new(&base, seed).run(seed));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
