//! A machine and its surroundings. The stores and what servers have taken survive a kill, everything
//! else is lost.

mod connections;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::owner::Doing;
use super::owner::Owner;
use super::owner::PEERS;
use super::owner::Peer;
use super::real;
use super::real::Happening;
use super::real::Real;

use crate::base::Class;
use crate::base::MessageId;
use crate::base::Mono;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::Random;
use crate::base::ScheduleClock;
use crate::base::ShardId;
use crate::base::SpoolNumber;
use crate::base::Wall;
use crate::base::backoff::RetrySchedule;
use crate::base::id::IdSource;
use crate::delivery::capacity::ConnId;
use crate::delivery::capacity::Gate;
use crate::delivery::event::Errand;
use crate::delivery::event::Found;
use crate::delivery::event::HomeEffect;
use crate::delivery::event::HomeEvent;
use crate::delivery::event::HomePolicy;
use crate::delivery::event::Note;
use crate::delivery::event::Pass;
use crate::delivery::event::Written;
use crate::delivery::home::Counts;
use crate::delivery::home::Home;
use crate::delivery::home::tests::envelope;
use crate::delivery::home::tests::hop;
use crate::delivery::job::Life;
use crate::delivery::job::Now;
use crate::delivery::job::Resolution;
use crate::delivery::job::Resolved;
use crate::delivery::job::Route;
use crate::delivery::operation::Part;
use crate::delivery::operation::Refusal;
use crate::delivery::reading;
use crate::delivery::stripe;
use crate::delivery::write::JobImage;
use crate::delivery::write::Next;
use crate::delivery::write::Write;
use crate::event::EventList;
use crate::handoff::frame::Answer;
use crate::handoff::frame::End;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Flow;
use crate::handoff::frames::Frame;
use crate::handoff::frames::JobKey;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::handoff::frames::OurLimit;
use crate::model_store::ModelStore;
use crate::queue::Job;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Report;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::family::Family;
use crate::queue::record::job::JobState;
use crate::queue::record::job::Schedule;
use crate::queue::record::key;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::rows::Row;
use crate::queue::store::jobs::jobs_of;
use crate::queue::store::schedule::Messages;
use crate::queue::store::schedule::read_job;
use crate::route::DeliveryPolicy;
use crate::wire::classify::Cause;

const START_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Events of one virtual second; more means a busy loop.
const EVENTS_PER_SECOND_MAX: usize = 50_000;
/// The home is checked every so many events, and R4 is compared with the stores.
const CHECKED_EVERY: usize = 4;
const ROWS_CHECKED_EVERY: usize = 64;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: u16,
    pub partitions: u8,
    pub peers: Vec<Peer>,
    pub tenants: u64,
    pub messages: usize,
    pub arrival_ms: u64,
    pub recipients_max: u64,
    pub max_age_ms: u64,
    pub memory_max: usize,
    /// Whether each kill is a power cut.
    pub kills: Vec<(u64, bool)>,
    pub jumps: Vec<(u64, i64)>,
    /// When which partition is full or hung, and for how long.
    pub full: Vec<(u64, u8, u64)>,
    pub hung: Vec<(u64, u8, u64)>,
    /// When the mail exchangers of domains change, and when the policy is loaded again.
    pub moves: Vec<u64>,
    pub reloads: Vec<u64>,
    pub operations: Vec<u64>,
    /// One of so many: frames that are lost, lookups that fail, tasks that a bug ends.
    pub lost: u64,
    pub failed: u64,
    pub abandoned: u64,
    /// Percent of the mail that goes to the first domain.
    pub slow_share: u64,
    /// From then on all is well.
    pub calm_ms: u64,
    /// The real owner in place of the model.
    pub has_real_owners: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9) + 1);
        let d = &mut random;
        let partitions = 1 + d.below(3) as u8;
        let some = |d: &mut Random, most: u64| d.below(2 * most).saturating_sub(most);
        let times = |d: &mut Random, most: u64, within_ms: u64| -> Vec<u64> {
            (0..some(d, most)).map(|_| d.below(within_ms)).collect()
        };
        let spans = |d: &mut Random, most: u64, longest_ms: u64| {
            let times = times(d, most, 4 * HOUR_MS);
            let spans = times.into_iter();
            spans.map(|at| (at, d.below(3) as u8 % partitions, d.below(longest_ms))).collect()
        };
        let kills = times(d, 4, 8 * HOUR_MS);
        let jumps = times(d, 3, 8 * HOUR_MS);
        Plan {
            seed,
            shards: 1 + d.below(3) as u16,
            partitions,
            peers: (0..1 + d.below(6)).map(|_| PEERS[d.below(7) as usize]).collect(),
            tenants: 1 + d.below(4),
            messages: 1 + d.below(60) as usize,
            arrival_ms: 1 + d.below(2 * HOUR_MS),
            recipients_max: 1 + d.below(12),
            max_age_ms: HOUR_MS / 2 + d.below(6 * HOUR_MS),
            memory_max: [8 << 10, 16 << 10, 64 << 10, 1 << 20][d.below(4) as usize],
            kills: kills.into_iter().map(|at| (at, d.below(2) == 0)).collect(),
            jumps: jumps
                .into_iter()
                .map(|at| (at, d.below(10 * HOUR_MS) as i64 - 5 * HOUR_MS as i64))
                .collect(),
            full: spans(d, 2, 600_000),
            hung: spans(d, 2, 600_000),
            moves: times(d, 3, 8 * HOUR_MS),
            reloads: times(d, 3, 8 * HOUR_MS),
            operations: times(d, 20, 8 * HOUR_MS),
            lost: [0, 0, 300, 40][d.below(4) as usize],
            failed: [0, 0, 50, 10][d.below(4) as usize],
            abandoned: [0, 0, 0, 50][d.below(4) as usize],
            slow_share: d.below(100),
            calm_ms: 9 * HOUR_MS,
            has_real_owners: d.below(2) == 0,
        }
    }

    /// Without faults; the first destination is slow, the other one fast.
    pub fn calm(seed: u64) -> Plan {
        let none = Vec::new();
        Plan {
            shards: 1,
            partitions: 2,
            peers: vec![Peer::Slow, Peer::Fast],
            recipients_max: 1,
            max_age_ms: 24 * HOUR_MS,
            kills: Vec::new(),
            jumps: Vec::new(),
            full: Vec::new(),
            hung: Vec::new(),
            moves: none.clone(),
            reloads: none.clone(),
            operations: none,
            lost: 0,
            failed: 0,
            abandoned: 0,
            calm_ms: 24 * HOUR_MS,
            has_real_owners: false,
            ..Plan::of(seed)
        }
    }
}

