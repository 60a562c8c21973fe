//! A worker: one connection to one destination, from connecting to closing.
//!
//! Owner:    one task of the shard that owns the destination.
//! Promise:  every job that it takes is answered with one outcome per recipient. If a server may have
//!           accepted a message without our receiving the reply, the message is retried and the log
//!           says so.
//! Order:    hosts by preference, addresses of a host by family; the first host that greets is used.
//! TLS:      `trust` finds out what a host must prove, `route::tls_policy` decides what follows if it
//!           does not. Only mail for which nobody requires TLS is retried in clear text.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::base::ChunkPool;
use crate::base::clock::wall_ms;
use crate::base::fault::Blame;
use crate::base::limits::JOB_TRANSFER_MS_MAX;
use crate::delivery::dial;
use crate::delivery::dial::DialFault;
use crate::delivery::dial::Parallel;
use crate::delivery::failure::Failure;
use crate::delivery::failure::FailureKind;
use crate::delivery::trust;
use crate::delivery::trust::Terms;
use crate::handoff::Reader;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::Delivery;
use crate::handoff::frame::End;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frame::MailBody;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frame::What;
use crate::net::Barred;
use crate::net::Channel;
use crate::net::SocketFault;
use crate::net::TlsFacts;
use crate::net::TlsFault;
use crate::net::Verdict;
use crate::net::resolver::Family;
use crate::net::transfer::BodySource;
use crate::net::transfer::BodyUnreadable;
use crate::net::transfer::ClientTimeouts;
use crate::net::transfer::Sent;
use crate::net::transfer::Transfer;
use crate::observe::Stage;
use crate::observe::label::DeliveryTls;
use crate::outbound::destination::JobEnd;
use crate::outbound::home::domain_of;
use crate::outbound::home::is_same_domain;
use crate::outbound::idle::Nudge;
use crate::outbound::owner::Custody;
use crate::outbound::owner::Owner;
use crate::outbound::owner::StoreSlot;
use crate::outbound::owner::WorkerSlot;
use crate::outbound::owner::answer_to;
use crate::outbound::owner::store_behind;
use crate::outbound::scheduler::ConnId;
use crate::outbound::scheduler::Take;
use crate::queue;
use crate::queue::MessageReader;
use crate::queue::SharedMessageReader;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::recipients::Recipient;
use crate::route::AfterFailure;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::RequireTls;
use crate::route::Source;
use crate::route::TlsDecision;
use crate::route::TlsFailure;
use crate::route::delivery::DeliveryPolicy;
use crate::rt;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::rt::timer;
use crate::wire::classify::Cause;
use crate::wire::smtp::client::Client;
use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_envelope::MailRecipient;
use crate::wire::smtp::client_login::Login;
use crate::wire::smtp::client_mail::Outcome;
use crate::wire::smtp::client_step::ClientConfig;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage as SmtpStage;
use crate::wire::smtp::client_step::TlsUse;
use crate::wire::smtp::reply::Reply;

/// A short body goes out together with its envelope where the server takes BDAT.
const CHUNK_AHEAD_BYTES_MAX: u64 = 32 << 10;

/// How long a connection waits for the store, and how long its job then rests.
const SETTLES_PATIENCE: Duration = Duration::from_secs(2);
const SETTLES_PAUSE_MS: u64 = 5000;

/// A connection that takes mail.
struct Link {
    transfer: Transfer<Stream>,
    host: Box<str>,
    /// None of a Unix socket.
    address: Option<SocketAddr>,
    connect_us: u64,
    tls_policy: &'static str,
    /// Mails sent over it.
    sent: u32,
}

/// Why there is none.
struct NoLink {
    kind: FailureKind,
    text: String,
    /// The host that it is of; empty if it is of none.
    host: Box<str>,
    /// Other hosts would fare the same.
    is_of_all: bool,
    /// All hosts are this server or have private addresses, such as this one.
    barred: Option<IpAddr>,
}

impl NoLink {
    fn new(host: &str, kind: FailureKind, text: String) -> NoLink {
        NoLink { kind, text, host: host.into(), is_of_all: false, barred: None }
    }

