//! Operations of operators on the queue.

pub mod audit;
pub mod inspect;
pub mod operate;
pub mod pauses;
pub mod select;
