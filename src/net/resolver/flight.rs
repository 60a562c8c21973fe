//! Lookups in flight: callers with the same question share one lookup.
//!
//! Promise:  every lookup completes for its callers, even if its task panics or is dropped.
//! Bounds:   the gate limits the lookups that run or wait for a slot.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use slab::Slab;

use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::query::Outcome;
use crate::net::resolver::query::Question;

/// All lookups in flight.
#[derive(Default)]
pub(super) struct InFlight {
    lookups: RefCell<HashMap<Question, Rc<SharedLookup>>>,
}

/// One lookup in flight, with the tasks that wait for it.
#[derive(Default)]
struct SharedLookup {
    outcome: RefCell<Option<Outcome>>,
    waiting: RefCell<Slab<Option<Waker>>>,
}

impl InFlight {
    /// Waits for the lookup of this question if one is in flight.
    pub(super) fn join(&self, question: &Question) -> Option<Wait> {
        self.lookups.borrow().get(question).map(Wait::new)
    }

    /// Registers a new lookup; returns its completion and a wait for it.
    pub(super) fn begin(self: &Rc<Self>, question: &Question) -> (Completion, Wait) {
        let lookup = Rc::new(SharedLookup::default());
        let wait = Wait::new(&lookup);
        let other = self.lookups.borrow_mut().insert(question.clone(), Rc::clone(&lookup));
        assert!(other.is_none(), "each question has at most one lookup in flight");
        (Completion { in_flight: Rc::clone(self), question: question.clone(), lookup }, wait)
    }

    pub(super) fn len(&self) -> usize {
        self.lookups.borrow().len()
    }
}

/// Completes a lookup, at the latest when dropped.
pub(super) struct Completion {
    in_flight: Rc<InFlight>,
    question: Question,
    lookup: Rc<SharedLookup>,
}

impl Completion {
    pub(super) fn complete(self, outcome: Outcome) {
        self.lookup.outcome.replace(Some(outcome));
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.in_flight.lookups.borrow_mut().remove(&self.question);
        let abandoned = || Outcome::Failed(DnsFault::Abandoned);
        self.lookup.outcome.borrow_mut().get_or_insert_with(abandoned);
        let waiting = self.lookup.waiting.take();
        waiting.into_iter().filter_map(|(_, waker)| waker).for_each(Waker::wake);
    }
}

/// Waits for a lookup. If dropped, the lookup continues for other callers and for the cache.
pub(super) struct Wait {
    lookup: Rc<SharedLookup>,
    place: Option<usize>,
}

impl Wait {
    fn new(lookup: &Rc<SharedLookup>) -> Wait {
        Wait { lookup: Rc::clone(lookup), place: None }
    }
}

impl Future for Wait {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = &*self.lookup.outcome.borrow() {
            return Poll::Ready(outcome.clone());
        }
        let waker = Some(cx.waker().clone());
        match self.place {
            Some(place) => self.lookup.waiting.borrow_mut()[place] = waker,
            None => {
                let place = self.lookup.waiting.borrow_mut().insert(waker);
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // After completion the list is a new one, without this place.
        if let Some(place) = self.place {
            let left = self.lookup.waiting.borrow_mut().try_remove(place);
            drop(left);
        }
    }
}
