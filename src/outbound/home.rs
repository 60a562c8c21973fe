//! The home half of delivery: mail stored here, from its due time until its final state is written.
//!
//! Owner:    one shard, for the partitions whose home it is.
//! Promise:  a job is leased at most once at a time, and its outcome is written before the job is
//!           forgotten. Jobs that do not fit into memory stay in `due` and are found there later.
//! Order:    route, split if needed, resolve, lease, post; then outcome, settle, forget.
//! Bounds:   `jobs_max` jobs and `FRESH_BYTES_MAX` of bodies in memory. Full: new mail is left to the
//!           scan, which loads it when there is room.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::Random;
use crate::base::ShardId;
use crate::base::backoff;
use crate::base::clock::wall_ms;
use crate::base::limits::STS_POSTPONE_MS;
use crate::config::delivery::domain::parse_literal;
use crate::delivery::report::Reporter;
use crate::delivery::reroute;
use crate::delivery::sts::StsUnknown;
use crate::delivery::trust;
use crate::delivery::trust::Trust;
use crate::handoff::Mesh;
use crate::handoff::Reader;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Delivery;
use crate::handoff::frame::Frame;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frame::Mail;
use crate::handoff::frame::MailBody;
use crate::handoff::frame::Outcome;
use crate::handoff::frame::What;
use crate::net::resolver::DnsFault;
use crate::net::resolver::Family;
use crate::net::resolver::Resolver;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::log::Record;
use crate::outbound::lease::JobKey;
use crate::outbound::lease::LeaseRefusal;
use crate::outbound::lease::LeaseTable;
use crate::outbound::lease::Settle;
use crate::outbound::line::Age;
use crate::outbound::line::Arrival;
use crate::outbound::line::Lines;
pub use crate::outbound::line::Row;
use crate::outbound::line::Turn;
use crate::outbound::operator;
use crate::outbound::owner::turn_of;
use crate::outbound::scan::Stored;
use crate::outbound::settling;
use crate::outbound::stripes;
use crate::outbound::stripes::Snapshots;
use crate::queue;
use crate::queue::Committer;
use crate::queue::Fresh;
use crate::queue::Keeper;
use crate::queue::Partition;
pub use crate::queue::admin::operate::HELD_DUE_MS;
use crate::queue::admin::operate::Operation;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::job::Indexes;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::record::ledger::Tally;
use crate::queue::store::jobs::free_job_numbers;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::route::RouteQuestion;
use crate::route::TlsRefusal;
use crate::route::delivery::DeliveryPolicy;
use crate::route::source::PoolId;
use crate::route::table::PORT_SMTP;
use crate::rt::task;
use crate::rt::timer;
use crate::wire::classify::Cause;

/// Bodies of fresh mail that are kept in memory until they are delivered.
const FRESH_BYTES_MAX: usize = 64 << 20;
/// A larger body is read back, chunk by chunk.
const BODY_HELD_MAX: u64 = 64 << 10;
/// How long an owner may keep a job.
const LEASE_MS: u64 = 30 * 60 * 1000;
/// How often leases and parked jobs are looked at.
const PACE: Duration = Duration::from_millis(50);
/// How often at most the lines are looked through for what has become too old.
const LINES_EVERY: Duration = Duration::from_secs(1);
/// How often a part of the MTA-STS policies is looked through for those to be fetched again.
const POLICIES_EVERY: Duration = Duration::from_secs(10);
/// How long a resolved hop is used again without asking.
const HOP_MS: u64 = 30 * 1000;
const HOPS_MAX: usize = 10_000;
/// How long mail is fresh.
const FRESH_MS: u64 = 10_000;

/// How long a job waits for a lookup that a limit of this server prevented.
const OWN_LIMIT_PAUSE_FIRST: Duration = Duration::from_millis(20);
const OWN_LIMIT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a split waits for another one of the same message.
const SPLIT_PAUSE: Duration = Duration::from_millis(2);

/// A partition that lives here.
pub struct Store {
    pub committer: Committer,
    pub partition: Arc<Partition>,
}

/// What a home is made of.
pub struct HomeParts {
    pub stores: Vec<Store>,
    pub mesh: Rc<Mesh>,
    pub reader: Reader,
    pub resolver: Resolver,
    pub trust: Rc<Trust>,
    pub policy: Arc<DeliveryPolicy>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
    pub hostname: Box<str>,
    pub shards: usize,
}

pub struct Home {
    pub(super) stores: HashMap<PartitionId, Store>,
    pub(super) mesh: Rc<Mesh>,
    pub(super) reader: Reader,
    resolver: Resolver,
    trust: Rc<Trust>,
    snapshots: RefCell<Snapshots>,
    pub(super) observed: Arc<ShardObserved>,
    pub(super) histograms: Rc<Histograms>,
    hostname: Box<str>,
    jobs: RefCell<HashMap<JobKey, Waiting>>,
    pub(super) leases: RefCell<LeaseTable>,
    /// Orders of operators that are being carried out, and those that wait for an attempt's end.
    pub(super) orders: RefCell<HashMap<MessageId, Operation>>,
    pub(super) requests: RefCell<HashMap<MessageId, Operation>>,
    hops: RefCell<HashMap<HopKey, (Arc<Hop>, u64)>>,
    jobs_max: usize,
    shards: usize,
    pub(super) reporter: Reporter,
    bytes_held: Cell<usize>,
    lines: RefCell<Lines>,
    /// Nothing that stands in a line becomes too old before.
    first_expiry_ms: Cell<u64>,
    /// Something due was left on disk for want of room.
    /// By partition.
    left_on_disk: Cell<u64>,
    closing: Cell<bool>,
    /// Jobs that were forgotten while a scan was reading: what it read of them is old.
    forgotten: RefCell<HashMap<PartitionId, HashSet<JobKey>>>,
    /// Messages whose jobs are being split: numbers are given to one split at a time.
    splitting: RefCell<HashSet<MessageId>>,
    /// Outcomes that are being written.
    settling: Cell<usize>,
    random: RefCell<Random>,
}

