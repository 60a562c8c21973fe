//! The control plane: what people and machines ask of a running server. tokio lives here, on a
//! thread of its own; nothing here is ever waited for by a shard.
//!
//! ```text
//! assemble   config -> the policy that sessions go by
//! delivery   config -> the policy that delivery goes by
//! route      `ringpost route test`: where mail would go, and why
//! reload     SIGHUP: read again, compare, replace as a whole
//! admin      the control socket: `ringpost queue ...` and `ringpost health`
//! operators  what of it shards must answer: orders, `why`, destinations
//! stripes    one row for a destination that several shards own
//! why        what a message waits for, in sentences
//! client     the other end of the socket: what only looks
//! orders     the other end of the socket: what operators order and ask
//! secret     passwords from files
//! sts        MTA-STS policies: fetched, kept on disk, published to the shards
//! connections  how many HTTP clients at a time, and for how long
//! thread     the thread that runs both
//! ```

pub mod admin;
pub mod assemble;
pub mod client;
pub mod connections;
pub mod delivery;
pub mod operators;
pub mod orders;
pub mod reload;
pub mod route;
mod secret;
mod stripes;
pub mod sts;
pub mod thread;
pub mod why;
