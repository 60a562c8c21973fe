//! Relations between the keys of delivery.
//!
//! Promise:  as in `config::relation`: none of a key that was refused. Where an element of a list
//!           was refused as a whole, its list is not judged, for its numbers would be wrong.

use crate::config::delivery::header::HeaderMatch;
use crate::config::delivery::model::DestinationDefaults;
use crate::config::delivery::model::RouteConfig;
use crate::config::delivery::value::DomainMatch;
use crate::config::delivery::value::Next;
use crate::config::delivery::value::Server;
use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::key::Section;
use crate::config::model::Config;
use crate::config::reading::Reading;
use crate::config::reading::find;
use crate::config::value::Label;
use crate::config::value::OutboundTls;
use crate::wire::mail::pick::NAMES_MAX;
use crate::wire::proxy_url::Proxy;

pub const DANE_IS_INERT: &str =
    "has no effect: TLSA records need DNSSEC-validated answers, and resolver.trust_ad is false";
pub const DANE_REMEDY: &str = "run a resolver that validates DNSSEC on this host, name it in \
                               resolver.servers and set resolver.trust_ad = true";

/// Whether `delivery.dane` is on and can do nothing.
pub fn dane_is_inert(config: &Config) -> bool {
    config.delivery.enabled && config.delivery.dane && !config.resolver.trust_ad
}

/// Judges what no key of delivery can be judged by alone.
pub fn check(config: &Config, reading: &mut Reading<'_>) {
    check_delivery(config, reading);
    check_sources(config, reading);
    check_pools(config, reading);
    if is_whole(&config.routes, reading) {
        check_routes(config, reading);
        check_header_names(config, reading);
    }
    check_treatment(
        &config.destination_defaults,
        &["destination_defaults".to_owned()],
        config,
        reading,
    );
    if is_whole(&config.destinations, reading) {
        check_destinations(config, reading);
    }
}

/// Whether each element that was written is in the list.
fn is_whole<T: Section>(list: &[T], reading: &Reading<'_>) -> bool {
    let written = find(reading.root, T::DOC.path).map_or(0, |written| written.list().len());
    written == list.len()
}

fn check_delivery(config: &Config, reading: &mut Reading<'_>) {
    let delivery = &config.delivery;
    match delivery.retry_schedule.first() {
        None => {
            let refusal = Refusal::new("is empty", "write at least one wait, as [\"15m\"]");
            reading.contradiction(&["delivery.retry_schedule"], refusal);
        }
        Some(first) if *first > delivery.max_age => {
            let what = "begins with a wait longer than delivery.max_age: nothing is tried twice";
            let keys = ["delivery.retry_schedule", "delivery.max_age"];
            let hint = "begin with a shorter wait, or raise delivery.max_age";
            reading.contradiction(&keys, Refusal::new(what, hint));
        }
        Some(_) => {}
    }
    if delivery.retry_schedule.windows(2).any(|pair| pair[0] > pair[1]) {
        let what = "a later wait is shorter than one before it";
        reading.warn("delivery.retry_schedule", Refusal::new(what, "let the waits grow"));
    }
    if delivery.delay_warning >= delivery.max_age {
        let what = "has no effect: the mail is returned before";
        let hint = "lower it, or write 0 to turn it off";
        reading.warn("delivery.delay_warning", Refusal::new(what, hint));
    }
    if dane_is_inert(config) && reading.is_written("delivery.dane") {
        let hint = format!("{DANE_REMEDY}, or write dane = false");
        reading.warn("delivery.dane", Refusal::new(DANE_IS_INERT, hint));
    }
    if let Some(pool) = &delivery.pool
        && let Some(refusal) = unknown("pool", pool, config.pools.iter().map(|one| &one.name))
        && is_whole(&config.pools, reading)
    {
        reading.contradiction(&["delivery.pool"], refusal);
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
            reading.contradiction(&keys, Refusal::new("has no address", "set ipv4 or ipv6"));
        }
    }
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
            reading.contradiction(&[&key], Refusal::new("is empty", "name at least one source"));
        }
        for (place, member) in pool.sources.iter().enumerate() {
            if pool.sources[..place].iter().any(|other| other.source == member.source) {
                let what = format!("names \"{}\" twice", member.source);
                let refusal = Refusal::new(what, "write it once, with a weight");
                reading.contradiction(&[&key], refusal);
            }
            let names = config.sources.iter().map(|one| &one.name);
            if sources_known && let Some(refusal) = unknown("source", &member.source, names) {
                reading.contradiction(&[&key], refusal);
            }
        }
    }
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
            reading.contradiction(&[&key("pool"), &key("next")], refusal);
        }
        for listener in &route.listener {
            let names = config.listeners.iter().map(|one| &one.name);
            if let Some(refusal) = unknown("listener", listener, names) {
                reading.contradiction(&[&key("listener")], refusal);
            }
        }
        check_labels(config, route, &key, reading);
        check_auth(route, &key, reading);
        check_tls(route, &key, reading);
        warn_of_route(config, route, &key, reading);
        let before = &config.routes[..place];
        if let Some(first) = before.iter().position(|earlier| takes_all_of(earlier, route)) {
            let what = format!("is never reached: route \"{}\" takes its mail", before[first].name);
            let hint = format!("write it above route[{}], or take it out", first + 1);
            reading.warn(&key("name"), Refusal::new(what, hint));
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
        let hint = format!("name the header field in {header}, or remove campaigns");
        reading.contradiction(&[&key("campaigns"), header], Refusal::new(what, hint));
    }
    let is_known = |tenant: &&Label| config.networks.iter().any(|one| one.tenant == **tenant);
    if let Some(tenant) = route.tenants.iter().find(|tenant| !is_known(tenant)) {
        let what = format!("no network belongs to the tenant \"{tenant}\"");
        let hint = "add a [[network]] with this tenant, or remove the tenant here";
        reading.warn(&key("tenants"), Refusal::new(what, hint));
    }
}

