//! The owner half of delivery: the destinations to which this shard connects.
//!
//! Owner:    one shard. The scheduler decides, this file acts; it never awaits.
//! Promise:  each accepted delivery is answered with one outcome, whatever happens to its connection.
//!           Of a striped destination only this shard's share is used; see `stripes`. The share comes
//!           from this shard's own snapshot, not from the home that sends.
//! Bounds:   those of the scheduler. Full: a delivery is answered at once.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::ChunkPool;
use crate::base::MessageId;
use crate::base::Random;
use crate::base::clock::wall_ms;
use crate::base::limits::DESTINATIONS_MAX;
use crate::delivery::failure::FailureKind;
use crate::delivery::trust::Trust;
use crate::handoff::Mesh;
use crate::handoff::Reader;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Delivery;
use crate::handoff::frame::Frame;
use crate::handoff::frame::Hop;
use crate::handoff::frame::Outcome;
use crate::handoff::frame::What;
use crate::net::TlsResult;
use crate::net::resolver::Resolver;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::label::DeliveryTlsResult;
use crate::outbound::destination::DestinationState;
use crate::outbound::destination::Full;
use crate::outbound::destination::HandedBack;
use crate::outbound::destination::JobTicket;
use crate::outbound::idle::Nudge;
use crate::outbound::scheduler::Action;
use crate::outbound::scheduler::ConnId;
use crate::outbound::scheduler::DestinationId;
use crate::outbound::scheduler::DestinationLoad;
use crate::outbound::scheduler::DestinationSummary;
use crate::outbound::scheduler::Scheduler;
use crate::outbound::scheduler::SchedulerLimits;
use crate::outbound::scheduler::Why;
use crate::outbound::stripes;
use crate::outbound::stripes::Snapshots;
use crate::outbound::survey::DESTINATIONS_PER_TICK;
use crate::outbound::worker;
use crate::queue;
use crate::queue::Partition;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::envelope::Envelope;
use crate::route::DestinationPolicy;
use crate::route::HostPort;
use crate::route::delivery::DeliveryPolicy;
use crate::rt::task;
use crate::rt::timer;
use crate::wire::classify::Cause;

/// The scheduler's timers are looked at this often while there is anything to wait for.
const PACE: Duration = Duration::from_millis(20);
/// Destinations named as those that use up the shard's connections.
const HOLDERS_TOLD: usize = 3;

/// Past so many hops those of forgotten destinations are dropped. More than there may be destinations.
const HOPS_MAX: usize = 2 * DESTINATIONS_MAX;

/// What an owner is made of.
pub struct OwnerParts {
    pub mesh: Rc<Mesh>,
    pub pool: Rc<ChunkPool>,
    pub reader: Reader,
    pub resolver: Resolver,
    pub trust: Rc<Trust>,
    pub policy: Arc<DeliveryPolicy>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
    pub shards: usize,
    /// What operators had paused before.
    pub paused: Vec<Box<str>>,
}

pub struct Owner {
    pub(super) mesh: Rc<Mesh>,
    pub(super) pool: Rc<ChunkPool>,
    pub(super) reader: Reader,
    pub(super) resolver: Resolver,
    pub(super) trust: Rc<Trust>,
    snapshots: RefCell<Snapshots>,
    pub(super) observed: Arc<ShardObserved>,
    pub(super) histograms: Rc<Histograms>,
    pub(super) scheduler: RefCell<Scheduler>,
    /// What is in line or under way, by message, job and lease.
    deliveries: RefCell<HashMap<(MessageId, u16, u32), Box<Delivery>>>,
    hops: RefCell<HashMap<DestinationId, Arc<Hop>>>,
    nudges: RefCell<HashMap<ConnId, Rc<Nudge>>>,
    /// Connections that wait for the store of a partition.
    store_waits: RefCell<HashMap<ConnId, Arc<Partition>>>,
    workers: Cell<usize>,
    closing: Cell<bool>,
    /// A pump is under way; what it starts does not pump again.
    pumping: Cell<bool>,
    random: RefCell<Random>,
    /// What operators have paused, by destination, host or domain.
    paused: RefCell<BTreeSet<Box<str>>>,
}

