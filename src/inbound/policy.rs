//! The policy of sessions: one immutable snapshot, replaced as a whole by a reload.
//!
//! A session keeps the snapshot with which it started; new sessions use the new one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::directory::Networks;
use crate::inbound::counts::ConnectionLimits;
use crate::net::TlsServer;
use crate::route::relay::RelayPolicy;
use crate::submit::HeadPolicy;
use crate::wire::smtp::server::ServerConfig;

/// Settings that all listeners share.
pub struct Policy {
    pub relay: RelayPolicy,
    pub connections: ConnectionLimits,
    /// Who may send to any domain, and for which tenant.
    pub networks: Networks,
    /// Bytes of a body line; `None` for no limit.
    pub line_bytes_max: Option<u64>,
    /// Networks without limits per address and network.
    pub exempt: Vec<IpNet>,
    pub timeouts: Timeouts,
    pub rate: MinimumRate,
    /// Settings for header blocks.
    pub head: Arc<HeadPolicy>,
    pub listeners: Vec<Arc<ListenerPolicy>>,
}

/// Settings of one listener: protocol, TLS, and trusted networks.
pub struct ListenerPolicy {
    pub name: Arc<str>,
    pub security: Security,
    pub tls: Option<Arc<TlsServer>>,
    pub greeting_delay: Duration,
    pub proxy_from: Vec<IpNet>,
    /// Clients that may use XCLIENT.
    pub xclient_from: Vec<IpNet>,
    /// Clients whose line endings are normalised instead of refused.
    pub normalise_from: Vec<IpNet>,
    pub server: Arc<ServerConfig>,
    /// By whether the client may use XCLIENT, then by whether its line endings are normalised.
    pub servers: [[Arc<ServerConfig>; 2]; 2],
}

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plain,
    StartTls,
    Implicit,
}

/// Deadlines of a session (RFC 5321 s4.5.3.2).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub proxy_header: Duration,
    pub handshake: Duration,
    pub greeting: Duration,
    pub command: Duration,
    pub idle: Duration,
    pub data_init: Duration,
    pub data_block: Duration,
    pub reply: Duration,
}

/// The slowest body that is accepted. A slower one ends its session.
#[derive(Clone, Copy, Debug)]
pub struct MinimumRate {
    pub bytes_per_second: u64,
    pub grace: Duration,
}

/// Whether one of the networks contains the address. A mapped IPv4 address counts as IPv4.
pub fn holds(networks: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    networks.iter().any(|network| network.contains(&peer))
}
