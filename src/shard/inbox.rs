//! Commands and requests from the control plane to a shard.
//!
//! Owner:    senders are the main thread and the reload actor (commands), and operations (requests);
//!           the shard's main future reads both lanes, commands first.
//! Promise:  a command is taken and carried out before all requests that wait.
//! Bounds:   `COMMANDS_MAX` and `REQUESTS_MAX`. Full: a reload is refused with a warning, a request is
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
use crate::queue::admin::operate::Operation;
use crate::route::DeliveryPolicy;
use crate::shard::delivering::Delivering;
use crate::shard::delivering::OperateAnswer;

/// Requests that may wait for a shard.
pub const REQUESTS_MAX: usize = 1024;

/// Commands that may wait for a shard: reloads, and one drain.
const COMMANDS_MAX: usize = 8;

/// A command to a shard.
pub enum Command {
    /// Use this policy for new sessions. If the command is lost, the old policy stays in force.
    Reload(Arc<Policy>, Arc<DeliveryPolicy>),
    /// Stop accepting, end idle sessions, finish running ones within the limit, then return.
    Drain { limit: Duration },
}

/// A request of an operator.
pub enum ShardRequest {
    /// Carry out an operation on a message of this home shard. If the request is lost, nothing changes.
    Operate { id: MessageId, operation: Operation, answer: OperateAnswer },
    /// Read the delivering half. The closure sends its own answer, never waits and changes nothing; a
    /// panic in it ends only this request. If the request is lost, there is no answer.
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
    requests: Seed<ShardRequest>,
}

impl InboxSeed {
    /// To be called on the receiving shard.
    pub fn settle(self) -> Inbox {
        Inbox { commands: self.commands.settle(), requests: self.requests.settle() }
    }
}

/// Both lanes of a shard.
pub struct Inbox {
    commands: Receiver<Command>,
    requests: Receiver<ShardRequest>,
}

/// The next item of the lanes.
pub enum InboxItem {
    Command(Command),
    Request(ShardRequest),
}

impl Inbox {
    /// The next command, or else the next request.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<InboxItem> {
        match self.commands.poll_receive(cx) {
            Poll::Ready(command) => Poll::Ready(InboxItem::Command(command)),
            Poll::Pending => self.requests.poll_receive(cx).map(InboxItem::Request),
        }
    }
}

/// Creates the lanes into one shard.
pub fn inbox() -> (CommandSender, Sender<ShardRequest>, InboxSeed) {
    let (commands, command_seed) = lane::lane(COMMANDS_MAX);
    let (requests, request_seed) = lane::lane(REQUESTS_MAX);
    let seed = InboxSeed { commands: command_seed, requests: request_seed };
    (CommandSender(commands), requests, seed)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_drain_is_taken_before_all_orders_and_beside_all_reloads() {
        let (commands, requests, seed) = inbox();
        let mut asked = 0;
        while requests.try_send(ShardRequest::Ask(Box::new(|_| ()))).is_ok() {
            asked += 1;
        }
        assert_eq!(asked, REQUESTS_MAX);
        while commands.0.try_send_sparing_one(Command::Drain { limit: Duration::ZERO }).is_ok() {}
        let limit = Duration::from_secs(7);
        assert!(commands.drain(limit), "the last place is its own");
        assert!(!commands.drain(limit), "one is enough");
        let mut inbox = seed.settle();
        let mut cx = Context::from_waker(Waker::noop());
        let mut limits = Vec::new();
        loop {
            match inbox.poll_next(&mut cx) {
                Poll::Ready(InboxItem::Command(Command::Drain { limit })) => limits.push(limit),
                Poll::Ready(InboxItem::Request(_)) => break,
                _ => panic!("neither a drain nor a request"),
            }
        }
        assert_eq!(limits.len(), COMMANDS_MAX, "all of them before the first request");
        assert_eq!(limits.last(), Some(&limit));
        for _ in 1..REQUESTS_MAX {
            assert!(matches!(inbox.poll_next(&mut cx), Poll::Ready(InboxItem::Request(_))));
        }
        assert!(inbox.poll_next(&mut cx).is_pending());
    }
}
