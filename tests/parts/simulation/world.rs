//! A machine of shards and the remote servers, in virtual time. Disk and servers survive a crash,
//! everything else is lost.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use ringpost::base::MessageId;
use ringpost::base::ShardId;
use ringpost::base::limits::CONNECT_HOLD_MAX_MS;
use ringpost::base::limits::JOB_LEASE_MS;
use ringpost::base::limits::JOB_TRANSFER_MS_MAX;
use ringpost::delivery::failure::Failure;
use ringpost::delivery::failure::FailureKind;
use ringpost::outbound::destination::DestinationState;
use ringpost::outbound::destination::JobEnd;
use ringpost::outbound::destination::JobTicket;
use ringpost::base::Random;
use ringpost::outbound::scheduler::Action;
use ringpost::outbound::scheduler::ConnId;
use ringpost::outbound::scheduler::DestinationId;
use ringpost::outbound::scheduler::Scheduler;
use ringpost::outbound::scheduler::SchedulerLimits;
use ringpost::outbound::scheduler::Take;
use ringpost::outbound::stripes;
use ringpost::outbound::stripes::Treatment;
use ringpost::route::destination::DestinationPolicy;
use ringpost::route::destination::Stripes;

use crate::simulation::home::Home;
use crate::simulation::home::Known;
use crate::simulation::home::Work;
use crate::simulation::peer::Peer;
use crate::simulation::peer::Sent;

/// Older mail bounces at its next outcome.
const EXPIRY_MS: u64 = 5 * 3_600_000;
/// The time by which every job must have ended.
const END_MS: u64 = 30 * 3_600_000;
/// Events in one virtual second on one machine; more means a busy loop.
const EVENTS_PER_SECOND_MAX: usize = 20_000;
/// Time between two reads of the jobs left on disk.
const LEFT_MS: u64 = 500;

pub struct DestinationPlan {
    pub peer: Peer,
    pub policy: DestinationPolicy,
    pub jobs: usize,
}

pub struct Plan {
    pub seed: u64,
    pub shards: usize,
    pub destinations: Vec<DestinationPlan>,
    /// One of this many frames is lost; 0 for none.
    pub loss: u64,
    pub crashes: Vec<u64>,
    /// When an operator pauses which destination, and for how long.
    pub pauses: Vec<(u64, usize, u64)>,
    /// When the configured number of stripes of a destination changes.
    pub reloads: Vec<(u64, usize, Stripes)>,
    pub connections_max: usize,
    pub destinations_max: usize,
    /// Jobs in the memory of one home shard.
    pub jobs_max: usize,
    /// The time over which new mail arrives.
    pub arrival_ms: u64,
}

/// The state of a job on disk.
#[derive(Debug)]
pub struct Job {
    pub destination: usize,
    pub sender: u32,
    bytes: u64,
    accepted_ms: u64,
    due_ms: u64,
    attempts: u32,
    /// How and when the job ended.
    pub end: Option<(End, u64)>,
    deliveries: usize,
}

