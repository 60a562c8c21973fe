//! Asking: a shard asks a question that an OS thread answers, and waits at most until its deadline.
//!
//! Owner:    an `AskPool` is a bounded channel and its threads. Each shard has an `Asker`, which never
//!           leaves it. The threads use no async runtime, so that a stuck runtime stops no answer.
//! Promise:  a question is answered once, or its asker gets a `NoAnswer` by the deadline. A late
//!           answer meets another generation of its slot and is dropped. A panic in a worker is
//!           `NoAnswer::Failed`, not the end of the thread.
//! Cancel:   dropping the future, or the deadline, frees the slot; a worker that has not begun skips
//!           the question.
//! Bounds:   the slots of an asker and the places in the channel. Full: `NoAnswer::Full`. After
//!           `LATE_IN_A_ROW_MAX` late answers the asker does not ask for `AWAY`: `NoAnswer::Away`.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use crossbeam::channel::Receiver;
use crossbeam::channel::Sender;
use crossbeam::queue::SegQueue;
use slab::Slab;

use crate::queue::commit::lane::Ring;
use crate::rt::timer;

/// Late answers in a row after which the pool counts as away.
pub const LATE_IN_A_ROW_MAX: u32 = 5;

/// Time without questions to a pool that is away.
pub const AWAY: Duration = Duration::from_secs(1);

/// One kind of question.
pub trait Question: Send + 'static {
    type Answer: Send + 'static;

    /// Time until the asker goes on without an answer. `None`: it waits however long that takes.
    fn deadline(&self) -> Option<Duration>;
}

/// Why there is no answer. The asker then takes the default answer of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many questions are under way.
    Full,
    /// The deadline passed.
    Late,
    /// The last questions were answered late; the pool is left alone for a while.
    Away,
    /// The worker panicked.
    Failed,
}

struct Asked<Q: Question> {
    question: Q,
    slot: u32,
    generation: u32,
    back: Arc<Answers<Q::Answer>>,
}

type Answer<A> = (u32, u32, Option<A>);

/// The way back to one shard. It holds no more answers than the channel and the threads had
/// questions since the shard last looked.
struct Answers<A> {
    queue: SegQueue<Answer<A>>,
    /// The present generation of each slot.
    generations: Box<[AtomicU32]>,
    ring: Ring,
}

impl<A> Answers<A> {
    fn generation(&self, slot: u32) -> u32 {
        self.generations[slot as usize].load(Ordering::Acquire)
    }
}

/// The threads that answer. They end when the pool and all askers are dropped.
pub struct AskPool<Q: Question> {
    sender: Sender<Asked<Q>>,
}

impl<Q: Question> AskPool<Q> {
    /// Starts `threads` threads. Each calls `worker` once, for what it needs to answer questions.
    pub fn start<W: FnMut(Q) -> Q::Answer + 'static>(
        name: &str,
        threads: usize,
        places: usize,
        worker: impl Fn() -> W + Clone + Send + 'static,
    ) -> io::Result<AskPool<Q>> {
        let (sender, receiver) = crossbeam::channel::bounded(places);
        for number in 0..threads {
            let (worker, receiver) = (worker.clone(), receiver.clone());
            let name = if threads == 1 { name.to_owned() } else { format!("{name}-{number}") };
            thread::Builder::new().name(name).spawn(move || serve(worker(), receiver))?;
        }
        Ok(AskPool { sender })
    }

    /// The asker of one shard, with so many slots. `ring` is called from the threads; it must lead
    /// to `Asker::pump` being called on this shard.
    pub fn asker(&self, slots: usize, ring: Ring) -> Asker<Q> {
        let generations = (0..slots).map(|_| AtomicU32::new(0)).collect();
        let back = Arc::new(Answers { queue: SegQueue::new(), generations, ring });
        Asker {
            inner: Rc::new(Inner {
                sender: self.sender.clone(),
                back,
                slots: RefCell::default(),
                waiting: RefCell::default(),
                late_in_a_row: Cell::new(0),
                away_until: Cell::new(None),
            }),
        }
    }
}

fn serve<Q: Question>(mut work: impl FnMut(Q) -> Q::Answer, questions: Receiver<Asked<Q>>) {
    for Asked { question, slot, generation, back } in questions {
        if back.generation(slot) == generation {
            let answer = catch_unwind(AssertUnwindSafe(|| work(question))).ok();
            back.queue.push((slot, generation, answer));
        }
        // Also without an answer: the place in the channel is free again.
        (back.ring)();
    }
}