#[derive(Debug)]
enum Event {
    Arrive,
    Kill {
        is_power_cut: bool,
    },
    Jump(i64),
    Move,
    Reload,
    Operate,
    Release,
    Behind {
        partition: u8,
        is_behind: bool,
    },
    /// Of the process; lost with it.
    Process {
        boot: u32,
        what: What,
    },
}

#[derive(Debug)]
enum What {
    Home(u16, HomeEvent),
    Frame(u16, Frame),
    Disk(u16, Errand),
    Commit(u16, HomeEffect),
    Resolve(u16, JobRef),
    Remote {
        owner: u16,
        home: ShardId,
        job: JobRef,
        target: u64,
        end: Option<End>,
    },
    Landed {
        owner: u16,
        home: ShardId,
        job: JobRef,
        target: u64,
        end: Option<End>,
    },
    Later {
        owner: u16,
        target: u64,
    },
    TickOwner(u16),
    /// The limits of an owner are durable.
    Saved(u16),
    Connection(u16, ConnId, Happening),
}

/// What is known of a message without the system.
struct Message {
    domains: Vec<u8>,
    tenant: u64,
    class: Class,
    is_report: bool,
}

/// What has become of a recipient.
#[derive(Default)]
struct Recipient {
    taken_ms: u64,
    deliveries: u32,
    /// Deliveries that the system could not have known of.
    unheard: u32,
    /// A server has taken it, and that is not durable yet.
    is_open: bool,
    end: Option<(&'static str, u64)>,
}

struct Shard {
    home: Home,
    owner: Owner,
    /// In place of the model.
    real: Option<Real>,
    clock: ScheduleClock,
    wake_ms: u64,
}

pub struct World {
    pub plan: Plan,
    random: Random,
    now_ms: u64,
    /// Of the wall clock against the true time.
    offset_ms: i64,
    events: BTreeMap<(u64, u64), Event>,
    event_number: u64,
    boot: u32,
    shards: Vec<Shard>,
    stores: Vec<ModelStore>,
    ids: Vec<IdSource>,
    commit_free_ms: Vec<u64>,
    frames_ms: BTreeMap<(u16, u16), u64>,
    messages: BTreeMap<MessageId, Message>,
    recipients: BTreeMap<(MessageId, u32), Recipient>,
    open: usize,
    /// Durable, and its home has not been told yet.
    in_transit: BTreeSet<JobKey>,
    /// By domain.
    exchangers: Vec<u64>,
    hops: BTreeMap<u64, Arc<Hop>>,
    policy: Arc<DeliveryPolicy>,
    generation: u32,
    arrived: usize,
    tickets: u64,
    second: (u64, usize),
    handled: usize,
    counts: Counts,
    /// Each event is printed.
    traces: bool,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let domains = plan.peers.len() as u64;
        let mut random = Random::new(plan.seed + 7);
        let policy = real::policy(&mut random);
        let mut world = World {
            random,
            policy,
            now_ms: 0,
            offset_ms: 0,
            events: BTreeMap::new(),
            event_number: 0,
            boot: 0,
            shards: Vec::new(),
            stores: (0..plan.partitions).map(|_| ModelStore::default()).collect(),
            ids: (0..plan.partitions).map(|p| IdSource::new(PartitionId(p), None)).collect(),
            commit_free_ms: vec![0; usize::from(plan.partitions)],
            frames_ms: BTreeMap::new(),
            messages: BTreeMap::new(),
            recipients: BTreeMap::new(),
            open: 0,
            in_transit: BTreeSet::new(),
            exchangers: (0..domains).collect(),
            hops: BTreeMap::new(),
            generation: 1,
            arrived: 0,
            tickets: 0,
            second: (0, 0),
            handled: 0,
            counts: Counts::default(),
            traces: std::env::var_os("TRACE").is_some(),
            plan,
        };
        let plan = world.plan.clone();
        for _ in 0..plan.messages {
            let after_ms = world.random.below(plan.arrival_ms);
            world.later(after_ms, Event::Arrive);
        }
        for (at, is_power_cut) in plan.kills {
            world.later(at, Event::Kill { is_power_cut });
        }
        plan.jumps.iter().for_each(|(at, by)| world.later(*at, Event::Jump(*by)));
        plan.moves.iter().for_each(|at| world.later(*at, Event::Move));
        plan.reloads.iter().for_each(|at| world.later(*at, Event::Reload));
        plan.operations.iter().for_each(|at| world.later(*at, Event::Operate));
        for (at, partition, span) in plan.hung {
            world.later(at, Event::Behind { partition, is_behind: true });
            world.later(at + span, Event::Behind { partition, is_behind: false });
        }
        world.later(plan.calm_ms, Event::Release);
        world.start();
        world
    }

