//! Delivery status notifications (RFC 3461 to 3464, RFC 6533).
//!
//! Promise:  a report is a valid message of lines up to 998 octets, and no foreign text becomes a
//!           field or a part of its own, whatever the remote server, the message and the addresses
//!           contain. It is 7-bit unless the returned message or an address is not.
//! Shape:    multipart/report of three parts: an explanation for people, fields for programs, and
//!           the message or its header block.
//! Bounds:   `WORDS_BYTES_MAX` of a reply, `HEADER_BYTES_MAX` of a header block. A message longer
//!           than the caller's limit is not returned as a whole.
//! Never:    a report about a report. The caller requests none when the sender is `<>`.

mod build;
mod explanation;
mod field;
mod original;
mod plan;
mod report;

pub use build::Built;
pub use original::Original;
pub use report::Kind;
pub use report::NOTIFY_DELAY;
pub use report::NOTIFY_FAILURE;
pub use report::NOTIFY_NEVER;
pub use report::NOTIFY_SUCCESS;
pub use report::NOTIFY_WORDS;
pub use report::Report;
pub use report::ReportRecipient;
pub use report::wants;

#[cfg(test)]
mod tests;
