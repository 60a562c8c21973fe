//! The greeting of one address of a host: EHLO, TLS and the login, and what is told if it fails.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::ChunkPool;
use crate::base::fault::Blame;
use crate::delivery::dial::DialFault;
use crate::delivery::failure::FailureKind;
use crate::delivery::link::Link;
use crate::delivery::link::NoLink;
use crate::delivery::link::Station;
use crate::delivery::link::kind_of;
use crate::delivery::link::own_limit;
use crate::delivery::link::own_words;
use crate::delivery::trust::Terms;
use crate::handoff::frame::Hop;
use crate::net::Channel;
use crate::net::SocketFault;
use crate::net::TlsFacts;
use crate::net::TlsFault;
use crate::net::Verdict;
use crate::net::transfer::ClientTimeouts;
use crate::net::transfer::Transfer;
use crate::observe::Stage;
use crate::observe::label::DeliveryTls;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::Source;
use crate::route::TlsFailure;
use crate::route::delivery::DeliveryPolicy;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::wire::smtp::client::Client;
use crate::wire::smtp::client_login::Login;
use crate::wire::smtp::client_step::ClientConfig;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::TlsUse;

/// One host, and how it is reached.
pub(super) struct Way<'w> {
    pub(super) hop: &'w Hop,
    pub(super) host: &'w HostPort,
    pub(super) terms: &'w Terms,
    pub(super) source: Option<&'w Source>,
    pub(super) ehlo_name: &'w str,
    pub(super) policy: &'w DeliveryPolicy,
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

    pub(super) fn not_dialed(&self, address: SocketAddr, fault: &DialFault) -> NoLink {
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
pub(super) struct Dialed {
    pub(super) stream: Stream,
    pub(super) address: Option<SocketAddr>,
    pub(super) began: Instant,
}

pub(super) async fn greet(
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
    let source = way.source.map(|source| source.name.as_ref().into());
    Ok(Link { transfer, host, address, source, connect_us, tls_policy, sent: 0 })
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

fn proven(facts: Option<&TlsFacts>) -> DeliveryTls {
    match facts.and_then(TlsFacts::verdict) {
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

/// A short body goes out together with its envelope where the server takes BDAT.
const CHUNK_AHEAD_BYTES_MAX: u64 = 32 << 10;
