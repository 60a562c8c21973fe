//! Mail: addresses, header blocks, trace lines, dates. Values and bytes only.

pub mod address;
pub mod date;
pub mod header;
pub mod pick;
pub mod received;

pub use address::AddressFault;
pub use address::Mailbox;
pub use address::ReversePath;
pub use header::HeaderScan;
pub use header::HeaderSummary;
pub use pick::PickedFields;
pub use pick::WantedFields;
pub use received::Received;
pub use received::with_protocol;