/// A destination for operators, and where it leads.
#[derive(Clone, Debug)]
pub struct DestinationView {
    pub summary: DestinationSummary,
    /// As routes name it.
    pub name: Box<str>,
}

/// What a job at its owner waits for.
#[derive(Clone, Debug)]
pub struct JobView {
    pub destination: DestinationView,
    /// `None`: it is not in line any more, or not yet.
    pub why: Option<Why>,
    /// What is being sent to the destination now.
    pub under_way: Vec<MessageId>,
    /// The destinations with the most connections of this shard.
    pub holders: Vec<(Box<str>, u32)>,
}

impl Owner {
    pub fn new(parts: OwnerParts) -> Rc<Owner> {
        let each = (parts.policy.connections_max as usize / parts.shards.max(1)).max(1);
        let limits = SchedulerLimits { connections_max: each, ..SchedulerLimits::default() };
        let seed = wall_ms() ^ u64::from(parts.mesh.me().0) << 48 | 1;
        Rc::new(Owner {
            mesh: parts.mesh,
            pool: parts.pool,
            reader: parts.reader,
            resolver: parts.resolver,
            trust: parts.trust,
            snapshots: RefCell::new(Snapshots::new(parts.policy, parts.shards)),
            observed: parts.observed,
            histograms: parts.histograms,
            scheduler: RefCell::new(Scheduler::new(limits, seed)),
            deliveries: RefCell::default(),
            hops: RefCell::default(),
            nudges: RefCell::default(),
            store_waits: RefCell::default(),
            workers: Cell::new(0),
            closing: Cell::new(false),
            pumping: Cell::new(false),
            random: RefCell::new(Random::new(seed)),
            paused: RefCell::new(parts.paused.into_iter().collect()),
        })
    }

    pub fn policy(&self) -> Arc<DeliveryPolicy> {
        Arc::clone(self.snapshots.borrow().policy())
    }

    /// A reload. Every destination gets what it is treated by from now on, and its share of that.
    pub fn replace_policy(self: &Rc<Owner>, policy: Arc<DeliveryPolicy>) {
        let now_ms = wall_ms();
        self.snapshots.borrow_mut().replace(policy, now_ms);
        self.share_anew(now_ms);
    }

    fn share_anew(self: &Rc<Owner>, now_ms: u64) {
        let hops: Vec<(DestinationId, Arc<Hop>)> = {
            let hops = self.hops.borrow();
            hops.iter().map(|(destination, hop)| (*destination, Arc::clone(hop))).collect()
        };
        for (destination, hop) in hops {
            let share = self.share_of(&hop, now_ms);
            let mut scheduler = self.scheduler.borrow_mut();
            match (share, scheduler.policy_of(destination)) {
                (_, None) => (),
                (Some(share), Some(old)) if share == old => (),
                (Some(share), Some(_)) => scheduler.set_policy(destination, share, now_ms),
                (None, Some(old)) => {
                    // Connections that are still open are closed as they end.
                    let nothing = DestinationPolicy { connections_max: 0, ..(*old).clone() };
                    scheduler.set_policy(destination, Arc::new(nothing), now_ms);
                    let tickets = scheduler.withdraw_all(destination, now_ms);
                    drop(scheduler);
                    self.send_back(&tickets);
                }
            }
        }
        self.pump();
    }

    /// What the destination is treated by here; none if no stripe of it is here.
    fn share_of(&self, hop: &Hop, now_ms: u64) -> Option<Arc<DestinationPolicy>> {
        let hosts: Vec<&str> = hop.known_by.iter().map(AsRef::as_ref).collect();
        let treatment = self.snapshots.borrow().treatment(&hop.domain, &hosts, now_ms);
        let shards = self.mesh.shards();
        let first = self.mesh.owner_of(&hop.destination);
        treatment.share(stripes::number(first, self.mesh.me(), shards), shards)
    }

