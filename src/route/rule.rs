//! A routing rule: its conditions, and whether they hold for a recipient.

use std::fmt;
use std::sync::Arc;

use crate::config::RouteConfig;
use crate::route::domain_index::DOMAIN_BYTES_MAX;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;
use crate::route::source::PoolId;

/// The properties of a recipient and its message that rules can test.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuestion<'q> {
    /// As in the address: in any case, with A-labels or U-labels, or a literal with its brackets.
    /// Empty for the bare `Postmaster`, who is at our own domain.
    pub recipient_domain: &'q str,
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
}

impl Rule {
    pub fn new(route: RouteConfig, auth: Option<Arc<Credentials>>, pool: Option<PoolId>) -> Rule {
        let senders = DomainIndex::of(route.sender_domain.iter().cloned());
        Rule { route, auth, pool, senders }
    }

    fn fits_sender(&self, sender_domain: Option<&str>) -> bool {
        let is_named = |domain: &str| {
            let mut room = [0; DOMAIN_BYTES_MAX];
            normalize(domain, &mut room).is_some_and(|domain| self.senders.contains(domain))
        };
        self.senders.is_empty() || sender_domain.is_some_and(is_named)
    }

    fn fits_headers(&self, fields: &[(&str, &str)]) -> bool {
        let headers = &self.route.headers;
        headers.is_empty() || headers.iter().any(|one| one.holds(fields))
    }

    /// Tests all conditions except that on the recipient's domain, in the order of `explain`.
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

    /// As `fit`, with the condition on the recipient's domain first.
    pub(super) fn fit_with_recipient(&self, domain: &str, question: &RouteQuestion<'_>) -> RuleFit {
        let recipients = DomainIndex::of(self.route.recipient_domain.iter().cloned());
        match recipients.is_empty() || recipients.contains(domain) {
            true => self.fit(question),
            false => RuleFit::RecipientDomain,
        }
    }
}

/// Whether the list is empty or contains the name.
fn is_among<T: AsRef<str>>(list: &[T], name: Option<&str>) -> bool {
    list.is_empty() || name.is_some_and(|name| list.iter().any(|one| one.as_ref() == name))
}
