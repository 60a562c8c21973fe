//! The command line: arguments -> operation -> text or JSON.
//!
//! Promise:  a command that asks a server works the same through the control socket of a running
//!           server and on the spool of a stopped one. Exit codes: 0 done, 2 usage, 3 not found,
//!           4 conflict, 5 denied, 6 server away, 1 any other failure; `serve`, `health` and `doctor`
//!           have codes of their own, see their help.
//!
//! ```text
//! arguments    what can be written, as clap reads it
//! load         the config of a command
//! run          each command
//! source       a running server, or the spool of a stopped one
//! client       HTTP over the control socket
//! queue  destination  route      commands that ask, and their text
//! queue_text   the queue as text
//! text         tables and fields for people
//! ```

mod arguments;
mod client;
mod destination;
mod events;
mod load;
mod queue;
mod queue_text;
mod route;
mod run;
mod source;
mod text;

pub use run::run;
