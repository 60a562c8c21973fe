//! What the control thread may tell a shard.

use std::sync::Arc;
use std::time::Duration;

use crate::base::MessageId;
use crate::inbound::policy::Policy;
use crate::queue::CommitFault;

/// Orders that may wait for a shard. More cannot arise: one reload or drain is under way at a time.
pub const ORDERS_MAX: usize = 64;

pub enum Order {
    /// New sessions go by this policy. Losing the order means that the old one stays in force.
    Reload(Arc<Policy>),
    /// Stop accepting, end what is idle, finish what runs within the limit, then return.
    Drain { limit: Duration },
    /// Remove a message whose home is here, and tell whether there was one. Losing the order leaves
    /// the message where it is.
    Delete { id: MessageId, answer: Box<dyn FnOnce(Result<bool, CommitFault>) + Send> },
}
