//! One connection of a destination, from its opening to its end.
//!
//! Owner:    one task of the shard that owns the destination.
//! Promise:  each job that it takes is answered once, with an end for each recipient, or goes back
//!           untried. If a server may have accepted a message without our receiving the reply, the
//!           message is tried again and the log says so. The owner hears of the end of a connection also
//!           if a bug ends the task.
//! Order:    open, take, send; one call of `ended`, which tells all that was found out; the answer.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::Mono;
use crate::base::Wall;
use crate::delivery::capacity::ConnId;
use crate::delivery::destination::Blame;
use crate::delivery::destination::End as Ended;
use crate::delivery::destination::Failure;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::LinkEnd;
use crate::delivery::destination::RuleAction;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::answer_to;
use crate::delivery::link::Link;
use crate::delivery::link::NoLink;
use crate::delivery::link::Station;
use crate::delivery::link::kind_of;
use crate::delivery::link::open;
use crate::delivery::link::own_limit;
use crate::delivery::link::own_words;
use crate::delivery::link::verdict_of;
use crate::delivery::nudge::Nudge;
use crate::delivery::owner::Owner;
use crate::delivery::owner::Take;
use crate::delivery::resolve::domain_of;
use crate::delivery::resolve::is_same_domain;
use crate::delivery::verdict::classify;
use crate::handoff::Reader;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::End;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::MailBody;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::net::transfer::BodySource;
use crate::net::transfer::BodyUnreadable;
use crate::net::transfer::Sent;
use crate::observe::Stage;
use crate::queue;
use crate::queue::MessageReader;
use crate::queue::Partition;
use crate::queue::SharedMessageReader;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::recipients::Recipient;
use crate::route::RequireTls;
use crate::rt::timer;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::classify::Classified;
use crate::wire::classify::Classifier;
use crate::wire::classify::Measure;
use crate::wire::classify::Scope;
use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_envelope::MailRecipient;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage as SmtpStage;
use crate::wire::smtp::reply::Reply;

/// Bytes of a reply that evidence keeps.
const EVIDENCE_REPLY_MAX: usize = 200;

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
struct Seat<P: Port> {
    port: Rc<P>,
    conn: ConnId,
    job: Option<Box<Delivery>>,
    is_ended: bool,
}

