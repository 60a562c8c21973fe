//! One destination at its owner: queue, connection classes, sources, windows, health, rates.
//!
//! Owner:    the owner shard of the destination, or one of its members if it is striped.
//! Promise:  no rate and no number of connections is exceeded. One call, `ended`, tells all that a
//!           connection has found out, so that no order of calls can undo a throttle. What this
//!           server lacks slows nobody down and costs no attempt.
//! Bounds:   jobs by the places that were granted. A connection class is forgotten with its last job
//!           and connection.
//!
//! No clock and no chance of its own: the time is an argument, and `Random` is seeded.

mod facts;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::base::Mono;
use crate::base::Random;
use crate::base::limits::CONNECT_HOLD_FIRST_MS;
use crate::base::limits::CONNECT_HOLD_MAX_MS;
use crate::base::limits::THROTTLE_FIRST_MS;
use crate::base::limits::THROTTLE_MAX_MS;
use crate::base::limits::TOKEN_MS;
use crate::delivery::fair::ConnectionClass;
use crate::delivery::fair::FairQueue;
use crate::delivery::fair::Origin;
use crate::delivery::fair::Slot;
use crate::delivery::health::BackOff;
use crate::delivery::health::Health;
use crate::delivery::health::Role;
use crate::delivery::health::Standing;
use crate::delivery::limits::Keeping;
use crate::delivery::limits::RateLimit;
use crate::delivery::limits::Tokens;
use crate::delivery::limits::Users;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::OurLimit;
use crate::net::StsPolicy;
use crate::route::Credentials;
use crate::route::DestinationPolicy;
use crate::route::HopProtocol;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::route::source::SourceTable;

pub use facts::Bound;
pub use facts::OutletFacts;

/// Actions of reply rules that are remembered.
const EVIDENCE_MAX: usize = 4;
/// Messages after which a connection gives way to a class that has none.
const CLASS_TURN_MESSAGES: u32 = 10;

/// How a transfer ended. `Lost`: the connection broke before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Delivered,
    Refused,
    Deferred,
    Lost,
}

/// Who is to blame for a connection that failed or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Its hosts, or what leads to them.
    Destination,
    /// The host does not talk to this source, or the proxy or address of the source fails.
    Source,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub blame: Blame,
    pub answer: Arc<Answer>,
    /// Empty if it says nothing of any host.
    pub host: Box<str>,
}

/// What became of the connection.
#[derive(Clone, Debug)]
pub enum LinkEnd {
    /// It asks for the next job.
    Kept,
    /// Closed in order.
    Closed,
    /// Never opened, or broken.
    Failed(Failure),
    /// Never opened or broken for what this server lacks.
    OurLimit(OurLimit),
}

/// What a rule for replies wants to be done.
#[derive(Clone, Debug)]
pub enum RuleAction {
    /// A part of the window, in percent, for a time.
    Slow {
        percent: u32,
        evidence: Arc<Evidence>,
        time: Duration,
        scope: Blame,
    },
    Suspend {
        evidence: Arc<Evidence>,
        time: Duration,
        scope: Blame,
    },
}

/// All that a connection tells when its job or itself has ended.
#[derive(Clone, Debug)]
pub struct End {
    pub job: Option<JobEnd>,
    /// A 421, or a reply that speaks of rates: the server asks for less.
    pub asks_for_less: Option<Arc<Answer>>,
    pub action: Option<RuleAction>,
    pub link: LinkEnd,
}

/// Connections by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub opening: u32,
    /// About to ask for a job.
    pub asking: u32,
    pub busy: u32,
    pub idle: u32,
    /// Told to close, not gone yet: it still counts at the other end.
    pub closing: u32,
}

impl Counts {
    pub const fn live(&self) -> u32 {
        self.opening + self.asking + self.busy + self.idle
    }

    pub const fn all(&self) -> u32 {
        self.live() + self.closing
    }

    /// Connections that take a job without being woken or opened for it.
    const fn coming(&self) -> usize {
        (self.opening + self.asking) as usize
    }
}

/// What a connection is for its destination and for its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub destination: Role,
    pub outlet: Role,
}

impl Roles {
    pub const PLAIN: Roles = Roles { destination: Role::Plain, outlet: Role::Plain };

    pub fn is_probe(self) -> bool {
        self != Roles::PLAIN
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub delivered: u64,
    pub refused: u64,
    pub deferred: u64,
    pub lost: u64,
    pub failures: u64,
    pub returned: u64,
}

/// A bound on connections that rises with successes and falls with failures.
#[derive(Clone, Copy, Debug)]
struct Window {
    size: u32,
    /// Since it last changed.
    successes: u32,
}

impl Window {
    const fn new(size: u32) -> Window {
        Window { size, successes: 0 }
    }

