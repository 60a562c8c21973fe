//! The ways out to a next hop: by a proxy, over a Unix socket, past addresses that are dead, and not
//! back to ourselves. The real binary between a client and servers of the test's own.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod destinations;
mod kit;
mod loops;
mod proxy;
mod unix;