    fn failure(&self) -> Failure<'_> {
        Failure { kind: self.kind, text: &self.text, host: &self.host }
    }

    /// After this address of a host, another one failed too.
    fn then(self, next: NoLink) -> NoLink {
        let is_of_all = self.is_of_all || next.is_of_all;
        let (text, host) = match (self.is_of_all, next.is_of_all) {
            (_, true) => (next.text, next.host),
            (true, false) => (self.text, self.host),
            (false, false) => (format!("{}; {}", self.text, next.text), next.host),
        };
        let kind = if self.kind == FailureKind::Ours { self.kind } else { next.kind };
        NoLink { kind, text, host, is_of_all, barred: None }
    }
}

/// What is told of several hosts. If this server could not ask one of them, nothing is known.
fn worse(last: Option<NoLink>, next: NoLink) -> Option<NoLink> {
    Some(last.filter(|last| last.kind == FailureKind::Ours).unwrap_or(next))
}

pub async fn run(owner: Rc<Owner>, slot: WorkerSlot, hop: Arc<Hop>, nudge: Rc<Nudge>) {
    let conn = slot.conn;
    let mut link = match open(&owner, &hop, &|link| takes(&hop, link)).await {
        Ok(link) => link,
        Err(NoLink { barred: Some(address), host, .. }) => {
            owner.refuse_all(&hop, |delivery| looped(delivery, &host, address));
            owner.scheduler.borrow_mut().closed(conn, wall_ms());
            return;
        }
        Err(no_link) => {
            if no_link.kind == FailureKind::Ours {
                owner.observed.metrics.delivery_resource_waits_total.add(1);
            }
            owner.scheduler.borrow_mut().connect_failed(conn, no_link.failure(), wall_ms());
            return;
        }
    };
    owner.scheduler.borrow_mut().connected(conn, wall_ms());
    while !owner.is_closing() {
        owner.pump();
        let take = owner.scheduler.borrow_mut().take_job(conn, wall_ms());
        let ticket = match take {
            Take::Job(ticket) => ticket,
            Take::IdleUntil(at_ms) => {
                let pause = Duration::from_millis(at_ms.saturating_sub(wall_ms()).max(1));
                nudge.or(timer::sleep(pause)).await;
                continue;
            }
            Take::Close => break,
        };
        let Some(delivery) = owner.take(&ticket) else {
            owner.scheduler.borrow_mut().job_done(conn, JobEnd::Deferred, wall_ms());
            continue;
        };
        let custody = Custody::of(&owner, delivery);
        let delivery = custody.delivery();
        let Some(mut unsettled) = may_send(&owner, conn, &nudge, delivery).await else {
            let due_ms = wall_ms() + SETTLES_PAUSE_MS;
            let what = match owner.is_closing() {
                true => What::Returned,
                false => What::Busy { due_ms, answer: store_behind() },
            };
            owner.answer(&custody.give_up(), what);
            owner.scheduler.borrow_mut().job_done(conn, JobEnd::Deferred, wall_ms());
            continue;
        };
        queue::points::point("deliver::before_send");
        let mut sending = match hop.hosts.len() > 1 && lacks(&link, delivery) {
            true => None,
            false => Some(send(&owner, &mut link, delivery).await),
        };
        let is_lacking = sending.is_none();
        if sending.as_ref().is_none_or(|sending| is_stale(&link, &sending.sent.outcomes)) {
            // No attempt was made: the host lacks what the mail needs, which another may offer, or it
            // had closed the idle connection.
            if is_lacking {
                link.transfer.quit().await;
            }
            let is_able = |link: &Link| takes(&hop, link) && !lacks(link, delivery);
            match open(&owner, &hop, &is_able).await {
                Ok(fresh) => {
                    link = fresh;
                    sending = Some(send(&owner, &mut link, delivery).await);
                }
                Err(NoLink { barred: Some(address), host, .. }) => {
                    let delivery = custody.give_up();
                    owner.answer(&delivery, looped(&delivery, &host, address));
                    owner.scheduler.borrow_mut().closed(conn, wall_ms());
                    return;
                }
                Err(no_link) => {
                    let answer = answer_to(no_link.kind, &no_link.text);
                    let host = no_link.host.clone();
                    let what = match no_link.kind {
                        FailureKind::Ours => What::Busy { due_ms: wall_ms(), answer },
                        _ => What::Unreached { answer, host, not_before_ms: 0 },
                    };
                    owner.answer(&custody.give_up(), what);
                    let mut scheduler = owner.scheduler.borrow_mut();
                    match is_lacking {
                        // Other mail can still be sent to the first host.
                        true => scheduler.closed(conn, wall_ms()),
                        false => scheduler.connection_lost(conn, no_link.failure(), wall_ms()),
                    };
                    return;
                }
            }
        }
        let sending = sending.expect("a mail that was not sent has returned");
        queue::points::point("deliver::after_reply");
        link.sent += 1;
        let delivery = custody.give_up();
        let report = judge(&link, &delivery, sending);
        let Report { what, end, throttle } = report;
        if end == JobEnd::Delivered {
            unsettled.note_taken(Instant::now());
        }
        owner.answer_sent(&delivery, what, unsettled);
        let now_ms = wall_ms();
        let fault = link.transfer.fault().cloned();
        let mut scheduler = owner.scheduler.borrow_mut();
        scheduler.job_done(conn, end, now_ms);
        let throttled = throttle.is_some();
        if let Some(text) = throttle {
            scheduler.throttled(conn, &text, now_ms);
        }
        if !link.transfer.is_ready() {
            let kind = match link.transfer.transport_fault().is_some_and(is_own_limit) {
                true => FailureKind::Ours,
                false => fault.as_ref().map_or(FailureKind::Lost, kind_of),
            };
            let text = fault.map_or_else(String::new, |fault| {
                own_words(&fault).unwrap_or_else(|| fault.to_string())
            });
            // A server that ends each connection after its mail is no broken one.
            // And a 421 has been counted.
            match end {
                JobEnd::Delivered | JobEnd::Refused => scheduler.closed(conn, now_ms),
                _ if throttled => scheduler.closed(conn, now_ms),
                _ => {
                    let failure = Failure { kind, text: &text, host: &link.host };
                    scheduler.connection_lost(conn, failure, now_ms)
                }
            };
            return;
        }
    }
    link.transfer.quit().await;
}