    /// Whether a full window of successes has passed.
    fn succeed(&mut self, is_filled: bool, most: u32) -> bool {
        self.successes += 1;
        if self.successes < self.size {
            return false;
        }
        self.successes = 0;
        // A window that is not filled says nothing about a larger one.
        if is_filled && self.size < most {
            self.size += 1;
        }
        true
    }

    fn shrink_to(&mut self, size: u32) {
        *self = Window::new(size.max(1));
    }
}

/// One source, as the destination treats it.
#[derive(Debug)]
struct Outlet {
    /// `None`: the system chooses the address.
    source: Option<Box<str>>,
    window: Window,
    standing: Standing,
    throttle_ms: u64,
    /// No connection is opened before.
    quiet_until: Mono,
    suspended_until: Mono,
    slowed: Option<(Mono, u32)>,
    live: u32,
}

impl Outlet {
    /// When it may open a connection, as far as time decides that; `None`: when others have ended.
    fn opens_at(&self, now: Mono) -> Option<Mono> {
        let at = self.quiet_until.max(self.suspended_until);
        let at = self.standing.rests(now).map_or(at, |until| at.max(until));
        let is_free = match self.standing.health {
            Health::Working => self.live < self.limit(now),
            Health::BackingOff { .. } => true,
            Health::Probing { .. } => false,
        };
        is_free.then_some(at)
    }

    fn limit(&self, now: Mono) -> u32 {
        match self.slowed {
            Some((until, percent)) if now < until => (self.window.size * percent / 100).max(1),
            _ => self.window.size,
        }
    }

    /// What keeps mail from this source for longer than a moment, and until when. A source whose backoff
    /// is over takes one message, which finds out.
    fn binds(&self, now: Mono) -> Option<(Binds, Option<Mono>)> {
        let suspended = Some(self.suspended_until).filter(|until| now < *until);
        match self.standing.health {
            Health::BackingOff { until, .. } if suspended.is_none_or(|other| other < until) => {
                Some((Binds::BackingOff, Some(until)))
            }
            Health::Probing { .. } if suspended.is_none() => Some((Binds::BackingOff, None)),
            _ => suspended.map(|until| (Binds::Suspended, Some(until))),
        }
    }
}

/// What connections must have in common with the mail that they carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    protocol: HopProtocol,
    tls: OutboundTls,
    require_tls: RequireTls,
    names: HostNames,
    dane: bool,
    /// The policy of the domain, and the domain where its name is part of what a host must prove.
    sts: Option<Arc<StsPolicy>>,
    domain: Option<Box<str>>,
    auth: Option<Arc<Credentials>>,
    pool: Option<Box<str>>,
}

impl ClassKey {
    fn of(hop: &Hop) -> ClassKey {
        let names_domain = hop.sts.is_some() || hop.dane && hop.names == HostNames::SignedMx;
        ClassKey {
            protocol: hop.protocol,
            tls: hop.tls,
            require_tls: hop.require_tls,
            names: hop.names,
            dane: hop.dane,
            sts: hop.sts.clone(),
            domain: names_domain.then(|| hop.domain.clone()),
            auth: hop.auth.clone(),
            pool: hop.pool.clone(),
        }
    }
}

#[derive(Debug)]
struct LinkClass {
    key: ClassKey,
    hop: Arc<Hop>,
    counts: Counts,
}

/// What counts the messages of a destination.
#[derive(Debug)]
pub enum Rate {
    Own(RateLimit),
    /// A member of a striped destination gets them from the lead.
    Tokens(Tokens),
}

impl Rate {
    /// Of a member of a striped destination. Nothing counts where no rate is set.
    pub fn of_member(policy: &DestinationPolicy) -> Rate {
        match policy.rates.is_limited() {
            true => Rate::Tokens(Tokens::default()),
            false => Rate::Own(RateLimit::new(&policy.rates, Keeping::InMemory, Users::OneShard)),
        }
    }

    fn free(&mut self, now: Mono) -> u32 {
        match self {
            Rate::Own(limit) => limit.free(now),
            Rate::Tokens(tokens) => tokens.free(now),
        }
    }

    fn count(&mut self, now: Mono) {
        match self {
            Rate::Own(limit) => limit.count(1, now),
            Rate::Tokens(tokens) => {
                let had_one = tokens.use_one(now);
                debug_assert!(had_one, "`free` has counted it");
            }
        }
    }

    fn frees_at(&mut self, now: Mono) -> Option<Mono> {
        match self {
            Rate::Own(limit) => limit.frees_at(now),
            Rate::Tokens(_) => None,
        }
    }
}

/// A connection to be opened.
#[derive(Clone, Debug)]
pub struct Opening {
    pub class: ConnectionClass,
    pub outlet: u32,
    pub roles: Roles,
    pub hop: Arc<Hop>,
    pub source: Option<Box<str>>,
}

/// A connection as its destination knows it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub class: ConnectionClass,
    pub outlet: u32,
    pub roles: Roles,
    /// It never got as far as to ask for a job.
    pub is_opening: bool,
}

