//! Classifies failed deliveries: replies of remote servers, and local causes.
//!
//! Promise:  every reply gets exactly one category and one advice, and at most one action, from the
//!           first rule that matches: those of the operator's files, then those of `replies.rules`.
//!           A 2xx is always `delivered`; a 4xx never suppresses an address.
//! Bounds:   the first `TEXT_BYTES_MAX` octets of a reply.

mod category;
mod cause;
mod parse;
mod table;
#[cfg(test)]
mod tests;

pub use category::Action;
pub use category::Advice;
pub use category::Category;
pub use category::Measure;
pub use category::Scope;
pub use category::Verdict;
pub use cause::Cause;
pub use parse::RulesFault;
pub use parse::RulesFile;
pub use table::Classified;
pub use table::Classifier;
pub use table::RemoteReply;
pub use table::RuleId;
