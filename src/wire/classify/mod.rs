//! Classifies failed deliveries: replies of remote servers, and local causes.
//!
//! Promise:  every reply gets exactly one category and one advice, from the first rule of
//!           `replies.rules` that matches. A 2xx is always `delivered`; a 4xx never suppresses an
//!           address.
//! Bounds:   the first `TEXT_BYTES_MAX` octets of a reply.

mod category;
mod cause;
mod parse;
mod table;
#[cfg(test)]
mod tests;

pub use category::Advice;
pub use category::Category;
pub use category::Verdict;
pub use cause::Cause;
pub use table::Classifier;
pub use table::RemoteReply;
