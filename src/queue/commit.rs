//! Group commit: one OS thread per partition turns orders into durable writes.
//!
//! Owner:    the thread, which alone writes the partition while mail is taken.
//! Promise:  an order is answered `Ok` only when its batch was written, and synced if it held a
//!           message. All that waits is joined to one batch: more load, fewer syncs.
//! Order:    take one, drain what waits, one batch, one write, answers, one ring.
//! Bounds:   `COMMIT_BATCH_MESSAGES_MAX` and `COMMIT_BATCH_BYTES_MAX` per batch.
//! Fatal:    a write that failed for any cause but a full disk. Every order from then on is
//!           answered `Failed`, and `on_fatal` is called once, so that the process can end.
//!
//! The thread asks the machine for the time itself, twice per batch: only it knows when its write
//! began and ended.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use rocksdb::WriteBatch;
use rocksdb::WriteOptions;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::limits::COMMIT_BATCH_BYTES_MAX;
use crate::base::limits::COMMIT_BATCH_MESSAGES_MAX;
use crate::queue::fault::Cause;
use crate::queue::fault::CommitFault;
use crate::queue::fault::QueueFault;
use crate::queue::jobs::Jobs;
use crate::queue::key;
use crate::queue::lane::Back;
use crate::queue::lane::CommitHandle;
use crate::queue::lane::Completion;
use crate::queue::lane::Done;
use crate::queue::lane::Lane;
use crate::queue::lane::NO_TICKET;
use crate::queue::lane::Order;
use crate::queue::lane::Orders;
use crate::queue::lane::Parcel;
use crate::queue::lane::Work;
use crate::queue::ledger::LEDGER_KEY;
use crate::queue::ledger::Ledger;
use crate::queue::partition::Families;
use crate::queue::partition::Partition;
use crate::queue::points::point;
use crate::queue::points::store_fault;
use crate::queue::room::Room;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::schema::STREAM_MARK_LEN;
use crate::queue::schema::StreamMark;
use crate::queue::settle::JobRecord;
use crate::queue::settle::Next;
use crate::queue::settle::Report;
use crate::queue::settle::Settlement;
use crate::queue::settle::put_job;

/// Remains of failed batches that are kept for removal. More than one batch's worth is never
/// needed: while the disk stays full, RocksDB refuses before it writes.
const REMAINS_MAX: usize = 2 * COMMIT_BATCH_MESSAGES_MAX;

/// Called once when a partition fails, with the cause. It must not block.
pub type OnFatal = Arc<dyn Fn(PartitionId, &str) + Send + Sync>;

/// How a commit thread runs.
pub struct CommitOptions {
    /// Runs first on the new thread: pin it, name it.
    pub on_start: Box<dyn FnOnce() + Send>,
    pub on_fatal: OnFatal,
}

/// Settlements of one batch past which other orders come first.
const SETTLES_FIRST_MAX: usize = COMMIT_BATCH_MESSAGES_MAX / 4 * 3;

/// A running commit thread.
pub struct CommitThread {
    lane: Arc<Lane>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    pub fn start(partition: Arc<Partition>, options: CommitOptions) -> io::Result<CommitThread> {
        assert!(partition.is_writable(), "mail is committed to partitions opened for it");
        let (lane, orders) = Lane::new(partition.id(), partition.spool(), partition.newest());
        let writer = Writer {
            lane: Arc::clone(&lane),
            synced: partition.synced(),
            unsynced: partition.unsynced(),
            room: Room::of(&partition),
            partition,
            on_fatal: options.on_fatal,
            held: None,
            taken: Vec::new(),
            taken_bytes: 0,
            remains: Vec::new(),
            full: false,
        };
        let on_start = options.on_start;
        let thread =
            thread::Builder::new().name(format!("commit-{}", lane.partition)).spawn(move || {
                on_start();
                writer.run(&orders);
            })?;
        Ok(CommitThread { lane, thread: Some(thread) })
    }

    pub fn handle(&self) -> CommitHandle {
        CommitHandle(Arc::clone(&self.lane))
    }

    /// Writes what waits, refuses the rest, and ends the thread. Blocks; not for a shard.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.lane.set_stopping();
        // A thread that is gone takes no order and needs none.
        let _ = self.lane.sender.send(Work { ticket: NO_TICKET, order: Order::Stop });
        if thread.join().is_err() {
            self.lane.set_failed();
        }
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a failed write may have left in the log, to be removed by the next batch that succeeds.
enum Remains {
    Message {
        id: MessageId,
        chunks: u32,
        /// The message's schedule, when the failed write was to promise it.
        due_ms: Option<u64>,
    },
    /// A schedule entry that a settlement was to write. Its job is written anew by the next try,
    /// or by recovery, which goes by the job.
    Due { id: MessageId, job: u16, due_ms: u64 },
}

/// One order, and what was found of that which it is about.
struct Taken {
    work: Work,
    found: Found,
}

impl Taken {
    fn is_deletion(&self) -> bool {
        matches!(self.work.order, Order::Delete(_))
    }
}

/// Whether a deletion or a settlement finds its message or job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Gone,
    There,
    /// The store could not say. The order is not carried out, and the partition fails: taken for
    /// gone, the job would be sent again after a restart.
    Unread,
}

