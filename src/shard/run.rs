//! The main future of a shard.
//!
//! Owner:    the shard's executor; it ends when the shard has drained.
//! Order:    pump before listeners, so that no session ever waits for a commit that nobody hears.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ChunkPool;
use crate::base::ShardId;
use crate::handoff::lane;
use crate::inbound::census::Clerk;
use crate::inbound::listener;
use crate::inbound::policy::Policy;
use crate::inbound::reception::Reception;
use crate::inbound::reception::ReceptionParts;
use crate::observe::ShardObserved;
use crate::queue::CommitHandle;
use crate::queue::Committer;
use crate::queue::SpaceWatch;
use crate::queue::lane::Ring;
use crate::rt;
use crate::rt::Bell;
use crate::rt::Listener;
use crate::rt::task;
use crate::shard::drain;
use crate::shard::housekeeping;
use crate::shard::order::Order;

/// Everything a shard begins with; made by `boot`, sent to the shard's thread.
pub struct ShardSeed {
    pub shard: ShardId,
    /// One bound socket for each listener, in the order of the policy.
    pub sockets: Vec<OwnedFd>,
    /// The partitions whose home this shard is.
    pub partitions: Vec<CommitHandle>,
    pub policy: Arc<Policy>,
    pub chunks_max: usize,
    pub clerk: Clerk,
    pub space: Arc<SpaceWatch>,
    pub observed: Arc<ShardObserved>,
    pub orders: lane::Seed<Order>,
}

/// Lives until a drain order has been carried out.
pub async fn run(seed: ShardSeed) {
    let pool = Rc::new(ChunkPool::new(seed.chunks_max));
    let (doorbell, commits_done) = rt::doorbell();
    let ring: Ring = {
        let doorbell = doorbell.clone();
        Arc::new(move || doorbell.ring())
    };
    let commits = seed.partitions.clone();
    let committer = |handle| Committer::new(handle, Rc::clone(&pool), Arc::clone(&ring));
    let committers = seed.partitions.into_iter().map(committer).collect();
    seed.observed.metrics.chunks_max.set(seed.chunks_max as u64);
    let counting = Arc::clone(&seed.observed);
    task::on_panic(move |_| counting.metrics.session_panics_total.add(1));
    let reception = Reception::new(ReceptionParts {
        shard: seed.shard,
        pool,
        observed: seed.observed,
        clerk: seed.clerk,
        space: seed.space,
        committers,
        policy: seed.policy,
    });

    housekeeping::start(&reception, commits);
    task::spawn_latency(pump(Rc::clone(&reception), commits_done));
    let listeners: Vec<Rc<Listener>> =
        seed.sockets.into_iter().map(|socket| Rc::new(Listener::from_socket(socket))).collect();
    for (number, socket) in listeners.iter().enumerate() {
        task::spawn(listener::serve(Rc::clone(&reception), Rc::clone(socket), number));
    }

    let mut orders = seed.orders.settle();
    let limit = loop {
        match orders.receive().await {
            Order::Reload(policy) => reception.replace_policy(policy),
            Order::Delete { id, answer } => {
                let home = reception.committers().iter().find(|c| c.partition() == id.partition());
                let committer = home.cloned();
                task::spawn(async move {
                    answer(match committer {
                        Some(committer) => committer.delete(id).await,
                        None => Ok(false),
                    });
                });
            }
            Order::Drain { limit } => break limit,
        }
    };
    drain::drain(&reception, &listeners, limit).await;
    reception.close();
    doorbell.ring();
}

/// Hears the commit threads and wakes who waits for them. Never waits for anything else.
async fn pump(reception: Rc<Reception>, mut bell: Bell) {
    while !reception.is_closed() {
        bell.wait().await;
        for committer in reception.committers() {
            committer.pump();
        }
    }
}
