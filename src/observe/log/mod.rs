//! The text log: records, and the way of a record from a thread to the output.
//!
//! A *record* is one line of the log. It is for people and log collectors; a full lane drops it.
//!
//! Owner:    each thread owns one lane; the log thread owns the output. `boot` starts the log,
//!           SIGHUP calls `reopen` and `set_level`, the shutdown calls `flush`.
//! Promise:  logging never blocks the caller. A dropped line is counted, and the log says how many
//!           lines it dropped.
//! Bounds:   one lane of fixed size per thread; `VALUE_BYTES_MAX` bytes of each value.

pub mod journal;
pub mod lane;
mod line;
mod process;
pub mod record;
pub mod subscriber;
pub mod value;
pub mod writer;

pub use process::LogSettings;
pub use process::flush;
pub use process::lines_dropped;
pub use process::reopen;
pub use process::set_level;
pub use process::set_shard;
pub use process::start;
pub use record::Level;
pub use record::Record;
