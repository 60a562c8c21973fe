//! A lookup: the servers in turn, alias after alias, until something is known.
//!
//! Bounds:   `attempts` questions for each name on the way, `attempts + 1` times `timeout` for all
//!           of it.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::net::resolver::answer::Answer;
use crate::net::resolver::answer::CNAMES_MAX;
use crate::net::resolver::answer::Said;
use crate::net::resolver::context::Context;
use crate::net::resolver::exchange::exchange;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::flight::Landing;
use crate::net::resolver::flight::Wait;
use crate::net::resolver::outcome::Datum;
use crate::net::resolver::outcome::Found;
use crate::net::resolver::outcome::Outcome;
use crate::net::resolver::query::Question;
use crate::rt::task;
use crate::rt::timer;

/// Larger answers are used and not kept, so that one does not push many others out.
const ANSWER_BYTES_CACHED_MAX: usize = 4096;
/// How long a failure is kept. RFC 9520 s3.2 asks for 1 second at least, RFC 2308 s7 for 5 minutes
/// at most.
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// Lookups that wait for each place of the gate. Past that they are `Busy` at once.
const WAITING_PER_PLACE: usize = 4;

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

/// Out of the cache, with a lookup under way, or by a new one. The lookup is a task of its
/// own, so that it outlives who asked first.
pub(in crate::net::resolver) fn begin(context: &Rc<Context>, question: &Question) -> Pending {
    if context.settings.servers.is_empty() {
        return Pending::Known(Outcome::Failed(DnsFault::NoServers));
    }
    let known = context.cache.borrow_mut().find(question, timer::now());
    if let Some(outcome) = known {
        context.count(|figures| figures.hits += 1);
        return Pending::Known(outcome);
    }
    if let Some(wait) = context.flights.join(question) {
        context.count(|figures| figures.joined += 1);
        return Pending::Awaited(wait);
    }
    context.count(|figures| figures.lookups += 1);
    let (landing, wait) = context.flights.begin(question);
    task::spawn(fly(Rc::clone(context), question.clone(), landing));
    Pending::Awaited(wait)
}

/// The answer of the first server that has one.
async fn ask(context: &Context, question: &Question, until: Instant) -> Result<Answer, DnsFault> {
    let mut order = context.servers.in_order(timer::now());
    let (mut turn, mut fault) = (0, DnsFault::Timeout);
    for _ in 0..context.settings.attempts.max(1) {
        let left = until.saturating_duration_since(timer::now());
        if left.is_zero() || order.is_empty() {
            break;
        }
        turn %= order.len();
        let server = order[turn];
        match exchange(context, server, question, left.min(context.settings.timeout)).await {
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
        let answer = match ask(context, &asked, until).await {
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
