//! From a configuration to running shards, in this order, for each step needs the one before it:
//!
//!   1. `signals`     blocked before any thread is started, so that only one thread takes them
//!   2. `cores`       who runs where, before anything is pinned
//!   3. `host`        limits raised; what the machine grants; reasons not to start
//!   4. `sockets`     ports bound; the spool's folder made and given to the configured user
//!   5. `privileges`  dropped while there is one thread, so that it holds for all that follow
//!   6. log started, so that it names every later reason not to start
//!   7. `sockets`     of the shards that the spool has partitions for listen, the others are closed
//!   8. spool opened and recovered
//!   9. `table`       what was decided, and what should be mended
//!  10. `space`       looked at, before the first shard takes mail; then the other threads
//!
//! The order of 4 and 5 is what lets a server started as root own port 25 and nothing else.

pub mod account;
pub mod affinity;
#[cfg(test)]
mod alone;
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
pub mod table;
pub mod topology;

pub use account::Account;
pub use cores::Plan;
pub use cores::ShardPlace;
pub use host::Finding;
pub use host::Host;
pub use host::Level;
pub use host::Needs;
pub use hostname::Hostname;
pub use signals::Signal;
pub use table::ShardRow;
pub use table::StartTable;
pub use topology::Topology;
