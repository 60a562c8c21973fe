//! `ringpost route test`: where the mail of a recipient would go, and why.
//!
//! Promise:  it asks the very snapshot that delivery goes by, made from the config file; no server
//!           need run, and nothing is looked up in the DNS.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;
use serde_json::json;

use crate::config::Config;
use crate::config::LabelField;
use crate::config::units::show_duration;
use crate::control::delivery;
use crate::control::delivery::Secrets;
use crate::route::DeliveryPolicy;
use crate::route::DestinationPolicy;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::PoolId;
use crate::route::RouteChoice;
use crate::route::RouteQuestion;
use crate::route::RouteSettings;
use crate::route::RuleFit;
use crate::route::Stripes;
use crate::wire::mail::address::Mailbox;

/// What `ringpost route test` is asked.
pub struct RouteTest {
    pub recipient: String,
    /// Empty or `<>` for the null sender.
    pub sender: Option<String>,
    pub listener: Option<String>,
    pub tenant: Option<String>,
    pub campaign: Option<String>,
    /// Each as `Name: value`.
    pub headers: Vec<String>,
}

/// Prints which rule decides, and what follows from it.
pub fn test(config: &Config, asked: &RouteTest, json: bool) -> ExitCode {
    match answer(config, asked) {
        Ok(answer) if json => println!("{answer:#}"),
        Ok(answer) => print!("{}", shown(&answer)),
        Err(faults) => {
            for fault in faults {
                eprintln!("ringpost: {fault}");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The whole answer, as `--json` prints it.
fn answer(config: &Config, asked: &RouteTest) -> Result<Value, Vec<String>> {
    let policy = delivery::policy(config, Secrets::Withhold)?;
    let known: Vec<&str> = config.listeners.iter().map(|one| one.name.as_str()).collect();
    if let Some(name) = asked.listener.as_deref().filter(|name| !known.contains(name)) {
        return Err(vec![format!("there is no listener {name}; known are {}", known.join(", "))]);
    }
    let recipient = domain_of(&asked.recipient).map_err(|fault| vec![fault])?;
    let sender = asked.sender.as_deref().filter(|sender| !bare(sender).is_empty());
    let sender = sender.map(domain_of).transpose().map_err(|fault| vec![fault])?;
    let headers = headers_of(config, asked).map_err(|fault| vec![fault])?;
    let label = |field: &LabelField| {
        let name = field.name()?;
        let mut values = headers.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| *value).filter(|value| !value.is_empty())
    };
    let question = RouteQuestion {
        recipient_domain: &recipient,
        sender_domain: sender.as_deref(),
        listener: asked.listener.as_deref(),
        tenant: asked.tenant.as_deref().map(str::trim).filter(|tenant| !tenant.is_empty()),
        campaign: label(&config.delivery.campaign_header),
        headers: &headers,
    };
    let choice = policy.routes.next_hop(&question);
    let considered: Vec<Value> = policy
        .routes
        .explain(&question)
        .iter()
        .map(|(rule, fit)| {
            json!({
                "route": rule.name,
                "decides": *fit == RuleFit::Fits,
                "why": why(rule, *fit, &question),
            })
        })
        .collect();
    Ok(json!({
        "recipient": bare(&asked.recipient),
        "sender": asked.sender.as_deref().map_or("", bare),
        "listener": asked.listener,
        "tenant": question.tenant,
        "campaign": question.campaign,
        "headers": asked.headers,
        "considered": considered,
        "route": choice.rule,
        "next_hop": choice.next_hop.to_string(),
        "hosts": hosts(&policy, &choice),
        "auth_user": choice.auth.map(|user| &*user.user),
        "mx_lookup": matches!(*choice.next_hop, NextHop::Mx { .. }).then_some("at delivery"),
        "destination": connects(&choice).then(|| destination(&policy, &choice)),
        "source": connects(&choice).then(|| source(&policy, choice.pool)),
        "max_age": show_duration(choice.max_age),
        "retry": policy.retry.steps().iter().copied().map(show_duration).collect::<Vec<_>>(),
        "delivery_enabled": policy.enabled,
    }))
}

/// The header fields of the message in question, that of its campaign among them.
fn headers_of<'a>(
    config: &'a Config,
    asked: &'a RouteTest,
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let delivery = &config.delivery;
    let mut headers = Vec::new();
    match (&asked.campaign, delivery.campaign_header.name()) {
        (Some(value), Some(name)) => headers.push((name, value.trim())),
        (Some(_), None) => {
            let text =
                "no mail has a campaign: delivery.campaign_header is empty; name a header there";
            return Err(text.to_owned());
        }
        (None, _) => {}
    }
    for header in &asked.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("{header} is not a header; write it as 'X-Pool: gold'"))?;
        headers.push((name.trim(), value.trim()));
    }
    Ok(headers)
}