impl<P: Port> Seat<P> {
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

impl<P: Port> Drop for Seat<P> {
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

/// An end that says nothing of a job.
const fn only(link: LinkEnd) -> Ended {
    Ended { job: None, asks_for_less: None, action: None, link }
}

pub async fn run<P: Port>(
    port: Rc<P>,
    conn: ConnId,
    (hop, source): (Arc<Hop>, Option<Box<str>>),
    nudge: Rc<Nudge>,
) {
    let mut seat = Seat { port: Rc::clone(&port), conn, job: None, is_ended: false };
    let station = port.station();
    let way = (&*hop, source.as_deref());
    let mut link = match open(station, way, &|link| takes(&hop, link)).await {
        Ok(link) => link,
        Err(NoLink { barred: Some(address), host, .. }) => {
            let looped = |delivery: &Delivery| looped(delivery, &host, address);
            port.owner(|owner, now| owner.refuse(conn, now, looped));
            return seat.ended(&only(LinkEnd::Closed));
        }
        // What one domain demands says nothing of the others at these hosts: only its own mail waits.
        Err(no_link) if no_link.kind == FailureKind::Tls => {
            port.owner(|owner, now| owner.refuse(conn, now, |_| unreached(&no_link)));
            return seat.ended(&only(LinkEnd::Closed));
        }
        Err(no_link) => {
            if matches!(no_link.kind, FailureKind::Ours(_)) {
                station.observed.metrics.delivery_resource_waits_total.add(1);
            }
            return seat.ended(&not_opened(station, &no_link));
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
        seat.job = Some(delivery);
        queue::points::point("deliver::before_send");
        let mut sending = match hop.hosts.len() > 1 && lacks(&link, seat.job()) {
            true => None,
            false => Some(send(station, &mut link, seat.job()).await),
        };
        let is_lacking = sending.is_none();
        if sending.as_ref().is_none_or(|sending| is_stale(&link, &sending.sent.outcomes)) {
            // No attempt was made: the host lacks what the mail needs, which another may offer, or it
            // had closed the idle connection.
            if is_lacking {
                link.transfer.quit().await;
            }
            let is_able = |link: &Link| takes(&hop, link) && !lacks(link, seat.job());
            match open(station, way, &is_able).await {
                Ok(fresh) => {
                    link = fresh;
                    sending = Some(send(station, &mut link, seat.job()).await);
                }
                Err(no_link) => return not_opened_again(&mut seat, no_link, is_lacking),
            }
        }
        let sending = sending.expect("a mail that was not sent has returned");
        queue::points::point("deliver::after_reply");
        link.sent += 1;
        let Report { what, end } = judge(station, &link, seat.job(), sending);
        if end.job == Some(JobEnd::Delivered) {
            unsettled.note_taken(Instant::now());
        }
        seat.ended(&end);
        seat.answer(what, Some(unsettled));
        if seat.is_ended {
            return;
        }
    }
    link.transfer.quit().await;
    seat.ended(&only(LinkEnd::Closed));
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
fn not_opened_again<P: Port>(seat: &mut Seat<P>, no_link: NoLink, is_lacking: bool) {
    let mut end = not_opened(seat.port.station(), &no_link);
    let what = match (no_link.barred, no_link.kind) {
        (Some(address), _) => looped(seat.job(), &no_link.host, address),
        (None, FailureKind::Ours(limit)) => What::Returned(Returned::OurLimit(limit)),
        (None, _) => unreached(&no_link),
    };
    if is_lacking || no_link.barred.is_some() || no_link.kind == FailureKind::Tls {
        // Other mail can still be sent to a host that lacks something, or by another way of TLS.
        end.link = LinkEnd::Closed;
    }
    seat.ended(&end);
    seat.answer(what, None);
}

/// Mail for which no host could be reached as it demands.
fn unreached(no_link: &NoLink) -> What {
    let answer = answer_to(no_link.kind, &no_link.text);
    What::Unreached { answer, host: no_link.host.clone(), not_before: Mono::ZERO }
}

/// Who is to blame.
fn link_end(kind: FailureKind, answer: Answer, host: &str) -> LinkEnd {
    let blame = match kind {
        FailureKind::Ours(limit) => return LinkEnd::OurLimit(limit),
        FailureKind::Refused | FailureKind::WayOut => Blame::Source,
        _ => Blame::Destination,
    };
    LinkEnd::Failed(Failure { blame, answer: Arc::new(answer), host: host.into() })
}

/// What the rules say of a reply.
struct Said<'a> {
    rules: &'a Classifier,
    answer: &'a Answer,
    classified: Classified,
}

impl Said<'_> {
    fn of<'a>(rules: &'a Classifier, answer: &'a Answer, host: &str) -> Said<'a> {
        Said { rules, answer, classified: classify(rules, answer, host) }
    }

    fn asks_for_less(&self) -> bool {
        let is_rate = self.classified.verdict.category == Category::RateLimited;
        is_rate && self.answer.status.0 == 4 || self.answer.text.starts_with("421")
    }

    fn action(&self, of: Option<&Delivery>) -> Option<RuleAction> {
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
        let time = action.time;
        let scope = match action.scope {
            Scope::Source => Blame::Source,
            Scope::Destination => Blame::Destination,
        };
        Some(match action.measure {
            Measure::Slow { percent } => {
                RuleAction::Slow { percent: percent.into(), evidence, time, scope }
            }
            Measure::Suspend => RuleAction::Suspend { evidence, time, scope },
        })
    }
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

/// Calls `use_it` with the mail as it is sent.
fn with_mail<T>(delivery: &Delivery, use_it: impl FnOnce(&Mail<'_>) -> T) -> T {
    let envelope = delivery.mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let recipients = mail_recipients(delivery, &all);
    use_it(&mail_of(delivery, &envelope, &recipients))
}

fn mail_recipients<'a>(delivery: &Delivery, all: &[Recipient<'a>]) -> Vec<MailRecipient<'a>> {
    let recipient = |index: &u32| {
        let one = &all[*index as usize];
        MailRecipient { mailbox: one.mailbox, notify: one.notify, orcpt: one.orcpt }
    };
    delivery.recipients.iter().map(recipient).collect()
}

fn mail_of<'a>(
    delivery: &Delivery,
    envelope: &Envelope<'a>,
    recipients: &'a [MailRecipient<'a>],
) -> Mail<'a> {
    Mail {
        sender: envelope.sender,
        recipients,
        bytes: envelope.bytes(),
        body: envelope.body_type,
        smtputf8: envelope.smtputf8,
        // Not if its hop meets the requirement without it.
        requiretls: envelope.requiretls && delivery.hop.require_tls == RequireTls::Yes,
        ret: envelope.ret,
        envid: envelope.envid,
    }
}

