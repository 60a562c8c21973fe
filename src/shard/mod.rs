//! A shard: one executor, one core, one of each.
//!
//! `run` lists the tasks in the order of a message's journey; each of them lives in its own folder.

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