/// Waits while the store is so far behind that a crash would repeat too much. `None`: for too long,
/// or the owner closes.
async fn may_send(
    owner: &Rc<Owner>,
    conn: ConnId,
    nudge: &Nudge,
    delivery: &Delivery,
) -> Option<Unsettled> {
    let partition = &delivery.mail.partition;
    let begun = Unsettled::begin(partition, Instant::now());
    if begun.is_some() {
        return begun;
    }
    owner.observed.metrics.delivery_store_waits_total.add(1);
    let _slot = StoreSlot::take(owner, conn, partition);
    let mut patience = pin!(timer::sleep(SETTLES_PATIENCE));
    loop {
        let is_over = nudge.or(patience.as_mut()).await.is_some();
        if owner.is_closing() || partition.failure().is_some() {
            return None;
        }
        let begun = Unsettled::begin(partition, Instant::now());
        if begun.is_some() || is_over {
            return begun;
        }
    }
}

/// An idle connection that had been ended before this mail was said. One whose peer is silent is
/// not tried at once on another: there it would be silent too.
fn is_stale(link: &Link, outcomes: &[Outcome]) -> bool {
    let unsaid = |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_body: false });
    let ended = matches!(link.transfer.fault(), Some(Fault::Ended | Fault::Refused { .. }));
    link.sent > 0 && ended && outcomes.iter().all(unsaid)
}

