//! Events: the durable facts about a message and its recipients.
//!
//! Owner:    values. A shard encodes them into the order whose write makes them true; the commit thread
//!           numbers them and writes them in the same batch (`queue::record::event_log`).
//! Promise:  an event is understood without the directory and after its message is gone: it repeats
//!           what a reader needs. The types here are the binary form (postcard), and the source of the
//!           JSON form. Variants and fields are only ever appended, and variants keep their numbers.
//! Bounds:   `RECIPIENTS_MAX` recipients in one `accepted`, so that a message to more has several;
//!           `REPLY_BYTES_MAX` of a reply, `METADATA_BYTES_MAX` of metadata.
//!
//! A line of the text log is not an event but a log record (`observe::log`).

mod list;
pub mod record;

pub use list::EventList;
pub use list::read;
