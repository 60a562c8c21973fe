//! Delivery: from a queued job to the reply of the remote server.
//!
//! ```text
//! fair          which job of a destination goes next
//! limits        rates of destinations, sources and tenants, in one process and over restarts
//! limit_record  their file, as bytes
//! limit_file    the thread that writes this file
//! ```

pub mod fair;
pub mod limit_file;
pub mod limit_record;
pub mod limits;
