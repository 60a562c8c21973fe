//! The wall clock. Pure code is passed the time as a value and does not read it.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// The wall clock, in milliseconds since 1970. A clock before 1970 reads as 0.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
