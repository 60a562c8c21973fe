//! Reading the store beside a shard: a thread that does errands, so that no shard waits for a disk.
//!
//! Owner:    a `Reader` belongs to one shard and is not `Send`; its thread ends with it.
//! Promise:  an errand is answered once, or its waiter was dropped. A panic in an errand is an
//!           answer (`None`), not the end of the thread.
//! Bounds:   `ERRANDS_MAX` under way; more wait for room in the order they came.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::task::Waker;
use std::thread;

use crossbeam::channel::Sender;
use crossbeam::queue::SegQueue;
use slab::Slab;

use crate::base::ShardId;
use crate::queue::lane::Ring;

/// Errands under way at a reader.
pub const ERRANDS_MAX: usize = 64;

type Payload = Box<dyn Any + Send>;
type Errand = Box<dyn FnOnce() -> Payload + Send>;
type Answers = SegQueue<(usize, Option<Payload>)>;

enum Seat {
    Waiting(Option<Waker>),
    Answered(Option<Payload>),
    Left,
}

/// The way to a shard's errands.
#[derive(Clone)]
pub struct Reader {
    inner: Rc<Inner>,
}

struct Inner {
    sender: Sender<(usize, Errand)>,
    answers: Arc<Answers>,
    seats: RefCell<Slab<Seat>>,
    room: RefCell<Vec<Waker>>,
}

impl Reader {
    /// `ring` is called from the thread after each answer; it must lead to `pump` on this shard.
    pub fn start(shard: ShardId, ring: Ring) -> io::Result<Reader> {
        let (sender, receiver) = crossbeam::channel::bounded::<(usize, Errand)>(ERRANDS_MAX);
        let answers: Arc<Answers> = Arc::default();
        let answering = Arc::clone(&answers);
        thread::Builder::new().name(format!("read-{shard}")).spawn(move || {
            for (seat, errand) in receiver {
                let answer = catch_unwind(AssertUnwindSafe(errand)).ok();
                answering.push((seat, answer));
                ring();
            }
        })?;
        let inner = Inner { sender, answers, seats: RefCell::default(), room: RefCell::default() };
        Ok(Reader { inner: Rc::new(inner) })
    }

    /// Runs `errand` beside the shard. `None` when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let inner = &*self.inner;
        poll_fn(|cx| {
            if inner.seats.borrow().len() < ERRANDS_MAX {
                return Poll::Ready(());
            }
            inner.room.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let seat = Place { inner, seat: inner.seats.borrow_mut().insert(Seat::Waiting(None)) };
        let errand: Errand = Box::new(move || Box::new(errand()));
        if inner.sender.try_send((seat.seat, errand)).is_err() {
            crate::invariant!(false, "a reader has more errands than seats");
            return None;
        }
        let answer = poll_fn(|cx| {
            let mut seats = inner.seats.borrow_mut();
            match &mut seats[seat.seat] {
                Seat::Answered(answer) => Poll::Ready(answer.take()),
                waiting => {
                    *waiting = Seat::Waiting(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await;
        answer.and_then(|payload| payload.downcast().ok()).map(|answer| *answer)
    }

    /// Takes the answers that are there. To be called whenever the bell rang.
    pub fn pump(&self) {
        let inner = &*self.inner;
        while let Some((seat, answer)) = inner.answers.pop() {
            let mut seats = inner.seats.borrow_mut();
            let before = std::mem::replace(&mut seats[seat], Seat::Answered(answer));
            match before {
                Seat::Left => {
                    seats.remove(seat);
                }
                Seat::Waiting(Some(waker)) => {
                    drop(seats);
                    waker.wake();
                }
                Seat::Waiting(None) | Seat::Answered(_) => (),
            }
        }
        let waiting = std::mem::take(&mut *inner.room.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A seat that is given back, or left to `pump`, whatever becomes of its waiter.
struct Place<'i> {
    inner: &'i Inner,
    seat: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut seats = self.inner.seats.borrow_mut();
        match seats[self.seat] {
            Seat::Answered(_) => {
                seats.remove(self.seat);
            }
            _ => seats[self.seat] = Seat::Left,
        }
    }
}
