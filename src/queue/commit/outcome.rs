//! Waiting for the answer to one order.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use crate::queue::commit::lane::Done;
use crate::queue::commit::tickets::Inner;
use crate::queue::commit::tickets::Messages;
use crate::queue::commit::tickets::Stage;
use crate::queue::fault::CommitFault;

/// How long the waiter of an order waits.
pub(super) enum Patience {
    /// Until the order is carried out, however long that takes.
    Endless,
    /// Until the disk hangs. With the messages that the order makes durable.
    UntilHung(Messages),
}

/// Waits for the answer to a ticket. Dropped, it leaves the ticket to `pump`.
pub(super) struct Outcome<'i> {
    inner: &'i Inner,
    ticket: u32,
    patience: Patience,
    taken: bool,
}

impl<'i> Outcome<'i> {
    pub(super) fn of(inner: &'i Inner, ticket: u32, patience: Patience) -> Outcome<'i> {
        Outcome { inner, ticket, patience, taken: false }
    }
}

impl Future for Outcome<'_> {
    type Output = Result<Done, CommitFault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.inner.lane.is_gone() {
            // An order that came too late for the thread rings no bell.
            self.inner.pump();
        }
        let place = self.ticket as usize;
        let mut tickets = self.inner.tickets.borrow_mut();
        let stage = &mut tickets[place].stage;
        if let Stage::Done(outcome) = stage {
            let outcome = *outcome;
            tickets.remove(place);
            self.taken = true;
            return Poll::Ready(outcome);
        }
        if let Patience::UntilHung(messages) = &self.patience
            && self.inner.hung_ms.get() > 0
        {
            *stage = match messages {
                Messages::None => Stage::Left,
                messages => Stage::Disowned(messages.clone()),
            };
            drop(tickets);
            self.taken = true;
            return Poll::Ready(Err(CommitFault::Hung));
        }
        match stage {
            Stage::Waiting(Some(waker)) if waker.will_wake(context.waker()) => {}
            waiting => *waiting = Stage::Waiting(Some(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.inner.leave(self.ticket);
        }
    }
}
