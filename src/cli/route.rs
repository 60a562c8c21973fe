//! `ringpost route test`.

use std::fmt::Write;

use crate::cli::text;
use crate::config::Config;
use crate::control::route_test;
use crate::operations::OpFault;
use crate::operations::route_test::RouteAnswer;
use crate::operations::route_test::RouteDestination;
use crate::operations::route_test::RouteSource;
use crate::operations::route_test::TestRoute;

/// Carries out `ringpost route test` by a config file, which a server need not use yet.
pub fn test(config: &Config, asked: &TestRoute, json: bool) -> Result<(), OpFault> {
    let answer = route_test::answer(config, asked)?;
    text::print(&answer, json, |answer| print!("{}", shown(answer)))
}

/// The answer for people.
fn shown(answer: &RouteAnswer) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:12}{value}").expect("a String takes all that is written");
    };
    line("recipient", &answer.recipient);
    line("sender", text::sender(Some(&answer.sender)));
    let labels = [
        ("listener", &answer.listener),
        ("tenant", &answer.tenant),
        ("campaign", &answer.campaign),
    ];
    for (name, value) in labels {
        if let Some(value) = value {
            line(name, value);
        }
    }
    let first = |name: &'static str, place: usize| if place == 0 { name } else { "" };
    for (place, header) in answer.headers.iter().enumerate() {
        line(first("headers", place), header);
    }
    for (place, one) in answer.considered.iter().enumerate() {
        let verdict = if one.decides { "APPLIES" } else { "no" };
        let what = format!("{} {}: {verdict}: {}", place + 1, one.route, one.why);
        line(first("routes", place), &what);
    }
    if answer.route.is_none() {
        line("route", "none matches; mail goes to the mail exchangers of the recipient's domain");
    }
    line("next hop", &answer.next_hop);
    for (place, host) in answer.hosts.iter().enumerate() {
        line(first("hosts", place), host);
    }
    if answer.needs_mx_lookup {
        line("MX lookup", "at delivery");
    }
    if let Some(user) = &answer.auth_user {
        line("log in as", user);
    }
    if let Some(destination) = &answer.destination {
        show_destination(destination, &mut line);
    }
    if let Some(source) = &answer.source {
        show_source(source, &mut line);
        let retry = format!("{}, ... for {}", answer.retry.join(", "), answer.max_age);
        line("retry after", &retry);
    }
    if let Some(fallback) = &answer.fallback {
        line("fallback", &format!("{} after {}", fallback.next_hop, fallback.after));
    }
    if answer.destination.is_some() {
        let by_stream = "normal, or bulk in a broadcast stream";
        line("class", answer.class.as_deref().unwrap_or(by_stream));
        line("weight", &answer.tenant_share.weight.to_string());
        for limit in &answer.tenant_share.limits {
            line("", &format!("{} = {}, for the tenant", limit.key, limit.value));
        }
    }
    if let Some(reply) = &answer.reply {
        let rule = reply.rule.as_ref().map(|rule| format!(", by rule {rule}")).unwrap_or_default();
        line("reply", &format!("{}, {}{rule}", reply.category, reply.advice));
        line("action", reply.action.as_deref().unwrap_or("none"));
    }
    if !answer.delivery_enabled {
        line("warning", "delivery.enabled is false: mail is accepted and stays queued");
    }
    text
}

fn show_destination(destination: &RouteDestination, line: &mut impl FnMut(&str, &str)) {
    line("destination", destination.name.as_deref().unwrap_or("[destination_defaults]"));
    if destination.may_change {
        line("", "a [[destination]] may match once the mail exchangers are known");
    }
    line("tls", &format!("{}, set by the {}", destination.tls, destination.tls_from));
    for (place, limit) in destination.limits.iter().enumerate() {
        let name = if place == 0 { "limits" } else { "" };
        line(name, &format!("{} = {}", limit.key, limit.value));
    }
}

