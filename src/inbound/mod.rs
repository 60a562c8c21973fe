//! The SMTP and LMTP server: from an accepted connection to a submission.
//!
//! ```text
//! listener    accepts connections, counts them, starts a session for each
//! greet       PROXY header, implicit TLS, clients that send before the greeting
//! session     the dialogue: bytes -> wire::smtp::server -> step -> action
//! gate        questions of the protocol machine -> verdicts, from the policy in force
//! envelope    session and transaction -> submission
//! ask         questions of the gate to other threads
//! data        bodies, by DATA or BDAT, into chunks
//! receiving   one message while it arrives: header block -> submit::Intake -> body
//! flow        reading and writing: deadlines, chunks, output
//! report      what a session counts and logs
//! ending      how a session ends
//! reception   what the sessions of a shard share: policy, limits, buffers
//! counts      connections of all shards, by address and network
//! ```

pub mod ask;
pub mod counts;
pub mod data;
pub mod ending;
pub mod envelope;
pub mod flow;
pub mod gate;
pub mod greet;
pub mod input;
pub mod listener;
pub mod policy;
pub mod receiving;
pub mod reception;
pub mod report;
pub mod session;
