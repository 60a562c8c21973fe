//! Group commit: turns orders into durable writes.
//!
//! Owner:    the commit thread, which alone writes the partition while mail is accepted.
//! Promise:  an order is answered `Ok` only when its batch was written, and synced if it held a
//!           message. All waiting orders share one batch: the higher the load, the fewer syncs per
//!           message.
//! Order:    take one order, drain the lane, one batch, one write, answers, one wake-up.
//! Bounds:   `COMMIT_BATCH_MESSAGES_MAX` and `COMMIT_BATCH_BYTES_MAX` per batch; a `FinishAll` larger
//!           than that is a batch of its own.
//! Fatal:    a write that failed for any cause but a full disk. Every order from then on is answered
//!           `Failed`, and `on_fatal` is called once, so that the process can end.
//!
//! The thread reads the clock itself, before and after each write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rocksdb::WriteOptions;

use crate::base::limits::COMMIT_BATCH_BYTES_MAX;
use crate::base::limits::COMMIT_BATCH_MESSAGES_MAX;
use crate::queue::cause::Cause;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Done;
use crate::queue::commit::lane::Lane;
use crate::queue::commit::lane::NoSender;
use crate::queue::commit::lane::Orders;
use crate::queue::commit::lane::Work;
use crate::queue::commit::plan::Plan;
use crate::queue::commit::remains::Remains;
use crate::queue::commit::taken::Taken;
use crate::queue::commit::taken::Target;
use crate::queue::commit::taken::answer;
use crate::queue::commit::thread_end::OnFatal;
use crate::queue::commit::thread_end::ThreadEnd;
use crate::queue::fault::CommitFault;
use crate::queue::points::point;
use crate::queue::points::store_fault;
use crate::queue::store::families::StoreBatch;
use crate::queue::store::partition::Partition;
use crate::queue::store::room::Room;

/// Remains of streams that are kept for removal while the disk stays full: RocksDB refuses before it
/// writes, so nothing else can be left. The batch that found it full adds all of its own to them.
const REMAINS_MAX: usize = 2 * COMMIT_BATCH_MESSAGES_MAX;

/// How long events may wait for a sync that other orders of the partition make.
const EVENTS_UNSYNCED_MAX: Duration = Duration::from_millis(500);

/// Settlements of one batch after which other orders go first.
const SETTLES_FIRST_MAX: usize = COMMIT_BATCH_MESSAGES_MAX / 4 * 3;

pub(super) struct BatchWriter {
    lane: Arc<Lane>,
    partition: Arc<Partition>,
    on_fatal: OnFatal,
    synced: WriteOptions,
    unsynced: WriteOptions,
    room: Room,
    /// A removal that must begin the next batch: it cannot see the writes of other orders of a batch.
    held: Option<Work>,
    taken: Vec<Taken>,
    taken_bytes: usize,
    remains: Vec<Remains>,
    /// The last write found the disk full.
    full: bool,
    /// Where the numbers end that the last write has given to events, and those of writes that found
    /// the disk full.
    events_planned: u64,
    events_tried: u64,
    /// Since when events are written and not synced.
    unsynced_since: Option<Instant>,
}

impl BatchWriter {
    pub(super) fn new(
        lane: Arc<Lane>,
        partition: Arc<Partition>,
        on_fatal: OnFatal,
    ) -> BatchWriter {
        BatchWriter {
            lane,
            synced: partition.synced(),
            unsynced: partition.unsynced(),
            room: Room::of(partition.db()),
            partition,
            on_fatal,
            held: None,
            taken: Vec::new(),
            taken_bytes: 0,
            remains: Vec::new(),
            full: false,
            events_planned: 0,
            events_tried: 0,
            unsynced_since: None,
        }
    }

    pub(super) fn run(mut self, orders: &Orders) {
        let _end = ThreadEnd { lane: Arc::clone(&self.lane), on_fatal: Arc::clone(&self.on_fatal) };
        let mut stop = false;
        while !stop {
            let sync_at = self.unsynced_since.map(|since| since + EVENTS_UNSYNCED_MAX);
            if sync_at.is_some_and(|at| at <= Instant::now()) {
                self.sync_events();
                continue;
            }
            let first = match self.held.take() {
                Some(held) => Ok(Some(held)),
                None => orders.wait(sync_at),
            };
            match first {
                Ok(Some(first)) => {
                    stop = self.take(first, orders);
                    self.commit();
                }
                // It is time for a sync.
                Ok(None) => (),
                Err(NoSender) => break,
            }
        }
        self.sync_events();
        // Orders that came after `Stop`.
        while let Some(work) = orders.next(true) {
            self.lane.complete(answer(work, Err(CommitFault::Stopped)));
        }
    }

