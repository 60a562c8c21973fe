//! Makes the policy of delivery from the config.
//!
//! Promise:  as `assemble`: built completely or not at all, and all errors are reported.

use std::fmt::Display;
use std::sync::Arc;

use crate::base::backoff::RetrySchedule;
use crate::config::Config;
use crate::config::ConfigStripes;
use crate::config::DestinationDefaults;
use crate::config::DomainMatch;
use crate::config::HeaderMatch as ConfigHeaderMatch;
use crate::config::LabelValue;
use crate::config::OutboundTls as ConfigOutboundTls;
use crate::config::RouteConfig;
use crate::config::SourceConfig;
use crate::config::ValueMatch as ConfigValueMatch;
use crate::control::secret;
use crate::net::CacheBounds;
use crate::net::ResolverSettings;
use crate::outbound::reroute;
use crate::route::BouncePolicy;
use crate::route::Credentials;
use crate::route::DeliveryPolicy;
use crate::route::DeliveryTimeouts;
use crate::route::DestinationPolicy;
use crate::route::DestinationSettings;
use crate::route::DestinationTable;
use crate::route::HeaderMatch;
use crate::route::OutboundTls;
use crate::route::PoolId;
use crate::route::PoolSettings;
use crate::route::Rates;
use crate::route::RouteSettings;
use crate::route::RouteStandard;
use crate::route::RouteTable;
use crate::route::Source;
use crate::route::SourceTable;
use crate::route::Stripes;
use crate::route::ValueMatch;
use crate::wire::proxy_url::Proxy;
use crate::wire::socks5::LOGIN_BYTES_MAX;
use crate::wire::socks5::ProxyLogin;

pub use crate::control::secret::Secrets;

/// Builds the policy, or names all faults.
pub fn policy(config: &Config, secrets: Secrets) -> Result<DeliveryPolicy, Vec<String>> {
    let delivery = &config.delivery;
    let mut faults = Vec::new();
    let sources =
        sources(config, secrets).map_err(|found| faults.extend(found)).unwrap_or_default();
    let destinations =
        destinations(config).map_err(|found| faults.extend(found)).unwrap_or_default();
    let routes = routes(config, &sources, secrets).map_err(|found| faults.extend(found)).ok();
    let retry = RetrySchedule::new(delivery.retry_schedule.clone().into(), delivery.retry_jitter);
    if retry.is_none() {
        faults.push("delivery.retry_schedule: is empty or contains a delay of zero".to_owned());
    }
    let (Some(routes), Some(retry), true) = (routes, retry, faults.is_empty()) else {
        return Err(faults);
    };
    Ok(DeliveryPolicy {
        enabled: delivery.enabled,
        routes,
        destinations,
        sources,
        retry,
        delay_warning: Some(delivery.delay_warning).filter(|after| !after.is_zero()),
        bounce: bounce(config),
        ehlo_name: delivery.ehlo_name.as_str().into(),
        prefer_ipv6: delivery.prefer_ipv6,
        dane: delivery.dane,
        mta_sts: delivery.mta_sts,
        mta_sts_port: u16::try_from(delivery.mta_sts_port).unwrap_or(443),
        mx_hosts_max: delivery.mx_hosts_max,
        connections_max: clamp(delivery.connections_max),
        jobs_in_memory_max: delivery.jobs_in_memory_max,
        timeouts: timeouts(config),
        resolver: resolver(config),
    })
}

fn sources(config: &Config, secrets: Secrets) -> Result<SourceTable, Vec<String>> {
    let standard = &config.delivery.ehlo_name;
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for source in &config.sources {
        sources.push(Source {
            name: source.name.as_str().into(),
            ipv4: source.ipv4,
            ipv6: source.ipv6,
            ehlo_name: source.ehlo_name.as_ref().unwrap_or(standard).as_str().into(),
            proxy: proxy(source, secrets).map_err(|fault| faults.push(fault)).ok().flatten(),
        });
    }
    let pools: Vec<PoolSettings> = config
        .pools
        .iter()
        .map(|pool| {
            let members = pool.sources.iter();
            PoolSettings {
                name: pool.name.as_str().to_owned(),
                members: members
                    .map(|member| (member.source.as_str().to_owned(), member.weight))
                    .collect(),
            }
        })
        .collect();
    let table = SourceTable::build(sources, &pools);
    match table {
        Ok(table) if faults.is_empty() => Ok(table),
        Ok(_) => Err(faults),
        Err(problems) => {
            faults.extend(lines(&problems));
            Err(faults)
        }
    }
}

