//! One destination at its owner: queue, connection classes, sources, windows, health, rates.
//!
//! Owner:    the owner shard of the destination, or one of its members if it is striped.
//! Promise:  no rate and no number of connections is exceeded. A source that has used up its rate leaves
//!           its connections to the others. One call, `ended`, tells all that a connection has found
//!           out, so that no order of calls can undo a throttle. What this server lacks slows nobody
//!           down and costs no attempt.
//! Bounds:   jobs by the places that were granted. A connection class is forgotten with its last job
//!           and connection; one whose TLS demands failed stays, while there are no more than
//!           `CLASSES_REMEMBERED`.
//!
//! No clock and no chance of its own: the time is an argument, and `Random` is seeded.

mod class;
mod connection;
mod ending;
mod facts;
mod opening;
mod outlet;
mod rate;
mod resting;
mod source_rate;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::base::Mono;
use crate::base::Random;
use crate::base::limits::CONNECT_HOLD_FIRST_MS;
use crate::base::limits::CONNECT_HOLD_MAX_MS;
use crate::base::limits::THROTTLE_FIRST_MS;
use crate::base::limits::THROTTLE_MAX_MS;
use crate::delivery::destination::class::ClassKey;
use crate::delivery::destination::class::LinkClass;
use crate::delivery::destination::outlet::Outlet;
use crate::delivery::destination::outlet::Window;
use crate::delivery::fair::ConnectionClass;
use crate::delivery::fair::FairQueue;
use crate::delivery::fair::Origin;
use crate::delivery::fair::Slot;
use crate::delivery::health::BackOff;
use crate::delivery::health::Health;
use crate::delivery::health::Role;
use crate::delivery::health::Standing;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Bound;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::OurLimit;
use crate::route::DestinationPolicy;
use crate::route::source::SourceTable;

pub use connection::Blame;
pub use connection::Counters;
pub use connection::Counts;
pub use connection::End;
pub use connection::Failure;
pub use connection::JobEnd;
pub use connection::Link;
pub use connection::LinkEnd;
pub use connection::Opening;
pub use connection::Roles;
pub use connection::RuleAction;
pub use connection::SentBack;
pub use connection::Stage;
pub use facts::OutletFacts;
pub use rate::CountedBy;
pub use rate::Rate;