/// A job in memory.
#[derive(Clone)]
pub struct Waiting {
    pub mail: Arc<Mail>,
    pub recipients: Box<[u32]>,
    pub attempts: u32,
    pub due_ms: u64,
    /// The sender was told of the delay.
    pub warned: bool,
    /// It is counted in the line of its destination.
    pub is_out: bool,
    /// Its outcome is being written: it goes nowhere any more.
    pub is_ending: bool,
    /// Who it is counted for where room is short.
    pub tenant: u32,
    /// When it is too old; known once its route is.
    pub expires_ms: u64,
    /// Where it went last, for operators.
    pub hop: Option<Arc<Hop>>,
    /// The route's own limit.
    pub max_age: Option<Duration>,
    /// Where an operator sends it instead of where its route does.
    pub next_hop: Option<Arc<str>>,
    /// What this server lacks to go on with it.
    pub lack: Option<Box<str>>,
}

impl From<Stored> for Waiting {
    fn from(stored: Stored) -> Waiting {
        Waiting {
            tenant: turn_of(&stored.mail.envelope()).0,
            mail: Arc::new(stored.mail),
            recipients: stored.recipients,
            attempts: stored.attempts,
            due_ms: stored.due_ms,
            warned: stored.warned,
            is_out: false,
            is_ending: false,
            expires_ms: u64::MAX,
            hop: None,
            max_age: None,
            next_hop: stored.next_hop,
            lack: None,
        }
    }
}

/// What one recipient's route comes to. Recipients with equal keys share a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct HopKey {
    next: NextHop,
    tls: Option<OutboundTls>,
    require_tls: RequireTls,
    auth: Option<Arc<Credentials>>,
    pool: Option<PoolId>,
    max_age: Duration,
}

impl Home {
    pub fn new(parts: HomeParts) -> Rc<Home> {
        let jobs_max = (parts.policy.jobs_in_memory_max / parts.shards.max(1)).max(1);
        let stores = parts.stores.into_iter().map(|store| (store.partition.id(), store));
        let reporter =
            Reporter::new(parts.hostname.clone(), parts.reader.clone(), parts.shards, wall_ms());
        let home = Rc::new(Home {
            reporter,
            stores: stores.collect(),
            mesh: parts.mesh,
            reader: parts.reader,
            resolver: parts.resolver,
            trust: parts.trust,
            snapshots: RefCell::new(Snapshots::new(parts.policy, parts.shards)),
            observed: parts.observed,
            histograms: parts.histograms,
            hostname: parts.hostname,
            jobs: RefCell::default(),
            leases: RefCell::new(LeaseTable::new(2 * jobs_max, LEASE_MS)),
            orders: RefCell::default(),
            requests: RefCell::default(),
            hops: RefCell::default(),
            jobs_max,
            shards: parts.shards.max(1),
            bytes_held: Cell::new(0),
            lines: RefCell::new(Lines::new(jobs_max)),
            first_expiry_ms: Cell::new(u64::MAX),
            left_on_disk: Cell::new(0),
            closing: Cell::new(false),
            forgotten: RefCell::default(),
            splitting: RefCell::default(),
            settling: Cell::new(0),
            random: RefCell::new(Random::new(wall_ms())),
        });
        for store in home.stores.values() {
            store.committer.tell(Rc::new(HomeKeeper(Rc::clone(&home))));
        }
        home
    }

    pub fn policy(&self) -> Arc<DeliveryPolicy> {
        Arc::clone(self.snapshots.borrow().policy())
    }

    /// A reload: what was resolved under the old policy is resolved anew.
    pub fn replace_policy(&self, policy: Arc<DeliveryPolicy>) {
        self.snapshots.borrow_mut().replace(policy, wall_ms());
        self.hops.borrow_mut().clear();
        // Queued jobs have been routed by the old policy: they are read again and routed by the new one.
        let waiting = self.lines.borrow_mut().take_out(|_| false);
        waiting.into_iter().for_each(|key| self.leave_on_disk(key));
        self.lines.borrow_mut().forget_left();
        self.note_left_on_disk();
    }