/// A job that goes back to its home without a transfer.
#[derive(Debug)]
pub struct SentBack {
    pub delivery: Box<Delivery>,
    /// A connection was tried for it, and failed: that is an attempt. To be in line is none.
    pub was_tried: bool,
}

#[derive(Debug)]
pub struct Destination {
    pub name: Box<str>,
    policy: Arc<DestinationPolicy>,
    /// The connections that this member of a striped destination may have.
    share: Option<u32>,
    queue: FairQueue<Box<Delivery>>,
    classes: Slab<LinkClass>,
    by_key: HashMap<ClassKey, u32>,
    /// Of the last job: most jobs come with the same hop.
    latest: Option<u32>,
    outlets: Vec<Outlet>,
    by_source: HashMap<Option<Box<str>>, u32>,
    standing: Standing,
    window: Window,
    hold_until: Mono,
    /// Connections that were opened for jobs in line since the last success, and failed.
    connects_failed: usize,
    pub rate: Rate,
    pub counts: Counts,
    pub counters: Counters,
    is_paused: bool,
    suspended_until: Mono,
    slowed: Option<(Mono, u32)>,
    last: Option<Arc<Answer>>,
    last_host: Box<str>,
    evidence: VecDeque<Arc<Evidence>>,
    /// What this server lacked for the last connection.
    lack: Option<(OurLimit, u64)>,
}

impl Destination {
    pub fn new(name: &str, policy: Arc<DestinationPolicy>, rate: Rate) -> Destination {
        let window = policy.window_start.clamp(1, policy.connections_max.max(1));
        Destination {
            name: name.into(),
            policy,
            share: None,
            queue: FairQueue::default(),
            classes: Slab::new(),
            by_key: HashMap::new(),
            latest: None,
            outlets: Vec::new(),
            by_source: HashMap::new(),
            standing: Standing::default(),
            window: Window::new(window),
            hold_until: Mono::ZERO,
            connects_failed: 0,
            rate,
            counts: Counts::default(),
            counters: Counters::default(),
            is_paused: false,
            suspended_until: Mono::ZERO,
            slowed: None,
            last: None,
            last_host: Box::default(),
            evidence: VecDeque::new(),
            lack: None,
        }
    }

    /// A reload. What was sent before still counts.
    pub fn set_policy(&mut self, policy: Arc<DestinationPolicy>) {
        if let Rate::Own(limit) = &mut self.rate {
            limit.set_rates(&policy.rates);
        }
        let most = policy.connections_max.max(1);
        self.window.size = self.window.size.clamp(1, most);
        for outlet in &mut self.outlets {
            outlet.window.size = outlet.window.size.clamp(1, most);
        }
        self.policy = policy;
    }

    pub fn policy(&self) -> &Arc<DestinationPolicy> {
        &self.policy
    }

    /// `None`: it is not striped.
    pub fn set_share(&mut self, share: Option<u32>) {
        self.share = share;
    }

    /// The connections that a member would use, if it has another number of them.
    pub fn wants_share(&self) -> Option<u32> {
        let wanted = self.wanted();
        self.share.is_some_and(|share| share != wanted).then_some(wanted)
    }

    /// The connections that it would use.
    pub fn wanted(&self) -> u32 {
        let useful = (self.queued() as u32 + self.counts.busy).min(self.policy.connections_max);
        useful.max(self.counts.all())
    }

    pub fn limit(&self) -> u32 {
        self.share
            .map_or(self.policy.connections_max, |share| share.min(self.policy.connections_max))
    }

    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Queues a job, unless mail of its kind rests for longer than a moment.
    pub fn push(
        &mut self,
        delivery: Box<Delivery>,
        (sources, now): (&SourceTable, Mono),
    ) -> Result<Slot, Box<Delivery>> {
        if self.rests(delivery.hop.pool.as_deref(), sources, now) {
            return Err(delivery);
        }
        let connection = self.class_of(&delivery.hop);
        let origin = Origin {
            connection,
            tenant: delivery.flow.tenant,
            sender: delivery.mail.sender,
            weight: delivery.weight,
            class: delivery.flow.class,
            bytes: delivery.mail.bytes,
        };
        Ok(self.queue.push(delivery, origin))
    }

    /// Takes a job out of the queue that has not begun.
    pub fn remove(&mut self, slot: Slot) -> Option<Box<Delivery>> {
        let delivery = self.queue.remove(slot)?;
        self.forget_class(self.find_class(&delivery.hop));
        Some(delivery)
    }

    /// Empties the queue.
    pub fn drain(&mut self) -> Vec<SentBack> {
        let mut tried = std::mem::take(&mut self.connects_failed);
        let mut drained = Vec::with_capacity(self.queue.len());
        for delivery in self.queue.drain() {
            drained.push(SentBack { delivery, was_tried: tried > 0 });
            tried = tried.saturating_sub(1);
        }
        self.forget_classes();
        drained
    }

