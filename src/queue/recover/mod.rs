//! What a start finds in a partition, and how it is put right.

pub mod aside;
pub mod bodies;
pub mod messages;
pub mod open;
pub mod pass;
pub mod schedules;