    /// Nothing new goes out from here on; outcomes are still written.
    pub fn close(&self) {
        self.closing.set(true);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Jobs in memory, and jobs that are out.
    pub fn figures(&self) -> (usize, usize) {
        (self.jobs.borrow().len(), self.leases.borrow().len())
    }

    pub fn has_room(&self) -> bool {
        self.jobs.borrow().len() < self.jobs_max
    }

    /// Whether there is memory for another body.
    pub fn holds_bodies(&self) -> bool {
        self.bytes_held.get() < FRESH_BYTES_MAX
    }

    pub fn knows(&self, key: JobKey) -> bool {
        self.jobs.borrow().contains_key(&key)
    }

    /// Whether something due waits on disk though nobody scheduled it.
    pub fn take_left_on_disk(&self, partition: PartitionId) -> bool {
        let bit = 1 << partition.0;
        let left = self.left_on_disk.get();
        self.left_on_disk.set(left & !bit);
        left & bit != 0
    }

    pub fn roll(&self) -> u64 {
        self.random.borrow_mut().roll()
    }

    /// A scan begins to read jobs of the partition, to `admit` what it reads.
    pub fn begin_reading(&self, partition: PartitionId) {
        self.forgotten.borrow_mut().insert(partition, HashSet::new());
    }

    /// What was read has been admitted.
    pub fn end_reading(&self, partition: PartitionId) {
        self.forgotten.borrow_mut().remove(&partition);
    }

    fn is_outdated(&self, key: JobKey) -> bool {
        let forgotten = self.forgotten.borrow();
        forgotten.get(&key.0.partition()).is_some_and(|jobs| jobs.contains(&key))
    }

    /// Takes a job that was read from the store. One that came here by another way meanwhile, and
    /// may have been delivered since, is left to the next sweep.
    pub fn admit(self: &Rc<Home>, stored: Stored) {
        let key = (stored.mail.id, stored.number);
        if self.knows(key) || self.is_closing() || self.is_outdated(key) {
            return;
        }
        if self.orders.borrow().contains_key(&key.0) {
            // What the order leaves due is found when it is done.
            self.left_on_disk.set(u64::MAX);
            return;
        }
        if self.requests.borrow().contains_key(&key.0) {
            let home = Rc::clone(self);
            task::spawn(async move { operator::after_attempt(&home, key.0).await });
            return;
        }
        self.insert(key, Waiting::from(stored));
        self.start(key);
    }

    pub(super) fn insert(&self, key: JobKey, waiting: Waiting) {
        self.bytes_held.set(self.bytes_held.get() + waiting.mail.bytes_held());
        self.jobs.borrow_mut().insert(key, waiting);
    }

    pub(super) fn waiting(&self, key: JobKey) -> Option<Waiting> {
        self.jobs.borrow().get(&key).cloned()
    }

    /// The job has ended, or stands on disk as it is.
    pub(super) fn forget(&self, (id, job): JobKey) {
        self.come_back((id, job));
        if let Some(waiting) = self.jobs.borrow_mut().remove(&(id, job)) {
            let held = waiting.mail.bytes_held();
            self.bytes_held.set(self.bytes_held.get().saturating_sub(held));
        }
        self.leases.borrow_mut().forget(id, job);
        if let Some(jobs) = self.forgotten.borrow_mut().get_mut(&id.partition()) {
            jobs.insert((id, job));
        }
    }

    /// The jobs of a message that are in memory.
    pub(super) fn keys_of(&self, id: MessageId) -> Vec<JobKey> {
        self.jobs.borrow().keys().copied().filter(|(owner, _)| *owner == id).collect()
    }

    /// Whether parts are being made of a job of this message.
    pub(super) fn is_splitting(&self, id: MessageId) -> bool {
        self.splitting.borrow().contains(&id)
    }

    /// The scan has to begin anew: something may have become due behind it.
    pub(super) fn note_left_on_disk(&self) {
        self.left_on_disk.set(u64::MAX);
    }

    /// Sends a job on its way: at once where everything is known, else beside the caller.
    fn start(self: &Rc<Home>, key: JobKey) {
        if self.is_closing() {
            self.forget(key);
            return;
        }
        if self.start_at_once(key) {
            return;
        }
        task::spawn(Rc::clone(self).dispatch(key));
    }

    /// The usual case, without a task: one hop for all recipients, and known.
    fn start_at_once(self: &Rc<Home>, key: JobKey) -> bool {
        let Some(waiting) = self.waiting(key) else { return true };
        let policy = self.policy();
        let mut groups = group(&policy, &waiting);
        if groups.len() != 1 {
            return false;
        }
        let Some((hop_key, _)) = groups.pop() else { return false };
        let now_ms = wall_ms();
        let hops = self.hops.borrow();
        let Some((hop, until_ms)) = hops.get(&hop_key) else { return false };
        if *until_ms < now_ms || is_forbidden(hop) || waiting.recipients.len() > limit_of(hop) {
            return false;
        }
        let hop = Arc::clone(hop);
        drop(hops);
        self.post(key, &hop, hop_key.max_age, now_ms);
        true
    }

    async fn dispatch(self: Rc<Home>, key: JobKey) {
        let Some(waiting) = self.waiting(key).filter(|waiting| !waiting.is_ending) else { return };
        let policy = self.policy();
        let groups = group(&policy, &waiting);
        let [(hop_key, _)] = &groups[..] else {
            let parts = groups.into_iter().map(|(_, recipients)| recipients).collect();
            return self.split(key, &waiting, parts).await;
        };
        let now_ms = wall_ms();
        if let Some(waiting) = self.jobs.borrow_mut().get_mut(&key) {
            waiting.max_age = Some(hop_key.max_age);
        }
        let hop = match &hop_key.next {
            NextHop::Discard => {
                return self.settle_here(key, settling::Local::Discarded).await;
            }
            NextHop::Reject { text } => {
                let answer = Answer::ours(Cause::Rejected, text.clone());
                return self.settle_here(key, settling::Local::Failed(answer)).await;
            }
            NextHop::Hold => {
                return self.settle_here(key, settling::Local::Held).await;
            }
            NextHop::Mx { .. } | NextHop::Hosts { .. } => {
                let resolved = self.resolve_in_time(key, hop_key, &policy).await;
                if !self.is_still(key, &waiting) {
                    return;
                }
                match resolved {
                    Ok(hop) => hop,
                    Err(Unresolved::Dns(fault)) if fault.is_own_limit() && self.is_closing() => {
                        return self.forget(key);
                    }
                    Err(Unresolved::Dns(fault)) => {
                        let local = unresolved(hop_key, fault, &waiting);
                        return self.settle_here(key, local).await;
                    }
                    Err(Unresolved::NoPolicy) => {
                        let local = self.postponed(&hop_key.next);
                        return self.settle_here(key, local).await;
                    }
                    Err(Unresolved::OnlyUs) => {
                        let local = only_us(hop_key, is_own_domain(hop_key, &waiting));
                        return self.settle_here(key, local).await;
                    }
                }
            }
        };
        if is_forbidden(&hop) {
            // RFC 8689 s5: the sender is told that it cannot be done here.
            let text = TlsRefusal::ForbiddenByDestination.to_string().into();
            let answer = Answer { status: (5, 7, 30), text, remote: false, cause: None };
            return self.settle_here(key, settling::Local::Failed(answer)).await;
        }
        if !self.may_go(key) {
            return;
        }
        let limit = limit_of(&hop);
        if waiting.recipients.len() > limit {
            let parts = waiting.recipients.chunks(limit).map(Box::from).collect();
            return self.split(key, &waiting, parts).await;
        }
        self.post(key, &hop, hop_key.max_age, now_ms);
    }

    /// Whether the number has not been given to another part of the message meanwhile.
    fn is_still(&self, key: JobKey, known: &Waiting) -> bool {
        self.jobs.borrow().get(&key).is_some_and(|waiting| waiting.recipients == known.recipients)
    }

    /// Whether a job may still be sent or split: its outcome is not being written.
    fn may_go(&self, key: JobKey) -> bool {
        self.jobs.borrow().get(&key).is_some_and(|waiting| !waiting.is_ending)
    }

    /// Settles what needs no server, and carries out what was ordered meanwhile.
    async fn settle_here(self: &Rc<Home>, key: JobKey, local: settling::Local) {
        if !self.may_go(key) {
            return;
        }
        settling::settle_local(self, key, local).await;
        operator::after_attempt(self, key.0).await;
    }

    /// Resolves, however long this server lacks what a lookup needs, until the job is too old or is
    /// not wanted any more. It is no attempt, for nobody was asked.
    async fn resolve_in_time(
        &self,
        key: JobKey,
        hop_key: &HopKey,
        policy: &DeliveryPolicy,
    ) -> Result<Arc<Hop>, Unresolved> {
        let mut pause = OWN_LIMIT_PAUSE_FIRST;
        loop {
            let resolved = self.resolve(hop_key, policy).await;
            let Err(Unresolved::Dns(fault)) = &resolved else { return resolved };
            if !fault.is_own_limit() || !self.lacks(key, hop_key, *fault) {
                return resolved;
            }
            timer::sleep(pause).await;
            pause = (2 * pause).min(OWN_LIMIT_PAUSE_MAX);
        }
    }

    /// Notes what is lacking for a job. `false`: the job does not wait for it.
    fn lacks(&self, key: JobKey, hop_key: &HopKey, fault: DnsFault) -> bool {
        let mut jobs = self.jobs.borrow_mut();
        let Some(waiting) = jobs.get_mut(&key).filter(|waiting| !waiting.is_ending) else {
            return false;
        };
        self.observed.metrics.delivery_resource_waits_total.add(1);
        waiting.lack = Some(format!("{}: {fault}", hop_key.next).into());
        let received_ms = waiting.mail.envelope().received_ms;
        !self.is_closing() && wall_ms() < backoff::expiry_ms(received_ms, hop_key.max_age)
    }

    async fn resolve(&self, key: &HopKey, policy: &DeliveryPolicy) -> Result<Arc<Hop>, Unresolved> {
        let now_ms = wall_ms();
        if let Some((hop, until_ms)) = self.hops.borrow().get(key)
            && *until_ms >= now_ms
        {
            return Ok(Arc::clone(hop));
        }
        let (domain, mut hosts, known_by, protocol, names) = match &key.next {
            NextHop::Mx { domain, port } if domain.starts_with('[') => {
                let Some(address) = parse_literal(domain) else {
                    return Err(Unresolved::Dns(DnsFault::BadName));
                };
                let host: Box<str> = address.to_string().into();
                let hosts = vec![HostPort { host: host.clone(), port: *port }];
                (domain.clone(), hosts, Box::from([host]), HopProtocol::Smtp, HostNames::Literal)
            }
            NextHop::Mx { domain, port } => {
                self.trust.sts().look_ahead(domain, policy);
                let answer = self.resolver.mx(domain).await?;
                if answer.implicit {
                    // RFC 5321 s5.1: the domain is its own host, if it is one at all.
                    self.resolver.addresses(domain, Family::Both).await?;
                }
                let random = self.roll();
                let mut hosts = match *port {
                    PORT_SMTP => {
                        without_us(answer.hosts, |host| is_us(&self.hostname, policy, host))
                    }
                    // Whoever is called as we are takes no mail of others at another port.
                    _ => answer.hosts,
                };
                if hosts.is_empty() {
                    return Err(Unresolved::OnlyUs);
                }
                // All shards treat the destination alike, so here chance has no say.
                hosts.sort();
                let known_by = hosts.iter().map(|(_, host)| host.clone()).collect();
                // RFC 5321 s5.1: among equals the order is random.
                hosts.sort_by_key(|(preference, host)| (*preference, shuffle(host, random)));
                let hosts = hosts.into_iter();
                let hosts = hosts.map(|(_, host)| HostPort { host, port: *port });
                let names = match answer.authentic {
                    true => HostNames::SignedMx,
                    false => HostNames::Mx,
                };
                (domain.clone(), hosts.collect::<Vec<_>>(), known_by, HopProtocol::Smtp, names)
            }
            NextHop::Hosts { hosts, protocol } => {
                let domain: Box<str> = hosts.first().map_or("", |host| &host.host).into();
                let known_by: Box<[Box<str>]> =
                    hosts.iter().map(|host| host.host.clone()).collect();
                (domain, hosts.to_vec(), known_by, *protocol, HostNames::Operator)
            }
            _ => return Err(Unresolved::Dns(DnsFault::NoData)),
        };
        // RFC 8461 is about hosts that were found by MX.
        let sts = match names {
            HostNames::Operator | HostNames::Literal => None,
            HostNames::Mx | HostNames::SignedMx => {
                let asked = self.trust.sts().policy_of(&domain, policy).await;
                asked.map_err(|unknown| match unknown {
                    StsUnknown::NotFetched => Unresolved::NoPolicy,
                    StsUnknown::OwnLimit(fault) => Unresolved::Dns(fault),
                })?
            }
        };
        let host_names: Vec<&str> = known_by.iter().map(AsRef::as_ref).collect();
        let treatment = self.snapshots.borrow().treatment(&domain, &host_names, now_ms);
        let destination_policy = Arc::clone(&treatment.policy);
        let mut sorted: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        sorted.sort_unstable();
        // Named after all of them: which are tried is a matter of chance.
        if names != HostNames::Operator {
            hosts.truncate(policy.mx_hosts_max);
        }
        let tls = protocol.tls(key.tls.unwrap_or(destination_policy.tls));
        // Connections are shared within a destination, so what makes them differ is part of its name.
        let mut destination = sorted.join(",");
        if let Some(pool) = key.pool {
            destination = format!("{destination} from {}", policy.sources.pool_name(pool));
        }
        if let Some(user) = &key.auth {
            destination = format!("{destination} as {}", user.user);
        }
        // Limits are a function of the name: domains that share exchangers and are treated
        // otherwise are another destination.
        if let Some(name) = policy.destinations.own_entry(&domain, &host_names) {
            destination = format!("{destination} by {name}");
        }
        let require_tls = demanded(key.require_tls, &hosts);
        let mut hop = Hop {
            destination: Box::default(),
            name: key.next.to_string().into(),
            domain,
            hosts: hosts.into(),
            protocol,
            policy: destination_policy,
            stripes: treatment.stripes(self.shards),
            known_by,
            tls,
            require_tls,
            names,
            dane: trust::dane_counts(policy, names, protocol),
            sts,
            auth: key.auth.clone(),
            pool: key.pool.map(|pool| policy.sources.pool_name(pool).into()),
        };
        destination.push_str(&trust::destination_suffix(&hop));
        hop.destination = destination.into();
        let hop = Arc::new(hop);
        let mut hops = self.hops.borrow_mut();
        if hops.len() >= HOPS_MAX {
            hops.clear();
        }
        hops.insert(key.clone(), (Arc::clone(&hop), wall_ms() + HOP_MS));
        Ok(hop)
    }

    /// The domain may demand TLS, and we cannot know it now.
    fn postponed(&self, next: &NextHop) -> settling::Local {
        let text = format!("{next}: the MTA-STS policy of the domain cannot be fetched yet");
        let spread = self.roll() % STS_POSTPONE_MS;
        settling::Local::Postponed {
            answer: Answer::ours(Cause::OurFault, text),
            due_ms: wall_ms() + STS_POSTPONE_MS + spread,
        }
    }

    /// Puts the job into the line of its destination, or sends it on at once.
    fn post(self: &Rc<Home>, key: JobKey, hop: &Arc<Hop>, max_age: Duration, now_ms: u64) {
        if self.is_closing() {
            return self.forget(key);
        }
        let (arrival, expires_ms) = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(waiting) = jobs.get_mut(&key).filter(|waiting| !waiting.is_ending) else {
                return;
            };
            waiting.hop = Some(Arc::clone(hop));
            waiting.lack = None;
            waiting.max_age = Some(max_age);
            let received_ms = waiting.mail.envelope().received_ms;
            waiting.expires_ms = received_ms.saturating_add(max_age.as_millis() as u64);
            let age = match waiting.attempts {
                _ if now_ms >= waiting.expires_ms => Age::Expired,
                0 if now_ms < waiting.due_ms + FRESH_MS => Age::Fresh,
                _ => Age::Waited,
            };
            let out_max = hop.policy.jobs_max / self.shards;
            let row = (waiting.due_ms, key.0, key.1);
            (Arrival { row, age, tenant: waiting.tenant, out_max }, waiting.expires_ms)
        };
        let tenant = arrival.tenant;
        let turn = self.lines.borrow_mut().join(&hop.destination, arrival);
        match turn {
            Turn::Goes => {
                if !self.send(key, hop, now_ms) {
                    self.step_line(&hop.destination, tenant);
                }
            }
            Turn::Waits { displaced } => {
                self.first_expiry_ms.set(self.first_expiry_ms.get().min(expires_ms));
                displaced.into_iter().for_each(|key| self.forget(key));
            }
            Turn::Expires => self.expire(key),
            Turn::StaysOnDisk => self.forget(key),
        }
    }