    pub fn counts(&self) -> Counts {
        let mut sum = self.counts;
        for shard in &self.shards {
            let counts = shard.home.counts();
            sum.claimed += counts.claimed;
            sum.filed += counts.filed;
            sum.stale += counts.stale;
        }
        sum
    }

    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// The longest time from acceptance to the end, of mail to the slow domain or to the others.
    pub fn longest_ms(&self, is_slow: bool) -> u64 {
        let some = self.recipients.iter().filter(|((id, index), _)| {
            (self.messages[id].domains[*index as usize] == 0) == is_slow
        });
        let lasted = some.map(|(_, one)| one.end.map_or(0, |(_, at)| at - one.taken_ms));
        lasted.max().unwrap_or(0)
    }

    pub fn summary(&self) -> String {
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        for recipient in self.recipients.values() {
            *ends.entry(recipient.end.map_or("open", |(end, _)| end)).or_default() += 1;
        }
        let unheard: u32 = self.recipients.values().map(|one| one.unheard).sum();
        let (handled, at) = (self.handled, self.now_ms / 1000);
        let counts = self.counts();
        format!("{handled} events in {at} s, {ends:?}, {unheard} unheard, {counts:?}")
    }

    pub fn run(&mut self) {
        let end_ms = self.plan.calm_ms + self.plan.max_age_ms + 72 * HOUR_MS;
        while self.arrived < self.plan.messages || self.open > 0 {
            let Some(((at, _), event)) = self.events.pop_first() else {
                panic!("nothing happens any more, and {} recipients have no end", self.open);
            };
            self.now_ms = at;
            assert!(at < end_ms, "{} recipients have no end: {}", self.open, self.stuck());
            self.handled += 1;
            if self.second.0 != at / 1000 {
                self.second = (at / 1000, 0);
            }
            self.second.1 += 1;
            assert!(self.second.1 < EVENTS_PER_SECOND_MAX, "a busy loop at {at}: {event:?}");
            if self.traces {
                let text = format!("{event:?}");
                println!("{at} {}", &text[..text.floor_char_boundary(300)]);
            }
            self.handle(event);
            if self.handled.is_multiple_of(ROWS_CHECKED_EVERY) {
                self.check_rows();
            }
        }
        for (key, one) in &self.recipients {
            let allowed = 1 + one.unheard;
            assert!(one.deliveries <= allowed, "{key:?}: {} deliveries", one.deliveries);
        }
        for store in &self.stores {
            let ledger = store.ledger();
            assert_eq!(ledger.taken, ledger.ended.total(), "{ledger:?}");
            for family in [Family::Job, Family::Due, Family::Backlog, Family::Envelope] {
                assert_eq!(store.family(family).len(), 0, "left in {family:?}");
            }
        }
    }

    fn stuck(&self) -> String {
        let open = self.recipients.iter().filter(|(_, one)| one.end.is_none());
        let mut texts: Vec<String> = Vec::new();
        for ((id, index), _) in open.take(3) {
            let store = &self.stores[usize::from(id.partition().0)];
            let jobs = jobs_of(store, *id).unwrap_or_default();
            for job in jobs {
                let record = Job::decode(&job.record).expect("it was encoded");
                let shard = &self.shards[self.home_of(*id)];
                let entry = shard.home.job((*id, job.number));
                texts.push(format!(
                    "{id:?} recipient {index}: {record:?} is {:?}",
                    entry.map(|job| (job.state.name(), &job.head, &job.route))
                ));
            }
        }
        texts.join("\n")
    }

    fn later(&mut self, after_ms: u64, event: Event) {
        self.event_number += 1;
        self.events.insert((self.now_ms + after_ms, self.event_number), event);
    }

    fn process(&mut self, after_ms: u64, what: What) {
        let boot = self.boot;
        self.later(after_ms, Event::Process { boot, what });
    }

    fn wall(&self) -> Wall {
        Wall::from_ms((START_MS + self.now_ms).saturating_add_signed(self.offset_ms))
    }

    fn mono(&self) -> Mono {
        Mono::from_ms(1000 + self.now_ms)
    }

    fn now_of(&mut self, shard: usize) -> Now {
        let (mono, wall) = (self.mono(), self.wall());
        Now { mono, wall, schedule: self.shards[shard].clock.now(wall, mono) }
    }

    fn home_of(&self, id: MessageId) -> usize {
        usize::from(id.partition().0) % usize::from(self.plan.shards)
    }

    fn is_calm(&self) -> bool {
        self.now_ms >= self.plan.calm_ms
    }

    fn one_of(&mut self, chances: u64) -> bool {
        chances > 0 && !self.is_calm() && self.random.below(chances) == 0
    }

    fn home_policy(&self) -> HomePolicy {
        HomePolicy {
            generation: self.generation,
            enabled: true,
            retry: RetrySchedule::default(),
            warning: Some(Duration::from_secs(1800)),
            life: self.life(0),
            memory_max: self.plan.memory_max,
        }
    }

    fn life(&self, domain: u64) -> Life {
        let fallback_after = (domain % 3 == 2).then_some(Duration::from_secs(1000));
        Life { max_age: Duration::from_millis(self.plan.max_age_ms), fallback_after }
    }

