//! Starts the server: from a configuration to running shards. Each step needs the one before it:
//!
//! ```text
//!  1. signals        blocked before any thread starts, so that one thread alone receives them
//!  2. cores          the CPU of each shard chosen, before any thread is pinned
//!  3. host  judge    resource limits raised, the machine judged; reasons to refuse the start
//!  4. sockets        ports bound; spool_folder: the spool's folder created for `server.user`
//!  5. privileges     dropped while one thread runs, so that all later threads inherit the result
//!  6. the log        started, so that it records every later reason to refuse the start
//!  7. sockets        of the shards that have a partition listen; the others are closed
//!  8. store          the spool opened and recovered
//!  9. control        the control socket bound, so that a failure ends the start before mail is accepted
//! 10. table          the start table printed: shards, CPUs, partitions, listeners, findings
//! 11. space          free space checked before the first shard accepts mail; then all threads start
//! ```
//!
//! `run` calls the steps, `prepare` holds those before the spool, `running` the server until its end.
//! Steps 4 and 5 in this order let a server that root started own port 25 and nothing else.

pub mod account;
pub mod affinity;
#[cfg(test)]
mod alone;
pub mod check;
pub mod clock;
pub mod cores;
pub mod host;
pub mod hostname;
pub mod judge;
pub mod prepare;
pub mod privilege_fault;
pub mod privileges;
pub mod proc;
pub mod run;
mod running;
mod shards;
pub mod signals;
pub mod sockets;
pub mod space;
mod spool_folder;
mod store;
mod table;
pub mod topology;
