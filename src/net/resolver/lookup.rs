//! A lookup: asks the servers in turn and follows aliases until the outcome is known.
//!
//! Bounds:   `attempts` queries for each name of the alias chain; `attempts + 1` times `timeout` in
//!           total.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::net::resolver::answer::Answer;
use crate::net::resolver::answer::CNAMES_MAX;
use crate::net::resolver::answer::Said;
use crate::net::resolver::context::Context;
use crate::net::resolver::exchange::exchange;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::flight::Completion;
use crate::net::resolver::flight::Wait;
use crate::net::resolver::query::Datum;
use crate::net::resolver::query::Outcome;
use crate::net::resolver::query::Question;
use crate::net::resolver::query::RecordSet;
use crate::rt::task;
use crate::rt::timer;

/// Larger answers are used but not cached, because each would evict many others.
const ANSWER_BYTES_CACHED_MAX: usize = 4096;
/// How long a failure is cached: RFC 9520 s3.2 requires at least 1 second, RFC 2308 s7 at most 5
/// minutes.
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// Lookups that may wait for each slot of the gate. More fail with `Busy` at once.
const WAITING_PER_SLOT: usize = 4;

/// An outcome, known or awaited.
pub(super) enum Pending {
    Known(Outcome),
    Awaited(Wait),
}

impl Pending {
    pub(super) async fn outcome(self) -> Outcome {
        match self {
            Pending::Known(outcome) => outcome,
            Pending::Awaited(wait) => wait.await,
        }
    }
}

/// Answers from the cache, joins a lookup in flight, or starts one. The lookup is a task of its own,
/// so that it outlives the first caller.
pub(super) fn begin(context: &Rc<Context>, question: &Question) -> Pending {
    if context.settings.servers.is_empty() {
        return Pending::Known(Outcome::Failed(DnsFault::NoServers));
    }
    let known = context.cache.borrow_mut().find(question, timer::now());
    if let Some(outcome) = known {
        context.count(|figures| figures.hits += 1);
        return Pending::Known(outcome);
    }
    if let Some(wait) = context.in_flight.join(question) {
        context.count(|figures| figures.joined += 1);
        return Pending::Awaited(wait);
    }
    context.count(|figures| figures.lookups += 1);
    let (completion, wait) = context.in_flight.begin(question);
    task::spawn(run_lookup(Rc::clone(context), question.clone(), completion));
    Pending::Awaited(wait)
}

/// The answer of the first server that gives one.
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
            Err(reply) if reply.is_reply() => {
                order.remove(turn);
                fault = reply;
            }
            Err(silence) => {
                turn += 1;
                // An error reply says more than another server's silence.
                fault = if fault.is_reply() { fault } else { silence };
            }
        }
    }
    Err(fault)
}

/// The task of one lookup.
async fn run_lookup(context: Rc<Context>, question: Question, completion: Completion) {
    let waiting_max = context.settings.in_flight_max.max(1).saturating_mul(WAITING_PER_SLOT);
    let slot = match context.gate.waiting() < waiting_max {
        true => timer::timeout(context.settings.timeout, context.gate.enter()).await.ok(),
        false => None,
    };
    let Some(_slot) = slot else {
        context.count(|figures| figures.busy += 1);
        return completion.complete(Outcome::Failed(DnsFault::Busy));
    };
    completion.complete(look_up(&context, question).await);
}

/// Data gathered along the chain of aliases.
struct Trail {
    hops: usize,
    ttl: u32,
    authentic: bool,
    wire_bytes: usize,
}

/// Follows the chain of aliases and caches the outcome.
async fn look_up(context: &Context, question: Question) -> Outcome {
    let time_max = context.settings.timeout.saturating_mul(context.settings.attempts.max(1) + 1);
    let until = timer::now() + time_max;
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
        Outcome::Found(Rc::new(RecordSet { data: data.into(), expires: now + ttl, authentic }));
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
