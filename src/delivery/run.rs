//! The delivering half of a shard at work: its home and its owner, and all that they do outside.
//!
//! Owner:    one shard. `Home` and `Owner` stand in one cell each, which is never borrowed across an
//!           await. Frames and events wait in `steps` while another one is carried out, so that nothing
//!           is entered twice; what a shard sends to itself takes the same way without a wake.
//! Promise:  each effect that waits for an answer gets one, also if a bug ends its task (`Watch`). A
//!           panic in `Home` or `Owner` itself ends the process: their state would be half changed.
//! Order:    fresh mail to a known hop is at its owner before `kept` returns.
//! Bounds:   those of home and owner; a task for each effect that waits.

mod effects;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::base::MessageId;
use crate::base::Mono;
use crate::base::PartitionId;
use crate::base::ScheduleClock;
use crate::base::Wall;
use crate::base::fault::end_process;
use crate::delivery::capacity::ConnId;
use crate::delivery::connection;
use crate::delivery::connection::Port;
use crate::delivery::event::Errand;
use crate::delivery::event::HomeEffect;
use crate::delivery::event::HomeEvent;
use crate::delivery::event::HomePolicy;
use crate::delivery::event::Note;
use crate::delivery::home::Home;
use crate::delivery::job::Life;
use crate::delivery::job::Now;
use crate::delivery::limit_file::LimitSaver;
use crate::delivery::link::Station;
use crate::delivery::nudge::Nudge;
use crate::delivery::operation::Answered;
use crate::delivery::owner::Owner;
use crate::delivery::owner::OwnerEffect;
use crate::delivery::owner::OwnerParts;
use crate::delivery::reading;
use crate::delivery::resolve::RouteResolver;
use crate::delivery::write::Write;
use crate::delivery::writing::Desk;
use crate::delivery::writing::Store;
use crate::delivery::writing::written_of;
use crate::handoff::Mesh;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Frame;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::What;
use crate::observe::log::Record;
use crate::queue;
use crate::queue::Fresh;
use crate::queue::Keeper;
use crate::queue::Partition;
use crate::queue::admin::operate::Operation;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::job::Schedule;
use crate::queue::record::rows::Row;
use crate::queue::store::schedule::MESSAGE_HELD_BYTES_MAX;
use crate::route::delivery::DeliveryPolicy;
use crate::rt::task;
use crate::rt::timer;

/// How often time passes for home and owner.
const TICK: Duration = Duration::from_millis(20);
/// How often a part of the MTA-STS policies is looked through for those to be fetched again.
const POLICIES_EVERY: Duration = Duration::from_secs(10);
/// The unit of `delivery.jobs_in_memory_max`. A job counts with its envelope, and with its body if that
/// is held.
const JOB_MEMORY_BYTES: usize = 672;
/// The least memory of a home.
const HOME_MEMORY_MIN: usize = 8 << 20;

/// Gets the answer to an operation.
pub type AnswerTo = Box<dyn FnOnce(Answered)>;

/// What `Running` is made of.
pub struct Parts {
    pub home: Home,
    pub owner: OwnerParts,
    pub station: Station,
    pub desk: Desk,
    pub mesh: Rc<Mesh>,
    pub routes: Rc<RouteResolver>,
    pub saver: LimitSaver,
    pub stores: Vec<Store>,
    pub clock: ScheduleClock,
    pub shards: usize,
}

enum Step {
    Home(HomeEvent),
    Frame(Frame),
}

pub struct Running {
    me: Weak<Running>,
    home: RefCell<Home>,
    owner: RefCell<Owner>,
    clock: RefCell<ScheduleClock>,
    steps: RefCell<VecDeque<Step>>,
    is_stepping: Cell<bool>,
    station: Station,
    desk: Desk,
    mesh: Rc<Mesh>,
    routes: Rc<RouteResolver>,
    saver: RefCell<LimitSaver>,
    stores: BTreeMap<PartitionId, Store>,
    shards: usize,
    nudges: RefCell<HashMap<ConnId, Rc<Nudge>>>,
    /// Rows to be removed, in one order for each partition at the next tick.
    leftovers: RefCell<BTreeMap<PartitionId, Vec<Row>>>,
    /// Partitions whose outcomes wait for the disk.
    behind: RefCell<Vec<PartitionId>>,
    answers: RefCell<HashMap<u64, AnswerTo>>,
    last_ticket: Cell<u64>,
    is_ended: Cell<bool>,
}

