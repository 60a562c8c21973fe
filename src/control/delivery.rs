//! Makes the policy of delivery from the config.
//!
//! Promise:  as `assemble`: built completely or not at all, and all errors are reported.

use std::fmt::Display;
use std::fs::File;
use std::hash::DefaultHasher;
use std::hash::Hasher;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::backoff::RetrySchedule;
use crate::base::limits::REPLY_RULES_BYTES_MAX;
use crate::config::Config;
use crate::config::Label;
use crate::config::ListenerConfig;
use crate::config::RouteConfig;
use crate::config::SenderReports;
use crate::config::SourceConfig;
use crate::control::secret;
use crate::net::AddressRule;
use crate::net::address;
use crate::route::BouncePolicy;
use crate::route::Credentials;
use crate::route::DeliveryPolicy;
use crate::route::DestinationTable;
use crate::route::RouteStandard;
use crate::route::RouteTable;
use crate::route::Rule;
use crate::route::Source;
use crate::route::SourceTable;
use crate::route::TenantTable;
use crate::wire::classify::Classifier;
use crate::wire::classify::RulesFile;
use crate::wire::proxy_url::Proxy;
use crate::wire::socks5::LOGIN_BYTES_MAX;
use crate::wire::socks5::ProxyLogin;

pub use crate::control::secret::Secrets;

/// Builds the policy, or names all faults.
pub fn policy(config: &Config, secrets: Secrets) -> Result<DeliveryPolicy, Vec<String>> {
    let delivery = &config.delivery;
    let mut faults = Vec::new();
    let sources = sources(config, secrets, &mut faults);
    let routes = routes(config, &sources, secrets, &mut faults);
    let addresses = addresses(config).map_err(|fault| faults.push(fault)).unwrap_or_default();
    let retry = RetrySchedule::new(delivery.retry_schedule.clone().into(), delivery.retry_jitter);
    if retry.is_none() {
        faults.push("delivery.retry_schedule: is empty or contains a delay of zero".to_owned());
    }
    let replies = replies(config).map_err(|fault| faults.push(fault)).ok();
    let (Some(retry), Some(replies), true) = (retry, replies, faults.is_empty()) else {
        return Err(faults);
    };
    Ok(DeliveryPolicy {
        enabled: delivery.enabled,
        routes,
        destinations: DestinationTable::build(&config.destinations, &config.destination_defaults),
        sources,
        tenants: TenantTable::build(&config.tenants),
        fingerprint: fingerprint(config),
        retry,
        delay_warning: Some(delivery.delay_warning).filter(|after| !after.is_zero()),
        bounce: bounce(config),
        ehlo_name: delivery.ehlo_name.as_str().into(),
        prefer_ipv6: delivery.prefer_ipv6,
        addresses: Arc::new(addresses),
        dane: delivery.dane,
        mta_sts: delivery.mta_sts,
        mta_sts_port: delivery.mta_sts_port,
        mx_hosts_max: delivery.mx_hosts_max,
        connections_max: delivery.connections_max,
        jobs_in_memory_max: delivery.jobs_in_memory_max,
        replies,
        timeouts: config.delivery_timeouts.clone(),
        resolver: config.resolver.clone(),
    })
}

/// Of the routes, destinations and pools. Another release may get another number from the same
/// config, which costs one pass over the mail that is filed.
fn fingerprint(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    let settings = (&config.routes, &config.destinations, &config.delivery.pool);
    hasher.write(format!("{settings:?}").as_bytes());
    hasher.finish()
}