/// What came of a mail, and when.
struct Sending {
    sent: Sent,
    began: Wall,
    transfer_us: u64,
}

async fn send(station: &Station, link: &mut Link, delivery: &Delivery) -> Sending {
    let (clock, began) = (Instant::now(), Wall::now());
    let waited = Mono::now().since(delivery.sent);
    let mail = &delivery.mail;
    let envelope = mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let recipients = mail_recipients(delivery, &all);
    let to_send = mail_of(delivery, &envelope, &recipients);
    let sent = match &mail.body {
        MailBody::Held(message) => {
            link.transfer.send(&to_send, &mut std::slice::from_ref(message).iter()).await
        }
        MailBody::Stored(partition) => {
            let mut body = StoredBody::new(station.reader.clone(), partition, &envelope, delivery);
            link.transfer.send(&to_send, &mut body).await
        }
    };
    let transfer_us = clock.elapsed().as_micros() as u64;
    station.histograms.record(Stage::Transfer, transfer_us);
    station.histograms.record(Stage::QueueWait, waited.as_micros() as u64);
    Sending { sent, began, transfer_us }
}

/// A message that is read from the store, one piece at a time, while it is sent.
struct StoredBody {
    reader: Reader,
    pieces: Option<SharedMessageReader>,
}

impl StoredBody {
    fn new(
        reader: Reader,
        partition: &Arc<Partition>,
        envelope: &Envelope<'_>,
        delivery: &Delivery,
    ) -> StoredBody {
        let pieces = MessageReader::new(Arc::clone(partition), delivery.mail.id, envelope);
        StoredBody { reader, pieces: Some(pieces) }
    }
}

impl BodySource for StoredBody {
    type Piece = Vec<u8>;

    async fn next(&mut self) -> Option<Result<Vec<u8>, BodyUnreadable>> {
        let mut pieces = self.pieces.take()?;
        let read = self.reader.run(move || {
            let piece = pieces.next_piece(<[u8]>::to_vec);
            (pieces, piece)
        });
        let Some((pieces, piece)) = read.await else { return Some(Err(BodyUnreadable)) };
        self.pieces = Some(pieces);
        Some(piece?.map_err(|_| BodyUnreadable))
    }
}

/// What is told of a mail that was sent: to its home, and to the owner.
struct Report {
    what: What,
    end: Ended,
}

fn judge(station: &Station, link: &Link, delivery: &Delivery, sending: Sending) -> Report {
    let Sending { sent, began, transfer_us } = sending;
    let fault = link.transfer.fault().map(ToString::to_string);
    let unsaid = |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_body: false });
    let lack = link.transfer.transport_fault().and_then(own_limit);
    if let Some(limit) = lack.filter(|_| sent.outcomes.iter().all(unsaid)) {
        let what = What::Returned(Returned::OurLimit(limit));
        let link = LinkEnd::OurLimit(limit);
        return Report { what, end: Ended { job: Some(JobEnd::Lost), ..only(link) } };
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
        tls: facts.map(|facts| facts.version),
        cipher: facts.map(|facts| facts.cipher),
        verdict: verdict_of(facts),
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
    Report { what: What::Tried { ends, attempt }, end }
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