fn destinations(config: &Config) -> Result<DestinationTable, Vec<String>> {
    let destinations: Vec<DestinationSettings> = config
        .destinations
        .iter()
        .map(|destination| DestinationSettings {
            name: destination.name.as_str().to_owned(),
            recipient_domains: texts(&destination.recipient_domain),
            mx_hosts: texts(&destination.mx_host),
            policy: destination_policy(&destination.treatment(&config.destination_defaults)),
        })
        .collect();
    DestinationTable::build(&destinations, destination_policy(&config.destination_defaults))
        .map_err(|problems| lines(&problems))
}

fn destination_policy(treatment: &DestinationDefaults) -> DestinationPolicy {
    let rate = |limit: usize| Some(clamp(limit)).filter(|limit| *limit > 0);
    DestinationPolicy {
        connections_max: clamp(treatment.connections_max),
        window_start: clamp(treatment.window_start),
        messages_per_connection: clamp(treatment.messages_per_connection),
        recipients_per_message: clamp(treatment.recipients_per_message),
        rates: Rates {
            per_second: rate(treatment.messages_per_second),
            per_minute: rate(treatment.messages_per_minute),
            per_hour: rate(treatment.messages_per_hour),
            per_day: rate(treatment.messages_per_day),
        },
        idle_reuse: treatment.idle_reuse,
        failures_to_back_off: clamp(treatment.failures_to_back_off),
        back_off_first: treatment.back_off_first,
        back_off_max: treatment.back_off_max,
        jobs_max: treatment.jobs_max,
        stripes: match treatment.stripes {
            ConfigStripes::Auto => Stripes::Auto,
            ConfigStripes::All => Stripes::All,
            ConfigStripes::Count(count) => Stripes::Count(count),
        },
        tls: outbound_tls(treatment.tls),
    }
}

fn routes(
    config: &Config,
    sources: &SourceTable,
    secrets: Secrets,
) -> Result<RouteTable, Vec<String>> {
    let mut faults = Vec::new();
    let mut users = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let user = credentials(route, secrets);
        users.push(user.map_err(|fault| faults.push(fault)).ok().flatten());
    }
    let mut pool_of = |key: String, pool: Option<&crate::config::Label>| -> Option<PoolId> {
        let pool = pool?.as_str();
        let found = sources.pool(pool);
        if found.is_none() {
            faults.push(format!("{key}: no pool is named {pool}"));
        }
        found
    };
    let standard = RouteStandard {
        own_domain: config.server.hostname.as_str().into(),
        pool: pool_of("delivery.pool".to_owned(), config.delivery.pool.as_ref()),
        max_age: config.delivery.max_age,
    };
    let routes: Vec<RouteSettings> = config
        .routes
        .iter()
        .zip(users)
        .map(|(route, user)| {
            let pool = pool_of(format!("route {}", route.name), route.pool.as_ref());
            RouteSettings { auth: user, ..route_settings(route, pool) }
        })
        .collect();
    let table = RouteTable::build(routes, standard);
    match table {
        Ok(table) if faults.is_empty() => Ok(table),
        Ok(_) => Err(faults),
        Err(problems) => {
            faults.extend(lines(&problems));
            Err(faults)
        }
    }
}

fn route_settings(route: &RouteConfig, pool: Option<PoolId>) -> RouteSettings {
    RouteSettings {
        name: route.name.as_str().to_owned(),
        recipient_domains: texts(&route.recipient_domain),
        sender_domains: texts(&route.sender_domain),
        listeners: route.listener.iter().map(|name| name.as_str().to_owned()).collect(),
        tenants: route.tenants.iter().map(ToString::to_string).collect(),
        campaigns: labels(&route.campaigns),
        headers: route.headers.iter().map(header_match).collect(),
        next: reroute::route_next(&route.next),
        tls: route.tls.map(outbound_tls),
        auth: None,
        pool,
        max_age: route.max_age,
    }
}

fn labels(values: &[LabelValue]) -> Vec<String> {
    values.iter().map(|value| value.as_str().to_owned()).collect()
}

fn header_match(written: &ConfigHeaderMatch) -> HeaderMatch {
    HeaderMatch {
        name: written.name.as_str().into(),
        value: match &written.value {
            ConfigValueMatch::Any => ValueMatch::Any,
            ConfigValueMatch::Exact(text) => ValueMatch::Exact(text.as_str().into()),
            ConfigValueMatch::Start(head) => ValueMatch::Start(head.as_str().into()),
        },
    }
}

/// The user of a route, with the password from its file.
fn credentials(route: &RouteConfig, secrets: Secrets) -> Result<Option<Arc<Credentials>>, String> {
    let (Some(user), Some(file)) = (&route.auth_user, &route.auth_password_file) else {
        return Ok(None);
    };
    let password = secret::password(file, secrets)
        .map_err(|cause| format!("route {}: auth_password_file {cause}", route.name))?;
    let user = user.as_str().into();
    Ok(Some(Arc::new(Credentials { user, password: password.into() })))
}

