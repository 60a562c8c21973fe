//! An upload: one message streamed from any thread to a shard, and its outcome back.
//!
//! Owner:    the `Uploader` may be on any thread; the shard settles the `UploadSeed` and reads.
//! Promise:  pieces arrive in their order. The outcome reaches the uploader once; an outcome slot that
//!           is dropped without an outcome tells the uploader so. An uploader dropped before `end`
//!           leaves `Piece::Abort`; after `end` it can change nothing.
//! Bounds:   `UPLOAD_CHUNKS_MAX` chunks; beyond that the uploader waits. One more place is kept for
//!           the end.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;

use crate::base::Chunk;
use crate::base::limits::UPLOAD_CHUNKS_MAX;
use crate::handoff::lane;
use crate::handoff::lane::Receiver;
use crate::handoff::lane::Seed;
use crate::handoff::lane::Sender;

/// What is streamed.
pub enum Piece {
    Chunk(Chunk),
    /// The message is whole.
    End,
    /// The message will never be whole. Losing it is what `Drop` of the lane's sender would mean.
    Abort,
}

/// The place of one outcome, written by the shard.
struct Ticket<R> {
    outcome: ArrayQueue<R>,
    /// The shard writes nothing more.
    closed: AtomicBool,
    /// The uploader, which waits for a place or for the outcome.
    waiting: AtomicWaker,
}

/// The shard's side of a ticket.
pub struct OutcomeSlot<R>(Arc<Ticket<R>>);

impl<R> OutcomeSlot<R> {
    pub fn answer(self, outcome: R) {
        let pushed = self.0.outcome.push(outcome);
        debug_assert!(pushed.is_ok(), "the slot is consumed by its answer");
    }
}

impl<R> Drop for OutcomeSlot<R> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.waiting.wake();
    }
}

/// The uploader's side of a ticket.
pub struct OutcomeReceiver<R>(Arc<Ticket<R>>);

impl<R> OutcomeReceiver<R> {
    /// Waits for the outcome. `None`: the shard gave the message up without one.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<R>> {
        self.0.waiting.register(cx.waker());
        // Looked at first: the outcome is written before the slot closes.
        let closed = self.0.closed.load(Ordering::Acquire);
        match self.0.outcome.pop() {
            Some(outcome) => Poll::Ready(Some(outcome)),
            None if closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A ticket for one outcome.
pub fn ticket<R>() -> (OutcomeSlot<R>, OutcomeReceiver<R>) {
    let ticket = Arc::new(Ticket {
        outcome: ArrayQueue::new(1),
        closed: AtomicBool::new(false),
        waiting: AtomicWaker::new(),
    });
    (OutcomeSlot(Arc::clone(&ticket)), OutcomeReceiver(ticket))
}

/// The sending side.
pub struct Uploader<R> {
    pieces: Sender<Piece>,
    outcome: OutcomeReceiver<R>,
    ended: bool,
}

/// The shard's side, not yet on its shard.
pub struct UploadSeed<R> {
    pieces: Seed<Piece>,
    slot: OutcomeSlot<R>,
}

/// The shard's side.
pub struct Upload<R> {
    pieces: Receiver<Piece>,
    pub slot: OutcomeSlot<R>,
}

/// Both sides of one upload.
pub fn upload<R>() -> (Uploader<R>, UploadSeed<R>) {
    let (pieces, seed) = lane::lane(UPLOAD_CHUNKS_MAX + 1);
    let (slot, outcome) = ticket();
    (Uploader { pieces, outcome, ended: false }, UploadSeed { pieces: seed, slot })
}

impl<R> Uploader<R> {
    /// Sends a chunk as soon as there is a place. `Err`: the outcome came first; `None` in it means
    /// that there is none.
    pub async fn push(&mut self, chunk: Chunk) -> Result<(), Option<R>> {
        let mut chunk = Some(chunk);
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = self.outcome.poll(cx) {
                return Poll::Ready(Err(outcome));
            }
            let piece = Piece::Chunk(chunk.take().expect("not sent yet"));
            match self.pieces.try_send_sparing_one(piece) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(Piece::Chunk(refused)) => {
                    chunk = Some(refused);
                    Poll::Pending
                }
                Err(Piece::End | Piece::Abort) => unreachable!("a chunk was sent"),
            }
        })
        .await
    }

    /// Says that the message is whole. The outcome follows.
    pub fn end(&mut self) -> &OutcomeReceiver<R> {
        if !std::mem::replace(&mut self.ended, true) {
            let sent = self.pieces.try_send(Piece::End);
            debug_assert!(sent.is_ok(), "one place is kept for the end");
        }
        &self.outcome
    }
}

impl<R> Drop for Uploader<R> {
    fn drop(&mut self) {
        if !self.ended {
            let sent = self.pieces.try_send(Piece::Abort);
            debug_assert!(sent.is_ok(), "one place is kept for the end");
        }
    }
}

impl<R> UploadSeed<R> {
    /// To be called on the shard that reads.
    pub fn settle(self) -> Upload<R> {
        Upload { pieces: self.pieces.settle(), slot: self.slot }
    }

    pub fn into_slot(self) -> OutcomeSlot<R> {
        self.slot
    }
}

impl<R> Upload<R> {
    /// Waits for the next piece, and frees its place.
    pub async fn next(&mut self) -> Piece {
        let piece = self.pieces.receive().await;
        self.slot.0.waiting.wake();
        piece
    }
}
