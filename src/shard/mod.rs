//! A shard: one executor on one core, with one of each part of the server.
//!
//! `run` starts the tasks in the order of a message's path; each part has its own folder.

pub mod delivering;
pub mod drain;
pub mod housekeeping;
pub mod inbox;
pub mod kept;
pub mod run;

pub use delivering::Delivering;
pub use inbox::Command;
pub use inbox::CommandSender;
pub use inbox::ShardRequest;
pub use run::ShardSeed;
pub use run::run;
