//! The main future of a shard.
//!
//! Owner:    the shard's executor; it ends when the shard has drained.
//! Order:    pump before listeners, so that no session ever waits for a commit that nobody hears.

use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::base::ChunkPool;
use crate::base::ShardId;
use crate::base::fault::end_process;
use crate::base::limits::CHUNK_BYTES;
use crate::handoff::Frame;
use crate::handoff::Mesh;
use crate::handoff::MeshSeed;
use crate::handoff::Receiver;
use crate::handoff::StsPolicies;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::listener;
use crate::inbound::policy::Policy;
use crate::inbound::reception::Reception;
use crate::inbound::reception::ReceptionParts;
use crate::net::Resolver;
use crate::net::ResolverSettings;
use crate::net::TlsClient;
use crate::observe::ShardObserved;
use crate::observe::log::Record;
use crate::outbound::home;
use crate::outbound::home::Home;
use crate::outbound::home::HomeParts;
use crate::outbound::home::Store;
use crate::outbound::operator;
use crate::outbound::owner;
use crate::outbound::owner::Owner;
use crate::outbound::owner::OwnerParts;
use crate::outbound::scan;
use crate::outbound::survey::DestinationsShelf;
use crate::outbound::survey::Survey;
use crate::outbound::trust::Trust;
use crate::queue;
use crate::queue::CommitHandle;
use crate::queue::Committer;
use crate::queue::Partition;
use crate::queue::SpaceWatch;
use crate::queue::lane::Ring;
use crate::queue::reader::Reader;
use crate::route::DeliveryPolicy;
use crate::rt;
use crate::rt::Bell;
use crate::rt::Listener;
use crate::rt::task;
use crate::rt::task::Queue;
use crate::rt::timer;
use crate::shard::drain;
use crate::shard::housekeeping;
use crate::shard::order::Command;
use crate::shard::order::InboxSeed;
use crate::shard::order::Next;
use crate::shard::order::Order;

/// Everything a shard begins with; made by `boot`, sent to the shard's thread.
pub struct ShardSeed {
    pub shard: ShardId,
    /// One bound socket for each listener, in the order of the policy.
    pub sockets: Vec<OwnedFd>,
    /// The partitions whose home this shard is.
    pub partitions: Vec<CommitHandle>,
    /// The same, to read from.
    pub stores: Vec<Arc<Partition>>,
    pub policy: Arc<Policy>,
    pub delivery: DeliverySeed,
    pub chunks_max: usize,
    pub counter: ConnectionCounter,
    pub space: Arc<SpaceWatch>,
    pub observed: Arc<ShardObserved>,
    pub inbox: InboxSeed,
    /// Where this shard shows its destinations.
    pub destinations: Arc<DestinationsShelf>,
}

/// What delivering begins with.
pub struct DeliverySeed {
    pub policy: Arc<DeliveryPolicy>,
    pub mesh: MeshSeed,
    pub resolver: ResolverSettings,
    pub tls: Arc<TlsClient>,
    pub sts: StsPolicies,
    pub hostname: Box<str>,
    pub shards: usize,
    /// What operators had paused before.
    pub paused: Vec<Box<str>>,
    /// Shards that may still hand mail to others; the same counter for all.
    pub handing_over: Arc<AtomicUsize>,
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
    seed.observed.metrics.body_memory_limit_bytes.set((seed.chunks_max * CHUNK_BYTES) as u64);
    let counting = Arc::clone(&seed.observed);
    task::on_panic(move |message| {
        counting.metrics.task_panics_total.add(1);
        Record::TaskPanicked { message }.emit();
    });
    let reception = Reception::new(ReceptionParts {
        shard: seed.shard,
        pool,
        observed: seed.observed,
        counter: seed.counter,
        space: seed.space,
        committers,
        policy: seed.policy,
    });

    housekeeping::start(&reception, commits);
    let ring_reader = Arc::clone(&ring);
    let reader = match Reader::start(seed.shard, ring_reader) {
        Ok(reader) => reader,
        Err(cause) => end_process(format_args!("shard {}: no reader: {cause}", seed.shard)),
    };
    let delivering = delivering(&reception, seed.delivery, seed.stores, reader.clone());
    show_delivering(&reception, &delivering, seed.destinations);
    task::spawn_vital(Queue::Latency, pump(Rc::clone(&reception), reader, commits_done));
    let listeners: Vec<Rc<Listener>> =
        seed.sockets.into_iter().map(|socket| Rc::new(Listener::from_socket(socket))).collect();
    for (number, socket) in listeners.iter().enumerate() {
        task::spawn(listener::serve(Rc::clone(&reception), Rc::clone(socket), number));
    }