/// The settings of a home.
pub fn home_policy(policy: &DeliveryPolicy, generation: u32, shards: usize) -> HomePolicy {
    let memory = policy.jobs_in_memory_max.saturating_mul(JOB_MEMORY_BYTES) / shards.max(1);
    HomePolicy {
        generation,
        enabled: policy.enabled,
        retry: policy.retry.clone(),
        warning: policy.delay_warning,
        life: Life { max_age: policy.routes.standard().max_age, fallback_after: None },
        memory_max: memory.max(HOME_MEMORY_MIN),
    }
}

impl Running {
    pub fn new(parts: Parts) -> Rc<Running> {
        let stores = parts.stores.into_iter().map(|store| (store.partition.id(), store));
        let running = Rc::new_cyclic(|me| Running {
            me: Weak::clone(me),
            home: RefCell::new(parts.home),
            owner: RefCell::new(Owner::new(parts.owner)),
            clock: RefCell::new(parts.clock),
            steps: RefCell::default(),
            is_stepping: Cell::new(false),
            station: parts.station,
            desk: parts.desk,
            mesh: parts.mesh,
            routes: parts.routes,
            saver: RefCell::new(parts.saver),
            stores: stores.collect(),
            shards: parts.shards,
            nudges: RefCell::default(),
            leftovers: RefCell::default(),
            behind: RefCell::default(),
            answers: RefCell::default(),
            last_ticket: Cell::new(0),
            is_ended: Cell::new(false),
        });
        for store in running.stores.values() {
            store.committer.tell(Rc::clone(&running) as Rc<dyn Keeper>);
        }
        running.home_event(HomeEvent::Start { refile: running.is_filed_otherwise() });
        running
    }

    pub fn station(&self) -> &Station {
        &self.station
    }

    /// Reads the home.
    pub fn with_home<T>(&self, read: impl FnOnce(&Home) -> T) -> T {
        read(&self.home.borrow())
    }

    /// Calls the owner, and then carries out what the owner wants.
    pub fn with_owner<T>(&self, call: impl FnOnce(&mut Owner, Mono) -> T) -> T {
        let answer = self.call_owner(Mono::now(), call);
        self.step();
        answer
    }

    fn call_owner<T>(&self, now: Mono, call: impl FnOnce(&mut Owner, Mono) -> T) -> T {
        let (answer, mut effects) = {
            let mut owner = self.owner.borrow_mut();
            let answer = unwinding_ends(|| call(&mut owner, now));
            (answer, owner.take_effects())
        };
        for effect in effects.drain(..) {
            self.carry_out_owner(effect);
        }
        self.owner.borrow_mut().reuse(effects);
        answer
    }

    pub fn operate(&self, id: MessageId, operation: Operation, answer: AnswerTo) {
        let ticket = self.last_ticket.get() + 1;
        self.last_ticket.set(ticket);
        self.answers.borrow_mut().insert(ticket, answer);
        self.home_event(HomeEvent::Operate { ticket, id, operation });
    }

    /// A reload: what was resolved under the old policy is resolved again.
    pub fn replace_policy(&self, policy: &Arc<DeliveryPolicy>) {
        let before = self.station.policy.replace(Arc::clone(policy));
        let refile = before.fingerprint != policy.fingerprint;
        let generation = self.routes.replace_policy(Arc::clone(policy));
        self.with_owner(|owner, now| owner.replace_policy(Arc::clone(policy), now));
        let policy = home_policy(policy, generation, self.shards);
        self.home_event(HomeEvent::Reload { policy, refile });
    }

    /// No new attempt from here on; those under way end and are written.
    pub fn close(&self) {
        self.station.is_closing.set(true);
        self.home_event(HomeEvent::Drain);
        self.with_owner(|owner, _| owner.close());
    }

    /// All outcomes are written, and no connection is open.
    pub fn is_drained(&self) -> bool {
        self.home.borrow().is_drained() && self.owner.borrow().connections() == 0
    }

    /// Time passes no longer.
    pub fn end(&self) {
        self.is_ended.set(true);
    }

    /// A frame from another shard.
    pub fn frame(&self, frame: Frame) {
        self.steps.borrow_mut().push_back(Step::Frame(frame));
        self.step();
    }

    fn home_event(&self, event: HomeEvent) {
        self.steps.borrow_mut().push_back(Step::Home(event));
        self.step();
    }

    /// Takes all steps that wait, unless that is under way already.
    fn step(&self) {
        if self.is_stepping.replace(true) {
            return;
        }
        let _stepping = Stepping(self);
        if self.steps.borrow().is_empty() {
            return;
        }
        // What one event leads to happens at its time.
        let (now, mut effects) = (self.now(), Vec::new());
        loop {
            let step = self.steps.borrow_mut().pop_front();
            let event = match step {
                Some(Step::Home(event)) => event,
                Some(Step::Frame(Frame::Settle(outcome))) => HomeEvent::Settle(*outcome),
                Some(Step::Frame(frame @ (Frame::Grant { .. } | Frame::Missing { .. }))) => {
                    HomeEvent::Frame(frame)
                }
                Some(Step::Frame(frame)) => {
                    self.call_owner(now.mono, |owner, now| owner.on_frame(frame, now));
                    continue;
                }
                None => return,
            };
            unwinding_ends(|| self.home.borrow_mut().on(event, now, &mut effects));
            for effect in effects.drain(..) {
                self.carry_out_home(effect, now);
            }
        }
    }

