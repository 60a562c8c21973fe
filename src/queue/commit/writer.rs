//! Group commit: turns orders into durable writes.
//!
//! Owner:    the commit thread, which alone writes the partition while mail is accepted.
//! Promise:  an order is answered `Ok` only when its batch was written, and synced if it held a
//!           message. Everything that waits is joined to one batch: more load, fewer syncs.
//! Order:    take one order, drain the lane, one batch, one write, answers, one wake-up.
//! Bounds:   `COMMIT_BATCH_MESSAGES_MAX` and `COMMIT_BATCH_BYTES_MAX` per batch; a `FinishAll` larger
//!           than that is a batch of its own.
//! Fatal:    a write that failed for any cause but a full disk. Every order from then on is answered
//!           `Failed`, and `on_fatal` is called once, so that the process can end.
//!
//! The thread reads the clock itself, twice per batch: only it knows when its write began and ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rocksdb::WriteBatch;
use rocksdb::WriteOptions;

use crate::base::MessageId;
use crate::base::limits::COMMIT_BATCH_BYTES_MAX;
use crate::base::limits::COMMIT_BATCH_MESSAGES_MAX;
use crate::queue::cause::Cause;
use crate::queue::commit::batch::AFTER_WRITE;
use crate::queue::commit::batch::BEFORE_WRITE;
use crate::queue::commit::batch::Gathered;
use crate::queue::commit::batch::settle;
use crate::queue::commit::goodbye::Goodbye;
use crate::queue::commit::goodbye::OnFatal;
use crate::queue::commit::lane::Back;
use crate::queue::commit::lane::Completion;
use crate::queue::commit::lane::Done;
use crate::queue::commit::lane::Lane;
use crate::queue::commit::lane::Order;
use crate::queue::commit::lane::Orders;
use crate::queue::commit::lane::Work;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::remains::Remains;
use crate::queue::commit::remains::put_removal;
use crate::queue::commit::remains::remains_of;
use crate::queue::commit::remains::remains_of_parcel;
use crate::queue::fault::CommitFault;
use crate::queue::fault::QueueFault;
use crate::queue::points::point;
use crate::queue::points::store_fault;
use crate::queue::record::key;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::record::stream::STREAM_MARK_LEN;
use crate::queue::record::stream::StreamMark;
use crate::queue::store::families::Families;
use crate::queue::store::partition::Partition;
use crate::queue::store::room::Room;

/// Remains of streams that are kept for removal while the disk stays full: RocksDB refuses before it
/// writes, so nothing else can be left. The batch that found it full adds all of its own to them.
const REMAINS_MAX: usize = 2 * COMMIT_BATCH_MESSAGES_MAX;

/// Settlements of one batch past which other orders come first.
const SETTLES_FIRST_MAX: usize = COMMIT_BATCH_MESSAGES_MAX / 4 * 3;

/// One order, and whether its message or job was found.
struct Taken {
    work: Work,
    found: Target,
}

impl Taken {
    fn is_deletion(&self) -> bool {
        matches!(self.work.order, Order::Delete(_))
    }
}

/// Whether a deletion or a settlement finds its message or job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Gone,
    There,
    /// The store could not say. The order is not carried out, and the partition fails: taken for
    /// gone, the job would be sent again after a restart.
    Unread,
}

impl Target {
    fn of(found: bool) -> Target {
        if found { Target::There } else { Target::Gone }
    }
}