    fn start(&mut self) {
        self.boot += 1;
        self.in_transit.clear();
        self.frames_ms.clear();
        self.commit_free_ms.fill(self.now_ms);
        let (mono, wall) = (self.mono(), self.wall());
        let gate = Arc::new(Gate::new(1 + self.random.below(30) as u32));
        for shard in 0..self.plan.shards {
            let own =
                (0..self.plan.partitions).filter(|p| u16::from(*p) % self.plan.shards == shard);
            let own: Vec<PartitionId> = own.map(PartitionId).collect();
            let newest = self.messages.keys().filter(|id| own.contains(&id.partition()));
            let newest = Wall::from_ms(newest.map(|id| id.made_ms()).max().unwrap_or(0));
            let mut clock = ScheduleClock::new(newest, wall, mono);
            let now = Now { mono, wall, schedule: clock.now(wall, mono) };
            let home = Home::new(ShardId(shard), own, self.home_policy(), now);
            let of = (self.plan.shards, self.plan.seed);
            let real = self.plan.has_real_owners.then(|| Real::new(shard, of, &self.policy, &gate));
            let owner = Owner::default();
            let shard_parts = Shard { home, owner, real, clock, wake_ms: u64::MAX };
            self.shards.push(shard_parts);
        }
        let refile = self.random.below(2) == 0;
        for shard in 0..self.plan.shards {
            self.drive(usize::from(shard), HomeEvent::Start { refile });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Kill { is_power_cut } => self.kill(is_power_cut),
            Event::Jump(by) => {
                self.offset_ms += by;
                self.tell_all(|_| HomeEvent::Tick);
            }
            Event::Move => {
                let domain = self.random.below(self.exchangers.len() as u64) as usize;
                self.exchangers[domain] = self.random.below(self.plan.peers.len() as u64);
            }
            Event::Reload => {
                self.generation += 1;
                let refile = self.random.below(2) == 0;
                let policy = self.home_policy();
                self.tell_all(|_| HomeEvent::Reload { policy: policy.clone(), refile });
            }
            Event::Operate => self.operate(),
            Event::Release => self.release(),
            Event::Behind { partition, is_behind } => {
                let shard = usize::from(u16::from(partition) % self.plan.shards);
                let partition = PartitionId(partition);
                self.drive(shard, HomeEvent::Behind { partition, is_behind });
            }
            Event::Process { boot, what } if boot == self.boot => self.handle_process(what),
            Event::Process { .. } => (),
        }
    }

    fn tell_all(&mut self, event: impl Fn(usize) -> HomeEvent) {
        (0..self.shards.len()).for_each(|shard| self.drive(shard, event(shard)));
    }

    fn handle_process(&mut self, what: What) {
        match what {
            What::Home(shard, event) => {
                let own = &mut self.shards[usize::from(shard)];
                if matches!(event, HomeEvent::Tick) && own.wake_ms != self.now_ms {
                    // Another one was set for an earlier time.
                    return;
                }
                if let HomeEvent::Fresh { mail, .. } = &event {
                    self.in_transit.remove(&(mail.id, 0));
                }
                self.drive(usize::from(shard), event);
            }
            What::Frame(shard, frame) => match frame {
                Frame::Settle(outcome) => {
                    self.drive(usize::from(shard), HomeEvent::Settle(*outcome));
                }
                Frame::Grant { .. } | Frame::Missing { .. } => {
                    self.drive(usize::from(shard), HomeEvent::Frame(frame));
                }
                frame if self.plan.has_real_owners => self.at_real_owner(shard, frame),
                frame => self.at_owner(shard, |owner, at, peer, random| {
                    owner.on_frame(frame, at, peer, random)
                }),
            },
            What::TickOwner(shard) => self.tick_real(shard),
            What::Saved(shard) => self.saved_real(shard),
            What::Connection(shard, conn, happening) => {
                self.on_connection(shard, conn, happening);
            }
            What::Disk(shard, errand) => self.read(shard, errand),
            What::Commit(shard, effect) => self.commit(shard, effect),
            What::Resolve(shard, job) => self.resolve(shard, job),
            What::Remote { owner, home, job, target, end } => {
                self.note_remote(job, home, end.as_ref());
                let after_ms = self.random.below(30);
                self.process(after_ms, What::Landed { owner, home, job, target, end });
            }
            What::Landed { owner, home, job, target, end } => {
                self.at_owner(owner, |model, at, peer, random| {
                    model.on_landed(((home, job, target), end), at, peer, random)
                });
            }
            What::Later { owner, target } => {
                self.at_owner(owner, |model, (me, _), _, random| {
                    model.on_later(target, me, random)
                });
            }
        }
    }

    fn drive(&mut self, shard: usize, event: HomeEvent) {
        let now = self.now_of(shard);
        let mut effects = Vec::new();
        self.shards[shard].home.on(event, now, &mut effects);
        if self.handled.is_multiple_of(CHECKED_EVERY) {
            self.shards[shard].home.check();
        }
        for effect in effects {
            self.carry_out(shard as u16, effect);
        }
        let home = &self.shards[shard].home;
        let Some(wake) = home.next_wake() else { return };
        let wake_ms = wake.as_ns().div_ceil(1_000_000).saturating_sub(1000).max(self.now_ms + 1);
        if wake_ms < self.shards[shard].wake_ms || self.shards[shard].wake_ms <= self.now_ms {
            self.shards[shard].wake_ms = wake_ms;
            self.process(wake_ms - self.now_ms, What::Home(shard as u16, HomeEvent::Tick));
        }
    }