/// The rules of the operator's files, before those compiled in.
fn replies(config: &Config) -> Result<Arc<Classifier>, String> {
    let read = |path: &PathBuf| -> std::io::Result<String> {
        let mut text = String::new();
        let file = File::open(path)?;
        file.take(REPLY_RULES_BYTES_MAX + 1).read_to_string(&mut text)?;
        match text.len() as u64 > REPLY_RULES_BYTES_MAX {
            true => Err(std::io::ErrorKind::FileTooLarge.into()),
            false => Ok(text),
        }
    };
    let files = config.delivery.reply_rules.iter().map(|path| {
        let name = path.display().to_string();
        let text = read(path).map_err(|cause| format!("delivery.reply_rules: {name}: {cause}"))?;
        Ok((name, text))
    });
    let files = files.collect::<Result<Vec<_>, String>>()?;
    let files: Vec<_> = files.iter().map(|(name, text)| RulesFile { name, text }).collect();
    let rules =
        Classifier::with(&files).map_err(|fault| format!("delivery.reply_rules: {fault}"))?;
    Ok(Arc::new(rules))
}

fn addresses(config: &Config) -> Result<AddressRule, String> {
    let local = address::local_networks()
        .map_err(|cause| format!("the addresses of this machine cannot be read: {cause}"))?;
    let listeners = config.listeners.iter().flat_map(|one| one.address.iter().copied()).collect();
    Ok(AddressRule { listeners, local, allowed: config.delivery.allow_networks.clone() })
}

fn sources(config: &Config, secrets: Secrets, faults: &mut Vec<String>) -> SourceTable {
    let standard = &config.delivery.ehlo_name;
    let sources = config.sources.iter().map(|source| Source {
        name: source.name.as_str().into(),
        ipv4: source.ipv4,
        ipv6: source.ipv6,
        ehlo_name: source.ehlo_name.as_ref().unwrap_or(standard).as_str().into(),
        proxy: proxy(source, secrets).map_err(|fault| faults.push(fault)).ok().flatten(),
    });
    SourceTable::build(sources.collect(), &config.pools)
}

fn routes(
    config: &Config,
    sources: &SourceTable,
    secrets: Secrets,
    faults: &mut Vec<String>,
) -> RouteTable {
    // The config check refuses names of unknown pools.
    let pool = |name: &Option<Label>| name.as_ref().and_then(|name| sources.pool(name.as_str()));
    let rules = config.routes.iter().map(|route| {
        let auth = credentials(route, secrets).map_err(|fault| faults.push(fault)).ok().flatten();
        Rule::new(route.clone(), auth, pool(&route.pool))
    });
    let rules = rules.collect();
    let standard = RouteStandard {
        own_domain: config.server.hostname.as_str().into(),
        pool: pool(&config.delivery.pool),
        max_age: config.delivery.max_age,
    };
    RouteTable::build(rules, standard)
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

fn bounce(config: &Config) -> BouncePolicy {
    let delivery = &config.delivery;
    let host = &config.server.hostname;
    BouncePolicy {
        from: delivery.bounce_from.at(host).into(),
        postmaster: delivery.postmaster.as_ref().map(|address| address.at(host).into()),
        body_bytes_max: delivery.bounce_body_max,
        per_minute_max: delivery.bounce_rate,
        listeners: config.listeners.iter().filter_map(reports_of).collect(),
    }
}

fn reports_of(listener: &ListenerConfig) -> Option<(Box<str>, SenderReports)> {
    let is_usual = listener.dsn == SenderReports::All;
    (!is_usual).then(|| (listener.name.as_str().into(), listener.dsn))
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

    #[test]
    fn another_way_of_mail_has_another_fingerprint() {
        let of = |text: &str| {
            let host = HostFacts {
                hostname: "mx.ours.test".to_owned(),
                ports_from: 1024,
                ..HostFacts::default()
            };
            fingerprint(&load(text, "f", &host).expect("it is good").config)
        };
        let route = "[[route]]\nnext = 'smtp:a.test:25'\n";
        let destination = "[[destination]]\nname = 'a'\nrecipient_domain = ['a.test']\n";
        let others = ["", "[[route]]\nnext = 'smtp:b.test:25'\n", destination];
        for other in others {
            assert_ne!(of(route), of(other), "{other}");
        }
        let limit = format!("[destination_defaults]\nconnections_max = 30\n{route}");
        assert_eq!(of(route), of(&limit), "a limit moves no mail");
    }
}
