//! The servers of a next hop, in their order, and what it means that there are none.

use crate::handoff::frame::HostNames;
use crate::net::resolver::DnsFault;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::RequireTls;
use crate::route::delivery::DeliveryPolicy;

/// The servers of a next hop, most preferred first.
pub(super) struct Servers {
    pub(super) domain: Box<str>,
    pub(super) hosts: Vec<HostPort>,
    /// All names, sorted.
    pub(super) known_by: Box<[Box<str>]>,
    pub(super) protocol: HopProtocol,
    pub(super) names: HostNames,
}

/// Why there are no servers.
#[derive(Debug)]
pub(super) enum Unresolved {
    Dns(DnsFault),
    /// This server is the most preferred mail exchanger.
    OnlyUs,
    /// The MTA-STS policy of the domain could not be fetched yet.
    NoPolicy,
}

impl From<DnsFault> for Unresolved {
    fn from(fault: DnsFault) -> Unresolved {
        Unresolved::Dns(fault)
    }
}

/// The sender's demand for TLS at these hosts. Mail to Unix sockets never leaves the machine and so
/// meets it.
pub(super) fn demanded(require_tls: RequireTls, hosts: &[HostPort]) -> RequireTls {
    match hosts.iter().all(|host| host.unix_path().is_some()) {
        true => RequireTls::No,
        false => require_tls,
    }
}

/// Whether a mail exchanger has our name. Mail that leaves through a proxy leaves from another
/// machine, whose name another server of ours may have.
pub(super) fn is_us(hostname: &str, policy: &DeliveryPolicy, host: &str) -> bool {
    let direct = policy.sources.sources().iter().filter(|source| source.proxy.is_none());
    let sources = direct.map(|source| &*source.ehlo_name);
    let mut names = [hostname, &*policy.ehlo_name].into_iter().chain(sources);
    let host = host.trim_end_matches('.');
    names.any(|name| name.eq_ignore_ascii_case(host))
}

/// The mail exchangers that are preferred to us, if we are one: the others would send the mail back to
/// us (RFC 5321 s5.1).
pub(super) fn without_us(
    mut hosts: Vec<(u16, Box<str>)>,
    is_us: impl Fn(&str) -> bool,
) -> Vec<(u16, Box<str>)> {
    let ours = hosts.iter().filter(|(_, host)| is_us(host)).map(|(preference, _)| *preference);
    if let Some(ours) = ours.min() {
        hosts.retain(|(preference, _)| *preference < ours);
    }
    hosts
}