    /// Gives up a job that has waited for too long, though it was not tried.
    fn expire(self: &Rc<Home>, key: JobKey) {
        let home = Rc::clone(self);
        let answer = Answer::ours(Cause::NoRoom, "the queue of this destination is full");
        task::spawn(async move { home.settle_here(key, settling::Local::Deferred(answer)).await });
    }

    /// Takes a job out of the line of its destination, for an operator.
    pub(super) fn withdraw(&self, key: JobKey) {
        if self.leave_line(key) {
            // Whatever becomes of the order.
            self.leave_on_disk(key);
        }
    }

    fn leave_line(&self, key: JobKey) -> bool {
        let hop = self.waiting(key).and_then(|waiting| waiting.hop);
        hop.is_some_and(|hop| self.lines.borrow_mut().withdraw(&hop.destination, key))
    }

    /// Gives up what has become too old while it stood in a line.
    fn expire_lines(self: &Rc<Home>, now_ms: u64) {
        let mut first_ms = u64::MAX;
        let old = self.lines.borrow_mut().take_out(|key| {
            let expires_ms = self.jobs.borrow().get(&key).map_or(0, |job| job.expires_ms);
            let is_young = now_ms < expires_ms;
            if is_young {
                first_ms = first_ms.min(expires_ms);
            }
            is_young
        });
        self.first_expiry_ms.set(first_ms);
        old.into_iter().for_each(|key| self.expire(key));
    }

