//! A connection to a host of a destination: name, address, greeting, TLS.
//!
//! Order:    hosts by preference, addresses of a host by family; the first host that greets is used.
//! TLS:      `trust` finds out what a host must prove, `route::tls_policy` decides what follows if it
//!           does not. Only mail for which nobody requires TLS is tried again in clear text.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::ChunkPool;
use crate::base::fault::Blame;
use crate::delivery::dial;
use crate::delivery::dial::DialFault;
use crate::delivery::dial::Parallel;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::lack_of;
use crate::delivery::trust;
use crate::delivery::trust::Terms;
use crate::delivery::trust::Trust;
use crate::handoff::Reader;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::OurLimit;
use crate::net::Barred;
use crate::net::Channel;
use crate::net::SocketFault;
use crate::net::TlsFacts;
use crate::net::TlsFault;
use crate::net::Verdict;
use crate::net::resolver::Family;
use crate::net::resolver::Resolver;
use crate::net::transfer::ClientTimeouts;
use crate::net::transfer::Transfer;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::Stage;
use crate::observe::label::DeliveryTls;
use crate::queue::Partition;
use crate::route::AfterFailure;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::Source;
use crate::route::TlsDecision;
use crate::route::TlsFailure;
use crate::route::delivery::DeliveryPolicy;
use crate::rt;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::wire::smtp::client::Client;
use crate::wire::smtp::client_login::Login;
use crate::wire::smtp::client_step::ClientConfig;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage as SmtpStage;
use crate::wire::smtp::client_step::TlsUse;

/// A short body goes out together with its envelope where the server takes BDAT.
const CHUNK_AHEAD_BYTES_MAX: u64 = 32 << 10;

/// What all connections of a shard use.
pub struct Station {
    pub pool: Rc<ChunkPool>,
    pub reader: Reader,
    pub resolver: Resolver,
    pub trust: Rc<Trust>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
    /// All partitions of the process, in the order of their numbers.
    pub partitions: Arc<[Arc<Partition>]>,
    pub policy: RefCell<Arc<DeliveryPolicy>>,
    pub is_closing: Cell<bool>,
}

impl Station {
    pub fn policy(&self) -> Arc<DeliveryPolicy> {
        Arc::clone(&self.policy.borrow())
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.get()
    }
}

/// A connection that takes mail.
pub struct Link {
    pub transfer: Transfer<Stream>,
    pub host: Box<str>,
    /// None of a Unix socket.
    pub address: Option<SocketAddr>,
    pub connect_us: u64,
    pub tls_policy: &'static str,
    /// Mails sent over it.
    pub sent: u32,
}

/// Why there is none.
pub struct NoLink {
    pub kind: FailureKind,
    pub text: String,
    /// The host that it is of; empty if it is of none.
    pub host: Box<str>,
    /// Other hosts would fare the same.
    pub is_of_all: bool,
    /// All hosts are this server or have private addresses, such as this one.
    pub barred: Option<IpAddr>,
}

impl NoLink {
    fn new(host: &str, kind: FailureKind, text: String) -> NoLink {
        NoLink { kind, text, host: host.into(), is_of_all: false, barred: None }
    }

    fn is_ours(&self) -> bool {
        matches!(self.kind, FailureKind::Ours(_))
    }

    /// After this address of a host, another one failed too.
    fn then(self, next: NoLink) -> NoLink {
        let is_of_all = self.is_of_all || next.is_of_all;
        let kind = if self.is_ours() { self.kind } else { next.kind };
        let (text, host) = match (self.is_of_all, next.is_of_all) {
            (_, true) => (next.text, next.host),
            (true, false) => (self.text, self.host),
            (false, false) => (format!("{}; {}", self.text, next.text), next.host),
        };
        NoLink { kind, text, host, is_of_all, barred: None }
    }
}

/// What is told of several hosts. If this server could not ask one of them, nothing is known.
fn worse(last: Option<NoLink>, next: NoLink) -> Option<NoLink> {
    Some(last.filter(NoLink::is_ours).unwrap_or(next))
}

