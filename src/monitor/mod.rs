//! Monitoring: `/metrics`, `/health`, `/ready` and `/stats` over HTTP.
//!
//! Owner:    a thread with a runtime and a listener of its own, so that a stuck control plane does
//!           not take monitoring down.
//!
//! ```text
//! scrape   the answers
//! thread   the runtime; a port in use is retried until it is free
//! ```

pub mod scrape;
pub mod thread;