impl Job {
    pub fn end_is(&self, wanted: End) -> bool {
        self.end.is_some_and(|(end, _)| end == wanted)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Refused,
    Expired,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Ended(JobEnd),
    Later(u64),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive {
        number: usize,
    },
    HomeTick(usize),
    OwnerTick(usize),
    Deliver {
        shard: usize,
        ticket: JobTicket,
    },
    Settle {
        ticket: JobTicket,
        outcome: Outcome,
    },
    Dialed {
        shard: usize,
        conn: ConnId,
        failure: Option<FailureKind>,
    },
    Sent {
        shard: usize,
        conn: ConnId,
        sent: Sent,
    },
    Idle {
        shard: usize,
        conn: ConnId,
        stamp: u64,
    },
    Closed {
        shard: usize,
        conn: ConnId,
    },
    Crash,
    Pause {
        destination: usize,
    },
    Resume {
        destination: usize,
    },
    Reload {
        destination: usize,
        stripes: Stripes,
    },
    /// One shard learns of it.
    Reshare {
        shard: usize,
        destination: usize,
    },
}

struct Worker {
    destination: usize,
    /// The number of its latest idle period.
    stamp: u64,
    /// The time by which its job must have ended.
    lease_until_ms: u64,
}

struct Owner {
    scheduler: Scheduler,
    workers: BTreeMap<ConnId, Worker>,
    tick_ms: Option<u64>,
}

/// The policies of a destination that a shard has learned, the latest last, with their times.
type Heard = Vec<(Arc<DestinationPolicy>, u64)>;

/// What the servers have seen.
#[derive(Default)]
struct Seen {
    connections: u32,
    starts: VecDeque<u64>,
}

pub struct World {
    plan: Plan,
    random: Random,
    now_ms: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_number: u64,
    pub disk: Vec<Job>,
    homes: Vec<Home>,
    owners: Vec<Owner>,
    seen: Vec<Seen>,
    /// The configured policy of each destination.
    file: Vec<Arc<DestinationPolicy>>,
    /// By shard and destination.
    heard: Vec<Vec<Heard>>,
    /// Deliveries that were not recorded on disk: each allows one duplicate.
    unheard: usize,
    pub stale: usize,
    second: (u64, usize),
    pub events_handled: usize,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut random = Random::new(plan.seed);
        let mut disk = Vec::new();
        for (destination, planned) in plan.destinations.iter().enumerate() {
            for _ in 0..planned.jobs {
                let accepted_ms = random.below(plan.arrival_ms);
                disk.push(Job {
                    destination,
                    sender: random.below(3) as u32,
                    bytes: random.below(200_000),
                    accepted_ms,
                    due_ms: accepted_ms,
                    attempts: 0,
                    end: None,
                    deliveries: 0,
                });
            }
        }
        let mut world = World {
            random,
            now_ms: 0,
            events: BTreeMap::new(),
            event_number: 0,
            disk,
            homes: Vec::new(),
            owners: Vec::new(),
            seen: Vec::new(),
            file: plan
                .destinations
                .iter()
                .map(|destination| Arc::new(destination.policy.clone()))
                .collect(),
            heard: Vec::new(),
            unheard: 0,
            stale: 0,
            second: (0, 0),
            events_handled: 0,
            plan,
        };
        for number in 0..world.disk.len() {
            world.at(world.disk[number].accepted_ms, Event::Arrive { number });
        }
        for at_ms in world.plan.crashes.clone() {
            world.at(at_ms, Event::Crash);
        }
        for (at_ms, destination, long_ms) in world.plan.pauses.clone() {
            world.at(at_ms, Event::Pause { destination });
            world.at(at_ms + long_ms, Event::Resume { destination });
        }
        for (at_ms, destination, stripes) in world.plan.reloads.clone() {
            world.at(at_ms, Event::Reload { destination, stripes });
        }
        world
    }

    /// Runs until every job has ended, and checks the invariants.
    pub fn run(&mut self) {
        self.start();
        while self.disk.iter().any(|job| job.end.is_none()) {
            // Not checked for each job: that would be a scan per event.
            for _ in 0..200 {
                let Some(((at_ms, _), event)) = self.events.pop_first() else {
                    break;
                };
                assert!(at_ms >= self.now_ms, "time does not go back");
                self.now_ms = at_ms;
                self.count_event();
                self.handle(event);
            }
            assert!(!self.events.is_empty() || self.all_ended(), "jobs are stuck, nothing to do");
            assert!(
                self.now_ms < END_MS || self.all_ended(),
                "jobs are stuck at the end of the run"
            );
        }
        // Outcomes still in transit are lost.
        self.unheard += self.events.values().filter(|event| is_delivery(event)).count();
        let twice: usize = self.disk.iter().map(|job| job.deliveries.saturating_sub(1)).sum();
        assert!(twice <= self.unheard, "{twice} delivered twice, {} unheard", self.unheard);
        for job in &self.disk {
            if let Some((End::Delivered, _)) = job.end {
                assert!(job.deliveries > 0, "ended as delivered without a delivery");
            }
        }
    }

