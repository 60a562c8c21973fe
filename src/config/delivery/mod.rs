//! Config of the delivering half: where mail goes, from which address, how fast, and how long it
//! is tried.
//!
//! ```text
//! header     names of header fields, and conditions on their values
//! model      the sections: delivery, resolver, route, pool, source, destination, destination
//! value      next hops, patterns of domains, members of pools
//! proxy      what mail goes out by
//! relation   names that must exist, limits that contradict, routes that are never reached
//! ```

pub mod header;
pub mod model;
pub mod proxy;
pub mod relation;
#[cfg(test)]
mod tests;
pub mod value;
