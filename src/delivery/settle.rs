//! From the end of an attempt to what is written: final states, the next attempt, reports.
//!
//! Owner:    the home shard. Values without I/O or clock.
//! Promise:  each recipient gets one final state. A report is part of the same write as the state that
//!           it reports. A job that is deferred keeps its place in the index by destination if its
//!           flow has others there, and else goes back to `due`.
//! Order:    sort the answers, expire what is too old, plan the next attempt, list what is reported.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Wall;
use crate::base::backoff::RetrySchedule;
use crate::delivery::job::Deadlines;
use crate::delivery::job::Head;
use crate::delivery::job::Job;
use crate::delivery::job::Life;
use crate::delivery::job::Now;
use crate::delivery::verdict::category_of;
use crate::delivery::write::Changed;
use crate::delivery::write::Ended;
use crate::delivery::write::JobImage;
use crate::delivery::write::Next;
use crate::delivery::write::Settled;
use crate::delivery::write::Told;
use crate::delivery::write::Write;
use crate::event::EventList;
use crate::event::record as event;
use crate::event::record::Event;
use crate::event::record::Fact;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::End;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::What;
use crate::observe::label::AttemptCategory;
use crate::observe::label::AttemptOutcome;
use crate::observe::log::Record;
use crate::queue::admin::operate::HELD_DUE_MS;
use crate::queue::admin::operate::Operation;
use crate::queue::record::event_log;
use crate::queue::record::job::Filed;
use crate::queue::record::job::JobState;
use crate::queue::record::job::Schedule;
use crate::queue::record::key::FlowKey;
use crate::queue::record::ledger::Tally;
use crate::queue::record::recipients::Recipient;
use crate::route::HopProtocol;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::classify::Classifier;
use crate::wire::dsn::Kind;

/// Bytes of a reply that a job keeps.
const REPLY_KEPT_MAX: usize = 500;
/// The least wait of a job that could not be tried, so that it is written before it is due again.
const DUE_AHEAD: Duration = Duration::from_secs(1);
/// How long after a jump of the clock nothing is given up for its age.
pub const DISTRUST: Duration = Duration::from_secs(10 * 60);
/// How long after a start mail of before has for its first attempt, whatever its age: the server may
/// have been down for longer than mail may last.
const FIRST_ATTEMPT: Duration = Duration::from_secs(10 * 60);

impl Ended {
    /// The same for all recipients, without a server.
    pub fn all(job: &Job, end: End, answer: &Answer, counts: bool, now: Wall) -> Ended {
        let each = job.recipients.iter();
        let ends = each.map(|i| (RecipientEnd { index: *i, end: end.clone() }, answer.clone()));
        let wait_us = now.ms_since(Wall::from_ms(job.head.schedule.due_ms)).saturating_mul(1000);
        Ended {
            ends: ends.collect(),
            attempt: Box::new(Attempt { wait_us, ..Attempt::default() }),
            counts,
            not_before: Wall::default(),
            is_sent: false,
        }
    }

    pub fn failed(job: &Job, answer: &Answer, now: Wall) -> Ended {
        Ended::all(job, End::Failed, answer, true, now)
    }

    pub fn deferred(job: &Job, answer: &Answer, now: Wall) -> Ended {
        Ended::all(job, End::Deferred, answer, true, now)
    }

    /// What an owner has told. `None`: the job was returned without an attempt. `wait` is how long
    /// the owner wants it not to come again.
    pub fn of_outcome(job: &Job, what: What, wait: Duration, now: Wall) -> Option<Ended> {
        match what {
            What::Tried { ends, attempt } => {
                let (counts, is_sent) = (true, true);
                Some(Ended { ends, attempt, counts, not_before: Wall::default(), is_sent })
            }
            What::Unreached { answer, host, .. } => {
                let mut ended = Ended::deferred(job, &answer, now);
                ended.attempt.host = host;
                ended.not_before = now.plus(wait);
                Some(ended)
            }
            What::Returned(_) => None,
        }
    }
}

/// The rules of the policy for what follows an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub retry: &'a RetrySchedule,
    /// The age at which the sender is told of a delay.
    pub warning: Option<Duration>,
    /// `false` after the clock has jumped: nothing is given up for its age.
    pub may_expire: bool,
    /// Mail of before has `FIRST_ATTEMPT` from then on for its first attempt.
    pub started: Wall,
}

impl Rules<'_> {
    /// The deadlines of a job with this head, of mail received then.
    pub fn deadlines(&self, head: &Head, received: Wall, life: &Life, now: Wall) -> Deadlines {
        let mut deadlines = Deadlines::of(head, received, life, self.warning);
        if !self.may_expire {
            deadlines.expiry = deadlines.expiry.max(now.plus(DISTRUST));
        }
        if head.attempts == 0 && received < self.started {
            deadlines.expiry = deadlines.expiry.max(self.started.plus(FIRST_ATTEMPT));
        }
        deadlines
    }
}

