//! `ringpost-load run`: runs a scenario against a server of its own, with a verdict.
//!
//! Promise:  exit code 0 if every accepted recipient is accounted for and every expectation holds, 1 if
//!           not, 2 if the scenario cannot be run.
//! Leaves:   nothing after success. After a failure, the folder of the server with its log,
//!           configuration and spool.
//!
//! ```text
//! command    the run from start to verdict   library    the scenarios of the program
//! scenario   the parts of a scenario         scenario_file   their TOML
//! drive      the run in progress             server     the server's process
//! config     the server's configuration      sinks      receivers, over several lives
//! idle       sessions that do nothing        account    the fate of every recipient
//! figures    figures and expectations       findings    all results as a record
//! ```

mod account;
mod command;
mod config;
mod drive;
mod figures;
mod findings;
mod idle;
mod library;
mod scenario;
mod scenario_file;
mod server;
mod sinks;

pub use command::RunOptions;
pub use command::run;
