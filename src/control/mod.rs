//! The control plane: what people and machines ask of a running server. tokio lives here, on a
//! thread of its own; nothing here is ever waited for by a shard.
//!
//! ```text
//! assemble   config -> the policy that sessions go by
//! reload     SIGHUP: read again, compare, replace as a whole
//! admin      the control socket: `ringpost queue ...` and `ringpost health`
//! scrape     HTTP: /metrics /health /ready /stats
//! seats      how many HTTP clients at a time, and for how long
//! thread     the thread that runs both
//! ```

pub mod admin;
pub mod assemble;
pub mod client;
pub mod reload;
pub mod scrape;
pub mod seats;
pub mod thread;