    /// A job that was out is not any more, whatever becomes of it: its place in line is free.
    fn come_back(&self, key: JobKey) {
        let (hop, tenant) = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(waiting) = jobs.get_mut(&key) else { return };
            if !std::mem::take(&mut waiting.is_out) {
                return;
            }
            (waiting.hop.clone(), waiting.tenant)
        };
        if let Some(hop) = hop {
            self.step_line(&hop.destination, tenant);
        }
    }

    /// A job of this destination and tenant has come back: the next may go.
    fn step_line(&self, destination: &str, tenant: u32) {
        self.lines.borrow_mut().step(destination, tenant, |next| {
            let hop = self.jobs.borrow().get(&next).and_then(|waiting| waiting.hop.clone());
            hop.is_some_and(|hop| !self.is_closing() && self.send(next, &hop, wall_ms()))
        });
    }

    /// A destination whose line has room again for what was left in this partition, and where it begins.
    pub fn take_left(&self, partition: PartitionId) -> Option<(Box<str>, Row)> {
        self.lines.borrow_mut().take_left(partition)
    }

    /// What was taken could not be read to its end.
    pub fn leave_again(&self, destination: &str, row: Row) {
        self.lines.borrow_mut().leave_again(destination, row);
    }

    /// Whether the line of a destination takes no more of this partition.
    pub fn is_full(&self, destination: &str, partition: PartitionId) -> bool {
        self.lines.borrow().is_full(destination, partition)
    }

    /// Who makes the connections of this hop for mail from here.
    pub(super) fn owner_of(&self, hop: &Hop) -> ShardId {
        let first = self.mesh.owner_of(&hop.destination);
        stripes::owner(first, hop.stripes, self.mesh.me(), self.mesh.shards())
    }

    /// Leases the job and sends it to the owner of its destination.
    fn send(&self, key: JobKey, hop: &Arc<Hop>, now_ms: u64) -> bool {
        let (id, job) = key;
        // What waits for the end of an attempt is carried out when the scan comes by.
        let is_requested = self.requests.borrow().contains_key(&id);
        if is_requested || self.orders.borrow().get(&id).is_some_and(Operation::calls_back) {
            self.left_on_disk.set(u64::MAX);
            self.forget(key);
            return false;
        }
        let delivery = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(waiting) = jobs.get_mut(&key).filter(|waiting| !waiting.is_ending) else {
                return false;
            };
            let leased = self.leases.borrow_mut().lease(id, job, now_ms);
            let lease = match leased {
                Ok(lease) => lease,
                // It is out already, and its outcome will come.
                Err(LeaseRefusal::Held) => return false,
                Err(LeaseRefusal::Full) => {
                    // Kept here without a lease nobody would ever look at it again.
                    drop(jobs);
                    self.left_on_disk.set(u64::MAX);
                    self.forget(key);
                    return false;
                }
            };
            waiting.is_out = true;
            Delivery {
                id,
                job,
                lease: lease.number,
                lease_until_ms: lease.until_ms,
                home: self.mesh.me(),
                mail: Arc::clone(&waiting.mail),
                recipients: waiting.recipients.clone(),
                hop: Arc::clone(hop),
                due_ms: waiting.due_ms,
                sent_ms: now_ms,
            }
        };
        self.mesh.post(self.owner_of(hop), Frame::Deliver(Box::new(delivery)));
        true
    }

    /// The job stays as it is stored; the scan finds it again when there is room.
    fn leave_on_disk(&self, key: JobKey) {
        self.left_on_disk.set(u64::MAX);
        self.forget(key);
    }

    /// Makes several jobs of one: one for each hop, none with more recipients than its destination takes.
    async fn split(self: Rc<Home>, key: JobKey, waiting: &Waiting, parts: Vec<Box<[u32]>>) {
        let (id, job) = key;
        // Two parts of one message, split again at once, would find the same numbers free.
        while !self.splitting.borrow_mut().insert(id) {
            timer::sleep(SPLIT_PAUSE).await;
        }
        let _turn = SplitTurn { home: &self, id };
        let partition = Arc::clone(&waiting.mail.partition);
        let wanted = parts.len();
        let numbers: Vec<u16> = if job == 0 {
            (1..=u16::MAX).take(wanted).collect()
        } else {
            let found = self.reader.run(move || free_job_numbers(&*partition, id, wanted)).await;
            let Some(Ok(numbers)) = found else {
                return self.leave_on_disk(key);
            };
            numbers
        };
        if !self.is_still(key, waiting) {
            return;
        }
        // More parts than numbers: what is left keeps one job, which is split again later.
        let room = numbers.len();
        if room < wanted.min(2) {
            let what = format!(
                "message {} needs more jobs than a message can have",
                waiting.mail.public_id()
            );
            let remedy = "send messages with fewer recipients, or raise recipients_per_message of the destination";
            Record::Warning { what: &what, remedy }.emit();
            // Numbers become free as other parts end; the next sweep is soon enough for it.
            return self.forget(key);
        }
        let mut parts = parts;
        if wanted > room {
            let tail = parts.split_off(room - 1);
            parts.push(tail.concat().into_boxed_slice());
        }
        let mut records = Vec::with_capacity(parts.len());
        for (number, recipients) in numbers.iter().copied().zip(&parts) {
            let stored: Vec<u8> = recipients.iter().flat_map(|index| index.to_be_bytes()).collect();
            let record = JobRecord::new(&Job {
                number,
                state: JobState::Waiting,
                warned: waiting.warned,
                attempts: waiting.attempts,
                last_attempt_ms: 0,
                due_ms: waiting.due_ms,
                last_reply: "",
                next_hop: waiting.next_hop.as_deref(),
                filed: None,
                recipients: Indexes::Stored(&stored),
            });
            records.extend(record);
        }
        if records.len() != parts.len() {
            // A part that cannot be written: the job stays as it was.
            return self.leave_on_disk(key);
        }
        let settlement = Arc::new(Settlement {
            id,
            job,
            change: JobChange::Split(records),
            reports: Vec::new(),
            tally: Tally::default(),
            is_order: false,
            keep_until_ms: None,
        });
        let written = settling::write(&self, id, settlement, settling::Haste::Unsent).await;
        if !written {
            // Deleted meanwhile, or a number was taken; if it is still there, the scan finds it.
            return self.leave_on_disk(key);
        }
        self.forget(key);
        for (number, recipients) in numbers.into_iter().zip(parts) {
            if !self.has_room() {
                // The parts of a long list do not crowd out other mail.
                self.left_on_disk.set(u64::MAX);
                return;
            }
            let part = Waiting {
                recipients,
                hop: None,
                max_age: None,
                is_out: false,
                is_ending: false,
                ..waiting.clone()
            };
            self.insert((id, number), part);
            self.start((id, number));
        }
    }

    /// Whether nothing is out and nothing is being written.
    pub fn is_drained(&self) -> bool {
        self.settling.get() == 0 && self.leases.borrow().is_empty()
    }

    /// An owner has told what became of a job.
    pub fn on_outcome(self: &Rc<Home>, outcome: Outcome) {
        let key = (outcome.id, outcome.job);
        match self.leases.borrow_mut().settle(outcome.id, outcome.job, outcome.lease) {
            Settle::Settled => (),
            // The job may be queued a second time; only this outcome counts.
            Settle::SettledLate => drop(self.leave_line(key)),
            Settle::Stale | Settle::Unknown => return,
        }
        self.come_back(key);
        if matches!(outcome.what, What::Returned) {
            // Unless an order is about it, nobody else would look for it.
            self.leave_on_disk(key);
            if self.requests.borrow().contains_key(&key.0) {
                let home = Rc::clone(self);
                task::spawn(async move { operator::after_attempt(&home, key.0).await });
            }
            return;
        }
        if let Some(waiting) = self.jobs.borrow_mut().get_mut(&key) {
            waiting.is_ending = true;
            let slot = SettlingSlot::take(self, key);
            task::spawn(async move {
                settling::settle(Rc::clone(&slot.home), key, outcome.what).await;
                drop(outcome.unsettled);
                operator::after_attempt(&slot.home, key.0).await;
            });
        }
    }

    /// Issues again what no owner has told anything of.
    pub fn expire_leases(self: &Rc<Home>, now_ms: u64) {
        loop {
            let expired = self.leases.borrow_mut().next_expired(now_ms);
            let Some(key) = expired else { return };
            self.come_back(key);
            self.start(key);
        }
    }

    /// Mail made here has become durable together with what it reports.
    pub(super) fn admit_report(
        self: &Rc<Home>,
        id: MessageId,
        envelope: Vec<u8>,
        message: Vec<u8>,
    ) {
        let due_ms = wall_ms();
        let (envelope, message) = (envelope.into(), Some(message.into()));
        self.take_fresh(Fresh { id, due_ms, envelope, message });
    }

    fn take_fresh(self: &Rc<Home>, fresh: Fresh) {
        if !self.has_room() || self.is_closing() || !self.policy().enabled {
            self.left_on_disk.set(u64::MAX);
            return;
        }
        let Some(store) = self.stores.get(&fresh.id.partition()) else { return };
        let body = fresh.message.map_or(MailBody::Stored, MailBody::Held);
        let partition = Arc::clone(&store.partition);
        let Ok(mail) = Mail::new(fresh.id, fresh.envelope, body, partition) else {
            crate::invariant!(false, "an envelope that was just encoded cannot be decoded");
            return;
        };
        let recipients = (0..mail.envelope().recipients.len() as u32).collect();
        let key = (fresh.id, 0);
        if self.knows(key) {
            // The scan was faster.
            return;
        }
        self.insert(
            key,
            Waiting {
                tenant: turn_of(&mail.envelope()).0,
                mail: Arc::new(mail),
                recipients,
                attempts: 0,
                due_ms: fresh.due_ms,
                warned: false,
                is_out: false,
                is_ending: false,
                expires_ms: u64::MAX,
                hop: None,
                max_age: None,
                next_hop: None,
                lack: None,
            },
        );
        self.start(key);
    }
}

