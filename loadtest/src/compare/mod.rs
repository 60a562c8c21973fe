//! `ringpost-load compare`: measures servers, builds or load generators in alternating turns.
//!
//! Promise:  all servers get the same load from a source and a sink in this process, whose cost is not
//!           counted as a server's. A server is a private instance on loopback with its
//!           configuration, queue and logs in a folder that is removed in any case. Its settings are
//!           files in `loadtest/peers`, with a reason for each.
//! Failure:  a server that fails or was requested and is missing. Other missing servers are listed with
//!           a way to get them.
//!
//! ```text
//! command    the turns                      options    the command line
//! kind       what can be compared           peer       how each server is found and set up
//! instance   a running server               hold       the parent of its processes
//! turn       the measurements of one turn   load       source and sink
//! generators source and sink without a server
//! proof      whether it syncs before 250    trace      reads strace's output
//! outcome    medians and ratios             table      how they are shown
//! ```

mod command;
mod generators;
pub mod hold;
mod instance;
mod kind;
mod load;
pub mod options;
mod outcome;
mod peer;
mod proof;
mod table;
mod trace;
mod turn;

pub use command::run;
