//! Which rule decides where a recipient's mail goes.
//!
//! Promise:  the first rule of which all conditions hold decides; a condition that is left out always
//!           holds; without such a rule it is the mail exchangers of the recipient's domain. What
//!           `explain` says is what `next_hop` does; a test compares them.
//! Cost:     exact domains and trees are found by hash, whatever the number of rules; patterns, and
//!           rules for every recipient, are gone through. Nothing is allocated but the domain of
//!           its own mail exchangers.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::route::destination::OutboundTls;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::settle;
use crate::route::header_match::HeaderMatch;
use crate::route::membership::BadEntry;
use crate::route::membership::DOMAIN_BYTES_MAX;
use crate::route::membership::parse_literal;
use crate::route::next_hop::HopProtocol;
use crate::route::next_hop::HostPort;
use crate::route::next_hop::NextHop;
use crate::route::source::PoolId;

/// SMTP between servers.
pub const PORT_SMTP: u16 = 25;

/// What the sender of mail to such a recipient is told.
const BAD_DOMAIN_TEXT: &str = "The recipient's domain is not a domain";

/// A recipient of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuestion<'q> {
    /// As the address has it: in any case, with A-labels or U-labels, or a literal with its
    /// brackets. Empty for the bare postmaster, who is at our own domain.
    pub recipient_domain: &'q str,
    /// None for the null sender.
    pub sender_domain: Option<&'q str>,
    /// None for mail that came in by none, such as a bounce.
    pub listener: Option<&'q str>,
    pub tenant: Option<&'q str>,
    pub campaign: Option<&'q str>,
    /// Names and values of the header fields that are known of the message.
    pub headers: &'q [(&'q str, &'q str)],
}

/// What becomes of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChoice<'t> {
    /// The name of the rule; none if no rule was for it.
    pub rule: Option<&'t str>,
    pub next_hop: Cow<'t, NextHop>,
    /// Instead of what the destination says.
    pub tls: Option<OutboundTls>,
    /// Who we say we are at the servers of the rule; then TLS stands first.
    pub auth: Option<&'t Arc<Credentials>>,
    /// None lets the system choose the address.
    pub pool: Option<PoolId>,
    pub max_age: Duration,
}

/// A user at somebody else's server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub user: Box<str>,
    pub password: Box<str>,
}

impl fmt::Debug for Credentials {
    /// Without the password: what is printed may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a rule sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNext {
    /// To the mail exchangers of the recipient's domain, or to the host of its literal.
    RecipientDomain,
    To(NextHop),
}

/// A rule as the operator wrote it. An empty list always holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    pub name: String,
    /// See `DomainIndex` for how they are written.
    pub recipient_domains: Vec<String>,
    pub sender_domains: Vec<String>,
    pub listeners: Vec<String>,
    /// Case counts.
    pub tenants: Vec<String>,
    pub campaigns: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub next: RouteNext,
    pub tls: Option<OutboundTls>,
    pub auth: Option<Arc<Credentials>>,
    pub pool: Option<PoolId>,
    pub max_age: Option<Duration>,
}

/// What holds where no rule says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStandard {
    /// Where the bare postmaster is.
    pub own_domain: Box<str>,
    pub pool: Option<PoolId>,
    pub max_age: Duration,
}

/// What is wrong with a rule.
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

/// Why a rule is or is not for a recipient: the first condition that does not hold.
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

/// All rules in their order, as one immutable snapshot.
#[derive(Clone, Debug)]
pub struct RouteTable {
    rules: Vec<Rule>,
    by_recipient: DomainIndex,
    /// Rules without a condition on the recipient.
    for_all: Vec<u32>,
    standard: RouteStandard,
    unusable: NextHop,
}

#[derive(Clone, Debug)]
struct Rule {
    settings: RouteSettings,
    senders: DomainIndex,
}

