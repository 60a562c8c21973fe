//! A lane: a bounded queue from any thread into one shard, with a doorbell that wakes its reader.
//!
//! Owner:    the receiver belongs to one shard; senders may be on any thread.
//! Promise:  the receiver sees every item that `try_send` accepted, in the order of each sender.
//! Bounds:   the capacity given at creation; a full lane returns the item to the sender.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use crossbeam::queue::ArrayQueue;

use crate::rt::wake::Bell;
use crate::rt::wake::Doorbell;

/// The sending end, for any thread.
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
    doorbell: Doorbell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { queue: Arc::clone(&self.queue), doorbell: self.doorbell.clone() }
    }
}

impl<T> Sender<T> {
    /// Sends the item, or returns it if the lane is full.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        self.queue.push(item)?;
        self.doorbell.ring();
        Ok(())
    }

    /// Takes back the first item of any sender. For a sender whose reader has ended.
    pub fn take_back(&self) -> Option<T> {
        self.queue.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As `try_send`, but leaves the last slot free. Exact for a lane with one sender.
    pub fn try_send_sparing_one(&self, item: T) -> Result<(), T> {
        if self.queue.len() + 1 >= self.queue.capacity() {
            return Err(item);
        }
        self.try_send(item)
    }
}

/// The receiver before it is moved to its shard.
pub struct Seed<T> {
    queue: Arc<ArrayQueue<T>>,
    bell: Bell,
}

/// The receiving end, on one shard.
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
    bell: Bell,
}

impl<T> Seed<T> {
    /// To be called on the receiving shard.
    pub fn settle(self) -> Receiver<T> {
        Receiver { queue: self.queue, bell: self.bell }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item.
    pub async fn receive(&mut self) -> T {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// The next item, if it is there.
    pub fn try_receive(&mut self) -> Option<T> {
        self.queue.pop()
    }

    /// As `receive`, for a task that reads several lanes.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        loop {
            if let Some(item) = self.queue.pop() {
                return Poll::Ready(item);
            }
            ready!(self.bell.poll_rung(cx));
        }
    }
}

/// Creates a lane for at most `capacity` items.
pub fn lane<T>(capacity: usize) -> (Sender<T>, Seed<T>) {
    let (doorbell, bell) = crate::rt::wake::doorbell();
    let queue = Arc::new(ArrayQueue::new(capacity));
    (Sender { queue: Arc::clone(&queue), doorbell }, Seed { queue, bell })
}
