//! The delivering half of a shard: its home and owner side, and the frames from other shards.
//!
//! Owner:    the shard.
//! Promise:  at the end, a shard leaves only after all shards have ceased to hand mail to others, so
//!           that no shard waits for an outcome that never comes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::delivery::trust::Trust;
use crate::handoff::Frame;
use crate::handoff::Mesh;
use crate::handoff::MeshSeed;
use crate::handoff::Reader;
use crate::handoff::Receiver;
use crate::handoff::StsPolicies;
use crate::inbound::reception::Reception;
use crate::net::Resolver;
use crate::net::ResolverSettings;
use crate::net::TlsClient;
use crate::outbound::home;
use crate::outbound::home::Home;
use crate::outbound::home::HomeParts;
use crate::outbound::home::Store;
use crate::outbound::owner;
use crate::outbound::owner::Owner;
use crate::outbound::owner::OwnerParts;
use crate::outbound::scan;
use crate::queue;
use crate::queue::Partition;
use crate::route::DeliveryPolicy;
use crate::rt::task;
use crate::rt::task::Queue;

/// What the delivering half needs at start.
pub struct DeliverySeed {
    pub policy: Arc<DeliveryPolicy>,
    pub mesh: MeshSeed,
    pub resolver: ResolverSettings,
    pub tls: Arc<TlsClient>,
    pub sts: StsPolicies,
    pub hostname: Box<str>,
    pub shards: usize,
    /// Destinations that operators had paused.
    pub paused: Vec<Box<str>>,
    /// Number of shards that may still send jobs to others; shared by all shards.
    pub handing_over: Arc<AtomicUsize>,
}

/// The delivering half of a shard.
pub struct Delivering {
    pub home: Rc<Home>,
    pub owner: Rc<Owner>,
    resolver: Resolver,
    mesh: Rc<Mesh>,
    handing_over: Arc<AtomicUsize>,
    /// Whether this shard has left `handing_over`.
    is_quiet: Cell<bool>,
}

impl Delivering {
    pub(in crate::shard) fn replace_policy(&self, policy: &Arc<DeliveryPolicy>) {
        self.resolver.set_trust_ad(policy.resolver.trust_ad);
        self.home.replace_policy(Arc::clone(policy));
        self.owner.replace_policy(Arc::clone(policy));
    }

    /// Starts no new attempts; running ones finish and are settled.
    pub fn close(&self) {
        self.home.close();
        self.owner.close();
    }

    /// Leaves `handing_over` once this shard has no more frames for others.
    pub fn leave_if_quiet(&self) {
        self.mesh.flush();
        let is_quiet = self.home.is_closing() && self.mesh.is_flushed();
        if is_quiet && !self.is_quiet.replace(true) {
            self.handing_over.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether all jobs are settled, here and at the owners, and no shard can send more jobs. If a
    /// shard ended earlier, another could wait for an outcome for ever.
    pub fn is_drained(&self) -> bool {
        self.leave_if_quiet();
        self.handing_over.load(Ordering::Acquire) == 0
            && self.owner.workers() == 0
            && self.home.is_drained()
            && self.mesh.is_flushed()
    }

    pub(in crate::shard) fn end(&self) {
        self.mesh.post(self.mesh.me(), Frame::End);
    }
}

pub(in crate::shard) fn start(
    reception: &Rc<Reception>,
    seed: DeliverySeed,
    stores: Vec<Arc<Partition>>,
    reader: Reader,
) -> Rc<Delivering> {
    let (mesh, inbox) = seed.mesh.settle(reception.observed_handle());
    let mesh = Rc::new(mesh);
    let resolver = Resolver::new(seed.resolver);
    let committers = reception.intake.committers();
    let store = |partition: &Arc<Partition>| {
        let committer = committers.iter().find(|one| one.partition() == partition.id());
        let committer = committer.cloned()?;
        Some(Store { committer, partition: Arc::clone(partition) })
    };
    let trust = Trust::new(seed.tls, resolver.clone(), seed.sts, reception.observed_handle());
    let home = Home::new(HomeParts {
        stores: stores.iter().filter_map(store).collect(),
        mesh: Rc::clone(&mesh),
        reader: reader.clone(),
        resolver: resolver.clone(),
        trust: Rc::clone(&trust),
        policy: Arc::clone(&seed.policy),
        observed: reception.observed_handle(),
        histograms: Rc::clone(&reception.histograms),
        hostname: seed.hostname,
        shards: seed.shards,
    });
    let owner = Owner::new(OwnerParts {
        mesh: Rc::clone(&mesh),
        pool: Rc::clone(&reception.pool),
        reader,
        resolver: resolver.clone(),
        trust,
        policy: seed.policy,
        observed: reception.observed_handle(),
        histograms: Rc::clone(&reception.histograms),
        shards: seed.shards,
        paused: seed.paused,
    });
    for partition in stores {
        task::spawn_vital(Queue::Work, scan::scan(Rc::clone(&home), partition));
    }
    task::spawn_vital(Queue::Work, home::tend(Rc::clone(&home)));
    task::spawn_vital(Queue::Work, owner::tend(Rc::clone(&owner)));
    let delivering = Rc::new(Delivering {
        home,
        owner,
        resolver,
        mesh,
        handing_over: seed.handing_over,
        is_quiet: Cell::new(false),
    });
    task::spawn_vital(Queue::Latency, frames(Rc::clone(&delivering), inbox));
    delivering
}

/// Handles frames from other shards. Never waits for anything else.
async fn frames(delivering: Rc<Delivering>, mut inbox: Receiver<Frame>) {
    loop {
        let frame = inbox.receive().await;
        queue::points::point("vital::frames");
        match frame {
            Frame::Deliver(delivery) => delivering.owner.accept(delivery),
            Frame::Settle(outcome) => delivering.home.on_outcome(*outcome),
            Frame::Recall { id, job, lease } => delivering.owner.give_back(id, job, lease),
            Frame::End => return,
        }
    }
}