/// The one split of a message that is under way.
struct SplitTurn<'h> {
    home: &'h Home,
    id: MessageId,
}

impl Drop for SplitTurn<'_> {
    fn drop(&mut self) {
        self.home.splitting.borrow_mut().remove(&self.id);
    }
}

/// Counts an outcome that is being written. Should a bug end its task, the job is left to the scan.
struct SettlingSlot {
    home: Rc<Home>,
    key: JobKey,
}

impl SettlingSlot {
    fn take(home: &Rc<Home>, key: JobKey) -> SettlingSlot {
        home.settling.set(home.settling.get() + 1);
        SettlingSlot { home: Rc::clone(home), key }
    }
}

impl Drop for SettlingSlot {
    fn drop(&mut self) {
        self.home.settling.set(self.home.settling.get() - 1);
        let stuck = self.home.jobs.borrow().get(&self.key).is_some_and(|job| job.is_ending);
        if stuck {
            self.home.leave_on_disk(self.key);
        }
    }
}

/// A reference to a home that its committers hold.
impl Keeper for HomeKeeper {
    fn wants(&self, bytes: u64) -> bool {
        bytes <= BODY_HELD_MAX && self.0.holds_bodies() && self.0.has_room()
    }

    fn kept(&self, fresh: Fresh) {
        self.0.take_fresh(fresh);
    }
}

