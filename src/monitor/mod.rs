//! Monitoring: `/metrics`, `/health`, `/ready` and `/stats` over HTTP.
//!
//! Owner:    a thread with a runtime and a listener of its own, so that a stuck control plane does
//!           not take monitoring down.
//!
//! ```text
//! scrape         the requests and their answers
//! metrics        the /metrics page
//! destinations   the largest destinations, and the others as one
//! process        the standard process metrics
//! stats          the /stats document
//! thread         the runtime; a port in use is retried until it is free
//! ```

pub mod destinations;
pub mod metrics;
pub mod process;
pub mod scrape;
pub mod stats;
pub mod thread;
