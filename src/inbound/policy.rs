//! What a listener's sessions go by: one immutable snapshot, replaced as a whole by a reload.
//!
//! A session keeps the snapshot it began with; the next one sees the new.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::inbound::counts::ConnectionLimits;
use crate::net::TlsServer;
use crate::route::relay::RelayPolicy;
use crate::wire::mail::pick::WantedFields;
use crate::wire::smtp::server::ServerConfig;

/// Everything all listeners share.
pub struct Policy {
    pub relay: RelayPolicy,
    pub connections: ConnectionLimits,
    pub received_max: u32,
    /// Bytes of a body line; `None` leaves them alone.
    pub line_bytes_max: Option<u64>,
    /// The limits per address and network do not apply to these.
    pub exempt: Vec<IpNet>,
    pub timeouts: Timeouts,
    pub rate: MinimumRate,
    pub labels: LabelFields,
    pub listeners: Vec<Arc<ListenerPolicy>>,
}

/// The header fields that are kept with a message, by their places in `wanted`.
#[derive(Clone, Debug, Default)]
pub struct LabelFields {
    pub wanted: Arc<WantedFields>,
    pub tenant: Option<usize>,
    pub campaign: Option<usize>,
    /// Those that routes ask for.
    pub routed: Vec<usize>,
}

/// One listener: what it speaks and whom it trusts with what.
pub struct ListenerPolicy {
    pub name: String,
    pub security: Security,
    pub tls: Option<Arc<TlsServer>>,
    pub greeting_delay: Duration,
    pub proxy_from: Vec<IpNet>,
    /// For peers that may use XCLIENT.
    pub xclient_from: Vec<IpNet>,
    /// Peers whose line endings are normalised instead of refused.
    pub normalise_from: Vec<IpNet>,
    pub server: Arc<ServerConfig>,
    pub server_normalising: Arc<ServerConfig>,
    pub server_xclient: Arc<ServerConfig>,
    /// For peers that are in both.
    pub server_normalising_xclient: Arc<ServerConfig>,
}

/// How TLS comes into a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plain,
    StartTls,
    Implicit,
}

/// RFC 5321 s4.5.3.2, seen from the server.
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

/// Slower bodies are cut off: a slow loris is not a slow line.
#[derive(Clone, Copy, Debug)]
pub struct MinimumRate {
    pub bytes_per_second: u64,
    pub grace: Duration,
}

/// Whether one of the networks holds the address. A mapped IPv4 address counts as IPv4.
pub fn holds(networks: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    networks.iter().any(|network| network.contains(&peer))
}
