//! From the outcome of an attempt to what is written: final states, the next attempt, reports.
//!
//! Owner:    the home shard.
//! Promise:  each recipient gets one final state. A report is part of the same write as the state that
//!           it reports. Nobody is notified of the fate of a report (RFC 5321 s4.5.5), except the
//!           postmaster if the config names one.
//! Order:    sort the answers, expire what is too old, plan the next attempt, report, write, log.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::MessageId;
use crate::base::backoff;
use crate::base::clock::wall_ms;
use crate::delivery::report::Reports;
use crate::delivery::report::Story;
use crate::delivery::report::Told;
use crate::delivery::verdict;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::End;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frame::What;
use crate::observe::Stage;
use crate::observe::label::AttemptCategory;
use crate::observe::label::AttemptOutcome;
use crate::observe::log::Record;
use crate::outbound::home::HELD_DUE_MS;
use crate::outbound::home::Home;
use crate::outbound::home::Waiting;
use crate::outbound::lease::JobKey;
use crate::queue::CommitFault;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::job::Indexes;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::record::ledger::Tally;
use crate::queue::record::recipients::Recipient;
use crate::route::HopProtocol;
use crate::rt::timer;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::dsn::Kind;

/// How long a settlement waits for room on the disk before it is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// Bytes of a reply that a job keeps.
const REPLY_KEPT_MAX: usize = 500;
/// What is due sooner than this might become due before it is written, and the scan has then passed
/// it. What could not be tried waits at least so long.
const DUE_AHEAD_MS: u64 = 1000;

/// What is decided without a server.
pub enum Local {
    Discarded,
    Failed(Answer),
    Deferred(Answer),
    /// We lack something to try it with; it does not count as an attempt.
    Postponed {
        answer: Answer,
        due_ms: u64,
    },
    Held,
}

/// All that an attempt came to.
struct Outcome {
    ends: Vec<(RecipientEnd, Answer)>,
    attempt: Box<Attempt>,
    counts: bool,
    not_before_ms: u64,
    haste: Haste,
}

/// Whether a settlement may wait behind those of a whole destination.
#[derive(Clone, Copy)]
pub enum Haste {
    /// A server may have taken the mail, and would be sent it again after a crash. `UNSETTLED_MAX`
    /// bounds how many there are.
    Sent,
    Unsent,
}

pub async fn settle_local(home: &Rc<Home>, key: JobKey, local: Local) {
    let Some(waiting) = home.waiting(key) else { return };
    let (end, answer) = match local {
        Local::Held => return hold(home, key, &waiting).await,
        Local::Discarded => {
            let text = "discarded by a route".into();
            (End::Delivered, Answer { status: (2, 0, 0), text, ..Answer::default() })
        }
        Local::Failed(answer) => (End::Failed, answer),
        Local::Deferred(answer) => (End::Deferred, answer),
        Local::Postponed { answer, due_ms } => {
            return settle(Rc::clone(home), key, What::Busy { due_ms, answer }).await;
        }
    };
    let ends = all(&waiting, &end, &answer);
    let attempt = untried(&waiting, Box::default());
    let result = Outcome { ends, attempt, counts: true, not_before_ms: 0, haste: Haste::Unsent };
    finish(home, key, &waiting, result).await;
}

/// Writes what an owner told of a job.
pub async fn settle(home: Rc<Home>, key: JobKey, what: What) {
    let Some(waiting) = home.waiting(key) else { return };
    let result = match what {
        What::Tried { ends, attempt } => {
            Outcome { ends, attempt, counts: true, not_before_ms: 0, haste: Haste::Sent }
        }
        What::Unreached { answer, host, not_before_ms } => Outcome {
            ends: all(&waiting, &End::Deferred, &answer),
            attempt: untried(&waiting, host),
            counts: true,
            not_before_ms,
            haste: Haste::Unsent,
        },
        // Taken by its home already.
        What::Returned => return,
        What::Busy { due_ms, answer } => Outcome {
            ends: all(&waiting, &End::Deferred, &answer),
            attempt: untried(&waiting, Box::default()),
            counts: false,
            not_before_ms: due_ms,
            haste: Haste::Unsent,
        },
    };
    finish(&home, key, &waiting, result).await;
}

/// Nothing was sent: all the time since it was due has gone by in the queue.
fn untried(waiting: &Waiting, host: Box<str>) -> Box<Attempt> {
    let wait_us = wall_ms().saturating_sub(waiting.due_ms).saturating_mul(1000);
    Box::new(Attempt { host, wait_us, ..Attempt::default() })
}

fn all(waiting: &Waiting, end: &End, answer: &Answer) -> Vec<(RecipientEnd, Answer)> {
    let each = waiting.recipients.iter();
    each.map(|index| (RecipientEnd { index: *index, end: end.clone() }, answer.clone())).collect()
}

