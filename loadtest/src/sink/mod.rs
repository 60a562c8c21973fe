//! The sink: an SMTP or LMTP server that receives mail, replies as configured, and keeps a ledger of it.
//!
//! ```text
//! command    the run from start to stop     options     flags of smtp-sink and our own
//! service    shards, listeners, limits      place       addresses to listen on
//! session    one connection, with I/O       state       what a shard's sessions share
//! dialogue   one connection, without I/O    behaviour   delays, refusals and limits by domain
//! body       ids, checksums and reports     behaviour_file   the TOML of it
//! dot        the end of a DATA body         notice      delivery status notifications
//! marks      counts, latencies, the result
//! ```

pub mod behaviour;
pub mod behaviour_file;
mod body;
mod command;
mod dialogue;
mod dot;
mod marks;
mod notice;
pub mod options;
mod place;
mod service;
mod session;
mod state;

pub use command::run;
pub use marks::Counts;
pub use marks::Taken;
pub use options::Settings;
pub use service::Sink;
