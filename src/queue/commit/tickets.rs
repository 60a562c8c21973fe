//! Orders of a shard that wait for the commit thread, and their answers. `outcome` waits for one.
//!
//! Owner:    the home shard, through the `Committer` and the bodies in progress; not `Send`, no lock.
//! Promise:  every chunk returns to the shard's pool, even if its body was dropped meanwhile.
//! Bounds:   an order holds a place of one of the gates until it is answered.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::task::Waker;
use std::time::Instant;

use crossbeam::channel::TrySendError;
use slab::Slab;

use crate::base::ChunkPool;
use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::id::IdSource;
use crate::queue::commit::keeper::Keeper;
use crate::queue::commit::lane::Back;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Completion;
use crate::queue::commit::lane::Done;
use crate::queue::commit::lane::Lane;
use crate::queue::commit::lane::Work;
use crate::queue::commit::parcel::Parcel;
use crate::queue::fault::CommitFault;
use crate::rt::gate::Gate;
use crate::rt::gate::Place;

/// Parcels kept for the next messages, and the largest record buffer worth keeping.
const PARCELS_IDLE_MAX: usize = 256;

const RECORDS_KEPT_BYTES_MAX: usize = 8 << 10;

pub(super) struct Inner {
    pub(super) lane: std::sync::Arc<Lane>,
    pub(super) pool: Rc<ChunkPool>,
    pub(super) ids: RefCell<IdSource>,
    pub(super) tickets: RefCell<Slab<Ticket>>,
    pub(super) parcels: RefCell<Vec<Parcel>>,
    /// An order holds its place until it is answered, not until the answer is taken: a body that
    /// waits for a place may have answers to take.
    pub(super) gate: Rc<Gate>,
    pub(super) urgent: Rc<Gate>,
    pub(super) settles: Rc<Gate>,
    pub(super) splits: Rc<Gate>,
    /// Aborts and removals that found no place; nobody waits for their answers.
    pub(super) removals: RefCell<VecDeque<CommitOrder>>,
    /// Age of the present batch in milliseconds, if that is too long; else 0.
    pub(super) hung_ms: Cell<u64>,
    pub(super) watched: Cell<Watched>,
    /// Wakers of bodies that wait for a place.
    pub(super) place_waiters: RefCell<Slab<Waker>>,
    pub(super) keeper: RefCell<Option<Rc<dyn Keeper>>>,
}

pub(super) struct Ticket {
    /// Held until the order is answered.
    pub(super) place: Option<Place>,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Waiting(Option<Waker>),
    Done(Result<Done, CommitFault>),
    /// Nobody waits for the answer.
    Left,
    /// Answered `Hung`. If the messages become durable all the same, they are removed.
    Disowned(Messages),
}

/// The most that the time between two checks adds to the age of a batch. Ticks come every few
/// milliseconds.
pub(super) const WATCH_GAP_MS_MAX: u64 = 1000;

/// The last check of the present batch.
#[derive(Clone, Copy)]
pub(super) struct Watched {
    pub(super) batch: Option<u64>,
    /// The age of the batch at that check.
    pub(super) batch_ms: u64,
    pub(super) looked: Instant,
}

impl Inner {
    pub(super) fn public_id(&self, local: MessageId) -> PublicId {
        PublicId { local, spool: self.lane.spool }
    }

    pub(super) fn fault(&self) -> Option<CommitFault> {
        let is_hung = self.hung_ms.get() > 0;
        self.lane.fault().or_else(|| is_hung.then_some(CommitFault::Hung))
    }

    /// A place for new mail.
    pub(super) async fn enter_unless_hung(&self) -> Result<Place, CommitFault> {
        let mut turn = pin!(self.gate.enter());
        let mut waiter = PlaceWaiter { inner: self, place: None };
        poll_fn(|context| {
            if self.hung_ms.get() > 0 {
                return Poll::Ready(Err(CommitFault::Hung));
            }
            let place = turn.as_mut().poll(context).map(Ok);
            if place.is_pending() {
                waiter.note(context.waker());
            }
            place
        })
        .await
    }

