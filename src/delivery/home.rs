//! The home side of delivery: the jobs of the partitions that live on this shard.
//!
//! Owner:    one shard. A value without I/O, clock and callbacks: `on` takes an event and the time, and
//!           lists effects; `run` carries them out and answers with events.
//! Promise:  `check` asserts after every event of the simulation:
//!           R1 A job enters the map before its record is read, the parts of a split before the split
//!              is written. A key that is in the map is not read or admitted a second time.
//!           R2 Record and rows of a job change only while its entry is `Writing`, and an entry has
//!              one write under way at most.
//!           R3 The record decides: a row that its record does not have is a leftover.
//!           R4 A row that has come due lies at or after its cursor, or its job is in the map. Who
//!              takes a job out of the map without its end tells the cursors.
//!           R5 Each effect has an incarnation, and its answer names it. An answer for another one is
//!              dropped and counted.
//!           R6 No timer issues a job again. Only the word of its owner does.
//! Order:    claim, read, resolve, wait for a place, send; then outcome, write, forget.
//! Bounds:   memory in bytes; `CLAIMS_MAX` jobs that are read or resolved, `LOOKUPS_MAX` of them in DNS
//!           for less than `LOOKUP_QUICK`, `LOOKUPS_OUT_MAX` in DNS in all, and with those that wait for
//!           that `LOOKUPS_WAITING_MAX`; places at owners; no more than `WRITES_MAX` writes for mail
//!           that expires at once. Full: cursors wait, and fresh mail stays in `due`.

mod deadlines;
mod entering;
mod flows;
mod map;
mod operating;
mod sending;
mod time;
mod writing;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::IdMap;
use crate::base::MessageId;
use crate::base::Mono;
use crate::base::PartitionId;
use crate::base::ShardId;
use crate::base::Wall;
use crate::base::limits::LOOKUPS_OUT_MAX;
use crate::delivery::credit::Places;
use crate::delivery::credit::Target;
use crate::delivery::credit::ZERO_PATIENCE;
use crate::delivery::event::Errand;
use crate::delivery::event::Found;
use crate::delivery::event::HomeEffect;
use crate::delivery::event::HomeEvent;
use crate::delivery::event::HomePolicy;
use crate::delivery::event::Note;
use crate::delivery::event::Pass;
use crate::delivery::event::Written;
use crate::delivery::fair::ConnectionClass;
use crate::delivery::fair::FairQueue;
use crate::delivery::fair::Origin;
use crate::delivery::fair::Slot;
use crate::delivery::job::Deadlines;
use crate::delivery::job::Head;
use crate::delivery::job::JOB_BYTES;
use crate::delivery::job::Job;
use crate::delivery::job::Life;
use crate::delivery::job::Lookup;
use crate::delivery::job::Need;
use crate::delivery::job::Now;
use crate::delivery::job::Pending;
use crate::delivery::job::Resolution;
use crate::delivery::job::Resolved;
use crate::delivery::job::Route;
use crate::delivery::job::State;
use crate::delivery::job::Writing;
use crate::delivery::operation::Operations;
use crate::delivery::operation::PATIENCE;
use crate::delivery::operation::Part;
use crate::delivery::operation::Refusal;
use crate::delivery::operation::Step;
use crate::delivery::schedule::Cursor;
use crate::delivery::schedule::Flows;
use crate::delivery::schedule::Memory;
use crate::delivery::settle::Context;
use crate::delivery::settle::DISTRUST;
use crate::delivery::settle::Rules;
use crate::delivery::write::Ended;
use crate::delivery::write::JobImage;
use crate::delivery::write::Next;
use crate::delivery::write::Write;
use crate::handoff::frame::Answer;
use crate::handoff::frame::End;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Flow;
use crate::handoff::frames::Frame;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::Incarnation;
use crate::handoff::frames::JobKey;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::Mail;
use crate::handoff::frames::OurLimit;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::record::job::Filed;
use crate::queue::record::job::JobState;
use crate::queue::record::job::Schedule;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::record::rows::Row;
use crate::queue::record::rows::rows_of;
use crate::wire::classify::Cause;