fn show_source(source: &RouteSource, line: &mut impl FnMut(&str, &str)) {
    let Some(pool) = &source.pool else {
        let what = format!("address chosen by the system; EHLO {}", source.ehlo_name);
        return line("source", &what);
    };
    line("pool", pool);
    for one in &source.sources {
        let by = one.proxy.as_ref().map(|proxy| format!(" via {proxy}")).unwrap_or_default();
        let what = format!(
            "{} {}{by}, EHLO {}, {:.1}%",
            one.name,
            one.addresses.join(" "),
            one.ehlo_name,
            one.share_percent,
        );
        line("", &what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::HostFacts;
    use crate::config::load;

    const FILE: &str = "[[route]]\nname = 'vip'\nrecipient_domain = ['vip.test', '.vip.test']\n\
        next = 'smtp:relay.ours.test:587,[2001:db8::2]:25'\ntls = 'verify'\npool = 'shared'\n\
        auth_user = 'us'\nauth_password_file = '/nowhere'\n\
        max_age = '1d'\n[[route]]\nname = 'inner'\nlistener = 'listener-1'\n\
        recipient_domain = '*.inner.test'\nnext = 'lmtp:127.0.0.1:24'\n[[route]]\nname = 'bad'\n\
        sender_domain = 'bad.test'\nnext = 'reject:Not for you'\n\
        [[pool]]\nname = 'shared'\nsources = ['a:3', 'b']\n\
        [[source]]\nname = 'a'\nipv4 = '192.0.2.1'\n\
        [[source]]\nname = 'b'\nipv6 = '2001:db8::1'\nehlo_name = 'b.ours.test'\n\
        [[destination]]\nname = 'big'\nmx_host = '.big.test'\nconnections_max = 100\n\
        [[destination]]\nname = 'far'\nrecipient_domain = 'far.test'\nmessages_per_hour = 500\n";

    fn answer_by(file: &str, recipient: &str, sender: Option<&str>) -> RouteAnswer {
        let host = HostFacts {
            hostname: "mx.ours.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        };
        let config = load(file, "f", &host).expect("it is good").config;
        let asked = TestRoute {
            recipient: recipient.to_owned(),
            sender: sender.map(str::to_owned),
            headers: vec!["X-Pool: gold".to_owned()],
            ..TestRoute::default()
        };
        route_test::answer(&config, &asked).expect("an answer")
    }

    #[test]
    fn the_route_and_what_follows_are_shown() {
        let answer = answer_by(FILE, "<joe@A.VIP.test>", Some("x@y.test"));
        let text = shown(&answer);
        for line in [
            "recipient   joe@A.VIP.test",
            "routes      1 vip: APPLIES: recipient_domain matches vip.test, .vip.test",
            "next hop    smtp:relay.ours.test:587,[2001:db8::2]:25",
            "hosts       relay.ours.test:587",
            "            [2001:db8::2]:25",
            "log in as   us",
            "destination [destination_defaults]",
            "tls         verify, set by the route",
            "pool        shared",
            "            a 192.0.2.1, EHLO mx.ours.test, 75.0%",
            "            b 2001:db8::1, EHLO b.ours.test, 25.0%",
            "retry after 5m, 10m, 20m, 40m, 1h, 2h, 3h, 4h, ... for 1d",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert!(!text.contains("MX lookup"), "{text}");
    }

    #[test]
    fn a_recipient_without_a_route_is_shown() {
        let text = shown(&answer_by(FILE, "joe@a.inner.test", Some("<>")));
        for line in [
            "sender      <>",
            "headers     X-Pool: gold",
            "route       none matches; mail goes to the mail exchangers of the recipient's domain",
            "next hop    mx:a.inner.test",
            "MX lookup   at delivery",
            "            a [[destination]] may match once the mail exchangers are known",
            "source      address chosen by the system; EHLO mx.ours.test",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[test]
    fn next_hops_and_sources_are_shown() {
        let file = "[[route]]\nrecipient_domain = 'tls.test'\nnext = 'smtps:relay.ours.test'\n\
            pool = 'p'\n[[route]]\nnext = 'lmtp:unix:/run/lmtp'\n[[pool]]\nname = 'p'\n\
            sources = 's'\n[[source]]\nname = 's'\nipv4 = '192.0.2.1'\n\
            proxy = 'socks5://192.0.2.9'\nproxy_user = 'us'\n\
            proxy_password_file = '/none'\n";
        for (recipient, lines) in [
            (
                "a@tls.test",
                [
                    "next hop    smtps:relay.ours.test:465",
                    "tls         must, set by the next hop",
                    "            s 192.0.2.1 via socks5://192.0.2.9:1080, EHLO mx.ours.test, 100.0%",
                ],
            ),
            (
                "a@store.test",
                [
                    "next hop    lmtp:unix:/run/lmtp",
                    "hosts       unix:/run/lmtp",
                    "tls         none, set by the next hop",
                ],
            ),
        ] {
            let text = shown(&answer_by(file, recipient, None));
            for line in lines {
                assert!(text.lines().any(|one| one == line), "{line}\n{text}");
            }
        }
    }
}