pub(super) struct BatchWriter {
    lane: Arc<Lane>,
    partition: Arc<Partition>,
    on_fatal: OnFatal,
    synced: WriteOptions,
    unsynced: WriteOptions,
    room: Room,
    /// A removal comes first in its batch: it could not see what other orders of the batch write.
    held: Option<Work>,
    taken: Vec<Taken>,
    taken_bytes: usize,
    remains: Vec<Remains>,
    /// The last write found the disk full.
    full: bool,
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
        }
    }

    pub(super) fn run(mut self, orders: &Orders) {
        let _goodbye =
            Goodbye { lane: Arc::clone(&self.lane), on_fatal: Arc::clone(&self.on_fatal) };
        let mut stop = false;
        while !stop {
            let Some(first) = self.held.take().or_else(|| orders.wait()) else { break };
            stop = self.take(first, orders);
            self.commit();
        }
        // Orders that came after `Stop`.
        while let Some(work) = orders.next(true) {
            self.lane.complete(answer(work, Err(CommitFault::Stopped)));
        }
    }

    /// Fills `taken` with the orders of one batch. Returns whether `Stop` was among them.
    fn take(&mut self, first: Work, orders: &Orders) -> bool {
        self.taken_bytes = 0;
        let mut settles = 0;
        let mut next = Some(first);
        while let Some(work) = next {
            match &work.order {
                Order::Stop => {
                    // Urgent orders that came before it.
                    let urgent = std::iter::from_fn(|| orders.next_urgent());
                    self.taken.extend(urgent.map(|work| Taken { work, found: Target::Gone }));
                    return true;
                }
                Order::Delete(_) if !self.taken.iter().all(Taken::is_deletion) => {
                    self.held = Some(work);
                    break;
                }
                Order::Chunk { slice, .. } => self.taken_bytes += slice.len(),
                Order::Finish(parcel) => self.taken_bytes += parcel.bytes(),
                Order::FinishAll(parcels) => {
                    self.taken_bytes += parcels.iter().map(Parcel::bytes).sum::<usize>();
                }
                Order::Settle(settlement) => {
                    self.taken_bytes += settlement.bytes();
                    settles += 1;
                }
                Order::Abort { .. } | Order::Delete(_) => (),
            }
            self.taken.push(Taken { work, found: Target::Gone });
            if self.taken.len() >= COMMIT_BATCH_MESSAGES_MAX
                || self.taken_bytes >= COMMIT_BATCH_BYTES_MAX
            {
                break;
            }
            next = orders.next(settles < SETTLES_FIRST_MAX);
        }
        false
    }

    /// One batch, one write, one answer each, one ring.
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
        for Taken { work, found } in self.taken.drain(..) {
            let leads = !has_led && matches!(work.order, Order::Finish(_) | Order::FinishAll(_));
            has_led |= leads;
            let outcome = match (outcome, found) {
                (Ok(_), Target::Unread) => Err(CommitFault::Failed),
                _ => outcome.map(|done| Done { found: found == Target::There, leads, ..done }),
            };
            self.lane.complete(answer(work, outcome));
        }
        self.lane.ring();
        point("commit::after_ring");
    }

    fn write(&mut self) -> Result<Done, CommitFault> {
        loop {
            match self.try_write() {
                // Gathered anew: RocksDB has eaten the batch.
                Err(text) if self.room.may_come_after(self.partition.db(), &text) => (),
                done => return done.map_err(|text| self.on_failed(text)),
            }
        }
    }

    fn try_write(&mut self) -> Result<Done, String> {
        let mut batch = WriteBatch::with_capacity_bytes(self.taken_bytes + ENTRY_BYTES);
        let gathered = self.gather(&mut batch);
        let names = if gathered.synced { COMMIT_POINTS } else { STREAM_POINTS };
        let options = if gathered.synced { &self.synced } else { &self.unsynced };
        point(names.before);
        gathered.pass(&BEFORE_WRITE);
        let begun = Instant::now();
        let written = match store_fault(names.error) {
            Some(text) => Err(text),
            None => self.partition.db().write_opt(batch, options).map_err(|e| e.into_string()),
        };
        let write_us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        match written {
            Ok(()) => {
                point(names.after);
                gathered.pass(&AFTER_WRITE);
                self.on_written(&gathered, write_us);
                if let Some(text) = gathered.unread {
                    self.fail(text);
                }
                Ok(Done { write_us, batch: gathered.messages, ..Done::default() })
            }
            Err(text) => Err(text),
        }
    }

    /// Puts every order taken, and the removal of what failed batches left, into one batch.
    fn gather(&mut self, batch: &mut WriteBatch) -> Gathered {
        let before = self.partition.ledger();
        let mut gathered = Gathered { ledger: before, ..Gathered::default() };
        let families = self.partition.families();
        for remains in &self.remains {
            put_removal(batch, families, remains);
        }
        for Taken { work, found } in &mut self.taken {
            match &work.order {
                Order::Chunk { id, number, slice } => {
                    put_chunk(batch, families, *id, *number, slice.bytes());
                    gathered.chunks += 1;
                }
                Order::Finish(parcel) => gathered.put_message(batch, families, parcel),
                Order::FinishAll(parcels) => {
                    parcels.iter().for_each(|parcel| gathered.put_message(batch, families, parcel))
                }
                Order::Abort { id, chunks } => {
                    put_removal(
                        batch,
                        families,
                        &Remains::Message { id: *id, chunks: *chunks, due_ms: None },
                    );
                }
                Order::Delete(id) if !gathered.gone.contains(id) => {
                    match self.partition.remove_into(*id, batch) {
                        Ok(Some(removed)) => {
                            *found = Target::There;
                            gathered.gone.insert(*id);
                            gathered.removed_messages += u64::from(removed.was_queued);
                            gathered.removed_bytes += removed.body_bytes;
                            gathered.ledger.ended.cancelled += removed.recipients;
                            gathered.synced = true;
                        }
                        Err(QueueFault::Store(text)) => {
                            *found = Target::Unread;
                            gathered.unread = Some(text);
                        }
                        // A damaged record counts as no message; recovery deals with it.
                        Ok(None) | Err(_) => (),
                    }
                }
                Order::Settle(settlement) => {
                    *found = match settle(&self.partition, batch, settlement, &mut gathered) {
                        Ok(found) => Target::of(found),
                        Err(cause) => {
                            gathered.unread = Some(cause.into_string());
                            Target::Unread
                        }
                    };
                }
                Order::Delete(_) | Order::Stop => (),
            }
        }
        if gathered.ledger != before {
            batch.put_cf(families.default, LEDGER_KEY, gathered.ledger.encode());
        }
        gathered
    }

    fn on_written(&mut self, gathered: &Gathered, write_us: u32) {
        self.full = false;
        self.room.note_written(self.partition.db());
        self.remains.clear();
        self.partition.set_ledger(gathered.ledger);
        self.partition.count_in(gathered.messages as u64, gathered.body_bytes);
        self.partition.count_out(gathered.removed_messages, gathered.removed_bytes);
        let counts = &self.lane.counts;
        counts.batches.fetch_add(1, Ordering::Relaxed);
        counts.syncs.fetch_add(gathered.synced as u64, Ordering::Relaxed);
        counts.messages.fetch_add(gathered.messages as u64, Ordering::Relaxed);
        counts.chunks.fetch_add(gathered.chunks as u64, Ordering::Relaxed);
        counts.write_us.fetch_add(write_us as u64, Ordering::Relaxed);
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
            self.full = true;
            return CommitFault::SpoolFull;
        }
        self.fail(text);
        CommitFault::Failed
    }

    /// The partition accepts nothing more in this process.
    fn fail(&self, text: String) {
        if Cause::of(&text) == Cause::Damage {
            self.partition.note_unreadable(&text);
        }
        self.lane.set_failed();
        (self.on_fatal)(self.lane.partition, &text);
        self.partition.set_failure(text);
    }

    /// Notes what the batch that failed may have left behind. The first write that finds the disk
    /// full may be in the log's file in part or whole; later ones RocksDB refuses unwritten, but
    /// chunks streamed before are there.
    fn keep_remains(&mut self) {
        for Taken { work, .. } in &self.taken {
            let remains = match &work.order {
                Order::Finish(parcel) => remains_of_parcel(parcel, self.full).into_iter().collect(),
                Order::FinishAll(parcels) => parcels
                    .iter()
                    .filter_map(|parcel| remains_of_parcel(parcel, self.full))
                    .collect(),
                Order::Abort { id, chunks } => {
                    vec![Remains::Message { id: *id, chunks: *chunks, due_ms: None }]
                }
                Order::Settle(settlement) if !self.full => remains_of(settlement),
                _ => continue,
            };
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

fn put_chunk(
    batch: &mut WriteBatch,
    families: Families<'_>,
    id: MessageId,
    number: u32,
    bytes: &[u8],
) {
    if number == 0 {
        let mut mark = Vec::with_capacity(STREAM_MARK_LEN);
        StreamMark { started_ms: id.made_ms() }.encode(&mut mark);
        batch.put_cf(families.stream, key::of_id(id), mark);
    }
    batch.put_cf(families.body, key::of_body(id, number), bytes);
}

fn answer(work: Work, outcome: Result<Done, CommitFault>) -> Completion {
    let back = match work.order {
        Order::Chunk { slice, .. } => Back::Slice(slice),
        Order::Finish(parcel) => Back::Parcel(parcel),
        Order::FinishAll(parcels) => Back::Parcels(parcels),
        Order::Settle(_) | Order::Abort { .. } | Order::Delete(_) | Order::Stop => Back::Nothing,
    };
    Completion { ticket: work.ticket, outcome, back }
}
