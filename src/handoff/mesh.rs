//! The mesh: one lane into each shard, and a way to all of them from each.
//!
//! Owner:    each shard has one `Mesh`; its outboxes never leave it.
//! Promise:  frames from one shard to another arrive in their order. A full lane keeps nobody
//!           waiting: frames stay in the outbox until `flush` finds room.
//! Bounds:   `FRAMES_MAX` in a lane. Outboxes hold no more than there are leases.
//! Counts:   frames to other shards by their kind, for they are what cores cost one another.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ShardId;
use crate::handoff::frame::Frame;
use crate::handoff::lane;
use crate::handoff::lane::Receiver;
use crate::handoff::lane::Seed;
use crate::handoff::lane::Sender;
use crate::observe::ShardObserved;
use crate::observe::label::Handoff;

/// Frames under way to one shard.
pub const FRAMES_MAX: usize = 4096;

/// What a shard's mesh is made of, before it is on its shard.
pub struct MeshSeed {
    me: ShardId,
    senders: Vec<Sender<Frame>>,
    inbox: Seed<Frame>,
}

/// The meshes of so many shards.
pub fn weave(shards: usize) -> Vec<MeshSeed> {
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

/// A shard's way to all others.
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

    pub fn shards(&self) -> usize {
        self.senders.len()
    }

    /// Whose a destination is, or its first stripe.
    pub fn owner_of(&self, destination: &str) -> ShardId {
        // Any hash will do that is the same on all shards; destinations are not chosen by attackers to
        // any profit, for limits hang on the destination and not on the shard.
        let hash = destination.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        ShardId(((hash >> 32) % self.senders.len() as u64) as u16)
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

    /// Whether nothing waits for room.
    pub fn is_flushed(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.borrow().is_empty())
    }

    /// Sends what waits, as far as there is room.
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

/// As what a frame is counted.
fn kind_of(frame: &Frame) -> Option<Handoff> {
    match frame {
        Frame::Deliver(_) => Some(Handoff::Deliver),
        Frame::Settle(_) => Some(Handoff::Settle),
        Frame::Recall { .. } => Some(Handoff::Recall),
        Frame::End => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MessageId;
    use crate::observe::Observed;

    #[test]
    fn only_frames_to_other_shards_are_counted() {
        let observed = Observed::new(2, 0);
        let mut meshes = weave(2).into_iter().zip(&observed.shards);
        let mut settle = || {
            let (seed, observed) = meshes.next().expect("there are two");
            seed.settle(Arc::clone(observed))
        };
        let ((one, _own), (_two, _inbox)) = (settle(), settle());
        let recall = || Frame::Recall { id: MessageId::from_u64(1), job: 0, lease: 1 };
        one.post(ShardId(0), recall());
        one.post(ShardId(1), recall());
        one.post(ShardId(1), recall());
        one.post(ShardId(1), Frame::End);
        let counted =
            |shard: usize, kind| observed.shards[shard].metrics.handoffs_total.value(kind);
        assert_eq!((counted(0, Handoff::Recall), counted(0, Handoff::Deliver)), (2, 0));
        assert_eq!(counted(1, Handoff::Recall), 0, "it was told to others by none");
    }
}
