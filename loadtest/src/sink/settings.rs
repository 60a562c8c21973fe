//! The settings of a sink: its options, checked and resolved.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringpost::net::TlsServer;

use crate::report::Live;
use crate::sink::behaviour::Behaviours;

/// All settings of one sink.
#[derive(Debug)]
pub struct Settings {
    pub places: Vec<SocketAddr>,
    pub backlog: u32,
    pub cores: usize,
    pub connections_max: usize,
    pub messages_max: Option<u64>,
    pub sessions_max: Option<u64>,
    pub hostname: String,
    pub lmtp: bool,
    /// The keywords of EHLO without STARTTLS. `None`: EHLO is unknown.
    pub offers: Option<Vec<&'static str>>,
    pub tls: Option<Arc<TlsServer>>,
    pub tls_first: bool,
    pub timeout: Duration,
    pub verbose: bool,
    pub behaviours: Option<Arc<Behaviours>>,
    pub seed: u64,
    /// Memory of each shard's ledger.
    pub ledger_bytes_max: usize,
    /// Whether to show each second on stderr.
    pub live: Live,
}
