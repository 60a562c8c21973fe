//! A limit in bytes for what the tasks of one shard hold together.
//!
//! Promise:  first come, first served: a large request is not overtaken by small ones.
//! Bounds:   `max` bytes. A request for more waits until all is free, and gets that.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::task::Waker;

use crate::rt::gate::Gate;

pub struct ByteGate {
    max: usize,
    free: Cell<usize>,
    /// One task at a time waits for bytes; the others queue here.
    turn: Rc<Gate>,
    waiting: Cell<Option<Waker>>,
}

/// Bytes of a gate, given back when dropped.
pub struct HeldBytes {
    gate: Rc<ByteGate>,
    bytes: usize,
}

impl ByteGate {
    pub fn new(max: usize) -> Rc<ByteGate> {
        let (free, turn) = (Cell::new(max), Gate::new(1));
        Rc::new(ByteGate { max, free, turn, waiting: Cell::new(None) })
    }

    /// Waits for so many bytes.
    pub async fn take(self: &Rc<ByteGate>, bytes: usize) -> HeldBytes {
        let bytes = bytes.min(self.max);
        let _turn = self.turn.enter().await;
        poll_fn(|cx| match self.free.get() >= bytes {
            true => Poll::Ready(()),
            false => {
                self.waiting.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        self.free.set(self.free.get() - bytes);
        HeldBytes { gate: Rc::clone(self), bytes }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.gate.free.set(self.gate.free.get() + self.bytes);
        if let Some(waker) = self.gate.waiting.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_large_request_is_not_overtaken() {
        let gate = ByteGate::new(100);
        let mut cx = Context::from_waker(Waker::noop());
        let take = |bytes| {
            Box::pin({
                let gate = Rc::clone(&gate);
                async move { gate.take(bytes).await }
            })
        };
        let (mut first, mut large, mut small) = (take(60), take(500), take(10));
        let Poll::Ready(held) = first.as_mut().poll(&mut cx) else { panic!("60 of 100 are free") };
        assert!(pin!(&mut large).poll(&mut cx).is_pending(), "it needs all");
        assert!(pin!(&mut small).poll(&mut cx).is_pending(), "it came later");
        drop(held);
        let Poll::Ready(held) = large.as_mut().poll(&mut cx) else { panic!("all is free") };
        assert!(small.as_mut().poll(&mut cx).is_pending(), "none is left");
        drop(held);
        assert!(small.as_mut().poll(&mut cx).is_ready());
        // A request that is given up blocks nobody.
        let (mut gone, mut next) = (take(100), take(1));
        let all = match take(100).as_mut().poll(&mut cx) {
            Poll::Ready(all) => all,
            Poll::Pending => panic!("all is free"),
        };
        assert!(gone.as_mut().poll(&mut cx).is_pending());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        drop(gone);
        drop(all);
        assert!(next.as_mut().poll(&mut cx).is_ready());
    }
}
