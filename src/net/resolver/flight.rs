//! Who waits for which lookup: identical ones are made once.
//!
//! Promise:  every flight lands, also when its task panics or is dropped; whoever waits is told.
//! Bounds:   as many flights as the gate lets in and lets wait.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use slab::Slab;

use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::outcome::Outcome;
use crate::net::resolver::query::Question;

#[derive(Default)]
pub(in crate::net::resolver) struct Flights {
    under_way: RefCell<HashMap<Question, Rc<Flight>>>,
}

/// One lookup under way.
#[derive(Default)]
struct Flight {
    outcome: RefCell<Option<Outcome>>,
    waiting: RefCell<Slab<Option<Waker>>>,
}

impl Flights {
    /// Waits for the same lookup, if one is under way.
    pub(in crate::net::resolver) fn join(&self, question: &Question) -> Option<Wait> {
        self.under_way.borrow().get(question).map(Wait::new)
    }

    /// A lookup begins: what ends it, and the wait for it.
    pub(in crate::net::resolver) fn begin(self: &Rc<Self>, question: &Question) -> (Landing, Wait) {
        let flight = Rc::new(Flight::default());
        let wait = Wait::new(&flight);
        let other = self.under_way.borrow_mut().insert(question.clone(), Rc::clone(&flight));
        assert!(other.is_none(), "a lookup is under way once");
        (Landing { flights: Rc::clone(self), question: question.clone(), flight }, wait)
    }

    pub(in crate::net::resolver) fn len(&self) -> usize {
        self.under_way.borrow().len()
    }
}

/// Ends a lookup, at the latest when it is dropped.
pub(in crate::net::resolver) struct Landing {
    flights: Rc<Flights>,
    question: Question,
    flight: Rc<Flight>,
}

impl Landing {
    pub(in crate::net::resolver) fn land(self, outcome: Outcome) {
        self.flight.outcome.replace(Some(outcome));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.under_way.borrow_mut().remove(&self.question);
        let abandoned = || Outcome::Failed(DnsFault::Abandoned);
        self.flight.outcome.borrow_mut().get_or_insert_with(abandoned);
        let waiting = self.flight.waiting.take();
        waiting.into_iter().filter_map(|(_, waker)| waker).for_each(Waker::wake);
    }
}

/// Waits for a lookup. Dropping it leaves the lookup to the others, and to the cache.
pub(in crate::net::resolver) struct Wait {
    flight: Rc<Flight>,
    place: Option<usize>,
}

impl Wait {
    fn new(flight: &Rc<Flight>) -> Wait {
        Wait { flight: Rc::clone(flight), place: None }
    }
}

impl Future for Wait {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = &*self.flight.outcome.borrow() {
            return Poll::Ready(outcome.clone());
        }
        let waker = Some(cx.waker().clone());
        match self.place {
            Some(place) => self.flight.waiting.borrow_mut()[place] = waker,
            None => {
                let place = self.flight.waiting.borrow_mut().insert(waker);
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // After the landing the list is a new one, without this place.
        if let Some(place) = self.place {
            let left = self.flight.waiting.borrow_mut().try_remove(place);
            drop(left);
        }
    }
}