/// Connects to the best host that is able to take the mail. If the only fault of all is that they are
/// not, to the first of them, so that the mail is returned.
async fn open(
    owner: &Rc<Owner>,
    hop: &Hop,
    is_able: &dyn Fn(&Link) -> bool,
) -> Result<Link, NoLink> {
    let policy = owner.policy();
    let source = match &hop.pool {
        None => None,
        Some(name) => {
            let pool = policy.sources.pool(name);
            let source = pool.and_then(|pool| policy.sources.pick(pool, owner.roll()));
            // Never from another address than was asked for. The next attempt goes by new routes.
            Some(source.ok_or_else(|| {
                let text = format!("pool {name} is no longer in the configuration");
                NoLink::new("", FailureKind::WayOut, text)
            })?)
        }
    };
    let ehlo_name = source.map_or(&policy.ehlo_name, |source| &source.ehlo_name);
    let mut last = None;
    let mut unable = None;
    let mut barred = None;
    for host in &hop.hosts {
        let Addresses { mut addresses, authentic } = match addresses(owner, host, &policy).await {
            Ok(addresses) => addresses,
            Err(no_link) => {
                last = worse(last, no_link);
                continue;
            }
        };
        if hop.names != HostNames::Operator
            && let Some((address, why)) =
                dial::remove_barred(&policy.addresses, source, &mut addresses)
        {
            barred.get_or_insert((host, address));
            match why {
                // Worse exchangers would send it back to this server (RFC 5321 s5.1).
                Barred::Ours => break,
                Barred::Private if addresses.is_empty() => continue,
                Barred::Private => {}
            }
        }
        let terms = match owner.trust.terms(hop, host, authentic).await {
            Ok(terms) => terms,
            Err(fault) => {
                let text = format!("{}: {fault}", host.host);
                last = worse(last, NoLink::new(&host.host, FailureKind::Ours, text));
                continue;
            }
        };
        if let TlsDecision::PassOver(refusal) = terms.decision {
            owner.trust.count_failure(hop, &host.host, &terms, None);
            let text = format!("{}: {refusal}", host.host);
            last = worse(last, NoLink::new(&host.name(), FailureKind::Tls, text));
            continue;
        }
        let way = Way { hop, host, terms: &terms, source, ehlo_name, policy: &policy };
        match reach_host(owner, &way, addresses).await {
            Ok(link) if is_able(&link) => return Ok(link),
            Ok(link) => {
                unable.get_or_insert(link);
            }
            Err(no_link) => {
                let is_of_all = no_link.is_of_all;
                last = worse(last, no_link);
                if is_of_all {
                    break;
                }
            }
        }
        if owner.is_closing() {
            break;
        }
    }
    let nowhere = || NoLink::new("", FailureKind::Resolve, "the next hop has no server".to_owned());
    match (unable, last, barred) {
        (Some(link), None, _) => Ok(link),
        (None, None, Some((host, address))) => {
            let no_link = NoLink::new(&host.name(), FailureKind::Resolve, String::new());
            Err(NoLink { barred: Some(address.ip()), ..no_link })
        }
        (_, last, _) => Err(last.unwrap_or_else(nowhere)),
    }
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

/// One host, and how it is reached.
struct Way<'w> {
    hop: &'w Hop,
    host: &'w HostPort,
    terms: &'w Terms,
    source: Option<&'w Source>,
    ehlo_name: &'w str,
    policy: &'w DeliveryPolicy,
}

impl Way<'_> {
    /// One address of the host, as it is told of.
    fn told(&self, address: Option<SocketAddr>) -> String {
        let name = self.host.name();
        let proxy = self.source.and_then(|source| source.proxy.as_ref());
        match (address, proxy) {
            (None, _) => name.into_owned(),
            (Some(address), None) => format!("{name}[{address}]"),
            (Some(address), Some(proxy)) => format!("{name}[{address}] via {proxy}"),
        }
    }

    fn not_dialed(&self, address: SocketAddr, fault: &DialFault) -> NoLink {
        let proxy = self.source.and_then(|source| source.proxy.as_ref().zip(Some(&source.name)));
        let text = match (proxy, fault) {
            // It says nothing of the host, so the host is not named.
            (Some((proxy, source)), fault) if fault.is_of_all() => {
                format!("the proxy {proxy} of source {source}: {fault}")
            }
            _ => format!("connecting to {}: {fault}", self.told(Some(address))),
        };
        let is_of_all = fault.is_of_all();
        let name = self.host.name();
        let host = if is_of_all { "" } else { &*name };
        let kind = match fault {
            // A machine without IPv6 never has a port for it.
            DialFault::Io(IoFault::NoLocalPort) if address.is_ipv6() => FailureKind::Connect,
            fault => fault.kind(),
        };
        NoLink { is_of_all, ..NoLink::new(host, kind, text) }
    }
}

