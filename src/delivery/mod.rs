//! Delivery: from accepted mail to an answer for each recipient.
//!
//! ```text
//! fair          which job of a destination goes next
//! limits        rates of destinations, sources and tenants, in one process and over restarts
//! limit_record  their file, as bytes
//! limit_file    the thread that writes this file
//! job           a job in memory, and where it stands
//! schedule      cursors over the stored schedule, and memory
//! write         a change of a job, for the commit thread
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
pub mod limit_file;
pub mod limit_record;
pub mod limits;
pub mod operation;
pub mod schedule;
pub mod settle;
pub mod write;
