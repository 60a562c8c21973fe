//! One connection of a destination, from its opening to its end.
//!
//! Owner:    one task of the shard that owns the destination.
//! Promise:  each job that it takes is answered once, with an end for each recipient, or goes back
//!           untried. If a server may have accepted a message without our receiving the reply, the
//!           message is tried again and the log says so. The owner hears of the end of a connection also
//!           if a bug ends the task.
//! Order:    open, take, send; one call of `ended`, which tells all that was found out; the answer.

mod judge;
mod mail;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::Mono;
use crate::delivery::capacity::ConnId;
use crate::delivery::connection::judge::Said;
use crate::delivery::connection::judge::judge;
use crate::delivery::connection::judge::link_end;
use crate::delivery::connection::judge::only;
use crate::delivery::connection::mail::send;
use crate::delivery::connection::mail::with_mail;
use crate::delivery::destination::End as Ended;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::LinkEnd;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::answer_to;
use crate::delivery::link::Link;
use crate::delivery::link::NoLink;
use crate::delivery::link::Station;
use crate::delivery::link::open;
use crate::delivery::nudge::Nudge;
use crate::delivery::owner::Owner;
use crate::delivery::owner::Take;
use crate::delivery::resolve::domain_of;
use crate::delivery::resolve::is_same_domain;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::End;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::queue;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::recipients::Recipient;
use crate::route::RequireTls;
use crate::rt::timer;
use crate::wire::classify::Cause;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::Fault;

/// The shard, as a connection reaches it.
pub trait Port: 'static {
    fn station(&self) -> &Station;

    /// Calls the owner, and then carries out what the owner wants.
    fn owner<T>(&self, call: impl FnOnce(&mut Owner, Mono) -> T) -> T;

    /// Sends the answer for a job to its home.
    fn settle(&self, delivery: &Delivery, what: What, unsettled: Option<Unsettled>);

    /// The connection is gone.
    fn gone(&self, conn: ConnId);
}

/// The connection as its owner knows it. If a bug ends the task, the owner and the home of its job hear
/// so: nobody knows whether the mail was taken.
struct Served<P: Port> {
    port: Rc<P>,
    conn: ConnId,
    job: Option<Box<Delivery>>,
    is_ended: bool,
}

impl<P: Port> Served<P> {
    fn ended(&mut self, end: &Ended) {
        self.is_ended = !matches!(end.link, LinkEnd::Kept);
        self.port.owner(|owner, now| owner.ended(self.conn, end, now));
    }

    /// The job is answered.
    fn answer(&mut self, what: What, unsettled: Option<Unsettled>) {
        if let Some(delivery) = self.job.take() {
            self.port.settle(&delivery, what, unsettled);
        }
    }

    fn job(&self) -> &Delivery {
        self.job.as_deref().expect("the job is here until it is answered")
    }
}

impl<P: Port> Drop for Served<P> {
    fn drop(&mut self) {
        if !self.is_ended {
            let job = self.job.as_ref().map(|_| JobEnd::Lost);
            self.ended(&Ended { job, ..only(LinkEnd::Closed) });
        }
        let answer = Answer::ours(Cause::OurFault, "the delivery task ended unexpectedly");
        self.answer(What::Unreached { answer, host: Box::default(), not_before: Mono::ZERO }, None);
        self.port.gone(self.conn);
    }
}

pub async fn run<P: Port>(
    port: Rc<P>,
    conn: ConnId,
    (hop, source): (Arc<Hop>, Option<Box<str>>),
    nudge: Rc<Nudge>,
) {
    let mut served = Served { port: Rc::clone(&port), conn, job: None, is_ended: false };
    let station = port.station();
    let way = (&*hop, source.as_deref());
    let mut link = match open(station, way, &|link| takes(&hop, link)).await {
        Ok(link) => link,
        Err(NoLink { barred: Some(address), host, .. }) => {
            let looped = |delivery: &Delivery| looped(delivery, &host, address);
            port.owner(|owner, now| owner.refuse(conn, now, looped));
            return served.ended(&only(LinkEnd::Closed));
        }
        Err(no_link) => {
            if matches!(no_link.kind, FailureKind::Ours(_)) {
                station.observed.metrics.delivery_resource_waits_total.add(1);
            }
            return served.ended(&not_opened(station, &no_link));
        }
    };
    port.owner(|owner, now| owner.connected(conn, now));
    loop {
        let delivery = match port.owner(|owner, now| owner.take(conn, now)) {
            Take::Job(delivery) => delivery,
            Take::IdleUntil(until) => {
                nudge.or(timer::sleep(until.since(Mono::now()))).await;
                continue;
            }
            Take::Close => break,
        };
        let Some(mut unsettled) = may_send(station, &delivery) else {
            station.observed.metrics.delivery_store_waits_total.add(1);
            port.owner(|owner, now| owner.give_back(conn, delivery, Returned::Hidden, now));
            continue;
        };
        served.job = Some(delivery);
        queue::points::point("deliver::before_send");
        let mut sending = match hop.hosts.len() > 1 && lacks(&link, served.job()) {
            true => None,
            false => Some(send(station, &mut link, served.job()).await),
        };
        let is_lacking = sending.is_none();
        if sending.as_ref().is_none_or(|sending| is_stale(&link, &sending.sent.outcomes)) {
            // No attempt was made: the host lacks what the mail needs, which another may offer, or it
            // had closed the idle connection.
            if is_lacking {
                link.transfer.quit().await;
            }
            let is_able = |link: &Link| takes(&hop, link) && !lacks(link, served.job());
            match open(station, way, &is_able).await {
                Ok(fresh) => {
                    link = fresh;
                    sending = Some(send(station, &mut link, served.job()).await);
                }
                Err(no_link) => return not_opened_again(&mut served, no_link, is_lacking),
            }
        }
        let sending = sending.expect("a mail that was not sent has returned");
        queue::points::point("deliver::after_reply");
        link.sent += 1;
        let (what, end) = judge(station, &link, served.job(), sending);
        if end.job == Some(JobEnd::Delivered) {
            unsettled.note_taken(Instant::now());
        }
        served.ended(&end);
        served.answer(what, Some(unsettled));
        if served.is_ended {
            return;
        }
    }
    link.transfer.quit().await;
    served.ended(&only(LinkEnd::Closed));
}