/// A stream to an address of the host; a Unix socket has none.
struct Dialed {
    stream: Stream,
    address: Option<SocketAddr>,
    began: Instant,
}

/// The addresses of one host, and whether DNSSEC vouches for them.
struct Addresses {
    addresses: Vec<SocketAddr>,
    authentic: bool,
}

async fn addresses(
    owner: &Owner,
    host: &HostPort,
    policy: &DeliveryPolicy,
) -> Result<Addresses, NoLink> {
    if host.unix_path().is_some() {
        return Ok(Addresses { addresses: Vec::new(), authentic: false });
    }
    if let Ok(address) = host.host.parse::<IpAddr>() {
        let addresses = vec![SocketAddr::new(address, host.port)];
        return Ok(Addresses { addresses, authentic: false });
    }
    let found = owner.resolver.addresses(&host.host, Family::Both).await.map_err(|fault| {
        let own = fault.is_own_limit();
        let kind = if own { FailureKind::Ours } else { FailureKind::Resolve };
        NoLink::new(&host.host, kind, format!("{}: {fault}", host.host))
    })?;
    let v4 = found.v4.into_iter().map(IpAddr::V4).collect();
    let v6 = found.v6.into_iter().map(IpAddr::V6).collect();
    let all = match policy.prefer_ipv6 {
        true => dial::interleave(v6, v4),
        false => dial::interleave(v4, v6),
    };
    let addresses = all.into_iter().map(|address| SocketAddr::new(address, host.port)).collect();
    Ok(Addresses { addresses, authentic: found.authentic })
}

/// Connects to the host by the first of its addresses that answers and greets.
async fn reach_host(
    owner: &Rc<Owner>,
    way: &Way<'_>,
    mut addresses: Vec<SocketAddr>,
) -> Result<Link, NoLink> {
    let limit = way.policy.timeouts.connect;
    if let Some(path) = way.host.unix_path() {
        let began = Instant::now();
        let stream = rt::connect_unix(path, limit).await.map_err(|fault| {
            let text = dial::unix_text(&way.host.name(), fault);
            NoLink::new(&way.host.name(), dial::unix_kind(fault), text)
        })?;
        return reach(owner, way, Dialed { stream, address: None, began }).await;
    }
    let name = way.host.name();
    let nowhere = || NoLink::new(&name, FailureKind::Resolve, "the host has no address".to_owned());
    let mut last = None;
    // An address of the other family may not be needed, and of the source there may be none.
    let has_family =
        |to: &SocketAddr| way.source.is_none_or(|from| from.address_for(to.ip()).is_ok());
    if addresses.iter().any(has_family) {
        addresses.retain(has_family);
    }
    while !addresses.is_empty() {
        let began = Instant::now();
        let race = dial::race(&addresses, limit, Parallel::of(way.source), |to, limit| {
            dial::dial(way.source, to, limit)
        });
        let race = race.await;
        addresses.retain(|one| race.failed.iter().all(|(failed, _)| failed != one));
        let failed = race.failed.iter().map(|(address, fault)| way.not_dialed(*address, fault));
        last = failed.reduce(NoLink::then).or(last);
        let Some((address, stream)) = race.won else { break };
        addresses.retain(|one| *one != address);
        match reach(owner, way, Dialed { stream, address: Some(address), began }).await {
            Ok(link) => return Ok(link),
            Err(no_link) => last = Some(no_link),
        }
        if owner.is_closing() {
            break;
        }
    }
    Err(last.unwrap_or_else(nowhere))
}

