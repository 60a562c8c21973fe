//! Group commit: one OS thread per partition makes messages and settlements durable.
//!
//! `committer`, `body`, `tickets` and `outcome` run on the shard, `thread`, `writer`, `taken` and `plan`
//! on the commit thread. `lane` connects them.

pub mod body;
pub mod committer;
pub mod keeper;
pub mod lane;
pub mod outcome;
pub mod parcel;
pub mod plan;
pub mod remains;
pub mod settle;
pub mod taken;
pub mod thread;
pub mod thread_end;
pub mod tickets;
pub mod unsettled;
pub mod writer;