/// Where and when the write happens.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub job: JobRef,
    pub life: Life,
    pub rules: Rules<'a>,
    /// The flow of the job, if the index by destination has others of it.
    pub backlog: Option<FlowKey>,
    pub now: Now,
    pub random: u64,
}

impl Context<'_> {
    /// When the mail was received, in the time of the schedule.
    fn received(&self, job: &Job) -> Wall {
        self.now.scheduled(job.mail().received)
    }

    /// The deadlines of a job after so many attempts.
    fn deadlines(&self, job: &Job, (attempts, warned): (u32, bool)) -> Deadlines {
        let head = Head { attempts, warned, ..job.head.clone() };
        self.rules.deadlines(&head, self.received(job), &self.life, self.now.schedule)
    }

    /// When the mail is given up.
    fn expiry(&self, job: &Job, attempts: u32) -> Wall {
        self.deadlines(job, (attempts, job.head.warned)).expiry
    }

    fn schedule(&self, job: &Job, told: (u32, bool), due: Wall) -> Schedule {
        let deadlines = self.deadlines(job, told);
        let filed = self.backlog;
        let filed = filed.map(|flow| Filed { flow, deadline_ms: deadlines.first().as_ms() });
        Schedule { due_ms: due.as_ms(), filed }
    }

    fn image(&self, job: &Job, schedule: Schedule) -> JobImage {
        JobImage {
            number: self.job.key.1,
            state: JobState::Waiting,
            schedule,
            attempts: job.head.attempts,
            last_attempt: Wall::default(),
            last_reply: Box::default(),
            warned: job.head.warned,
            next_hop: job.head.next_hop.clone(),
            recipients: job.recipients.clone(),
        }
    }

    fn write(&self, job: &Job, next: Next) -> Write {
        Write {
            job: self.job,
            mail: Arc::clone(job.mail()),
            next,
            tally: Tally::default(),
            told: Vec::new(),
            settled: None,
            changed: None,
            is_sent: false,
            ticket: None,
            unsettled: None,
        }
    }

    /// What follows the end of an attempt.
    pub fn settle(&self, job: &Job, ended: Ended) -> Write {
        let (now, received) = (self.now.schedule, self.received(job));
        let attempts = job.head.attempts.saturating_add(u32::from(ended.counts));
        let expiry = self.expiry(job, attempts);
        let next_ms = self.rules.retry.next(attempts, expiry.as_ms(), now.as_ms(), self.random);
        let sorted = sort(job, &ended, next_ms.is_some());
        let Sorted { tally, mut told, deferred } = sorted;
        let mut again = None;
        let mut next = Next::End;
        if let (Some(next_ms), Some((_, last))) = (next_ms, deferred.last()) {
            let wait_end = match ended.counts {
                true => Wall::from_ms(next_ms),
                false => now.plus(DUE_AHEAD),
            };
            // The last attempt is made when the message expires, not left out.
            let mut due = wait_end.max(ended.not_before).min(expiry);
            // The fallback relay is asked in time.
            if let Some(after) = self.life.fallback_after
                && received.plus(after) > now
            {
                due = due.min(received.plus(after));
            }
            let is_late = self.rules.warning.is_some_and(|after| now >= received.plus(after));
            let delayed = is_late && !job.head.warned;
            if delayed {
                told.extend(deferred.iter().map(|(index, answer)| tell_delay(*index, answer)));
            }
            let warned = job.head.warned || delayed;
            next = Next::Again(JobImage {
                attempts,
                last_attempt: self.now.wall,
                last_reply: cut(&last.text).into(),
                warned,
                recipients: deferred.iter().map(|(index, _)| *index).collect(),
                ..self.image(job, self.schedule(job, (attempts, warned), due))
            });
            again = Some(due);
        }
        let is_sent = ended.is_sent;
        let hop = job.route.as_ref().map(|route| Arc::clone(&route.hop));
        let due = Wall::from_ms(job.head.schedule.due_ms);
        let settled =
            Some(Settled { ended, hop, attempts, due, again, expiry, now: self.now.wall });
        Write { tally, told, settled, is_sent, ..self.write(job, next) }
    }

    /// The sender is told that the mail is late. The job is due as before.
    pub fn warn(&self, job: &Job, answer: &Answer) -> Write {
        let due = Wall::from_ms(job.head.schedule.due_ms);
        let schedule = self.schedule(job, (job.head.attempts, true), due);
        let told = job.recipients.iter().map(|index| tell_delay(*index, answer)).collect();
        let image = JobImage {
            warned: true,
            last_reply: cut(&answer.text).into(),
            ..self.image(job, schedule)
        };
        let ended = Ended { counts: false, ..Ended::deferred(job, answer, self.now.schedule) };
        let hop = job.route.as_ref().map(|route| Arc::clone(&route.hop));
        let attempts = job.head.attempts;
        let (now, expiry) = (self.now.wall, self.expiry(job, attempts));
        let settled = Some(Settled { ended, hop, attempts, due, again: Some(due), expiry, now });
        Write { told, settled, ..self.write(job, Next::Again(image)) }
    }

    /// A route says that it is kept until an operator releases it.
    pub fn hold(&self, job: &Job) -> Write {
        let schedule = Schedule { due_ms: HELD_DUE_MS, filed: None };
        let image = JobImage {
            state: JobState::Held,
            last_reply: "held by a route".into(),
            ..self.image(job, schedule)
        };
        Write { changed: self.changed(job, false), ..self.write(job, Next::Again(image)) }
    }

    fn changed(&self, job: &Job, is_cancelled: bool) -> Option<Changed> {
        let (recipients, at) = (job.recipients.clone(), self.now.wall);
        Some(Changed { is_cancelled, recipients, at })
    }

    /// It waits on disk, because too many others wait for a lookup.
    pub fn put_aside(&self, job: &Job, due: Wall) -> Write {
        let schedule = self.schedule(job, (job.head.attempts, job.head.warned), due);
        let last_reply = "too many messages are waiting for DNS lookups".into();
        let image = JobImage { last_reply, ..self.image(job, schedule) };
        self.write(job, Next::Again(image))
    }

    /// The job becomes several. They are due as it was.
    pub fn split(&self, job: &Job, parts: impl Iterator<Item = (u16, Box<[u32]>)>) -> Write {
        let due = Wall::from_ms(job.head.schedule.due_ms);
        let schedule = Schedule { due_ms: due.as_ms(), filed: None };
        let parts = parts.map(|(number, recipients)| JobImage {
            number,
            recipients,
            ..self.image(job, schedule)
        });
        self.write(job, Next::Split(parts.collect()))
    }

    /// Removed by an operator.
    pub fn delete(&self, job: &Job) -> Write {
        let tally = Tally { cancelled: job.recipients.len() as u64, ..Tally::default() };
        Write { tally, changed: self.changed(job, true), ..self.write(job, Next::End) }
    }

    /// Any other operation.
    pub fn operate(&self, job: &Job, operation: Operation) -> Write {
        self.write(job, Next::Operation(operation))
    }
}

