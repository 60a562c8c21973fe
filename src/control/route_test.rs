//! Tells where the mail of a recipient would go, and why.
//!
//! Promise:  asks the same policy that delivery uses, made from the config; needs no running server
//!           and looks nothing up in the DNS.

use std::fmt::Display;

use crate::config::Config;
use crate::config::LabelField;
use crate::config::RouteConfig;
use crate::config::delivery::domain::parse_literal;
use crate::config::kind::Choice;
use crate::config::units::show_duration;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::delivery;
use crate::control::delivery::Secrets;
use crate::control::server::Control;
use crate::operations::OpFault;
use crate::operations::route_test::ConsideredRoute;
use crate::operations::route_test::FallbackHop;
use crate::operations::route_test::PoolMember;
use crate::operations::route_test::ReplyMeaning;
use crate::operations::route_test::RouteAnswer;
use crate::operations::route_test::RouteDestination;
use crate::operations::route_test::RouteLimit;
use crate::operations::route_test::RouteSource;
use crate::operations::route_test::TenantShare;
use crate::operations::route_test::TestRoute;
use crate::route::DeliveryPolicy;
use crate::route::DestinationPolicy;
use crate::route::HostPort;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::PoolId;
use crate::route::RouteChoice;
use crate::route::RouteQuestion;
use crate::route::RuleFit;
use crate::route::TenantPolicy;
use crate::wire::classify::RemoteReply;
use crate::wire::mail::address::Mailbox;

impl CarryOut for TestRoute {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let config = control.parts.reload.config();
        tokio::task::spawn_blocking(move || answer(&config, &call.into_operation()))
            .await
            .unwrap_or_else(|_| Err(OpFault::bug()))
    }
}

/// Which route decides by this config.
pub fn answer(config: &Config, asked: &TestRoute) -> Result<RouteAnswer, OpFault> {
    let policy = delivery::policy(config, Secrets::Withhold).map_err(|faults| {
        let fault = OpFault::usage("config_invalid", "the config has errors");
        faults.into_iter().fold(fault, |fault, one| fault.fault("", "invalid", one))
    })?;
    let known: Vec<&str> = config.listeners.iter().map(|one| one.name.as_str()).collect();
    if let Some(name) = asked.listener.as_deref().filter(|name| !known.contains(name)) {
        let what = format!("no listener is named {name}");
        return Err(OpFault::usage("no_such_listener", what)
            .hint(format!("known listeners: {}", known.join(", "))));
    }
    let recipient = domain_of(&asked.recipient)?;
    let sender = asked.sender.as_deref().filter(|sender| !bare(sender).is_empty());
    let sender = sender.map(domain_of).transpose()?;
    let headers = headers_of(config, asked)?;
    let label = |field: &LabelField| {
        let name = field.name()?;
        let mut values = headers.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| *value).filter(|value| !value.is_empty())
    };
    let question = RouteQuestion {
        recipient_domain: &recipient,
        recipient_local: local_of(&asked.recipient),
        sender_domain: sender.as_deref(),
        listener: asked.listener.as_deref(),
        tenant: asked.tenant.as_deref().map(str::trim).filter(|tenant| !tenant.is_empty()),
        campaign: label(&config.delivery.campaign_header),
        headers: &headers,
    };
    let choice = policy.routes.next_hop(&question);
    let explained = policy.routes.explain(&question);
    let considered = explained.iter().map(|(rule, fit)| ConsideredRoute {
        route: rule.name.to_string(),
        decides: *fit == RuleFit::Fits,
        why: why(rule, *fit, &question),
    });
    let hosts = hosts(&policy, &choice);
    let reply = asked.reply.as_deref();
    let named = hosts.first().filter(|_| !needs_mx_lookup(&choice.next_hop));
    let mx_host = asked.mx_host.as_deref().or(named.map(String::as_str));
    let reply = reply.map(|reply| meaning(&policy, reply, mx_host)).transpose()?;
    Ok(RouteAnswer {
        recipient: bare(&asked.recipient).to_owned(),
        sender: asked.sender.as_deref().map_or("", bare).to_owned(),
        listener: asked.listener.clone(),
        tenant: question.tenant.map(str::to_owned),
        campaign: question.campaign.map(str::to_owned),
        headers: asked.headers.clone(),
        considered: considered.collect(),
        route: choice.rule.map(ToString::to_string),
        next_hop: choice.next_hop.to_string(),
        hosts,
        auth_user: choice.auth.map(|user| user.user.to_string()),
        needs_mx_lookup: needs_mx_lookup(&choice.next_hop),
        destination: connects(&choice).then(|| destination(&policy, &choice)),
        source: connects(&choice).then(|| source(&policy, choice.pool)),
        class: choice.class.map(|class| class.label().to_owned()),
        tenant_share: share(&policy.tenants.policy(question.tenant)),
        fallback: choice.fallback.map(|fallback| FallbackHop {
            next_hop: fallback.next.to_string(),
            after: show_duration(fallback.after),
        }),
        max_age: show_duration(choice.max_age),
        retry: policy.retry.steps().iter().copied().map(show_duration).collect(),
        delivery_enabled: policy.enabled,
        reply,
    })
}