    fn at_owner(
        &mut self,
        shard: u16,
        act: impl FnOnce(&mut Owner, (ShardId, u64), &dyn Fn(u64) -> Peer, &mut Random) -> Vec<Doing>,
    ) {
        let peers: Vec<Peer> = (0..self.plan.peers.len() as u64).map(|t| self.peer(t)).collect();
        let peer = |target: u64| peers[target as usize];
        let at = (ShardId(shard), 1000 + self.now_ms);
        let owner = &mut self.shards[usize::from(shard)].owner;
        for doing in act(owner, at, &peer, &mut self.random) {
            match doing {
                Doing::Send(to, frame) => self.send(shard, to, frame),
                Doing::Fly { home, job, target, after_ms, end } => {
                    let owner = shard;
                    self.process(after_ms, What::Remote { owner, home, job, target, end });
                }
                Doing::Later { target, after_ms } => {
                    self.process(after_ms, What::Later { owner: shard, target });
                }
            }
        }
    }

    /// Frames between two shards keep their order.
    fn send(&mut self, from: u16, to: ShardId, frame: Frame) {
        if self.one_of(self.plan.lost) {
            if let Frame::Settle(outcome) = &frame
                && let crate::handoff::frames::What::Tried { ends, .. } = &outcome.what
            {
                let id = outcome.job.key.0;
                for (end, _) in ends.iter().filter(|(end, _)| end.end == End::Delivered) {
                    let one = self.recipients.get_mut(&(id, end.index)).expect("it was taken");
                    one.unheard += 1;
                }
            }
            return;
        }
        let at = self.now_ms + self.random.below(3);
        let last = self.frames_ms.entry((from, to.0)).or_default();
        *last = at.max(*last);
        let after_ms = *last - self.now_ms;
        self.process(after_ms, What::Frame(to.0, frame));
    }

    fn carry_out(&mut self, shard: u16, effect: HomeEffect) {
        match effect {
            HomeEffect::Send { to, frame } => self.send(shard, to, frame),
            HomeEffect::Resolve(job) => {
                let what = match self.random.below(3) {
                    0 => What::Resolve(shard, job),
                    _ => What::Home(shard, HomeEvent::Unknown { job }),
                };
                self.process(0, what);
            }
            HomeEffect::LookUp(job) => {
                let after_ms = match self.random.below(3) {
                    0 => 0,
                    // Without an answer for long.
                    _ if self.one_of(self.plan.failed) => self.random.below(15_000),
                    _ => self.random.below(300),
                };
                self.process(after_ms, What::Resolve(shard, job));
            }
            HomeEffect::Write(_) | HomeEffect::File { .. } | HomeEffect::Leftover { .. } => {
                let partition = match &effect {
                    HomeEffect::Write(write) => write.job.key.0.partition(),
                    HomeEffect::File { partition, .. } | HomeEffect::Leftover { partition, .. } => {
                        *partition
                    }
                    _ => unreachable!("only writes come here"),
                };
                let free = self.commit_free_ms[usize::from(partition.0)].max(self.now_ms);
                let free = self.after_hang(partition, free) + 1 + self.random.below(10);
                self.commit_free_ms[usize::from(partition.0)] = free;
                self.process(free - self.now_ms, What::Commit(shard, effect));
            }
            HomeEffect::Remove { ticket, .. } => {
                let event = HomeEvent::Removed { ticket, removed: false };
                self.process(1, What::Home(shard, event));
            }
            HomeEffect::Answer { .. } | HomeEffect::Refiled => (),
            HomeEffect::Log(note) => assert!(
                !matches!(note, Note::Damaged(_) | Note::Failed(_) | Note::FlowsFull)
                    && (self.plan.lost > 0 || !matches!(note, Note::Missing { .. })),
                "{note:?}"
            ),
            HomeEffect::Read(errand) => {
                let after_ms = 1 + self.random.below(10);
                self.process(after_ms, What::Disk(shard, errand));
            }
        }
    }

    fn after_hang(&self, partition: PartitionId, at: u64) -> u64 {
        let hangs =
            self.plan.hung.iter().filter(|(from, own, span)| {
                *own == partition.0 && (*from..from + span).contains(&at)
            });
        hangs.map(|(from, _, span)| from + span).fold(at, u64::max)
    }

    fn is_full(&self, partition: PartitionId) -> bool {
        self.plan.full.iter().any(|(from, own, span)| {
            *own == partition.0 && (*from..from + span).contains(&self.now_ms)
        })
    }

    fn arrive(&mut self) {
        let p = self.random.below(u64::from(self.plan.partitions)) as usize;
        let partition = PartitionId(p as u8);
        if self.is_full(partition) || self.after_hang(partition, self.now_ms) > self.now_ms {
            return self.later(30_000, Event::Arrive);
        }
        self.arrived += 1;
        let shard = p % usize::from(self.plan.shards);
        let wall_ms = self.wall().as_ms();
        let id = self.ids[p].next_id(wall_ms);
        let count = 1 + self.random.below(self.plan.recipients_max);
        let domains = (0..count).map(|_| match self.random.below(100) < self.plan.slow_share {
            true => 0,
            false => self.random.below(self.plan.peers.len() as u64) as u8,
        });
        let domains = domains.collect();
        let (tenant, class) = (self.random.below(self.plan.tenants), self.random.below(3));
        let class = Class::ALL[class as usize];
        let due = self.now_of(shard).schedule;
        let bytes = self.random.below(2000) as usize;
        let body: Arc<[u8]> = vec![b'x'; bytes].into();
        let received_ms = self.wall().as_ms();
        let store = &mut self.stores[p];
        envelope(received_ms, count as u32, |envelope| {
            store.accept(id, envelope, (b"A: b\r\n\r\n", Arc::clone(&body)), due.as_ms());
        });
        self.note_taken(id, Message { domains, tenant, class, is_report: false });
        self.tell_fresh(shard as u16, id, due);
    }