/// The recipients of a job by what becomes of them.
struct Sorted<'e> {
    tally: Tally,
    told: Vec<Told>,
    deferred: Vec<(u32, &'e Answer)>,
}

fn sort<'e>(job: &Job, ended: &'e Ended, is_tried_again: bool) -> Sorted<'e> {
    let success = success(job, &ended.attempt);
    let mut sorted = Sorted { tally: Tally::default(), told: Vec::new(), deferred: Vec::new() };
    for (RecipientEnd { index, end }, answer) in &ended.ends {
        let tell = |kind, answer: &Answer| Told { kind, index: *index, answer: answer.clone() };
        match end {
            End::Delivered => {
                sorted.tally.delivered += 1;
                sorted.told.extend(success.map(|kind| tell(kind, answer)));
            }
            End::Failed => {
                sorted.tally.bounced += 1;
                sorted.told.push(tell(Kind::Failed, answer));
            }
            End::Deferred if !is_tried_again => {
                sorted.tally.expired += 1;
                // Whose words the text are stays as it was.
                let (status, cause) = (Cause::Expired.status(), Some(Cause::Expired));
                let answer = Answer { status, cause, ..answer.clone() };
                sorted.told.push(tell(Kind::Failed, &answer));
            }
            End::Deferred => sorted.deferred.push((*index, answer)),
        }
    }
    sorted
}

fn tell_delay(index: u32, answer: &Answer) -> Told {
    Told { kind: Kind::Delayed, index, answer: answer.clone() }
}

/// What a report of success would say. RFC 3461 s5.2: a server that took the parameters of DSN
/// reports itself, so that two would be one too many; what was discarded reached nobody.
fn success(job: &Job, attempt: &Attempt) -> Option<Kind> {
    let route = job.route.as_ref().filter(|_| attempt.without_dsn)?;
    Some(match route.hop.protocol {
        HopProtocol::Lmtp => Kind::Delivered,
        _ => Kind::Relayed,
    })
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REPLY_KEPT_MAX)]
}

