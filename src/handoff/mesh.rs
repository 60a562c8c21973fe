//! The mesh: one lane into each shard, and a way to all of them from each.
//!
//! Owner:    each shard has one `Mesh`; its outboxes never leave it.
//! Promise:  frames from one shard to another arrive in their order. A full lane keeps nobody
//!           waiting: frames stay in the outbox until `flush` finds room.
//! Bounds:   `FRAMES_MAX` in a lane. Outboxes hold no more than there are leases.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::base::ShardId;
use crate::handoff::frame::Frame;
use crate::handoff::lane;
use crate::handoff::lane::Receiver;
use crate::handoff::lane::Seed;
use crate::handoff::lane::Sender;

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
    pub fn settle(self) -> (Mesh, Receiver<Frame>) {
        let outboxes = self.senders.iter().map(|_| RefCell::default()).collect();
        (Mesh { me: self.me, senders: self.senders, outboxes }, self.inbox.settle())
    }
}

/// A shard's way to all others.
pub struct Mesh {
    me: ShardId,
    senders: Vec<Sender<Frame>>,
    outboxes: Vec<RefCell<VecDeque<Frame>>>,
}

impl Mesh {
    pub fn me(&self) -> ShardId {
        self.me
    }

    pub fn shards(&self) -> usize {
        self.senders.len()
    }

    /// Whose a site is, or its first stripe.
    pub fn owner_of(&self, site: &str) -> ShardId {
        // Any hash will do that is the same on all shards; sites are not chosen by attackers to
        // any profit, for limits hang on the site and not on the shard.
        let hash = site.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        ShardId(((hash >> 32) % self.senders.len() as u64) as u16)
    }

    pub fn post(&self, to: ShardId, frame: Frame) {
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
