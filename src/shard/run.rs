//! The main future of a shard.
//!
//! Owner:    the shard's executor; the future ends when the shard has drained.
//! Order:    the pump starts before the listeners, so that every commit wakes its session.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ChunkPool;
use crate::base::ShardId;
use crate::base::fault::end_process;
use crate::base::limits::ASKS_PER_POOL_MAX;
use crate::base::limits::ASKS_PER_SHARD_MAX;
use crate::base::limits::CHUNK_BYTES;
use crate::delivery::survey::DestinationsShelf;
use crate::delivery::survey::Survey;
use crate::handoff::AskPool;
use crate::handoff::Asker;
use crate::handoff::Reader;
use crate::inbound::ask;
use crate::inbound::ask::GateQuestion;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::listener;
use crate::inbound::policy::Policy;
use crate::inbound::reception::Reception;
use crate::inbound::reception::ReceptionParts;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::log::Record;
use crate::queue;
use crate::queue::CommitHandle;
use crate::queue::Committer;
use crate::queue::Partition;
use crate::queue::SpaceWatch;
use crate::queue::commit::lane::Ring;
use crate::rt;
use crate::rt::Bell;
use crate::rt::Listener;
use crate::rt::task;
use crate::rt::task::Queue;
use crate::rt::timer;
use crate::shard::delivering;
use crate::shard::delivering::Delivering;
use crate::shard::delivering::DeliverySeed;
use crate::shard::drain;
use crate::shard::housekeeping;
use crate::shard::inbox::Command;
use crate::shard::inbox::InboxItem;
use crate::shard::inbox::InboxSeed;
use crate::shard::inbox::ShardRequest;
use crate::shard::kept;
use crate::submit::Intake;
use crate::submit::gateway;
use crate::submit::intake::IntakeParts;

/// Everything a shard needs at start; built by `boot` and moved to the shard's thread.
pub struct ShardSeed {
    pub shard: ShardId,
    /// One bound socket for each listener, in the order of the policy.
    pub sockets: Vec<OwnedFd>,
    /// The partitions whose home this shard is.
    pub partitions: Vec<CommitHandle>,
    /// The same partitions, for reading.
    pub stores: Vec<Arc<Partition>>,
    pub policy: Arc<Policy>,
    pub delivery: DeliverySeed,
    pub chunks_max: usize,
    pub counter: ConnectionCounter,
    pub space: Arc<SpaceWatch>,
    pub observed: Arc<ShardObserved>,
    pub inbox: InboxSeed,
    /// Submissions of other threads.
    pub submissions: gateway::LaneSeed,
    /// Where this shard publishes its destinations.
    pub destinations: Arc<DestinationsShelf>,
}

/// Runs until a drain command has been carried out.
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
    let histograms = Rc::new(Histograms::new(Arc::clone(&seed.observed.shelf)));
    let intake = Intake::new(IntakeParts {
        pool,
        committers,
        space: seed.space,
        observed: Arc::clone(&seed.observed),
        histograms: Rc::clone(&histograms),
    });
    let reception = Reception::new(ReceptionParts {
        intake,
        asker: asker(&ring),
        histograms,
        observed: seed.observed,
        counter: seed.counter,
        policy: seed.policy,
    });

    housekeeping::start(&reception, commits);
    let ring_reader = Arc::clone(&ring);
    let reader = match Reader::start(seed.shard, ring_reader) {
        Ok(reader) => reader,
        Err(cause) => end_process(format_args!("shard {}: no reader: {cause}", seed.shard)),
    };
    kept::start(&reception, &seed.stores, &reader);
    let delivering = delivering::start(&reception, seed.delivery, seed.stores, reader.clone());
    publish_delivering(&reception, &delivering, seed.destinations);
    task::spawn_vital(Queue::Latency, pump(Rc::clone(&reception), reader, commits_done));
    let listeners: Vec<Rc<Listener>> =
        seed.sockets.into_iter().map(|socket| Rc::new(Listener::from_socket(socket))).collect();
    let (end, ended) = rt::doorbell();
    task::spawn_vital(
        Queue::Work,
        gateway::serve(Rc::clone(&reception.intake), seed.submissions.settle(), ended),
    );
    for (number, socket) in listeners.iter().enumerate() {
        task::spawn(listener::serve(Rc::clone(&reception), Rc::clone(socket), number));
    }

    let mut inbox = seed.inbox.settle();
    let limit = loop {
        match poll_fn(|cx| inbox.poll_next(cx)).await {
            InboxItem::Command(Command::Reload(policy, delivery)) => {
                reception.replace_policy(policy);
                delivering.replace_policy(&delivery);
            }
            InboxItem::Command(Command::Drain { limit }) => break limit,
            InboxItem::Request(request) => carry_out(request, &delivering),
        }
    };
    drain::drain(&reception, &listeners, &delivering, limit).await;
    reception.close();
    end.ring();
    doorbell.ring();
    delivering.end();
}

/// Publishes the gauges and the destinations of the delivering half at every tick.
fn publish_delivering(
    reception: &Rc<Reception>,
    delivering: &Rc<Delivering>,
    shelf: Arc<DestinationsShelf>,
) {
    let (reception, delivering) = (Rc::clone(reception), Rc::clone(delivering));
    let mut survey = Survey::new(shelf);
    timer::on_tick(move || {
        let (jobs, _) = delivering.with_home(|home, _| home.figures());
        let metrics = reception.metrics();
        metrics.jobs_in_memory.set(jobs as u64);
        for (result, sessions) in delivering.trust().take_results() {
            metrics.delivery_tls_results_total.add(result, sessions);
        }
        delivering.with_owner(|owner, now| survey.tick(owner, now));
    });
}

fn carry_out(request: ShardRequest, delivering: &Rc<Delivering>) {
    match request {
        ShardRequest::Operate { id, operation, answer } => {
            delivering.operate(id, operation, answer);
        }
        ShardRequest::Ask(question) => {
            // After a panic the caller gets no answer and reports that the shard did not respond.
            let _ = task::contained(|| {
                queue::points::point("view::question");
                question(delivering);
            });
        }
        ShardRequest::Change(change) => change(delivering),
    }
}

/// Receives the results of commit threads and readers and wakes the waiting tasks. Never waits for
/// anything else.
async fn pump(reception: Rc<Reception>, reader: Reader, mut bell: Bell) {
    while !reception.is_closed() {
        bell.wait().await;
        queue::points::point("vital::pump");
        for committer in reception.intake.committers() {
            committer.pump();
        }
        reader.pump();
        reception.asker.iter().for_each(Asker::pump);
    }
}

/// The gate has no questions to other threads yet but those of tests.
fn asker(ring: &Ring) -> Option<Asker<GateQuestion>> {
    if !fail::has_failpoints() {
        return None;
    }
    let pool = AskPool::start("ask", 1, ASKS_PER_POOL_MAX, || ask::answer);
    Some(pool.ok()?.asker(ASKS_PER_SHARD_MAX, Arc::clone(ring)))
}
