//! What is stored: keys, records, and the ledger.
//!
//! Promise:  the bytes of keys and records are a contract with every spool on disk. Encoding and
//!           decoding do no I/O.

pub mod envelope;
pub mod event_log;
pub mod family;
pub mod flow;
pub mod head;
pub mod job;
pub mod key;
pub mod ledger;
pub mod lost;
pub mod outer;
pub mod probe;
pub mod recipients;
pub mod rows;
pub mod stream;
pub mod texts;