    /// Answers all mail in line for the servers of a hop, none of which may be connected to. What a
    /// route sends to servers of the same names goes its own way.
    pub(super) fn refuse_all(&self, hop: &Hop, refuse: impl Fn(&Delivery) -> What) {
        let tickets = {
            let mut scheduler = self.scheduler.borrow_mut();
            let destination = scheduler.find(&hop.destination);
            destination.map(|found| scheduler.withdraw_all(found, wall_ms())).unwrap_or_default()
        };
        for ticket in tickets {
            let Some(delivery) = self.take(&ticket) else { continue };
            let what = match delivery.hop.names == hop.names {
                true => refuse(&delivery),
                false => What::Returned,
            };
            self.answer(&delivery, what);
        }
    }

    /// Their homes find who has the destination now.
    fn send_back(&self, tickets: &[JobTicket]) {
        for ticket in tickets {
            if let Some(delivery) = self.take(ticket) {
                self.answer(&delivery, What::Returned);
            }
        }
    }

    /// No new connection and no new job from here on; what is being sent is sent to its end.
    pub fn close(&self) {
        self.closing.set(true);
        let unbegun: Vec<_> = self.deliveries.borrow_mut().drain().collect();
        for (_, delivery) in unbegun {
            self.answer(&delivery, What::Returned);
        }
        for nudge in self.nudges.borrow().values() {
            nudge.wake();
        }
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Connections that are open or being opened.
    pub fn workers(&self) -> usize {
        self.workers.get()
    }

    /// A job has come from its home.
    pub fn accept(self: &Rc<Owner>, delivery: Box<Delivery>) {
        if self.is_closing() {
            return self.answer(&delivery, What::Returned);
        }
        let now_ms = wall_ms();
        let Some(share) = self.share_known(&delivery.hop).or_else(|| {
            // The home has not heard of a reload yet, or this shard has heard of it first.
            self.share_of(&delivery.hop, now_ms)
        }) else {
            return self.answer(&delivery, What::Returned);
        };
        match self.line_up(&delivery, &share, now_ms) {
            Ok(()) => {
                let key = (delivery.id, delivery.job, delivery.lease);
                self.deliveries.borrow_mut().insert(key, delivery);
            }
            Err(full) => {
                let answer = self.refusal(&delivery.hop, now_ms).unwrap_or_else(no_room);
                self.answer(&delivery, What::Busy { due_ms: full.due_ms, answer });
            }
        }
        self.pump();
    }

    /// What this very hop is treated by already.
    fn share_known(&self, hop: &Arc<Hop>) -> Option<Arc<DestinationPolicy>> {
        let scheduler = self.scheduler.borrow();
        let destination = scheduler.find(&hop.destination)?;
        let is_changing = self.snapshots.borrow().is_changing();
        let is_same = |known: &Arc<Hop>| {
            Arc::ptr_eq(known, hop)
                || !is_changing && known.policy == hop.policy && known.stripes == hop.stripes
        };
        match self.hops.borrow().get(&destination) {
            Some(known) if is_same(known) => scheduler.policy_of(destination),
            _ => None,
        }
    }

    fn line_up(
        &self,
        delivery: &Delivery,
        share: &Arc<DestinationPolicy>,
        now_ms: u64,
    ) -> Result<(), Full> {
        let mut scheduler = self.scheduler.borrow_mut();
        let destination = scheduler.destination(&delivery.hop.destination, share, now_ms)?;
        let mut hops = self.hops.borrow_mut();
        if hops.len() >= HOPS_MAX {
            let known: HashSet<DestinationId> = scheduler.destinations().collect();
            hops.retain(|destination, _| known.contains(destination));
        }
        let before = hops.insert(destination, Arc::clone(&delivery.hop));
        let is_new = before.is_none_or(|before| !Arc::ptr_eq(&before, &delivery.hop));
        drop(hops);
        if scheduler.policy_of(destination).is_some_and(|old| old != *share) {
            scheduler.set_policy(destination, Arc::clone(share), now_ms);
        }
        if is_new && self.is_paused(&delivery.hop) {
            scheduler.pause(destination, now_ms);
        }
        scheduler.push(destination, ticket_of(delivery), now_ms)
    }

    /// Carries out what the scheduler wants now.
    pub fn pump(self: &Rc<Owner>) {
        if self.pumping.replace(true) {
            return;
        }
        let _pumping = Pumping(self);
        while !self.is_closing() {
            let action = self.scheduler.borrow_mut().next_action(wall_ms());
            match action {
                Some(Action::Connect { destination, conn }) => self.connect(destination, conn),
                Some(Action::Wake { conn }) => {
                    if let Some(nudge) = self.nudges.borrow().get(&conn) {
                        nudge.wake();
                    }
                }
                Some(Action::HandBack { destination }) => self.hand_back(destination),
                None => break,
            }
        }
    }

    fn connect(self: &Rc<Owner>, destination: DestinationId, conn: ConnId) {
        let hop = self.hops.borrow().get(&destination).cloned();
        let Some(hop) = hop else {
            crate::invariant!(false, "a destination has jobs but no hop");
            return;
        };
        let nudge = Rc::new(Nudge::default());
        self.nudges.borrow_mut().insert(conn, Rc::clone(&nudge));
        let slot = WorkerSlot::take(self, conn);
        task::spawn(worker::run(Rc::clone(self), slot, hop, nudge));
    }

    /// Why a destination is left alone, if it is.
    fn refusal(&self, hop: &Hop, now_ms: u64) -> Option<Answer> {
        let mut scheduler = self.scheduler.borrow_mut();
        let destination = scheduler.find(&hop.destination)?;
        refusal_of(scheduler.summary(destination, now_ms)?)
    }

    /// Jobs of a destination that cannot be reached go home, with its words.
    fn hand_back(&self, destination: DestinationId) {
        let now_ms = wall_ms();
        let (jobs, summary) = {
            let mut scheduler = self.scheduler.borrow_mut();
            let summary = scheduler.summary(destination, now_ms);
            (scheduler.drain_deferred(destination, now_ms), summary)
        };
        let host = summary.as_ref().map(|summary| summary.last_host.clone()).unwrap_or_default();
        let refusal = summary.and_then(refusal_of);
        for HandedBack { ticket, due_ms, was_tried } in jobs {
            let Some(delivery) = self.take(&ticket) else { continue };
            // What only stood in line was not tried, whatever the destination says meanwhile.
            let what = match refusal.clone() {
                Some(answer) if was_tried => {
                    What::Unreached { answer, host: host.clone(), not_before_ms: due_ms }
                }
                answer => What::Busy { due_ms, answer: answer.unwrap_or_else(no_room) },
            };
            self.answer(&delivery, what);
        }
    }

    /// A home wants a job back. What is being sent already stays.
    pub fn give_back(&self, id: MessageId, job: u16, lease: u32) {
        let delivery = self.deliveries.borrow_mut().remove(&(id, job, lease));
        if let Some(delivery) = delivery {
            let mut scheduler = self.scheduler.borrow_mut();
            if let Some(destination) = scheduler.find(&delivery.hop.destination) {
                scheduler.withdraw(destination, &ticket_of(&delivery), wall_ms());
            }
            drop(scheduler);
            self.answer(&delivery, What::Returned);
        }
    }

    /// The destinations with the most mail, for operators.
    pub fn destinations(&self, max: usize) -> Vec<DestinationView> {
        let destinations = self.scheduler.borrow().largest_destinations(max);
        destinations
            .into_iter()
            .filter_map(|destination| self.destination_view(destination))
            .collect()
    }

    /// The destinations of these keys that are known here.
    pub fn destinations_keyed(&self, keys: &[Box<str>]) -> Vec<DestinationView> {
        let found: Vec<DestinationId> = {
            let scheduler = self.scheduler.borrow();
            keys.iter().filter_map(|key| scheduler.find(key)).collect()
        };
        found.into_iter().filter_map(|destination| self.destination_view(destination)).collect()
    }

    /// The destinations that go by this name, and whether it is paused.
    pub fn destinations_named(&self, word: &str) -> (Vec<DestinationView>, bool) {
        let hops = self.hops.borrow();
        let meant: Vec<DestinationId> = hops
            .iter()
            .filter(|(_, hop)| goes_by(hop, word))
            .map(|(destination, _)| *destination)
            .collect();
        drop(hops);
        let views = meant
            .into_iter()
            .filter_map(|destination| self.destination_view(destination))
            .collect();
        (views, self.paused.borrow().contains(word))
    }

    /// What came of TLS with other servers since the last time, each result with its sessions.
    pub fn take_tls_results(&self) -> Vec<(DeliveryTlsResult, u64)> {
        let mut results = Vec::new();
        for (_, counts) in self.trust.reports().borrow_mut().take() {
            results.push((DeliveryTlsResult::Success, counts.successes));
            let failures = counts.failures.iter();
            results.extend(failures.map(|one| (label_of(one.result), one.sessions)));
        }
        results
    }

    /// See `Scheduler::loads`.
    pub(super) fn loads(
        &self,
        from: usize,
        each: &mut dyn FnMut(DestinationId, DestinationLoad),
    ) -> Option<usize> {
        self.scheduler.borrow().loads(from, DESTINATIONS_PER_TICK, each)
    }

    pub(super) fn destination_view(&self, destination: DestinationId) -> Option<DestinationView> {
        let summary = self.scheduler.borrow_mut().summary(destination, wall_ms())?;
        let hops = self.hops.borrow();
        let name = hops.get(&destination).map_or_else(Box::default, |hop| hop.name.clone());
        Some(DestinationView { summary, name })
    }

    /// Why a job that was given to this owner has not gone yet.
    pub fn why(&self, destination: &str, id: MessageId, job: u16) -> Option<JobView> {
        let found = self.scheduler.borrow().find(destination)?;
        let view = self.destination_view(found)?;
        let mut scheduler = self.scheduler.borrow_mut();
        Some(JobView {
            destination: view,
            why: scheduler.why(found, id, job, wall_ms()),
            under_way: scheduler.under_way(found),
            holders: scheduler.largest_holders(HOLDERS_TOLD),
        })
    }

    /// Pauses what goes by this name, known already or not. Answers the destinations it is now.
    pub fn pause(self: &Rc<Owner>, word: &str) -> Vec<Box<str>> {
        // `Pauses` bounds them.
        self.paused.borrow_mut().insert(word.into());
        let touched = self.change_destinations(word, |scheduler, destination| {
            scheduler.pause(destination, wall_ms())
        });
        self.pump();
        touched
    }

    /// Ends the pause of what goes by this name; what is paused by another name too stays so.
    pub fn resume(self: &Rc<Owner>, word: &str) -> Vec<Box<str>> {
        self.paused.borrow_mut().remove(word);
        // Domains share destinations: one may be paused by a name that the last of its hops does not have.
        let mut touched = Vec::new();
        for (destination, hop) in self.known_hops() {
            if self.is_paused(&hop) {
                continue;
            }
            let mut scheduler = self.scheduler.borrow_mut();
            let summary = scheduler.summary(destination, wall_ms());
            if summary.is_some_and(|one| one.state == DestinationState::Paused)
                || goes_by(&hop, word)
            {
                scheduler.resume(destination, wall_ms());
                touched.push(hop.destination.clone());
            }
        }
        self.pump();
        touched
    }

    fn change_destinations(
        &self,
        word: &str,
        change: impl Fn(&mut Scheduler, DestinationId),
    ) -> Vec<Box<str>> {
        let mut touched = Vec::new();
        for (destination, hop) in self.known_hops().filter(|(_, hop)| goes_by(hop, word)) {
            let mut scheduler = self.scheduler.borrow_mut();
            change(&mut scheduler, destination);
            touched.push(hop.destination.clone());
        }
        touched
    }

    /// Destinations that there are, each with the last hop that led to it.
    fn known_hops(&self) -> impl Iterator<Item = (DestinationId, Arc<Hop>)> {
        let scheduler = self.scheduler.borrow();
        let hops = self.hops.borrow();
        let is_there = |destination: DestinationId, hop: &Hop| {
            scheduler.find(&hop.destination) == Some(destination)
        };
        let known = hops.iter().filter(|(destination, hop)| is_there(**destination, hop));
        known
            .map(|(destination, hop)| (*destination, Arc::clone(hop)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn is_paused(&self, hop: &Hop) -> bool {
        self.paused.borrow().iter().any(|word| goes_by(hop, word))
    }

    /// Takes a delivery out of the line, to be answered by the caller.
    pub(super) fn take(&self, ticket: &JobTicket) -> Option<Box<Delivery>> {
        self.deliveries.borrow_mut().remove(&(ticket.id, ticket.job, ticket.lease))
    }

    pub(super) fn answer(&self, delivery: &Delivery, what: What) {
        self.post(delivery, what, None);
    }

    /// Answers for mail that a server may have taken.
    pub(super) fn answer_sent(&self, delivery: &Delivery, what: What, unsettled: Unsettled) {
        self.post(delivery, what, Some(unsettled));
    }

    fn post(&self, delivery: &Delivery, what: What, unsettled: Option<Unsettled>) {
        let Delivery { id, job, lease, .. } = *delivery;
        let outcome = Outcome { id, job, lease, what, unsettled };
        self.mesh.post(delivery.home, Frame::Settle(Box::new(outcome)));
    }

    /// Wakes the connections whose store has caught up. They look for themselves, and who comes too
    /// late is woken again.
    fn wake_store_waits(&self) {
        let now = timer::now();
        let nudges = self.nudges.borrow();
        for (conn, partition) in &*self.store_waits.borrow() {
            if Unsettled::may_begin(partition, now)
                && let Some(nudge) = nudges.get(conn)
            {
                nudge.wake();
            }
        }
    }

    pub(super) fn roll(&self) -> u64 {
        self.random.borrow_mut().roll()
    }
}

fn label_of(result: TlsResult) -> DeliveryTlsResult {
    match result {
        TlsResult::StarttlsNotSupported => DeliveryTlsResult::StarttlsNotSupported,
        TlsResult::CertificateHostMismatch => DeliveryTlsResult::CertificateHostMismatch,
        TlsResult::CertificateExpired => DeliveryTlsResult::CertificateExpired,
        TlsResult::CertificateNotTrusted => DeliveryTlsResult::CertificateNotTrusted,
        TlsResult::ValidationFailure => DeliveryTlsResult::ValidationFailure,
        TlsResult::TlsaInvalid | TlsResult::DnssecInvalid | TlsResult::DaneRequired => {
            DeliveryTlsResult::Dane
        }
        TlsResult::StsPolicyFetchError
        | TlsResult::StsPolicyInvalid
        | TlsResult::StsWebpkiInvalid => DeliveryTlsResult::StsPolicy,
    }
}

/// A pump that is under way, also when it ends by a bug.
struct Pumping<'o>(&'o Owner);

impl Drop for Pumping<'_> {
    fn drop(&mut self) {
        self.0.pumping.set(false);
    }
}

/// A delivery that a worker has taken out of the line. Should a bug end the worker, it goes home
/// untold, and not only when its lease ends: whether the mail was taken nobody knows.
pub(super) struct Custody {
    owner: Rc<Owner>,
    delivery: Option<Box<Delivery>>,
}

impl Custody {
    pub(super) fn of(owner: &Rc<Owner>, delivery: Box<Delivery>) -> Custody {
        Custody { owner: Rc::clone(owner), delivery: Some(delivery) }
    }

    pub(super) fn delivery(&self) -> &Delivery {
        self.delivery.as_deref().expect("it is in custody until it is answered")
    }

    /// Gives it up, for it is about to be answered.
    pub(super) fn give_up(mut self) -> Box<Delivery> {
        self.delivery.take().expect("it is given up once")
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        let Some(delivery) = self.delivery.take() else { return };
        let answer = Answer::ours(Cause::OurFault, "the delivery task ended unexpectedly");
        let what = What::Unreached { answer, host: Box::default(), not_before_ms: wall_ms() };
        self.owner.answer(&delivery, what);
    }
}

/// A connection that waits for the store, until it does no more.
pub(super) struct StoreSlot {
    owner: Rc<Owner>,
    conn: ConnId,
}

impl StoreSlot {
    pub(super) fn take(owner: &Rc<Owner>, conn: ConnId, partition: &Arc<Partition>) -> StoreSlot {
        owner.store_waits.borrow_mut().insert(conn, Arc::clone(partition));
        StoreSlot { owner: Rc::clone(owner), conn }
    }
}

impl Drop for StoreSlot {
    fn drop(&mut self) {
        self.owner.store_waits.borrow_mut().remove(&self.conn);
    }
}

/// Counts a worker, and makes sure that the scheduler hears of its end.
pub struct WorkerSlot {
    owner: Rc<Owner>,
    pub conn: ConnId,
}

impl WorkerSlot {
    fn take(owner: &Rc<Owner>, conn: ConnId) -> WorkerSlot {
        owner.workers.set(owner.workers.get() + 1);
        WorkerSlot { owner: Rc::clone(owner), conn }
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        let owner = &self.owner;
        owner.workers.set(owner.workers.get() - 1);
        owner.nudges.borrow_mut().remove(&self.conn);
        // Known as gone already when it ended in order.
        let left = owner.scheduler.borrow_mut().closed(self.conn, wall_ms());
        if let Some(ticket) = left
            && let Some(delivery) = owner.take(&ticket)
        {
            // A bug in the worker: whether the mail was taken nobody knows.
            let answer = Answer::ours(Cause::OurFault, "the delivery task ended unexpectedly");
            let what = What::Unreached { answer, host: Box::default(), not_before_ms: wall_ms() };
            owner.answer(&delivery, what);
        }
        owner.pump();
    }
}

/// The words of a destination that is left alone. The last error of any other may be long past.
fn refusal_of(summary: DestinationSummary) -> Option<Answer> {
    let DestinationState::BackingOff { .. } = summary.state else { return None };
    let kind = summary.last_failure;
    Some(kind.map_or_else(
        || Answer::ours(Cause::NoRoom, summary.last_error.clone()),
        |kind| answer_to(kind, &summary.last_error),
    ))
}

/// What is told of mail for which there was no connection. A server's own words are told as such,
/// so that they are judged as any reply of one.
pub(super) fn answer_to(kind: FailureKind, text: &str) -> Answer {
    match kind {
        FailureKind::Refused => {
            let status = status_of(text);
            Answer { status, text: text.into(), remote: true, cause: None }
        }
        _ => Answer::ours(cause_of(kind), text),
    }
}

/// The enhanced code behind the code of a reply, or the class that its code has.
fn status_of(reply: &str) -> (u8, u16, u16) {
    let class: u8 = reply.get(..1).and_then(|digit| digit.parse().ok()).unwrap_or(4);
    let mut words = reply.get(4..).unwrap_or("").split(' ');
    let mut numbers = words.next().unwrap_or("").split('.').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(subject)), Some(Ok(detail)), None)
            if first == u16::from(class) =>
        {
            (class, subject, detail)
        }
        _ => (class, 0, 0),
    }
}