impl Rule {
    fn fits_sender(&self, sender_domain: Option<&str>) -> bool {
        let is_named = |domain: &str| {
            let mut room = [0; DOMAIN_BYTES_MAX];
            settle(domain, &mut room).is_some_and(|domain| self.senders.contains(domain))
        };
        self.senders.is_empty() || sender_domain.is_some_and(is_named)
    }

    fn fits_headers(&self, fields: &[(&str, &str)]) -> bool {
        let headers = &self.settings.headers;
        headers.is_empty() || headers.iter().any(|one| one.holds(fields))
    }

    /// All conditions but that on the recipient, in the order in which they are explained.
    fn fit(&self, question: &RouteQuestion<'_>) -> RuleFit {
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
}

impl RouteTable {
    /// The snapshot, or all entries that mean nothing.
    pub fn build(
        settings: Vec<RouteSettings>,
        standard: RouteStandard,
    ) -> Result<RouteTable, Vec<RouteProblem>> {
        let mut table = RouteTable {
            rules: Vec::with_capacity(settings.len()),
            by_recipient: DomainIndex::default(),
            for_all: Vec::new(),
            standard,
            unusable: NextHop::Reject { text: BAD_DOMAIN_TEXT.into() },
        };
        let mut problems = Vec::new();
        for (number, settings) in (0..).zip(settings) {
            let mut bad = table.by_recipient.insert_all(&settings.recipient_domains, number);
            if settings.recipient_domains.is_empty() {
                table.for_all.push(number);
            }
            let mut senders = DomainIndex::default();
            bad.extend(senders.insert_all(&settings.sender_domains, 0));
            let problem = |entry| RouteProblem { rule: settings.name.as_str().into(), entry };
            problems.extend(bad.into_iter().map(problem));
            table.rules.push(Rule { settings, senders });
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    /// Where the mail of a recipient goes.
    pub fn next_hop(&self, question: &RouteQuestion<'_>) -> RouteChoice<'_> {
        let mut room = [0; DOMAIN_BYTES_MAX];
        let Some(domain) = self.domain_of(question, &mut room) else {
            return self.choice(None, Cow::Borrowed(&self.unusable));
        };
        let rule = self.first(domain, question);
        let next_hop = match rule.map(|rule| &rule.settings.next) {
            Some(RouteNext::To(next_hop)) => Cow::Borrowed(next_hop),
            None | Some(RouteNext::RecipientDomain) => match next_of(domain) {
                Some(next_hop) => Cow::Owned(next_hop),
                None => Cow::Borrowed(&self.unusable),
            },
        };
        self.choice(rule, next_hop)
    }

    /// As `next_hop`, but an operator says where to. User and pool are those of a rule that sends
    /// there too, the recipient's own first: a password is for the servers it stands beside, and
    /// for the mail that meets the rule's other conditions. TLS that the recipient's own rule
    /// demands is demanded there too.
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
        let goes_there = |rule: &&Rule| rule.settings.next == *next;
        let own = self.rules.iter().find(|rule| routed.rule == Some(rule.settings.name.as_str()));
        let other = || match next {
            RouteNext::To(_) => {
                let fits = |rule: &&Rule| rule.fit(question) == RuleFit::Fits;
                self.rules.iter().filter(goes_there).find(fits)
            }
            RouteNext::RecipientDomain => None,
        };
        let rule = own.filter(goes_there).or_else(other);
        let choice = self.choice(rule, next_hop);
        let pool = rule.and_then(|rule| rule.settings.pool).or(routed.pool);
        let tls = choice.tls.max(routed.tls.filter(|mode| *mode >= OutboundTls::Must));
        RouteChoice { tls, pool, max_age: routed.max_age, ..choice }
    }

    /// Each rule in its order up to the one that decides, and why it is or is not for the
    /// recipient. For people: it takes its time.
    pub fn explain<'t>(
        &'t self,
        question: &RouteQuestion<'_>,
    ) -> Vec<(&'t RouteSettings, RuleFit)> {
        let mut room = [0; DOMAIN_BYTES_MAX];
        let Some(domain) = self.domain_of(question, &mut room) else { return Vec::new() };
        let mut found = Vec::new();
        for rule in &self.rules {
            let fit = fit(rule, domain, question);
            found.push((&rule.settings, fit));
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
            "" => settle(&self.standard.own_domain, room),
            domain => settle(domain, room),
        }
    }

    fn first(&self, domain: &str, question: &RouteQuestion<'_>) -> Option<&Rule> {
        let fits = |number: u32| self.rules[number as usize].fit(question) == RuleFit::Fits;
        let named = self.by_recipient.first(domain, fits);
        let sooner = |number: &&u32| named.is_none_or(|named| **number < named);
        let for_all = self.for_all.iter().take_while(sooner).find(|number| fits(**number)).copied();
        for_all.or(named).map(|number| &self.rules[number as usize])
    }

    fn choice<'t>(&'t self, rule: Option<&'t Rule>, next_hop: Cow<'t, NextHop>) -> RouteChoice<'t> {
        let settings = rule.map(|rule| &rule.settings);
        RouteChoice {
            rule: settings.map(|rule| rule.name.as_str()),
            next_hop,
            tls: settings.and_then(|rule| rule.tls),
            auth: settings.and_then(|rule| rule.auth.as_ref()),
            pool: settings.and_then(|rule| rule.pool).or(self.standard.pool),
            max_age: settings.and_then(|rule| rule.max_age).unwrap_or(self.standard.max_age),
        }
    }
}

