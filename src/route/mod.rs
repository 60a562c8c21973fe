//! Routing policy: which recipients are accepted, where their mail goes, and how destinations are
//! treated.
//!
//! Owner:    snapshots are immutable and shared by all shards as `Arc`; a reload replaces them.
//! Promise:  pure. No clock, no network, no allocation per query; the same query of the same snapshot
//!           returns the same result.

pub mod delivery;
pub mod destination;
pub mod domain_index;
pub mod relay;
pub mod rule;
pub mod source;
pub mod table;
pub mod tenant;
pub mod tls_policy;

pub use crate::config::HopProtocol;
pub use crate::config::HostPort;
pub use crate::config::NextHop;
pub use crate::config::RouteNext;
pub use delivery::BouncePolicy;
pub use delivery::DeliveryPolicy;
pub use destination::DestinationPolicy;
pub use destination::DestinationTable;
pub use destination::OutboundTls;
pub use destination::Rates;
pub use destination::Stripes;
pub use relay::Decision;
pub use relay::Question;
pub use relay::RelayPolicy;
pub use rule::Credentials;
pub use rule::RouteQuestion;
pub use rule::Rule;
pub use rule::RuleFit;
pub use source::PoolId;
pub use source::Source;
pub use source::SourceTable;
pub use table::Fallback;
pub use table::RouteChoice;
pub use table::RouteStandard;
pub use table::RouteTable;
pub use tenant::TenantPolicy;
pub use tenant::TenantTable;
pub use tls_policy::AfterFailure;
pub use tls_policy::RequireTls;
pub use tls_policy::TlsDecision;
pub use tls_policy::TlsFailure;
pub use tls_policy::TlsRefusal;
