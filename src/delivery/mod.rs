//! Delivery: from a queued job to the reply of the remote server.
//!
//! ```text
//! byte_gate    a limit in bytes for what the tasks of a shard hold
//! dial         a connection to one host: its addresses, also through a proxy
//! failure      why a connection could not be made, or broke
//! report       reports to senders, as messages of their own
//! report_pace  when they leave
//! sts          which MTA-STS policy holds for a domain
//! trust        the TLS that a host needs, and what it proved
//! verdict      what the answer to an attempt means, for the log and for reports
//! ```

pub mod byte_gate;
pub mod dial;
pub mod failure;
pub mod report;
mod report_pace;
pub mod sts;
pub mod trust;
pub mod verdict;
