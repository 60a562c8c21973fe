//! Makes the policy of sessions from the config, and with `delivery` the policy of delivery.
//!
//! Promise:  a policy is built completely or not at all, and all errors are reported. A reload that
//!           fails leaves the policy in force untouched.

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::StreamNumber;
use crate::base::clock::wall_ms;
use crate::config::CertificateConfig;
use crate::config::Config;
use crate::config::ListenerConfig;
use crate::config::Stream;
use crate::config::TlsMode;
use crate::control::delivery;
use crate::control::delivery::Secrets;
use crate::control::delivery::clamp;
use crate::control::delivery::lines;
use crate::control::secret;
use crate::directory::Network;
use crate::directory::Networks;
use crate::directory::Tenant;
use crate::inbound::counts::ConnectionLimits;
use crate::inbound::policy::ListenerPolicy;
use crate::inbound::policy::MinimumRate;
use crate::inbound::policy::Policy;
use crate::inbound::policy::Security;
use crate::inbound::policy::Timeouts;
use crate::net;
use crate::net::TlsServer;
use crate::net::TlsSettings;
use crate::observe::observed::CertificateExpiry;
use crate::route::DeliveryPolicy;
use crate::route::RelayPolicy;
use crate::submit::HeadPolicy;
use crate::submit::LabelFields;
use crate::wire::mail::WantedFields;
use crate::wire::smtp::LineEnding;
use crate::wire::smtp::Protocol;
use crate::wire::smtp::ServerConfig;

/// The folder of the spool with the self-signed certificate.
const TLS_FOLDER: &str = "tls";

/// Both policies, and warnings.
pub struct Assembled {
    pub policy: Policy,
    pub delivery: DeliveryPolicy,
    pub warnings: Vec<(String, String)>,
}

impl Assembled {
    /// The certificates that listeners serve, each once.
    pub fn certificates(&self) -> Vec<CertificateExpiry> {
        let servers = self.policy.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let mut served: Vec<CertificateExpiry> = servers
            .flat_map(|server| server.certificates())
            .map(|facts| CertificateExpiry {
                name: facts.names.first().cloned().unwrap_or_default(),
                file: facts.path.clone(),
                not_after_s: facts.not_after_s,
            })
            .collect();
        served.sort_by(|one, other| one.file.cmp(&other.file));
        served.dedup();
        served
    }
}

/// Builds the policy. One `ListenerPolicy` for each address of each listener, in the order of
/// `addresses`.
pub fn assemble(config: &Config) -> Result<Assembled, Vec<String>> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let delivery =
        delivery::policy(config, Secrets::Read).map_err(|problems| faults.extend(problems)).ok();
    warnings.extend(secret::warnings(config));
    let certificates = certificates(config, &mut faults, &mut warnings);
    let mut listeners = Vec::new();
    for written in &config.listeners {
        match listener(config, written, &certificates, &mut warnings) {
            Ok(policy) => {
                let policy = Arc::new(policy);
                listeners.extend(written.address.iter().map(|_| Arc::clone(&policy)));
            }
            Err(problems) => faults.extend(problems),
        }
    }
    match delivery {
        Some(delivery) if faults.is_empty() => {
            Ok(Assembled { policy: policy(config, listeners), delivery, warnings })
        }
        _ => Err(faults),
    }
}

/// The checks of `assemble`, without creating files: for `ringpost check`. Answers warnings with
/// their remedies.
pub fn check(config: &Config) -> Result<Vec<(String, String)>, Vec<String>> {
    let mut warnings = secret::warnings(config);
    let mut faults = Vec::new();
    if let Err(problems) = delivery::policy(config, Secrets::Read) {
        faults.extend(problems);
    }
    let pairs: Vec<_> = config.certificates.iter().map(certificate_pair).collect();
    for written in &config.listeners {
        if pairs.is_empty() {
            continue;
        }
        match TlsServer::build(&tls_settings(config, written, &pairs), wall_ms()) {
            Ok(server) => warnings.extend(told(&server)),
            Err(problems) => faults.extend(lines(&problems.0)),
        }
    }
    faults.sort();
    faults.dedup();
    warnings.dedup();
    if faults.is_empty() { Ok(warnings) } else { Err(faults) }
}

/// The warnings of a TLS server, with their remedies.
fn told(server: &TlsServer) -> Vec<(String, String)> {
    let warnings = server.warnings().iter();
    warnings.map(|one| (one.to_string(), one.cause.remedy().to_owned())).collect()
}

fn policy(config: &Config, listeners: Vec<Arc<ListenerPolicy>>) -> Policy {
    let limits = &config.limits;
    let timeouts = &config.timeouts;
    Policy {
        relay: RelayPolicy::build(&config.relay),
        connections: ConnectionLimits {
            connections: clamp(limits.connections),
            per_address: clamp(limits.connections_per_address),
            per_network: clamp(limits.connections_per_network),
            per_address_per_minute: clamp(limits.connection_rate_per_address),
            network_bits_v4: limits.network_prefix_v4,
            network_bits_v6: limits.network_prefix_v6,
        },
        networks: networks(config),
        line_bytes_max: limits.body_line_length.map(|bytes| bytes as u64),
        exempt: limits.exempt_networks.clone(),
        timeouts: Timeouts {
            proxy_header: timeouts.proxy_header,
            handshake: timeouts.tls_handshake,
            greeting: timeouts.greeting,
            command: timeouts.command,
            idle: timeouts.idle,
            data_init: timeouts.data_init,
            data_block: timeouts.data_block,
            reply: timeouts.reply,
        },
        rate: MinimumRate {
            bytes_per_second: limits.min_data_rate,
            grace: limits.min_data_rate_grace,
        },
        head: Arc::new(HeadPolicy {
            hostname: config.server.hostname.as_str().into(),
            received_max: clamp(limits.received_count),
            labels: labels(config),
        }),
        listeners,
    }
}

