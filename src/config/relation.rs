//! Relations between keys: contradictions, and settings that are probably mistakes.
//!
//! Promise:  a relation is checked only if none of its keys was refused, so that one mistake is one
//!           fault. Keys that a reload can change are related only to each other, except within a
//!           listener, where `change` ensures it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::delivery::list::check_names;
use crate::config::delivery::relation as delivery_relation;
use crate::config::host::HostFacts;
use crate::config::kind::Kind;
use crate::config::model::Config;
use crate::config::process::QUEUE_MEMORY_MIN;
use crate::config::reading::Reading;
use crate::config::receiving::BODY_MEMORY_MIN;
use crate::config::receiving::ListenerConfig;
use crate::config::value::CoreSet;
use crate::config::value::MonitorListen;
use crate::config::value::Partitions;
use crate::config::value::TlsMode;
use crate::wire::smtp::LineEnding;
use crate::wire::smtp::Protocol;
use crate::wire::tls::ClientCertificates;

/// Bytes of the path of a Unix socket on Linux, without the NUL behind it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Recipients that a server must accept (RFC 5321 s4.5.3.1.8).
const RECIPIENTS_EXPECTED: usize = 100;

/// How long a server should wait for a command (RFC 5321 s4.5.3.2.7).
const COMMAND_WAIT_EXPECTED: Duration = Duration::from_secs(5 * 60);

/// SMTP's own port; RFC 2033 s5 forbids LMTP there.
const PORT_SMTP: u16 = 25;

/// Checks everything that involves more than one key.
pub fn check(config: &Config, host: &HostFacts, reading: &mut Reading<'_>) {
    check_server(config, reading);
    let paths = listener_paths(config, reading);
    for (listener, path) in config.listeners.iter().zip(&paths) {
        check_listener(listener, path, reading);
        warn_of_port(config, host, listener, path, reading);
        warn_of_listener(listener, path, reading);
    }
    check_addresses(config, &paths, reading);
    check_names("listener", config.listeners.iter().map(|one| &one.name), reading);
    check_relay(config, reading);
    check_networks(config, reading);
    check_limits(config, reading);
    check_certificates(config, reading);
    check_queue(config, reading);
    delivery_relation::check(config, reading);
    check_control(config, reading);
}

/// The path of each listener: with its number if it is set.
fn listener_paths(config: &Config, reading: &Reading<'_>) -> Vec<String> {
    let written = reading.is_written("listener[1]");
    let path = |place| if written { format!("listener[{place}]") } else { "listener".to_owned() };
    (1..=config.listeners.len()).map(path).collect()
}

fn check_server(config: &Config, reading: &mut Reading<'_>) {
    let server = &config.server;
    if !server.hostname.is_qualified() {
        let what = format!("\"{}\" is not a fully qualified name", server.hostname);
        let hint = "set the name of this host in DNS, as hostname = \"mail.example.com\"";
        match reading.is_written("server.hostname") {
            true => reading.contradiction(&["server.hostname"], what, hint),
            false => reading.warn("server.hostname", what, hint),
        }
    }
    if server.group.is_some() && server.user.is_none() {
        reading.contradiction(
            &["server.group", "server.user"],
            "is set without a user",
            "set server.user too",
        );
    }
}

fn check_listener(listener: &ListenerConfig, path: &str, reading: &mut Reading<'_>) {
    let key = |name: &str| format!("{path}.{name}");
    let mut contradiction = |names: [&str; 2], what: &str, hint: &str| {
        let [first, second] = names.map(key);
        reading.contradiction(&[&first, &second], what, hint);
    };
    let asks = listener.client_certificates != ClientCertificates::None;
    if listener.address.is_empty() {
        contradiction(["address", "address"], "is empty", "write at least one address");
    }
    if listener.tls == TlsMode::None && listener.tls_required {
        let hint = "set tls to \"starttls\" or \"implicit\", or tls_required to false";
        contradiction(["tls_required", "tls"], "TLS is required but tls is \"none\"", hint);
    }
    if listener.tls == TlsMode::None && asks {
        let hint = "set tls to \"starttls\" or \"implicit\"";
        contradiction(["client_certificates", "tls"], "needs TLS but tls is \"none\"", hint);
    }
    if asks && listener.client_ca.is_none() {
        let hint = "set client_ca to a file with CA certificates";
        contradiction(["client_certificates", "client_ca"], "needs client_ca", hint);
    }
    if listener.line_ending == LineEnding::Normalise && listener.trusted_from.is_empty() {
        let hint = "set trusted_from to the networks that need it";
        let what = "\"normalise\" is for trusted networks only";
        contradiction(["line_ending", "trusted_from"], what, hint);
    }
    if listener.protocol == Protocol::Lmtp
        && listener.address.iter().any(|address| address.port() == PORT_SMTP)
    {
        let hint = "use another port, such as 24";
        contradiction(["address", "protocol"], "LMTP must not use port 25 (RFC 2033)", hint);
    }
}