    /// Wakes all waiting tasks.
    pub(super) fn wake_all(&self) {
        let mut wakers: Vec<Waker> = Vec::new();
        for (_, ticket) in self.tickets.borrow_mut().iter_mut() {
            if let Stage::Waiting(waker) = &mut ticket.stage {
                wakers.extend(waker.take());
            }
        }
        wakers.extend(self.place_waiters.borrow().iter().map(|(_, waker)| waker.clone()));
        // All borrows have ended: a woken task may run at once and call this again.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Gives an order to the commit thread, or hands it back with the reason.
    #[expect(
        clippy::result_large_err,
        reason = "the order goes back with its chunks; a box would cost an allocation per message"
    )]
    pub(super) fn submit(
        &self,
        place: Place,
        order: CommitOrder,
    ) -> Result<u32, (CommitFault, CommitOrder)> {
        if let Some(fault) = self.lane.fault()
            && !(fault == CommitFault::Stopped && finishes_begun_work(&order))
        {
            return Err((fault, order));
        }
        self.send(place, Stage::Waiting(None), order)
    }

    #[expect(
        clippy::result_large_err,
        reason = "the order goes back with its chunks; a box would cost an allocation per message"
    )]
    fn send(
        &self,
        place: Place,
        stage: Stage,
        order: CommitOrder,
    ) -> Result<u32, (CommitFault, CommitOrder)> {
        let sender = match place.is_of(&self.urgent) {
            true => &self.lane.urgent,
            false => &self.lane.sender,
        };
        let ticket = self.tickets.borrow_mut().insert(Ticket { place: Some(place), stage });
        match sender.try_send(Work { ticket: ticket as u32, order }) {
            Ok(()) => Ok(ticket as u32),
            Err(refused) => {
                let full = matches!(refused, TrySendError::Full(_));
                crate::invariant!(!full, "the lane holds less than there are places");
                let ticket = self.tickets.borrow_mut().remove(ticket);
                drop(ticket);
                Err((self.end_fault(), refused.into_inner().order))
            }
        }
    }

    /// Why a thread that has ended gives no answer.
    pub(super) fn end_fault(&self) -> CommitFault {
        self.lane.fault().unwrap_or(CommitFault::Failed)
    }

    pub(super) fn pump(&self) -> usize {
        // Read first: answers that the thread gave before it ended are taken below.
        let gone = self.lane.is_gone();
        let mut count = 0;
        while let Some(Completion { ticket, outcome, back }) = self.lane.completions.pop() {
            count += 1;
            match back {
                Back::Nothing => (),
                Back::Slice(slice) => self.pool.give(slice.into_chunk()),
                Back::Parcel(parcel) => self.take_back(parcel),
                Back::Parcels(parcels) => {
                    parcels.into_iter().for_each(|parcel| self.take_back(parcel));
                }
            }
            self.settle(ticket as usize, outcome);
        }
        if gone {
            self.settle_all(Err(self.end_fault()));
        }
        count
    }

    fn settle(&self, ticket: usize, outcome: Result<Done, CommitFault>) {
        let mut tickets = self.tickets.borrow_mut();
        let answered = &mut tickets[ticket];
        let place = answered.place.take();
        let waker = match std::mem::replace(&mut answered.stage, Stage::Done(outcome)) {
            Stage::Waiting(waker) => waker,
            Stage::Left => {
                tickets.remove(ticket);
                None
            }
            Stage::Disowned(messages) => {
                tickets.remove(ticket);
                if outcome.is_ok() {
                    let deletions = messages.as_slice().iter().copied().map(CommitOrder::Delete);
                    self.removals.borrow_mut().extend(deletions);
                }
                None
            }
            Stage::Done(_) => {
                crate::invariant!(false, "ticket {ticket} was answered twice");
                None
            }
        };
        // Before the wake-up: a woken task may run at once and call this again.
        drop(tickets);
        place.into_iter().for_each(|place| self.give_back(place));
        self.send_removals();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Passes the place on to a removal, or frees it.
    fn give_back(&self, place: Place) {
        let is_for_all = place.is_of(&self.gate);
        let removal = self.removals.borrow_mut().pop_front_if(|_| is_for_all);
        match removal {
            Some(order) => self.send_removal(place, order),
            None => drop(place),
        }
    }

    fn settle_all(&self, outcome: Result<Done, CommitFault>) {
        let open: Vec<usize> = self
            .tickets
            .borrow()
            .iter()
            .filter(|(_, ticket)| !matches!(ticket.stage, Stage::Done(_)))
            .map(|(place, _)| place)
            .collect();
        open.into_iter().for_each(|place| self.settle(place, outcome));
    }

    /// The waiter of this ticket was dropped.
    pub(super) fn leave(&self, ticket: u32) {
        let mut tickets = self.tickets.borrow_mut();
        match tickets.get_mut(ticket as usize).map(|ticket| &mut ticket.stage) {
            Some(Stage::Done(_)) => drop(tickets.remove(ticket as usize)),
            Some(stage) => *stage = Stage::Left,
            None => (),
        }
    }

    /// Empties a parcel and keeps its memory for the next message.
    pub(super) fn take_back(&self, mut parcel: Parcel) {
        for slice in parcel.slices.drain(..) {
            self.pool.give(slice.into_chunk());
        }
        parcel.records.clear();
        parcel.events.clear();
        let mut parcels = self.parcels.borrow_mut();
        let bytes = parcel.records.capacity().max(parcel.events.capacity());
        if parcels.len() < PARCELS_IDLE_MAX && bytes <= RECORDS_KEPT_BYTES_MAX {
            parcels.push(Parcel {
                slices: parcel.slices,
                records: parcel.records,
                events: parcel.events,
                ..Parcel::default()
            });
        }
    }

    /// Removes the chunks of an unfinished body. If the order is never sent, recovery removes them.
    pub(super) fn abort(&self, id: MessageId, chunks: u32) {
        self.removals.borrow_mut().push_back(CommitOrder::Abort { id, chunks });
        self.send_removals();
    }

    /// Sends as many removals as there are free places.
    fn send_removals(&self) {
        while !self.removals.borrow().is_empty()
            && let Some(place) = self.gate.try_enter()
        {
            self.give_back(place);
        }
    }

    fn send_removal(&self, place: Place, order: CommitOrder) {
        // If the thread has ended, recovery removes the chunks.
        let _ = self.send(place, Stage::Left, order);
    }
}