struct HomeKeeper(Rc<Home>);

/// Recipients by where they go, in the order of the first of each.
fn group(policy: &DeliveryPolicy, waiting: &Waiting) -> Vec<(HopKey, Box<[u32]>)> {
    let envelope = waiting.mail.envelope();
    let sender_domain = envelope.sender.and_then(domain_of);
    let mut groups: Vec<(HopKey, Vec<u32>)> = Vec::with_capacity(1);
    let mut wanted = waiting.recipients.iter().copied().peekable();
    let mut last_domain = None;
    let require_tls = if envelope.requiretls { RequireTls::Yes } else { RequireTls::No };
    let headers: Vec<(&str, &str)> = envelope.labels.fields.iter().collect();
    let way = waiting.next_hop.as_deref().map(reroute::way_of);
    for (index, recipient) in (0_u32..).zip(envelope.recipients.iter()) {
        if wanted.peek() != Some(&index) {
            continue;
        }
        wanted.next();
        let domain = domain_of(recipient.mailbox).unwrap_or("");
        // Lists are often sorted by domain; the route of the one before is the route of this one.
        if last_domain == Some(domain)
            && !policy.routes.names_recipients()
            && let Some((_, recipients)) = groups.last_mut()
        {
            recipients.push(index);
            continue;
        }
        let question = RouteQuestion {
            recipient_domain: domain,
            recipient_local: local_of(recipient.mailbox),
            sender_domain,
            listener: Some(envelope.listener),
            tenant: envelope.labels.tenant,
            campaign: envelope.labels.campaign,
            headers: &headers,
        };
        let choice = match &way {
            None => policy.routes.next_hop(&question),
            Some(way) => policy.routes.rerouted(&question, way),
        };
        let key = HopKey {
            next: choice.next_hop.into_owned(),
            tls: choice.tls,
            require_tls,
            auth: choice.auth.cloned(),
            pool: choice.pool,
            max_age: choice.max_age,
        };
        match groups.iter().position(|(known, _)| *known == key) {
            Some(place) => {
                let mut known = groups.remove(place);
                known.1.push(index);
                groups.push(known);
            }
            None => groups.push((key, vec![index])),
        }
        last_domain = Some(domain);
    }
    groups.into_iter().map(|(key, recipients)| (key, recipients.into())).collect()
}

fn local_of(mailbox: &str) -> &str {
    mailbox.rsplit_once('@').map_or(mailbox, |(local, _)| local)
}

pub(super) fn domain_of(mailbox: &str) -> Option<&str> {
    mailbox.rsplit_once('@').map(|(_, domain)| domain)
}