fn warn_of_port(
    config: &Config,
    host: &HostFacts,
    listener: &ListenerConfig,
    path: &str,
    reading: &mut Reading<'_>,
) {
    let privileged = |address: &&SocketAddr| (1..host.ports_from).contains(&address.port());
    if let Some(address) = listener.address.iter().find(privileged)
        && config.server.user.is_none()
    {
        let what = format!("port {} needs a privilege to be bound", address.port());
        let hint = "start as root with server.user set, with CAP_NET_BIND_SERVICE, or where \
                    net.ipv4.ip_unprivileged_port_start allows it";
        reading.warn(&format!("{path}.address"), what, hint);
    }
}

fn warn_of_listener(listener: &ListenerConfig, path: &str, reading: &mut Reading<'_>) {
    let key = |name: &str| format!("{path}.{name}");
    for (name, networks) in [
        ("proxy_from", &listener.proxy_from),
        ("xclient_from", &listener.xclient_from),
        ("trusted_from", &listener.trusted_from),
    ] {
        if let Some(network) = whole_internet(networks) {
            let what = format!("{network} trusts every client");
            let hint = "list only the networks that need it";
            reading.warn(&key(name), what, hint);
        }
    }
    if listener.line_ending == LineEnding::Strict && !listener.trusted_from.is_empty() {
        let hint = "set line_ending to \"normalise\", or leave it out";
        reading.warn(&key("trusted_from"), "has no effect", hint);
    }
    if listener.client_certificates == ClientCertificates::None && listener.client_ca.is_some() {
        let hint = "set client_certificates to \"optional\" or \"required\"";
        reading.warn(&key("client_ca"), "has no effect", hint);
    }
}

/// Each address may be used once. Port 0 is a new port each time.
fn check_addresses(config: &Config, paths: &[String], reading: &mut Reading<'_>) {
    let mut taken = Vec::new();
    for (listener, path) in config.listeners.iter().zip(paths) {
        let key = format!("{path}.address");
        for address in listener.address.iter().filter(|address| address.port() != 0) {
            check_unique(&mut taken, *address, "used", &key, reading);
        }
    }
    if let MonitorListen::At(http) = config.monitor.listen {
        check_unique(&mut taken, http, "used", "monitor.listen", reading);
    }
}

/// Refuses a value that an earlier place of a list, or of another section's list, holds too.
fn check_unique<T: PartialEq + Display>(
    taken: &mut Vec<(T, String)>,
    value: T,
    how: &str,
    key: &str,
    reading: &mut Reading<'_>,
) {
    if let Some((_, by)) = taken.iter().find(|(other, _)| *other == value) {
        let elsewhere = format!("it is also set in {by}");
        let hint = if by == key { "write it once".to_owned() } else { elsewhere };
        reading.contradiction(&[key, by], format!("{value} is {how} twice"), hint);
    }
    taken.push((value, key.to_owned()));
}

fn check_relay(config: &Config, reading: &mut Reading<'_>) {
    let relay = &config.relay;
    if let Some(network) = whole_internet(&relay.networks) {
        let what = format!("{network} allows every client to relay (open relay)");
        reading.warn("relay.networks", what, "list only the networks of your own hosts");
    }
    for domain in relay.domains.iter().filter(|one| relay.refuse_recipients.contains(one)) {
        let what = format!("\"{domain}\" is both accepted and refused");
        let hint = "remove it from refuse_recipients or from domains";
        let keys = ["relay.refuse_recipients", "relay.domains"];
        reading.contradiction(&keys, what, hint);
    }
}

/// A network can belong to one tenant only.
fn check_networks(config: &Config, reading: &mut Reading<'_>) {
    if !reading.is_clean("network") {
        return;
    }
    let mut taken = Vec::new();
    for (place, network) in config.networks.iter().enumerate() {
        let key = format!("network[{}].cidr", place + 1);
        if network.cidr.is_empty() {
            reading.contradiction(&[&key], "is empty", "write at least one network");
        }
        if let Some(everyone) = whole_internet(&network.cidr) {
            let what = format!("{everyone} allows every client to relay (open relay)");
            reading.warn(&key, what, "list only the networks of this tenant");
        }
        for cidr in &network.cidr {
            check_unique(&mut taken, *cidr, "listed", &key, reading);
        }
    }
}

