//! What operators ask of the queue.

pub mod audit;
pub mod inspect;
pub mod operate;
pub mod pauses;
pub mod select;