impl Settled {
    /// One log record for each recipient.
    pub fn tell(
        &self,
        mail: &Mail,
        rules: &Classifier,
        mut each: impl FnMut(AttemptOutcome, AttemptCategory, &Record<'_>),
    ) {
        let envelope = mail.envelope();
        let recipients: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
        let attempt = &*self.ended.attempt;
        let host = &*attempt.host;
        let hop = self.hop.as_ref().map_or("", |hop| &hop.name);
        let before_due_ms = self.due.ms_since(mail.received);
        let before_us = (u64::from(envelope.intake_ms) + before_due_ms).saturating_mul(1000);
        self.each(rules, |index, (end, answer), outcome, category| {
            let is_well = *end == End::Delivered;
            let verdict = attempt.verdict.map(|verdict| verdict.to_string());
            let record = Record::Attempt {
                id: mail.public_id,
                outcome: outcome.name(),
                from: envelope.sender.unwrap_or(""),
                to: recipients.get(index as usize).map_or("", |one| one.mailbox),
                tenant: envelope.labels.tenant,
                campaign: envelope.labels.campaign,
                hop,
                host: Some(host).filter(|host| !host.is_empty()),
                address: attempt.address,
                tls: attempt.tls,
                cipher: attempt.cipher,
                verdict: verdict.as_deref(),
                tls_policy: Some(attempt.tls_policy).filter(|policy| !policy.is_empty()),
                reply: &answer.text,
                category: Some(category.label()).filter(|_| !is_well),
                attempts: self.attempts,
                next_ms: self.again.map(Wall::as_ms).filter(|_| *end == End::Deferred),
                age_ms: self.now.ms_since(mail.received),
                before_us,
                wait_us: attempt.wait_us,
                connect_us: attempt.connect_us,
                transfer_us: attempt.transfer_us,
            };
            each(outcome, label_of(category), &record);
        });
    }

    /// Each recipient with its end, its answer, and what these amount to.
    fn each(
        &self,
        rules: &Classifier,
        mut show: impl FnMut(u32, (&End, &Answer), AttemptOutcome, Category),
    ) {
        for (RecipientEnd { index, end }, answer) in &self.ended.ends {
            let outcome = match end {
                End::Delivered => AttemptOutcome::Delivered,
                End::Failed => AttemptOutcome::Bounced,
                End::Deferred if self.again.is_none() => AttemptOutcome::Expired,
                End::Deferred => AttemptOutcome::Deferred,
            };
            let category = match end {
                End::Delivered => Category::Delivered,
                End::Failed | End::Deferred => category_of(rules, answer, &self.ended.attempt.host),
            };
            show(*index, (end, answer), outcome, category);
        }
    }

    /// One event for each recipient.
    pub fn events(&self, mail: &Mail, rules: &Classifier) -> EventList {
        let envelope = mail.envelope();
        let recipients: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
        let attempt = &*self.ended.attempt;
        let mut list = EventList::default();
        self.each(rules, |index, (_, answer), outcome, category| {
            let again = self.again.filter(|_| outcome == AttemptOutcome::Deferred);
            let told = event::Outcome {
                index,
                recipient: recipients.get(index as usize).map_or("", |one| one.mailbox),
                sender: envelope.sender.unwrap_or(""),
                tags: envelope.tags.iter().collect(),
                metadata: event::fitting(envelope.metadata.iter()),
                attempts: self.attempts,
                destination: self.hop.as_ref().map_or("", |hop| &hop.destination),
                host: &attempt.host,
                address: attempt.address.map(|address| address.ip()),
                source: attempt.source.as_deref(),
                status: answer.status,
                reply: event::cut(&answer.text),
                is_remote: answer.remote,
                category: (category != Category::Delivered).then(|| category.label()),
                age_ms: self.now.ms_since(mail.received),
                wait_us: attempt.wait_us,
                connect_us: attempt.connect_us,
                transfer_us: attempt.transfer_us,
                again_in_ms: again.map(|again| again.ms_since(self.now)),
            };
            let fact = match outcome {
                AttemptOutcome::Delivered => Fact::Delivered(told),
                AttemptOutcome::Bounced => Fact::Bounced(told),
                AttemptOutcome::Expired => Fact::Expired(told),
                AttemptOutcome::Deferred => Fact::Deferred(told),
            };
            let owner = event_log::owner_of(mail.id, &envelope);
            list.push(&Event::new(owner, self.now.as_ms(), fact));
        });
        list
    }
}

/// The label of a category. Both have the same values in the same order.
fn label_of(category: Category) -> AttemptCategory {
    const _: () = assert!(AttemptCategory::ALL.len() == Category::ALL.len());
    AttemptCategory::ALL[category as usize]
}

#[cfg(test)]
mod tests;