pub(super) fn no_room() -> Answer {
    Answer::ours(Cause::NoRoom, "the queue of this destination is full")
}

pub(super) fn store_behind() -> Answer {
    Answer::ours(Cause::OurFault, "earlier deliveries are not yet durable on disk")
}

/// What a failure that is no word of a server is to the sender.
fn cause_of(kind: FailureKind) -> Cause {
    match kind {
        FailureKind::Resolve => Cause::DnsFailed,
        FailureKind::Connect | FailureKind::Greeting | FailureKind::Refused => Cause::Unreachable,
        FailureKind::Timeout => Cause::ConnectTimeout,
        FailureKind::Tls => Cause::TlsFailed,
        FailureKind::Protocol => Cause::ProtocolError,
        FailureKind::Lost => Cause::ConnectionLost,
        FailureKind::Ours | FailureKind::WayOut => Cause::OurFault,
    }
}

/// Whether an operator may mean this hop: its destination, its route's name, its domain or a host of it.
fn goes_by(hop: &Hop, word: &str) -> bool {
    let word = word.trim_end_matches('.');
    let is_host = |host: &HostPort| host.to_string().eq_ignore_ascii_case(word);
    [&hop.destination, &hop.name, &hop.domain].iter().any(|name| name.eq_ignore_ascii_case(word))
        || hop.hosts.iter().any(is_host)
        // All of them; which are tried is a matter of chance.
        || hop.known_by.iter().any(|host| host.eq_ignore_ascii_case(word))
}

