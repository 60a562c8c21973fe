//! A routing rule: its conditions, and whether they hold for a recipient.

use std::fmt;
use std::sync::Arc;

use crate::config::RouteConfig;
use crate::route::domain_index::DOMAIN_BYTES_MAX;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;
use crate::route::source::PoolId;

/// A local part has 64 bytes at most (RFC 5321 s4.5.3.1.1); some are longer.
pub(super) const ADDRESS_BYTES_MAX: usize = 2 * DOMAIN_BYTES_MAX;

/// The properties of a recipient and its message that rules can test.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuestion<'q> {
    /// As in the address: in any case, with A-labels or U-labels, or a literal with its brackets.
    /// Empty for the bare `Postmaster`, who is at our own domain.
    pub recipient_domain: &'q str,
    /// The part before the domain.
    pub recipient_local: &'q str,
    /// `None` for the null sender.
    pub sender_domain: Option<&'q str>,
    /// `None` for mail of our own, such as a bounce.
    pub listener: Option<&'q str>,
    pub tenant: Option<&'q str>,
    pub campaign: Option<&'q str>,
    /// Names and values of the header fields that rules refer to.
    pub headers: &'q [(&'q str, &'q str)],
}

/// User name and password for a remote server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub user: Box<str>,
    pub password: Box<str>,
}

impl fmt::Debug for Credentials {
    /// Omits the password, because debug output may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Whether a rule matches a recipient, or the first condition that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleFit {
    Fits,
    RecipientDomain,
    Recipient,
    SenderDomain,
    Listener,
    Tenant,
    Campaign,
    Header,
}

/// A route of the config, with its credentials and its pool. A condition without entries always holds.
#[derive(Clone, Debug)]
pub struct Rule {
    pub route: RouteConfig,
    pub auth: Option<Arc<Credentials>>,
    pub pool: Option<PoolId>,
    senders: DomainIndex,
    /// Only of a rule that names recipients: others are found by their domains.
    domains: DomainIndex,
}

impl Rule {
    pub fn new(route: RouteConfig, auth: Option<Arc<Credentials>>, pool: Option<PoolId>) -> Rule {
        let senders = DomainIndex::of(route.sender_domain.iter().cloned());
        let domains = route.recipient_domain.iter().filter(|_| !route.recipient.is_empty());
        let domains = DomainIndex::of(domains.cloned());
        Rule { route, auth, pool, senders, domains }
    }

    /// Tests all conditions of a rule that was found by the recipient's address.
    pub(super) fn fits_named(&self, domain: &str, question: &RouteQuestion<'_>) -> bool {
        let is_here = self.domains.is_empty() || self.domains.has(domain);
        is_here && self.fit(question) == RuleFit::Fits
    }

    fn fits_sender(&self, sender_domain: Option<&str>) -> bool {
        let is_named = |domain: &str| {
            let mut room = [0; DOMAIN_BYTES_MAX];
            normalize(domain, &mut room).is_some_and(|domain| self.senders.has(domain))
        };
        self.senders.is_empty() || sender_domain.is_some_and(is_named)
    }

    fn fits_headers(&self, fields: &[(&str, &str)]) -> bool {
        let headers = &self.route.headers;
        headers.is_empty() || headers.iter().any(|one| one.holds(fields))
    }

    /// Tests all conditions except those on the recipient, in the order of `explain`.
    pub(super) fn fit(&self, question: &RouteQuestion<'_>) -> RuleFit {
        let route = &self.route;
        match () {
            () if !self.fits_sender(question.sender_domain) => RuleFit::SenderDomain,
            () if !is_among(&route.listener, question.listener) => RuleFit::Listener,
            () if !is_among(&route.tenants, question.tenant) => RuleFit::Tenant,
            () if !is_among(&route.campaigns, question.campaign) => RuleFit::Campaign,
            () if !self.fits_headers(question.headers) => RuleFit::Header,
            () => RuleFit::Fits,
        }
    }

    /// As `fit`, with the conditions on the recipient first.
    pub(super) fn fit_with_recipient(&self, domain: &str, question: &RouteQuestion<'_>) -> RuleFit {
        let domains = DomainIndex::of(self.route.recipient_domain.iter().cloned());
        let mut room = [0; ADDRESS_BYTES_MAX];
        let address = address_in(&mut room, question.recipient_local, domain);
        match () {
            () if !domains.is_empty() && !domains.has(domain) => RuleFit::RecipientDomain,
            () if !is_among(&self.route.recipient, address) => RuleFit::Recipient,
            () => self.fit(question),
        }
    }
}

/// An address in lower case, as rules name it. `None`: it is too long for any rule.
pub(super) fn address_in<'r>(
    room: &'r mut [u8; ADDRESS_BYTES_MAX],
    local: &str,
    domain: &str,
) -> Option<&'r str> {
    let bytes = local.len() + 1 + domain.len();
    let address = room.get_mut(..bytes)?;
    address[..local.len()].copy_from_slice(local.as_bytes());
    address[..local.len()].make_ascii_lowercase();
    address[local.len()] = b'@';
    address[local.len() + 1..].copy_from_slice(domain.as_bytes());
    str::from_utf8(address).ok()
}

/// Whether the list is empty or contains the name.
fn is_among<T: AsRef<str>>(list: &[T], name: Option<&str>) -> bool {
    list.is_empty() || name.is_some_and(|name| list.iter().any(|one| one.as_ref() == name))
}