impl Found {
    fn of(found: bool) -> Found {
        if found { Found::There } else { Found::Gone }
    }
}

struct Writer {
    lane: Arc<Lane>,
    partition: Arc<Partition>,
    on_fatal: OnFatal,
    synced: WriteOptions,
    unsynced: WriteOptions,
    room: Room,
    /// A deletion stands before all else in its batch: what a settlement of the same batch would
    /// write is not yet there to be deleted.
    held: Option<Work>,
    taken: Vec<Taken>,
    taken_bytes: usize,
    remains: Vec<Remains>,
    /// The last write found the disk full.
    full: bool,
}

/// What was gathered for one write.
#[derive(Default)]
struct Gathered {
    messages: u32,
    chunks: u32,
    body_bytes: u64,
    removed_messages: u64,
    removed_bytes: u64,
    ledger: Ledger,
    settled: u32,
    /// Holds a promise.
    synced: bool,
    /// Of these, jobs that are tried again.
    again: u32,
    reports: u32,
    /// Jobs that orders of this batch have made of others, which no read can see yet.
    born: HashMap<MessageId, Vec<u16>>,
    /// Jobs and messages that orders of this batch have ended.
    ended: HashSet<(MessageId, u16)>,
    gone: HashSet<MessageId>,
    /// Why an order could not be carried out: something that it needs cannot be read.
    unread: Option<String>,
}

/// Says that the thread is gone, also when it panics.
struct Goodbye {
    lane: Arc<Lane>,
    on_fatal: OnFatal,
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lane.set_failed();
            (self.on_fatal)(self.lane.partition, "the commit thread panicked");
        }
        self.lane.set_gone();
        self.lane.ring();
    }
}

impl Writer {
    fn run(mut self, orders: &Orders) {
        let _goodbye =
            Goodbye { lane: Arc::clone(&self.lane), on_fatal: Arc::clone(&self.on_fatal) };
        let mut stop = false;
        while !stop {
            let Some(first) = self.held.take().or_else(|| orders.wait()) else { break };
            stop = self.take(first, orders);
            self.commit();
        }
        // Orders that came behind the last one.
        while let Some(work) = orders.next(true) {
            self.lane.complete(answer(work, Err(CommitFault::Stopped)));
        }
    }