/// The proxy of a source, with the password from its file.
fn proxy(source: &SourceConfig, secrets: Secrets) -> Result<Option<Proxy>, String> {
    let (Some(Proxy::Socks5 { address, .. }), Some(user), Some(file)) =
        (&source.proxy, &source.proxy_user, &source.proxy_password_file)
    else {
        return Ok(source.proxy.clone());
    };
    let password = secret::password(file, secrets)
        .and_then(|password| match password.len() {
            0..=LOGIN_BYTES_MAX => Ok(password),
            _ => Err(format!("holds more than {LOGIN_BYTES_MAX} bytes, the limit of SOCKS 5")),
        })
        .map_err(|cause| format!("source {}: proxy_password_file {cause}", source.name))?;
    let login = ProxyLogin { user: user.as_str().into(), password: password.into() };
    Ok(Some(Proxy::Socks5 { address: *address, login: Some(login) }))
}

fn outbound_tls(mode: ConfigOutboundTls) -> OutboundTls {
    match mode {
        ConfigOutboundTls::None => OutboundTls::None,
        ConfigOutboundTls::May => OutboundTls::May,
        ConfigOutboundTls::Must => OutboundTls::Must,
        ConfigOutboundTls::Verify => OutboundTls::Verify,
    }
}

fn texts(domains: &[DomainMatch]) -> Vec<String> {
    domains.iter().map(ToString::to_string).collect()
}

fn bounce(config: &Config) -> BouncePolicy {
    let delivery = &config.delivery;
    let host = &config.server.hostname;
    BouncePolicy {
        from: delivery.bounce_from.at(host).into(),
        postmaster: delivery.postmaster.as_ref().map(|address| address.at(host).into()),
        body_bytes_max: delivery.bounce_body_max,
        per_minute_max: clamp(delivery.bounce_rate),
    }
}

fn timeouts(config: &Config) -> DeliveryTimeouts {
    let timeouts = &config.delivery_timeouts;
    DeliveryTimeouts {
        connect: timeouts.connect,
        tls_handshake: timeouts.tls_handshake,
        greeting: timeouts.greeting,
        ehlo: timeouts.ehlo,
        mail: timeouts.mail,
        rcpt: timeouts.rcpt,
        data_init: timeouts.data_init,
        data_block: timeouts.data_block,
        data_end: timeouts.data_end,
        quit: timeouts.quit,
    }
}

fn resolver(config: &Config) -> ResolverSettings {
    let resolver = &config.resolver;
    ResolverSettings {
        servers: resolver.servers.iter().map(|server| server.0).collect(),
        timeout: resolver.timeout,
        attempts: resolver.attempts as u32,
        cache: CacheBounds {
            entries: resolver.cache_entries,
            bytes: resolver.cache_memory as usize,
        },
        trust_ad: resolver.trust_ad,
        ..ResolverSettings::default()
    }
}

/// Limits of the config are far below 2^32; see their bounds.
pub(super) fn clamp(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

pub(super) fn lines(problems: &[impl Display]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostFacts;
    use crate::config::load;
    use crate::route::RouteQuestion;

    #[test]
    fn a_password_comes_from_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let text = format!(
            "[[route]]\nnext = 'smtp:relay.test:587'\ntls = 'verify'\nauth_user = 'us'\n\
             auth_password_file = '{}'\n",
            file.display()
        );
        let host = HostFacts {
            hostname: "mx.ours.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        };
        let config = load(&text, "f", &host).expect("it is good").config;
        let question = RouteQuestion { recipient_domain: "a.test", ..RouteQuestion::default() };
        let read = || {
            let policy = policy(&config, Secrets::Read).map_err(|faults| faults.join("; "))?;
            let user = policy.routes.next_hop(&question).auth.cloned();
            Ok::<_, String>(user.map(|user| user.password.to_string()))
        };
        let missing = read().expect_err("there is no file");
        assert!(missing.contains("route route-1: auth_password_file"), "{missing}");
        for (held, expected) in [
            ("secret\n", Some("secret")),
            ("s e\u{e9}", Some("s e\u{e9}")),
            ("secret\r\n", Some("secret")),
            ("", None),
            ("\n", None),
            ("two\nlines\n", None),
        ] {
            std::fs::write(&file, held).expect("it can be written");
            assert_eq!(read().ok().flatten().as_deref(), expected, "{held:?}");
        }
        let blind = policy(&config, Secrets::Withhold).expect("nothing is read");
        assert!(blind.routes.next_hop(&question).auth.is_some_and(|user| user.password.is_empty()));
    }
}
