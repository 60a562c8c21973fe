//! Commands and orders from the control plane to a shard.
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
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
use crate::route::DeliveryPolicy;
use crate::shard::delivering::Delivering;

/// Receives the result of an order.
pub type OperateAnswer = Box<dyn FnOnce(Result<Carried, OperationFault>) + Send>;

/// Orders that may wait for a shard.
pub const ORDERS_MAX: usize = 1024;

/// Commands that may wait for a shard: reloads, and one drain.
const COMMANDS_MAX: usize = 8;

/// A command to a shard.
pub enum Command {
    /// Use this policy for new sessions. If the command is lost, the old policy stays in force.
    Reload(Arc<Policy>, Arc<DeliveryPolicy>),
    /// Stop accepting, end idle sessions, finish running ones within the limit, then return.
    Drain { limit: Duration },
}

/// An order of an operator.
pub enum Order {
    /// Carry out an operation on a message of this home shard. If the order is lost, nothing changes.
    Operate { id: MessageId, operation: Operation, answer: OperateAnswer },
    /// Read the delivering half. The closure sends its own answer, never waits and changes nothing; a
    /// panic in it ends only this order. If the order is lost, there is no answer.
    Ask(Box<dyn FnOnce(&Delivering) + Send>),
    /// As `Ask`, but changes the delivering half: a panic in it ends the process.
    Change(Box<dyn FnOnce(&Delivering) + Send>),
}

/// Sends commands. One thread reloads; another one drains once.
#[derive(Clone)]
pub struct CommandSender(Sender<Command>);

impl CommandSender {
    /// `false`: earlier reloads still wait.
    pub fn reload(&self, policy: &Arc<Policy>, delivery: &Arc<DeliveryPolicy>) -> bool {
        let command = Command::Reload(Arc::clone(policy), Arc::clone(delivery));
        self.0.try_send_sparing_one(command).is_ok()
    }

    /// `false`: the shard was told to drain before.
    pub fn drain(&self, limit: Duration) -> bool {
        self.0.try_send(Command::Drain { limit }).is_ok()
    }
}

/// Both lanes before they are moved to the shard.
pub struct InboxSeed {
    commands: Seed<Command>,
    orders: Seed<Order>,
}

impl InboxSeed {
    /// To be called on the receiving shard.
    pub fn settle(self) -> Inbox {
        Inbox { commands: self.commands.settle(), orders: self.orders.settle() }
    }
}

/// Both lanes of a shard.
pub struct Inbox {
    commands: Receiver<Command>,
    orders: Receiver<Order>,
}

/// The next item of the lanes.
pub enum Next {
    Command(Command),
    Order(Order),
}

impl Inbox {
    /// The next command, or else the next order.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self.commands.poll_receive(cx) {
            Poll::Ready(command) => Poll::Ready(Next::Command(command)),
            Poll::Pending => self.orders.poll_receive(cx).map(Next::Order),
        }
    }
}

/// Creates the lanes into one shard.
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
