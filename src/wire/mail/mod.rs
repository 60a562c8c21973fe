//! Parts of a message: addresses, header blocks, Received fields, dates.

pub mod address;
pub mod address_scan;
pub mod date;
pub mod fields;
pub mod header;
pub mod pick;
pub mod received;

pub use address::ReversePath;
pub use address_scan::AddressFault;
pub use header::HeaderScan;
pub use pick::WantedFields;
