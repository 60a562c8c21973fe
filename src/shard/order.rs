//! What the control plane may tell a shard.
//!
//! Owner:    senders are the main thread and the reload actor (commands), and operations (orders);
//!           the shard's main future reads both lanes, commands first.
//! Promise:  a command is taken and carried out before all orders that wait.
//! Bounds:   `COMMANDS_MAX` and `ORDERS_MAX`. Full: a reload is refused with a warning, an order is
//!           answered with "busy". The last place among the commands is kept for the drain.

use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use crate::base::MessageId;
use crate::handoff::Receiver;
use crate::handoff::Sender;
use crate::handoff::lane;
use crate::handoff::lane::Seed;
use crate::inbound::policy::Policy;
use crate::queue::operate::Carried;
use crate::queue::operate::Operation;
use crate::queue::operate::OperationFault;
use crate::route::DeliveryPolicy;
use crate::shard::delivering::Delivering;

/// Hears once what came of an order.
pub type OperateAnswer = Box<dyn FnOnce(Result<Carried, OperationFault>) + Send>;

/// Orders of operators that may wait for a shard.
pub const ORDERS_MAX: usize = 1024;

/// Commands that may wait for a shard: reloads, and one drain.
const COMMANDS_MAX: usize = 8;

/// A command to a shard.
pub enum Command {
    /// New sessions go by this policy. Losing the command means that the old one stays in force.
    Reload(Arc<Policy>, Arc<DeliveryPolicy>),
    /// Stop accepting, end what is idle, finish what runs within the limit, then return.
    Drain { limit: Duration },
}

/// What operators ask of a shard.
pub enum Order {
    /// Do this to a message whose home is here. Losing the order leaves it as it is.
    Operate { id: MessageId, operation: Operation, answer: OperateAnswer },
    /// Look at what this shard delivers. The closure answers for itself, never waits and changes
    /// nothing: a panic in it ends nothing but the question. Losing the order means that it is not
    /// answered.
    Ask(Box<dyn FnOnce(&Delivering) + Send>),
    /// As `Ask`, for what changes how the shard delivers: a panic in it ends the process.
    Change(Box<dyn FnOnce(&Delivering) + Send>),
}

/// Sends commands. One thread reloads; another one drains once.
#[derive(Clone)]
pub struct CommandSender(Sender<Command>);

impl CommandSender {
    /// `false`: the shard has not taken the reloads before this one.
    pub fn reload(&self, policy: &Arc<Policy>, delivery: &Arc<DeliveryPolicy>) -> bool {
        let command = Command::Reload(Arc::clone(policy), Arc::clone(delivery));
        self.0.try_send_sparing_one(command).is_ok()
    }

    /// `false`: it was told so before.
    pub fn drain(&self, limit: Duration) -> bool {
        self.0.try_send(Command::Drain { limit }).is_ok()
    }
}

/// Both lanes of a shard, not yet on it.
pub struct InboxSeed {
    commands: Seed<Command>,
    orders: Seed<Order>,
}

impl InboxSeed {
    /// To be called on the shard that reads.
    pub fn settle(self) -> Inbox {
        Inbox { commands: self.commands.settle(), orders: self.orders.settle() }
    }
}

/// Both lanes of a shard.
pub struct Inbox {
    commands: Receiver<Command>,
    orders: Receiver<Order>,
}

/// What a shard does next.
pub enum Next {
    Command(Command),
    Order(Order),
}

impl Inbox {
    /// What comes next, commands before orders.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self.commands.poll_receive(cx) {
            Poll::Ready(command) => Poll::Ready(Next::Command(command)),
            Poll::Pending => self.orders.poll_receive(cx).map(Next::Order),
        }
    }
}

/// The lanes into one shard.
pub fn inbox() -> (CommandSender, Sender<Order>, InboxSeed) {
    let (commands, command_seed) = lane::lane(COMMANDS_MAX);
    let (orders, order_seed) = lane::lane(ORDERS_MAX);
    let seed = InboxSeed { commands: command_seed, orders: order_seed };
    (CommandSender(commands), orders, seed)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_drain_is_taken_before_all_orders_and_beside_all_reloads() {
        let (commands, orders, seed) = inbox();
        let mut asked = 0;
        while orders.try_send(Order::Ask(Box::new(|_| ()))).is_ok() {
            asked += 1;
        }
        assert_eq!(asked, ORDERS_MAX);
        while commands.0.try_send_sparing_one(Command::Drain { limit: Duration::ZERO }).is_ok() {}
        let limit = Duration::from_secs(7);
        assert!(commands.drain(limit), "the last place is its own");
        assert!(!commands.drain(limit), "one is enough");
        let mut inbox = seed.settle();
        let mut cx = Context::from_waker(Waker::noop());
        let mut limits = Vec::new();
        loop {
            match inbox.poll_next(&mut cx) {
                Poll::Ready(Next::Command(Command::Drain { limit })) => limits.push(limit),
                Poll::Ready(Next::Order(_)) => break,
                _ => panic!("neither a drain nor an order"),
            }
        }
        assert_eq!(limits.len(), COMMANDS_MAX, "all of them before the first order");
        assert_eq!(limits.last(), Some(&limit));
        for _ in 1..ORDERS_MAX {
            assert!(matches!(inbox.poll_next(&mut cx), Poll::Ready(Next::Order(_))));
        }
        assert!(inbox.poll_next(&mut cx).is_pending());
    }
}
