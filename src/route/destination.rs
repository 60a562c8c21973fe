//! How politely a destination is treated: limits, patience, TLS. Destinations are what shares limits: a domain,
//! or all domains with the same mail exchangers.
//!
//! Promise:  the defaults suit strangers.

use std::time::Duration;

/// Messages in a span of time; `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub per_second: Option<u32>,
    pub per_minute: Option<u32>,
    pub per_hour: Option<u32>,
}

/// Whether and how TLS is asked for, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTls {
    /// Never.
    None,
    /// When it is offered, with any certificate; in the clear when it fails.
    #[default]
    May,
    /// Always, with any certificate. Otherwise the mail waits.
    Must,
    /// Always, with a certificate for the host's name. Otherwise the mail waits.
    Verify,
}

/// How many shards share a destination, each with its part of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripes {
    /// All where each has two connections at least and there is no rate to divide; else one.
    Auto,
    All,
    Count(u32),
}

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes::Count(1)
    }
}

/// The treatment of one destination, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPolicy {
    pub connections_max: u32,
    /// Connections at once to begin with; grows on success, shrinks on failure.
    pub window_start: u32,
    pub messages_per_connection: u32,
    pub recipients_per_message: u32,
    pub rates: Rates,
    /// How long a connection without work is kept for the next message.
    pub idle_reuse: Duration,
    /// Failed connections in a row that begin a backoff.
    pub failures_to_back_off: u32,
    pub back_off_first: Duration,
    pub back_off_max: Duration,
    /// Jobs of this destination kept in memory; the rest waits on disk.
    pub jobs_max: usize,
    pub stripes: Stripes,
    pub tls: OutboundTls,
}

impl Default for DestinationPolicy {
    fn default() -> DestinationPolicy {
        DestinationPolicy {
            connections_max: 20,
            window_start: 5,
            messages_per_connection: 100,
            recipients_per_message: 100,
            rates: Rates::default(),
            idle_reuse: Duration::from_secs(5),
            failures_to_back_off: 5,
            back_off_first: Duration::from_secs(60),
            back_off_max: Duration::from_secs(3600),
            jobs_max: 10_000,
            stripes: Stripes::default(),
            tls: OutboundTls::May,
        }
    }
}
