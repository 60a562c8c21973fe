//! Failpoints: named places where a crash test ends the process or makes the store fail.
//!
//! Without the feature `failpoints` every call here does nothing. With it, the action `return` at a
//! point of `FAILPOINTS` ends the process at once, as kill -9 would; `pause`, `sleep` and the others
//! are those of the crate `fail`. The points of `STORE_FAULTS` take `return(eio)` or
//! `return(enospc)`, and the write fails with that error without touching the disk;
//! `commit::error_after_write` fails a batch that is in the log all the same.

use crate::base::limits::COMMIT_HUNG_MS;

/// Every point at which the process may be ended, in the order of a message's life, then of a
/// start.
pub const FAILPOINTS: &[&str] = &[
    "stream::before_write",
    "stream::after_write",
    "commit::before_batch",
    "commit::before_write",
    "commit::after_write",
    "commit::before_ring",
    "commit::after_ring",
    "spool::before_partition",
    "spool::after_partition",
    "spool::before_meta",
    "spool::after_meta",
    "recover::before_sweep",
    "recover::after_sweep",
    "recover::before_scan",
    "recover::before_sync",
    "quarantine::before_file",
    "quarantine::after_file",
    "quarantine::after_removal",
];

/// Every point at which a relay may be ended, in the order of a delivery.
pub const RELAY_FAILPOINTS: &[&str] = &[
    "split::before_write",
    "split::after_write",
    "deliver::before_send",
    "deliver::after_reply",
    "settle::before_write",
    "settle::after_write",
    "again::before_write",
    "again::after_write",
    "report::before_write",
    "report::after_write",
];

/// Points of filing jobs under their flows.
pub const FILING_FAILPOINTS: &[&str] = &["file::before_write", "file::after_write"];

/// Points in the tasks that a whole shard depends on, for the action `panic`.
pub const VITAL_FAILPOINTS: &[&str] =
    &["vital::scan", "vital::home", "vital::owner", "vital::frames", "vital::pump"];

/// Points in views of what a shard shares, for the action `panic`: they end nothing else.
pub const VIEW_FAILPOINTS: &[&str] = &["view::question", "view::survey"];

/// Points that make the store answer with a fault.
pub const STORE_FAULTS: &[&str] = &[
    "stream::error",
    "commit::error",
    "commit::error_after_write",
    "rescue::error",
    "mending::error",
];

/// Takes the points from the environment variable `FAILPOINTS`. Call it once, at the start of the
/// process; before, no point does anything.
pub fn arm() {
    // Dropping the scenario would disarm every point.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}

/// `COMMIT_HUNG_MS`, or the value of a test: `commit::hung_ms=return(500)`.
#[inline]
pub fn commit_hung_ms() -> u64 {
    fail::fail_point!("commit::hung_ms", |ms: Option<String>| {
        ms.and_then(|ms| ms.parse().ok()).unwrap_or(COMMIT_HUNG_MS)
    });
    COMMIT_HUNG_MS
}

/// A place where a crash test may end the process.
#[inline]
pub fn point(_name: &'static str) {
    fail::fail_point!(_name, |_| std::process::abort());
}

/// The fault that a test injects instead of the write, in RocksDB's words.
#[inline]
pub fn store_fault(_name: &'static str) -> Option<String> {
    fail::fail_point!(_name, |kind: Option<String>| Some(match kind.as_deref() {
        Some("enospc") => "IO error: No space left on device: injected".to_owned(),
        _ => "IO error: Input/output error: injected".to_owned(),
    }));
    None
}
