//! How a destination is treated: limits, backoff, TLS. A destination is the unit of limits: a domain,
//! or all domains with the same mail exchangers.
//!
//! Promise:  the defaults are safe for destinations that are not known.

use std::time::Duration;

/// Messages per unit of time; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub per_second: Option<u32>,
    pub per_minute: Option<u32>,
    pub per_hour: Option<u32>,
    pub per_day: Option<u32>,
}

impl Rates {
    /// From the shortest unit of time to the longest.
    pub fn all(&self) -> [Option<u32>; 4] {
        [self.per_second, self.per_minute, self.per_hour, self.per_day]
    }
}

/// The TLS level of outgoing connections, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTls {
    /// Never.
    None,
    /// If offered, with any certificate; falls back to cleartext.
    #[default]
    May,
    /// Required, with any certificate; otherwise the mail waits.
    Must,
    /// Required, with a trusted certificate for the host's name; otherwise the mail waits.
    Verify,
}

/// The number of shards that share a destination, each with a part of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripes {
    /// All shards if each gets at least two connections and no rate limit is set; otherwise one.
    Auto,
    All,
    Count(u32),
}

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes::Count(1)
    }
}

/// The limits of one destination, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPolicy {
    pub connections_max: u32,
    /// Initial number of parallel connections; grows on success, shrinks on failure.
    pub window_start: u32,
    pub messages_per_connection: u32,
    pub recipients_per_message: u32,
    pub rates: Rates,
    /// How long an idle connection is kept for the next message.
    pub idle_reuse: Duration,
    /// Consecutive failed connections that start a backoff.
    pub failures_to_back_off: u32,
    pub back_off_first: Duration,
    pub back_off_max: Duration,
    /// Jobs of this destination in memory; more wait on disk.
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
