//! Config of delivery: where mail goes, from which address, how fast, and for how long.
//!
//! ```text
//! destination  contradictory limits of destinations
//! domain     domains in the rules of routes and destinations
//! header     header field names, and conditions on their values
//! list       unique names, and references to names
//! model      the sections: delivery, resolver, route, pool, source, destination
//! next_hop   where mail goes
//! value      members of pools, stripes, addresses
//! proxy      proxies for outgoing connections
//! relation   names that must exist, contradictory limits, routes that never match
//! ```

mod destination;
pub mod domain;
pub mod header;
pub mod list;
pub mod model;
pub mod next_hop;
pub mod proxy;
pub mod relation;
#[cfg(test)]
mod tests;
pub mod value;