/// An address as people write it, perhaps with its angle brackets.
fn bare(address: &str) -> &str {
    let inner = address.strip_prefix('<').and_then(|inner| inner.strip_suffix('>'));
    inner.unwrap_or(address)
}

/// The domain of an address; empty for the bare postmaster.
fn domain_of(address: &str) -> Result<String, String> {
    let address = bare(address);
    let lowered = match address.rsplit_once('@') {
        Some((local, domain)) if domain.starts_with('[') => format!("{local}@{domain}"),
        Some((local, domain)) => format!("{local}@{}", domain.to_lowercase()),
        None => address.to_owned(),
    };
    match Mailbox::from_stored(&lowered) {
        Some(mailbox) => Ok(mailbox.domain().to_owned()),
        None => Err(format!("{address} is not a mail address; write it as user@example.com")),
    }
}

fn why(rule: &RouteSettings, fit: RuleFit, question: &RouteQuestion<'_>) -> String {
    match fit {
        RuleFit::Fits => {
            let headers = rule.headers.iter().map(ToString::to_string).collect();
            let conditions = [
                ("recipient_domain", &rule.recipient_domains),
                ("sender_domain", &rule.sender_domains),
                ("listener", &rule.listeners),
                ("tenant", &rule.tenants),
                ("campaign", &rule.campaigns),
                ("a header", &headers),
            ];
            let held: Vec<String> = conditions
                .iter()
                .filter(|(_, list)| !list.is_empty())
                .map(|(key, list)| format!("{key} is among {}", list.join(", ")))
                .collect();
            match held.is_empty() {
                true => "it is for all mail".to_owned(),
                false => held.join("; "),
            }
        }
        RuleFit::RecipientDomain => {
            format!("recipient_domain is only {}", rule.recipient_domains.join(", "))
        }
        RuleFit::SenderDomain => {
            let sender = question.sender_domain.unwrap_or("of the null sender");
            format!("sender_domain is only {}, not {sender}", rule.sender_domains.join(", "))
        }
        RuleFit::Listener => {
            let listener = question.listener.unwrap_or("none (see --listener)");
            format!("listener is only {}, not {listener}", rule.listeners.join(", "))
        }
        RuleFit::Tenant => {
            let tenant = question.tenant.unwrap_or("none (see --tenant)");
            format!("tenant is only {}, not {tenant}", rule.tenants.join(", "))
        }
        RuleFit::Campaign => {
            let campaign = question.campaign.unwrap_or("none (see --campaign)");
            format!("campaign is only {}, not {campaign}", rule.campaigns.join(", "))
        }
        RuleFit::Header => why_no_header(rule, question),
    }
}

fn why_no_header(rule: &RouteSettings, question: &RouteQuestion<'_>) -> String {
    let wanted: Vec<String> = rule.headers.iter().map(ToString::to_string).collect();
    let is_named = |name: &str| rule.headers.iter().any(|one| one.name.eq_ignore_ascii_case(name));
    let found: Vec<String> = question
        .headers
        .iter()
        .filter(|(name, _)| is_named(name))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let found = match found.is_empty() {
        true => "none of them (see --header)".to_owned(),
        false => found.join(", "),
    };
    format!("a header is only {}, not {found}", wanted.join(", "))
}

fn connects(choice: &RouteChoice<'_>) -> bool {
    matches!(*choice.next_hop, NextHop::Mx { .. } | NextHop::Hosts { .. })
}

