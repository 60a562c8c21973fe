//! Config: from a file as written to values as meant.
//!
//! Owner:    nobody; a `Config` is immutable and shared as `Arc`.
//! Promise:  `load` answers with a whole `Config` or with every fault of the file at once, each with
//!           line, key and hint. A `Config` that exists holds no contradiction.
//! Source:   each key is declared once, in `model`: name, kind, default, bounds, manual and whether a
//!           reload can change it. Reading, the check for unknown keys, the reference page, the
//!           sample file and the reload comparison all come from that declaration.
//! Bounds:   no I/O: nothing here opens the files that a key names.

pub mod change;
pub mod check;
pub mod delivery;
pub mod fault;
pub mod file;
pub mod key;
pub mod kind;
pub mod model;
pub mod reading;
pub mod reference;
pub mod relation;
#[cfg(test)]
mod tests;
pub mod units;
pub mod value;

pub use change::Changes;
pub use change::changes;
pub use change::reloaded;
pub use check::HostFacts;
pub use check::Loaded;
pub use check::embedded;
pub use check::load;
pub use delivery::header::HeaderMatch;
pub use delivery::header::LabelField;
pub use delivery::header::LabelValue;
pub use delivery::header::ValueMatch;
pub use delivery::model::DeliveryConfig;
pub use delivery::model::DeliveryTimeoutsConfig;
pub use delivery::model::DestinationConfig;
pub use delivery::model::DestinationDefaults;
pub use delivery::model::PoolConfig;
pub use delivery::model::ResolverConfig;
pub use delivery::model::RouteConfig;
pub use delivery::model::SourceConfig;
pub use delivery::value::DomainMatch;
pub use delivery::value::Next;
pub use delivery::value::Server;
pub use delivery::value::Stripes as ConfigStripes;
pub use fault::Fault;
pub use model::CertificateConfig;
pub use model::Config;
pub use model::ControlConfig;
pub use model::LimitsConfig;
pub use model::ListenerConfig;
pub use model::LogConfig;
pub use model::MonitorConfig;
pub use model::NetworkConfig;
pub use model::QueueConfig;
pub use model::RelayConfig;
pub use model::ServerConfig;
pub use model::TimeoutsConfig;
pub use model::TlsConfig;
pub use reference::reference;
pub use reference::sample;
pub use value::ClientCertificates;
pub use value::CoreSet;
pub use value::DomainPattern;
pub use value::Hostname;
pub use value::Label;
pub use value::LineEnding;
pub use value::LogFormat;
pub use value::LogLevel;
pub use value::LogOutput;
pub use value::MonitorListen;
pub use value::OutboundTls;
pub use value::Partitions;
pub use value::Protocol;
pub use value::ReplyText;
pub use value::Stream;
pub use value::TlsMode;
pub use value::TlsVersion;