    fn note_taken(&mut self, id: MessageId, message: Message) {
        for index in 0..message.domains.len() as u32 {
            let recipient = Recipient { taken_ms: self.now_ms, ..Recipient::default() };
            self.recipients.insert((id, index), recipient);
            self.open += 1;
        }
        self.messages.insert(id, message);
    }

    fn tell_fresh(&mut self, shard: u16, id: MessageId, due: Wall) {
        let store = &self.stores[usize::from(id.partition().0)];
        let read = read_job(store, (id, 0), Messages::Hold).expect("a model can be read");
        let read = read.expect("it was just written");
        let mail = mail_of(id, read.envelope, read.message).map(Arc::new).expect("it was checked");
        let recipients = self.messages[&id].domains.len() as u32;
        self.in_transit.insert((id, 0));
        let after_ms = self.random.below(5);
        self.process(after_ms, What::Home(shard, HomeEvent::Fresh { mail, recipients, due }));
    }

    fn kill(&mut self, is_power_cut: bool) {
        for recipient in self.recipients.values_mut() {
            if std::mem::take(&mut recipient.is_open) {
                recipient.unheard += 1;
            }
        }
        for store in &mut self.stores {
            if is_power_cut {
                let kept = self.random.below(store.unsynced() as u64 + 1);
                store.power_cut(kept as usize);
            }
        }
        for shard in std::mem::take(&mut self.shards) {
            let counts = shard.home.counts();
            self.counts.claimed += counts.claimed;
            self.counts.filed += counts.filed;
            self.counts.stale += counts.stale;
        }
        self.start();
    }

    /// What a server has taken is delivered, whatever becomes of its reply.
    fn note_remote(&mut self, job: JobRef, home: ShardId, end: Option<&End>) {
        if end != Some(&End::Delivered) {
            return;
        }
        let home = &self.shards[usize::from(home.0)].home;
        let known = home.job(job.key).filter(|known| known.incarnation == job.incarnation);
        let recipients = known.map(|known| known.recipients.clone());
        let recipients = recipients.expect("a job that is being sent is known to its home");
        for index in recipients {
            let one = self.recipients.get_mut(&(job.key.0, index)).expect("it was accepted");
            one.deliveries += 1;
            one.is_open = true;
            assert!(one.deliveries <= 1 + one.unheard, "{job:?} {index} is delivered twice");
        }
    }

    fn resolve(&mut self, shard: u16, job: JobRef) {
        if self.one_of(self.plan.abandoned) {
            return self.process(0, What::Home(shard, HomeEvent::Abandoned { jobs: vec![job] }));
        }
        let home = &self.shards[usize::from(shard)].home;
        let Some(question) = home.question(job) else { return };
        let attempts = home.job(job.key).map_or(0, |job| job.head.attempts);
        let id = question.mail.id;
        let message = &self.messages[&id];
        let falls_back = question.falls_back || attempts > 3;
        let mut groups: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for index in question.recipients {
            groups.entry(message.domains[*index as usize]).or_default().push(*index);
        }
        let resolved = match groups.len() {
            1 => {
                let domain = *groups.keys().next().expect("there is one");
                Resolved::One(self.resolve_one(shard, id, domain, falls_back))
            }
            _ => Resolved::Parts(groups.into_values().map(Vec::into_boxed_slice).collect()),
        };
        let generation = self.generation;
        self.process(0, What::Home(shard, HomeEvent::Resolved { job, generation, resolved }));
    }

    fn resolve_one(
        &mut self,
        shard: u16,
        id: MessageId,
        domain: u8,
        falls_back: bool,
    ) -> Resolution {
        let mut life = self.life(u64::from(domain));
        if self.one_of(self.plan.failed) {
            let answer = Answer::ours(Cause::DnsFailed, "no answer");
            return match self.random.below(6) {
                0 => Resolution::Deferred(answer, life),
                1 => Resolution::Postponed(answer, Duration::from_secs(20), life),
                2 => Resolution::Failed(Answer::ours(Cause::NoDomain, "none"), life),
                3 => Resolution::Discard(life),
                4 => Resolution::Hold,
                _ => Resolution::OurLimit(OurLimit::Dns),
            };
        }
        let mut target = self.exchangers[usize::from(domain)];
        if falls_back && life.fallback_after.is_some() {
            (target, life.fallback_after) = (0, None);
        }
        let message = &self.messages[&id];
        let flow = Flow { target, tenant: message.tenant, class: message.class };
        let (generation, resolved) = (self.generation, self.mono());
        let hop = Arc::clone(self.hops.entry(target).or_insert_with(|| hop(target)));
        let (lead, owner) = self.owners_of(shard, target, &hop);
        Resolution::Hop(Arc::new(Route {
            hop,
            flow,
            weight: 1,
            owner,
            lead,
            life,
            generation,
            resolved,
        }))
    }