fn check_limits(config: &Config, reading: &mut Reading<'_>) {
    let limits = &config.limits;
    let per_session = (limits.messages_per_session, limits.commands_per_session);
    let per_address = (limits.connections_per_address, limits.connections_per_network);
    let per_network = (limits.connections_per_network, limits.connections);
    for ((low, high), low_name, high_name) in [
        (per_address, "limits.connections_per_address", "limits.connections_per_network"),
        (per_network, "limits.connections_per_network", "limits.connections"),
        (per_session, "limits.messages_per_session", "limits.commands_per_session"),
    ] {
        if low > high {
            let what = format!("{low} can never be reached: {high_name} is {high}");
            let hint = format!("lower it, or raise {high_name}");
            reading.contradiction(&[low_name, high_name], what, hint);
        }
    }
    if let CoreSet::List(cores) = &config.server.cores {
        let needed = BODY_MEMORY_MIN * cores.len() as u64;
        if limits.body_memory < needed {
            let shown = <u64 as Kind>::show(needed);
            let what = format!("is too little for {} cores", cores.len());
            let keys = ["limits.body_memory", "server.cores"];
            reading.contradiction(&keys, what, format!("the minimum is {shown}"));
        }
    }
    if limits.recipients_per_message < RECIPIENTS_EXPECTED {
        let what = format!("senders may rely on {RECIPIENTS_EXPECTED} recipients");
        let hint = "see RFC 5321 s4.5.3.1.8";
        reading.warn("limits.recipients_per_message", what, hint);
    }
    if config.timeouts.command < COMMAND_WAIT_EXPECTED {
        let what = "senders may rely on 5m for a command";
        reading.warn("timeouts.command", what, "see RFC 5321 s4.5.3.2.7");
    }
}

fn check_certificates(config: &Config, reading: &mut Reading<'_>) {
    // A refused certificate is not in the list, so the numbers of later ones would be wrong.
    if !reading.is_clean("tls.certificate") {
        return;
    }
    let files: Vec<_> = config.certificates.iter().map(|one| &one.certificate).collect();
    for (place, file) in files.iter().enumerate() {
        if let Some(first) = files[..place].iter().position(|other| other == file) {
            let key = format!("tls.certificate[{}].certificate", place + 1);
            let what = format!("names the same file as tls.certificate[{}]", first + 1);
            reading.contradiction(&[&key], what, "list each certificate once");
        }
    }
}

fn check_queue(config: &Config, reading: &mut Reading<'_>) {
    let queue = &config.queue;
    if let Partitions::Count(count) = queue.partitions
        && queue.memory < QUEUE_MEMORY_MIN * count as u64
    {
        let shown = <u64 as Kind>::show(QUEUE_MEMORY_MIN * count as u64);
        let what = format!("is too little for {count} partitions");
        let keys = ["queue.memory", "queue.partitions"];
        reading.contradiction(&keys, what, format!("the minimum is {shown}"));
    }
    if !queue.sync {
        let what = "a power cut loses accepted mail";
        let hint = "sync = false is for tests only; remove it";
        reading.warn("queue.sync", what, hint);
    }
}

fn check_control(config: &Config, reading: &mut Reading<'_>) {
    let bytes = config.control.socket.as_os_str().as_bytes().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let what = format!("the path has {bytes} bytes; the limit is {SOCKET_PATH_BYTES_MAX}");
        let hint = "use a shorter path, as socket = \"/run/ringpost.sock\"";
        let written = reading.is_written("control.socket");
        let keys = ["control.socket", "server.spool"];
        reading.contradiction(&keys[..if written { 1 } else { 2 }], what, hint);
    }
    if let MonitorListen::At(http) = config.monitor.listen
        && !http.ip().is_loopback()
    {
        let what = format!("{http} is reachable from other hosts without authentication");
        reading.warn("monitor.listen", what, "listen on 127.0.0.1 or [::1]");
    }
}

/// The network in a list that contains every address.
fn whole_internet(networks: &[IpNet]) -> Option<&IpNet> {
    networks.iter().find(|network| network.prefix_len() == 0)
}
