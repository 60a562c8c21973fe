//! Tables of rules, and what they decide.

use super::*;
use crate::config::DomainMatch;
use crate::config::HeaderMatch;
use crate::config::Label;
use crate::config::LabelValue;
use crate::config::kind::Spelled;

const DAY: Duration = Duration::from_secs(86_400);

fn standard() -> RouteStandard {
    RouteStandard { own_domain: "mx.ours.test".into(), pool: None, max_age: 5 * DAY }
}

fn list<T: Spelled>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| T::spell(text).expect("it is good")).collect()
}

/// A rule that holds to a smarthost of its own name.
fn rule(name: &str, recipients: &[&str], senders: &[&str], listeners: &[&str]) -> RouteConfig {
    RouteConfig {
        name: Label::spell(name).expect("it is good"),
        recipient_domain: list::<DomainMatch>(recipients),
        sender_domain: list(senders),
        listener: list(listeners),
        tenants: Vec::new(),
        campaigns: Vec::new(),
        headers: Vec::new(),
        next: RouteNext::spell(&format!("smtp:{name}:2525")).expect("it is good"),
        tls: None,
        auth_user: None,
        auth_password_file: None,
        pool: None,
        max_age: None,
        recipient: Vec::new(),
        class: None,
        fallback: None,
        fallback_after: Duration::from_secs(3600),
    }
}

fn table(rules: Vec<RouteConfig>) -> RouteTable {
    with_users(rules.into_iter().map(|rule| (rule, None)).collect())
}

