//! The delivering half of a shard, and the frames from other shards.
//!
//! Owner:    the shard.
//! Promise:  at the end, a shard leaves only after all shards have ceased to hand mail to others, so
//!           that no shard waits for an outcome that never comes.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::base::MessageId;
use crate::base::Mono;
use crate::base::ScheduleClock;
use crate::base::Wall;
use crate::delivery::capacity::Gate;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::home::Home;
use crate::delivery::job::Now;
use crate::delivery::limit_file::LimitSaver;
use crate::delivery::limit_file::SentBefore;
use crate::delivery::link::Station;
use crate::delivery::operation::Answered;
use crate::delivery::operation::Refusal;
use crate::delivery::owner::Owner;
use crate::delivery::owner::OwnerParts;
use crate::delivery::report::Reporter;
use crate::delivery::resolve::RouteResolver;
use crate::delivery::resolve::Shards;
use crate::delivery::run;
use crate::delivery::run::Parts;
use crate::delivery::run::Running;
use crate::delivery::trust::Trust;
use crate::delivery::writing::Desk;
use crate::delivery::writing::Store;
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
use crate::queue;
use crate::queue::CommitFault;
use crate::queue::Partition;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
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
    /// All partitions of the process, in the order of their numbers.
    pub partitions: Arc<[Arc<Partition>]>,
    /// Counts the connections of the process.
    pub gate: Arc<Gate>,
    pub hasher: FlowHasher,
    /// Destinations that operators had paused.
    pub paused: Vec<Box<str>>,
    /// The file of rates, and what was in it.
    pub saver: LimitSaver,
    pub sent_before: Arc<SentBefore>,
    /// Number of shards that may still send jobs to others; shared by all shards.
    pub handing_over: Arc<AtomicUsize>,
}

/// Receives the result of a request.
pub type OperateAnswer = Box<dyn FnOnce(Result<Carried, OperationFault>) + Send>;

/// The delivering half of a shard.
pub struct Delivering {
    running: Rc<Running>,
    resolver: Resolver,
    mesh: Rc<Mesh>,
    handing_over: Arc<AtomicUsize>,
    /// Whether this shard has left `handing_over`.
    is_quiet: Cell<bool>,
}

impl Delivering {
    /// Reads the home.
    pub fn with_home<T>(&self, read: impl FnOnce(&Home, Now) -> T) -> T {
        let now = self.running.now();
        self.running.with_home(|home| read(home, now))
    }

    /// Calls the owner, and then carries out what the owner wants.
    pub fn with_owner<T>(&self, call: impl FnOnce(&mut Owner, Now) -> T) -> T {
        let now = self.running.now();
        self.running.with_owner(|owner, _| call(owner, now))
    }

    pub fn trust(&self) -> &Rc<Trust> {
        &self.running.station().trust
    }

    /// Carries out an operation on a message whose home this shard is.
    pub fn operate(&self, id: MessageId, operation: Operation, answer: OperateAnswer) {
        let answer = |answered| answer(result_of(answered));
        self.running.operate(id, operation, Box::new(answer));
    }

    pub(in crate::shard) fn replace_policy(&self, policy: &Arc<DeliveryPolicy>) {
        self.resolver.set_trust_ad(policy.resolver.trust_ad);
        self.running.replace_policy(policy);
    }

    /// Starts no new attempts; running ones finish and are settled.
    pub fn close(&self) {
        self.running.close();
    }

    /// Leaves `handing_over` once this shard has no more frames for others.
    pub fn leave_if_quiet(&self) {
        self.mesh.flush();
        let is_quiet = self.running.station().is_closing() && self.mesh.is_flushed();
        if is_quiet && !self.is_quiet.replace(true) {
            self.handing_over.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether all jobs are settled, here and at the owners, and no shard can send more jobs. If a
    /// shard ended earlier, another could wait for an outcome for ever.
    pub fn is_drained(&self) -> bool {
        self.leave_if_quiet();
        self.handing_over.load(Ordering::Acquire) == 0
            && self.running.is_drained()
            && self.mesh.is_flushed()
    }

    pub(in crate::shard) fn end(&self) {
        self.running.end();
        self.mesh.post(self.mesh.me(), Frame::End);
    }
}

fn result_of(answered: Answered) -> Result<Carried, OperationFault> {
    answered.map_err(|refusal| match refusal {
        Refusal::Unknown => OperationFault::Unknown,
        Refusal::NotHeld => OperationFault::NotHeld,
        Refusal::Held => OperationFault::Held,
        Refusal::Crossed => OperationFault::Crossed,
        Refusal::Restless => OperationFault::Restless,
        Refusal::Failed => OperationFault::Commit(CommitFault::Failed),
    })
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
    let (me, shards) = (mesh.me(), seed.shards);
    let (mono, wall) = (Mono::now(), Wall::now());
    let newest = stores.iter().filter_map(|store| store.newest()).map(|id| id.made_ms()).max();
    let mut clock = ScheduleClock::new(Wall::from_ms(newest.unwrap_or(0)), wall, mono);
    let now = Now { mono, wall, schedule: clock.now(wall, mono) };
    let own = stores.iter().map(|store| store.id());
    let running = Running::new(Parts {
        home: Home::new(me, own, run::home_policy(&seed.policy, 0, shards), now),
        owner: OwnerParts {
            me,
            shards,
            policy: Arc::clone(&seed.policy),
            hasher: seed.hasher,
            gate: seed.gate,
            paused: seed.paused,
            sent_before: seed.sent_before,
            seed: wall.as_ms() ^ u64::from(me.0) << 48 | 1,
        },
        station: Station {
            pool: Rc::clone(&reception.pool),
            reader: reader.clone(),
            resolver: resolver.clone(),
            trust: Rc::clone(&trust),
            observed: reception.observed_handle(),
            histograms: Rc::clone(&reception.histograms),
            partitions: seed.partitions,
            policy: RefCell::new(Arc::clone(&seed.policy)),
            is_closing: Cell::new(false),
        },
        desk: Desk {
            reporter: Reporter::new(seed.hostname.clone(), reader.clone(), shards, wall.as_ms()),
            reader,
            observed: reception.observed_handle(),
            histograms: Rc::clone(&reception.histograms),
        },
        mesh: Rc::clone(&mesh),
        routes: RouteResolver::new(
            resolver.clone(),
            trust,
            seed.policy,
            (seed.hasher, seed.hostname, Shards { me, count: shards }),
        ),
        saver: seed.saver,
        stores: stores.iter().filter_map(store).collect(),
        clock,
        shards,
    });
    task::spawn_vital(Queue::Work, run::tend(Rc::clone(&running)));
    let delivering = Rc::new(Delivering {
        running,
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
        if matches!(frame, Frame::End) {
            return;
        }
        delivering.running.frame(frame);
    }
}