/// The hosts in the order in which they are tried, as far as the config knows them.
fn hosts(policy: &DeliveryPolicy, choice: &RouteChoice<'_>) -> Vec<String> {
    match &*choice.next_hop {
        NextHop::Mx { domain, port } => vec![format!(
            "the mail exchangers of {domain}, port {port}, at most {} in an attempt",
            policy.mx_hosts_max
        )],
        NextHop::Hosts { hosts, .. } => hosts.iter().map(ToString::to_string).collect(),
        NextHop::Discard | NextHop::Reject { .. } | NextHop::Hold => Vec::new(),
    }
}

/// What the destination is treated by, as far as it is known before the mail exchangers are.
fn destination(policy: &DeliveryPolicy, choice: &RouteChoice<'_>) -> Value {
    let (domain, hosts): (&str, Vec<&str>) = match &*choice.next_hop {
        NextHop::Mx { domain, .. } => (domain, Vec::new()),
        NextHop::Hosts { hosts, .. } => ("", hosts.iter().map(|one| &*one.host).collect()),
        NextHop::Discard | NextHop::Reject { .. } | NextHop::Hold => ("", Vec::new()),
    };
    let found = policy.destinations.find(domain, &hosts);
    let treated = policy.destinations.policy(domain, &hosts);
    let mode = choice.tls.unwrap_or(treated.tls);
    let from = if choice.tls.is_some() { "route" } else { "destination" };
    let tls = match &*choice.next_hop {
        NextHop::Hosts { hosts, .. } if hosts.iter().all(|host| host.unix_path().is_some()) => {
            OutboundTls::None
        }
        NextHop::Hosts { protocol, .. } => protocol.tls(mode),
        _ => mode,
    };
    let open = found.is_none() && hosts.is_empty() && policy.destinations.asks_mx_hosts();
    json!({
        "name": found.map(|destination| &*destination.name),
        "may_change": open.then_some("a [[destination]] that names a mail exchanger of it would count"),
        "tls": tls_name(tls),
        "tls_from": if tls == mode { from } else { "next hop" },
        "limits": limits(&treated),
    })
}

fn limits(destination: &DestinationPolicy) -> Value {
    json!({
        "connections_max": destination.connections_max,
        "window_start": destination.window_start,
        "messages_per_connection": destination.messages_per_connection,
        "recipients_per_message": destination.recipients_per_message,
        "messages_per_second": destination.rates.per_second,
        "messages_per_minute": destination.rates.per_minute,
        "messages_per_hour": destination.rates.per_hour,
        "idle_reuse": show_duration(destination.idle_reuse),
        "failures_to_back_off": destination.failures_to_back_off,
        "back_off_first": show_duration(destination.back_off_first),
        "back_off_max": show_duration(destination.back_off_max),
        "jobs_max": destination.jobs_max,
        "stripes": match destination.stripes {
            Stripes::Auto => json!("auto"),
            Stripes::All => json!("all"),
            Stripes::Count(count) => json!(count),
        },
    })
}

fn tls_name(mode: OutboundTls) -> &'static str {
    match mode {
        OutboundTls::None => "none",
        OutboundTls::May => "may",
        OutboundTls::Must => "must",
        OutboundTls::Verify => "verify",
    }
}

fn source(policy: &DeliveryPolicy, pool: Option<PoolId>) -> Value {
    let Some(pool) = pool else {
        return json!({ "pool": null, "ehlo_name": &*policy.ehlo_name });
    };
    let total: u64 = policy.sources.members(pool).map(|(_, weight)| weight).sum();
    let sources: Vec<Value> = policy
        .sources
        .members(pool)
        .map(|(source, weight)| {
            json!({
                "name": &*source.name,
                "ipv4": source.ipv4,
                "ipv6": source.ipv6,
                "ehlo_name": &*source.ehlo_name,
                "proxy": source.proxy.as_ref().map(ToString::to_string),
                "share_percent": (weight * 1000 / total) as f64 / 10.0,
            })
        })
        .collect();
    json!({ "pool": policy.sources.pool_name(pool), "sources": sources })
}