/// The header fields that delivery needs.
fn labels(config: &Config) -> LabelFields {
    let campaign = config.delivery.campaign_header.name();
    let headers = config.routes.iter().flat_map(|route| &route.headers);
    let routed: Vec<&str> = headers.map(|one| one.name.as_str()).collect();
    let wanted = WantedFields::new(campaign.into_iter().chain(routed.iter().copied()));
    let mut places: Vec<usize> =
        routed.into_iter().filter_map(|name| wanted.place_of(name)).collect();
    places.sort_unstable();
    places.dedup();
    LabelFields {
        campaign: campaign.and_then(|name| wanted.place_of(name)),
        routed: places,
        wanted: Arc::new(wanted),
    }
}

/// The trusted networks, those of tenants first.
fn networks(config: &Config) -> Networks {
    let of_tenants = config.networks.iter().flat_map(|written| {
        let tenant = Arc::new(Tenant::named(written.tenant.as_str()));
        let stream = match written.stream {
            Stream::Transactional => StreamNumber::TRANSACTIONAL,
            Stream::Broadcast => StreamNumber::BROADCAST,
        };
        let network =
            move |cidr: &IpNet| Network { cidr: *cidr, tenant: Some(Arc::clone(&tenant)), stream };
        written.cidr.iter().map(network).collect::<Vec<_>>()
    });
    let relay = config.relay.networks.iter().map(|cidr| Network {
        cidr: *cidr,
        tenant: None,
        stream: StreamNumber::TRANSACTIONAL,
    });
    Networks::new(of_tenants.chain(relay).collect())
}

fn certificate_pair(one: &CertificateConfig) -> (PathBuf, PathBuf) {
    (one.certificate.path().to_owned(), one.key.path().to_owned())
}

/// The certificates of the config, or else a self-signed one.
fn certificates(
    config: &Config,
    faults: &mut Vec<String>,
    warnings: &mut Vec<(String, String)>,
) -> Vec<(PathBuf, PathBuf)> {
    if config.listeners.iter().all(|listener| listener.tls == TlsMode::None) {
        return Vec::new();
    }
    if !config.certificates.is_empty() {
        return config.certificates.iter().map(certificate_pair).collect();
    }
    let folder = config.server.spool.join(TLS_FOLDER);
    match net::self_signed(config.server.hostname.as_str(), &folder, wall_ms()) {
        Ok(made) => {
            warnings.push((
                format!(
                    "no certificate is configured; using the self-signed {}",
                    made.certificate.display()
                ),
                "configure one under [[tls.certificate]]".to_owned(),
            ));
            vec![(made.certificate, made.key)]
        }
        Err(problem) => {
            faults.push(problem.to_string());
            Vec::new()
        }
    }
}

fn listener(
    config: &Config,
    written: &ListenerConfig,
    certificates: &[(PathBuf, PathBuf)],
    warnings: &mut Vec<(String, String)>,
) -> Result<ListenerPolicy, Vec<String>> {
    let security = match written.tls {
        TlsMode::None => Security::Plain,
        TlsMode::Starttls => Security::StartTls,
        TlsMode::Implicit => Security::Implicit,
    };
    let tls = match security {
        Security::Plain => None,
        Security::StartTls | Security::Implicit => {
            let server = TlsServer::build(&tls_settings(config, written, certificates), wall_ms());
            let server = server.map_err(|problems| lines(&problems.0))?;
            warnings.extend(told(&server));
            Some(server)
        }
    };
    let server = server_config(config, written);
    let normalising = written.line_ending == LineEnding::Normalise;
    Ok(ListenerPolicy {
        name: written.name.as_str().into(),
        security,
        tls,
        greeting_delay: written.greeting_delay,
        proxy_from: written.proxy_from.clone(),
        xclient_from: written.xclient_from.clone(),
        normalise_from: if normalising { written.trusted_from.clone() } else { Vec::new() },
        servers: [false, true].map(|xclient| {
            [LineEnding::Strict, LineEnding::Normalise].map(|line_ending| {
                Arc::new(ServerConfig { xclient, line_ending, ..server.clone() })
            })
        }),
        server: Arc::new(server),
    })
}

fn tls_settings(
    config: &Config,
    written: &ListenerConfig,
    certificates: &[(PathBuf, PathBuf)],
) -> TlsSettings {
    TlsSettings {
        certificates: certificates.to_vec(),
        min_version: config.tls.min_version,
        tickets: config.tls.session_tickets,
        client_certificates: written.client_certificates,
        client_ca: written.client_ca.as_ref().map(|file| file.path().to_owned()),
    }
}

fn server_config(config: &Config, written: &ListenerConfig) -> ServerConfig {
    let limits = &config.limits;
    let service = if written.protocol == Protocol::Lmtp { "LMTP" } else { "ESMTP" };
    ServerConfig {
        hostname: config.server.hostname.as_str().to_owned(),
        banner: format!("{service} {}", written.banner.as_str()),
        protocol: written.protocol,
        size_max: written.size_max.unwrap_or(limits.message_size),
        recipients_max: clamp(limits.recipients_per_message),
        messages_max: clamp(limits.messages_per_session),
        commands_max: clamp(limits.commands_per_session),
        errors_max: clamp(limits.errors_per_session),
        line_ending: LineEnding::Strict,
        starttls: written.tls == TlsMode::Starttls,
        tls_required: written.tls_required,
        xclient: false,
        reject_pipelining_violations: true,
    }
}
