//! The whole config, from its sections.
//!
//! Promise:  `process`, `receiving` and `delivery::model` are the only places where keys exist. Each
//!           key is declared once with its name, type, default, bounds, manual and whether a reload
//!           changes it; reading, manual, sample and reload come from that declaration.
//!
//! `relation` judges relations between keys.

use crate::config::delivery::model::DeliveryConfig;
use crate::config::delivery::model::DeliveryTimeoutsConfig;
use crate::config::delivery::model::DestinationConfig;
use crate::config::delivery::model::DestinationDefaults;
use crate::config::delivery::model::PoolConfig;
use crate::config::delivery::model::ResolverConfig;
use crate::config::delivery::model::RouteConfig;
use crate::config::delivery::model::SourceConfig;
use crate::config::delivery::model::TenantConfig;
use crate::config::key::SectionDoc;
use crate::config::process::ControlConfig;
use crate::config::process::LogConfig;
use crate::config::process::MonitorConfig;
use crate::config::process::QueueConfig;
use crate::config::process::ServerConfig;
use crate::config::reading::Reading;
use crate::config::receiving::CertificateConfig;
use crate::config::receiving::LimitsConfig;
use crate::config::receiving::ListenerConfig;
use crate::config::receiving::NetworkConfig;
use crate::config::receiving::RelayConfig;
use crate::config::receiving::TimeoutsConfig;
use crate::config::receiving::TlsConfig;
use crate::config::section::Changes;
use crate::config::section::Part;

/// Makes `Config` from its parts.
macro_rules! config {
    ($( $(#[doc = $doc:literal])+ $field:ident : $part:ty, )+) => {
        /// The whole configuration. Immutable; shared as `Arc`.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $part, )+
        }

        /// All sections, in the order of the manual.
        pub const SECTIONS: &[SectionDoc] = &[$( <$part as Part>::DOC ),+];

        impl Config {
            /// Reads all sections; `None` only if a fault was noted.
            pub fn read(reading: &mut Reading<'_>) -> Option<Config> {
                $( let $field = <$part as Part>::read(reading); )+
                Some(Config { $( $field: $field?, )+ })
            }

            /// The config after a reload. Notes what changed.
            pub fn reload(&self, new: &Config, changes: &mut Changes) -> Config {
                Config { $( $field: self.$field.reload(&new.$field, changes), )+ }
            }
        }
    };
}

config! {
    /// The process.
    server: ServerConfig,
    /// At least one.
    listeners: Vec<ListenerConfig>,
    /// Who may send mail to whom.
    relay: RelayConfig,
    /// Networks whose mail belongs to a tenant; may be empty.
    networks: Vec<NetworkConfig>,
    /// Limits of incoming mail.
    limits: LimitsConfig,
    /// Timeouts of incoming sessions.
    timeouts: TimeoutsConfig,
    /// TLS of all listeners.
    tls: TlsConfig,
    /// If empty, the server creates a self-signed one.
    certificates: Vec<CertificateConfig>,
    /// The durable queue.
    queue: QueueConfig,
    /// Outgoing mail.
    delivery: DeliveryConfig,
    /// Timeouts of outgoing connections.
    delivery_timeouts: DeliveryTimeoutsConfig,
    /// DNS.
    resolver: ResolverConfig,
    /// Where mail goes; may be empty.
    routes: Vec<RouteConfig>,
    /// Shares and rates of tenants; may be empty.
    tenants: Vec<TenantConfig>,
    /// Pools of sources; may be empty.
    pools: Vec<PoolConfig>,
    /// Source addresses; may be empty.
    sources: Vec<SourceConfig>,
    /// Limits of destinations without a section of their own.
    destination_defaults: DestinationDefaults,
    /// Limits of single destinations; may be empty.
    destinations: Vec<DestinationConfig>,
    /// The text log.
    log: LogConfig,
    /// The control socket.
    control: ControlConfig,
    /// Monitoring.
    monitor: MonitorConfig,
}
