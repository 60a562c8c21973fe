//! The ledger: which messages arrived, for whom, how often and when, which were reported as failed, and
//! how that compares with the messages that were sent.
//!
//! Owner:    each shard of a sink fills its own `Ledger`; they are added up at the end.
//! Promise:  lost, duplicated and alien copies are counted exactly: each accepted message to a recipient
//!           has arrived, bounced, or is lost. A recipient is identified by a 64-bit hash of its address:
//!           two recipients of one message collide once in 10^19, those of different messages never. A
//!           body, and the recipient of a message with exactly one, are checked by 32 bits (`sum`) if
//!           the id has them. For a message with several recipients only the number of arrivals counts.
//! Bounds:   `bytes_max`. The first recipient of a message takes 24 bytes (numbers are dense, so that
//!           pages of `PAGE_ENTRIES` are full), each further one about 80. Full, or with more than
//!           `RUNS_MAX` runs: copies count as `unrecorded`, and the balance is bad.
//! Files:    text, one entry per line. `sent` (source): the run, recipients per message, runs of equal
//!           fates (`1000 accepted`), and for messages accepted for some recipients their number
//!           (`partly 7 999`). `seen` (sink): number, recipient, copies and first time of each message
//!           and recipient; if not both 0 also corrupted copies and bounces.
//!
//! ```text
//! id         the header that names a message    sum       checksums
//! sent       the fates that a source knows      seen      the copies that a sink received
//! entry      one message to one recipient       balance   one against the other
//! ```

mod balance;
mod entry;
mod id;
mod seen;
mod sent;
pub mod sum;

pub use balance::Balance;
pub use entry::Arrival;
pub use id::HEADER;
pub use id::Id;
pub use id::hash_of;
pub use seen::Ledger;
pub use seen::RunIndex;
pub use sent::Fate;
pub use sent::Sent;

#[cfg(test)]
mod tests;