    /// The lead and the owner of a destination for the mail of this home.
    fn owners_of(&self, shard: u16, target: u64, hop: &Hop) -> (ShardId, ShardId) {
        let (me, shards) = (ShardId(shard), usize::from(self.plan.shards));
        if self.plan.has_real_owners {
            let lead = stripe::lead(&hop.destination, shards);
            let policy = self.policy.destinations.policy(&hop.domain, &[]);
            return (lead, stripe::owner(lead, stripe::count(&policy, shards), me, shards));
        }
        let lead = ShardId((target % u64::from(self.plan.shards)) as u16);
        (lead, if target % 2 == 1 { me } else { lead })
    }

    /// How the servers of a destination behave now.
    fn peer(&self, target: u64) -> Peer {
        match (self.is_calm(), self.plan.peers[target as usize]) {
            (true, Peer::Slow) => Peer::Slow,
            (true, _) => Peer::Fast,
            (false, peer) => peer,
        }
    }

    fn read(&mut self, shard: u16, errand: Errand) {
        let partition = errand.partition();
        let free = self.after_hang(partition, self.now_ms);
        if free > self.now_ms {
            return self.process(free - self.now_ms, What::Disk(shard, errand));
        }
        if let Errand::Backlog { pass: Pass::Refile, until_ms, .. } = errand {
            assert_eq!(until_ms, u64::MAX, "all rows");
        }
        let is_failed = self.one_of(self.plan.abandoned.saturating_mul(3));
        let event = match errand {
            Errand::Jobs { jobs, .. } if is_failed && self.random.below(2) == 0 => {
                let unread = jobs.into_iter().map(|job| (job, Found::Unread));
                HomeEvent::Read { jobs: unread.collect() }
            }
            errand if is_failed => HomeEvent::Unread(errand),
            errand => {
                let store = &self.stores[usize::from(partition.0)];
                let (event, fault) = reading::read(store, errand, mail_of);
                assert!(fault.is_none(), "a model can be read: {fault:?}");
                event
            }
        };
        let after_ms = self.random.below(5);
        self.process(after_ms, What::Home(shard, event));
    }

    fn commit(&mut self, shard: u16, effect: HomeEffect) {
        match effect {
            HomeEffect::Write(write) => self.commit_write(shard, &write),
            HomeEffect::File { partition, jobs } => {
                let is_full = self.is_full(partition);
                let store = &mut self.stores[usize::from(partition.0)];
                let mut file = |job: &JobRef, schedule: &Schedule| {
                    let filing = Filing { job: job.key, filed: schedule.filed };
                    match is_full {
                        true => Written::DiskFull,
                        false if store.file(&[filing]) => Written::Done,
                        false => Written::NotFound,
                    }
                };
                let jobs = jobs.iter().map(|(job, schedule)| (*job, file(job, schedule)));
                let event = HomeEvent::Filed { jobs: jobs.collect() };
                self.process(0, What::Home(shard, event));
            }
            HomeEffect::Leftover { partition, row } => {
                self.stores[usize::from(partition.0)].remove_leftovers(&[row]);
            }
            other => panic!("{other:?} is no write"),
        }
    }

    fn commit_write(&mut self, shard: u16, write: &Arc<Write>) {
        let (id, number) = write.job.key;
        if self.is_full(id.partition()) {
            let event = HomeEvent::Written { job: write.job, written: Written::DiskFull };
            return self.process(0, What::Home(shard, event));
        }
        let store = &self.stores[usize::from(id.partition().0)];
        let stored = read_job(store, write.job.key, Messages::Leave).expect(READS);
        let Some(stored) = stored else {
            let event = HomeEvent::Written { job: write.job, written: Written::NotFound };
            return self.process(0, What::Home(shard, event));
        };
        let record = Job::decode(&stored.job).expect("it was checked");
        let own: Vec<u32> = record.recipients.iter().collect();
        let mut written = Written::Done;
        let change = match &write.next {
            Next::End => Some(JobChange::End),
            Next::Again(image) => Some(JobChange::Again(record_of(image))),
            Next::Split(parts) => Some(JobChange::Split(parts.iter().map(record_of).collect())),
            Next::Operation(operation) => {
                let now_ms = self.now_of(usize::from(shard)).schedule.as_ms();
                match operation.applied(&record, now_ms) {
                    Ok(Some(job)) => {
                        written = Written::Changed(job.schedule());
                        Some(JobChange::Again(JobRecord::new(&job).expect("it was encoded")))
                    }
                    Ok(None) => {
                        written = Written::Unchanged(Part::Already, record.schedule());
                        None
                    }
                    Err(fault) => {
                        let refusal = match fault {
                            OperationFault::NotHeld => Refusal::NotHeld,
                            OperationFault::Held => Refusal::Held,
                            other => panic!("{other:?}"),
                        };
                        written = Written::Unchanged(Part::Refused(refusal), record.schedule());
                        None
                    }
                }
            }
        };
        let mut reports = Vec::new();
        if !write.told.is_empty() && !self.messages[&id].is_report {
            reports.push(self.report(id));
        }
        let fresh: Vec<(MessageId, u64)> =
            reports.iter().map(|report| (report.id, report.job.schedule.due_ms)).collect();
        if let Some(change) = change {
            let is_order = matches!(write.next, Next::Operation(_)) || write.ticket.is_some();
            let (job, tally, keep_until_ms) = (number, write.tally, None);
            let events = EventList::default();
            let envelope = Some(write.mail.stored_envelope());
            let settlement = Settlement {
                id,
                job,
                change,
                reports,
                events,
                tally,
                is_order,
                keep_until_ms,
                envelope,
            };
            if !self.stores[usize::from(id.partition().0)].settle(&settlement) {
                written = Written::NotFound;
            }
        }
        if written == Written::Done {
            self.note_ends(write, &own);
            let tenant = self.messages[&id].tenant;
            for (id, _) in &fresh {
                let (domains, class) = (vec![0], Class::Normal);
                self.note_taken(*id, Message { domains, tenant, class, is_report: true });
                self.in_transit.insert((*id, 0));
            }
        }
        let answer = match self.one_of(self.plan.abandoned) {
            true => HomeEvent::Abandoned { jobs: vec![write.job] },
            false => HomeEvent::Written { job: write.job, written },
        };
        self.process(0, What::Home(shard, answer));
        if written == Written::Done {
            for (id, due_ms) in fresh {
                self.tell_fresh(shard, id, Wall::from_ms(due_ms));
            }
        }
    }

