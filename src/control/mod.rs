//! The control plane: carries out operations on a running server. tokio lives here, on threads of its
//! own; shards never wait for it.
//!
//! ```text
//! assemble      config -> the policy of sessions
//! delivery      config -> the policy of delivery
//! server        what operations reach: store, shards, pauses, config
//! call          who may ask for what; how an operation is carried out
//! queue         operations on messages
//! events        pages of the event log
//! destinations  operations on destinations
//! explain       what a message waits for: the facts
//! sentences     the same in sentences
//! route_test    where mail of a recipient would go
//! instance      health and reload
//! rows          destinations as rows
//! reload        the actor that reads the config again
//! router        HTTP: one route for each operation
//! content       a message as an HTTP body
//! connections   how many HTTP clients at a time, and for how long
//! socket        the router over a unix socket
//! sts           MTA-STS policies: fetched, kept on disk, published to the shards
//! runtime       the threads
//! secret        passwords from files
//! ```

pub mod assemble;
pub mod call;
pub mod connections;
mod content;
pub mod delivery;
mod destinations;
mod events;
pub mod explain;
mod instance;
pub mod queue;
pub mod reload;
pub mod route_test;
pub mod router;
pub mod rows;
pub mod runtime;
mod secret;
pub mod sentences;
pub mod server;
pub mod socket;
pub mod sts;
#[cfg(test)]
mod tests;

/// The trailer of a streamed message that holds a fault.
pub use content::FAULT as FAULT_TRAILER;
