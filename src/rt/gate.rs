//! A semaphore for the tasks of one shard.
//!
//! Promise:  first come, first served. No permit is lost: a task that was given one and is dropped
//!           before it takes it passes it on. Each returned permit wakes one task.
//! Bounds:   the number of permits. The caller limits how many tasks wait, and for how long.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::task::Waker;

pub struct Gate {
    /// 0 while a task waits.
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
    /// Entries of `waiting` that were dropped. They are removed at the front, not searched for.
    gone: Cell<usize>,
}

/// A permit, returned when dropped.
pub struct Place {
    gate: Rc<Gate>,
}

#[derive(Default)]
struct Ticket {
    stage: Cell<Stage>,
    waker: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// In the queue.
    #[default]
    Waits,
    /// Has been given a permit and has not taken it yet; no longer in the queue.
    Called,
    Entered,
    /// Dropped, but still in the queue.
    Gone,
}

impl Gate {
    pub fn new(places: usize) -> Rc<Gate> {
        Rc::new(Gate { free: Cell::new(places), waiting: RefCell::default(), gone: Cell::new(0) })
    }

    pub fn has_free(&self) -> bool {
        self.free.get() > 0
    }

    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len() - self.gone.get()
    }

    /// A permit, if one is free and no task waits.
    pub fn try_enter(self: &Rc<Gate>) -> Option<Place> {
        let free = self.free.get().checked_sub(1)?;
        self.free.set(free);
        Some(Place { gate: Rc::clone(self) })
    }

    /// Waits for a permit.
    pub async fn enter(self: &Rc<Gate>) -> Place {
        if let Some(place) = self.try_enter() {
            return place;
        }
        let queued = Queued { gate: Rc::clone(self), ticket: Rc::default() };
        self.waiting.borrow_mut().push_back(Rc::clone(&queued.ticket));
        poll_fn(|cx| {
            if queued.ticket.stage.get() == Stage::Called {
                return Poll::Ready(());
            }
            queued.ticket.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        queued.ticket.stage.set(Stage::Entered);
        Place { gate: Rc::clone(self) }
    }

    /// Gives a free permit to the task that has waited longest.
    fn pass_on(&self) {
        self.pass_gone();
        let next = self.waiting.borrow_mut().pop_front();
        let Some(ticket) = next else {
            self.free.set(self.free.get() + 1);
            return;
        };
        ticket.stage.set(Stage::Called);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }

    /// Removes the dropped entries at the front of the queue.
    fn pass_gone(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|ticket| ticket.stage.get() == Stage::Gone) {
            waiting.pop_front();
            self.gone.set(self.gone.get() - 1);
        }
    }
}

impl Place {
    pub fn is_of(&self, gate: &Rc<Gate>) -> bool {
        Rc::ptr_eq(&self.gate, gate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.pass_on();
    }
}

/// The wait of one task, until it takes its permit.
struct Queued {
    gate: Rc<Gate>,
    ticket: Rc<Ticket>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        match self.ticket.stage.get() {
            Stage::Waits => {
                self.ticket.stage.set(Stage::Gone);
                self.ticket.waker.take();
                self.gate.gone.set(self.gate.gone.get() + 1);
                self.gate.pass_gone();
            }
            Stage::Called => self.gate.pass_on(),
            Stage::Entered | Stage::Gone => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn permits_are_given_in_order_and_none_is_lost() {
        let gate = Gate::new(2);
        let mut context = Context::from_waker(Waker::noop());
        let first = gate.try_enter().expect("free");
        let second = gate.try_enter().expect("free");
        assert!(gate.try_enter().is_none() && !gate.has_free());
        let mut third = pin!(gate.enter());
        let mut fifth = pin!(gate.enter());
        assert!(third.as_mut().poll(&mut context).is_pending());
        {
            let mut fourth = pin!(gate.enter());
            assert!(fourth.as_mut().poll(&mut context).is_pending());
            assert!(fifth.as_mut().poll(&mut context).is_pending());
            assert_eq!(gate.waiting(), 3);
            drop(first);
            drop(second);
            assert!(gate.try_enter().is_none(), "tasks that were given a permit go first");
            assert_eq!(gate.waiting(), 1);
            // The fourth was given a permit and is dropped before it takes it.
        }
        let Poll::Ready(third) = third.as_mut().poll(&mut context) else { panic!("has a permit") };
        let Poll::Ready(fifth) = fifth.as_mut().poll(&mut context) else { panic!("has a permit") };
        drop((third, fifth));
        let all: Vec<Place> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_dropped_wait_gets_no_permit() {
        let gate = Gate::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let held = gate.try_enter().expect("free");
        {
            let mut first = pin!(gate.enter());
            assert!(first.as_mut().poll(&mut context).is_pending());
            {
                let mut second = pin!(gate.enter());
                assert!(second.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!((gate.waiting(), gate.waiting.borrow().len()), (1, 2));
        }
        assert_eq!((gate.waiting(), gate.waiting.borrow().len()), (0, 0));
        drop(held);
        assert!(gate.try_enter().is_some());
    }
}
