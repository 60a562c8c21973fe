//! Relations between the keys of delivery.
//!
//! Promise:  as in `config::relation`. If an element of a list was refused as a whole, the list is not
//!           checked, because the numbers of its elements would be wrong.

use crate::config::delivery::destination;
use crate::config::delivery::domain::DomainMatch;
use crate::config::delivery::header::HeaderMatch;
use crate::config::delivery::header::LabelValue;
use crate::config::delivery::list::check_names;
use crate::config::delivery::list::is_whole;
use crate::config::delivery::list::unknown;
use crate::config::delivery::model::RouteConfig;
use crate::config::delivery::model::SourceConfig;
use crate::config::delivery::next_hop::HopProtocol;
use crate::config::delivery::next_hop::HostPort;
use crate::config::delivery::next_hop::NextHop;
use crate::config::delivery::next_hop::RouteNext;
use crate::config::delivery::value::RecipientAddress;
use crate::config::model::Config;
use crate::config::name::Label;
use crate::config::reading::Reading;
use crate::config::value::OutboundTls;
use crate::wire::mail::pick::NAMES_MAX;
use crate::wire::proxy_url::Proxy;
use crate::wire::socks5::LOGIN_BYTES_MAX;

pub const DANE_KEY: &str = "delivery.dane";
pub const DANE_IS_INERT: &str =
    "has no effect: TLSA records need DNSSEC-validated answers, and resolver.trust_ad is false";
pub const DANE_REMEDY: &str = "run a resolver that validates DNSSEC on this host, name it in \
                               resolver.servers and set resolver.trust_ad = true";

/// Whether `delivery.dane` is on but has no effect.
pub fn dane_is_inert(config: &Config) -> bool {
    config.delivery.enabled && config.delivery.dane && !config.resolver.trust_ad
}

/// Checks everything in delivery that involves more than one key.
pub fn check(config: &Config, reading: &mut Reading<'_>) {
    check_delivery(config, reading);
    check_sources(config, reading);
    check_pools(config, reading);
    check_tenants(config, reading);
    if is_whole(&config.routes, reading) {
        check_routes(config, reading);
        check_header_names(config, reading);
    }
    destination::check(config, reading);
}

fn check_delivery(config: &Config, reading: &mut Reading<'_>) {
    let delivery = &config.delivery;
    match delivery.retry_schedule.first() {
        None => {
            reading.contradiction(
                &["delivery.retry_schedule"],
                "is empty",
                "set at least one delay, as [\"15m\"]",
            );
        }
        Some(first) if *first > delivery.max_age => {
            let what = "starts with a delay longer than delivery.max_age: nothing is retried";
            let keys = ["delivery.retry_schedule", "delivery.max_age"];
            let hint = "start with a shorter delay, or raise delivery.max_age";
            reading.contradiction(&keys, what, hint);
        }
        Some(_) => {}
    }
    if delivery.retry_schedule.windows(2).any(|pair| pair[0] > pair[1]) {
        let what = "a delay is shorter than the one before it";
        reading.warn("delivery.retry_schedule", what, "use increasing delays");
    }
    if delivery.delay_warning >= delivery.max_age {
        let what = "has no effect: the mail bounces earlier";
        let hint = "lower it, or set 0 to disable it";
        reading.warn("delivery.delay_warning", what, hint);
    }
    if dane_is_inert(config) && reading.is_written(DANE_KEY) {
        let hint = format!("{DANE_REMEDY}, or write dane = false");
        reading.warn(DANE_KEY, DANE_IS_INERT, hint);
    }
    if let Some(pool) = &delivery.pool
        && let Some(refusal) = unknown("pool", pool, config.pools.iter().map(|one| &one.name))
        && is_whole(&config.pools, reading)
    {
        reading.contradiction(&["delivery.pool"], refusal.what, refusal.hint);
    }
}

fn check_sources(config: &Config, reading: &mut Reading<'_>) {
    if !is_whole(&config.sources, reading) {
        return;
    }
    check_names("source", config.sources.iter().map(|one| &one.name), reading);
    for (place, source) in config.sources.iter().enumerate() {
        // SOCKS chooses the address itself.
        let chosen_there = matches!(source.proxy, Some(Proxy::Socks5 { .. }));
        if source.ipv4.is_none() && source.ipv6.is_none() && !chosen_there {
            let keys =
                ["name", "ipv4", "ipv6", "proxy"].map(|key| format!("source[{}].{key}", place + 1));
            let keys = keys.each_ref().map(String::as_str);
            reading.contradiction(&keys, "has no address", "set ipv4 or ipv6");
        }
        check_proxy(source, &|key| format!("source[{}].{key}", place + 1), reading);
    }
}

