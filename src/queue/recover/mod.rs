//! Recovery: checks and repairs the mail of a partition at start.

pub mod aside;
pub mod bodies;
pub mod messages;
pub mod open;
pub mod pass;
pub mod schedules;