    fn report(&mut self, of: MessageId) -> Report {
        let p = usize::from(of.partition().0);
        let wall_ms = self.wall().as_ms();
        let id = self.ids[p].next_id(wall_ms);
        let due_ms = self.now_of(self.home_of(of)).schedule.as_ms();
        let text = b"A: report\r\n\r\ntext".to_vec();
        envelope(wall_ms, 1, |envelope| {
            Report::new(id, envelope, text, due_ms).expect("it is short")
        })
    }

    /// The final states that a write has recorded.
    fn note_ends(&mut self, write: &Write, own: &[u32]) {
        let id = write.job.key.0;
        let mut ended = Vec::new();
        match (&write.settled, &write.next) {
            (Some(settled), _) => {
                for (recipient, _) in &settled.ended.ends {
                    assert!(own.contains(&recipient.index), "an end of another job");
                    let end = match recipient.end {
                        End::Delivered => "delivered",
                        End::Failed => "bounced",
                        End::Deferred if settled.again.is_none() => "expired",
                        End::Deferred => continue,
                    };
                    ended.push((recipient.index, end));
                }
                if matches!(write.next, Next::End) {
                    assert_eq!(ended.len(), own.len(), "every recipient of the job has its end");
                }
            }
            (None, Next::End) => ended.extend(own.iter().map(|index| (*index, "cancelled"))),
            (None, _) => (),
        }
        for (index, end) in ended {
            let one = self.recipients.get_mut(&(id, index)).expect("it was accepted");
            assert!(one.end.is_none(), "{id:?} {index} ends twice: {:?}, {end}", one.end);
            one.end = Some((end, self.now_ms));
            one.is_open = false;
            self.open -= 1;
        }
    }

    fn operate(&mut self) {
        let Some(id) = self.some_message() else { return };
        let operation = match self.random.below(7) {
            0 => Operation::Hold,
            1 => Operation::Release,
            2 => Operation::Retry,
            3 => Operation::Bounce,
            4 => Operation::Delete,
            5 => Operation::Reroute(None),
            _ => Operation::Reroute(Some("smtp:a.test:25".into())),
        };
        self.order(id, operation);
    }

    fn some_message(&mut self) -> Option<MessageId> {
        let open = self.recipients.iter().filter(|(_, one)| one.end.is_none());
        let ids: BTreeSet<MessageId> = open.map(|((id, _), _)| *id).collect();
        let place = self.random.below(ids.len() as u64) as usize;
        ids.into_iter().nth(place)
    }

    fn order(&mut self, id: MessageId, operation: Operation) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.drive(self.home_of(id), HomeEvent::Operate { ticket, id, operation });
    }

    /// What is held at the end is released.
    fn release(&mut self) {
        let mut held = BTreeSet::new();
        for store in &self.stores {
            for (job, record) in store.family(Family::Job) {
                let record = Job::decode(&record).expect("it was encoded");
                if record.state == JobState::Held {
                    held.insert(key::job_of(&job).expect("the key of a job").0);
                }
            }
        }
        held.into_iter().for_each(|id| self.order(id, Operation::Release));
        self.later(600_000, Event::Release);
    }

    /// R4 against the stores.
    fn check_rows(&mut self) {
        for shard in 0..self.shards.len() {
            let schedule_ms = self.now_of(shard).schedule.as_ms();
            for (p, store) in self.stores.iter().enumerate() {
                if p % usize::from(self.plan.shards) != shard {
                    continue;
                }
                let due = store.family(Family::Due);
                let due = due.iter().filter_map(|(row, _)| key::due_of(row).map(Row::Due));
                let backlog = store.family(Family::Backlog);
                let backlog = backlog.iter();
                let backlog = backlog.filter_map(|(row, _)| key::backlog_of(row).map(Row::Backlog));
                for row in due.chain(backlog) {
                    let at_ms = match row {
                        Row::Due(row) => row.at_ms,
                        Row::Backlog(row) => row.due.at_ms,
                    };
                    let is_told = !self.in_transit.contains(&row.job());
                    let home = &self.shards[shard].home;
                    if at_ms <= schedule_ms && is_told {
                        assert!(home.covers(row), "{row:?} is due, and nobody will meet it");
                    }
                }
            }
        }
    }
}

const READS: &str = "a model can be read";

fn record_of(image: &JobImage) -> JobRecord {
    image.stored(|job| JobRecord::new(job).expect("it is short"))
}

fn mail_of(
    id: MessageId,
    envelope: Arc<[u8]>,
    message: Option<Arc<[u8]>>,
) -> Result<Mail, RecordFault> {
    let public_id = PublicId { local: id, spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(message.unwrap_or_default());
    Mail::new(public_id, envelope, body)
}
