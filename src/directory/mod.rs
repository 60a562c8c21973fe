//! Who sends: identities, tenants and the networks that belong to them.
//!
//! Promise:  pure, without I/O and without SQL. An identity is always derived from authentication
//!           or from the address of the client, never from a header field that a client can write.

pub mod identify;
pub mod identity;
pub mod network;
pub mod tenant;

pub use identify::Connection;
pub use identity::Identity;
pub use identity::Origin;
pub use network::Network;
pub use network::Networks;
pub use tenant::Tenant;
