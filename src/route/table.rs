//! The routing table: the rule that decides where a recipient's mail goes.
//!
//! Promise:  the first rule whose conditions all hold decides; an omitted condition always holds. If
//!           no rule matches, the mail goes to the mail exchangers of the recipient's domain.
//!           `explain` and `next_hop` agree; a test compares them.
//! Cost:     addresses, domains and subdomains are found by hash, independent of the number of rules; patterns
//!           and rules without a condition on the recipient are tested one by one. Only the name of
//!           the recipient's own domain is allocated.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Class;
use crate::config::NextHop;
use crate::config::OutboundTls;
use crate::config::RouteConfig;
use crate::config::RouteNext;
use crate::config::delivery::domain::literal_of;
use crate::config::delivery::domain::parse_literal;
use crate::route::domain_index::DOMAIN_BYTES_MAX;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;
use crate::route::rule::ADDRESS_BYTES_MAX;
use crate::route::rule::Credentials;
use crate::route::rule::RouteQuestion;
use crate::route::rule::Rule;
use crate::route::rule::RuleFit;
use crate::route::rule::address_in;
use crate::route::source::PoolId;

pub use crate::config::delivery::next_hop::PORT_SMTP;

/// The reason in the bounce for a recipient whose domain is not valid.
const BAD_DOMAIN_TEXT: &str = "The recipient's domain name is invalid";

/// The routing decision for a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChoice<'t> {
    /// The name of the rule that matched.
    pub rule: Option<&'t str>,
    pub next_hop: Cow<'t, NextHop>,
    /// Overrides the TLS level of the destination.
    pub tls: Option<OutboundTls>,
    /// Credentials for the servers of the rule; sent only under TLS.
    pub auth: Option<&'t Arc<Credentials>>,
    /// `None`: the system chooses the source address.
    pub pool: Option<PoolId>,
    pub max_age: Duration,
    /// `None`: the class follows from the stream of the mail.
    pub class: Option<Class>,
    pub fallback: Option<Fallback<'t>>,
}

/// Where mail goes once delivery to the next hop has failed for so long. `RouteTable::rerouted`
/// makes it a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback<'t> {
    pub next: &'t RouteNext,
    pub after: Duration,
}

/// The defaults for recipients without a matching rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStandard {
    /// The domain of the bare `Postmaster`.
    pub own_domain: Box<str>,
    pub pool: Option<PoolId>,
    pub max_age: Duration,
}

/// All rules in order, as one immutable snapshot.
#[derive(Clone, Debug)]
pub struct RouteTable {
    rules: Vec<Rule>,
    /// Rules that name recipients.
    by_address: HashMap<Box<str>, Vec<u32>>,
    /// Rules that name domains of recipients and no addresses.
    by_recipient: DomainIndex,
    /// Rules without a condition on the recipient.
    for_all: Vec<u32>,
    standard: RouteStandard,
    unusable: NextHop,
}

impl RouteTable {
    pub fn build(rules: Vec<Rule>, standard: RouteStandard) -> RouteTable {
        let (mut by_recipient, mut for_all) = (DomainIndex::default(), Vec::new());
        let mut by_address: HashMap<Box<str>, Vec<u32>> = HashMap::new();
        for (number, rule) in (0..).zip(&rules) {
            let route = &rule.route;
            for address in &route.recipient {
                by_address.entry(address.as_ref().into()).or_default().push(number);
            }
            match route.recipient.is_empty() {
                true if route.recipient_domain.is_empty() => for_all.push(number),
                true => by_recipient.insert_all(route.recipient_domain.iter().cloned(), number),
                false => {}
            }
        }
        let unusable = NextHop::Reject { text: BAD_DOMAIN_TEXT.into() };
        RouteTable { rules, by_address, by_recipient, for_all, standard, unusable }
    }