fn limit_of(hop: &Hop) -> usize {
    hop.policy.recipients_per_message.max(1) as usize
}

/// The sender demands TLS, and the operator forbids it.
fn is_forbidden(hop: &Hop) -> bool {
    hop.require_tls == RequireTls::Yes && hop.tls == OutboundTls::None
}

/// What the sender's demand comes to at these hosts: what goes to Unix sockets alone never leaves
/// the machine, and so meets it.
fn demanded(require_tls: RequireTls, hosts: &[HostPort]) -> RequireTls {
    match hosts.iter().all(|host| host.unix_path().is_some()) {
        true => RequireTls::No,
        false => require_tls,
    }
}

/// Orders hosts of one preference, differently at each roll.
fn shuffle(host: &str, random: u64) -> u64 {
    host.bytes().fold(random, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    })
}

/// Why there is no server to go to.
enum Unresolved {
    Dns(DnsFault),
    /// The best mail exchanger is this server.
    OnlyUs,
    /// Nobody could be asked for the domain's MTA-STS policy.
    NoPolicy,
}

impl From<DnsFault> for Unresolved {
    fn from(fault: DnsFault) -> Unresolved {
        Unresolved::Dns(fault)
    }
}

/// Whether a mail exchanger is called as we are. Where a proxy goes out is another machine, and
/// what is called as that one may be one of ours that takes mail.
fn is_us(hostname: &str, policy: &DeliveryPolicy, host: &str) -> bool {
    let direct = policy.sources.sources().iter().filter(|source| source.proxy.is_none());
    let sources = direct.map(|source| &*source.ehlo_name);
    let mut names = [hostname, &*policy.ehlo_name].into_iter().chain(sources);
    let host = host.trim_end_matches('.');
    names.any(|name| name.eq_ignore_ascii_case(host))
}

/// The mail exchangers that are better than we are, if we are one: the others would send the mail
/// back to us, and so would we (RFC 5321 s5.1).
fn without_us(
    mut hosts: Vec<(u16, Box<str>)>,
    is_us: impl Fn(&str) -> bool,
) -> Vec<(u16, Box<str>)> {
    let ours = hosts.iter().filter(|(_, host)| is_us(host)).map(|(preference, _)| *preference);
    if let Some(ours) = ours.min() {
        hosts.retain(|(preference, _)| *preference < ours);
    }
    hosts
}

/// What it means that nobody but we are left. A domain that a route or an order names is no doing
/// of the sender: the operator may yet mend it.
fn only_us(key: &HopKey, is_own_domain: bool) -> settling::Local {
    let text = format!("{}: all mail exchangers of the domain are this server", key.next);
    let answer = Answer::ours(Cause::Loop, text);
    match is_own_domain {
        true => settling::Local::Failed(answer),
        false => settling::Local::Deferred(Answer { status: (4, 4, 6), ..answer }),
    }
}

/// What an unresolved domain means for its recipients.
fn unresolved(key: &HopKey, fault: DnsFault, waiting: &Waiting) -> settling::Local {
    let text = format!("{}: {fault}", key.next);
    // A domain that a route names is no doing of the sender: the operator may yet mend it.
    if !fault.is_final() || !is_own_domain(key, waiting) {
        return settling::Local::Deferred(Answer::ours(Cause::DnsFailed, text));
    }
    let cause = match fault {
        DnsFault::NullMx => Cause::NullMx,
        DnsFault::NoData => Cause::NoHost,
        _ => Cause::NoDomain,
    };
    settling::Local::Failed(Answer::ours(cause, text))
}

/// Whether the domain that was looked up is the recipients' own.
fn is_own_domain(key: &HopKey, waiting: &Waiting) -> bool {
    let NextHop::Mx { domain, .. } = &key.next else { return false };
    let first = waiting.recipients.first().map_or(0, |index| *index as usize);
    let envelope = waiting.mail.envelope();
    let recipient = envelope.recipients.iter().nth(first);
    let own = recipient.and_then(|recipient| domain_of(recipient.mailbox));
    own.is_some_and(|own| is_same_domain(own, domain))
}

/// Whether `domain`, as it was looked up, is the domain `own` of a mailbox. One in other letters than
/// ASCII is looked up under another name, and a literal has several spellings.
pub(super) fn is_same_domain(own: &str, domain: &str) -> bool {
    !own.is_ascii() || own.starts_with('[') || own.eq_ignore_ascii_case(domain)
}

/// Waits until there is something to do for a home, at the pace of its promises.
pub async fn tend(home: Rc<Home>) {
    let (mut swept, mut refreshed) = (Instant::now(), Instant::now());
    while !home.is_closing() {
        timer::sleep(PACE).await;
        queue::points::point("vital::home");
        home.expire_leases(wall_ms());
        if swept.elapsed() >= LINES_EVERY && home.first_expiry_ms.get() <= wall_ms() {
            swept = Instant::now();
            home.expire_lines(wall_ms());
        }
        if refreshed.elapsed() >= POLICIES_EVERY {
            refreshed = Instant::now();
            home.trust.sts().refresh(&home.policy(), home.shards);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_goes_to_none_that_would_send_it_back() {
        type Hosts = &'static [(u16, &'static str)];
        let rows: [(Hosts, Hosts); 6] = [
            (&[(10, "a"), (20, "b")], &[(10, "a"), (20, "b")]),
            (&[(10, "a"), (20, "us"), (30, "b")], &[(10, "a")]),
            (&[(20, "a"), (20, "us"), (10, "b")], &[(10, "b")]),
            (&[(10, "us"), (20, "a")], &[]),
            (&[(30, "us"), (20, "US"), (20, "a"), (10, "b")], &[(10, "b")]),
            (&[(0, "us")], &[]),
        ];
        let boxed = |hosts: &[(u16, &str)]| -> Vec<(u16, Box<str>)> {
            hosts.iter().map(|(preference, host)| (*preference, Box::from(*host))).collect()
        };
        for (hosts, expected) in rows {
            let left = without_us(boxed(hosts), |host| host.eq_ignore_ascii_case("us"));
            assert_eq!(left, boxed(expected), "{hosts:?}");
        }
    }
}