/// Quick lookups under way, and jobs that are read or resolved, slow lookups not counted.
pub const LOOKUPS_MAX: usize = 64;
pub const CLAIMS_MAX: usize = 1024 + LOOKUPS_MAX;
/// A lookup that has been out for longer is slow: it gives up its place among the quick ones. Nearly
/// all domains that answer do so within a second, and of those that do not, 64 a second are passed: 15
/// seconds of that are within `LOOKUPS_OUT_MAX`, and a lookup without an answer takes 10 by default.
const LOOKUP_QUICK: Duration = Duration::from_secs(1);
/// While so many jobs are read, resolved or wait for a lookup, no other job enters for a lookup. Then
/// those that have waited for `LOOKUP_PATIENCE` are put aside for `LOOKUP_PAUSE`, so that mail whose
/// route is known is not kept from memory by domains whose DNS is silent.
pub const LOOKUPS_WAITING_MAX: usize = 4096;
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);
const LOOKUP_PAUSE: Duration = Duration::from_secs(60);
/// While so many jobs are written, cursors and deadlines wait: a report that waits for memory is a task
/// of several KiB.
const WRITES_MAX: usize = 2048;
/// Keys of one reading, and jobs of one reading.
pub const KEYS_MAX: usize = 256;
pub const READ_MAX: usize = 64;
/// Readings of flows under way.
const FLOW_READS_MAX: usize = 4;
/// Jobs that are filed in one order, and how long the first of them waits for others.
pub const FILE_MAX: usize = 256;
const FILE_WAIT: Duration = Duration::from_millis(20);
/// Parts that one split makes. The last part holds the rest, and is split again.
pub const PARTS_MAX: usize = 256;
/// How old a route may be when a job is sent.
const ROUTE_AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// After a fault of the store, and after a bug.
const FAULT_WAIT: Duration = Duration::from_secs(60);
/// A full disk, and a write whose task was ended by a bug.
const WRITE_WAIT: Duration = Duration::from_secs(1);
/// How long a partition counts as behind after an owner has found it so.
const BEHIND_WAIT: Duration = Duration::from_millis(20);
/// How often jobs that are out, or wait for long, are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// An owner is asked about jobs that are out for so long, and mail that waits so long beyond the
/// places of its flow is filed.
pub const CHECK_AFTER: Duration = Duration::from_secs(60);
const WAIT_PATIENCE: Duration = Duration::from_secs(60);
const CHECK_JOBS_MAX: usize = 1024;
/// A lookup for which we lacked something is begun again after this time, doubled up to the second.
const LACK_FIRST: Duration = Duration::from_millis(50);
const LACK_MAX: Duration = Duration::from_secs(2);
/// A destination without jobs is forgotten, sooner if there are many, and within a second if there is
/// no memory for fresh mail and destinations have a quarter of it.
const TARGET_IDLE: Duration = Duration::from_secs(10 * 60);
const TARGETS_MANY: usize = 10_000;
const TARGET_IDLE_CROWDED: Duration = Duration::from_secs(10);
/// A step of the clock after which it is not trusted for `DISTRUST`.
pub const CLOCK_STEP: Duration = Duration::from_secs(5 * 60);
/// Memory of a destination, with its route and the tables of its queue.
const TARGET_BYTES: usize = 2 << 10;
/// What a job of a flow takes in memory, for a guess.
const JOB_GUESS_BYTES: usize = 4 << 10;
/// A sender with fewer jobs in a queue keeps them in memory when its flow is full: the backlog on disk
/// knows no senders, and its turn would be behind all of it.
const LIGHT_SENDER_JOBS: usize = 16;
/// How long a flow waits that found no memory, if nothing of it ends meanwhile.
const STARVED_WAIT: Duration = Duration::from_secs(1);

/// What a lookup is about.
#[derive(Debug)]
pub struct Question<'h> {
    pub mail: &'h Arc<Mail>,
    pub recipients: &'h [u32],
    pub next_hop: Option<&'h str>,
    /// Whether the time of the fallback relay has come.
    pub falls_back: bool,
}