    /// The next job for a connection, if one may start now.
    pub fn take(&mut self, link: &Link, now: Mono) -> Option<Box<Delivery>> {
        if !self.is_fit(link, now) || self.is_resting(now) || self.rate.free(now) == 0 {
            return None;
        }
        let taken = self.queue.take(link.class)?;
        self.rate.count(now);
        Some(taken.job)
    }

    /// The jobs of a tenant are not taken while they are held.
    pub fn hold_tenant(&mut self, tenant: u64, is_held: bool) {
        match is_held {
            true => self.queue.hold(tenant, None),
            false => self.queue.release(tenant, None),
        }
    }

    /// Takes all jobs of a tenant out of the queue.
    pub fn remove_tenant(&mut self, tenant: u64) -> Vec<Box<Delivery>> {
        let removed = self.queue.remove_tenant(tenant);
        self.forget_classes();
        removed
    }

    pub fn is_rate_spent(&mut self, now: Mono) -> bool {
        self.rate.free(now) == 0
    }

    /// The job that was taken then does not begin, and does not count.
    pub fn untake(&mut self, then: Mono, now: Mono) {
        if let Rate::Own(limit) = &mut self.rate {
            limit.give_back(1, then.plus_ms(TOKEN_MS), now);
        }
    }

    /// Whether health lets this connection be used.
    fn is_fit(&self, link: &Link, now: Mono) -> bool {
        let outlet = &self.outlets[link.outlet as usize];
        self.standing.admits(link.roles.destination)
            && outlet.standing.admits(link.roles.outlet)
            && now >= outlet.suspended_until
    }

    /// A job that the connection could carry, whatever limits there are: it is not sent.
    pub fn take_refused(&mut self, link: &Link) -> Option<Box<Delivery>> {
        self.queue.take(link.class).map(|taken| taken.job)
    }

    /// Whether mail waits for which an idle connection should be woken now.
    pub fn wakes_any(&mut self, now: Mono) -> bool {
        !self.is_resting(now)
            && self.uncovered().next().is_some()
            && self.rate.free(now) as usize > self.counts.coming()
    }

    /// Whether it should be one of this class. If health keeps it from taking a job, it closes, and
    /// makes room.
    pub fn wakes(&self, class: ConnectionClass) -> bool {
        self.queue.ready(class) > self.class_coming(class)
    }

    /// Whether jobs wait that this connection could carry.
    pub fn has_mail(&self, link: &Link) -> bool {
        self.queue.ready(link.class) > 0
    }

    /// Whether a connection of this destination should be opened now, if there is room for it.
    pub fn wants_connection(&mut self, now: Mono) -> bool {
        if self.queue.is_empty() || self.is_resting(now) || self.counts.all() >= self.limit() {
            return false;
        }
        let is_open = match self.standing.health {
            Health::Working => self.counts.live() < self.size(now) && self.hold_until <= now,
            Health::BackingOff { until, .. } => until <= now,
            Health::Probing { .. } => false,
        };
        is_open
            && self.rate.free(now) as usize > self.counts.coming()
            && self.uncovered().next().is_some()
    }

    /// The connection to open now.
    pub fn open(
        &mut self,
        sources: &SourceTable,
        now: Mono,
        random: &mut Random,
    ) -> Option<Opening> {
        if !self.wants_connection(now) {
            return None;
        }
        let (class, outlet) = self.pick_class(sources, now, random)?;
        let hop = Arc::clone(&self.classes[class.0 as usize].hop);
        let roles = Roles {
            destination: self.standing.on_open(),
            outlet: self.outlets[outlet as usize].standing.on_open(),
        };
        if roles.destination == Role::Probe {
            // What failed before the backoff was for jobs that are not in line any more.
            self.connects_failed = 0;
        }
        let source = self.outlets[outlet as usize].source.clone();
        Some(Opening { class, outlet, roles, hop, source })
    }

    /// Of the classes that need a connection and have a source for it the one with the fewest.
    fn pick_class(
        &mut self,
        sources: &SourceTable,
        now: Mono,
        random: &mut Random,
    ) -> Option<(ConnectionClass, u32)> {
        let live = |class: ConnectionClass| self.classes[class.0 as usize].counts.live();
        let mut classes: Vec<_> = self.uncovered().map(|class| (live(class), class)).collect();
        classes.sort_unstable();
        let mut blocked: Vec<Option<Box<str>>> = Vec::new();
        for (_, class) in classes {
            let pool = self.classes[class.0 as usize].key.pool.clone();
            if blocked.contains(&pool) {
                continue;
            }
            if let Some(outlet) = self.pick_outlet(pool.as_deref(), sources, now, random) {
                return Some((class, outlet));
            }
            blocked.push(pool);
        }
        None
    }