/// The login of a proxy.
fn check_proxy(source: &SourceConfig, key: &dyn Fn(&str) -> String, reading: &mut Reading<'_>) {
    let (user, file) = (source.proxy_user.as_deref(), source.proxy_password_file.is_some());
    if !has_login(user, file, ["proxy_user", "proxy_password_file"], key, reading) {
        return;
    }
    let (user_key, proxy) = (key("proxy_user"), key("proxy"));
    if user.is_some_and(|name| name.len() > LOGIN_BYTES_MAX) {
        let what = format!("is longer than {LOGIN_BYTES_MAX} bytes, the limit of SOCKS 5");
        reading.contradiction(&[&user_key], what, "use a shorter name");
    } else if !matches!(source.proxy, Some(Proxy::Socks5 { .. })) {
        let hint = "set proxy = \"socks5://...\"";
        reading.contradiction(&[&user_key, &proxy], "requires a SOCKS 5 proxy", hint);
    }
}

/// Whether user and password file are set. One without the other is refused.
fn has_login(
    user: Option<&str>,
    file: bool,
    names: [&str; 2],
    key: &dyn Fn(&str) -> String,
    reading: &mut Reading<'_>,
) -> bool {
    let [user_key, file_key] = names.map(key);
    match (user.is_some(), file) {
        (true, false) => {
            let hint = format!("set {} too", names[1]);
            reading.contradiction(&[&user_key, &file_key], "has no password", hint);
        }
        (false, true) => {
            let hint = format!("set {} too", names[0]);
            reading.contradiction(&[&file_key, &user_key], "has no user", hint);
        }
        _ => {}
    }
    user.is_some() && file
}

fn check_pools(config: &Config, reading: &mut Reading<'_>) {
    if !is_whole(&config.pools, reading) {
        return;
    }
    check_names("pool", config.pools.iter().map(|one| &one.name), reading);
    let sources_known = is_whole(&config.sources, reading);
    for (place, pool) in config.pools.iter().enumerate() {
        let key = format!("pool[{}].sources", place + 1);
        if pool.sources.is_empty() {
            reading.contradiction(&[&key], "is empty", "name at least one source");
        }
        for (place, member) in pool.sources.iter().enumerate() {
            if pool.sources[..place].iter().any(|other| other.source == member.source) {
                let what = format!("names \"{}\" twice", member.source);
                reading.contradiction(&[&key], what, "list it once, with a weight");
            }
            let names = config.sources.iter().map(|one| &one.name);
            if sources_known && let Some(refusal) = unknown("source", &member.source, names) {
                reading.contradiction(&[&key], refusal.what, refusal.hint);
            }
        }
    }
}

fn check_tenants(config: &Config, reading: &mut Reading<'_>) {
    if !is_whole(&config.tenants, reading) {
        return;
    }
    check_names("tenant", config.tenants.iter().map(|one| &one.name), reading);
    for (place, tenant) in config.tenants.iter().enumerate() {
        let path = format!("tenant[{}]", place + 1);
        if !config.networks.iter().any(|one| one.tenant == tenant.name) {
            warn_of_tenant(&tenant.name, &format!("{path}.name"), reading);
        }
        let rates = [
            ("messages_per_second", tenant.messages_per_second),
            ("messages_per_minute", tenant.messages_per_minute),
            ("messages_per_hour", tenant.messages_per_hour),
            ("messages_per_day", tenant.messages_per_day),
        ];
        destination::warn_of_rates(&path, &rates, &|_, _, _| true, reading);
    }
}

fn warn_of_tenant(tenant: &Label, key: &str, reading: &mut Reading<'_>) {
    let what = format!("no network belongs to the tenant \"{tenant}\"");
    let hint = "add a [[network]] with this tenant, or remove the tenant here";
    reading.warn(key, what, hint);
}