/// A shard's way to a pool. Clones are the same asker.
pub struct Asker<Q: Question> {
    inner: Rc<Inner<Q>>,
}

impl<Q: Question> Clone for Asker<Q> {
    fn clone(&self) -> Asker<Q> {
        Asker { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<Q: Question> {
    sender: Sender<Asked<Q>>,
    back: Arc<Answers<Q::Answer>>,
    slots: RefCell<Slab<Slot<Q::Answer>>>,
    /// Askers that wait for a slot.
    waiting: RefCell<Vec<Waker>>,
    late_in_a_row: Cell<u32>,
    away_until: Cell<Option<std::time::Instant>>,
}

enum Slot<A> {
    Waiting(Option<Waker>),
    Answered(Option<A>),
}

impl<Q: Question> Asker<Q> {
    /// Asks, and waits for the answer until the deadline of the question.
    pub async fn ask(&self, question: Q) -> Result<Q::Answer, NoAnswer> {
        let inner = &*self.inner;
        if inner.away_until.get().is_some_and(|until| timer::now() < until) {
            return Err(NoAnswer::Away);
        }
        let deadline = question.deadline();
        let place = inner.send(question).map_err(|_| NoAnswer::Full)?;
        let answered = match deadline {
            Some(limit) => timer::timeout(limit, place.answer()).await.map_err(|_| NoAnswer::Late),
            None => Ok(place.answer().await),
        };
        inner.note_late(answered.is_err());
        answered?.ok_or(NoAnswer::Failed)
    }

    /// As `ask`, for a question without a deadline: it waits for a slot too. `None`: the worker
    /// panicked.
    pub async fn ask_patiently(&self, question: Q) -> Option<Q::Answer> {
        let inner = &*self.inner;
        let mut question = Some(question);
        let place = poll_fn(|cx| match inner.send(question.take().expect("not sent yet")) {
            Ok(place) => Poll::Ready(place),
            Err(refused) => {
                question = Some(refused);
                inner.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
        place.answer().await
    }

    /// Takes the answers that are there. To be called whenever the bell rang.
    pub fn pump(&self) {
        let inner = &*self.inner;
        while let Some((slot, generation, answer)) = inner.back.queue.pop() {
            if inner.back.generation(slot) != generation {
                continue;
            }
            let before = std::mem::replace(
                &mut inner.slots.borrow_mut()[slot as usize],
                Slot::Answered(answer),
            );
            if let Slot::Waiting(Some(waker)) = before {
                waker.wake();
            }
        }
        let waiting = std::mem::take(&mut *inner.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Questions under way.
    pub fn under_way(&self) -> usize {
        self.inner.slots.borrow().len()
    }
}

impl<Q: Question> Inner<Q> {
    /// Sends the question, or gives it back when there is no room.
    fn send(&self, question: Q) -> Result<Place<'_, Q>, Q> {
        let slot = {
            let mut slots = self.slots.borrow_mut();
            if slots.len() == self.back.generations.len() {
                return Err(question);
            }
            slots.insert(Slot::Waiting(None)) as u32
        };
        let place = Place { inner: self, slot };
        let generation = self.back.generation(slot);
        let asked = Asked { question, slot, generation, back: Arc::clone(&self.back) };
        match self.sender.try_send(asked) {
            Ok(()) => Ok(place),
            Err(refused) => Err(refused.into_inner().question),
        }
    }

    fn note_late(&self, is_late: bool) {
        let late = if is_late { self.late_in_a_row.get() + 1 } else { 0 };
        self.late_in_a_row.set(late % LATE_IN_A_ROW_MAX);
        if late == LATE_IN_A_ROW_MAX {
            self.away_until.set(Some(timer::now() + AWAY));
        }
    }
}

/// A slot in use. Dropping it cancels the question.
struct Place<'i, Q: Question> {
    inner: &'i Inner<Q>,
    slot: u32,
}

impl<Q: Question> Place<'_, Q> {
    /// `None`: the worker panicked.
    async fn answer(&self) -> Option<Q::Answer> {
        poll_fn(|cx| match &mut self.inner.slots.borrow_mut()[self.slot as usize] {
            Slot::Answered(answer) => Poll::Ready(answer.take()),
            waiting => {
                *waiting = Slot::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl<Q: Question> Drop for Place<'_, Q> {
    fn drop(&mut self) {
        self.inner.back.generations[self.slot as usize].fetch_add(1, Ordering::AcqRel);
        self.inner.slots.borrow_mut().remove(self.slot as usize);
    }
}