    /// Fills `taken` with what one batch may hold. Answers whether the last order was among it.
    fn take(&mut self, first: Work, orders: &Orders) -> bool {
        self.taken_bytes = 0;
        let mut settles = 0;
        let mut next = Some(first);
        while let Some(work) = next {
            match &work.order {
                Order::Stop => {
                    // What came before it, and was passed for the sake of the rest.
                    let urgent = std::iter::from_fn(|| orders.next_urgent());
                    self.taken.extend(urgent.map(|work| Taken { work, found: Found::Gone }));
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
            self.taken.push(Taken { work, found: Found::Gone });
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
                (Ok(_), Found::Unread) => Err(CommitFault::Failed),
                _ => outcome.map(|done| Done { found: found == Found::There, leads, ..done }),
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
                Err(text) if self.room.may_come_after(&self.partition, &text) => (),
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

    /// Puts every order taken, and what failed batches left, into one batch.
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
                    put_chunk(batch, families, (*id, *number), slice.bytes());
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
                            *found = Found::There;
                            gathered.gone.insert(*id);
                            gathered.removed_messages += u64::from(removed.was_queued);
                            gathered.removed_bytes += removed.body_bytes;
                            gathered.ledger.ended.cancelled += removed.recipients;
                            gathered.synced = true;
                        }
                        Err(QueueFault::Store(text)) => {
                            *found = Found::Unread;
                            gathered.unread = Some(text);
                        }
                        // A record without meaning is not there for the operator; recovery deals
                        // with it.
                        Ok(None) | Err(_) => (),
                    }
                }
                Order::Settle(settlement) => {
                    *found = match settle(&self.partition, batch, settlement, &mut gathered) {
                        Ok(found) => Found::of(found),
                        Err(cause) => {
                            gathered.unread = Some(cause.into_string());
                            Found::Unread
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
        self.room.note_written(&self.partition);
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

    /// The partition takes nothing more in this process.
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
            // Past the bound the remains of a stream wait for recovery, which knows its mark.
            let room = REMAINS_MAX.saturating_sub(self.remains.len());
            self.remains.extend(remains.into_iter().take(room));
        }
    }
}

/// Points of a batch that settles, by what is in it: anything, a split, another try, a report.
const BEFORE_WRITE: [&str; 4] =
    ["settle::before_write", "split::before_write", "again::before_write", "report::before_write"];
const AFTER_WRITE: [&str; 4] =
    ["settle::after_write", "split::after_write", "again::after_write", "report::after_write"];

impl Gathered {
    fn put_message(&mut self, batch: &mut WriteBatch, families: Families<'_>, parcel: &Parcel) {
        put_message(batch, families, parcel);
        self.messages += 1;
        self.chunks += parcel.chunks().count() as u32;
        self.body_bytes += parcel.body_bytes;
        self.ledger.taken += u64::from(parcel.recipients);
        self.ledger.note_id(id_of(parcel));
        self.synced = true;
    }

    fn pass(&self, [settle, split, again, report]: &[&'static str; 4]) {
        let met = [
            (self.settled > 0, settle),
            (!self.born.is_empty(), split),
            (self.again > 0, again),
            (self.reports > 0, report),
        ];
        met.into_iter().filter(|(met, _)| *met).for_each(|(_, name)| point(name));
    }
}

/// Room in a batch for keys and for what is not counted.
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
    (id, number): (MessageId, u32),
    bytes: &[u8],
) {
    if number == 0 {
        let mut mark = Vec::with_capacity(STREAM_MARK_LEN);
        StreamMark { started_ms: id.made_ms() }.encode(&mut mark);
        batch.put_cf(families.stream, key::of_id(id), mark);
    }
    batch.put_cf(families.body, key::of_body(id, number), bytes);
}

fn put_message(batch: &mut WriteBatch, families: Families<'_>, parcel: &Parcel) {
    let id = id_of(parcel);
    for (number, bytes) in (parcel.streamed..).zip(parcel.chunks()) {
        batch.put_cf(families.body, key::of_body(id, number), bytes);
    }
    let [envelope, job, head] = parcel.records();
    batch.put_cf(families.head, key::of_id(id), head);
    batch.put_cf(families.envelope, key::of_id(id), envelope);
    batch.put_cf(families.job, key::of_job(id, 0), job);
    batch.put_cf(families.due, key::of_due(parcel.due_ms, id, 0), []);
    if parcel.streamed > 0 {
        batch.single_delete_cf(families.stream, key::of_id(id));
    }
}

/// After the first write that found the disk full, only what was streamed before can be there.
fn remains_of_parcel(parcel: &Parcel, is_full: bool) -> Option<Remains> {
    (!is_full || parcel.streamed > 0).then(|| Remains::Message {
        id: id_of(parcel),
        chunks: parcel.streamed + parcel.chunks().count() as u32,
        due_ms: Some(parcel.due_ms),
    })
}

fn remains_of(settlement: &Settlement) -> Vec<Remains> {
    let jobs: &[JobRecord] = match &settlement.next {
        Next::Done => &[],
        Next::Again(job) => std::slice::from_ref(job),
        Next::Split(jobs) => jobs,
    };
    let id = settlement.id;
    let due = |job: &JobRecord| Remains::Due { id, job: job.number, due_ms: job.due_ms };
    let report = |report: &Report| Remains::Message {
        id: report.id,
        chunks: report.chunks(),
        due_ms: Some(report.job.due_ms),
    };
    jobs.iter().map(due).chain(settlement.reports.iter().map(report)).collect()
}

/// Puts what becomes of a job into the batch. `false`: there is no such job any more. Everything is
/// read before anything is put: with a fault the batch is as it was.
fn settle(
    partition: &Partition,
    batch: &mut WriteBatch,
    settlement: &Settlement,
    gathered: &mut Gathered,
) -> Result<bool, rocksdb::Error> {
    let (id, number) = (settlement.id, settlement.job);
    let families = partition.families();
    if gathered.gone.contains(&id) || gathered.ended.contains(&(id, number)) {
        return Ok(false);
    }
    let record = partition.db().get_pinned_cf(families.job, key::of_job(id, number))?;
    let Some(record) = record else { return Ok(false) };
    let Ok(job) = Job::decode(&record) else { return Ok(false) };
    let mut last_envelope = None;
    match &settlement.next {
        Next::Again(_) => (),
        Next::Split(parts) => {
            for part in parts {
                if is_taken(partition, id, part.number, gathered)? {
                    // Written over, the recipients of that job would be lost. The split is made
                    // anew.
                    return Ok(false);
                }
            }
        }
        Next::Done => {
            let born = gathered.born.contains_key(&id);
            if !born && !has_other_job(partition, (id, number), &gathered.ended)? {
                last_envelope = partition.db().get_pinned_cf(families.envelope, key::of_id(id))?;
            }
        }
    }
    batch.single_delete_cf(families.due, key::of_due(job.due_ms, id, number));
    match &settlement.next {
        Next::Again(again) => {
            put_job(batch, families, id, again);
            gathered.again += 1;
        }
        Next::Split(parts) => {
            batch.delete_cf(families.job, key::of_job(id, number));
            parts.iter().for_each(|part| put_job(batch, families, id, part));
            gathered.ended.insert((id, number));
            let numbers = parts.iter().map(|part| part.number);
            gathered.born.entry(id).or_default().extend(numbers);
        }
        Next::Done => {
            batch.delete_cf(families.job, key::of_job(id, number));
            gathered.ended.insert((id, number));
            if let Some(record) = last_envelope {
                match settlement.keep_until_ms {
                    Some(until_ms) => keep_rest(&record, until_ms, batch, (id, families), gathered),
                    None => remove_rest(&record, batch, (id, families), gathered),
                }
            }
        }
    }
    for report in &settlement.reports {
        report.put(batch, families);
        gathered.messages += 1;
        gathered.reports += 1;
        gathered.body_bytes += report.body().len() as u64;
        gathered.ledger.taken += u64::from(report.recipients);
        gathered.ledger.note_id(report.id);
    }
    gathered.ledger.ended.add(&settlement.tally);
    gathered.settled += 1;
    gathered.synced |= settlement.is_synced();
    Ok(true)
}

/// Whether a job of the message has that number.
fn is_taken(
    partition: &Partition,
    id: MessageId,
    number: u16,
    gathered: &Gathered,
) -> Result<bool, rocksdb::Error> {
    if gathered.born.get(&id).is_some_and(|numbers| numbers.contains(&number)) {
        return Ok(true);
    }
    let family = partition.families().job;
    Ok(partition.db().get_pinned_cf(family, key::of_job(id, number))?.is_some())
}

/// Whether the message has a job beside that one which no order of this batch has ended. Jobs are
/// numbered upwards from 0, and a message rarely has more than one.
fn has_other_job(
    partition: &Partition,
    (id, number): (MessageId, u16),
    ended: &HashSet<(MessageId, u16)>,
) -> Result<bool, rocksdb::Error> {
    let mut jobs = Jobs::of(partition, id);
    while let Some((job_key, _)) = jobs.next() {
        if key::job_of(job_key).is_some_and(|job| job != (id, number) && !ended.contains(&job)) {
            return Ok(true);
        }
    }
    jobs.end().map(|()| false)
}

/// Keeps envelope, head and body of a message whose last job has ended.
fn keep_rest(
    record: &[u8],
    until_ms: u64,
    batch: &mut WriteBatch,
    (id, families): (MessageId, Families<'_>),
    gathered: &mut Gathered,
) {
    let Ok(envelope) = Envelope::decode(record) else { return };
    let mut kept = Vec::with_capacity(record.len() + 16);
    let encoded = Envelope { kept_until_ms: Some(until_ms), ..envelope }.encode(&mut kept);
    encoded.expect("every field was stored before");
    // A record that is removed by `SingleDelete` must not be written over.
    batch.single_delete_cf(families.envelope, key::of_id(id));
    batch.put_cf(families.envelope, key::of_id(id), kept);
    batch.put_cf(families.kept, key::of_kept(until_ms, id), []);
    gathered.removed_messages += 1;
}

/// Removes envelope, head and body of a message whose last job has ended.
fn remove_rest(
    record: &[u8],
    batch: &mut WriteBatch,
    (id, families): (MessageId, Families<'_>),
    gathered: &mut Gathered,
) {
    let Ok(envelope) = Envelope::decode(record) else { return };
    families.remove_message(batch, id, &envelope);
    gathered.gone.insert(id);
    gathered.removed_messages += 1;
    gathered.removed_bytes += envelope.body.bytes;
}

fn put_removal(batch: &mut WriteBatch, families: Families<'_>, remains: &Remains) {
    let (id, chunks, due_ms) = match *remains {
        Remains::Message { id, chunks, due_ms } => (id, chunks, due_ms),
        Remains::Due { id, job, due_ms } => {
            batch.single_delete_cf(families.due, key::of_due(due_ms, id, job));
            return;
        }
    };
    if let Some(due_ms) = due_ms {
        batch.single_delete_cf(families.envelope, key::of_id(id));
        batch.single_delete_cf(families.head, key::of_id(id));
        batch.delete_cf(families.job, key::of_job(id, 0));
        batch.single_delete_cf(families.due, key::of_due(due_ms, id, 0));
    }
    for number in 0..chunks {
        batch.single_delete_cf(families.body, key::of_body(id, number));
    }
    batch.single_delete_cf(families.stream, key::of_id(id));
}

fn id_of(parcel: &Parcel) -> MessageId {
    parcel.id.expect("a parcel under way has its id")
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