/// A partition that lives here.
#[derive(Debug, Default)]
struct Own {
    cursor: Cursor,
    /// The outcomes of its deliveries wait for the disk.
    is_behind: bool,
    behind_until: Mono,
    /// Nothing can be written any more.
    is_failed: bool,
    /// Jobs that had their turn while it was behind.
    hidden: Vec<JobRef>,
    /// A search for flows is under way.
    is_searching: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Again(JobRef),
    /// The patience of a job that waits for a lookup.
    Lookup(JobRef),
    Target(u64),
    /// Flows that found no memory.
    Starved,
    /// A flow whose part of the store could not be read.
    Flow(FlowKey),
    Behind(PartitionId),
    Operation(u64),
    File,
    Sweep,
}

/// A pass over filed jobs whose flow may be another by now.
#[derive(Debug, Default)]
struct Refiling {
    /// The flows that are left, and where to begin in them.
    left: VecDeque<(FlowKey, PartitionId, DueKey)>,
    known: HashSet<FlowKey>,
    /// Jobs of the last reading that have not been judged.
    open: usize,
    is_reading: bool,
    /// It goes over all flows, and its end is stored.
    is_whole: bool,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers for another incarnation.
    pub stale: u64,
    /// Jobs that an owner did not know.
    pub missing: u64,
    /// Jobs that entered the map.
    pub claimed: u64,
    pub filed: u64,
    pub leftovers: u64,
}

pub struct Home {
    me: ShardId,
    policy: HomePolicy,
    jobs: IdMap<JobKey, Job>,
    targets: IdMap<u64, Target>,
    partitions: BTreeMap<PartitionId, Own>,
    flows: Flows,
    memory: Memory,
    deadlines: BTreeSet<(Wall, JobKey)>,
    timers: BTreeSet<(Mono, Timer)>,
    lookups: FairQueue<JobRef>,
    lookups_under_way: usize,
    /// Those of them that began within the last `LOOKUP_QUICK`.
    quick: BTreeSet<(Mono, JobKey)>,
    flow_reads: usize,
    starved: BTreeSet<FlowKey>,
    filing: Vec<JobRef>,
    /// Messages of which a job is being split, and the jobs that wait for it.
    splits: IdMap<MessageId, Vec<JobRef>>,
    refiling: Refiling,
    operations: Operations,
    counts: Counts,
    /// Jobs that are read or resolved, wait for a lookup, are out, and written.
    claims: usize,
    queued: usize,
    out: usize,
    writing: usize,
    last_incarnation: u32,
    random: u64,
    now: Now,
    /// The clock has jumped: nothing is given up for its age until then.
    trust_at: Mono,
    started: Wall,
    is_closing: bool,
    effects: Vec<HomeEffect>,
}

impl Home {
    pub fn new(
        me: ShardId,
        partitions: impl IntoIterator<Item = PartitionId>,
        policy: HomePolicy,
        now: Now,
    ) -> Home {
        let partitions = partitions.into_iter().map(|id| (id, Own::default())).collect();
        let memory = Memory::new(policy.memory_max);
        Home {
            me,
            policy,
            jobs: IdMap::default(),
            targets: IdMap::default(),
            partitions,
            flows: Flows::default(),
            memory,
            deadlines: BTreeSet::new(),
            timers: BTreeSet::from([(now.mono.plus(SWEEP_EVERY), Timer::Sweep)]),
            lookups: FairQueue::default(),
            lookups_under_way: 0,
            quick: BTreeSet::new(),
            flow_reads: 0,
            starved: BTreeSet::new(),
            filing: Vec::new(),
            splits: IdMap::default(),
            refiling: Refiling::default(),
            operations: Operations::default(),
            counts: Counts::default(),
            claims: 0,
            queued: 0,
            out: 0,
            writing: 0,
            last_incarnation: 0,
            random: now.wall.as_ms() ^ u64::from(me.0) << 48,
            now,
            trust_at: Mono::ZERO,
            started: now.schedule,
            is_closing: false,
            effects: Vec::new(),
        }
    }