/// `None`: the partition of the mail is so far behind that a crash would repeat too much.
fn may_send(station: &Station, delivery: &Delivery) -> Option<Unsettled> {
    let number = delivery.mail.id.partition().0;
    let partition = station.partitions.get(usize::from(number))?;
    Unsettled::begin(partition, Instant::now())
}

/// The end of a connection that never opened.
fn not_opened(station: &Station, no_link: &NoLink) -> Ended {
    let policy = station.policy();
    let answer = answer_to(no_link.kind, &no_link.text);
    let action = match no_link.kind {
        FailureKind::Refused => Said::of(&policy.replies, &answer, &no_link.host).action(None),
        _ => None,
    };
    Ended { action, ..only(link_end(no_link.kind, answer, &no_link.host)) }
}

/// There is no other connection for the job.
fn not_opened_again<P: Port>(served: &mut Served<P>, no_link: NoLink, is_lacking: bool) {
    let mut end = not_opened(served.port.station(), &no_link);
    let what = match (no_link.barred, no_link.kind) {
        (Some(address), _) => looped(served.job(), &no_link.host, address),
        (None, FailureKind::Ours(limit)) => What::Returned(Returned::OurLimit(limit)),
        (None, _) => {
            let answer = answer_to(no_link.kind, &no_link.text);
            What::Unreached { answer, host: no_link.host.clone(), not_before: Mono::ZERO }
        }
    };
    if is_lacking || no_link.barred.is_some() {
        // Other mail can still be sent to a host that lacks something.
        end.link = LinkEnd::Closed;
    }
    served.ended(&end);
    served.answer(what, None);
}

/// An idle connection that had been ended before this mail was said. One whose peer is silent is
/// not tried at once on another: there it would be silent too.
fn is_stale(link: &Link, outcomes: &[Outcome]) -> bool {
    let unsaid = |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_body: false });
    let ended = matches!(link.transfer.fault(), Some(Fault::Ended | Fault::Refused { .. }));
    link.sent > 0 && ended && outcomes.iter().all(unsaid)
}

/// What becomes of mail whose only way leads back to this server. A domain that a route names is not
/// the sender's fault: the operator may correct the route.
fn looped(delivery: &Delivery, host: &str, address: IpAddr) -> What {
    let hop = &delivery.hop;
    let what = match hop.names {
        HostNames::Literal => "the address is".to_owned(),
        _ => format!("the mail exchangers of {} are", hop.domain),
    };
    let text = format!("{what} this server or a private address ({address})");
    let envelope = delivery.mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let answer = Answer::ours(Cause::Loop, text);
    let end_of = |index: &u32| {
        let own = all.get(*index as usize).and_then(|one| domain_of(one.mailbox));
        let (end, answer) = match own.is_some_and(|own| is_same_domain(own, &hop.domain)) {
            true => (End::Failed, answer.clone()),
            false => (End::Deferred, Answer { status: (4, 4, 6), ..answer.clone() }),
        };
        (RecipientEnd { index: *index, end }, answer)
    };
    let attempt = Attempt { host: host.into(), ..Attempt::default() };
    let ends = delivery.recipients.iter().map(end_of).collect();
    What::Tried { ends, attempt: Box::new(attempt) }
}

/// Whether the server can take the mail of its hop (RFC 8689 s4.2.1).
fn takes(hop: &Hop, link: &Link) -> bool {
    hop.require_tls == RequireTls::No || link.transfer.client().offers().requiretls
}

/// Whether the server lacks something that this mail needs: 8BITMIME, SMTPUTF8, REQUIRETLS or SIZE.
fn lacks(link: &Link, delivery: &Delivery) -> bool {
    let client = link.transfer.client();
    // A connection that has ended is found out by sending.
    link.transfer.is_ready() && with_mail(delivery, |mail| client.lacks(mail))
}