fn ticket_of(delivery: &Delivery) -> JobTicket {
    let envelope = delivery.mail.envelope();
    let (tenant, sender) = turn_of(&envelope);
    JobTicket {
        id: delivery.id,
        lease_until_ms: delivery.lease_until_ms,
        bytes: envelope.body.bytes,
        tenant,
        sender,
        lease: delivery.lease,
        recipients: delivery.recipients.len() as u32,
        job: delivery.job,
    }
}

/// Among whom a message has its turns: the tenant, if it has one, and the sender.
pub(super) fn turn_of(envelope: &Envelope<'_>) -> (u32, u32) {
    let hash = |text: &str| {
        let bytes = text.bytes();
        bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    (envelope.labels.tenant.map_or(0, hash), hash(envelope.sender.unwrap_or("")))
}

/// Looks after the scheduler's timers, the mesh's outboxes and who waits for a store.
pub async fn tend(owner: Rc<Owner>) {
    while !owner.is_closing() || owner.workers() > 0 {
        timer::sleep(PACE).await;
        queue::points::point("vital::owner");
        owner.mesh.flush();
        owner.wake_store_waits();
        if owner.snapshots.borrow_mut().forget_settled(wall_ms()) {
            owner.share_anew(wall_ms());
        }
        let due = owner.scheduler.borrow().next_wake_ms().is_some_and(|at| at <= wall_ms());
        if due {
            owner.pump();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::StreamNumber;
    use crate::base::TenantId;
    use crate::queue::Labels;
    use crate::queue::Recipients;

    fn envelope<'a>(sender: Option<&'a str>, tenant: Option<&'a str>) -> Envelope<'a> {
        Envelope {
            received_ms: 1,
            intake_ms: 0,
            sender,
            smtputf8: false,
            requiretls: false,
            body_type: Default::default(),
            ret: Default::default(),
            envid: None,
            auth: None,
            declared_bytes: None,
            body: Default::default(),
            peer: ([127, 0, 0, 1], 1).into(),
            helo: "h",
            listener: "l",
            protocol: "SMTP",
            tls: None,
            message_id: None,
            head_bytes: 0,
            kept_until_ms: None,
            tenant: TenantId::OPERATOR,
            credential: None,
            stream: StreamNumber::TRANSACTIONAL,
            tags: Default::default(),
            metadata: Default::default(),
            labels: Labels { tenant, ..Labels::default() },
            recipients: Recipients::default(),
        }
    }

    #[test]
    fn a_tenant_has_its_turns_whoever_sends() {
        let turn = |sender, tenant| turn_of(&envelope(Some(sender), tenant));
        let (acme, joe) = turn("joe@x.test", Some("acme"));
        let (same, ann) = turn("ann@x.test", Some("acme"));
        let (other, joe_again) = turn("joe@x.test", Some("umbrella"));
        assert!(acme == same && acme != other && joe != ann && joe == joe_again);
        let (nobody, _) = turn("joe@x.test", None);
        assert!(nobody == 0 && nobody != acme, "mail without a tenant is that of one");
        assert_eq!(turn_of(&envelope(None, None)).0, 0);
    }

    #[test]
    fn who_refuses_us_is_told_of_in_its_own_words() {
        for (reply, status) in [
            ("554 5.7.1 listed", (5, 7, 1)),
            ("554-5.7.1 listed / 554 5.7.1 see there", (5, 7, 1)),
            ("554 go away", (5, 0, 0)),
            ("421 5.7.1 class of another", (4, 0, 0)),
            ("450 1.2.3.4 is no code", (4, 0, 0)),
            ("554", (5, 0, 0)),
        ] {
            let answer = answer_to(FailureKind::Refused, reply);
            assert_eq!((answer.status, &*answer.text), (status, reply));
            assert!(answer.remote && answer.cause.is_none());
        }
        let ours = answer_to(FailureKind::Connect, "connection refused");
        assert_eq!((ours.remote, ours.cause), (false, Some(Cause::Unreachable)));
    }
}
