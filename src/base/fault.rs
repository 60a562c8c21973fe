//! What operating faults have in common: whose fault it is, and whether trying again may help.
//!
//! A folder that can fail has one enum, with variants named by cause, and answers both questions.
//! `invariant!` is for what a shard shares: when that is wrong, nothing on the shard can be
//! trusted, and the process ends so that a restart recovers from disk (promise 7).

use std::io::Write;

/// Who has to act for the fault to go away.
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

/// Ends the process when what a shard shares is found broken.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            $crate::base::fault::end_process(format_args!($($message)+));
        }
    };
}

/// Says what was found and ends the process at once, without unwinding.
#[cold]
pub fn end_process(what: std::fmt::Arguments<'_>) -> ! {
    let line =
        format!("ringpost: broken invariant: {what}; ending, a restart recovers from disk\n");
    // In one piece: other threads may be telling of their own end. Nobody is left to hear of more.
    let _ = std::io::stderr().write_all(line.as_bytes());
    std::process::abort();
}