fn fit(rule: &Rule, domain: &str, question: &RouteQuestion<'_>) -> RuleFit {
    let recipients = &rule.settings.recipient_domains;
    let recipients = DomainIndex::of(recipients).expect("`build` has refused what means nothing");
    match recipients.is_empty() || recipients.contains(domain) {
        true => rule.fit(question),
        false => RuleFit::RecipientDomain,
    }
}

/// Whether a list without a member, or with this one, is for it.
fn is_among(list: &[String], name: Option<&str>) -> bool {
    list.is_empty() || name.is_some_and(|name| list.iter().any(|one| one == name))
}

/// Where mail for a settled domain goes by itself: RFC 5321 s5.1, and s4.1.3 for a literal.
fn next_of(domain: &str) -> Option<NextHop> {
    if !domain.starts_with('[') {
        let is_name = !domain.is_empty() && domain.split('.').all(|label| !label.is_empty());
        return is_name.then(|| NextHop::Mx { domain: domain.into(), port: PORT_SMTP });
    }
    let address: IpAddr = parse_literal(domain)?;
    let host = HostPort { host: address.to_string().into(), port: PORT_SMTP };
    Some(NextHop::Hosts { hosts: Box::new([host]), protocol: HopProtocol::Smtp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::header_match::ValueMatch;

    const DAY: Duration = Duration::from_secs(86_400);

    fn standard() -> RouteStandard {
        RouteStandard { own_domain: "mx.ours.test".into(), pool: None, max_age: 5 * DAY }
    }

    /// A rule that holds to a smarthost of its own name.
    fn rule(
        name: &str,
        recipients: &[&str],
        senders: &[&str],
        listeners: &[&str],
    ) -> RouteSettings {
        let list = |entries: &[&str]| entries.iter().map(|entry| entry.to_string()).collect();
        let host = HostPort { host: name.into(), port: 2525 };
        RouteSettings {
            name: name.to_owned(),
            recipient_domains: list(recipients),
            sender_domains: list(senders),
            listeners: list(listeners),
            tenants: Vec::new(),
            campaigns: Vec::new(),
            headers: Vec::new(),
            next: RouteNext::To(NextHop::Hosts {
                hosts: Box::new([host]),
                protocol: HopProtocol::Smtp,
            }),
            tls: None,
            auth: None,
            pool: None,
            max_age: None,
        }
    }

    fn table(rules: Vec<RouteSettings>) -> RouteTable {
        RouteTable::build(rules, standard()).expect("the rules are good")
    }

    fn question<'q>(recipient: &'q str, sender: &'q str, listener: &'q str) -> RouteQuestion<'q> {
        let some = |text: &'q str| (!text.is_empty()).then_some(text);
        RouteQuestion {
            recipient_domain: recipient,
            sender_domain: some(sender),
            listener: some(listener),
            ..RouteQuestion::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let table = table(vec![
            rule("vip", &["vip.test", ".vip.test"], &[], &[]),
            rule("news", &[], &["news.ours.test", ".bulk.test"], &[]),
            rule("inner", &["*inner*"], &[], &["submission"]),
            rule("exact", &["a.inner.test"], &[], &[]),
            rule("literal", &["[192.0.2.1]"], &[], &[]),
            rule("rest", &["*.rest.test"], &[], &["smtp", "submission"]),
        ]);
        for (case, recipient, sender, listener, expected) in [
            ("exact", "vip.test", "x.test", "", Some("vip")),
            ("in any case", "VIP.Test", "news.ours.test", "", Some("vip")),
            ("tree", "a.b.vip.test", "", "", Some("vip")),
            ("sender", "far.test", "News.Ours.test", "", Some("news")),
            ("sender's tree", "far.test", "a.bulk.test", "", Some("news")),
            ("null sender", "far.test", "", "", None),
            ("pattern and listener", "a.inner.test", "", "submission", Some("inner")),
            ("another listener", "a.inner.test", "", "smtp", Some("exact")),
            ("no listener", "b.inner.test", "", "", None),
            ("literal", "[192.0.2.1]", "", "", Some("literal")),
            ("a mapped literal", "[IPv6:::FFFF:192.0.2.1]", "", "", Some("literal")),
            ("second listener", "x.rest.test", "", "submission", Some("rest")),
            ("a rule for all comes first", "x.rest.test", "a.bulk.test", "smtp", Some("news")),
        ] {
            let question = question(recipient, sender, listener);
            let choice = table.next_hop(&question);
            assert_eq!(choice.rule, expected, "{case}");
            let explained = table.explain(&question);
            let decided = explained.iter().find(|(_, fit)| *fit == RuleFit::Fits);
            assert_eq!(decided.map(|(rule, _)| rule.name.as_str()), expected, "{case}");
        }
    }

    #[test]
    fn labels_and_header_fields_decide_too() {
        let list = |entries: &[&str]| entries.iter().map(|one| one.to_string()).collect();
        let header = |name: &str, value| HeaderMatch { name: name.into(), value };
        let mut tenant = rule("tenant", &[], &[], &[]);
        tenant.tenants = list(&["acme", "Umbrella"]);
        tenant.campaigns = list(&["spring"]);
        let mut gold = rule("gold", &["far.test"], &[], &[]);
        gold.headers = vec![
            header("X-Pool", ValueMatch::Exact("gold".into())),
            header("X-Pool", ValueMatch::Start("plat".into())),
            header("X-Priority", ValueMatch::Any),
        ];
        let mut bulk = rule("bulk", &[], &[], &[]);
        bulk.campaigns = list(&["bulk"]);
        let table = table(vec![tenant, gold, bulk]);
        type Row<'r> =
            (&'r str, Option<&'r str>, Option<&'r str>, &'r [(&'r str, &'r str)], Option<&'r str>);
        let rows: &[Row<'_>] = &[
            ("both hold", Some("acme"), Some("spring"), &[], Some("tenant")),
            ("the other tenant", Some("Umbrella"), Some("spring"), &[], Some("tenant")),
            ("case counts", Some("umbrella"), Some("spring"), &[], None),
            ("one does not hold", Some("acme"), Some("summer"), &[], None),
            ("no campaign", Some("acme"), None, &[], None),
            ("a value", None, None, &[("x-pool", "gold")], Some("gold")),
            ("case of names does not count", None, None, &[("X-POOL", "gold")], Some("gold")),
            ("case of values does", None, None, &[("x-pool", "Gold")], None),
            ("more than the value", None, None, &[("x-pool", "golden")], None),
            ("a start", None, None, &[("x-pool", "platinum")], Some("gold")),
            ("any value", None, None, &[("x-priority", "")], Some("gold")),
            ("the first of a name", None, None, &[("x-pool", "a"), ("x-pool", "gold")], None),
            ("another field", None, None, &[("x-tool", "gold")], None),
            ("the next rule", Some("x"), Some("bulk"), &[("x-pool", "tin")], Some("bulk")),
        ];
        for (name, tenant, campaign, headers, expected) in rows {
            let question = RouteQuestion {
                recipient_domain: "far.test",
                tenant: *tenant,
                campaign: *campaign,
                headers,
                ..RouteQuestion::default()
            };
            assert_eq!(table.next_hop(&question).rule, *expected, "{name}");
            let explained = table.explain(&question);
            let decided = explained.iter().find(|(_, fit)| *fit == RuleFit::Fits);
            assert_eq!(decided.map(|(rule, _)| rule.name.as_str()), *expected, "{name}");
        }
        let question = RouteQuestion {
            recipient_domain: "far.test",
            tenant: Some("acme"),
            ..RouteQuestion::default()
        };
        let fits: Vec<RuleFit> = table.explain(&question).iter().map(|(_, fit)| *fit).collect();
        assert_eq!(fits, [RuleFit::Campaign, RuleFit::Header, RuleFit::Campaign]);
        let stranger = RouteQuestion { tenant: None, ..question };
        assert_eq!(table.explain(&stranger)[0].1, RuleFit::Tenant);
    }

    #[test]
    fn without_a_rule_the_domain_decides() {
        let table = table(Vec::new());
        for (domain, expected) in [
            ("Example.COM", "mx:example.com"),
            ("example.com.", "mx:example.com"),
            ("M\u{fc}nchen.example", "mx:xn--mnchen-3ya.example"),
            ("", "mx:mx.ours.test"),
            ("[192.0.2.1]", "smtp:192.0.2.1:25"),
            ("[IPv6:2001:DB8:0::1]", "smtp:[2001:db8::1]:25"),
            ("[ipv6:::ffff:192.0.2.1]", "smtp:192.0.2.1:25"),
            ("[x]", "reject:The recipient's domain is not a domain"),
            ("a..b", "reject:The recipient's domain is not a domain"),
            ("b\u{202e}ad.example", "reject:The recipient's domain is not a domain"),
        ] {
            let choice = table.next_hop(&question(domain, "", ""));
            assert_eq!(choice.next_hop.to_string(), expected, "{domain}");
            assert_eq!((choice.rule, choice.max_age), (None, 5 * DAY), "{domain}");
        }
    }

    #[test]
    fn a_rule_says_more_than_where() {
        let mut far = rule("far", &["far.test"], &[], &[]);
        far.tls = Some(OutboundTls::Verify);
        far.max_age = Some(DAY);
        let user = Credentials { user: "us".into(), password: "secret".into() };
        far.auth = Some(Arc::new(user));
        far.next = RouteNext::RecipientDomain;
        let mut held = rule("held", &[], &[], &[]);
        held.next = RouteNext::To(NextHop::Hold);
        let table = table(vec![far, held]);
        let choice = table.next_hop(&question("far.test", "", ""));
        assert_eq!((choice.tls, choice.max_age), (Some(OutboundTls::Verify), DAY));
        assert_eq!(choice.next_hop.to_string(), "mx:far.test");
        assert_eq!(choice.auth.map(|user| &*user.password), Some("secret"));
        let printed = format!("{choice:?} {table:?}");
        assert!(printed.contains("\"us\"") && !printed.contains("secret"), "{printed}");
        let choice = table.next_hop(&question("near.test", "", ""));
        assert_eq!((choice.rule, choice.next_hop.as_ref()), (Some("held"), &NextHop::Hold));
        assert!(matches!(choice.next_hop, Cow::Borrowed(_)), "nothing is copied");
    }

    /// All tables of three rules from a few conditions, against going through the rules.
    #[test]
    fn an_operator_says_where_to_and_a_password_stays_with_its_servers() {
        let user = Arc::new(Credentials { user: "us".into(), password: "secret".into() });
        let table = table(vec![
            RouteSettings {
                auth: Some(Arc::clone(&user)),
                tls: Some(OutboundTls::Verify),
                max_age: Some(DAY),
                ..rule("own", &["a.test"], &[], &[])
            },
            RouteSettings {
                auth: Some(Arc::clone(&user)),
                tls: Some(OutboundTls::Must),
                ..rule("other", &["b.test"], &[], &[])
            },
            RouteSettings {
                auth: Some(Arc::clone(&user)),
                ..rule("theirs", &["c.test"], &["theirs.test"], &[])
            },
        ]);
        let to = |host: &str| rule(host, &[], &[], &[]).next;
        let asked = question("a.test", "x.test", "");
        for (name, next, hop, tls, has_user) in [
            ("its own", to("own"), "smtp:own:2525", Some(OutboundTls::Verify), true),
            ("another's", to("other"), "smtp:other:2525", Some(OutboundTls::Verify), true),
            (
                "another sender's",
                to("theirs"),
                "smtp:theirs:2525",
                Some(OutboundTls::Verify),
                false,
            ),
            ("a stranger", to("new"), "smtp:new:2525", Some(OutboundTls::Verify), false),
            (
                "its domain",
                RouteNext::RecipientDomain,
                "mx:a.test",
                Some(OutboundTls::Verify),
                false,
            ),
            ("nowhere", RouteNext::To(NextHop::Hold), "hold", Some(OutboundTls::Verify), false),
        ] {
            let choice = table.rerouted(&asked, &next);
            assert_eq!(choice.next_hop.to_string(), hop, "{name}");
            assert_eq!((choice.tls, choice.auth.is_some()), (tls, has_user), "{name}");
            assert_eq!(choice.max_age, DAY, "{name}: how long is its route's to say");
        }
    }

    #[test]
    fn what_is_explained_is_what_is_done() {
        let recipients: [&[&str]; 5] =
            [&[], &["a.test"], &[".test"], &["*a*"], &["b.a.test", ".a.test"]];
        let senders: [&[&str]; 3] = [&[], &["s.test"], &["*"]];
        let mut count = 0;
        for number in 0..(15usize * 15 * 15) {
            let part = |place: u32| number / 15usize.pow(place) % 15;
            let rules = (0..3).map(|place| {
                let part = part(place);
                rule(["x", "y", "z"][place as usize], recipients[part % 5], senders[part / 5], &[])
            });
            let table = table(rules.collect());
            for recipient in ["a.test", "b.a.test", "c.test", "test", "[192.0.2.1]"] {
                for sender in ["", "s.test", "t.test"] {
                    let question = question(recipient, sender, "");
                    let explained = table.explain(&question);
                    let fits = explained.iter().find(|(_, fit)| *fit == RuleFit::Fits);
                    let decided = table.next_hop(&question).rule;
                    assert_eq!(fits.map(|(rule, _)| rule.name.as_str()), decided, "{number}");
                    count += usize::from(decided.is_some());
                }
            }
        }
        assert!(count > 10_000, "{count} questions had a rule");
    }

    #[test]
    fn bad_entries_are_all_named() {
        let rules =
            vec![rule("a", &["x y"], &["[1]"], &[]), rule("b", &["m\u{fc}.test"], &[], &[])];
        let problems = RouteTable::build(rules, standard()).expect_err("three");
        assert_eq!(problems.len(), 3);
        assert!(problems[2].to_string().starts_with("route b: `m\u{fc}.test`"));
    }
}