    /// The time at which the last job of this destination ended.
    pub fn ended_ms(&self, destination: usize) -> u64 {
        let jobs = self.disk.iter().filter(|job| job.destination == destination);
        jobs.filter_map(|job| job.end.map(|(_, at_ms)| at_ms)).max().unwrap_or(0)
    }

    fn all_ended(&self) -> bool {
        self.disk.iter().all(|job| job.end.is_some())
    }

    fn count_event(&mut self) {
        self.events_handled += 1;
        let second = self.now_ms / 1000;
        self.second =
            if self.second.0 == second { (second, self.second.1 + 1) } else { (second, 1) };
        assert!(self.second.1 < EVENTS_PER_SECOND_MAX, "a busy loop at {} ms", self.now_ms);
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.event_number += 1;
        self.events.insert((at_ms, self.event_number), event);
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.at(self.now_ms + delay_ms, event);
    }

    /// Rebuilds the memory from the disk.
    fn start(&mut self) {
        let limits = SchedulerLimits {
            connections_max: self.plan.connections_max,
            destinations_max: self.plan.destinations_max,
        };
        let shards = 0..self.plan.shards;
        let read = || self.file.iter().map(|policy| vec![(Arc::clone(policy), self.now_ms)]);
        self.heard = shards.clone().map(|_| read().collect()).collect();
        self.seen = self.plan.destinations.iter().map(|_| Seen::default()).collect();
        let seed = self.random.roll();
        let owner = |shard: usize| Owner {
            scheduler: Scheduler::new(limits, seed ^ shard as u64),
            workers: BTreeMap::new(),
            tick_ms: None,
        };
        self.owners = shards.clone().map(owner).collect();
        self.homes = shards.clone().map(|_| Home::new(self.plan.jobs_max)).collect();
        for number in 0..self.disk.len() {
            let job = &self.disk[number];
            if job.end.is_none() && job.accepted_ms < self.now_ms {
                let known = self.known(number);
                self.homes[number % self.plan.shards].store(known);
            }
        }
        shards.for_each(|shard| self.home_tick(shard));
    }

