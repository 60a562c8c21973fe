//! What the control thread may tell a shard.

use std::sync::Arc;
use std::time::Duration;

use crate::base::MessageId;
use crate::inbound::policy::Policy;
use crate::queue::operate::Carried;
use crate::queue::operate::Deed;
use crate::queue::operate::DeedFault;
use crate::route::DeliveryPolicy;
use crate::shard::run::Delivering;

/// Hears once what came of an order.
pub type OperateAnswer = Box<dyn FnOnce(Result<Carried, DeedFault>) + Send>;

/// Orders that may wait for a shard: one reload or drain at a time, and what operators ask.
pub const ORDERS_MAX: usize = 1024;

pub enum Order {
    /// New sessions go by this policy. Losing the order means that the old one stays in force.
    Reload(Arc<Policy>, Arc<DeliveryPolicy>),
    /// Stop accepting, end what is idle, finish what runs within the limit, then return.
    Drain { limit: Duration },
    /// Do this to a message whose home is here. Losing the order leaves it as it is.
    Operate { id: MessageId, deed: Deed, answer: OperateAnswer },
    /// Look at what this shard delivers, or change how; the closure answers for itself and never
    /// waits. Losing the order means that it is not answered.
    Ask(Box<dyn FnOnce(&Delivering) + Send>),
}