/// Connects to the best host that is able to take the mail. If the only fault of all is that they are
/// not, to the first of them, so that the mail is returned.
pub async fn open(
    station: &Station,
    (hop, source): (&Hop, Option<&str>),
    is_able: &dyn Fn(&Link) -> bool,
) -> Result<Link, NoLink> {
    let policy = station.policy();
    let source = match source {
        None => None,
        Some(name) => {
            let source = policy.sources.sources().iter().find(|one| *one.name == *name);
            // Never from another address than was asked for. The next attempt goes by new routes.
            Some(source.ok_or_else(|| {
                let pool = hop.pool.as_deref().unwrap_or(name);
                let text = format!("pool {pool} is no longer in the configuration");
                NoLink::new("", FailureKind::WayOut, text)
            })?)
        }
    };
    let ehlo_name = source.map_or(&policy.ehlo_name, |source| &source.ehlo_name);
    let mut last = None;
    let mut unable = None;
    let mut barred = None;
    for host in &hop.hosts {
        let Addresses { mut addresses, authentic } = match addresses(station, host, &policy).await {
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
        let terms = match station.trust.terms(hop, host, authentic).await {
            Ok(terms) => terms,
            Err(fault) => {
                let text = format!("{}: {fault}", host.host);
                last = worse(last, NoLink::new(&host.host, FailureKind::Ours(OurLimit::Dns), text));
                continue;
            }
        };
        if let TlsDecision::PassOver(refusal) = terms.decision {
            station.trust.count_failure(hop, &host.host, &terms, None);
            let text = format!("{}: {refusal}", host.host);
            last = worse(last, NoLink::new(&host.name(), FailureKind::Tls, text));
            continue;
        }
        let way = Way { hop, host, terms: &terms, source, ehlo_name, policy: &policy };
        match reach_host(station, &way, addresses).await {
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
        if station.is_closing() {
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
    station: &Station,
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
    let found = station.resolver.addresses(&host.host, Family::Both).await.map_err(|fault| {
        let own = fault.is_own_limit();
        let kind = if own { FailureKind::Ours(OurLimit::Dns) } else { FailureKind::Resolve };
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
    station: &Station,
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
        return reach(station, way, Dialed { stream, address: None, began }).await;
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
        match reach(station, way, Dialed { stream, address: Some(address), began }).await {
            Ok(link) => return Ok(link),
            Err(no_link) => last = Some(no_link),
        }
        if station.is_closing() {
            break;
        }
    }
    Err(last.unwrap_or_else(nowhere))
}

/// Greets; once more, on a new connection and in the clear, where TLS fails and nobody demands it.
async fn reach(station: &Station, way: &Way<'_>, dialed: Dialed) -> Result<Link, NoLink> {
    let Terms { decision, policy, .. } = way.terms;
    let tls = match decision {
        TlsDecision::Require { .. } => TlsUse::Always,
        TlsDecision::Try => TlsUse::IfOffered,
        TlsDecision::Clear { .. } | TlsDecision::PassOver(_) => TlsUse::Never,
    };
    let address = dialed.address;
    let (mut no_link, failure) = match greet(station, way, dialed, (tls, policy)).await {
        Ok(link) => return Ok(link),
        Err(failed) => failed,
    };
    let after = failure.filter(|_| decision.wants_tls()).map(|failure| decision.after(failure));
    match after {
        Some(AfterFailure::ReconnectInClear) => {
            station.trust.note_broken(&way.host.host);
            let Some(to) = address else { return Err(no_link) };
            let began = Instant::now();
            let stream = dial::dial(way.source, to, way.policy.timeouts.connect).await;
            let stream = stream.map_err(|fault| way.not_dialed(to, &fault))?;
            let dialed = Dialed { stream, address, began };
            let again = greet(station, way, dialed, (TlsUse::Never, trust::AFTER_FAILURE)).await;
            return again.map_err(|(no_link, _)| no_link);
        }
        Some(AfterFailure::NextHost(demand)) => {
            // In front, for what comes of certificates is long.
            no_link.text = format!("TLS is required ({}): {}", demand.as_str(), no_link.text);
        }
        Some(AfterFailure::Later) => no_link.kind = FailureKind::Ours(OurLimit::Memory),
        // Where STARTTLS is not offered and need not be, the greeting goes on without it.
        Some(AfterFailure::GoOnInClear) | None => {}
    }
    Err(no_link)
}

async fn greet(
    station: &Station,
    way: &Way<'_>,
    Dialed { stream, address, began }: Dialed,
    (tls, tls_policy): (TlsUse, &'static str),
) -> Result<Link, (NoLink, Option<TlsFailure>)> {
    let name = &way.host.host;
    station.observed.metrics.delivery_connections_total.add(1);
    let pool = Rc::clone(&station.pool);
    let times = timeouts(way.policy);
    let mut channel = Channel::plain(stream);
    let begins_with_tls = way.hop.protocol == HopProtocol::Smtps;
    if begins_with_tls {
        channel.stream().deadline().set_in(times.starttls);
        if let Err(cause) = secure(station, way, &mut channel, &pool).await {
            return Err(not_greeted(station, way, address, (&Fault::TlsFailed, Some(&cause))));
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
        secure(station, way, channel, pool).await
    };
    if let Err(fault) = transfer.handshake(start_tls).await {
        return Err(not_greeted(station, way, address, (&fault, transfer.transport_fault())));
    }
    let connect_us = began.elapsed().as_micros() as u64;
    station.histograms.record(Stage::Connect, connect_us);
    let facts = transfer.channel().tls_facts();
    station.observed.metrics.delivery_tls_total.add(proven(facts), 1);
    if tls != TlsUse::Never {
        station.trust.count_session(way.hop, name, way.terms, facts);
    }
    let host = way.host.name().into();
    Ok(Link { transfer, host, address, connect_us, tls_policy, sent: 0 })
}

/// Begins TLS and shakes hands.
async fn secure(
    station: &Station,
    way: &Way<'_>,
    channel: &mut Channel<Stream>,
    pool: &ChunkPool,
) -> Result<(), SocketFault> {
    channel.start_tls_client(station.trust.client(), &way.host.host, way.terms.check.clone())?;
    let began = Instant::now();
    channel.handshake(pool, None).await?;
    station.histograms.record(Stage::DeliveryTls, began.elapsed().as_micros() as u64);
    Ok(())
}

fn not_greeted(
    station: &Station,
    way: &Way<'_>,
    address: Option<SocketAddr>,
    (fault, cause): (&Fault, Option<&SocketFault>),
) -> (NoLink, Option<TlsFailure>) {
    let failure = tls_failure(fault, cause);
    if failure.is_some() {
        station.observed.metrics.delivery_tls_failures_total.add(1);
        station.trust.count_failure(way.hop, &way.host.host, way.terms, cause);
    }
    let lack = cause.and_then(own_limit);
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    let text = match own_words(fault) {
        Some(words) => words,
        None => format!("{}: {fault}{cause}", way.told(address)),
    };
    let kind = lack.map_or_else(|| kind_of(fault), FailureKind::Ours);
    (NoLink::new(&way.host.name(), kind, text), failure)
}

/// What this machine lacked, if that was the cause.
pub fn own_limit(cause: &SocketFault) -> Option<OurLimit> {
    match cause {
        SocketFault::Io(fault) => fault.is_own_limit().then(|| lack_of(*fault)),
        SocketFault::Tls(fault) => (*fault == TlsFault::NoChunk).then_some(OurLimit::Memory),
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

pub fn verdict_of(facts: Option<&TlsFacts>) -> Option<Verdict> {
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
    let (times, standard) = (&policy.timeouts, ClientTimeouts::default());
    ClientTimeouts {
        // An operator may grant the last reply more time than a whole mail usually has.
        transfer: standard.transfer.max(2 * times.data_end),
        transfer_per_kib: standard.transfer_per_kib,
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
    }
}

/// What a server has said that refuses us: by that it is judged.
pub fn own_words(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Refused { reply, .. } => Some(reply.in_one_line()),
        _ => None,
    }
}

pub fn kind_of(fault: &Fault) -> FailureKind {
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
