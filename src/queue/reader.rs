//! Reading the store beside a shard: a thread that runs tasks, so that no shard waits for a disk.
//!
//! Owner:    a `Reader` belongs to one shard and is not `Send`; its thread ends with it.
//! Promise:  a task is answered once, or its waiter was dropped. A panic in a task is an answer
//!           (`None`), not the end of the thread.
//! Bounds:   `TASKS_MAX` under way; more wait in the order in which they came.

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
use crate::queue::commit::lane::Ring;

/// Tasks under way at a reader.
pub const TASKS_MAX: usize = 64;

type Payload = Box<dyn Any + Send>;
type Task = Box<dyn FnOnce() -> Payload + Send>;
type Answers = SegQueue<(usize, Option<Payload>)>;

enum Slot {
    Waiting(Option<Waker>),
    Answered(Option<Payload>),
    Left,
}

/// Runs tasks of one shard on another thread.
#[derive(Clone)]
pub struct Reader {
    inner: Rc<Inner>,
}

struct Inner {
    sender: Sender<(usize, Task)>,
    answers: Arc<Answers>,
    slots: RefCell<Slab<Slot>>,
    room: RefCell<Vec<Waker>>,
}

impl Reader {
    /// `ring` is called from the thread after each answer; it must lead to `pump` on this shard.
    pub fn start(shard: ShardId, ring: Ring) -> io::Result<Reader> {
        let (sender, receiver) = crossbeam::channel::bounded::<(usize, Task)>(TASKS_MAX);
        let answers: Arc<Answers> = Arc::default();
        let answering = Arc::clone(&answers);
        thread::Builder::new().name(format!("read-{shard}")).spawn(move || {
            for (slot, task) in receiver {
                let answer = catch_unwind(AssertUnwindSafe(task)).ok();
                answering.push((slot, answer));
                ring();
            }
        })?;
        let inner = Inner { sender, answers, slots: RefCell::default(), room: RefCell::default() };
        Ok(Reader { inner: Rc::new(inner) })
    }

    /// Runs `task` beside the shard. `None` when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let inner = &*self.inner;
        poll_fn(|cx| {
            if inner.slots.borrow().len() < TASKS_MAX {
                return Poll::Ready(());
            }
            inner.room.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let slot = Place { inner, slot: inner.slots.borrow_mut().insert(Slot::Waiting(None)) };
        let task: Task = Box::new(move || Box::new(task()));
        if inner.sender.try_send((slot.slot, task)).is_err() {
            crate::invariant!(false, "a reader has more tasks than slots");
            return None;
        }
        let answer = poll_fn(|cx| {
            let mut slots = inner.slots.borrow_mut();
            match &mut slots[slot.slot] {
                Slot::Answered(answer) => Poll::Ready(answer.take()),
                waiting => {
                    *waiting = Slot::Waiting(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await;
        answer.and_then(|payload| payload.downcast().ok()).map(|answer| *answer)
    }

    /// Takes the answers. Call it whenever `ring` was called.
    pub fn pump(&self) {
        let inner = &*self.inner;
        while let Some((slot, answer)) = inner.answers.pop() {
            let mut slots = inner.slots.borrow_mut();
            let before = std::mem::replace(&mut slots[slot], Slot::Answered(answer));
            match before {
                Slot::Left => {
                    slots.remove(slot);
                }
                Slot::Waiting(Some(waker)) => {
                    drop(slots);
                    waker.wake();
                }
                Slot::Waiting(None) | Slot::Answered(_) => (),
            }
        }
        let waiting = std::mem::take(&mut *inner.room.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A slot that is freed, or left to `pump`, when its waiter goes.
struct Place<'i> {
    inner: &'i Inner,
    slot: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut slots = self.inner.slots.borrow_mut();
        match slots[self.slot] {
            Slot::Answered(_) => {
                slots.remove(self.slot);
            }
            _ => slots[self.slot] = Slot::Left,
        }
    }
}