/// The values of all that are named are kept with each message.
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
            let what = format!("route \"{}\" makes it {count} header fields in all", route.name);
            let hint = format!("name at most {NAMES_MAX} in all routes, with that of the campaign");
            return reading.contradiction(&[&key], Refusal::new(what, hint));
        }
    }
}

/// A password is told only to servers that the operator names, and only under TLS.
fn check_auth(route: &RouteConfig, key: &dyn Fn(&str) -> String, reading: &mut Reading<'_>) {
    let (user, file) = (key("auth_user"), key("auth_password_file"));
    match (&route.auth_user, &route.auth_password_file) {
        (None, None) => return,
        (Some(_), Some(_)) => {}
        (Some(_), None) => {
            let refusal = Refusal::new("has no password", "set auth_password_file too");
            return reading.contradiction(&[&user, &file], refusal);
        }
        (None, Some(_)) => {
            let refusal = Refusal::new("is of no user", "set auth_user too");
            return reading.contradiction(&[&file, &user], refusal);
        }
    }
    if !matches!(route.next, Next::Smtp(_) | Next::Smtps(_)) {
        let what = "can only be used with \"smtp:\" or \"smtps:\", at servers that the route names";
        let hint = "name them, as next = \"smtp:relay.example.com:587\", or take it out";
        reading.contradiction(&[&user, &key("next")], Refusal::new(what, hint));
    } else if matches!(route.next, Next::Smtp(_))
        && !matches!(route.tls, Some(OutboundTls::Must | OutboundTls::Verify))
    {
        let what = "would send the password where everybody can read it";
        let refusal = Refusal::new(what, "set tls = \"verify\" for this route");
        reading.contradiction(&[&user, &key("tls")], refusal);
    }
}

