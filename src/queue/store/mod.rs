//! The database of a partition: opened, repaired, read, and written by typed operations.

pub mod copies;
pub mod families;
pub mod folder;
pub mod found;
pub mod holes;
pub mod in_place;
pub mod jobs;
pub mod log_file;
pub mod manifest;
pub mod mend;
pub mod message;
pub mod options;
pub mod partition;
pub mod quarantine;
pub mod query;
pub mod reclaim;
pub mod removal;
pub mod repair;
pub mod rescue;
pub mod reserve;
pub mod room;
pub mod rows;
pub mod space;
pub mod spec;
pub mod unsettled_counts;