    /// Fills `taken` with the orders of one batch. Returns whether `Stop` was among them.
    fn take(&mut self, first: Work, orders: &Orders) -> bool {
        self.taken_bytes = 0;
        let (mut settles, mut jobs) = (0, 0);
        let mut next = Some(first);
        while let Some(work) = next {
            match &work.order {
                CommitOrder::Stop => {
                    // Urgent orders that came before `Stop`.
                    let urgent = std::iter::from_fn(|| orders.next_urgent());
                    self.taken.extend(urgent.map(Taken::new));
                    return true;
                }
                CommitOrder::Delete(_) if !self.taken.iter().all(Taken::is_deletion) => {
                    self.held = Some(work);
                    break;
                }
                CommitOrder::Settle(_) => settles += 1,
                CommitOrder::File(filings) => jobs += filings.len(),
                _ => (),
            }
            let taken = Taken::new(work);
            self.taken_bytes += taken.bytes();
            self.taken.push(taken);
            if self.taken.len() + jobs >= COMMIT_BATCH_MESSAGES_MAX
                || self.taken_bytes >= COMMIT_BATCH_BYTES_MAX
            {
                break;
            }
            next = orders.next(settles < SETTLES_FIRST_MAX);
        }
        false
    }

    /// Writes one batch, answers each of its orders, and wakes the shard once.
    fn commit(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        point("commit::before_batch");
        self.lane.counts.orders.fetch_add(self.taken.len() as u64, Ordering::Relaxed);
        self.lane.begin_batch();
        let outcome = match self.lane.fault() {
            Some(CommitFault::Failed) => Err(CommitFault::Failed),
            _ => self.write(),
        };
        self.lane.end_batch();
        point("commit::before_ring");
        let mut has_led = false;
        for Taken { work, target } in self.taken.drain(..) {
            let leads = !has_led && work.order.is_accept();
            has_led |= leads;
            let outcome = match (outcome, target) {
                (Ok(_), Target::Unread) => Err(CommitFault::Failed),
                _ => outcome.map(|done| Done { found: target == Target::There, leads, ..done }),
            };
            self.lane.complete(answer(work, outcome));
        }
        self.lane.ring();
        point("commit::after_ring");
    }

    fn write(&mut self) -> Result<Done, CommitFault> {
        loop {
            match self.try_write() {
                // Planned anew, because RocksDB has consumed the batch.
                Err(text) if self.room.may_come_after(self.partition.db(), &text) => (),
                done => return done.map_err(|text| self.on_failed(text)),
            }
        }
    }

    fn try_write(&mut self) -> Result<Done, String> {
        let capacity = self.taken_bytes + ENTRY_BYTES;
        let partition = Arc::clone(&self.partition);
        let mut batch = StoreBatch::new(partition.families(), capacity);
        let (plan, unread) = self.plan(&mut batch);
        self.events_planned = plan.ledger.events;
        let names = if plan.is_synced { COMMIT_POINTS } else { STREAM_POINTS };
        let options = if plan.is_synced { &self.synced } else { &self.unsynced };
        point(names.before);
        pass(&plan, &BEFORE_WRITE);
        let begun = Instant::now();
        let written = match store_fault(names.error) {
            Some(text) => Err(text),
            None => {
                let written = partition.db().write_opt(batch.into_writes(), options);
                written.map_err(|cause| cause.into_string())
            }
        };
        let write_us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        written?;
        if let Some(text) = store_fault("commit::error_after_write") {
            return Err(text);
        }
        point(names.after);
        pass(&plan, &AFTER_WRITE);
        self.on_written(&plan, write_us);
        if let Some(text) = unread {
            self.fail(text);
        }
        Ok(Done { write_us, batch: plan.messages, ..Done::default() })
    }

    /// Plans all orders, and the removal of what failed batches have left, as one batch. The text says
    /// why a record cannot be read, if an order depends on one.
    fn plan(&mut self, batch: &mut StoreBatch<'_>) -> (Plan, Option<String>) {
        let mut plan = Plan::new(self.partition.ledger());
        let mut unread = None;
        self.remains.iter().for_each(|remains| remains.put_removal(batch));
        if self.events_tried > plan.ledger.events {
            batch.remove_events(plan.ledger.events, self.events_tried);
        }
        for taken in &mut self.taken {
            if let Err(text) = taken.plan(&self.partition, batch, &mut plan) {
                unread = Some(text);
            }
        }
        plan.end(batch);
        (plan, unread)
    }

