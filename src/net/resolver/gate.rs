//! How many lookups are under way at once.
//!
//! Promise:  first come, first served. A place is never lost: whoever was given one and is dropped
//!           before taking it passes it on.
//! Bounds:   `places` under way, `waiting_max` that wait for one.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use crate::rt::timer;

pub(in crate::net::resolver) struct Gate {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
    waiting_max: usize,
}

/// A place, given back when dropped.
pub(in crate::net::resolver) struct Place {
    gate: Rc<Gate>,
}

#[derive(Default)]
struct Ticket {
    called: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Gate {
    pub(in crate::net::resolver) fn new(places: usize, waiting_max: usize) -> Rc<Gate> {
        let waiting = RefCell::new(VecDeque::new());
        Rc::new(Gate { free: Cell::new(places), waiting, waiting_max })
    }

    /// A place, within `limit`.
    pub(in crate::net::resolver) async fn enter(self: &Rc<Gate>, limit: Duration) -> Option<Place> {
        if let Some(free) = self.free.get().checked_sub(1) {
            self.free.set(free);
            return Some(Place { gate: Rc::clone(self) });
        }
        if self.waiting.borrow().len() >= self.waiting_max {
            return None;
        }
        let queued = Queued { gate: Rc::clone(self), ticket: Rc::default() };
        self.waiting.borrow_mut().push_back(Rc::clone(&queued.ticket));
        let called = poll_fn(|cx| {
            if queued.ticket.called.get() {
                return Poll::Ready(());
            }
            queued.ticket.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        });
        timer::timeout(limit, called).await.ok()?;
        queued.ticket.called.set(false);
        Some(Place { gate: Rc::clone(self) })
    }

    /// A place is free: for who waits longest.
    fn pass_on(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        let Some(ticket) = next else {
            self.free.set(self.free.get() + 1);
            return;
        };
        ticket.called.set(true);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.pass_on();
    }
}

/// One that waits.
struct Queued {
    gate: Rc<Gate>,
    ticket: Rc<Ticket>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.gate.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.ticket));
        if self.ticket.called.get() {
            self.gate.pass_on();
        }
    }
}