fn share(tenant: &TenantPolicy) -> TenantShare {
    let units = ["second", "minute", "hour", "day"];
    let limits = tenant.rates.all().into_iter().zip(units).filter_map(|(limit, unit)| {
        Some(RouteLimit { key: format!("messages_per_{unit}"), value: limit?.to_string() })
    });
    TenantShare { weight: tenant.weight, limits: limits.collect() }
}

/// What the rules make of a reply from this host.
fn meaning(
    policy: &DeliveryPolicy,
    reply: &str,
    host: Option<&str>,
) -> Result<ReplyMeaning, OpFault> {
    let reply = reply.trim();
    let (code, text) = reply.split_at_checked(3).unwrap_or((reply, ""));
    let is_separated = text.is_empty() || text.starts_with([' ', '-']);
    let code = code.parse().ok().filter(|code| (200..600).contains(code) && is_separated);
    let code = code.ok_or_else(|| {
        OpFault::usage("bad_reply", format!("{reply} is not the reply of a server"))
            .hint("write it as '421 4.7.0 Try again later'")
    })?;
    let text = text.get(1..).unwrap_or("");
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    let reply = RemoteReply { code, enhanced: None, text, host };
    let found = policy.replies.classify(&reply);
    Ok(ReplyMeaning {
        category: found.verdict.category.label().to_owned(),
        advice: found.verdict.advice.label().to_owned(),
        rule: found.rule.map(|rule| policy.replies.name_of(rule)),
        action: found.action.map(|action| action.to_string()),
    })
}

/// The header fields of the message, that of its campaign among them.
fn headers_of<'a>(
    config: &'a Config,
    asked: &'a TestRoute,
) -> Result<Vec<(&'a str, &'a str)>, OpFault> {
    let delivery = &config.delivery;
    let mut headers = Vec::new();
    match (&asked.campaign, delivery.campaign_header.name()) {
        (Some(value), Some(name)) => headers.push((name, value.trim())),
        (Some(_), None) => {
            let what = "campaigns are disabled: delivery.campaign_header is empty";
            return Err(
                OpFault::usage("no_label", what).hint("set it to the name of a header field")
            );
        }
        (None, _) => {}
    }
    for header in &asked.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            OpFault::usage("bad_header", format!("{header} is not a header field"))
                .hint("write it as 'X-Pool: gold'")
        })?;
        headers.push((name.trim(), value.trim()));
    }
    Ok(headers)
}

/// An address as people write it, perhaps with its angle brackets.
fn bare(address: &str) -> &str {
    let inner = address.strip_prefix('<').and_then(|inner| inner.strip_suffix('>'));
    inner.unwrap_or(address)
}