fn check_routes(config: &Config, reading: &mut Reading<'_>) {
    check_names("route", config.routes.iter().map(|one| &one.name), reading);
    let pools_known = is_whole(&config.pools, reading);
    for (place, route) in config.routes.iter().enumerate() {
        let key = |name: &str| format!("route[{}].{name}", place + 1);
        let pools = config.pools.iter().map(|one| &one.name);
        if pools_known
            && let Some(refusal) = route.pool.as_ref().and_then(|pool| unknown("pool", pool, pools))
        {
            reading.contradiction(&[&key("pool"), &key("next")], refusal.what, refusal.hint);
        }
        for listener in &route.listener {
            let names = config.listeners.iter().map(|one| &one.name);
            if let Some(refusal) = unknown("listener", listener, names) {
                reading.contradiction(&[&key("listener")], refusal.what, refusal.hint);
            }
        }
        check_labels(config, route, &key, reading);
        check_auth(route, &key, reading);
        check_tls(route, &key, reading);
        check_fallback(config, route, &key, reading);
        warn_of_route(config, route, &key, reading);
        let before = &config.routes[..place];
        if let Some(first) = before.iter().position(|earlier| takes_all_of(earlier, route)) {
            let what = format!(
                "never matches: route \"{}\" matches all of its mail first",
                before[first].name
            );
            let hint = format!("move it before route[{}], or remove it", first + 1);
            reading.warn(&key("name"), what, hint);
        }
    }
}

/// Conditions on a campaign or a tenant that no message can meet.
fn check_labels(
    config: &Config,
    route: &RouteConfig,
    key: &dyn Fn(&str) -> String,
    reading: &mut Reading<'_>,
) {
    let delivery = &config.delivery;
    if !route.campaigns.is_empty() && delivery.campaign_header.name().is_none() {
        let header = "delivery.campaign_header";
        let what = format!("route \"{}\" matches no mail: {header} is empty", route.name);
        let hint = format!("set {header}, or remove campaigns");
        reading.contradiction(&[&key("campaigns"), header], what, hint);
    }
    let is_known = |tenant: &&Label| config.networks.iter().any(|one| one.tenant == **tenant);
    if let Some(tenant) = route.tenants.iter().find(|tenant| !is_known(tenant)) {
        warn_of_tenant(tenant, &key("tenants"), reading);
    }
}

/// The values of all named fields are stored with each message.
fn check_header_names(config: &Config, reading: &mut Reading<'_>) {
    let delivery = &config.delivery;
    let campaign = delivery.campaign_header.name();
    let mut names: Vec<String> = campaign.iter().map(|name| name.to_ascii_lowercase()).collect();
    for (place, route) in config.routes.iter().enumerate() {
        names.extend(route.headers.iter().map(|one| one.name.to_ascii_lowercase()));
        names.sort_unstable();
        names.dedup();
        if names.len() > NAMES_MAX {
            let (key, count) = (format!("route[{}].headers", place + 1), names.len());
            let what =
                format!("with route \"{}\", the routes name {count} header fields", route.name);
            let hint =
                format!("name at most {NAMES_MAX} in all routes, including that of the campaign");
            return reading.contradiction(&[&key], what, hint);
        }
    }
}

/// A password is sent only to servers named by the operator, and only with TLS.
fn check_auth(route: &RouteConfig, key: &dyn Fn(&str) -> String, reading: &mut Reading<'_>) {
    let (user, file) = (route.auth_user.as_deref(), route.auth_password_file.is_some());
    if !has_login(user, file, ["auth_user", "auth_password_file"], key, reading) {
        return;
    }
    let user = key("auth_user");
    let protocol = route.next.servers().map(|(_, protocol)| protocol);
    if matches!(protocol, None | Some(HopProtocol::Lmtp)) {
        let what = "requires \"smtp:\" or \"smtps:\" with servers named by the route";
        let hint = "set servers, as next = \"smtp:relay.example.com:587\", or remove it";
        reading.contradiction(&[&user, &key("next")], what, hint);
    } else if protocol == Some(HopProtocol::Smtp)
        && !matches!(route.tls, Some(OutboundTls::Must | OutboundTls::Verify))
    {
        let what = "would send the password in clear text";
        reading.contradiction(&[&user, &key("tls")], what, "set tls = \"verify\" for this route");
    }
}

/// TLS that the next hop cannot use, or must use.
fn check_tls(route: &RouteConfig, key: &dyn Fn(&str) -> String, reading: &mut Reading<'_>) {
    let Some((servers, protocol)) = route.next.servers() else { return };
    let has_unix = servers.iter().any(|one| one.unix_path().is_some());
    let (what, hint) = match (protocol, route.tls) {
        (HopProtocol::Smtps, Some(OutboundTls::None)) => (
            "contradicts \"smtps:\", which always uses TLS",
            "remove it, or use \"smtp:\" and its port",
        ),
        (_, Some(OutboundTls::Must | OutboundTls::Verify)) if has_unix => {
            ("is not possible: a Unix socket has no TLS", "remove it")
        }
        _ => return,
    };
    reading.contradiction(&[&key("tls"), &key("next")], what, hint);
}

