//! A shard: one executor on one core, with one of each part of the server.
//!
//! `run` starts the tasks in the order of a message's path; each part has its own folder.

pub mod delivering;
pub mod drain;
pub mod housekeeping;
pub mod order;
pub mod run;

pub use delivering::Delivering;
pub use order::Command;
pub use order::CommandSender;
pub use order::Order;
pub use run::ShardSeed;
pub use run::run;