    let mut inbox = seed.inbox.settle();
    let limit = loop {
        match poll_fn(|cx| inbox.poll_next(cx)).await {
            Next::Command(Command::Reload(policy, delivery)) => {
                reception.replace_policy(policy);
                delivering.replace_policy(&delivery);
            }
            Next::Command(Command::Drain { limit }) => break limit,
            Next::Order(order) => carry_out(order, &delivering),
        }
    };
    drain::drain(&reception, &listeners, &delivering, limit).await;
    reception.close();
    doorbell.ring();
    delivering.end();
}

/// At every tick the gauges and the destinations of the delivering half.
fn show_delivering(
    reception: &Rc<Reception>,
    delivering: &Rc<Delivering>,
    shelf: Arc<DestinationsShelf>,
) {
    let (reception, delivering) = (Rc::clone(reception), Rc::clone(delivering));
    let mut survey = Survey::new(shelf);
    timer::on_tick(move || {
        let (jobs, _) = delivering.home.figures();
        let metrics = reception.metrics();
        metrics.jobs_in_memory.set(jobs as u64);
        for (result, sessions) in delivering.owner.take_tls_results() {
            metrics.delivery_tls_results_total.add(result, sessions);
        }
        survey.tick(&delivering.owner);
    });
}

fn carry_out(order: Order, delivering: &Rc<Delivering>) {
    match order {
        Order::Operate { id, operation, answer } => {
            let home = Rc::clone(&delivering.home);
            task::spawn(async move { answer(operator::carry_out(home, id, operation).await) });
        }
        Order::Ask(question) => {
            // After a panic the caller gets no answer, and reports the shard as silent.
            let _ = task::contained(|| {
                queue::points::point("view::question");
                question(delivering);
            });
        }
        Order::Change(change) => change(delivering),
    }
}

/// Hears the commit threads and wakes who waits for them. Never waits for anything else.
async fn pump(reception: Rc<Reception>, reader: Reader, mut bell: Bell) {
    while !reception.is_closed() {
        bell.wait().await;
        queue::points::point("vital::pump");
        for committer in reception.committers() {
            committer.pump();
        }
        reader.pump();
    }
}

/// The delivering half of a shard.
pub struct Delivering {
    pub home: Rc<Home>,
    pub owner: Rc<Owner>,
    resolver: Resolver,
    mesh: Rc<Mesh>,
    handing_over: Arc<AtomicUsize>,
    /// This shard has left `handing_over`.
    is_quiet: Cell<bool>,
}

impl Delivering {
    fn replace_policy(&self, policy: &Arc<DeliveryPolicy>) {
        self.resolver.set_trust_ad(policy.resolver.trust_ad);
        self.home.replace_policy(Arc::clone(policy));
        self.owner.replace_policy(Arc::clone(policy));
    }

    /// Nothing new goes out; what is on its way arrives and is settled.
    pub fn close(&self) {
        self.home.close();
        self.owner.close();
    }

    /// Tells the others once that no mail comes from here any more.
    pub fn hush(&self) {
        self.mesh.flush();
        let is_quiet = self.home.is_closing() && self.mesh.is_flushed();
        if is_quiet && !self.is_quiet.replace(true) {
            self.handing_over.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether everything that was on its way has been settled, here and at the owners. A shard
    /// that left while another may hand mail to it would leave that one waiting for an outcome.
    pub fn is_drained(&self) -> bool {
        self.hush();
        self.handing_over.load(Ordering::Acquire) == 0
            && self.owner.workers() == 0
            && self.home.is_drained()
            && self.mesh.is_flushed()
    }

    fn end(&self) {
        self.mesh.post(self.mesh.me(), Frame::End);
    }
}

fn delivering(
    reception: &Rc<Reception>,
    seed: DeliverySeed,
    stores: Vec<Arc<Partition>>,
    reader: Reader,
) -> Rc<Delivering> {
    let (mesh, inbox) = seed.mesh.settle(reception.observed_handle());
    let mesh = Rc::new(mesh);
    let resolver = Resolver::new(seed.resolver);
    let committers = reception.committers();
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

/// Takes what other shards have sent. Never waits for anything else.
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
