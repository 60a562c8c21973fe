//! Failpoints: named places where a crash test ends the process or makes the store fail.
//!
//! Without the feature `failpoints` every call here does nothing. With it, the action `return` at a
//! `point` ends the process at once, as kill -9 would; `pause`, `sleep` and the others are those of
//! the crate `fail`. A `store_fault` takes `return(eio)` or `return(enospc)`: the write fails with
//! that error without touching the disk. `tests/server/crash.rs` lists all points.

use crate::base::limits::COMMIT_HUNG_MS;

/// Reads the environment variable `FAILPOINTS`. To be called once, at the start of the process.
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

/// The fault that a test injects instead of the write, as RocksDB would word it.
#[inline]
pub fn store_fault(_name: &'static str) -> Option<String> {
    fail::fail_point!(_name, |kind: Option<String>| Some(match kind.as_deref() {
        Some("enospc") => "IO error: No space left on device: injected".to_owned(),
        _ => "IO error: Input/output error: injected".to_owned(),
    }));
    None
}
