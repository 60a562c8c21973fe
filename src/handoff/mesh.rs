//! The mesh: one lane into each shard, with senders on every shard.
//!
//! Owner:    each shard has one `Mesh` with its own outboxes.
//! Promise:  frames from one shard to another arrive in order. A full lane blocks nobody: frames stay
//!           in the outbox until `flush` finds room.
//! Bounds:   `FRAMES_MAX` in a lane. Outboxes hold the frames of as many jobs as there are places.
//! Counts:   frames to other shards by kind, the cost of communication between cores.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ShardId;
use crate::handoff::frames::Frame;
use crate::handoff::lane;
use crate::handoff::lane::Receiver;
use crate::handoff::lane::Seed;
use crate::handoff::lane::Sender;
use crate::observe::ShardObserved;
use crate::observe::label::Handoff;

/// Frames in the lane of one shard.
pub const FRAMES_MAX: usize = 4096;

/// The mesh of a shard before it is moved there.
pub struct MeshSeed {
    me: ShardId,
    senders: Vec<Sender<Frame>>,
    inbox: Seed<Frame>,
}

/// Creates the meshes of all shards.
pub fn connect(shards: usize) -> Vec<MeshSeed> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| lane::lane(FRAMES_MAX)).unzip();
    inboxes
        .into_iter()
        .enumerate()
        .map(|(me, inbox)| MeshSeed { me: ShardId(me as u16), senders: senders.clone(), inbox })
        .collect()
}

impl MeshSeed {
    pub fn settle(self, observed: Arc<ShardObserved>) -> (Mesh, Receiver<Frame>) {
        let outboxes = self.senders.iter().map(|_| RefCell::default()).collect();
        (Mesh { me: self.me, senders: self.senders, outboxes, observed }, self.inbox.settle())
    }
}

/// The lanes from one shard to all shards.
pub struct Mesh {
    me: ShardId,
    senders: Vec<Sender<Frame>>,
    outboxes: Vec<RefCell<VecDeque<Frame>>>,
    observed: Arc<ShardObserved>,
}

impl Mesh {
    pub fn me(&self) -> ShardId {
        self.me
    }

    pub fn post(&self, to: ShardId, frame: Frame) {
        if to != self.me
            && let Some(kind) = kind_of(&frame)
        {
            self.observed.metrics.handoffs_total.add(kind, 1);
        }
        let mut outbox = self.outboxes[to.0 as usize].borrow_mut();
        let refused = match outbox.is_empty() {
            true => self.senders[to.0 as usize].try_send(frame).err(),
            false => Some(frame),
        };
        outbox.extend(refused);
    }

    /// Whether all outboxes are empty.
    pub fn is_flushed(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.borrow().is_empty())
    }

    /// Sends frames from the outboxes as far as the lanes have room.
    pub fn flush(&self) {
        for (outbox, sender) in self.outboxes.iter().zip(&self.senders) {
            let mut outbox = outbox.borrow_mut();
            while let Some(frame) = outbox.pop_front() {
                if let Err(frame) = sender.try_send(frame) {
                    outbox.push_front(frame);
                    break;
                }
            }
        }
    }
}

/// The counter of a frame.
fn kind_of(frame: &Frame) -> Option<Handoff> {
    match frame {
        Frame::Deliver(_) => Some(Handoff::Deliver),
        Frame::Settle(_) => Some(Handoff::Settle),
        Frame::Recall { .. } => Some(Handoff::Recall),
        Frame::Grant { .. }
        | Frame::Want { .. }
        | Frame::Check { .. }
        | Frame::Missing { .. }
        | Frame::Ask { .. }
        | Frame::Allow { .. }
        | Frame::Unused { .. }
        | Frame::Share { .. }
        | Frame::Used { .. } => Some(Handoff::Places),
        Frame::End => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MessageId;
    use crate::handoff::frames::Incarnation;
    use crate::handoff::frames::JobRef;
    use crate::observe::Observed;

    #[test]
    fn only_frames_to_other_shards_are_counted() {
        let observed = Observed::new(2, 0);
        let mut meshes = connect(2).into_iter().zip(&observed.shards);
        let mut settle = || {
            let (seed, observed) = meshes.next().expect("there are two");
            seed.settle(Arc::clone(observed))
        };
        let ((one, _own), (_two, _inbox)) = (settle(), settle());
        let recall = || {
            let key = (MessageId::from_u64(1), 0);
            let job = JobRef { key, incarnation: Incarnation(1) };
            Frame::Recall { job }
        };
        one.post(ShardId(0), recall());
        one.post(ShardId(1), recall());
        one.post(ShardId(1), recall());
        one.post(ShardId(1), Frame::End);
        let counted =
            |shard: usize, kind| observed.shards[shard].metrics.handoffs_total.value(kind);
        assert_eq!((counted(0, Handoff::Recall), counted(0, Handoff::Deliver)), (2, 0));
        assert_eq!(counted(1, Handoff::Recall), 0, "the other shard sent none");
    }
}