    fn crash(&mut self) {
        let now_ms = self.now_ms;
        let later = |event: &Event| {
            use Event::*;
            matches!(event, Arrive { .. } | Crash | Pause { .. } | Resume { .. } | Reload { .. })
        };
        let (kept, lost) =
            std::mem::take(&mut self.events).into_iter().partition(|(_, e)| later(e));
        self.events = kept;
        let lost: BTreeMap<(u64, u64), Event> = lost;
        for event in lost.into_values() {
            match event {
                event if is_delivery(&event) => self.unheard += 1,
                // The end of the body was sent; whether it arrived is unknown.
                Event::Sent { shard, conn, sent: Sent::Delivered } if self.random.below(2) == 0 => {
                    let lost = Failure { kind: FailureKind::Lost, text: "we died", host: "" };
                    let job = self.owners[shard].scheduler.connection_lost(conn, lost, now_ms);
                    let number = number_of(&job.expect("a transfer was in progress"));
                    self.disk[number].deliveries += 1;
                    self.unheard += 1;
                }
                _ => {}
            }
        }
        self.start();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { number } => {
                let (shard, known) = (number % self.plan.shards, self.known(number));
                let mut work = Work::default();
                self.homes[shard].take_fresh(known, self.now_ms, &mut work);
                self.send_out(shard, work);
            }
            Event::HomeTick(shard) => {
                if self.homes[shard].tick_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
                    self.homes[shard].tick_ms = None;
                }
                self.home_tick(shard);
            }
            Event::OwnerTick(shard) => {
                if self.owners[shard].tick_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
                    self.owners[shard].tick_ms = None;
                }
                self.pump(shard);
            }
            Event::Deliver { shard, ticket } => self.on_deliver(shard, ticket),
            Event::Settle { ticket, outcome } => self.on_settle(ticket, outcome),
            Event::Dialed { shard, conn, failure } => self.on_dialed(shard, conn, failure),
            Event::Sent { shard, conn, sent } => self.on_sent(shard, conn, sent),
            Event::Idle { shard, conn, stamp } => {
                let worker = self.owners[shard].workers.get(&conn);
                if worker.is_some_and(|worker| worker.stamp == stamp) {
                    self.ask(shard, conn);
                    self.pump(shard);
                }
            }
            Event::Closed { shard, conn } => {
                let job = self.owners[shard].scheduler.closed(conn, self.now_ms);
                assert_eq!(job, None, "a connection is closed without a job");
                self.gone(shard, conn);
                self.pump(shard);
            }
            Event::Crash => self.crash(),
            Event::Pause { destination } => self.switch(destination, Scheduler::pause),
            Event::Resume { destination } => self.switch(destination, Scheduler::resume),
            Event::Reload { destination, stripes } => {
                self.file[destination] =
                    Arc::new(DestinationPolicy { stripes, ..(*self.file[destination]).clone() });
                for shard in 0..self.plan.shards {
                    let delay_ms = self.random.below(5_000);
                    self.after(delay_ms, Event::Reshare { shard, destination });
                }
            }
            Event::Reshare { shard, destination } => self.reshare(shard, destination),
        }
    }

    /// The policy of a destination that this shard has learned last.
    fn treatment(&self, shard: usize, destination: usize) -> Treatment {
        let heard = &self.heard[shard][destination];
        let (policy, _) = heard.last().expect("there is an initial policy");
        // Each policy was valid until the next was learned.
        let before = heard.windows(2).map(|two| (Arc::clone(&two[0].0), two[1].1));
        Treatment::new(Arc::clone(policy), before, self.plan.shards, self.now_ms)
    }

    fn share(&self, shard: usize, destination: usize) -> Option<Arc<DestinationPolicy>> {
        let shards = self.plan.shards;
        let number = stripes::number(first_of(destination, shards), ShardId(shard as u16), shards);
        self.treatment(shard, destination).share(number, shards)
    }

    fn reshare(&mut self, shard: usize, destination: usize) {
        let now_ms = self.now_ms;
        self.heard[shard][destination].push((Arc::clone(&self.file[destination]), now_ms));
        let share = self.share(shard, destination);
        let scheduler = &mut self.owners[shard].scheduler;
        let Some(id) = scheduler.find(&key_of(destination)) else { return };
        match share {
            Some(share) => scheduler.set_policy(id, share, now_ms),
            None => {
                for ticket in scheduler.withdraw_all(id, now_ms) {
                    self.send_home(ticket, Outcome::Later(now_ms + LEFT_MS));
                }
            }
        }
        self.pump(shard);
    }

    fn switch(&mut self, destination: usize, switch: fn(&mut Scheduler, DestinationId, u64)) {
        for shard in 0..self.plan.shards {
            let scheduler = &mut self.owners[shard].scheduler;
            if let Some(id) = scheduler.find(&key_of(destination)) {
                switch(scheduler, id, self.now_ms);
                self.pump(shard);
            }
        }
    }

    fn is_frame_lost(&mut self) -> bool {
        self.plan.loss > 0 && self.random.below(self.plan.loss) == 0
    }

    /// If frames are lost, some are late: up to twice the length of a lease.
    fn frame_delay_ms(&mut self) -> u64 {
        match self.is_frame_lost() {
            true => self.random.below(2 * JOB_LEASE_MS),
            false => self.random.below(5),
        }
    }

    fn home_tick(&mut self, shard: usize) {
        let mut work = Work::default();
        self.homes[shard].tick(self.now_ms, &mut work);
        self.send_out(shard, work);
    }

    /// The properties of a job that a home shard knows when it has read it.
    fn known(&self, number: usize) -> Known {
        let job = &self.disk[number];
        Known {
            number,
            destination: job.destination,
            due_ms: job.due_ms,
            attempts: job.attempts,
            expires_ms: job.accepted_ms + EXPIRY_MS,
            out_max: self.plan.destinations[job.destination].policy.jobs_max / self.plan.shards,
            tenant: job.sender / 2,
        }
    }

    /// Sends the jobs to their owners and sets the next wake-up of the home shard.
    fn send_out(&mut self, shard: usize, work: Work) {
        for number in work.expired {
            let job = &mut self.disk[number];
            assert!(
                job.end.is_none() && self.now_ms >= job.accepted_ms + EXPIRY_MS,
                "expired too early"
            );
            job.end = Some((End::Expired, self.now_ms));
        }
        for (number, lease) in work.sends {
            let job = &self.disk[number];
            assert!(job.end.is_none(), "a job that has ended is not issued");
            let ticket = JobTicket {
                id: MessageId::from_u64(number as u64),
                lease_until_ms: lease.until_ms,
                bytes: job.bytes,
                tenant: job.sender / 2,
                sender: job.sender,
                lease: lease.number,
                recipients: 1,
                job: 0,
            };
            let owner = self.owner_of(job.destination, shard);
            let delay_ms = self.frame_delay_ms();
            if !self.is_frame_lost() {
                self.after(delay_ms, Event::Deliver { shard: owner, ticket });
            }
        }
        let home = &mut self.homes[shard];
        if let Some(next_ms) = home.next_wake_ms(self.now_ms)
            && home.tick_ms.is_none_or(|at_ms| next_ms < at_ms)
        {
            home.tick_ms = Some(next_ms);
            self.at(next_ms, Event::HomeTick(shard));
        }
    }

    fn owner_of(&self, destination: usize, home: usize) -> usize {
        let shards = self.plan.shards;
        let stripes = self.treatment(home, destination).stripes(shards);
        let owner =
            stripes::owner(first_of(destination, shards), stripes, ShardId(home as u16), shards);
        usize::from(owner.0)
    }

    fn send_home(&mut self, ticket: JobTicket, outcome: Outcome) {
        let delay_ms = self.frame_delay_ms();
        if !self.is_frame_lost() {
            self.after(delay_ms, Event::Settle { ticket, outcome });
        } else if let Outcome::Ended(JobEnd::Delivered) = outcome {
            self.unheard += 1;
        }
    }

    fn on_settle(&mut self, ticket: JobTicket, outcome: Outcome) {
        let number = number_of(&ticket);
        let shard = number % self.plan.shards;
        let mut work = Work::default();
        let settled =
            self.homes[shard].settle(number, ticket.lease, self.now_ms, &mut work).is_some();
        self.send_out(shard, work);
        if !settled {
            self.stale += 1;
            if let Outcome::Ended(JobEnd::Delivered) = outcome {
                assert!(self.now_ms >= ticket.lease_until_ms, "dropped during its lease");
                self.unheard += 1;
            }
            return;
        }
        let job = &mut self.disk[number];
        assert!(job.end.is_none(), "a job ends once");
        let end = match outcome {
            Outcome::Ended(JobEnd::Delivered) => Some(End::Delivered),
            Outcome::Ended(JobEnd::Refused) => Some(End::Refused),
            _ if self.now_ms > job.accepted_ms + EXPIRY_MS => Some(End::Expired),
            _ => None,
        };
        job.end = end.map(|end| (end, self.now_ms));
        if end.is_none() {
            job.due_ms = match outcome {
                Outcome::Later(due_ms) => due_ms,
                Outcome::Ended(_) => self.now_ms + (60_000 << job.attempts.min(5)),
            };
            job.attempts += u32::from(matches!(outcome, Outcome::Ended(_)));
            let known = self.known(number);
            self.homes[shard].store(known);
            self.send_out(shard, Work::default());
        }
    }

    fn on_deliver(&mut self, shard: usize, ticket: JobTicket) {
        let job = &self.disk[number_of(&ticket)];
        let Some(share) = self.share(shard, job.destination) else {
            // No stripe of the destination belongs to this shard now.
            return self.send_home(ticket, Outcome::Later(self.now_ms + LEFT_MS));
        };
        let now_ms = self.now_ms;
        let scheduler = &mut self.owners[shard].scheduler;
        let destination = scheduler.destination(&key_of(job.destination), &share, now_ms);
        if let Ok(destination) = destination
            && scheduler.policy_of(destination).is_some_and(|old| old != share)
        {
            scheduler.set_policy(destination, share, now_ms);
        }
        if let Err(full) =
            destination.and_then(|destination| scheduler.push(destination, ticket, self.now_ms))
        {
            assert!(full.due_ms > self.now_ms, "the job waits");
            self.send_home(ticket, Outcome::Later(full.due_ms));
        }
        self.pump(shard);
    }

    /// Carries out the scheduler's requests, and sets its next wake-up.
    fn pump(&mut self, shard: usize) {
        let now_ms = self.now_ms;
        while let Some(action) = self.owners[shard].scheduler.next_action(now_ms) {
            self.count_event();
            match action {
                Action::Connect { destination, conn } => self.connect(shard, destination, conn),
                Action::Wake { conn } => self.ask(shard, conn),
                Action::HandBack { destination } => {
                    for back in self.owners[shard].scheduler.drain_deferred(destination, now_ms) {
                        self.send_home(back.ticket, Outcome::Later(back.due_ms));
                    }
                }
            }
        }
        self.check_wakes(shard);
        let owner = &mut self.owners[shard];
        if let Some(next_ms) = owner.scheduler.next_wake_ms() {
            assert!(next_ms > now_ms, "a timer that is due has fired");
            if owner.tick_ms.is_none_or(|at_ms| next_ms < at_ms) {
                owner.tick_ms = Some(next_ms);
                self.at(next_ms, Event::OwnerTick(shard));
            }
        }
    }

    /// Checks that a destination sleeps only while something prevents its deliveries.
    fn check_wakes(&mut self, shard: usize) {
        let scheduler = &mut self.owners[shard].scheduler;
        let room = self.plan.connections_max - self.plan.connections_max / 4;
        let has_room = scheduler.connections() < room;
        for destination in scheduler.destinations().collect::<Vec<_>>() {
            let summary =
                scheduler.summary(destination, self.now_ms).expect("the destination is known");
            let until_ms = match summary.state {
                DestinationState::RateLimited { until_ms }
                | DestinationState::BackingOff { until_ms } => until_ms,
                DestinationState::Open if has_room && summary.connections.all() == 0 => {
                    self.now_ms + CONNECT_HOLD_MAX_MS
                }
                _ => continue,
            };
            let wake_ms = scheduler.next_wake_ms().unwrap_or(u64::MAX);
            assert!(
                summary.queued == 0 || wake_ms <= until_ms,
                "a destination sleeps without a reason: {summary:?}"
            );
        }
    }

    fn connect(&mut self, shard: usize, id: DestinationId, conn: ConnId) {
        let owner = &mut self.owners[shard];
        let summary = owner.scheduler.summary(id, self.now_ms).expect("the destination is known");
        let destination: usize = summary.key.parse().expect("destination names are numbers");
        assert!(owner.scheduler.connections() <= self.plan.connections_max, "too many connections");
        let planned = &self.plan.destinations[destination];
        self.seen[destination].connections += 1;
        assert!(
            self.seen[destination].connections <= planned.policy.connections_max,
            "too many connections to one destination"
        );
        let is_probe = summary.state == DestinationState::Probing;
        assert!(is_probe || summary.connections.live() <= summary.window, "beyond the window");
        owner.workers.insert(conn, Worker { destination, stamp: 0, lease_until_ms: 0 });
        let (delay_ms, failure) = planned.peer.dial(self.now_ms, &mut self.random);
        self.after(delay_ms, Event::Dialed { shard, conn, failure });
    }

    fn on_dialed(&mut self, shard: usize, conn: ConnId, failure: Option<FailureKind>) {
        let scheduler = &mut self.owners[shard].scheduler;
        match failure {
            Some(kind) => {
                scheduler.connect_failed(
                    conn,
                    Failure { kind, text: "no connection", host: "mx" },
                    self.now_ms,
                );
                self.gone(shard, conn);
            }
            None => {
                scheduler.connected(conn, self.now_ms);
                self.ask(shard, conn);
            }
        }
        self.pump(shard);
    }

    fn gone(&mut self, shard: usize, conn: ConnId) {
        let worker = self.owners[shard].workers.remove(&conn).expect("a worker ends once");
        self.seen[worker.destination].connections -= 1;
    }

    fn ask(&mut self, shard: usize, conn: ConnId) {
        let owner = &mut self.owners[shard];
        let worker = owner.workers.get_mut(&conn).expect("the worker exists");
        self.event_number += 1;
        worker.stamp = self.event_number;
        let (destination, stamp) = (worker.destination, worker.stamp);
        match owner.scheduler.take_job(conn, self.now_ms) {
            Take::Job(ticket) => {
                worker.lease_until_ms = ticket.lease_until_ms;
                assert!(self.now_ms + JOB_TRANSFER_MS_MAX <= ticket.lease_until_ms);
                self.check_rates(destination);
                let job = &self.disk[number_of(&ticket)];
                assert_eq!(job.destination, destination, "the job is for this destination");
                let age_ms = self.now_ms - job.accepted_ms;
                let peer = self.plan.destinations[destination].peer;
                let (delay_ms, sent) = peer.send(self.now_ms, age_ms, &mut self.random);
                self.after(delay_ms, Event::Sent { shard, conn, sent });
            }
            Take::IdleUntil(at_ms) => {
                assert!(at_ms > self.now_ms, "a busy loop");
                self.at(at_ms, Event::Idle { shard, conn, stamp });
            }
            Take::Close => {
                let delay_ms = 1 + self.random.below(50);
                self.after(delay_ms, Event::Closed { shard, conn });
            }
        }
    }

    fn check_rates(&mut self, destination: usize) {
        let rates = &self.plan.destinations[destination].policy.rates;
        let starts = &mut self.seen[destination].starts;
        starts.push_back(self.now_ms);
        let spans =
            [(rates.per_second, 1_000), (rates.per_minute, 60_000), (rates.per_hour, 3_600_000)];
        for (limit, span_ms) in spans {
            let earlier = limit.and_then(|limit| starts.len().checked_sub(limit as usize + 1));
            if let Some(first) = earlier {
                let gap_ms = self.now_ms - starts[first];
                assert!(gap_ms >= span_ms, "{limit:?} in {span_ms} ms is exceeded: {gap_ms}");
            }
        }
    }

    fn on_sent(&mut self, shard: usize, conn: ConnId, sent: Sent) {
        let now_ms = self.now_ms;
        let owner = &mut self.owners[shard];
        assert!(now_ms <= owner.workers[&conn].lease_until_ms, "the lease covers the transfer");
        let scheduler = &mut owner.scheduler;
        let end = match sent {
            Sent::Delivered => JobEnd::Delivered,
            Sent::Refused => JobEnd::Refused,
            Sent::Deferred | Sent::Throttled => JobEnd::Deferred,
            Sent::Broken => JobEnd::Lost,
        };
        let failure = Failure { kind: FailureKind::Lost, text: "connection reset", host: "mx" };
        if sent == Sent::Throttled {
            scheduler.throttled(conn, "421 too much", now_ms);
        }
        let ticket = match sent {
            Sent::Broken => scheduler.connection_lost(conn, failure, now_ms),
            _ => scheduler.job_done(conn, end, now_ms),
        };
        let ticket = ticket.expect("a transfer was in progress");
        self.disk[number_of(&ticket)].deliveries += usize::from(sent == Sent::Delivered);
        self.send_home(ticket, Outcome::Ended(end));
        match sent {
            Sent::Broken => self.gone(shard, conn),
            Sent::Throttled => self.after(1, Event::Closed { shard, conn }),
            _ => self.ask(shard, conn),
        }
        self.pump(shard);
    }
}

fn is_delivery(event: &Event) -> bool {
    matches!(event, Event::Settle { outcome: Outcome::Ended(JobEnd::Delivered), .. })
}

fn number_of(ticket: &JobTicket) -> usize {
    ticket.id.as_u64() as usize
}

fn first_of(destination: usize, shards: usize) -> ShardId {
    ShardId((destination % shards) as u16)
}

fn key_of(destination: usize) -> String {
    destination.to_string()
}
