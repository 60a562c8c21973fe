//! A routing rule: its conditions, and whether they hold for a recipient.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::route::destination::OutboundTls;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;
use crate::route::header_match::HeaderMatch;
use crate::route::membership::BadEntry;
use crate::route::membership::DOMAIN_BYTES_MAX;
use crate::route::next_hop::NextHop;
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

/// The next hop of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNext {
    /// To the mail exchangers of the recipient's domain, or to the host of its literal.
    RecipientDomain,
    To(NextHop),
}

/// A rule as configured. An empty list matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    pub name: String,
    /// See `DomainIndex` for the syntax.
    pub recipient_domains: Vec<String>,
    pub sender_domains: Vec<String>,
    pub listeners: Vec<String>,
    /// Case-sensitive.
    pub tenants: Vec<String>,
    pub campaigns: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub next: RouteNext,
    pub tls: Option<OutboundTls>,
    pub auth: Option<Arc<Credentials>>,
    pub pool: Option<PoolId>,
    pub max_age: Option<Duration>,
}

/// An invalid entry of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteProblem {
    pub rule: Box<str>,
    pub entry: BadEntry,
}

impl fmt::Display for RouteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}: {}", self.rule, self.entry)
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

#[derive(Clone, Debug)]
pub(in crate::route) struct Rule {
    pub(in crate::route) settings: RouteSettings,
    pub(in crate::route) senders: DomainIndex,
}

impl Rule {
    fn fits_sender(&self, sender_domain: Option<&str>) -> bool {
        let is_named = |domain: &str| {
            let mut room = [0; DOMAIN_BYTES_MAX];
            normalize(domain, &mut room).is_some_and(|domain| self.senders.contains(domain))
        };
        self.senders.is_empty() || sender_domain.is_some_and(is_named)
    }

    fn fits_headers(&self, fields: &[(&str, &str)]) -> bool {
        let headers = &self.settings.headers;
        headers.is_empty() || headers.iter().any(|one| one.holds(fields))
    }

    /// Tests all conditions except that on the recipient's domain, in the order of `explain`.
    pub(in crate::route) fn fit(&self, question: &RouteQuestion<'_>) -> RuleFit {
        let settings = &self.settings;
        match () {
            () if !self.fits_sender(question.sender_domain) => RuleFit::SenderDomain,
            () if !is_among(&settings.listeners, question.listener) => RuleFit::Listener,
            () if !is_among(&settings.tenants, question.tenant) => RuleFit::Tenant,
            () if !is_among(&settings.campaigns, question.campaign) => RuleFit::Campaign,
            () if !self.fits_headers(question.headers) => RuleFit::Header,
            () => RuleFit::Fits,
        }
    }

    /// As `fit`, with the condition on the recipient's domain first.
    pub(in crate::route) fn fit_with_recipient(
        &self,
        domain: &str,
        question: &RouteQuestion<'_>,
    ) -> RuleFit {
        let recipients = &self.settings.recipient_domains;
        let recipients = DomainIndex::of(recipients).expect("`build` refuses invalid entries");
        match recipients.is_empty() || recipients.contains(domain) {
            true => self.fit(question),
            false => RuleFit::RecipientDomain,
        }
    }
}

/// Whether the list is empty or contains the name.
fn is_among(list: &[String], name: Option<&str>) -> bool {
    list.is_empty() || name.is_some_and(|name| list.iter().any(|one| one == name))
}
