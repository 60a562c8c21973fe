//! Who may send what where: questions with an answer that follow from a snapshot alone.
//!
//! Owner:    snapshots are immutable and shared by all shards as `Arc`; a reload replaces them.
//! Promise:  pure. No clock, no network, no allocation per question; the same question of the same
//!           snapshot has the same answer.

pub mod membership;
pub mod next_hop;
pub mod relay;
pub mod site;

pub use membership::AddressSet;
pub use membership::BadEntry;
pub use membership::DomainSet;
pub use membership::EntryCause;
pub use membership::NetworkSet;
pub use next_hop::HopProtocol;
pub use next_hop::HostPort;
pub use next_hop::NextHop;
pub use relay::Decision;
pub use relay::Question;
pub use relay::RelayPolicy;
pub use relay::RelayProblem;
pub use relay::RelayRefusal;
pub use relay::RelaySettings;
pub use site::Rates;
pub use site::SitePolicy;
pub use site::TlsWish;
