//! A lookup: the servers in turn, alias after alias, until something is known.
//!
//! Bounds:   `attempts` questions for each name on the way, `attempts + 1` times `timeout` for all
//!           of it.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::chunk::ChunkPool;
use crate::net::resolver::answer::Answer;
use crate::net::resolver::answer::CNAMES_MAX;
use crate::net::resolver::answer::Datum;
use crate::net::resolver::answer::Said;
use crate::net::resolver::cache::Cache;
use crate::net::resolver::exchange::exchange;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::flight::Flights;
use crate::net::resolver::flight::Landing;
use crate::net::resolver::flight::Wait;
use crate::net::resolver::query::Question;
use crate::net::resolver::servers::Servers;
use crate::net::resolver::settings::ResolverSettings;
use crate::rt::gate::Gate;
use crate::rt::task;
use crate::rt::timer;

/// Larger answers are used and not kept, so that one does not push many others out.
const ANSWER_BYTES_CACHED_MAX: usize = 4096;
/// How long a failure is kept. RFC 9520 s3.2 asks for 1 second at least, RFC 2308 s7 for 5 minutes
/// at most.
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// Lookups that wait for each place of the gate. Past that they are `Busy` at once.
const WAITING_PER_PLACE: usize = 4;
/// Chunks for answers by TCP that are being read. Without one a read waits.
const TCP_CHUNKS_MAX: usize = 8;

/// What is known in the end.
#[derive(Clone, Debug)]
pub(in crate::net::resolver) enum Outcome {
    Found(Rc<Found>),
    /// `NoSuchDomain` or `NoData`.
    Absent {
        fault: DnsFault,
        authentic: bool,
    },
    Failed(DnsFault),
}

#[derive(Debug)]
pub(in crate::net::resolver) struct Found {
    pub(in crate::net::resolver) data: Box<[Datum]>,
    pub(in crate::net::resolver) expires: Instant,
    pub(in crate::net::resolver) authentic: bool,
}

/// What a resolver has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverFigures {
    /// Answered out of the cache.
    pub hits: u64,
    /// Joined to a lookup that was under way.
    pub joined: u64,
    /// Begun.
    pub lookups: u64,
    /// Ended without a place.
    pub busy: u64,
    /// Sent by UDP.
    pub questions: u64,
    /// Asked again by TCP.
    pub tcp: u64,
    /// Datagrams that answered something else.
    pub foreign: u64,
    /// Now.
    pub under_way: usize,
    /// Now.
    pub cached: usize,
    /// Memory of what is cached now.
    pub cached_bytes: usize,
}

/// All that a shard's resolver has.
pub(in crate::net::resolver) struct Context {
    pub(in crate::net::resolver) settings: ResolverSettings,
    pub(in crate::net::resolver) chunks: ChunkPool,
    servers: Servers,
    cache: RefCell<Cache>,
    flights: Rc<Flights>,
    gate: Rc<Gate>,
    figures: Cell<ResolverFigures>,
    trust_ad: Cell<bool>,
}

/// An answer, now or later.
pub(in crate::net::resolver) enum Pending {
    Known(Outcome),
    Awaited(Wait),
}

impl Pending {
    pub(in crate::net::resolver) async fn outcome(self) -> Outcome {
        match self {
            Pending::Known(outcome) => outcome,
            Pending::Awaited(wait) => wait.await,
        }
    }
}

impl Context {
    pub(in crate::net::resolver) fn new(settings: ResolverSettings) -> Context {
        let places = settings.in_flight_max.max(1);
        Context {
            chunks: ChunkPool::new(TCP_CHUNKS_MAX),
            servers: Servers::new(&settings.servers),
            cache: RefCell::new(Cache::new(settings.cache)),
            flights: Rc::default(),
            gate: Gate::new(places),
            figures: Cell::default(),
            trust_ad: Cell::new(settings.trust_ad),
            settings,
        }
    }

    /// Out of the cache, with a lookup under way, or by a new one. The lookup is a task of its
    /// own, so that it outlives who asked first.
    pub(in crate::net::resolver) fn begin(self: &Rc<Self>, question: &Question) -> Pending {
        if self.settings.servers.is_empty() {
            return Pending::Known(Outcome::Failed(DnsFault::NoServers));
        }
        let known = self.cache.borrow_mut().find(question, timer::now());
        if let Some(outcome) = known {
            self.count(|figures| figures.hits += 1);
            return Pending::Known(outcome);
        }
        if let Some(wait) = self.flights.join(question) {
            self.count(|figures| figures.joined += 1);
            return Pending::Awaited(wait);
        }
        self.count(|figures| figures.lookups += 1);
        let (landing, wait) = self.flights.begin(question);
        task::spawn(fly(Rc::clone(self), question.clone(), landing));
        Pending::Awaited(wait)
    }

    pub(in crate::net::resolver) fn trusts_ad(&self) -> bool {
        self.trust_ad.get()
    }