/// A next hop that takes over when the first one fails.
fn check_fallback(
    config: &Config,
    route: &RouteConfig,
    key: &dyn Fn(&str) -> String,
    reading: &mut Reading<'_>,
) {
    let max_age = route.max_age.unwrap_or(config.delivery.max_age);
    let Some(fallback) = &route.fallback else {
        if reading.is_written(&key("fallback_after")) {
            let what = "has no effect: the route has no fallback";
            reading.warn(&key("fallback_after"), what, "set fallback, or remove it");
        }
        return;
    };
    if !fallback.connects() {
        let what = "is not a server";
        let hint = "name a relay, as fallback = \"smtp:relay.example.com:587\"";
        return reading.contradiction(&[&key("fallback")], what, hint);
    }
    let what = match () {
        () if !route.next.connects() => "has no effect: this route connects to no server",
        () if *fallback == route.next => "has no effect: it is the next hop of the route",
        () if route.fallback_after >= max_age => "has no effect: the mail bounces earlier",
        () => return,
    };
    reading.warn(&key("fallback"), what, "change it, or remove it");
}

fn warn_of_route(
    config: &Config,
    route: &RouteConfig,
    key: &dyn Fn(&str) -> String,
    reading: &mut Reading<'_>,
) {
    if !route.next.connects() {
        for (name, is_set) in [("tls", route.tls.is_some()), ("pool", route.pool.is_some())] {
            if is_set {
                reading.warn(
                    &key(name),
                    "has no effect: this route connects to no server",
                    "remove it",
                );
            }
        }
    }
    if route.next == RouteNext::To(NextHop::Discard) && is_catch_all(route) {
        let what = "all mail that reaches this route is discarded";
        let hint = "set recipient_domain to the domains to discard";
        reading.warn(&key("next"), what, hint);
    }
    let own = |address| config.listeners.iter().any(|one| one.address.contains(&address));
    let nexts = [("next", Some(&route.next)), ("fallback", route.fallback.as_ref())];
    for (name, next) in nexts {
        let servers = next.and_then(RouteNext::servers).map_or(&[][..], |(servers, _)| servers);
        for address in servers.iter().filter_map(HostPort::address).filter(|one| own(*one)) {
            let what = format!("{address} is a listener of this server: mail would loop");
            reading.warn(&key(name), what, "name another server");
        }
    }
}

/// Whether the route matches every message.
fn is_catch_all(route: &RouteConfig) -> bool {
    let everywhere =
        |list: &[DomainMatch]| list.is_empty() || list.iter().any(DomainMatch::is_everything);
    everywhere(&route.recipient_domain)
        && route.recipient.is_empty()
        && route.sender_domain.is_empty()
        && route.listener.is_empty()
        && route.tenants.is_empty()
        && route.campaigns.is_empty()
        && route.headers.is_empty()
}

/// Whether `earlier` matches everything that `later` matches.
fn takes_all_of(earlier: &RouteConfig, later: &RouteConfig) -> bool {
    let everything = |list: &[DomainMatch]| list.iter().any(DomainMatch::is_everything);
    let domains = |earlier: &[DomainMatch], later: &[DomainMatch]| {
        covers(earlier, later, DomainMatch::covers)
    };
    (everything(&earlier.recipient_domain)
        || domains(&earlier.recipient_domain, &later.recipient_domain))
        && covers(&earlier.recipient, &later.recipient, RecipientAddress::eq)
        && domains(&earlier.sender_domain, &later.sender_domain)
        && covers(&earlier.listener, &later.listener, Label::eq)
        && covers(&earlier.tenants, &later.tenants, Label::eq)
        && covers(&earlier.campaigns, &later.campaigns, LabelValue::eq)
        && covers(&earlier.headers, &later.headers, HeaderMatch::covers)
}

/// Whether a condition with the entries of `earlier` holds whenever that of `later` does.
fn covers<T>(earlier: &[T], later: &[T], covers: fn(&T, &T) -> bool) -> bool {
    let is_covered = |one: &T| earlier.iter().any(|by| covers(by, one));
    earlier.is_empty() || (!later.is_empty() && later.iter().all(is_covered))
}