/// While the process drains, messages and jobs that were begun are still finished.
fn finishes_begun_work(order: &CommitOrder) -> bool {
    match order {
        CommitOrder::Chunk { .. }
        | CommitOrder::Finish(_)
        | CommitOrder::FinishAll(_)
        | CommitOrder::Settle(_)
        | CommitOrder::File(_) => true,
        CommitOrder::Abort { .. }
        | CommitOrder::Delete(_)
        | CommitOrder::RemoveLeftovers(_)
        | CommitOrder::Stop => false,
    }
}

/// The messages of one order; a single one costs no allocation.
#[derive(Clone)]
pub(super) enum Messages {
    None,
    One(MessageId),
    Several(Rc<[MessageId]>),
}

impl Messages {
    fn as_slice(&self) -> &[MessageId] {
        match self {
            Messages::None => &[],
            Messages::One(id) => std::slice::from_ref(id),
            Messages::Several(ids) => ids,
        }
    }
}

/// A body that waits for a place. It is woken when the disk hangs.
struct PlaceWaiter<'i> {
    inner: &'i Inner,
    place: Option<usize>,
}

impl PlaceWaiter<'_> {
    fn note(&mut self, waker: &Waker) {
        let mut waiters = self.inner.place_waiters.borrow_mut();
        match self.place {
            Some(place) => waiters[place].clone_from(waker),
            None => self.place = Some(waiters.insert(waker.clone())),
        }
    }
}

impl Drop for PlaceWaiter<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.inner.place_waiters.borrow_mut().remove(place);
        }
    }
}