/// Greets; once more, on a new connection and in the clear, where TLS fails and nobody demands it.
async fn reach(owner: &Rc<Owner>, way: &Way<'_>, dialed: Dialed) -> Result<Link, NoLink> {
    let Terms { decision, policy, .. } = way.terms;
    let tls = match decision {
        TlsDecision::Require { .. } => TlsUse::Always,
        TlsDecision::Try => TlsUse::IfOffered,
        TlsDecision::Clear { .. } | TlsDecision::PassOver(_) => TlsUse::Never,
    };
    let address = dialed.address;
    let (mut no_link, failure) = match greet(owner, way, dialed, (tls, policy)).await {
        Ok(link) => return Ok(link),
        Err(failed) => failed,
    };
    let after = failure.filter(|_| decision.wants_tls()).map(|failure| decision.after(failure));
    match after {
        Some(AfterFailure::ReconnectInClear) => {
            owner.trust.note_broken(&way.host.host);
            let Some(to) = address else { return Err(no_link) };
            let began = Instant::now();
            let stream = dial::dial(way.source, to, way.policy.timeouts.connect).await;
            let stream = stream.map_err(|fault| way.not_dialed(to, &fault))?;
            let dialed = Dialed { stream, address, began };
            let again = greet(owner, way, dialed, (TlsUse::Never, trust::AFTER_FAILURE)).await;
            return again.map_err(|(no_link, _)| no_link);
        }
        Some(AfterFailure::NextHost(demand)) => {
            // In front, for what comes of certificates is long.
            no_link.text = format!("TLS is required ({}): {}", demand.as_str(), no_link.text);
        }
        Some(AfterFailure::Later) => no_link.kind = FailureKind::Ours,
        // Where STARTTLS is not offered and need not be, the greeting goes on without it.
        Some(AfterFailure::GoOnInClear) | None => {}
    }
    Err(no_link)
}

