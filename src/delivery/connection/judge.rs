//! What the outcomes of a transfer mean for the mail, the connection and the destination.

use std::sync::Arc;

use crate::base::Wall;
use crate::delivery::connection::mail::Sending;
use crate::delivery::destination::Blame;
use crate::delivery::destination::End as Ended;
use crate::delivery::destination::Failure;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::LinkEnd;
use crate::delivery::destination::RuleAction;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::answer_to;
use crate::delivery::link::Link;
use crate::delivery::link::Station;
use crate::delivery::link::kind_of;
use crate::delivery::link::own_limit;
use crate::delivery::link::own_words;
use crate::delivery::verdict::classify;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::End;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::net::TlsFacts;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::classify::Classified;
use crate::wire::classify::Classifier;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::Stage as SmtpStage;
use crate::wire::smtp::reply::Reply;

/// Bytes of a reply that evidence keeps.
const EVIDENCE_REPLY_MAX: usize = 200;

/// What the rules say of a reply.
pub(super) struct Said<'a> {
    rules: &'a Classifier,
    answer: &'a Answer,
    classified: Classified,
}

impl Said<'_> {
    pub(super) fn of<'a>(rules: &'a Classifier, answer: &'a Answer, host: &str) -> Said<'a> {
        Said { rules, answer, classified: classify(rules, answer, host) }
    }

    fn asks_for_less(&self) -> bool {
        let is_rate = self.classified.verdict.category == Category::RateLimited;
        is_rate && self.answer.status.0 == 4 || self.answer.text.starts_with("421")
    }

    pub(super) fn action(&self, of: Option<&Delivery>) -> Option<RuleAction> {
        let action = self.classified.action?;
        let (now, text) = (Wall::now(), &self.answer.text);
        let rule = self.classified.rule.map(|rule| self.rules.name_of(rule));
        let evidence = Arc::new(Evidence {
            at: now,
            rule: rule.unwrap_or_default().into(),
            reply: text[..text.floor_char_boundary(EVIDENCE_REPLY_MAX)].into(),
            message: of.map(|delivery| delivery.mail.id),
            until: now.plus(action.time),
        });
        Some(RuleAction { action, evidence })
    }
}

/// What is told of a mail that was sent: to its home, and to the owner.
pub(super) fn judge(
    station: &Station,
    link: &Link,
    delivery: &Delivery,
    sending: Sending,
) -> (What, Ended) {
    let Sending { sent, began, transfer_us } = sending;
    let fault = link.transfer.fault().map(ToString::to_string);
    let unsaid = |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_body: false });
    let lack = link.transfer.transport_fault().and_then(own_limit);
    if let Some(limit) = lack.filter(|_| sent.outcomes.iter().all(unsaid)) {
        let what = What::Returned(Returned::OurLimit(limit));
        let link = LinkEnd::OurLimit(limit);
        return (what, Ended { job: Some(JobEnd::Lost), ..only(link) });
    }
    let policy = station.policy();
    let mut ends = Vec::with_capacity(sent.outcomes.len());
    let (mut delivered, mut deferred, mut lost) = (0_usize, 0_usize, 0_usize);
    let (mut asks_for_less, mut action) = (None, None);
    for (index, outcome) in delivery.recipients.iter().zip(sent.outcomes) {
        let (end, answer) = match outcome {
            Outcome::Accepted(reply) => (End::Delivered, answer_of(&reply, true)),
            Outcome::Refused { stage, reply } => {
                let answer = answer_of(&reply, true);
                let said = Said::of(&policy.replies, &answer, &link.host);
                if asks_for_less.is_none() && said.asks_for_less() {
                    asks_for_less = Some(Arc::new(answer.clone()));
                }
                action = action.or_else(|| said.action(Some(delivery)));
                (refused(stage, &reply), answer)
            }
            Outcome::Local(reply) => (End::Failed, answer_of(&reply, false)),
            Outcome::Lost { after_body } => {
                lost += 1;
                (End::Deferred, lost_answer(after_body, fault.as_deref()))
            }
        };
        delivered += usize::from(end == End::Delivered);
        deferred += usize::from(end == End::Deferred);
        ends.push((RecipientEnd { index: *index, end }, answer));
    }
    let facts = link.transfer.channel().tls_facts();
    let until_sent_us = began.ms_since(delivery.due).saturating_mul(1000);
    // A mail that came while the connection was being made has waited for a part of that only.
    let connect_us = match link.sent {
        0 | 1 => link.connect_us.min(until_sent_us + 1000),
        _ => 0,
    };
    let attempt = Box::new(Attempt {
        host: link.host.clone(),
        address: link.address,
        source: link.source.clone(),
        tls: facts.map(|facts| facts.version),
        cipher: facts.map(|facts| facts.cipher),
        verdict: facts.and_then(TlsFacts::verdict),
        tls_policy: link.tls_policy,
        without_dsn: sent.relayed_without_dsn,
        wait_us: until_sent_us.saturating_sub(connect_us),
        connect_us,
        transfer_us,
    });
    let job = match () {
        () if delivered > 0 => JobEnd::Delivered,
        () if lost > 0 => JobEnd::Lost,
        () if deferred > 0 => JobEnd::Deferred,
        () => JobEnd::Refused,
    };
    let link = how_left(link, job, asks_for_less.is_some());
    let end = Ended { job: Some(job), asks_for_less, action, link };
    (What::Tried { ends, attempt }, end)
}

