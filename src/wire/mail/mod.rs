//! Parts of a message: addresses, header blocks, Received fields, dates.

pub mod address;
pub mod address_scan;
pub mod date;
pub mod fields;
pub mod header;
pub mod pick;
pub mod received;

pub use address::Mailbox;
pub use address::ReversePath;
pub use address_scan::AddressFault;
pub use header::HeaderScan;
pub use header::HeaderSummary;
pub use pick::PickedFields;
pub use pick::WantedFields;
pub use received::Received;
pub use received::with_protocol;
