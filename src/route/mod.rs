//! Routing policy: which recipients are accepted, where their mail goes, and how destinations are
//! treated.
//!
//! Owner:    snapshots are immutable and shared by all shards as `Arc`; a reload replaces them.
//! Promise:  pure. No clock, no network, no allocation per query; the same query of the same snapshot
//!           returns the same result.

pub mod delivery;
pub mod destination;
pub mod destination_table;
pub mod domain_index;
pub mod header_match;
pub mod membership;
pub mod next_hop;
pub mod relay;
pub mod rule;
pub mod source;
pub mod table;
pub mod tls_policy;

pub use delivery::BouncePolicy;
pub use delivery::DeliveryPolicy;
pub use delivery::DeliveryTimeouts;
pub use destination::DestinationPolicy;
pub use destination::OutboundTls;
pub use destination::Rates;
pub use destination::Stripes;
pub use destination_table::DestinationEntry;
pub use destination_table::DestinationSettings;
pub use destination_table::DestinationTable;
pub use domain_index::DomainIndex;
pub use header_match::HeaderMatch;
pub use header_match::ValueMatch;
pub use membership::AddressSet;
pub use membership::BadEntry;
pub use membership::DomainSet;
pub use membership::EntryCause;
pub use membership::parse_literal;
pub use next_hop::HopProtocol;
pub use next_hop::HostPort;
pub use next_hop::NextHop;
pub use relay::Decision;
pub use relay::Question;
pub use relay::RelayPolicy;
pub use relay::RelayProblem;
pub use relay::RelayRefusal;
pub use relay::RelaySettings;
pub use rule::Credentials;
pub use rule::RouteNext;
pub use rule::RouteQuestion;
pub use rule::RouteSettings;
pub use rule::RuleFit;
pub use source::PoolId;
pub use source::PoolSettings;
pub use source::Source;
pub use source::SourceTable;
pub use table::RouteChoice;
pub use table::RouteStandard;
pub use table::RouteTable;
pub use tls_policy::AfterFailure;
pub use tls_policy::DaneState;
pub use tls_policy::Demand;
pub use tls_policy::Proof;
pub use tls_policy::RequireTls;
pub use tls_policy::StsState;
pub use tls_policy::TlsDecision;
pub use tls_policy::TlsFailure;
pub use tls_policy::TlsMemory;
pub use tls_policy::TlsRefusal;
pub use tls_policy::TlsSituation;
