//! What operating faults have in common: whose fault it is, and whether trying again may help.
//!
//! A folder that can fail has one enum, with variants named by cause, and answers both questions.
//! `invariant!` is for what a shard shares: when that is wrong, nothing on the shard can be
//! trusted, and the process ends so that a restart recovers from disk (promise 7).

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
    eprintln!("ringpost: broken invariant: {what}; ending, a restart recovers from disk");
    std::process::abort();
}
