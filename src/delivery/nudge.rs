//! Waking an idle connection when there is work for it.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::task::Waker;

/// A wake that is kept until it is taken.
#[derive(Debug, Default)]
pub struct Nudge {
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Nudge {
    pub fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Runs `future` until it ends or there is a wake, which is taken: then `None`.
    pub async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.woken.take() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