async fn greet(
    owner: &Rc<Owner>,
    way: &Way<'_>,
    Dialed { stream, address, began }: Dialed,
    (tls, tls_policy): (TlsUse, &'static str),
) -> Result<Link, (NoLink, Option<TlsFailure>)> {
    let name = &way.host.host;
    owner.observed.metrics.delivery_connections_total.add(1);
    let pool = Rc::clone(&owner.pool);
    let times = timeouts(way.policy);
    let mut channel = Channel::plain(stream);
    let begins_with_tls = way.hop.protocol == HopProtocol::Smtps;
    if begins_with_tls {
        channel.stream().deadline().set_in(times.starttls);
        if let Err(cause) = secure(owner, way, &mut channel, &pool).await {
            return Err(not_greeted(owner, way, address, (&Fault::TlsFailed, Some(&cause))));
        }
    }
    let config = Arc::new(ClientConfig {
        ehlo_name: way.ehlo_name.to_owned(),
        lmtp: way.hop.protocol == HopProtocol::Lmtp,
        pipelining: true,
        chunking: true,
        chunk_ahead_bytes_max: CHUNK_AHEAD_BYTES_MAX,
        tls,
    });
    let mut client = Client::new(config, begins_with_tls);
    if let Some(user) = &way.hop.auth {
        let Credentials { user, password } = &**user;
        client = client.with_login(Login { user: user.clone(), password: password.clone() });
    }
    let mut transfer = Transfer::new(channel, client, pool, times);
    let start_tls = async |channel: &mut Channel<Stream>, pool: &ChunkPool| {
        secure(owner, way, channel, pool).await
    };
    if let Err(fault) = transfer.handshake(start_tls).await {
        return Err(not_greeted(owner, way, address, (&fault, transfer.transport_fault())));
    }
    let connect_us = began.elapsed().as_micros() as u64;
    owner.histograms.record(Stage::Connect, connect_us);
    let facts = transfer.channel().tls_facts();
    owner.observed.metrics.delivery_tls_total.add(proven(facts), 1);
    if tls != TlsUse::Never {
        owner.trust.count_session(way.hop, name, way.terms, facts);
    }
    let host = way.host.name().into();
    Ok(Link { transfer, host, address, connect_us, tls_policy, sent: 0 })
}

/// Begins TLS and shakes hands.
async fn secure(
    owner: &Owner,
    way: &Way<'_>,
    channel: &mut Channel<Stream>,
    pool: &ChunkPool,
) -> Result<(), SocketFault> {
    channel.start_tls_client(owner.trust.client(), &way.host.host, way.terms.check.clone())?;
    let began = Instant::now();
    channel.handshake(pool, None).await?;
    owner.histograms.record(Stage::DeliveryTls, began.elapsed().as_micros() as u64);
    Ok(())
}

fn not_greeted(
    owner: &Owner,
    way: &Way<'_>,
    address: Option<SocketAddr>,
    (fault, cause): (&Fault, Option<&SocketFault>),
) -> (NoLink, Option<TlsFailure>) {
    let failure = tls_failure(fault, cause);
    if failure.is_some() {
        owner.observed.metrics.delivery_tls_failures_total.add(1);
        owner.trust.count_failure(way.hop, &way.host.host, way.terms, cause);
    }
    let own = cause.is_some_and(is_own_limit);
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    let text = match own_words(fault) {
        Some(words) => words,
        None => format!("{}: {fault}{cause}", way.told(address)),
    };
    let kind = if own { FailureKind::Ours } else { kind_of(fault) };
    (NoLink::new(&way.host.name(), kind, text), failure)
}

/// Whether this machine lacked a resource.
fn is_own_limit(cause: &SocketFault) -> bool {
    match cause {
        SocketFault::Io(fault) => fault.is_own_limit(),
        SocketFault::Tls(fault) => *fault == TlsFault::NoChunk,
    }
}

/// Whether and how the connection failed for want of TLS.
fn tls_failure(fault: &Fault, cause: Option<&SocketFault>) -> Option<TlsFailure> {
    match (fault, cause) {
        (Fault::TlsNotOffered | Fault::TlsRefused(_), _) => Some(TlsFailure::NotOffered),
        (Fault::TlsFailed, Some(SocketFault::Io(fault))) => Some(match fault.blame() {
            Blame::Us | Blame::Operator => TlsFailure::Ours,
            _ => TlsFailure::Handshake,
        }),
        (Fault::TlsFailed, Some(SocketFault::Tls(fault))) => Some(match fault.blame() {
            Blame::Us | Blame::Operator => TlsFailure::Ours,
            _ if fault.certificate().is_some() || *fault == TlsFault::TlsaMismatch => {
                TlsFailure::Certificate
            }
            _ => TlsFailure::Handshake,
        }),
        (Fault::TlsFailed | Fault::InputBeforeTls, _) => Some(TlsFailure::Handshake),
        _ => None,
    }
}

fn verdict_of(facts: Option<&TlsFacts>) -> Option<Verdict> {
    facts.and_then(|facts| facts.server.as_ref()).map(|server| server.verdict)
}

fn proven(facts: Option<&TlsFacts>) -> DeliveryTls {
    match verdict_of(facts) {
        None => DeliveryTls::Clear,
        Some(Verdict::Unproven(_)) => DeliveryTls::Unverified,
        Some(Verdict::Name) => DeliveryTls::Verified,
        Some(Verdict::Dane) => DeliveryTls::Dane,
    }
}

fn timeouts(policy: &DeliveryPolicy) -> ClientTimeouts {
    let times = &policy.timeouts;
    ClientTimeouts {
        greeting: times.greeting,
        ehlo: times.ehlo,
        starttls: times.tls_handshake,
        mail: times.mail,
        rcpt: times.rcpt,
        data_init: times.data_init,
        data_block: times.data_block,
        data_end: times.data_end,
        rset: times.quit,
        quit: times.quit,
        ..ClientTimeouts::default()
    }
}

/// What a server has said that refuses us: by that it is judged.
fn own_words(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Refused { reply, .. } => Some(reply.in_one_line()),
        _ => None,
    }
}

fn kind_of(fault: &Fault) -> FailureKind {
    match fault {
        Fault::TimedOut(SmtpStage::Greeting) => FailureKind::Greeting,
        Fault::Refused { .. } => FailureKind::Refused,
        Fault::TimedOut(_) | Fault::TooSlow => FailureKind::Timeout,
        Fault::TlsFailed | Fault::TlsNotOffered | Fault::TlsRefused(_) | Fault::InputBeforeTls => {
            FailureKind::Tls
        }
        Fault::Ended | Fault::BodyBroken => FailureKind::Lost,
        _ => FailureKind::Protocol,
    }
}

