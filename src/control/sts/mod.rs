//! MTA-STS policies for all shards: fetched once, kept on disk, published.
//!
//! Owner:    the control runtime. Shards ask by `handoff::sts` and read what is published.
//! Promise:  a policy that was fetched outlives a restart until its `max_age` ends. A fetch that
//!           fails is published as such, so that mail is sent without a policy (RFC 8461 s3.3); one
//!           that fails for local reasons is not, so that mail waits.
//! Order:    fetch, publish, then the file. A crash in between costs a fetch.
//! Bounds:   those of `base::limits`: `STS_*`.
//!
//! ```text
//! fetcher    the task: requests in, fetches in flight, their outcomes
//! queue      which fetch is next: one for each domain, a few for each network
//! web        one fetch over HTTPS
//! store      the known policies, within bounds
//! files      one file for each policy, in `mta-sts` of the spool
//! ```

pub mod fetcher;
mod files;
mod queue;
mod store;
pub mod web;

pub use fetcher::StsFetcher;