    pub fn now(&self) -> Now {
        let (mono, wall) = (Mono::now(), Wall::now());
        Now { mono, wall, schedule: self.clock.borrow_mut().now(wall, mono) }
    }

    fn send(&self, to: crate::base::ShardId, frame: Frame) {
        match to == self.mesh.me() {
            true => self.steps.borrow_mut().push_back(Step::Frame(frame)),
            false => self.mesh.post(to, frame),
        }
    }

    fn rc(&self) -> Rc<Running> {
        self.me.upgrade().expect("whoever calls it holds it")
    }

    /// Mail that has become durable here.
    fn take_fresh(&self, fresh: Fresh) {
        let Some(store) = self.stores.get(&fresh.id.partition()) else { return };
        let body = fresh.message.filter(|body| body.len() as u64 <= MESSAGE_HELD_BYTES_MAX);
        let stored = || MailBody::Stored(Arc::clone(&store.partition));
        let body = body.map_or_else(stored, MailBody::Held);
        let public_id = store.partition.public_id(fresh.id);
        let Ok(mail) = Mail::new(public_id, fresh.envelope, body) else {
            crate::invariant!(false, "an envelope that was just encoded cannot be decoded");
            return;
        };
        let recipients = mail.envelope().recipients.len() as u32;
        let (mail, due) = (Arc::new(mail), Wall::from_ms(fresh.due_ms));
        self.home_event(HomeEvent::Fresh { mail, recipients, due });
    }

    /// Tells the home whether a partition is behind with its outcomes, if that has changed.
    fn note_behind(&self, store: &Partition) {
        let partition = store.id();
        let is_behind = !Unsettled::may_begin(store, Instant::now());
        let known = self.behind.borrow().iter().position(|one| *one == partition);
        match (known, is_behind) {
            (None, true) => self.behind.borrow_mut().push(partition),
            (Some(place), false) => drop(self.behind.borrow_mut().swap_remove(place)),
            _ => return,
        }
        self.home_event(HomeEvent::Behind { partition, is_behind });
    }

    fn tick(&self) {
        self.mesh.flush();
        for store in self.stores.values() {
            self.note_behind(&store.partition);
        }
        let is_saved = self.saver.borrow().is_durable();
        self.with_owner(|owner, now| {
            if is_saved {
                owner.saved(now);
            }
            owner.tick(now);
        });
        self.home_event(HomeEvent::Tick);
        self.remove_leftovers();
    }
}

/// Lets time pass for home and owner, until the end.
pub async fn tend(running: Rc<Running>) {
    let mut refreshed = Mono::now();
    while !running.is_ended.get() {
        timer::sleep(TICK).await;
        queue::points::point("vital::tend");
        running.tick();
        if Mono::now().since(refreshed) >= POLICIES_EVERY {
            refreshed = Mono::now();
            let station = &running.station;
            station.trust.sts().refresh(&station.policy(), running.shards);
        }
    }
}

impl Port for Running {
    fn station(&self) -> &Station {
        &self.station
    }

    fn owner<T>(&self, call: impl FnOnce(&mut Owner, Mono) -> T) -> T {
        self.with_owner(call)
    }

    fn settle(&self, delivery: &Delivery, what: What, unsettled: Option<Unsettled>) {
        let outcome = Outcome { job: delivery.job, what, unsettled };
        self.send(delivery.home, Frame::Settle(Box::new(outcome)));
        self.step();
    }

    fn gone(&self, conn: ConnId) {
        self.nudges.borrow_mut().remove(&conn);
    }
}

impl Keeper for Running {
    fn wants(&self, bytes: u64) -> bool {
        bytes <= MESSAGE_HELD_BYTES_MAX && self.home.borrow().wants(bytes)
    }

    fn kept(&self, fresh: Fresh) {
        self.take_fresh(fresh);
    }
}

/// Steps are being taken.
struct Stepping<'r>(&'r Running);

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.0.is_stepping.set(false);
    }
}

/// Ends the process if `work` panics: what it was changing is half changed.
fn unwinding_ends<T>(work: impl FnOnce() -> T) -> T {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            end_process(format_args!("a step of delivery has panicked"));
        }
    }
    let bomb = Bomb;
    let done = work();
    std::mem::forget(bomb);
    done
}