/// What became of the connection by its mail.
fn how_left(link: &Link, job: JobEnd, is_throttled: bool) -> LinkEnd {
    if link.transfer.is_ready() {
        return LinkEnd::Kept;
    }
    // A server that ends each connection after its mail is not broken, and a 421 has been counted.
    if is_throttled || matches!(job, JobEnd::Delivered | JobEnd::Refused) {
        return LinkEnd::Closed;
    }
    if let Some(limit) = link.transfer.transport_fault().and_then(own_limit) {
        return LinkEnd::OurLimit(limit);
    }
    let fault = link.transfer.fault();
    let kind = fault.map_or(FailureKind::Lost, kind_of);
    let text = fault.map(|fault| own_words(fault).unwrap_or_else(|| fault.to_string()));
    link_end(kind, answer_to(kind, &text.unwrap_or_default()), &link.host)
}

/// An end that says nothing of a job.
pub(super) const fn only(link: LinkEnd) -> Ended {
    Ended { job: None, asks_for_less: None, action: None, link }
}

/// Who is to blame.
pub(super) fn link_end(kind: FailureKind, answer: Answer, host: &str) -> LinkEnd {
    let blame = match kind {
        FailureKind::Ours(limit) => return LinkEnd::OurLimit(limit),
        FailureKind::Tls => Blame::Demands,
        FailureKind::Refused | FailureKind::WayOut => Blame::Source,
        _ => Blame::Destination,
    };
    LinkEnd::Failed(Failure { blame, answer: Arc::new(answer), host: host.into() })
}

fn refused(stage: SmtpStage, reply: &Reply) -> End {
    // RFC 5321 s4.5.3.1.10: 552 to a RCPT means too many recipients, and to try again.
    match (reply.code, stage) {
        (552, SmtpStage::Rcpt) if reply.enhanced.is_none() => End::Deferred,
        // A bad sequence is no word about the recipient: one of us has lost count of the commands.
        (503, SmtpStage::Rcpt | SmtpStage::Data) => End::Deferred,
        (500..=599, _) => End::Failed,
        _ => End::Deferred,
    }
}

fn lost_answer(after_body: bool, fault: Option<&str>) -> Answer {
    let fault = fault.unwrap_or("the connection ended");
    let text = match after_body {
        true => {
            format!("{fault} after the whole message was sent; the message may be delivered twice")
        }
        false => fault.to_owned(),
    };
    Answer::ours(Cause::ConnectionLost, text)
}

fn answer_of(reply: &Reply, remote: bool) -> Answer {
    let class = (reply.code / 100) as u8;
    let status = reply.enhanced.unwrap_or((class, 0, 0));
    Answer { status, text: reply.in_one_line().into(), remote, cause: None }
}
