//! The common properties of operating faults: who has to act, and whether a retry may succeed.
//!
//! Each folder that can fail has one enum with variants named by cause, which has both properties.
//! `invariant!` guards state that a shard shares: if it is broken, nothing on the shard can be
//! trusted, and the process ends so that a restart recovers from disk (promise 7).

use std::io::Write;

/// Who has to act to remove the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Peer,
    Us,
    Operator,
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Later,
    Never,
}

/// Ends the process if the shared state of a shard is broken.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            $crate::base::fault::end_process(format_args!($($message)+));
        }
    };
}

/// Prints the finding and ends the process at once, without unwinding.
#[cold]
pub fn end_process(what: std::fmt::Arguments<'_>) -> ! {
    let line = format!(
        "ringpost: broken invariant: {what}; the process ends, and a restart recovers from disk\n"
    );
    // In one write, because other threads may print too. A failed write cannot be reported.
    let _ = std::io::stderr().write_all(line.as_bytes());
    std::process::abort();
}
