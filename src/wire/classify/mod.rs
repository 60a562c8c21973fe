//! What a failed delivery means: the replies of remote servers and our own reasons, in few words.
//!
//! Promise:  every reply has exactly one category and one advice, by the first rule of
//!           `replies.rules` that fits; a 2xx is delivered, and a 4xx never condemns an address.
//! Bounds:   only the first `TEXT_BYTES_MAX` octets of a reply are judged.

mod category;
mod cause;
mod fault;
mod parse;
mod table;
#[cfg(test)]
mod tests;

pub use category::Advice;
pub use category::Category;
pub use category::Verdict;
pub use cause::Cause;
pub use fault::RulesFault;
pub use fault::Wrong;
pub use table::Classifier;
pub use table::RemoteReply;
