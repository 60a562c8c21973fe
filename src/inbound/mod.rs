//! The receiving half: from an accepted connection to the durable line.
//!
//! ```text
//! listener    accepts, asks the counts, starts a session
//! greet       PROXY header, implicit TLS, early talkers
//! session     the conversation: bytes -> wire::smtp::server -> step -> act
//! gate        questions -> verdicts, from the policy in force
//! data        bodies, by DATA or BDAT, into chunks and on to the store
//! intake      one message on its way in: counted, summed, bounded, kept or forgotten
//! ```

pub mod counts;
pub mod data;
pub mod gate;
pub mod greet;
pub mod input;
pub mod intake;
pub mod listener;
pub mod policy;
pub mod reception;
pub mod session;