async fn hold(home: &Rc<Home>, key: JobKey, waiting: &Waiting) {
    let stored = stored(waiting.recipients.iter().copied());
    let record = JobRecord::new(&Job {
        number: key.1,
        state: JobState::Held,
        warned: waiting.warned,
        attempts: waiting.attempts,
        last_attempt_ms: 0,
        due_ms: HELD_DUE_MS,
        last_reply: "held by a route",
        next_hop: waiting.next_hop.as_deref(),
        filed: None,
        recipients: Indexes::Stored(&stored),
    });
    if let Ok(record) = record {
        write(home, key.0, bare(key, JobChange::Again(record)), Haste::Unsent).await;
    }
    home.forget(key);
}

fn bare((id, job): JobKey, change: JobChange) -> Arc<Settlement> {
    Arc::new(Settlement {
        id,
        job,
        change,
        reports: Vec::new(),
        tally: Tally::default(),
        is_order: false,
        keep_until_ms: None,
    })
}

fn stored(indexes: impl Iterator<Item = u32>) -> Vec<u8> {
    indexes.flat_map(u32::to_be_bytes).collect()
}

/// What is to be written of one attempt.
struct Plan {
    change: JobChange,
    tally: Tally,
    told: Vec<Told>,
    expires_ms: u64,
    /// When those that were deferred are tried again.
    again_ms: Option<u64>,
}

async fn finish(home: &Rc<Home>, key: JobKey, waiting: &Waiting, outcome: Outcome) {
    let now_ms = wall_ms();
    let mail = Arc::clone(&waiting.mail);
    let envelope = mail.envelope();
    let plan = plan(home, key, waiting, (&envelope, &outcome), now_ms);
    let Plan { change, tally, told, expires_ms, again_ms } = plan;
    let attempt = &*outcome.attempt;
    let tried_ms = outcome.counts.then_some(now_ms);
    let (id, job) = key;
    let Some(store) = home.stores.get(&id.partition()) else { return };
    let story = Story {
        mail: &mail,
        envelope: &envelope,
        attempt,
        tried_ms,
        expires_ms,
        now_ms,
        committer: &store.committer,
        policy: &home.policy(),
    };
    let Reports { list: reports, notes, held } = home.reporter.reports(&story, &told).await;
    let settlement =
        Settlement { id, job, change, reports, tally, is_order: false, keep_until_ms: None };
    let settlement = Arc::new(settlement);
    let written = write(home, id, Arc::clone(&settlement), outcome.haste).await;
    drop(held);
    home.forget(key);
    if !written {
        // Deleted meanwhile, or the store has failed: a restart finds the job as it was.
        return;
    }
    tell(home, (waiting, &envelope), &outcome, (&tally, again_ms), now_ms);
    notes.iter().for_each(|note| note.emit(mail.public_id()));
    // Writing takes its time on a full disk: what was due before it was written lies behind what the
    // scan has read.
    let written_ms = wall_ms();
    let mut is_passed = again_ms.is_some_and(|due_ms| due_ms <= written_ms);
    for report in &settlement.reports {
        if report.job.schedule.due_ms <= now_ms + DUE_AHEAD_MS {
            home.admit_report(report.id, report.envelope.clone(), report.message.clone());
        } else {
            is_passed |= report.job.schedule.due_ms <= written_ms;
        }
    }
    if is_passed {
        home.note_left_on_disk();
    }
}

fn plan(
    home: &Home,
    (_, number): JobKey,
    waiting: &Waiting,
    (envelope, outcome): (&Envelope<'_>, &Outcome),
    now_ms: u64,
) -> Plan {
    let policy = home.policy();
    let max_age = waiting.max_age.unwrap_or(policy.routes.standard().max_age);
    let expires_ms = backoff::expiry_ms(envelope.received_ms, max_age);
    let attempts = waiting.attempts.saturating_add(u32::from(outcome.counts));
    // Whether it was tried or only stood in line: who is too old goes back to the sender.
    let next_ms = policy.retry.next(attempts, expires_ms, now_ms, home.roll());
    let success = success(waiting, outcome);
    let mut tally = Tally::default();
    let mut told = Vec::new();
    let mut deferred = Vec::new();
    for (RecipientEnd { index, end }, answer) in &outcome.ends {
        let tell = |kind, answer: &Answer| Told { kind, index: *index, answer: answer.clone() };
        match end {
            End::Delivered => {
                tally.delivered += 1;
                told.extend(success.map(|kind| tell(kind, answer)));
            }
            End::Failed => {
                tally.bounced += 1;
                told.push(tell(Kind::Failed, answer));
            }
            End::Deferred if next_ms.is_none() => {
                tally.expired += 1;
                // Whose words the text are stays as it was.
                let (status, cause) = (Cause::Expired.status(), Some(Cause::Expired));
                told.push(tell(Kind::Failed, &Answer { status, cause, ..answer.clone() }));
            }
            End::Deferred => deferred.push((*index, answer)),
        }
    }
    let (Some(next_ms), Some((_, last))) = (next_ms, deferred.last()) else {
        return Plan { change: JobChange::End, tally, told, expires_ms, again_ms: None };
    };
    let wait_end_ms = if outcome.counts { next_ms } else { now_ms + DUE_AHEAD_MS };
    // The last try is made when the message expires, not left out.
    let due_ms = wait_end_ms.max(outcome.not_before_ms).min(expires_ms);
    let delayed = !waiting.warned
        && policy
            .delay_warning
            .is_some_and(|after| now_ms >= backoff::expiry_ms(envelope.received_ms, after));
    if delayed {
        let delays = deferred.iter().map(|(index, answer)| Told {
            kind: Kind::Delayed,
            index: *index,
            answer: Answer::clone(answer),
        });
        told.extend(delays);
    }
    let stored = stored(deferred.iter().map(|(index, _)| *index));
    let job = Job {
        number,
        state: JobState::Waiting,
        warned: waiting.warned || delayed,
        attempts,
        last_attempt_ms: now_ms,
        due_ms,
        last_reply: cut(&last.text),
        next_hop: waiting.next_hop.as_deref(),
        filed: None,
        recipients: Indexes::Stored(&stored),
    };
    let record =
        JobRecord::new(&job).expect("a job that was read can be written with another time");
    Plan { change: JobChange::Again(record), tally, told, expires_ms, again_ms: Some(due_ms) }
}

/// What a report of success would say. RFC 3461 s5.2: a server that took the parameters of DSN
/// reports itself, so that two would be one too many; what was discarded reached nobody.
fn success(waiting: &Waiting, outcome: &Outcome) -> Option<Kind> {
    let hop = waiting.hop.as_ref().filter(|_| outcome.attempt.without_dsn)?;
    Some(match hop.protocol {
        HopProtocol::Lmtp => Kind::Delivered,
        _ => Kind::Relayed,
    })
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REPLY_KEPT_MAX)]
}