/// TLS that the way there cannot have, or cannot be without.
fn check_tls(route: &RouteConfig, key: &dyn Fn(&str) -> String, reading: &mut Reading<'_>) {
    let is_unix = |server: &Server| server.host.starts_with('/');
    let refusal = match (&route.next, route.tls) {
        (Next::Smtps(_), Some(OutboundTls::None)) => {
            let what = "contradicts \"smtps:\", which is TLS from the first byte on";
            Refusal::new(what, "take it out, or write \"smtp:\" with the port for that")
        }
        (Next::Lmtp(servers), Some(OutboundTls::Must | OutboundTls::Verify))
            if servers.iter().any(is_unix) =>
        {
            let what =
                "cannot be had: there is no TLS over a Unix socket, which nobody can listen to";
            Refusal::new(what, "take it out")
        }
        _ => return,
    };
    reading.contradiction(&[&key("tls"), &key("next")], refusal);
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
                let refusal = Refusal::new("has no effect: no server is talked to", "take it out");
                reading.warn(&key(name), refusal);
            }
        }
    }
    if matches!(route.next, Next::Discard) && is_catch_all(route) {
        let what = "ALL MAIL THAT COMES THIS FAR IS THROWN AWAY";
        let hint = "name the domains meant in recipient_domain";
        reading.warn(&key("next"), Refusal::new(what, hint));
    }
    let own = |address| config.listeners.iter().any(|one| one.address.contains(&address));
    for server in route.next.servers() {
        if let Some(address) = server.address().filter(|address| own(*address)) {
            let what = format!("{address} is a listener of this server: mail would go in circles");
            reading.warn(&key("next"), Refusal::new(what, "name another server"));
        }
    }
}

/// Whether every message is for it.
fn is_catch_all(route: &RouteConfig) -> bool {
    let everywhere =
        |list: &[DomainMatch]| list.is_empty() || list.iter().any(DomainMatch::is_everything);
    everywhere(&route.recipient_domain)
        && route.sender_domain.is_empty()
        && route.listener.is_empty()
        && route.tenants.is_empty()
        && route.campaigns.is_empty()
        && route.headers.is_empty()
}

/// Whether nothing that `later` is for comes past `earlier`.
fn takes_all_of(earlier: &RouteConfig, later: &RouteConfig) -> bool {
    let covers = |earlier: &[DomainMatch], later: &[DomainMatch]| {
        let is_covered = |one: &DomainMatch| earlier.iter().any(|by| by.covers(one));
        earlier.is_empty() || (!later.is_empty() && later.iter().all(is_covered))
    };
    let everything = |list: &[DomainMatch]| list.iter().any(DomainMatch::is_everything);
    let recipients = everything(&earlier.recipient_domain)
        || covers(&earlier.recipient_domain, &later.recipient_domain);
    let headers = |earlier: &[HeaderMatch], later: &[HeaderMatch]| {
        let is_covered = |one: &HeaderMatch| earlier.iter().any(|by| by.covers(one));
        earlier.is_empty() || (!later.is_empty() && later.iter().all(is_covered))
    };
    recipients
        && covers(&earlier.sender_domain, &later.sender_domain)
        && holds_all(&earlier.listener, &later.listener)
        && holds_all(&earlier.tenants, &later.tenants)
        && holds_all(&earlier.campaigns, &later.campaigns)
        && headers(&earlier.headers, &later.headers)
}

/// Whether a condition of these names holds wherever the one of `later` does.
fn holds_all<T: PartialEq>(earlier: &[T], later: &[T]) -> bool {
    earlier.is_empty() || (!later.is_empty() && later.iter().all(|one| earlier.contains(one)))
}

fn check_destinations(config: &Config, reading: &mut Reading<'_>) {
    check_names("destination", config.destinations.iter().map(|one| &one.name), reading);
    for (place, destination) in config.destinations.iter().enumerate() {
        let path = format!("destination[{}]", place + 1);
        if destination.recipient_domain.is_empty() && destination.mx_host.is_empty() {
            let hint = "set recipient_domain or mx_host";
            let refusal = Refusal::new("has no effect: it is for nobody", hint);
            reading.warn(&format!("{path}.name"), refusal);
        }
        let treatment = destination.treatment(&config.destination_defaults);
        check_treatment(&treatment, &[path, "destination".to_owned()], config, reading);
        let before = &config.destinations[..place];
        for (key, list, others) in [
            (
                "recipient_domain",
                &destination.recipient_domain,
                before.iter().map(|one| &one.recipient_domain).collect::<Vec<_>>(),
            ),
            ("mx_host", &destination.mx_host, before.iter().map(|one| &one.mx_host).collect()),
        ] {
            for domain in list {
                let Some(first) = others.iter().position(|list| list.contains(domain)) else {
                    continue;
                };
                let key = format!("destination[{}].{key}", place + 1);
                let what = format!("\"{domain}\" is named by two destinations");
                let hint = format!("destination[{}] has it, and counts; write it once", first + 1);
                reading.contradiction(&[&key], Refusal::new(what, hint));
            }
        }
    }
}