fn with_users(rules: Vec<(RouteConfig, Option<Arc<Credentials>>)>) -> RouteTable {
    let rules = rules.into_iter().map(|(route, user)| Rule::new(route, user, None));
    RouteTable::build(rules.collect(), standard())
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
    let mut tenant = rule("tenant", &[], &[], &[]);
    tenant.tenants = list(&["acme", "umbrella"]);
    tenant.campaigns = list::<LabelValue>(&["spring"]);
    let mut gold = rule("gold", &["far.test"], &[], &[]);
    gold.headers = list::<HeaderMatch>(&["X-Pool: gold", "X-Pool: plat*", "X-Priority: *"]);
    let mut bulk = rule("bulk", &[], &[], &[]);
    bulk.campaigns = list(&["bulk"]);
    let table = table(vec![tenant, gold, bulk]);
    type Row<'r> =
        (&'r str, Option<&'r str>, Option<&'r str>, &'r [(&'r str, &'r str)], Option<&'r str>);
    let rows: &[Row<'_>] = &[
        ("both hold", Some("acme"), Some("spring"), &[], Some("tenant")),
        ("the other tenant", Some("umbrella"), Some("spring"), &[], Some("tenant")),
        ("case counts", Some("acme"), Some("Spring"), &[], None),
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
fn a_rule_may_name_recipients() {
    let named = |name: &str, recipients: &[&str], domains: &[&str]| RouteConfig {
        recipient: list(recipients),
        ..rule(name, domains, &[], &[])
    };
    let table = table(vec![
        named("joe", &["Joe@Far.test", "\"odd one\"@far.test"], &[]),
        named("both", &["ann@far.test", "ann@near.test"], &["near.test"]),
        rule("far", &["far.test"], &[], &[]),
        named("late", &["bob@far.test", "bob@b\u{fc}cher.test"], &[]),
        named("postmaster", &["postmaster@mx.ours.test"], &[]),
    ]);
    assert!(table.names_recipients());
    for (local, domain, expected) in [
        ("joe", "far.test", Some("joe")),
        ("JOE", "FAR.test", Some("joe")),
        ("\"odd one\"", "far.test", Some("joe")),
        ("joe.x", "far.test", Some("far")),
        ("joe", "a.far.test", None),
        ("ann", "near.test", Some("both")),
        ("ann", "far.test", Some("far")),
        ("bob", "far.test", Some("far")),
        ("bob", "b\u{fc}cher.test", Some("late")),
        ("bob", "xn--bcher-kva.test", Some("late")),
        ("Postmaster", "", Some("postmaster")),
        (&"x".repeat(2000), "near.test", None),
    ] {
        let question = RouteQuestion { recipient_local: local, ..question(domain, "", "") };
        assert_eq!(table.next_hop(&question).rule, expected, "{local}@{domain}");
        let explained = table.explain(&question);
        let decided = explained.iter().find(|(_, fit)| *fit == RuleFit::Fits);
        assert_eq!(decided.map(|(rule, _)| rule.name.as_str()), expected, "{local}@{domain}");
    }
    let asked = RouteQuestion { recipient_local: "eve", ..question("near.test", "", "") };
    let fits: Vec<RuleFit> = table.explain(&asked).iter().map(|(_, fit)| *fit).collect();
    assert_eq!(fits[..3], [RuleFit::Recipient, RuleFit::Recipient, RuleFit::RecipientDomain]);
    assert!(!super::RouteTable::build(Vec::new(), standard()).names_recipients());
}

#[test]
fn a_rule_has_a_class_and_a_fallback() {
    let relay = RouteNext::spell("smtp:relay:25").expect("it is good");
    let mut first = rule("first", &["a.test"], &[], &[]);
    first.class = Some(Class::Bulk);
    first.fallback = Some(relay.clone());
    first.fallback_after = DAY / 2;
    let mut second = rule("relay", &["b.test"], &[], &[]);
    second.next = relay.clone();
    let user = Arc::new(Credentials { user: "us".into(), password: "secret".into() });
    let table = with_users(vec![(first, None), (second, Some(user))]);
    let asked = question("a.test", "", "");
    let choice = table.next_hop(&asked);
    assert_eq!(choice.class, Some(Class::Bulk));
    assert_eq!(choice.fallback, Some(Fallback { next: &relay, after: DAY / 2 }));
    // The servers of the fallback get the password that a route has for them.
    let fallback = table.rerouted(&asked, choice.fallback.expect("it was there").next);
    assert_eq!((fallback.class, fallback.fallback), (Some(Class::Bulk), None));
    assert_eq!(fallback.next_hop.to_string(), "smtp:relay:25");
    assert!(fallback.auth.is_some());
    let choice = table.next_hop(&question("b.test", "", ""));
    assert_eq!((choice.class, choice.fallback), (None, None));
}

#[test]
fn without_a_rule_the_domain_decides() {
    let table = table(Vec::new());
    for (domain, expected) in [
        ("Example.COM", "mx:example.com"),
        ("example.com.", "mx:example.com"),
        ("M\u{fc}nchen.example", "mx:xn--mnchen-3ya.example"),
        ("", "mx:mx.ours.test"),
        ("[192.0.2.1]", "mx:[192.0.2.1]"),
        ("[IPv6:2001:DB8:0::1]", "mx:[IPv6:2001:db8::1]"),
        ("[ipv6:::ffff:192.0.2.1]", "mx:[192.0.2.1]"),
        ("[x]", "reject:The recipient's domain name is invalid"),
        ("a..b", "reject:The recipient's domain name is invalid"),
        ("b\u{202e}ad.example", "reject:The recipient's domain name is invalid"),
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
    far.next = RouteNext::RecipientDomain;
    let mut held = rule("held", &[], &[], &[]);
    held.next = RouteNext::To(NextHop::Hold);
    let table = with_users(vec![(far, Some(Arc::new(user))), (held, None)]);
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

#[test]
fn an_operator_says_where_to_and_a_password_stays_with_its_servers() {
    let user = Arc::new(Credentials { user: "us".into(), password: "secret".into() });
    let mut own = rule("own", &["a.test"], &[], &[]);
    (own.tls, own.max_age) = (Some(OutboundTls::Verify), Some(DAY));
    let mut other = rule("other", &["b.test"], &[], &[]);
    other.tls = Some(OutboundTls::Must);
    let theirs = rule("theirs", &["c.test"], &["theirs.test"], &[]);
    let rules = [own, other, theirs].map(|rule| (rule, Some(Arc::clone(&user))));
    let table = with_users(rules.into());
    let to = |host: &str| rule(host, &[], &[], &[]).next;
    let asked = question("a.test", "x.test", "");
    for (name, next, hop, tls, has_user) in [
        ("its own", to("own"), "smtp:own:2525", Some(OutboundTls::Verify), true),
        ("another's", to("other"), "smtp:other:2525", Some(OutboundTls::Verify), true),
        ("another sender's", to("theirs"), "smtp:theirs:2525", Some(OutboundTls::Verify), false),
        ("a stranger", to("new"), "smtp:new:2525", Some(OutboundTls::Verify), false),
        ("its domain", RouteNext::RecipientDomain, "mx:a.test", Some(OutboundTls::Verify), false),
        ("nowhere", RouteNext::To(NextHop::Hold), "hold", Some(OutboundTls::Verify), false),
    ] {
        let choice = table.rerouted(&asked, &next);
        assert_eq!(choice.next_hop.to_string(), hop, "{name}");
        assert_eq!((choice.tls, choice.auth.is_some()), (tls, has_user), "{name}");
        assert_eq!(choice.max_age, DAY, "{name}: how long is its route's to say");
    }
}

/// All tables of three rules from a few conditions, compared with `explain`.
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
