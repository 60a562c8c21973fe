//! Operations on destinations.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::operation::operation;

/// Destinations in one answer.
pub const DESTINATIONS_SHOWN_MAX: usize = 1000;

operation! {
    /// The destinations with the most mail.
    ListDestinations { limit: usize }
    "destination.list", Get "/v1/destinations", ReadDestinations => DestinationList
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationList {
    pub destinations: Vec<DestinationRow>,
    /// Names that operators have paused, with or without mail.
    pub paused: Vec<String>,
}

operation! {
    /// One destination, named by its key, one of its hosts, or a recipient domain.
    ShowDestination { destination: String }
    "destination.show", Get "/v1/destinations/{destination}" by destination,
    ReadDestinations => DestinationDetails
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationDetails {
    /// The name in the request.
    pub destination: String,
    pub paused_by_operator: bool,
    pub destinations: Vec<DestinationRow>,
}

operation! {
    /// Stops new deliveries to a destination; its mail stays queued until resumed.
    PauseDestination { destination: String }
    "destination.pause", Post "/v1/destinations/{destination}/pause" by destination,
    ChangeDestinations => PausedDestination;
    fn counts(done: &PausedDestination) -> (usize, usize) {
        (done.destinations.len(), 0)
    }
}

operation! {
    /// Ends a pause.
    ResumeDestination { destination: String }
    "destination.resume", Post "/v1/destinations/{destination}/resume" by destination,
    ChangeDestinations => PausedDestination;
    fn counts(done: &PausedDestination) -> (usize, usize) {
        (done.destinations.len(), 0)
    }
}

/// The destinations that were paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedDestination {
    /// The name in the request.
    pub destination: String,
    /// The keys of the affected destinations that have mail.
    pub destinations: Vec<String>,
    /// Why the change will not survive a restart.
    pub warning: Option<String>,
}

/// A destination as its owner shards see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRow {
    /// The key: the hosts that share limits.
    pub destination: String,
    /// As routes name it.
    pub name: String,
    /// The owner; none for a destination that is split over several shards.
    pub shard: Option<u16>,
    pub state: DestinationState,
    pub binding: Binding,
    /// Jobs in memory that wait to be sent.
    pub queued: u64,
    /// Those of them that wait at their home shards for a place at the owner.
    pub waiting: u64,
    pub in_flight: u64,
    /// Transfers per minute at the current rate.
    pub per_minute: u64,
    pub connections: Connections,
    pub window: u64,
    pub rates: RateLimits,
    /// Of each source address.
    #[serde(default)]
    pub source_rates: RateLimits,
    pub delivered: u64,
    pub refused: u64,
    pub deferred: u64,
    pub lost: u64,
    pub failures: u64,
    /// Queued messages that went back to their home shards without an attempt.
    pub handed_back: u64,
    pub last_error: Option<String>,
    /// The host that the error is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_host: Option<String>,
    /// What this server lacked for the last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<String>,
    /// The source address whose rate limit keeps mail waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_source: Option<String>,
    /// What rules for replies have done of late, oldest first. Not in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceRow>,
    /// The source addresses that the destination has been reached from. Not in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRow>,
    /// The share of each shard, for a destination that is split over several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripes: Vec<DestinationRow>,
}

/// Why a rule for replies has slowed down or suspended a destination or one of its sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRow {
    pub at_ms: u64,
    pub until_ms: u64,
    pub rule: String,
    pub reply: String,
    /// The message that was answered so. None: the server refused the connection.
    pub message: Option<String>,
}

/// A source as the destination treats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// None: the system chooses the address.
    pub source: Option<String>,
    pub connections: u64,
    pub window: u64,
    pub binding: Binding,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub opening: u64,
    pub busy: u64,
    pub idle: u64,
    pub closing: u64,
    pub all: u64,
    pub max: u64,
}

/// Rate limits in messages per unit of time; none: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<u64>,
}

impl RateLimits {
    /// Each limit with its unit of time.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("second", self.second),
            ("minute", self.minute),
            ("hour", self.hour),
            ("day", self.day),
        ];
        all.into_iter().filter_map(|(span, limit)| Some((span, limit?)))
    }
}

/// From best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DestinationState {
    Open,
    RateLimited,
    Throttled,
    Probing,
    BackingOff,
    Suspended,
    Paused,
}

impl DestinationState {
    pub fn as_str(self) -> &'static str {
        match self {
            DestinationState::Open => "open",
            DestinationState::RateLimited => "rate limited",
            DestinationState::Throttled => "throttled",
            DestinationState::Probing => "probing",
            DestinationState::BackingOff => "backing off",
            DestinationState::Suspended => "suspended",
            DestinationState::Paused => "paused",
        }
    }
}

/// What keeps the next job of a destination waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Binding {
    Nothing,
    Paused,
    BackingOff {
        until_ms: u64,
    },
    /// A rule for replies has suspended the destination or its source.
    Suspended {
        until_ms: u64,
    },
    Probing,
    /// The destination asked for less mail (421).
    Throttled {
        until_ms: u64,
    },
    Rate {
        until_ms: u64,
    },
    /// The rates of all source addresses are used up.
    SourceRate {
        until_ms: u64,
    },
    /// The rate of the tenant, over all destinations, is used up.
    TenantRate {
        until_ms: u64,
    },
    /// A connection has just failed.
    Hold {
        until_ms: u64,
    },
    /// This server lacked what a connection needs, such as a descriptor. It counts neither as an
    /// attempt nor as a failure of the destination.
    OwnLimit {
        until_ms: u64,
    },
    Window {
        limit: u64,
    },
    Connections {
        limit: u64,
    },
    /// All connections of the server are in use.
    ServerConnections {
        limit: u64,
    },
    /// All places that the owner of the destination has granted to the home shard are in use.
    Places {
        limit: u64,
    },
}

impl Binding {
    pub fn until_ms(self) -> Option<u64> {
        match self {
            Binding::BackingOff { until_ms }
            | Binding::Suspended { until_ms }
            | Binding::Throttled { until_ms }
            | Binding::Rate { until_ms }
            | Binding::SourceRate { until_ms }
            | Binding::TenantRate { until_ms }
            | Binding::Hold { until_ms }
            | Binding::OwnLimit { until_ms } => Some(until_ms),
            _ => None,
        }
    }

    pub fn state(self) -> DestinationState {
        match self {
            Binding::Paused => DestinationState::Paused,
            Binding::BackingOff { .. } => DestinationState::BackingOff,
            Binding::Suspended { .. } => DestinationState::Suspended,
            Binding::Probing => DestinationState::Probing,
            Binding::Throttled { .. } => DestinationState::Throttled,
            Binding::Rate { .. } | Binding::SourceRate { .. } => DestinationState::RateLimited,
            _ => DestinationState::Open,
        }
    }
}