    fn on_written(&mut self, plan: &Plan, write_us: u32) {
        (self.full, self.events_tried) = (false, 0);
        self.room.note_written(self.partition.db());
        self.remains.clear();
        self.partition.set_ledger(plan.ledger, plan.is_synced);
        if plan.is_synced {
            self.partition.note_synced(plan.ledger.events);
            self.unsynced_since = None;
        } else if plan.has_events() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.partition.count_in(plan.messages.into(), plan.body_bytes);
        self.partition.count_out(plan.removed_messages, plan.removed_bytes);
        let counts = &self.lane.counts;
        counts.batches.fetch_add(1, Ordering::Relaxed);
        counts.syncs.fetch_add(plan.is_synced.into(), Ordering::Relaxed);
        counts.messages.fetch_add(plan.messages.into(), Ordering::Relaxed);
        counts.chunks.fetch_add(plan.chunks.into(), Ordering::Relaxed);
        counts.write_us.fetch_add(write_us.into(), Ordering::Relaxed);
    }

    /// Makes events durable whose batch was not synced. Nobody waits for it: after a fault the next
    /// write meets the same disk.
    fn sync_events(&mut self) {
        if self.unsynced_since.take().is_some() && self.lane.fault() != Some(CommitFault::Failed) {
            match self.partition.sync_log() {
                Ok(()) => self.partition.note_synced(self.partition.ledger().events),
                Err(cause) => drop(self.on_failed(cause.into_string())),
            }
        }
    }

    fn on_failed(&mut self, text: String) -> CommitFault {
        let (cause, counts) = (Cause::of(&text), &self.lane.counts);
        let faults = match cause {
            Cause::DiskFull => &counts.faults_no_space,
            Cause::Damage => &counts.faults_damage,
            Cause::Permission | Cause::Lock | Cause::Foreign | Cause::Other => &counts.faults_other,
        };
        faults.fetch_add(1, Ordering::Relaxed);
        if cause == Cause::DiskFull {
            self.keep_remains();
            self.events_tried = self.events_tried.max(self.events_planned);
            self.full = true;
            return CommitFault::SpoolFull;
        }
        self.fail(text);
        CommitFault::Failed
    }

    /// From here on the partition accepts no order in this process.
    fn fail(&self, text: String) {
        if Cause::of(&text) == Cause::Damage {
            self.partition.note_unreadable(&text);
        }
        self.lane.set_failed();
        (self.on_fatal)(self.lane.partition, &text);
        self.partition.set_failure(text);
    }

    /// Notes what the failed batch may have left behind. The first write that finds the disk full may
    /// be in the log in part or whole. RocksDB refuses later ones before it writes, but chunks that
    /// were streamed before are stored.
    fn keep_remains(&mut self) {
        for taken in &self.taken {
            let remains = taken.remains(&self.partition, self.full);
            // Past the bound the remains of a stream wait for recovery, which knows its mark. A
            // message without a mark would be taken for accepted, so none of those is left out.
            let room = match self.full {
                true => REMAINS_MAX.saturating_sub(self.remains.len()),
                false => usize::MAX,
            };
            self.remains.extend(remains.into_iter().take(room));
        }
    }
}

/// Space in a batch for keys and uncounted records.
const ENTRY_BYTES: usize = 16 << 10;

struct Points {
    before: &'static str,
    after: &'static str,
    error: &'static str,
}

const COMMIT_POINTS: Points =
    Points { before: "commit::before_write", after: "commit::after_write", error: "commit::error" };

const STREAM_POINTS: Points =
    Points { before: "stream::before_write", after: "stream::after_write", error: "stream::error" };

/// Failpoints of a batch that contains a settlement, a split, another try, a report, or a filing.
const BEFORE_WRITE: [&str; 5] = [
    "settle::before_write",
    "split::before_write",
    "again::before_write",
    "report::before_write",
    "file::before_write",
];

const AFTER_WRITE: [&str; 5] = [
    "settle::after_write",
    "split::after_write",
    "again::after_write",
    "report::after_write",
    "file::after_write",
];

fn pass(plan: &Plan, [settle, split, again, report, file]: &[&'static str; 5]) {
    let met = [
        (plan.settled > 0, settle),
        (plan.has_splits(), split),
        (plan.again > 0, again),
        (plan.reports > 0, report),
        (plan.filed > 0, file),
    ];
    met.into_iter().filter(|(met, _)| *met).for_each(|(_, name)| point(name));
}
