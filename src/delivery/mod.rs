//! Delivery: from a queued job to the reply of the remote server.
//!
//! ```text
//! fair          which job of a destination goes next
//! ```

pub mod fair;