    /// What was learnt under the other rule is forgotten.
    pub(in crate::net::resolver) fn set_trust_ad(&self, trust_ad: bool) {
        if self.trust_ad.replace(trust_ad) != trust_ad {
            self.cache.borrow_mut().clear();
        }
    }

    pub(in crate::net::resolver) fn count(&self, change: impl FnOnce(&mut ResolverFigures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    pub(in crate::net::resolver) fn figures(&self) -> ResolverFigures {
        let cache = self.cache.borrow();
        let (cached, cached_bytes) = (cache.len(), cache.bytes());
        ResolverFigures {
            under_way: self.flights.len(),
            cached,
            cached_bytes,
            ..self.figures.get()
        }
    }

    fn keep(&self, question: Question, outcome: &Outcome, (ttl, now): (Duration, Instant)) {
        self.cache.borrow_mut().keep(question, outcome.clone(), (now + ttl, now));
    }

    /// The answer of the first server that has one.
    async fn ask(&self, question: &Question, until: Instant) -> Result<Answer, DnsFault> {
        let mut order = self.servers.in_order(timer::now());
        let (mut turn, mut fault) = (0, DnsFault::Timeout);
        for _ in 0..self.settings.attempts.max(1) {
            let left = until.saturating_duration_since(timer::now());
            if left.is_zero() || order.is_empty() {
                break;
            }
            turn %= order.len();
            let server = order[turn];
            match exchange(self, server, question, left.min(self.settings.timeout)).await {
                Ok(answer) => return Ok(answer),
                Err(local @ (DnsFault::Local(_) | DnsFault::BadName)) => return Err(local),
                Err(said) if said.is_said() => {
                    order.remove(turn);
                    fault = said;
                }
                Err(silence) => {
                    turn += 1;
                    // What a server has said tells more than the silence of another.
                    fault = if fault.is_said() { fault } else { silence };
                }
            }
        }
        Err(fault)
    }
}

/// The task of one lookup.
async fn fly(context: Rc<Context>, question: Question, landing: Landing) {
    let waiting_max = context.settings.in_flight_max.max(1).saturating_mul(WAITING_PER_PLACE);
    let place = match context.gate.waiting() < waiting_max {
        true => timer::timeout(context.settings.timeout, context.gate.enter()).await.ok(),
        false => None,
    };
    let Some(_place) = place else {
        context.count(|figures| figures.busy += 1);
        return landing.land(Outcome::Failed(DnsFault::Busy));
    };
    landing.land(look_up(&context, question).await);
}

/// What has been gathered on the way along the aliases.
struct Trail {
    hops: usize,
    ttl: u32,
    authentic: bool,
    wire_bytes: usize,
}

/// Asks until something is known, and keeps it.
async fn look_up(context: &Context, question: Question) -> Outcome {
    let patience = context.settings.timeout.saturating_mul(context.settings.attempts.max(1) + 1);
    let until = timer::now() + patience;
    let mut asked = question.clone();
    let mut trail = Trail { hops: 0, ttl: u32::MAX, authentic: true, wire_bytes: 0 };
    loop {
        let answer = match context.ask(&asked, until).await {
            Ok(answer) => answer,
            Err(fault) => return failed(context, question, fault),
        };
        trail.authentic &= answer.authentic;
        trail.wire_bytes += answer.wire_bytes;
        trail.ttl = answer.ttl.unwrap_or(trail.ttl).min(trail.ttl);
        match answer.said {
            Said::Records(data) => return found(context, question, (data, &trail)),
            Said::NoName | Said::NoRecords => {
                let ttl = answer.ttl.map(|_| trail.ttl);
                let gone = answer.said == Said::NoName;
                let fault = if gone { DnsFault::NoSuchDomain } else { DnsFault::NoData };
                let outcome = Outcome::Absent { fault, authentic: trail.authentic };
                let ttl = context.settings.negative_ttl(ttl);
                context.keep(question, &outcome, (ttl, timer::now()));
                return outcome;
            }
            Said::Alias(target, hops) => {
                trail.hops += hops;
                if trail.hops > CNAMES_MAX {
                    return failed(context, question, DnsFault::CnameLoop);
                }
                asked.name = target;
            }
        }
    }
}

fn found(context: &Context, question: Question, (data, trail): (Vec<Datum>, &Trail)) -> Outcome {
    let (now, ttl) = (timer::now(), context.settings.positive_ttl(trail.ttl));
    let authentic = trail.authentic;
    let outcome =
        Outcome::Found(Rc::new(Found { data: data.into(), expires: now + ttl, authentic }));
    if trail.wire_bytes <= ANSWER_BYTES_CACHED_MAX {
        context.keep(question, &outcome, (ttl, now));
    }
    outcome
}

fn failed(context: &Context, question: Question, fault: DnsFault) -> Outcome {
    let outcome = Outcome::Failed(fault);
    if fault.is_cached() {
        context.keep(question, &outcome, (FAILURE_TTL, timer::now()));
    }
    outcome
}