fn local_of(address: &str) -> &str {
    let address = bare(address);
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

/// The domain of an address; empty for the bare postmaster.
fn domain_of(address: &str) -> Result<String, OpFault> {
    let address = bare(address);
    let lowered = match address.rsplit_once('@') {
        Some((local, domain)) if domain.starts_with('[') => format!("{local}@{domain}"),
        Some((local, domain)) => format!("{local}@{}", domain.to_lowercase()),
        None => address.to_owned(),
    };
    match Mailbox::from_stored(&lowered) {
        Some(mailbox) => Ok(mailbox.domain().to_owned()),
        None => Err(OpFault::usage("bad_address", format!("{address} is not a mail address"))
            .hint("write it as user@example.com")),
    }
}

fn why(rule: &RouteConfig, fit: RuleFit, question: &RouteQuestion<'_>) -> String {
    match fit {
        RuleFit::Fits => {
            let conditions = [
                ("recipient_domain", joined(&rule.recipient_domain)),
                ("recipient", joined(&rule.recipient)),
                ("sender_domain", joined(&rule.sender_domain)),
                ("listener", joined(&rule.listener)),
                ("tenant", joined(&rule.tenants)),
                ("campaign", joined(&rule.campaigns)),
                ("a header", joined(&rule.headers)),
            ];
            let held: Vec<String> = conditions
                .iter()
                .filter(|(_, list)| !list.is_empty())
                .map(|(key, list)| format!("{key} matches {list}"))
                .collect();
            match held.is_empty() {
                true => "matches all mail".to_owned(),
                false => held.join("; "),
            }
        }
        RuleFit::RecipientDomain => {
            format!("recipient_domain must match {}", joined(&rule.recipient_domain))
        }
        RuleFit::Recipient => format!("recipient must match {}", joined(&rule.recipient)),
        RuleFit::SenderDomain => {
            let sender = question.sender_domain.unwrap_or("the null sender");
            format!("sender_domain must match {}, found {sender}", joined(&rule.sender_domain))
        }
        RuleFit::Listener => {
            let listener = question.listener.unwrap_or("none (see --listener)");
            format!("listener must match {}, found {listener}", joined(&rule.listener))
        }
        RuleFit::Tenant => {
            let tenant = question.tenant.unwrap_or("none (see --tenant)");
            format!("tenant must match {}, found {tenant}", joined(&rule.tenants))
        }
        RuleFit::Campaign => {
            let campaign = question.campaign.unwrap_or("none (see --campaign)");
            format!("campaign must match {}, found {campaign}", joined(&rule.campaigns))
        }
        RuleFit::Header => why_no_header(rule, question),
    }
}

fn joined(list: &[impl Display]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ")
}

fn why_no_header(rule: &RouteConfig, question: &RouteQuestion<'_>) -> String {
    let is_named = |name: &str| rule.headers.iter().any(|one| one.name.eq_ignore_ascii_case(name));
    let found: Vec<String> = question
        .headers
        .iter()
        .filter(|(name, _)| is_named(name))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let found = match found.is_empty() {
        true => "none (see --header)".to_owned(),
        false => found.join(", "),
    };
    format!("a header must match {}, found {found}", joined(&rule.headers))
}

/// Of an address literal, the address is the only host.
fn literal_host(next_hop: &NextHop) -> Option<HostPort> {
    let NextHop::Mx { domain, port } = next_hop else { return None };
    let address = parse_literal(domain)?;
    Some(HostPort { host: address.to_string().into(), port: *port })
}

fn needs_mx_lookup(next_hop: &NextHop) -> bool {
    matches!(next_hop, NextHop::Mx { .. }) && literal_host(next_hop).is_none()
}

fn connects(choice: &RouteChoice<'_>) -> bool {
    matches!(*choice.next_hop, NextHop::Mx { .. } | NextHop::Hosts { .. })
}

/// The hosts in the order in which they are tried, as far as the config knows them.
fn hosts(policy: &DeliveryPolicy, choice: &RouteChoice<'_>) -> Vec<String> {
    if let Some(host) = literal_host(&choice.next_hop) {
        return vec![host.to_string()];
    }
    match &*choice.next_hop {
        NextHop::Mx { domain, port } => vec![format!(
            "the mail exchangers of {domain}, port {port}, at most {} per attempt",
            policy.mx_hosts_max
        )],
        NextHop::Hosts { hosts, .. } => hosts.iter().map(ToString::to_string).collect(),
        NextHop::Discard | NextHop::Reject { .. } | NextHop::Hold => Vec::new(),
    }
}

/// The settings of the destination, as far as they are known before the mail exchangers are.
fn destination(policy: &DeliveryPolicy, choice: &RouteChoice<'_>) -> RouteDestination {
    let literal = literal_host(&choice.next_hop);
    let (domain, hosts): (&str, Vec<&str>) = match &*choice.next_hop {
        NextHop::Mx { domain, .. } => (domain, literal.iter().map(|one| &*one.host).collect()),
        NextHop::Hosts { hosts, .. } => ("", hosts.iter().map(|one| &*one.host).collect()),
        NextHop::Discard | NextHop::Reject { .. } | NextHop::Hold => ("", Vec::new()),
    };
    let found = policy.destinations.find(domain, &hosts);
    let settings = policy.destinations.policy(domain, &hosts);
    let mode = choice.tls.unwrap_or(settings.tls);
    let from = if choice.tls.is_some() { "route" } else { "destination" };
    let tls = match &*choice.next_hop {
        NextHop::Hosts { hosts, .. } if hosts.iter().all(|host| host.unix_path().is_some()) => {
            OutboundTls::None
        }
        NextHop::Hosts { protocol, .. } => protocol.tls(mode),
        _ => mode,
    };
    RouteDestination {
        name: found.map(|destination| destination.name.to_string()),
        may_change: found.is_none() && hosts.is_empty() && policy.destinations.asks_mx_hosts(),
        tls: tls.as_str().to_owned(),
        tls_from: if tls == mode { from } else { "next hop" }.to_owned(),
        limits: limits(&settings),
    }
}

/// Those that are set.
fn limits(destination: &DestinationPolicy) -> Vec<RouteLimit> {
    let number = |value: u64| Some(value.to_string());
    let rate = |limit: Option<u32>| limit.map(|limit| limit.to_string());
    let rows = [
        ("connections_max", number(destination.connections_max.into())),
        ("window_start", number(destination.window_start.into())),
        ("messages_per_connection", number(destination.messages_per_connection.into())),
        ("recipients_per_message", number(destination.recipients_per_message.into())),
        ("messages_per_second", rate(destination.rates.per_second)),
        ("messages_per_minute", rate(destination.rates.per_minute)),
        ("messages_per_hour", rate(destination.rates.per_hour)),
        ("messages_per_day", rate(destination.rates.per_day)),
        ("source_messages_per_second", rate(destination.source_rates.per_second)),
        ("source_messages_per_minute", rate(destination.source_rates.per_minute)),
        ("source_messages_per_hour", rate(destination.source_rates.per_hour)),
        ("source_messages_per_day", rate(destination.source_rates.per_day)),
        ("idle_reuse", Some(show_duration(destination.idle_reuse))),
        ("failures_to_back_off", number(destination.failures_to_back_off.into())),
        ("back_off_first", Some(show_duration(destination.back_off_first))),
        ("back_off_max", Some(show_duration(destination.back_off_max))),
        ("stripes", Some(destination.stripes.to_string())),
    ];
    let limit = |(key, value): (&str, Option<String>)| {
        Some(RouteLimit { key: key.to_owned(), value: value? })
    };
    rows.into_iter().filter_map(limit).collect()
}

fn source(policy: &DeliveryPolicy, pool: Option<PoolId>) -> RouteSource {
    let ehlo_name = policy.ehlo_name.to_string();
    let Some(pool) = pool else {
        return RouteSource { pool: None, ehlo_name, sources: Vec::new() };
    };
    let total: u64 = policy.sources.members(pool).map(|(_, weight)| weight).sum();
    let sources = policy.sources.members(pool).map(|(source, weight)| PoolMember {
        name: source.name.to_string(),
        addresses: source
            .ipv4
            .map(|address| address.to_string())
            .into_iter()
            .chain(source.ipv6.map(|address| address.to_string()))
            .collect(),
        ehlo_name: source.ehlo_name.to_string(),
        proxy: source.proxy.as_ref().map(ToString::to_string),
        share_percent: (weight * 1000 / total) as f64 / 10.0,
    });
    let sources = sources.collect();
    RouteSource { pool: Some(policy.sources.pool_name(pool).to_string()), ehlo_name, sources }
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
        let host = HostFacts {
            hostname: "mx.ours.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        };
        load(text, "f", &host).unwrap_or_else(|faults| panic!("{faults:#?}")).config
    }

    fn ask(
        recipient: &str,
        sender: Option<&str>,
        listener: Option<&str>,
    ) -> Result<RouteAnswer, OpFault> {
        let asked = TestRoute {
            recipient: recipient.to_owned(),
            sender: sender.map(str::to_owned),
            listener: listener.map(str::to_owned),
            ..TestRoute::default()
        };
        answer(&config(FILE), &asked)
    }

    #[test]
    fn what_does_not_decide_has_its_reason_too() {
        let answer = ask("joe@a.inner.test", Some("<>"), None).expect("an answer");
        let reasons: Vec<&str> = answer.considered.iter().map(|one| one.why.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "recipient_domain must match vip.test, .vip.test",
                "listener must match listener-1, found none (see --listener)",
                "sender_domain must match bad.test, found the null sender",
            ]
        );
        assert_eq!((answer.route, answer.next_hop.as_str()), (None, "mx:a.inner.test"));
        assert!(answer.needs_mx_lookup);
        assert!(answer.destination.is_some_and(|destination| destination.may_change));
        assert!(answer.source.is_some_and(|source| source.pool.is_none()));
    }

    #[test]
    fn labels_and_header_fields_are_asked_for_and_explained() {
        let text = "[[network]]\ncidr = '192.0.2.0/24'\ntenant = 'acme'\n\
            [[route]]\nname = 'ours'\ntenants = ['acme']\ncampaigns = 'spring'\n\
            next = 'smtp:a.test'\n\
            [[route]]\nname = 'pool'\nheaders = ['X-Pool: gold', 'X-Fast: *']\n\
            next = 'smtp:b.test'\n";
        let asked = |tenant: Option<&str>, campaign: Option<&str>, headers: &[&str]| TestRoute {
            recipient: "joe@far.test".to_owned(),
            sender: None,
            listener: None,
            tenant: tenant.map(str::to_owned),
            campaign: campaign.map(str::to_owned),
            headers: headers.iter().map(|one| one.to_string()).collect(),
            ..TestRoute::default()
        };
        let whys = |answer: &RouteAnswer| -> Vec<String> {
            answer.considered.iter().map(|one| one.why.clone()).collect()
        };
        let ours = "tenant matches acme; campaign matches spring";
        let headers = "a header must match X-Pool: gold, X-Fast: *";
        for (asked, expected) in [
            (asked(Some("acme"), Some("spring"), &[]), vec![ours.to_owned()]),
            (asked(Some(" acme "), None, &["X-Campaign: spring"]), vec![ours.to_owned()]),
            (
                asked(Some("acme"), Some("x"), &["X-Pool: tin"]),
                vec![
                    "campaign must match spring, found x".to_owned(),
                    format!("{headers}, found X-Pool: tin"),
                ],
            ),
            (
                asked(None, None, &["x-fast:"]),
                vec![
                    "tenant must match acme, found none (see --tenant)".to_owned(),
                    "a header matches X-Pool: gold, X-Fast: *".to_owned(),
                ],
            ),
            (
                asked(Some("acme"), None, &[]),
                vec![
                    "campaign must match spring, found none (see --campaign)".to_owned(),
                    format!("{headers}, found none (see --header)"),
                ],
            ),
        ] {
            let answer = answer(&config(text), &asked).expect("an answer");
            assert_eq!(whys(&answer), expected);
        }
        let bad = answer(&config(text), &asked(None, None, &["X-Pool"])).expect_err("no colon");
        assert!(bad.to_string().contains("write it as 'X-Pool: gold'"), "{bad}");
        let off = config("[delivery]\ncampaign_header = ''\n");
        let bad = answer(&off, &asked(None, Some("x"), &[])).expect_err("there is none");
        assert!(bad.detail.contains("delivery.campaign_header is empty"), "{bad}");
    }

    #[test]
    fn a_reply_has_a_category_a_rule_and_an_action() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ours.rules");
        let rules = "4xx | google | busy | rate-limited | slow | slow 50% 10m source\n";
        std::fs::write(&file, rules).expect("it is written");
        let text = format!("[delivery]\nreply_rules = '{}'\n", file.display());
        let ask = |reply: &str, mx_host: Option<&str>| {
            let asked = TestRoute {
                recipient: "joe@far.test".to_owned(),
                reply: Some(reply.to_owned()),
                mx_host: mx_host.map(str::to_owned),
                ..TestRoute::default()
            };
            answer(&config(&text), &asked).map(|answer| answer.reply.expect("it was asked"))
        };
        let busy = ask("421-4.7.0 we are busy", Some("aspmx.l.google.com")).expect("an answer");
        let rule = format!("{}:1", file.display());
        assert_eq!((busy.category.as_str(), busy.advice.as_str()), ("rate-limited", "slow"));
        assert_eq!(busy.rule, Some(rule));
        assert_eq!(busy.action.as_deref(), Some("slow 50% 10m source"));
        let other = ask("421 4.7.0 we are busy", None).expect("an answer");
        assert!(other.rule.is_some_and(|rule| rule.starts_with("replies.rules:")));
        assert_eq!(other.action, None);
        let good = ask("250 2.0.0 Ok", None).expect("an answer");
        assert_eq!((good.category.as_str(), good.rule), ("delivered", None));
        for bad in ["busy", "42", "4210 x", "199 x", ""] {
            let fault = ask(bad, None).expect_err("it is no reply");
            assert!(fault.to_string().contains("421 4.7.0 Try again later"), "{fault}");
        }
        std::fs::write(&file, "* | * | * | other").expect("it is written");
        let fault = ask("421 busy", None).expect_err("a field lacks");
        let told = format!("{fault:?}");
        assert!(
            told.contains("delivery.reply_rules: ") && told.contains(": line 1: a rule is"),
            "{told}"
        );
        std::fs::remove_file(&file).expect("it was there");
        let told = format!("{:?}", ask("421 busy", None).expect_err("there is no file"));
        assert!(told.contains("ours.rules: "), "{told}");
    }

    #[test]
    fn addresses_classes_fallbacks_and_tenants_are_shown() {
        let text = "[[network]]\ncidr = '192.0.2.0/24'\ntenant = 'acme'\n\
            [[tenant]]\nname = 'acme'\nweight = 3\nmessages_per_day = 500\n\
            [[route]]\nrecipient = ['Joe@far.test', 'ann@far.test']\nclass = 'urgent'\n\
            next = 'smtp:a.test'\nfallback = 'mx'\nfallback_after = '2h'\n";
        let ask = |recipient: &str, tenant: Option<&str>| {
            let asked = TestRoute {
                recipient: recipient.to_owned(),
                tenant: tenant.map(str::to_owned),
                ..TestRoute::default()
            };
            answer(&config(text), &asked).expect("an answer")
        };
        let joe = ask("JOE@Far.test", Some("acme"));
        assert_eq!(joe.considered[0].why, "recipient matches joe@far.test, ann@far.test");
        assert_eq!((joe.class.as_deref(), joe.tenant_share.weight), (Some("urgent"), 3));
        let limit = &joe.tenant_share.limits[0];
        assert_eq!((limit.key.as_str(), limit.value.as_str()), ("messages_per_day", "500"));
        let fallback = joe.fallback.expect("it has one");
        assert_eq!((fallback.next_hop.as_str(), fallback.after.as_str()), ("mx", "2h"));
        let bob = ask("bob@far.test", None);
        assert_eq!(bob.considered[0].why, "recipient must match joe@far.test, ann@far.test");
        assert_eq!((bob.class, bob.fallback, bob.tenant_share.weight), (None, None, 1));
    }

    #[test]
    fn answers() {
        for (recipient, sender, listener, route, next_hop, destination) in [
            ("a@x.inner.test", None, Some("listener-1"), "inner", "lmtp:127.0.0.1:24", ""),
            ("a@x.test", Some("b@bad.test"), None, "bad", "reject:Not for you", ""),
            ("a@far.test", None, None, "", "mx:far.test", "far"),
            ("a@[192.0.2.9]", None, None, "", "mx:[192.0.2.9]", ""),
            ("postmaster", None, None, "", "mx:mx.ours.test", ""),
            ("a@M\u{fc}nchen.example", None, None, "", "mx:xn--mnchen-3ya.example", ""),
        ] {
            let answer = ask(recipient, sender, listener).expect("an answer");
            assert_eq!(answer.route.as_deref().unwrap_or(""), route, "{recipient}");
            assert_eq!(answer.next_hop, next_hop, "{recipient}");
            let name = answer.destination.and_then(|destination| destination.name);
            assert_eq!(name.as_deref().unwrap_or(""), destination, "{recipient}");
        }
        let bad = ask("joe", None, None).expect_err("it has no domain");
        assert!(bad.to_string().contains("write it as user@example.com"), "{bad}");
        let bad = ask("a@b.test", None, Some("listener-9")).expect_err("there is no such listener");
        assert!(bad.to_string().contains("known listeners: listener-1"), "{bad}");
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