/// What came of a mail, and when.
struct Sending {
    sent: Sent,
    began_ms: u64,
    transfer_us: u64,
}

async fn send(owner: &Owner, link: &mut Link, delivery: &Delivery) -> Sending {
    let (began, began_ms) = (Instant::now(), wall_ms());
    // Once the lease has ended the job may be issued again: its last byte must not follow then,
    // and its reply should have come.
    let lease = Duration::from_millis(delivery.lease_until_ms.saturating_sub(wall_ms()));
    let reply = owner.policy().timeouts.data_end + Duration::from_secs(5);
    let reply = reply.min(Duration::from_millis(JOB_TRANSFER_MS_MAX) / 2);
    link.transfer.set_last_byte_by(began + lease.saturating_sub(reply));
    let mail = &delivery.mail;
    let envelope = mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let recipients = mail_recipients(delivery, &all);
    let to_send = mail_of(delivery, &envelope, &recipients);
    let sent = match &mail.body {
        MailBody::Held(message) => {
            link.transfer.send(&to_send, &mut std::slice::from_ref(message).iter()).await
        }
        MailBody::Stored => {
            let mut body = StoredBody::new(owner.reader.clone(), delivery, &envelope);
            link.transfer.send(&to_send, &mut body).await
        }
    };
    let transfer_us = began.elapsed().as_micros() as u64;
    owner.histograms.record(Stage::Transfer, transfer_us);
    let waited_us = began_ms.saturating_sub(delivery.sent_ms).saturating_mul(1000);
    owner.histograms.record(Stage::QueueWait, waited_us);
    Sending { sent, began_ms, transfer_us }
}

/// A message that is read from the store, one piece at a time, while it is sent.
struct StoredBody {
    reader: Reader,
    pieces: Option<SharedMessageReader>,
}

impl StoredBody {
    fn new(reader: Reader, delivery: &Delivery, envelope: &Envelope<'_>) -> StoredBody {
        let partition = Arc::clone(&delivery.mail.partition);
        let pieces = MessageReader::new(partition, delivery.id, envelope);
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

/// What is told of a mail that was sent, and to whom.
struct Report {
    what: What,
    end: JobEnd,
    /// The server asked for less.
    throttle: Option<String>,
}

fn judge(link: &Link, delivery: &Delivery, sending: Sending) -> Report {
    let Sending { sent, began_ms, transfer_us } = sending;
    let fault = link.transfer.fault().map(ToString::to_string);
    let unsaid = |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_body: false });
    let cause = link.transfer.transport_fault().filter(|cause| is_own_limit(cause));
    if let Some(cause) = cause.filter(|_| sent.outcomes.iter().all(unsaid)) {
        let answer = Answer::ours(Cause::OurFault, cause.to_string());
        let what = What::Busy { due_ms: wall_ms(), answer };
        return Report { what, end: JobEnd::Lost, throttle: None };
    }
    let mut ends = Vec::with_capacity(sent.outcomes.len());
    let (mut delivered, mut deferred, mut lost) = (0_usize, 0_usize, 0_usize);
    let mut throttle = None;
    for (index, outcome) in delivery.recipients.iter().zip(sent.outcomes) {
        let (end, answer) = match outcome {
            Outcome::Accepted(reply) => (End::Delivered, answer_of(&reply, true)),
            Outcome::Refused { stage, reply } => {
                if reply.code == 421 {
                    throttle = Some(reply.in_one_line());
                }
                (refused(stage, &reply), answer_of(&reply, true))
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
    let until_sent_us = began_ms.saturating_sub(delivery.due_ms).saturating_mul(1000);
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
    let end = match () {
        () if delivered > 0 => JobEnd::Delivered,
        () if lost > 0 => JobEnd::Lost,
        () if deferred > 0 => JobEnd::Deferred,
        () => JobEnd::Refused,
    };
    Report { what: What::Tried { ends, attempt }, end, throttle }
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