/// Writes a settlement, however long the disk is full. `false`: the job was not there any more, or
/// the store takes nothing until a restart.
pub async fn write(home: &Home, id: MessageId, settlement: Arc<Settlement>, haste: Haste) -> bool {
    let Some(store) = home.stores.get(&id.partition()) else { return false };
    loop {
        let settlement = Arc::clone(&settlement);
        let written = match haste {
            Haste::Sent => store.committer.settle(settlement).await,
            Haste::Unsent => store.committer.settle_in_turn(settlement).await,
        };
        match written {
            Ok(found) => return found,
            Err(CommitFault::SpoolFull) => timer::sleep(DISK_RETRY).await,
            Err(_) => return false,
        }
    }
}

/// One line for each recipient, and the counts.
fn tell(
    home: &Home,
    (waiting, envelope): (&Waiting, &Envelope<'_>),
    outcome: &Outcome,
    (tally, again_ms): (&Tally, Option<u64>),
    now_ms: u64,
) {
    let age_us = now_ms.saturating_sub(envelope.received_ms) * 1000;
    if tally.delivered > 0 {
        home.histograms.record(Stage::Delivered, age_us);
    }
    let recipients: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let attempt = &*outcome.attempt;
    let host = Some(&*attempt.host).filter(|host| !host.is_empty());
    let hop = waiting.hop.as_ref().map_or("", |hop| &hop.name);
    let before_due_ms = waiting.due_ms.saturating_sub(envelope.received_ms);
    let before_us = (u64::from(envelope.intake_ms) + before_due_ms).saturating_mul(1000);
    for (RecipientEnd { index, end }, answer) in &outcome.ends {
        let expired = *end == End::Deferred && again_ms.is_none();
        let ended = match end {
            End::Delivered => AttemptOutcome::Delivered,
            End::Failed => AttemptOutcome::Bounced,
            End::Deferred if expired => AttemptOutcome::Expired,
            End::Deferred => AttemptOutcome::Deferred,
        };
        let category = match end {
            End::Delivered => Category::Delivered,
            End::Failed | End::Deferred => verdict::category_of(answer, host),
        };
        home.observed.metrics.attempts_total.add(ended, label_of(category), 1);
        let verdict = attempt.verdict.map(|verdict| verdict.to_string());
        Record::Attempt {
            id: waiting.mail.public_id(),
            outcome: ended.name(),
            from: envelope.sender.unwrap_or(""),
            to: recipients.get(*index as usize).map_or("", |one| one.mailbox),
            tenant: envelope.labels.tenant,
            campaign: envelope.labels.campaign,
            hop,
            host,
            address: attempt.address,
            tls: attempt.tls,
            cipher: attempt.cipher,
            verdict: verdict.as_deref(),
            tls_policy: Some(attempt.tls_policy).filter(|policy| !policy.is_empty()),
            reply: &answer.text,
            category: match end {
                End::Delivered => None,
                End::Failed | End::Deferred => Some(category.label()),
            },
            attempts: waiting.attempts + u32::from(outcome.counts),
            next_ms: again_ms.filter(|_| *end == End::Deferred),
            age_ms: age_us / 1000,
            before_us,
            wait_us: attempt.wait_us,
            connect_us: attempt.connect_us,
            transfer_us: attempt.transfer_us,
        }
        .emit();
    }
}

/// The label of a category. Both have the same values in the same order.
fn label_of(category: Category) -> AttemptCategory {
    const _: () = assert!(AttemptCategory::ALL.len() == Category::ALL.len());
    AttemptCategory::ALL[category as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_category_has_its_label() {
        for category in Category::ALL {
            assert_eq!(label_of(category).name(), category.label());
        }
    }
}
