//! Handing fresh mail to delivery once it is durable.

use std::sync::Arc;

use crate::base::MessageId;

/// Receives mail that has become durable.
pub trait Keeper {
    /// Whether a message of `bytes` bytes may be kept in memory.
    fn wants(&self, bytes: u64) -> bool;
    fn kept(&self, fresh: Fresh);
}

/// A message that has just become durable, with one job numbered 0.
pub struct Fresh {
    pub id: MessageId,
    pub due_ms: u64,
    /// The record of its envelope.
    pub envelope: Arc<[u8]>,
    /// Head and body as delivery sends them.
    pub message: Option<Arc<[u8]>>,
}
