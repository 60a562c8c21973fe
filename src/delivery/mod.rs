//! Delivery: from a queued job to the reply of the remote server.
//!
//! ```text
//! fair          which job of a destination goes next
//! job           a job in memory, and where it stands
//! schedule      cursors over the stored schedule, and memory
//! settle        from the end of an attempt to what is written
//! operation     operations of operators that are under way
//! event         what the home is told, and what it wants to be done
//! credit        places that owners have granted
//! home          the jobs of the partitions of this shard
//! ```

pub mod credit;
pub mod event;
pub mod fair;
pub mod home;
pub mod job;
pub mod operation;
pub mod schedule;
pub mod settle;