    /// The route for a recipient.
    pub fn next_hop(&self, question: &RouteQuestion<'_>) -> RouteChoice<'_> {
        let mut room = [0; DOMAIN_BYTES_MAX];
        let Some(domain) = self.domain_of(question, &mut room) else {
            return self.choice(None, Cow::Borrowed(&self.unusable));
        };
        let rule = self.first(domain, question);
        let next_hop = match rule.map(|rule| &rule.route.next) {
            Some(RouteNext::To(next_hop)) => Cow::Borrowed(next_hop),
            None | Some(RouteNext::RecipientDomain) => match next_of(domain) {
                Some(next_hop) => Cow::Owned(next_hop),
                None => Cow::Borrowed(&self.unusable),
            },
        };
        self.choice(rule, next_hop)
    }

    /// As `next_hop`, but with a next hop that an operator has set. Credentials and pool come from a
    /// rule with the same next hop, preferably the recipient's own rule: a password may only be sent
    /// to the servers of its rule, for mail that meets the other conditions of that rule. A TLS level
    /// that the recipient's own rule requires stays required, as do its class and maximum age.
    pub fn rerouted<'t>(
        &'t self,
        question: &RouteQuestion<'_>,
        next: &RouteNext,
    ) -> RouteChoice<'t> {
        let routed = self.next_hop(question);
        let mut room = [0; DOMAIN_BYTES_MAX];
        let next_hop = match next {
            RouteNext::To(next_hop) => Cow::Owned(next_hop.clone()),
            RouteNext::RecipientDomain => {
                let own = self.domain_of(question, &mut room).and_then(next_of);
                own.map_or(Cow::Borrowed(&self.unusable), Cow::Owned)
            }
        };
        let goes_there = |rule: &&Rule| rule.route.next == *next;
        let own = self.rules.iter().find(|rule| routed.rule == Some(rule.route.name.as_str()));
        let other = || match next {
            RouteNext::To(_) => {
                let fits = |rule: &&Rule| rule.fit(question) == RuleFit::Fits;
                self.rules.iter().filter(goes_there).find(fits)
            }
            RouteNext::RecipientDomain => None,
        };
        let rule = own.filter(goes_there).or_else(other);
        let choice = self.choice(rule, next_hop);
        let pool = rule.and_then(|rule| rule.pool).or(routed.pool);
        let tls = choice.tls.max(routed.tls.filter(|mode| *mode >= OutboundTls::Must));
        let (max_age, class) = (routed.max_age, routed.class);
        RouteChoice { tls, pool, max_age, class, fallback: None, ..choice }
    }

    /// Whether recipients of one domain may have different routes.
    pub fn names_recipients(&self) -> bool {
        !self.by_address.is_empty()
    }

    /// All rules up to the one that decides, each with the reason why it matches or not. For
    /// operators: slower than `next_hop`.
    pub fn explain<'t>(&'t self, question: &RouteQuestion<'_>) -> Vec<(&'t RouteConfig, RuleFit)> {
        let mut room = [0; DOMAIN_BYTES_MAX];
        let Some(domain) = self.domain_of(question, &mut room) else { return Vec::new() };
        let mut found = Vec::new();
        for rule in &self.rules {
            let fit = rule.fit_with_recipient(domain, question);
            found.push((&rule.route, fit));
            if fit == RuleFit::Fits {
                break;
            }
        }
        found
    }

    pub fn standard(&self) -> &RouteStandard {
        &self.standard
    }

    fn domain_of<'r>(
        &self,
        question: &RouteQuestion<'_>,
        room: &'r mut [u8; DOMAIN_BYTES_MAX],
    ) -> Option<&'r str> {
        match question.recipient_domain {
            "" => normalize(&self.standard.own_domain, room),
            domain => normalize(domain, room),
        }
    }

    fn first(&self, domain: &str, question: &RouteQuestion<'_>) -> Option<&Rule> {
        let fits = |number: u32| self.rules[number as usize].fit(question) == RuleFit::Fits;
        let named = self.by_recipient.first(domain, fits);
        let sooner = |number: &&u32| named.is_none_or(|named| **number < named);
        let for_all = self.for_all.iter().take_while(sooner).find(|number| fits(**number)).copied();
        let found = for_all.or(named);
        let first = match self.by_address.is_empty() {
            true => found,
            false => self.first_named(domain, question).into_iter().chain(found).min(),
        };
        first.map(|number| &self.rules[number as usize])
    }

    /// The first rule that names the recipient's address.
    fn first_named(&self, domain: &str, question: &RouteQuestion<'_>) -> Option<u32> {
        let mut room = [0; ADDRESS_BYTES_MAX];
        let address = address_in(&mut room, question.recipient_local, domain)?;
        let mut numbers = self.by_address.get(address)?.iter().copied();
        numbers.find(|number| self.rules[*number as usize].fits_named(domain, question))
    }

    fn choice<'t>(&'t self, rule: Option<&'t Rule>, next_hop: Cow<'t, NextHop>) -> RouteChoice<'t> {
        let route = rule.map(|rule| &rule.route);
        RouteChoice {
            rule: route.map(|route| route.name.as_str()),
            next_hop,
            tls: route.and_then(|route| route.tls),
            auth: rule.and_then(|rule| rule.auth.as_ref()),
            pool: rule.and_then(|rule| rule.pool).or(self.standard.pool),
            max_age: route.and_then(|route| route.max_age).unwrap_or(self.standard.max_age),
            class: route.and_then(|route| route.class),
            fallback: route.and_then(|route| {
                route.fallback.as_ref().map(|next| Fallback { next, after: route.fallback_after })
            }),
        }
    }
}

/// The default next hop for a normalised domain: RFC 5321 s5.1. An address literal (s4.1.3) is its
/// own only host.
fn next_of(domain: &str) -> Option<NextHop> {
    let mx = |domain: Box<str>| NextHop::Mx { domain, port: PORT_SMTP };
    if domain.starts_with('[') {
        return parse_literal(domain).map(|address| mx(literal_of(address).into()));
    }
    let is_name = !domain.is_empty() && domain.split('.').all(|label| !label.is_empty());
    is_name.then(|| mx(domain.into()))
}

#[cfg(test)]
mod tests;
