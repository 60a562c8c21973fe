//! Config: from file and environment to typed values.
//!
//! Owner:    none; a `Config` is immutable and shared as `Arc`.
//! Promise:  `load` answers with a complete `Config`, or with all faults at once, each with place, key
//!           and hint. A `Config` contains no contradiction.
//! Source:   each key is declared once, in `process`, `receiving` or `delivery::model`: name, type,
//!           default, bounds, manual and whether a reload applies it. Reading, environment variables,
//!           the check for unknown keys, the reference, the sample and the comparison at a reload come
//!           from that declaration.
//! Bounds:   no I/O: nothing here opens the files that a key names.

pub mod change;
pub mod check;
pub mod delivery;
pub mod environment;
pub mod fault;
pub mod file;
pub mod host;
pub mod key;
pub mod kind;
pub mod model;
pub mod name;
pub mod origin;
pub mod process;
pub mod reading;
pub mod receiving;
pub mod reference;
pub mod relation;
pub mod section;
#[cfg(test)]
mod tests;
pub mod units;
pub mod value;

pub use change::Changes;
pub use change::reloaded;
pub use check::DEFAULTS;
pub use check::Loaded;
pub use check::embedded;
pub use check::load;
pub use delivery::domain::DomainMatch;
pub use delivery::header::HeaderMatch;
pub use delivery::header::LabelField;
pub use delivery::header::LabelValue;
pub use delivery::model::DeliveryTimeoutsConfig;
pub use delivery::model::DestinationConfig;
pub use delivery::model::DestinationDefaults;
pub use delivery::model::PoolConfig;
pub use delivery::model::ResolverConfig;
pub use delivery::model::RouteConfig;
pub use delivery::model::SourceConfig;
pub use delivery::model::TenantConfig;
pub use delivery::next_hop::HopProtocol;
pub use delivery::next_hop::HostPort;
pub use delivery::next_hop::NextHop;
pub use delivery::next_hop::RouteNext;
pub use delivery::value::Stripes;
pub use fault::Fault;
pub use host::Environment;
pub use host::HostFacts;
pub use model::Config;
pub use name::DomainPattern;
pub use name::Label;
pub use origin::Origin;
pub use process::QueueConfig;
pub use receiving::CertificateConfig;
pub use receiving::ListenerConfig;
pub use receiving::RelayConfig;
pub use reference::reference;
pub use reference::sample;
pub use value::CoreSet;
pub use value::CredentialFile;
pub use value::LogOutput;
pub use value::MonitorListen;
pub use value::OutboundTls;
pub use value::Partitions;
pub use value::SenderReports;
pub use value::Stream;
pub use value::TlsMode;
