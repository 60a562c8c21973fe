//! The way to a host that takes the mail of a hop: its names, its addresses, the first greeting.
//!
//! Order:    hosts by preference, addresses of a host by family; the first host that greets is used.
//! TLS:      only mail for which nobody requires TLS is tried again in clear text.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Instant;

use crate::delivery::dial;
use crate::delivery::dial::Parallel;
use crate::delivery::failure::FailureKind;
use crate::delivery::link::Link;
use crate::delivery::link::NoLink;
use crate::delivery::link::Station;
use crate::delivery::link::greet::Dialed;
use crate::delivery::link::greet::Way;
use crate::delivery::link::greet::greet;
use crate::delivery::trust;
use crate::delivery::trust::Terms;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::OurLimit;
use crate::net::Barred;
use crate::net::resolver::Family;
use crate::route::AfterFailure;
use crate::route::HostPort;
use crate::route::TlsDecision;
use crate::route::delivery::DeliveryPolicy;
use crate::rt;
use crate::wire::smtp::client_step::TlsUse;

/// Connects to the best host that is able to take the mail. If every host was reached but none is able,
/// returns the first, whose refusal bounces the mail.
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
        let (mut addresses, authentic) = match addresses(station, host, &policy).await {
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

/// What is told of several hosts. If this server could not ask one of them, nothing is known.
fn worse(last: Option<NoLink>, next: NoLink) -> Option<NoLink> {
    Some(last.filter(NoLink::is_ours).unwrap_or(next))
}

/// The addresses of one host, and whether DNSSEC vouches for them.
async fn addresses(
    station: &Station,
    host: &HostPort,
    policy: &DeliveryPolicy,
) -> Result<(Vec<SocketAddr>, bool), NoLink> {
    if host.unix_path().is_some() {
        return Ok((Vec::new(), false));
    }
    if let Ok(address) = host.host.parse::<IpAddr>() {
        return Ok((vec![SocketAddr::new(address, host.port)], false));
    }
    let found = station.resolver.addresses(&host.host, Family::Both).await.map_err(|fault| {
        let own = fault.is_own_limit();
        let kind = if own { FailureKind::Ours(OurLimit::Dns) } else { FailureKind::Resolve };
        NoLink::new(&host.host, kind, format!("{}: {fault}", host.host))
    })?;
    let v4: Vec<IpAddr> = found.v4.into_iter().map(IpAddr::V4).collect();
    let v6: Vec<IpAddr> = found.v6.into_iter().map(IpAddr::V6).collect();
    let all = match policy.prefer_ipv6 {
        true => dial::interleave(&v6, &v4),
        false => dial::interleave(&v4, &v6),
    };
    let addresses = all.into_iter().map(|address| SocketAddr::new(address, host.port));
    Ok((addresses.collect(), found.authentic))
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
