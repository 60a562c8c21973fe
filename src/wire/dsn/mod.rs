//! Delivery status notifications (RFC 3461 to 3464, RFC 6533): what a sender is told of a message.
//!
//! Promise:  whatever the remote server, the message and the addresses hold, the report is lines of
//!           at most 998 octets that end in CRLF, and no text of theirs becomes a field or a part
//!           of ours. It is 7-bit unless the message's own text, or an address, is not.
//! Shape:    multipart/report of three parts: words for a person, fields for a machine, and the
//!           message or its header block.
//! Bounds:   of a reply `WORDS_BYTES_MAX` are quoted, of a header block `HEADER_BYTES_MAX`, and a
//!           message longer than the caller's bound is not returned as a whole.
//! Never:    a report for a report. The caller does not ask for one when the sender is `<>`.

mod build;
mod explanation;
mod field;
mod original;
mod plan;
mod report;

pub use build::Built;
pub use original::Original;
pub use original::header_bytes;
pub use original::header_slices;
pub use report::Kind;
pub use report::NOTIFY_DELAY;
pub use report::NOTIFY_FAILURE;
pub use report::NOTIFY_NEVER;
pub use report::NOTIFY_SUCCESS;
pub use report::Report;
pub use report::ReportRecipient;
pub use report::wants;

#[cfg(test)]
mod tests;