/// Messages after which a connection gives way to a class that has none.
const CLASS_TURN_MESSAGES: u32 = 10;
/// Classes without jobs that are remembered for what was unmet.
const CLASSES_REMEMBERED: usize = 1024;

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
    /// The number of the last job taken.
    turn: u64,
    outlets: Vec<Outlet>,
    by_source: HashMap<Option<Box<str>>, u32>,
    standing: Standing,
    window: Window,
    hold_until: Mono,
    /// Connections that were opened for queued jobs since the last success, and failed.
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
            turn: 0,
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
    pub fn set_policy(&mut self, policy: Arc<DestinationPolicy>, sources: &SourceTable) {
        let is_member = self.share.is_some();
        self.rate.set_rates(&policy.rates, is_member);
        let most = policy.connections_max.max(1);
        self.window.size = self.window.size.clamp(1, most);
        for outlet in &mut self.outlets {
            outlet.window.size = outlet.window.size.clamp(1, most);
            outlet.rate.set_rates(&policy.source_rates, is_member);
        }
        self.policy = policy;
        for class in self.all_classes() {
            let pool = self.classes[class as usize].key.pool.clone();
            self.classes[class as usize].outlets = self.outlets_of(pool.as_deref(), sources);
        }
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
        if self.rests(delivery.hop.pool.as_deref(), sources, now)
            || self.unmet(&delivery.hop, now).is_some()
        {
            return Err(delivery);
        }
        let connection = self.class_of(&delivery.hop, sources);
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

    /// The next job for a connection, if one may start now, and until when its tokens were valid.
    pub fn take(&mut self, link: &Link, now: Mono) -> Option<(Box<Delivery>, CountedBy)> {
        let is_free = self.is_fit(link, now) && !self.is_resting(now) && self.has_mail(link);
        let outlet = &mut self.outlets[link.outlet as usize];
        if !is_free || self.rate.free(now) == 0 || outlet.rate.free(now) == 0 {
            return None;
        }
        let taken = self.queue.take(link.class)?;
        self.turn += 1;
        self.classes[link.class.0 as usize].served = self.turn;
        let (destination, source) = (self.rate.count(now), outlet.rate.count(now));
        Some((taken.job, CountedBy { destination, source }))
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

    /// Whether health lets this connection be used.
    fn is_fit(&self, link: &Link, now: Mono) -> bool {
        let outlet = &self.outlets[link.outlet as usize];
        let class = &self.classes[link.class.0 as usize];
        self.standing.admits(link.roles.destination)
            && outlet.standing.admits(link.roles.outlet)
            && class.standing.admits(link.roles.class)
            && now >= outlet.suspended_until
    }

    /// A job that the connection could carry, whatever limits there are: it is not sent. Jobs of held
    /// tenants stay.
    pub fn take_refused(&mut self, link: &Link) -> Option<Box<Delivery>> {
        self.queue.take(link.class).map(|taken| taken.job)
    }

    /// Whether mail waits for which an idle connection should be woken now.
    pub fn wakes_any(&mut self, now: Mono) -> bool {
        !self.is_resting(now)
            && self.uncovered(now).next().is_some()
            && self.rate.free(now) as usize > self.counts.coming()
    }

    /// Whether it should be this one. If health keeps it from taking a job, it closes, and makes room.
    pub fn wakes(&mut self, link: &Link, now: Mono) -> bool {
        self.queue.ready(link.class) > self.class_coming(link.class)
            && self.outlets[link.outlet as usize].takes_more(now)
    }

    /// Whether this class has an idle connection, or may get one.
    pub fn may_serve(&mut self, class: ConnectionClass, now: Mono) -> bool {
        self.classes[class.0 as usize].counts.idle > 0 || self.wants_connection(now)
    }

    /// Whether jobs wait that this connection could carry.
    pub fn has_mail(&self, link: &Link) -> bool {
        self.queue.ready(link.class) > 0
    }

    fn class_of(&mut self, hop: &Arc<Hop>, sources: &SourceTable) -> ConnectionClass {
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
                let outlets = self.outlets_of(hop.pool.as_deref(), sources);
                let class = LinkClass::new(key.clone(), Arc::clone(hop), outlets);
                let class = self.classes.insert(class) as u32;
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
        // One that has failed is remembered as long as the destination, unless there are many.
        let is_unused = known.is_some_and(|one| {
            one.counts == Counts::default()
                && (one.unmet.is_none() || self.classes.len() > CLASSES_REMEMBERED)
        });
        if is_unused && !self.queue.has_jobs(class) {
            let class = self.classes.remove(class.0 as usize);
            self.by_key.remove(&class.key);
        }
    }

    fn forget_classes(&mut self) {
        let all = self.all_classes().into_iter().map(ConnectionClass);
        all.for_each(|class| self.forget_class(Some(class)));
    }

    fn all_classes(&self) -> Vec<u32> {
        self.classes.iter().map(|(index, _)| index as u32).collect()
    }

    fn class_coming(&self, class: ConnectionClass) -> usize {
        self.classes.get(class.0 as usize).map_or(0, |class| class.counts.coming())
    }

    /// The classes with more jobs than connections that come for them, but those that wait after TLS
    /// has failed, or for all of their sources.
    fn uncovered(&self, now: Mono) -> impl Iterator<Item = ConnectionClass> {
        let opens = move |class: ConnectionClass| {
            let class = &self.classes[class.0 as usize];
            let mut outlets = class.outlets.iter();
            class.opens_at().is_some_and(|at| at <= now)
                && outlets.any(|(outlet, _)| self.outlets[*outlet as usize].is_usable(now))
        };
        let classes = self.queue.ready_by_class();
        let uncovered = classes.filter(|(class, ready)| *ready > self.class_coming(*class));
        uncovered.map(|(class, _)| class).filter(move |class| opens(*class))
    }

    /// The class whose turn it is, where the rate does not suffice for one job of each: the one that
    /// has waited longest.
    pub fn next_turn(&mut self, now: Mono) -> Option<ConnectionClass> {
        let left = (self.rate.free(now) as usize).saturating_sub(self.counts.coming());
        let served = |class: &ConnectionClass| self.classes[class.0 as usize].served;
        let classes = self.uncovered(now).count();
        self.uncovered(now).min_by_key(served).filter(|_| left < classes)
    }

    /// What TLS has to be there that is not, for mail by this hop: until when none of it is tried.
    pub fn unmet(&self, hop: &Hop, now: Mono) -> Option<(Mono, Arc<Answer>, Box<str>)> {
        let class = &self.classes[self.find_class(hop)?.0 as usize];
        let until = class.standing.rests(now)?;
        let (answer, host) = class.unmet.clone()?;
        Some((until, answer, host))
    }

    fn size(&self, now: Mono) -> u32 {
        self.window.slowed(self.slowed, now)
    }

    /// Whether a connection must make room that asks for a job after so many, or is idle (`None`).
    pub fn must_close(&self, link: &Link, asks: Option<u32>, now: Mono) -> bool {
        let taken = asks.unwrap_or(0);
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
        let is_full =
            live >= window || self.counts.all() >= self.limit() && self.counts.closing == 0;
        if is_full && outlet.rate.room(now) == 0 && self.others_send(link, asks.is_some(), now) {
            return true;
        }
        if !is_full && outlet.live < outlet.limit(now) {
            return false;
        }
        let live = |class: ConnectionClass| self.classes[class.0 as usize].counts.live();
        let is_over = taken >= CLASS_TURN_MESSAGES;
        let gives_way = |class| live(link.class) > 1 || live(class) == 0;
        self.uncovered(now).any(|class| {
            class != link.class && (is_over && gives_way(class) || !self.has_mail(link))
        })
    }

    /// The one place that counts connections. `None`: it is new, or gone.
    pub fn shift(&mut self, link: &Link, from: Option<Stage>, to: Option<Stage>) {
        let class = &mut self.classes[link.class.0 as usize];
        for counts in [&mut self.counts, &mut class.counts] {
            if let Some(from) = from {
                *from.of(counts) -= 1;
            }
            if let Some(to) = to {
                *to.of(counts) += 1;
            }
        }
        let is_live = |stage: Option<Stage>| stage.is_some_and(|stage| stage != Stage::Closing);
        let comes = |stage| matches!(stage, Some(Stage::Opening | Stage::Asking));
        let outlet = &mut self.outlets[link.outlet as usize];
        outlet.live += u32::from(is_live(to));
        outlet.live -= u32::from(is_live(from));
        outlet.coming += u32::from(comes(to));
        outlet.coming -= u32::from(comes(from));
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

    /// Whether it has just failed, so that its first connection gets no precedence.
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
}