/// Limits of a destination and those it inherits; what contradicts itself in the defaults already is not
/// told again of each destination.
fn check_treatment(
    treatment: &DestinationDefaults,
    paths: &[String],
    config: &Config,
    reading: &mut Reading<'_>,
) {
    let own = &paths[0];
    let is_told = |reading: &Reading<'_>, low: &str, high: &str| {
        let written = |key: &str| reading.is_written(&format!("{own}.{key}"));
        paths.len() == 1 || written(low) || written(high)
    };
    let pairs = [
        ("window_start", treatment.window_start, "connections_max", treatment.connections_max),
        (
            "back_off_first",
            treatment.back_off_first.as_millis() as usize,
            "back_off_max",
            treatment.back_off_max.as_millis() as usize,
        ),
    ];
    for (low_key, low, high_key, high) in pairs {
        if low > high && is_told(reading, low_key, high_key) {
            let what = format!("is above {high_key}");
            let hint = format!("lower it, or raise {own}.{high_key}");
            let of = |path: &String| [low_key, high_key].map(|key| format!("{path}.{key}"));
            let keys: Vec<String> = paths.iter().flat_map(of).collect();
            let all: Vec<&str> = keys.iter().map(String::as_str).collect();
            reading.contradiction(&all, Refusal::new(what, hint));
        }
    }
    let rates = [
        ("messages_per_second", treatment.messages_per_second),
        ("messages_per_minute", treatment.messages_per_minute),
        ("messages_per_hour", treatment.messages_per_hour),
    ];
    for (place, (short_key, short)) in rates.iter().enumerate() {
        for (long_key, long) in &rates[place + 1..] {
            if *long != 0 && short > long && is_told(reading, short_key, long_key) {
                let what = format!("has no effect: {long_key} is {long}");
                let hint = format!("lower it, or raise {long_key}");
                reading.warn(&format!("{own}.{short_key}"), Refusal::new(what, hint));
            }
        }
    }
    if treatment.connections_max > config.delivery.connections_max
        && is_told(reading, "connections_max", "connections_max")
    {
        let what = "is above delivery.connections_max, which is for all destinations together";
        let hint = "lower it, or raise delivery.connections_max";
        reading.warn(&format!("{own}.connections_max"), Refusal::new(what, hint));
    }
}

/// Each of a list needs a name of its own.
fn check_names<'c>(path: &str, names: impl Iterator<Item = &'c Label>, reading: &mut Reading<'_>) {
    let names: Vec<&Label> = names.collect();
    for (place, name) in names.iter().enumerate() {
        if let Some(first) = names[..place].iter().position(|other| other == name) {
            let keys = [place, first].map(|place| format!("{path}[{}].name", place + 1));
            let hint = format!("{} has it; each needs its own", keys[1]);
            let refusal = Refusal::new(format!("\"{name}\" is the name of two {path}s"), hint);
            reading.contradiction(&[&keys[0], &keys[1]], refusal);
        }
    }
}

/// Why there is no such thing, if there is none.
fn unknown<'c>(
    thing: &str,
    name: &Label,
    known: impl Iterator<Item = &'c Label>,
) -> Option<Refusal> {
    let mut known: Vec<&str> = known.map(Label::as_str).collect();
    known.dedup();
    if known.contains(&name.as_str()) {
        return None;
    }
    let hint = match nearest(name.as_str(), known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => format!("write a [[{thing}]] with this name"),
        None => format!("known are {}", known.join(", ")),
    };
    Some(Refusal::new(format!("there is no {thing} \"{name}\""), hint))
}