/// The answer as people read it.
fn shown(answer: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:12}{value}").expect("a String takes all that is written");
    };
    line("recipient", said(&answer["recipient"]));
    let sender = said(&answer["sender"]);
    line("sender", if sender.is_empty() { "<>" } else { sender });
    if !answer["listener"].is_null() {
        line("listener", said(&answer["listener"]));
    }
    for label in ["tenant", "campaign"] {
        if !answer[label].is_null() {
            line(label, said(&answer[label]));
        }
    }
    for (place, header) in each(&answer["headers"]).iter().enumerate() {
        line(if place == 0 { "headers" } else { "" }, said(header));
    }
    for (place, rule) in each(&answer["considered"]).iter().enumerate() {
        let verdict = if rule["decides"] == true { "DECIDES" } else { "no" };
        let what =
            format!("{} {}: {verdict}: {}", place + 1, said(&rule["route"]), said(&rule["why"]));
        line(if place == 0 { "routes" } else { "" }, &what);
    }
    if answer["route"].is_null() {
        line("route", "none of the config: what the domain itself says");
    }
    line("next hop", said(&answer["next_hop"]));
    for (place, host) in each(&answer["hosts"]).iter().enumerate() {
        line(if place == 0 { "hosts" } else { "" }, said(host));
    }
    if !answer["mx_lookup"].is_null() {
        line("MX lookup", said(&answer["mx_lookup"]));
    }
    if !answer["auth_user"].is_null() {
        line("log in as", said(&answer["auth_user"]));
    }
    if !answer["destination"].is_null() {
        show_destination(&answer["destination"], &mut line);
        show_source(&answer["source"], &mut line);
        let waits: Vec<&str> = each(&answer["retry"]).iter().map(said).collect();
        line("retry after", &format!("{}, ... for {}", waits.join(", "), said(&answer["max_age"])));
    }
    if answer["delivery_enabled"] == false {
        line("but", "delivery.enabled is false: mail is taken and kept");
    }
    text
}

fn show_destination(destination: &Value, line: &mut impl FnMut(&str, &str)) {
    let standard = "[destination_defaults], for strangers";
    line("destination", destination["name"].as_str().unwrap_or(standard));
    if !destination["may_change"].is_null() {
        line("", said(&destination["may_change"]));
    }
    line(
        "tls",
        &format!("{}, by its {}", said(&destination["tls"]), said(&destination["tls_from"])),
    );
    let limits = destination["limits"].as_object();
    let told = limits.into_iter().flatten().filter(|(_, value)| !value.is_null());
    for (place, (key, value)) in told.enumerate() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line(if place == 0 { "limits" } else { "" }, &format!("{key} = {value}"));
    }
}

fn show_source(source: &Value, line: &mut impl FnMut(&str, &str)) {
    if source["pool"].is_null() {
        let name = said(&source["ehlo_name"]);
        return line("source", &format!("the system chooses the address; EHLO {name}"));
    }
    line("pool", said(&source["pool"]));
    for one in each(&source["sources"]) {
        let addresses: Vec<&str> =
            ["ipv4", "ipv6"].iter().filter_map(|key| one[*key].as_str()).collect();
        let by = one["proxy"].as_str().map(|proxy| format!(" by {proxy}")).unwrap_or_default();
        let what = format!(
            "{} {}{by}, EHLO {}, {}%",
            said(&one["name"]),
            addresses.join(" "),
            said(&one["ehlo_name"]),
            one["share_percent"],
        );
        line("", &what);
    }
}