    /// When, without any event, this destination may want something that it does not want now.
    pub fn next_change(&mut self, now: Mono) -> Option<Mono> {
        if self.queue.is_empty() || self.is_paused {
            return None;
        }
        let mut next: Option<Mono> = None;
        let mut later = |at: Mono| {
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        later(self.hold_until);
        later(self.suspended_until);
        self.slowed.into_iter().for_each(|(until, _)| later(until));
        if let Health::BackingOff { until, .. } = self.standing.health {
            later(until);
        }
        for outlet in &self.outlets {
            outlet.opens_at(now).into_iter().for_each(&mut later);
            outlet.slowed.into_iter().for_each(|(until, _)| later(until));
        }
        self.rate.frees_at(now).into_iter().for_each(&mut later);
        next
    }

    /// When the first of the rests ends, after which homes may have places.
    pub fn rest_ends(&self, now: Mono) -> Option<Mono> {
        let standings = self.outlets.iter().map(|outlet| &outlet.standing);
        let back_offs = standings.chain([&self.standing]).filter_map(|one| one.rests(now));
        let suspensions = self.outlets.iter().map(|outlet| outlet.suspended_until);
        let suspensions = suspensions.chain([self.suspended_until]).filter(|until| now < *until);
        back_offs.chain(suspensions).min()
    }

    /// All that a connection has found out. The jobs that go home, if a backoff or a suspension begins.
    pub fn ended(
        &mut self,
        link: &Link,
        end: &End,
        (sources, now): (&SourceTable, Mono),
        random: &mut Random,
    ) -> Vec<SentBack> {
        let is_throttled = end.asks_for_less.is_some();
        match end.job {
            Some(JobEnd::Delivered) => self.counters.delivered += 1,
            Some(JobEnd::Refused) => self.counters.refused += 1,
            Some(JobEnd::Deferred) => self.counters.deferred += 1,
            Some(JobEnd::Lost) => self.counters.lost += 1,
            None => {}
        }
        match end.job {
            Some(JobEnd::Delivered | JobEnd::Refused) if !is_throttled => self.succeed(link),
            Some(JobEnd::Deferred) if link.roles.is_probe() && !is_throttled => self.succeed(link),
            _ => {}
        }
        let mut begins = false;
        if let Some(answer) = &end.asks_for_less {
            begins |= self.slow_down(link, answer, now, random);
        }
        if let Some(action) = &end.action {
            begins |= self.act(link, action, now);
        }
        begins |= self.link_ended(link, end, now, random);
        if begins { self.drain_resting(sources, now) } else { Vec::new() }
    }

    fn succeed(&mut self, link: &Link) {
        self.connects_failed = 0;
        self.hold_until = Mono::ZERO;
        self.lack = None;
        let most = self.policy.connections_max;
        match self.standing.succeed() {
            true => self.window = Window::new(1),
            false => {
                let is_filled = self.counts.live() >= self.window.size;
                self.window.succeed(is_filled, most);
            }
        }
        let outlet = &mut self.outlets[link.outlet as usize];
        match outlet.standing.succeed() {
            true => outlet.window = Window::new(1),
            false => {
                let is_filled = outlet.live >= outlet.window.size;
                if outlet.window.succeed(is_filled, most) {
                    outlet.throttle_ms /= 2;
                }
            }
        }
    }

    /// The server asks for less. A quarter of this source's window goes, and the source opens nothing
    /// for a while. Its other connections go on. Whether a backoff begins.
    fn slow_down(
        &mut self,
        link: &Link,
        answer: &Arc<Answer>,
        now: Mono,
        random: &mut Random,
    ) -> bool {
        self.note(answer, "");
        self.counters.failures += 1;
        let terms = self.back_off();
        let outlet = &mut self.outlets[link.outlet as usize];
        let probes = [
            (&mut self.standing, link.roles.destination),
            (&mut outlet.standing, link.roles.outlet),
        ];
        let mut has_failed = false;
        for (standing, role) in probes {
            if role == Role::Probe && matches!(standing.health, Health::Probing { .. }) {
                has_failed |= standing.fail(role, &terms, now, random);
            }
        }
        if has_failed {
            return true;
        }
        let size = outlet.window.size;
        outlet.window.shrink_to(size - size.div_ceil(4));
        // Those that come together count once.
        if now >= outlet.quiet_until {
            outlet.throttle_ms = (outlet.throttle_ms * 2).clamp(THROTTLE_FIRST_MS, THROTTLE_MAX_MS);
        }
        let spread_ms = random.below(outlet.throttle_ms / 4 + 1);
        let until = now.plus_ms(outlet.throttle_ms + spread_ms);
        outlet.quiet_until = outlet.quiet_until.max(until);
        false
    }

    /// Whether a suspension begins.
    fn act(&mut self, link: &Link, action: &RuleAction, now: Mono) -> bool {
        let outlet = &mut self.outlets[link.outlet as usize];
        let (evidence, suspends) = match action {
            RuleAction::Slow { percent, evidence, time, scope } => {
                let slowed = Some((now.plus(*time), *percent));
                match scope {
                    Blame::Destination => self.slowed = slowed,
                    Blame::Source => outlet.slowed = slowed,
                }
                (evidence, false)
            }
            RuleAction::Suspend { evidence, time, scope } => {
                let until = now.plus(*time);
                let suspended = match scope {
                    Blame::Destination => &mut self.suspended_until,
                    Blame::Source => &mut outlet.suspended_until,
                };
                *suspended = until.max(*suspended);
                (evidence, true)
            }
        };
        if self.evidence.len() == EVIDENCE_MAX {
            self.evidence.pop_front();
        }
        self.evidence.push_back(Arc::clone(evidence));
        suspends
    }

    /// Whether a backoff begins.
    fn link_ended(&mut self, link: &Link, end: &End, now: Mono, random: &mut Random) -> bool {
        let (destination, outlet) = (&mut self.standing, &mut self.outlets[link.outlet as usize]);
        match &end.link {
            LinkEnd::Kept => false,
            LinkEnd::Closed => {
                destination.on_probe_gone(link.roles.destination, now);
                outlet.standing.on_probe_gone(link.roles.outlet, now);
                false
            }
            LinkEnd::OurLimit(limit) => {
                let before_ms =
                    self.lack.filter(|(lack, _)| lack == limit).map_or(0, |lack| lack.1);
                let pause_ms = (2 * before_ms).clamp(CONNECT_HOLD_FIRST_MS, 1000);
                self.lack = Some((*limit, pause_ms));
                let until = now.plus_ms(pause_ms);
                self.hold_until = self.hold_until.max(until);
                destination.on_probe_gone(link.roles.destination, until);
                outlet.standing.on_probe_gone(link.roles.outlet, until);
                false
            }
            LinkEnd::Failed(failure) => {
                self.connects_failed += usize::from(link.is_opening);
                self.fail(link, failure, now, random)
            }
        }
    }

    fn fail(&mut self, link: &Link, failure: &Failure, now: Mono, random: &mut Random) -> bool {
        self.note(&failure.answer, &failure.host);
        self.counters.failures += 1;
        self.lack = None;
        let terms = self.back_off();
        let hold = |standing: &Standing| {
            let hold_ms = CONNECT_HOLD_FIRST_MS << standing.failures().min(16);
            now.plus_ms(hold_ms.min(CONNECT_HOLD_MAX_MS))
        };
        let Roles { destination: role, outlet: outlet_role } = link.roles;
        let outlet = &mut self.outlets[link.outlet as usize];
        match failure.blame {
            Blame::Source => {
                outlet.quiet_until = outlet.quiet_until.max(hold(&outlet.standing));
                outlet.window.shrink_to(outlet.window.size / 2);
                // The destination was reached, or nothing was found out about it.
                self.standing.on_probe_gone(role, now);
                outlet.standing.fail(outlet_role, &terms, now, random)
            }
            Blame::Destination => {
                outlet.standing.on_probe_gone(outlet_role, now);
                if self.standing.is_working() {
                    self.window.shrink_to(self.window.size / 2);
                    self.hold_until = self.hold_until.max(hold(&self.standing));
                }
                self.standing.fail(role, &terms, now, random)
            }
        }
    }

    fn back_off(&self) -> BackOff {
        BackOff {
            failures: self.policy.failures_to_back_off,
            first: self.policy.back_off_first,
            max: self.policy.back_off_max,
        }
    }

    fn note(&mut self, answer: &Arc<Answer>, host: &str) {
        self.last = Some(Arc::clone(answer));
        self.last_host = host.into();
    }

    /// The jobs for which no connection may be opened for longer than a moment.
    fn drain_resting(&mut self, sources: &SourceTable, now: Mono) -> Vec<SentBack> {
        if self.is_resting(now) || self.standing.rests(now).is_some() {
            return self.drain();
        }
        let mut drained = Vec::new();
        let ready: Vec<ConnectionClass> =
            self.queue.ready_by_class().map(|(class, _)| class).collect();
        for class in ready {
            let pool = self.classes[class.0 as usize].hop.pool.clone();
            if !self.rests(pool.as_deref(), sources, now) {
                continue;
            }
            while let Some(taken) = self.queue.take(class) {
                let was_tried = self.connects_failed > 0;
                self.connects_failed = self.connects_failed.saturating_sub(1);
                drained.push(SentBack { delivery: taken.job, was_tried });
            }
            self.forget_class(Some(class));
        }
        drained
    }

    /// Paused or suspended.
    fn is_resting(&self, now: Mono) -> bool {
        self.is_paused || now < self.suspended_until
    }

    /// Whether mail from this pool has to wait for longer than a moment, whatever the reason.
    pub fn rests(&self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> bool {
        self.is_resting(now)
            || self.standing.rests(now).is_some()
            || matches!(self.pool_binds(pool, sources, now), Some((_, Some(until))) if now < until)
    }

    /// What keeps mail from all sources of a pool, and until when: of the first that is free again.
    fn pool_binds(
        &self,
        pool: Option<&str>,
        sources: &SourceTable,
        now: Mono,
    ) -> Option<(Binds, Option<Mono>)> {
        let of_source = |source: Option<&str>| {
            let outlet = self.by_source.get(&source.map(Box::from))?;
            self.outlets[*outlet as usize].binds(now)
        };
        let Some(pool) = pool else { return of_source(None) };
        let mut first: Option<(Binds, Option<Mono>)> = None;
        for (source, _) in sources.pool(pool).into_iter().flat_map(|pool| sources.members(pool)) {
            let one = of_source(Some(&source.name))?;
            // `None`, of a probe, is before all others.
            if first.is_none_or(|first| one.1 < first.1) {
                first = Some(one);
            }
        }
        first
    }

    /// A source of the pool that may open a connection now, by weight.
    fn pick_outlet(
        &mut self,
        pool: Option<&str>,
        sources: &SourceTable,
        now: Mono,
        random: &mut Random,
    ) -> Option<u32> {
        let Some(pool) = pool else {
            let outlet = self.outlet_of(None);
            return self.opens(outlet, now).then_some(outlet);
        };
        // A pool that a reload has removed has no source: `connection` tells.
        let Some(pool) = sources.pool(pool) else {
            let outlet = self.outlet_of(Some(pool));
            return self.opens(outlet, now).then_some(outlet);
        };
        let mut free = Vec::new();
        for (source, weight) in sources.members(pool) {
            let outlet = self.outlet_of(Some(&source.name));
            if self.opens(outlet, now) {
                free.push((outlet, weight));
            }
        }
        let mut point = random.below(free.iter().map(|(_, weight)| weight).sum());
        free.into_iter().find_map(|(outlet, weight)| {
            let is_it = point < weight;
            point = point.saturating_sub(weight);
            is_it.then_some(outlet)
        })
    }

    fn opens(&self, outlet: u32, now: Mono) -> bool {
        self.outlets[outlet as usize].opens_at(now).is_some_and(|at| at <= now)
    }

    fn outlet_of(&mut self, source: Option<&str>) -> u32 {
        let source = source.map(Box::from);
        if let Some(outlet) = self.by_source.get(&source) {
            return *outlet;
        }
        let window = self.policy.window_start.clamp(1, self.policy.connections_max.max(1));
        self.outlets.push(Outlet {
            source: source.clone(),
            window: Window::new(window),
            standing: Standing::default(),
            throttle_ms: 0,
            quiet_until: Mono::ZERO,
            suspended_until: Mono::ZERO,
            slowed: None,
            live: 0,
        });
        let outlet = self.outlets.len() as u32 - 1;
        self.by_source.insert(source, outlet);
        outlet
    }

    fn class_of(&mut self, hop: &Arc<Hop>) -> ConnectionClass {
        let latest =
            self.latest.and_then(|latest| Some((latest, self.classes.get(latest as usize)?)));
        if let Some((latest, class)) = latest
            && Arc::ptr_eq(&class.hop, hop)
        {
            return ConnectionClass(latest);
        }
        let key = ClassKey::of(hop);
        let class = match self.by_key.get(&key).copied() {
            Some(class) => {
                self.classes[class as usize].hop = Arc::clone(hop);
                class
            }
            None => {
                let (hop, counts) = (Arc::clone(hop), Counts::default());
                let class = self.classes.insert(LinkClass { key: key.clone(), hop, counts }) as u32;
                self.by_key.insert(key, class);
                class
            }
        };
        self.latest = Some(class);
        ConnectionClass(class)
    }

    fn find_class(&self, hop: &Hop) -> Option<ConnectionClass> {
        self.by_key.get(&ClassKey::of(hop)).copied().map(ConnectionClass)
    }

    /// Forgets a class without jobs and connections.
    fn forget_class(&mut self, class: Option<ConnectionClass>) {
        let Some(class) = class else { return };
        let known = self.classes.get(class.0 as usize);
        let is_unused = known.is_some_and(|one| one.counts == Counts::default());
        if is_unused && !self.queue.has_jobs(class) {
            let class = self.classes.remove(class.0 as usize);
            self.by_key.remove(&class.key);
        }
    }

    fn forget_classes(&mut self) {
        let all: Vec<u32> = self.classes.iter().map(|(index, _)| index as u32).collect();
        all.into_iter().for_each(|class| self.forget_class(Some(ConnectionClass(class))));
    }

    fn class_coming(&self, class: ConnectionClass) -> usize {
        self.classes.get(class.0 as usize).map_or(0, |class| class.counts.coming())
    }

    /// The classes with more jobs than connections that come for them.
    fn uncovered(&self) -> impl Iterator<Item = ConnectionClass> {
        let classes = self.queue.ready_by_class();
        let uncovered = classes.filter(|(class, ready)| *ready > self.class_coming(*class));
        uncovered.map(|(class, _)| class)
    }

    fn size(&self, now: Mono) -> u32 {
        match self.slowed {
            Some((until, percent)) if now < until => (self.window.size * percent / 100).max(1),
            _ => self.window.size,
        }
    }

    /// Whether a connection that asks for a job, or is idle, must make room.
    pub fn must_close(&self, link: &Link, taken: u32, now: Mono) -> bool {
        if !self.is_fit(link, now) || taken >= self.policy.messages_per_connection.max(1) {
            return true;
        }
        let outlet = &self.outlets[link.outlet as usize];
        if !self.standing.is_working() || !outlet.standing.is_working() {
            // The probe is alone.
            return false;
        }
        let (live, window) = (self.counts.live(), self.window(now));
        if live > window || outlet.live > outlet.limit(now) {
            return true;
        }
        let is_full = live >= window
            || outlet.live >= outlet.limit(now)
            || self.counts.all() >= self.limit() && self.counts.closing == 0;
        let own = &self.classes[link.class.0 as usize].counts;
        is_full
            && (taken >= CLASS_TURN_MESSAGES && own.live() > 1 || !self.has_mail(link))
            && self.uncovered().any(|class| class != link.class)
    }

    /// The one place that counts connections. `None`: it is new, or gone.
    pub fn shift(&mut self, link: &Link, from: Option<Place>, to: Option<Place>) {
        let class = &mut self.classes[link.class.0 as usize];
        for counts in [&mut self.counts, &mut class.counts] {
            if let Some(from) = from {
                *from.of(counts) -= 1;
            }
            if let Some(to) = to {
                *to.of(counts) += 1;
            }
        }
        let is_live = |place: Option<Place>| place.is_some_and(|place| place != Place::Closing);
        let outlet = &mut self.outlets[link.outlet as usize];
        outlet.live += u32::from(is_live(to));
        outlet.live -= u32::from(is_live(from));
        if to.is_none() {
            self.forget_class(Some(link.class));
        }
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    pub fn flows(&self) -> usize {
        self.queue.flows()
    }

    pub fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.queue.jobs().map(|delivery| &**delivery)
    }

    pub fn queued_at(&self, slot: Slot) -> Option<&Delivery> {
        self.queue.get(slot).map(|delivery| &**delivery)
    }

    pub fn ahead_of(&self, slot: Slot) -> Option<usize> {
        self.queue.ahead_of(slot)
    }

    /// The bound on connections now.
    pub fn window(&self, now: Mono) -> u32 {
        self.size(now).min(self.limit())
    }

    pub fn evidence(&self) -> impl Iterator<Item = &Arc<Evidence>> {
        self.evidence.iter()
    }

    /// Whether it has just failed, so that its first connection goes before nobody's.
    pub fn is_in_trouble(&self) -> bool {
        !self.standing.is_working() || self.standing.failures() > 0
    }

    /// Nothing is queued and no connection is open.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.counts.all() == 0
    }

    /// A backoff may be over, and no job of the pool has come that could be the probe.
    pub fn awaits_probe(&self, pool: Option<&str>) -> bool {
        let has_jobs = |(index, class): (usize, &LinkClass)| {
            class.key.pool.as_deref() == pool && self.queue.has_jobs(ConnectionClass(index as u32))
        };
        self.queue.is_empty() || !self.classes.iter().any(has_jobs)
    }

    /// Until when something about it must be remembered, beyond the usual time. When there is no room,
    /// how long it has been failing does not count: the next attempt tells.
    pub fn is_worth_keeping_until(&mut self, is_full: bool, now: Mono) -> Mono {
        let mut until = self.suspended_until;
        let back_off_max = self.policy.back_off_max;
        let mut later = |standing: &Standing| match standing.health {
            Health::BackingOff { until: back_off, .. } if !is_full => {
                until = until.max(back_off.plus(back_off_max));
            }
            _ => {}
        };
        later(&self.standing);
        self.outlets.iter().for_each(|outlet| later(&outlet.standing));
        for outlet in &self.outlets {
            until = until.max(outlet.quiet_until).max(outlet.suspended_until);
        }
        let slowed = self.outlets.iter().map(|outlet| outlet.slowed).chain([self.slowed]);
        until = slowed.flatten().fold(until, |until, (slowed, _)| until.max(slowed));
        match &mut self.rate {
            Rate::Own(limit) => until.max(limit.empties_at(now)),
            Rate::Tokens(_) => until,
        }
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Opening,
    Asking,
    Busy,
    Idle,
    Closing,
}

impl Place {
    fn of(self, counts: &mut Counts) -> &mut u32 {
        match self {
            Place::Opening => &mut counts.opening,
            Place::Asking => &mut counts.asking,
            Place::Busy => &mut counts.busy,
            Place::Idle => &mut counts.idle,
            Place::Closing => &mut counts.closing,
        }
    }
}