    pub fn on(&mut self, event: HomeEvent, now: Now, effects: &mut Vec<HomeEffect>) {
        self.note_time(now);
        match event {
            HomeEvent::Start { refile } => self.start(refile),
            HomeEvent::Fresh { mail, recipients, due } => self.take_fresh(mail, recipients, due),
            HomeEvent::Due { partition, rows, next_ms } => self.on_due(partition, &rows, next_ms),
            HomeEvent::Backlog { partition, flow, pass, rows, next_ms } => {
                self.on_backlog((partition, flow, pass), &rows, next_ms);
            }
            HomeEvent::Flows { partition, flows, is_end } => {
                flows.iter().for_each(|row| self.tell_flow(partition, *row));
                self.on_found(partition, flows.last().map(|row| row.flow), is_end);
            }
            HomeEvent::Unread(errand) => self.on_unread(errand),
            HomeEvent::Read { jobs } => {
                jobs.into_iter().for_each(|(job, found)| self.on_read(job, found));
            }
            HomeEvent::Resolved { job, generation, resolved } => {
                self.on_resolved(job, generation, resolved);
            }
            HomeEvent::Unknown { job } => self.on_unknown(job),
            HomeEvent::Numbers { job, numbers } => self.on_numbers(job, numbers),
            HomeEvent::Settle(outcome) => self.on_outcome(outcome),
            HomeEvent::Frame(Frame::Grant { target, from, total, per_flow, state }) => {
                self.on_grant(target, from, Places { total, per_flow }, state);
            }
            HomeEvent::Frame(Frame::Missing { jobs }) => self.on_missing(&jobs),
            // The owner side takes all the others.
            HomeEvent::Frame(_) => (),
            HomeEvent::Written { job, written } => self.on_written(job, written),
            HomeEvent::Filed { jobs } => {
                jobs.into_iter().for_each(|(job, written)| self.on_written(job, written));
            }
            HomeEvent::Operate { ticket, id, operation } => self.operate(ticket, id, operation),
            HomeEvent::Listed { ticket, numbers } => self.on_listed(ticket, &numbers),
            HomeEvent::Removed { ticket, removed } => {
                let step = match removed {
                    true => self.operations.end(ticket, Ok(Carried::Done)),
                    false => self.operations.none_found(ticket),
                };
                self.follow(ticket, step);
            }
            HomeEvent::Reload { policy, refile } => self.reload(policy, refile),
            HomeEvent::Behind { partition, is_behind } => self.on_behind(partition, is_behind),
            HomeEvent::Abandoned { jobs } => {
                jobs.into_iter().for_each(|job| self.on_abandoned(job));
            }
            HomeEvent::Drain => self.drain(),
            HomeEvent::Tick => (),
        }
        self.proceed();
        effects.append(&mut self.effects);
    }

    /// What a job asks for its route. `None`: nobody needs it any more.
    pub fn question(&self, job: JobRef) -> Option<Question<'_>> {
        let job = self.known(job)?;
        job.is_looking_up().then(|| Question {
            mail: job.mail(),
            recipients: &job.recipients,
            next_hop: job.head.next_hop.as_deref(),
            falls_back: job.head.falls_back,
        })
    }

    /// Whether the body of a message that is being committed may be held.
    pub fn wants(&self, bytes: u64) -> bool {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        !self.is_closing && self.policy.enabled && self.memory.takes_fresh(bytes)
    }

    /// Lookups that begin before this one.
    pub fn lookups_before(&self, slot: Slot) -> usize {
        self.lookups.ahead_of(slot).unwrap_or(0)
    }

    pub fn job(&self, key: JobKey) -> Option<&Job> {
        self.jobs.get(&key)
    }

    pub fn target(&self, target: u64) -> Option<&Target> {
        self.targets.get(&target)
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Jobs in memory, and jobs that are out.
    pub fn figures(&self) -> (usize, usize) {
        (self.jobs.len(), self.out)
    }

    /// Nothing is out, and nothing is being written.
    pub fn is_drained(&self) -> bool {
        self.is_closing && self.out + self.writing == 0
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(in crate::delivery) mod tests;