fn said(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn each(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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

    fn config(text: &str) -> Config {
        let host = HostFacts { hostname: "mx.ours.test".to_owned(), ports_from: 1024 };
        load(text, "f", &host).unwrap_or_else(|faults| panic!("{faults:#?}")).config
    }

    fn ask(recipient: &str, sender: Option<&str>, listener: Option<&str>) -> Result<Value, String> {
        let asked = RouteTest {
            recipient: recipient.to_owned(),
            sender: sender.map(str::to_owned),
            listener: listener.map(str::to_owned),
            tenant: None,
            campaign: None,
            headers: Vec::new(),
        };
        answer(&config(FILE), &asked).map_err(|faults| faults.join("\n"))
    }

    #[test]
    fn the_rule_its_reasons_and_what_follows_are_told() {
        let answer = ask("<joe@A.VIP.test>", Some("x@y.test"), None).expect("an answer");
        let text = shown(&answer);
        for line in [
            "recipient   joe@A.VIP.test",
            "routes      1 vip: DECIDES: recipient_domain is among vip.test, .vip.test",
            "next hop    smtp:relay.ours.test:587,[2001:db8::2]:25",
            "hosts       relay.ours.test:587",
            "            [2001:db8::2]:25",
            "log in as   us",
            "destination [destination_defaults], for strangers",
            "tls         verify, by its route",
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
    fn what_does_not_decide_has_its_reason_too() {
        let answer = ask("joe@a.inner.test", Some("<>"), None).expect("an answer");
        let reasons: Vec<&str> =
            each(&answer["considered"]).iter().map(|rule| said(&rule["why"])).collect();
        assert_eq!(
            reasons,
            [
                "recipient_domain is only vip.test, .vip.test",
                "listener is only listener-1, not none (see --listener)",
                "sender_domain is only bad.test, not of the null sender",
            ]
        );
        let text = shown(&answer);
        assert!(text.contains("route       none of the config"), "{text}");
        assert!(text.contains("next hop    mx:a.inner.test"), "{text}");
        assert!(text.contains("MX lookup   at delivery"), "{text}");
        assert!(text.contains("a [[destination]] that names a mail exchanger"), "{text}");
        assert!(text.contains("source      the system chooses"), "{text}");
    }

    #[test]
    fn labels_and_header_fields_are_asked_for_and_explained() {
        let text = "[[network]]\ncidr = '192.0.2.0/24'\ntenant = 'acme'\n\
            [[route]]\nname = 'ours'\ntenants = ['acme']\ncampaigns = 'spring'\n\
            next = 'smtp:a.test'\n\
            [[route]]\nname = 'pool'\nheaders = ['X-Pool: gold', 'X-Fast: *']\n\
            next = 'smtp:b.test'\n";
        let asked = |tenant: Option<&str>, campaign: Option<&str>, headers: &[&str]| RouteTest {
            recipient: "joe@far.test".to_owned(),
            sender: None,
            listener: None,
            tenant: tenant.map(str::to_owned),
            campaign: campaign.map(str::to_owned),
            headers: headers.iter().map(|one| one.to_string()).collect(),
        };
        let whys = |answer: &Value| -> Vec<String> {
            each(&answer["considered"]).iter().map(|one| said(&one["why"]).to_owned()).collect()
        };
        let ours = "tenant is among acme; campaign is among spring";
        let headers = "a header is only X-Pool: gold, X-Fast: *";
        for (asked, expected) in [
            (asked(Some("acme"), Some("spring"), &[]), vec![ours.to_owned()]),
            (asked(Some(" acme "), None, &["X-Campaign: spring"]), vec![ours.to_owned()]),
            (
                asked(Some("acme"), Some("x"), &["X-Pool: tin"]),
                vec![
                    "campaign is only spring, not x".to_owned(),
                    format!("{headers}, not X-Pool: tin"),
                ],
            ),
            (
                asked(None, None, &["x-fast:"]),
                vec![
                    "tenant is only acme, not none (see --tenant)".to_owned(),
                    "a header is among X-Pool: gold, X-Fast: *".to_owned(),
                ],
            ),
            (
                asked(Some("acme"), None, &[]),
                vec![
                    "campaign is only spring, not none (see --campaign)".to_owned(),
                    format!("{headers}, not none of them (see --header)"),
                ],
            ),
        ] {
            let answer = answer(&config(text), &asked).expect("an answer");
            assert_eq!(whys(&answer), expected);
        }
        let told = answer(&config(text), &asked(Some("acme"), None, &["X-Pool: gold"]));
        let told = shown(&told.expect("an answer"));
        for line in ["tenant      acme", "headers     X-Pool: gold", "hosts       b.test:25"] {
            assert!(told.lines().any(|one| one == line), "{line}\n{told}");
        }
        let bad = answer(&config(text), &asked(None, None, &["X-Pool"])).expect_err("no colon");
        assert!(bad[0].contains("write it as 'X-Pool: gold'"), "{bad:?}");
        let off = config("[delivery]\ncampaign_header = ''\n");
        let bad = answer(&off, &asked(None, Some("x"), &[])).expect_err("there is none");
        assert!(bad[0].contains("delivery.campaign_header is empty"), "{bad:?}");
    }

    #[test]
    fn answers() {
        for (recipient, sender, listener, route, next_hop, destination) in [
            ("a@x.inner.test", None, Some("listener-1"), "inner", "lmtp:127.0.0.1:24", ""),
            ("a@x.test", Some("b@bad.test"), None, "bad", "reject:Not for you", ""),
            ("a@far.test", None, None, "", "mx:far.test", "far"),
            ("a@[192.0.2.9]", None, None, "", "smtp:192.0.2.9:25", ""),
            ("postmaster", None, None, "", "mx:mx.ours.test", ""),
            ("a@M\u{fc}nchen.example", None, None, "", "mx:xn--mnchen-3ya.example", ""),
        ] {
            let answer = ask(recipient, sender, listener).expect("an answer");
            assert_eq!(said(&answer["route"]), route, "{recipient}");
            assert_eq!(said(&answer["next_hop"]), next_hop, "{recipient}");
            assert_eq!(said(&answer["destination"]["name"]), destination, "{recipient}");
        }
        let bad = ask("joe", None, None).expect_err("it has no domain");
        assert!(bad.contains("write it as user@example.com"), "{bad}");
        let bad = ask("a@b.test", None, Some("listener-9")).expect_err("there is no such listener");
        assert!(bad.contains("known are listener-1"), "{bad}");
    }

    #[test]
    fn ways_out_are_told() {
        let file = "[[route]]\nrecipient_domain = 'tls.test'\nnext = 'smtps:relay.ours.test'\n\
            pool = 'p'\n[[route]]\nnext = 'lmtp:unix:/run/lmtp'\n[[pool]]\nname = 'p'\n\
            sources = 's'\n[[source]]\nname = 's'\nipv4 = '192.0.2.1'\n\
            proxy = 'socks5://us:sesame@192.0.2.9'\n";
        let told = |recipient: &str| {
            let recipient = recipient.to_owned();
            let asked = RouteTest {
                recipient,
                sender: None,
                listener: None,
                tenant: None,
                campaign: None,
                headers: Vec::new(),
            };
            shown(&answer(&config(file), &asked).expect("an answer"))
        };
        for (recipient, lines) in [
            (
                "a@tls.test",
                [
                    "next hop    smtps:relay.ours.test:465",
                    "tls         must, by its next hop",
                    "            s 192.0.2.1 by socks5://192.0.2.9:1080, EHLO mx.ours.test, 100.0%",
                ],
            ),
            (
                "a@store.test",
                [
                    "next hop    lmtp:unix:/run/lmtp",
                    "hosts       unix:/run/lmtp",
                    "tls         none, by its next hop",
                ],
            ),
        ] {
            let text = told(recipient);
            for line in lines {
                assert!(text.lines().any(|one| one == line), "{line}\n{text}");
            }
            assert!(!text.contains("sesame"), "{text}");
        }
    }

    #[test]
    fn the_policy_says_what_the_config_says() {
        let policy = delivery::policy(&config(FILE), Secrets::Withhold).expect("it is good");
        let big = policy.destinations.policy("x.test", &["mx.big.test"]);
        assert_eq!((big.connections_max, big.window_start), (100, 5));
        let far = policy.destinations.policy("far.test", &[]);
        assert_eq!((far.rates.per_hour, far.rates.per_second), (Some(500), None));
        let strangers = policy.destinations.policy("x.test", &[]);
        assert_eq!(*strangers, DestinationPolicy::default(), "the defaults are those of the type");
        assert_eq!(&*policy.bounce.from, "MAILER-DAEMON@mx.ours.test");
        assert_eq!(policy.delay_warning, Some(Duration::from_secs(4 * 3600)));
        assert_eq!(policy.timeouts.data_end, Duration::from_secs(600));
        assert!(policy.enabled && policy.resolver.servers.is_empty());
    }
}
