//! The shard's side of group commit: bodies under way and the sessions that wait for them.
//!
//! Owner:    the home shard. One `Committer` per partition; not `Send`, no lock.
//! Promise:  `Body::finish` answers `Ok` only after the synced write. A `Body` dropped before that
//!           leaves nothing behind: what it streamed is removed. Every chunk goes back to the
//!           shard's pool, whoever has gone away meanwhile.
//! Hung:     while a batch takes longer than `COMMIT_HUNG_MS`, new and waiting mail is answered
//!           `Hung`. If such a message becomes durable after all, it is removed, since its sender
//!           will send it again. It is delivered twice only if the process ends before the removal,
//!           or if the schedule is scanned before it. Settlements and deletions keep waiting and
//!           are carried out when the disk answers again.
//! Order:    chunks in their order, all of them answered before the last write is asked for.
//! Bounds:   `COMMIT_WAITERS_MAX` orders under way. Past that who comes stands in line, and so does the
//!           sender; how many bodies may do so is the intake's bound. At most `SETTLES_IN_LANE_MAX`
//!           of them are from either line of `settle_in_turn`. `UNSETTLED_MAX` urgent orders more.
//!           `STREAM_CHUNKS_IN_FLIGHT_MAX` chunks of one body are on their way,
//!           `BODY_HELD_BYTES_MAX` are held back.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Instant;

use crossbeam::channel::TrySendError;
use slab::Slab;

use crate::base::ChunkPool;
use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::Slice;
use crate::base::id::IdSource;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::COMMIT_WAITERS_MAX;
use crate::base::limits::FINISH_ALL_BYTES_MAX;
use crate::base::limits::SETTLES_IN_LANE_MAX;
use crate::base::limits::STREAM_CHUNKS_IN_FLIGHT_MAX;
use crate::base::limits::UNSETTLED_MAX;
use crate::queue::fault::CommitFault;
use crate::queue::lane::Back;
use crate::queue::lane::CommitHandle;
use crate::queue::lane::Completion;
use crate::queue::lane::Done;
use crate::queue::lane::Lane;
use crate::queue::lane::Order;
use crate::queue::lane::Parcel;
use crate::queue::lane::Ring;
use crate::queue::lane::Work;
use crate::queue::points;
use crate::queue::record::RecordFault;
use crate::queue::schema::BodySum;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::schema::decode_head;
use crate::queue::schema::encode_head;
use crate::queue::settle::Next;
use crate::queue::settle::Settlement;
use crate::rt::gate::Gate;
use crate::rt::gate::Place;

/// Bytes of a body held back to be written with its envelope. A message up to this size is one
/// batch; a longer one is streamed, but for its end.
pub const BODY_HELD_BYTES_MAX: usize = CHUNK_BYTES;

/// Slices of a body held back, however short: each of them keeps a whole chunk.
pub const BODY_HELD_SLICES_MAX: usize = 4;

/// Parcels kept for the next messages, and the largest record buffer worth keeping.
const PARCELS_IDLE_MAX: usize = 256;
const RECORDS_KEPT_BYTES_MAX: usize = 8 << 10;

/// What `finish` answers: the message is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub id: PublicId,
    pub body: BodySum,
    /// Microseconds of the write with its sync.
    pub write_us: u32,
    /// Messages that shared it.
    pub batch: u32,
    /// The first of them.
    pub leads: bool,
}

/// A partition's way in. Clones are the same committer.
#[derive(Clone)]
pub struct Committer {
    inner: Rc<Inner>,
}

struct Inner {
    lane: std::sync::Arc<Lane>,
    pool: Rc<ChunkPool>,
    ids: RefCell<IdSource>,
    tickets: RefCell<Slab<Ticket>>,
    parcels: RefCell<Vec<Parcel>>,
    /// An order has a place until it is answered, whenever the answer is taken: a body that waits
    /// for another place has answers to take.
    gate: Rc<Gate>,
    urgent: Rc<Gate>,
    settles: Rc<Gate>,
    splits: Rc<Gate>,
    /// Aborts and removals that found no place; nobody waits for their answers.
    removals: RefCell<VecDeque<Order>>,
    /// Milliseconds that the batch under way has taken, while that is too long; else 0.
    hung_ms: Cell<u64>,
    watched: Cell<Watched>,
    /// Wakers of bodies that wait for a place.
    in_line: RefCell<Slab<Waker>>,
    keeper: RefCell<Option<Rc<dyn Keeper>>>,
}

/// Who is told of mail that has become durable.
pub trait Keeper {
    /// Whether a message of so many bytes may be kept in memory.
    fn wants(&self, bytes: u64) -> bool;
    fn kept(&self, fresh: Fresh);
}

/// A message that has just become durable, with one job numbered 0.
pub struct Fresh {
    pub id: MessageId,
    pub due_ms: u64,
    /// Its envelope's record.
    pub envelope: Arc<[u8]>,
    /// Head and body, as they are sent.
    pub message: Option<Arc<[u8]>>,
}

/// A body that several messages share.
#[derive(Clone)]
pub struct SharedBody {
    bytes: Arc<[u8]>,
    crc: crc32fast::Hasher,
}

impl SharedBody {
    pub fn new(bytes: Arc<[u8]>) -> SharedBody {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes);
        SharedBody { bytes, crc }
    }
}

/// One of the messages of `Committer::finish_all`.
pub struct Finish<'e> {
    pub body: Body,
    pub head: &'e [u8],
    pub envelope: Envelope<'e>,
    pub due_ms: u64,
}

struct Ticket {
    /// Until it is answered.
    place: Option<Place>,
    stage: Stage,
}

enum Stage {
    Waiting(Option<Waker>),
    Done(Result<Done, CommitFault>),
    /// Nobody waits for the answer.
    Left,
    /// Answered `Hung`. Should the messages become durable, they are removed.
    Disowned(Messages),
}

/// The longest time between two looks that counts. Ticks come every few milliseconds.
const WATCH_GAP_MS_MAX: u64 = 1000;

/// The last look at the batch under way.
#[derive(Clone, Copy)]
struct Watched {
    batch: Option<u64>,
    /// How long it had taken by then.
    batch_ms: u64,
    looked: Instant,
}

/// What `Committer::watch` has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hang {
    /// The batch under way takes too long: so many milliseconds by now.
    Began { ms: u64 },
    /// It was written, or has failed, after about so many.
    Ended { ms: u64 },
}

impl Committer {
    /// `ring` is called from the commit thread; it must lead to `pump` being called on this shard.
    pub fn new(handle: CommitHandle, pool: Rc<ChunkPool>, ring: Ring) -> Committer {
        let lane = handle.0;
        lane.claim(ring);
        let ids = RefCell::new(IdSource::new(lane.partition, lane.newest));
        Committer {
            inner: Rc::new(Inner {
                lane,
                pool,
                ids,
                tickets: RefCell::default(),
                parcels: RefCell::default(),
                gate: Gate::new(COMMIT_WAITERS_MAX),
                urgent: Gate::new(UNSETTLED_MAX),
                settles: Gate::new(SETTLES_IN_LANE_MAX),
                splits: Gate::new(SETTLES_IN_LANE_MAX),
                removals: RefCell::default(),
                hung_ms: Cell::new(0),
                watched: Cell::new(Watched { batch: None, batch_ms: 0, looked: Instant::now() }),
                in_line: RefCell::default(),
                keeper: RefCell::default(),
            }),
        }
    }

    pub fn partition(&self) -> PartitionId {
        self.inner.lane.partition
    }

    /// Why no new message is taken.
    pub fn fault(&self) -> Option<CommitFault> {
        self.inner.fault()
    }

    /// Looks whether the batch under way takes too long. To be called at every tick. The time
    /// between two looks counts for `WATCH_GAP_MS_MAX` at most: a process that was stopped for a
    /// minute (SIGSTOP, a suspended machine) finds its batch old and its disk well.
    pub fn watch(&self, now: Instant) -> Option<Hang> {
        let batch = self.inner.lane.batch();
        let before = self.inner.watched.get();
        let gap_ms = now.saturating_duration_since(before.looked).as_millis() as u64;
        let batch_ms = match batch.is_some() && batch == before.batch {
            true => before.batch_ms + gap_ms.min(WATCH_GAP_MS_MAX),
            false => 0,
        };
        self.inner.watched.set(Watched { batch, batch_ms, looked: now });
        let hung_ms = if batch_ms >= points::commit_hung_ms() { batch_ms.max(1) } else { 0 };
        match (self.inner.hung_ms.replace(hung_ms), hung_ms) {
            (0, 0) => None,
            (0, ms) => {
                self.inner.wake_all();
                Some(Hang::Began { ms })
            }
            (ms, 0) => Some(Hang::Ended { ms }),
            _ => None,
        }
    }

    /// Milliseconds that the batch under way has taken, as last watched, when that is too long;
    /// else 0.
    pub fn hung_ms(&self) -> u64 {
        self.inner.hung_ms.get()
    }

    /// Whether a message that comes now would stand in line.
    pub fn is_busy(&self) -> bool {
        !self.inner.gate.has_free()
    }

    /// How a message of this partition is called outside the spool.
    pub fn public_id(&self, id: MessageId) -> PublicId {
        self.inner.public_id(id)
    }

    /// Begins a message whose body is shared with others, and complete.
    pub fn body_of(&self, shared: &SharedBody, now_ms: u64) -> Result<Body, CommitFault> {
        let mut body = self.body(now_ms)?;
        body.sum.bytes = shared.bytes.len() as u64;
        body.crc = shared.crc.clone();
        body.parcel.shared = Some(Arc::clone(&shared.bytes));
        Ok(body)
    }

    /// Makes several messages of this partition durable in one batch: all of them, or none.
    pub async fn finish_all(
        &self,
        mut all: Vec<Finish<'_>>,
    ) -> Result<Vec<Committed>, CommitFault> {
        for Finish { body, head, envelope, due_ms } in &mut all {
            crate::invariant!(Rc::ptr_eq(&body.inner, &self.inner), "one partition, one batch");
            body.prepare(head, envelope, *due_ms).await?;
        }
        let bytes: usize = all.iter().map(|one| one.body.parcel.bytes()).sum();
        if bytes > FINISH_ALL_BYTES_MAX {
            return Err(CommitFault::TooLarge);
        }
        let keeper = self.inner.keeper.borrow().clone();
        let fresh: Option<Vec<Fresh>> =
            keeper.as_ref().map(|keeper| all.iter().map(|one| one.body.fresh(&**keeper)).collect());
        let place = self.inner.enter_unless_hung().await?;
        let parcels = all.iter_mut().map(|one| std::mem::take(&mut one.body.parcel)).collect();
        let ids: Rc<[MessageId]> = all.iter().map(|one| one.body.id).collect();
        let ticket = match self.inner.submit(place, Order::FinishAll(parcels)) {
            Ok(ticket) => ticket,
            Err((fault, order)) => {
                if let Order::FinishAll(parcels) = order {
                    let bodies = all.iter_mut().map(|one| &mut one.body);
                    bodies.zip(parcels).for_each(|(body, parcel)| body.parcel = parcel);
                }
                return Err(fault);
            }
        };
        all.iter_mut().for_each(|one| one.body.state = BodyState::Sent);
        let patience = Patience::UntilHung(Messages::Several(ids));
        let done = self.inner.outcome(ticket, patience).await?;
        if let (Some(keeper), Some(fresh)) = (keeper, fresh) {
            fresh.into_iter().for_each(|fresh| keeper.kept(fresh));
        }
        let committed = all.iter().enumerate().map(|(place, one)| Committed {
            leads: done.leads && place == 0,
            ..one.body.committed(&done)
        });
        Ok(committed.collect())
    }

    /// Begins a message, which has its id from here on.
    pub fn body(&self, now_ms: u64) -> Result<Body, CommitFault> {
        self.fault().map_or(Ok(()), Err)?;
        let id = self.inner.ids.borrow_mut().next_id(now_ms);
        let mut parcel = self.inner.parcels.borrow_mut().pop().unwrap_or_default();
        parcel.id = Some(id);
        Ok(Body {
            inner: Rc::clone(&self.inner),
            id,
            parcel,
            held_bytes: 0,
            in_flight: VecDeque::new(),
            sum: BodySum::default(),
            crc: crc32fast::Hasher::new(),
            state: BodyState::Whole,
        })
    }

    /// Removes a message by an operator's order. `false`: there is none.
    pub async fn delete(&self, id: MessageId) -> Result<bool, CommitFault> {
        let place = self.inner.gate.enter().await;
        let ticket = self.inner.submit(place, Order::Delete(id)).map_err(|(fault, _)| fault)?;
        self.inner.outcome(ticket, Patience::Endless).await.map(|done| done.found)
    }

    /// The same for what nobody waits for and of which there may be a great deal at once: behind what
    /// waits, in a line of its own. Splits have another one.
    pub async fn settle_in_turn(&self, settlement: Arc<Settlement>) -> Result<bool, CommitFault> {
        // Fresh mail that is to go several ways does not stand behind the retries of others.
        let line = match settlement.next {
            Next::Split(_) => &self.inner.splits,
            Next::Done | Next::Again(_) => &self.inner.settles,
        };
        let _turn = line.enter().await;
        let place = self.inner.gate.enter().await;
        self.settle_from(place, settlement).await
    }

    async fn settle_from(
        &self,
        place: Place,
        settlement: Arc<Settlement>,
    ) -> Result<bool, CommitFault> {
        let order = Order::Settle(settlement);
        let ticket = self.inner.submit(place, order).map_err(|(fault, _)| fault)?;
        self.inner.outcome(ticket, Patience::Endless).await.map(|done| done.found)
    }

    /// Has `keeper` told of everything that becomes durable from now on.
    pub fn tell(&self, keeper: Rc<dyn Keeper>) {
        *self.inner.keeper.borrow_mut() = Some(keeper);
    }

    /// An id for a message made here.
    pub fn next_id(&self, now_ms: u64) -> MessageId {
        self.inner.ids.borrow_mut().next_id(now_ms)
    }

    /// Writes what has become of a job, before all that waits: a crash would have it delivered again.
    /// `false`: the job is not there any more. After a full disk the same settlement may be given
    /// again.
    pub async fn settle(&self, settlement: Arc<Settlement>) -> Result<bool, CommitFault> {
        let place = self.inner.urgent.enter().await;
        self.settle_from(place, settlement).await
    }

    /// Takes the answers that are there: chunks go back to the pool, waiting sessions are woken.
    /// Answers how many there were. To be called whenever the bell rang.
    pub fn pump(&self) -> usize {
        self.inner.pump()
    }

    /// Tickets that are out: orders that wait for an answer, and answers not yet taken by whoever
    /// waits for them.
    pub fn waiting(&self) -> usize {
        self.inner.tickets.borrow().len()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyState {
    /// Everything pushed is held, on its way or written.
    Whole,
    /// Something pushed was lost: a write failed, or a `push` was dropped halfway.
    Broken,
    /// The last write has been asked for; what becomes of it no longer depends on us.
    Sent,
}

/// A body under way. Dropped before `finish`, it is aborted.
pub struct Body {
    inner: Rc<Inner>,
    id: MessageId,
    parcel: Parcel,
    held_bytes: usize,
    in_flight: VecDeque<u32>,
    sum: BodySum,
    crc: crc32fast::Hasher,
    state: BodyState,
}

impl Body {
    pub fn id(&self) -> PublicId {
        self.inner.public_id(self.id)
    }

    /// Bytes pushed so far.
    pub fn bytes(&self) -> u64 {
        self.sum.bytes
    }

    /// Takes the next bytes of the body. Waits while too much of it is on its way. A fault here
    /// is final: the message cannot be finished.
    pub async fn push(&mut self, slice: Slice) -> Result<(), CommitFault> {
        if slice.is_empty() {
            self.inner.pool.give(slice.into_chunk());
            return Ok(());
        }
        self.crc.update(slice.bytes());
        self.sum.bytes += slice.len() as u64;
        if self.held_bytes + slice.len() > BODY_HELD_BYTES_MAX
            || self.parcel.slices.len() >= BODY_HELD_SLICES_MAX
        {
            let state = std::mem::replace(&mut self.state, BodyState::Broken);
            // Should this future be dropped now, `slice` is lost and the body stays broken.
            self.stream_held().await?;
            self.state = state;
        }
        self.held_bytes += slice.len();
        self.parcel.slices.push(slice);
        Ok(())
    }

    /// Makes the message durable, with one job for all recipients, due at `due_ms`. What is sent is
    /// `head` and then the body. The sums of both in `envelope` are filled in here.
    pub async fn finish(
        mut self,
        head: &[u8],
        envelope: &Envelope<'_>,
        due_ms: u64,
    ) -> Result<Committed, CommitFault> {
        self.prepare(head, envelope, due_ms).await?;
        let keeper = self.inner.keeper.borrow().clone();
        let fresh = keeper.as_ref().map(|keeper| self.fresh(&**keeper));
        let ticket = self.send_finish().await?;
        let patience = Patience::UntilHung(Messages::One(self.id));
        let done = self.inner.outcome(ticket, patience).await?;
        if let (Some(keeper), Some(fresh)) = (keeper, fresh) {
            keeper.kept(fresh);
        }
        Ok(self.committed(&done))
    }

    /// Waits for the chunks on their way and fills the parcel.
    async fn prepare(
        &mut self,
        head: &[u8],
        envelope: &Envelope<'_>,
        due_ms: u64,
    ) -> Result<(), CommitFault> {
        self.wait_in_flight(0).await?;
        if self.state == BodyState::Broken {
            return Err(self.inner.end_fault());
        }
        self.sum.chunks = self.parcel.streamed + self.parcel.chunks().count() as u32;
        self.sum.crc32 = self.crc.clone().finalize();
        let head_bytes = u32::try_from(head.len())
            .map_err(|_| CommitFault::Record(RecordFault::TooLong("head")))?;
        self.fill_records(head, &Envelope { head_bytes, body: self.sum, ..*envelope }, due_ms)
    }

    fn committed(&self, done: &Done) -> Committed {
        let Done { write_us, batch, leads, .. } = *done;
        Committed { id: self.id(), body: self.sum, write_us, batch, leads }
    }

    /// What the delivering half is given, so that a message that leaves soon is not read back.
    fn fresh(&self, keeper: &dyn Keeper) -> Fresh {
        let parcel = &self.parcel;
        let [envelope, _, head] = parcel.records();
        let head = decode_head(head).expect("it was encoded just now");
        let bytes = head.len() as u64 + parcel.body_bytes;
        let whole = parcel.streamed == 0 && keeper.wants(bytes);
        Fresh {
            id: self.id,
            due_ms: parcel.due_ms,
            envelope: envelope.into(),
            message: whole.then(|| {
                let mut message = Vec::with_capacity(bytes as usize);
                message.extend_from_slice(head);
                parcel.chunks().for_each(|bytes| message.extend_from_slice(bytes));
                message.into()
            }),
        }
    }

    fn fill_records(
        &mut self,
        head: &[u8],
        envelope: &Envelope<'_>,
        due_ms: u64,
    ) -> Result<(), CommitFault> {
        let parcel = &mut self.parcel;
        parcel.records.clear();
        envelope.encode(&mut parcel.records).map_err(CommitFault::Record)?;
        parcel.envelope_len = parcel.records.len();
        let job = Job::fresh(due_ms, envelope.recipients.len());
        job.encode(&mut parcel.records).map_err(CommitFault::Record)?;
        parcel.job_len = parcel.records.len() - parcel.envelope_len;
        encode_head(head, &mut parcel.records);
        parcel.due_ms = due_ms;
        parcel.body_bytes = envelope.body.bytes;
        parcel.recipients = envelope.recipients.len() as u32;
        Ok(())
    }

    async fn send_finish(&mut self) -> Result<u32, CommitFault> {
        let place = self.inner.enter_unless_hung().await?;
        match self.inner.submit(place, Order::Finish(std::mem::take(&mut self.parcel))) {
            Ok(ticket) => {
                self.state = BodyState::Sent;
                Ok(ticket)
            }
            Err((fault, order)) => {
                if let Order::Finish(parcel) = order {
                    self.parcel = parcel;
                }
                Err(fault)
            }
        }
    }

    /// Sends what is held, oldest first.
    async fn stream_held(&mut self) -> Result<(), CommitFault> {
        while !self.parcel.slices.is_empty() {
            self.wait_in_flight(STREAM_CHUNKS_IN_FLIGHT_MAX - 1).await?;
            let place = self.inner.enter_unless_hung().await?;
            let slice = self.parcel.slices.remove(0);
            self.held_bytes -= slice.len();
            let number = self.parcel.streamed;
            let order = Order::Chunk { id: self.id, number, slice };
            let ticket = self.inner.submit(place, order).map_err(|(fault, _)| fault)?;
            self.in_flight.push_back(ticket);
            self.parcel.streamed += 1;
        }
        Ok(())
    }

    /// Waits until at most `left` chunks are on their way. A chunk that failed breaks the body.
    async fn wait_in_flight(&mut self, left: usize) -> Result<(), CommitFault> {
        while self.in_flight.len() > left {
            let ticket = self.in_flight[0];
            // The ticket is taken back by `outcome` in any case.
            let outcome = self.inner.outcome(ticket, Patience::UntilHung(Messages::None));
            self.in_flight.pop_front();
            if let Err(fault) = outcome.await {
                self.state = BodyState::Broken;
                return Err(fault);
            }
        }
        Ok(())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        for ticket in self.in_flight.drain(..) {
            self.inner.leave(ticket);
        }
        if self.state != BodyState::Sent {
            let streamed = self.parcel.streamed;
            self.inner.take_back(std::mem::take(&mut self.parcel));
            if streamed > 0 {
                self.inner.abort(self.id, streamed);
            }
        }
    }
}

impl Inner {
    fn public_id(&self, local: MessageId) -> PublicId {
        PublicId { local, spool: self.lane.spool }
    }

    fn fault(&self) -> Option<CommitFault> {
        let is_hung = self.hung_ms.get() > 0;
        self.lane.fault().or_else(|| is_hung.then_some(CommitFault::Hung))
    }

    /// A place for new mail.
    async fn enter_unless_hung(&self) -> Result<Place, CommitFault> {
        let mut turn = pin!(self.gate.enter());
        let mut line = InLine { inner: self, place: None };
        poll_fn(|context| {
            if self.hung_ms.get() > 0 {
                return Poll::Ready(Err(CommitFault::Hung));
            }
            let place = turn.as_mut().poll(context).map(Ok);
            if place.is_pending() {
                line.note(context.waker());
            }
            place
        })
        .await
    }

    /// Has everybody who waits look again.
    fn wake_all(&self) {
        let mut wakers: Vec<Waker> = Vec::new();
        for (_, ticket) in self.tickets.borrow_mut().iter_mut() {
            if let Stage::Waiting(waker) = &mut ticket.stage {
                wakers.extend(waker.take());
            }
        }
        wakers.extend(self.in_line.borrow().iter().map(|(_, waker)| waker.clone()));
        // Nothing is borrowed any more: a woken task may run at once and come back here.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Gives an order to the commit thread, or hands it back with the reason.
    fn submit(&self, place: Place, order: Order) -> Result<u32, (CommitFault, Order)> {
        if let Some(fault) = self.lane.fault()
            && !(fault == CommitFault::Stopped && belongs_to_the_past(&order))
        {
            return Err((fault, order));
        }
        self.send(place, Stage::Waiting(None), order)
    }

    fn send(&self, place: Place, stage: Stage, order: Order) -> Result<u32, (CommitFault, Order)> {
        let sender = match place.is_of(&self.urgent) {
            true => &self.lane.urgent,
            false => &self.lane.sender,
        };
        let ticket = self.tickets.borrow_mut().insert(Ticket { place: Some(place), stage });
        match sender.try_send(Work { ticket: ticket as u32, order }) {
            Ok(()) => Ok(ticket as u32),
            Err(refused) => {
                let full = matches!(refused, TrySendError::Full(_));
                crate::invariant!(!full, "the lane holds less than there are places");
                let ticket = self.tickets.borrow_mut().remove(ticket);
                drop(ticket);
                Err((self.end_fault(), refused.into_inner().order))
            }
        }
    }

    /// Why a thread that is gone answers nothing.
    fn end_fault(&self) -> CommitFault {
        self.lane.fault().unwrap_or(CommitFault::Failed)
    }

    fn outcome(&self, ticket: u32, patience: Patience) -> Outcome<'_> {
        Outcome { inner: self, ticket, patience, taken: false }
    }

    fn pump(&self) -> usize {
        // Looked at first: answers given before the thread went are taken below.
        let gone = self.lane.is_gone();
        let mut count = 0;
        while let Some(Completion { ticket, outcome, back }) = self.lane.completions.pop() {
            count += 1;
            match back {
                Back::Nothing => (),
                Back::Slice(slice) => self.pool.give(slice.into_chunk()),
                Back::Parcel(parcel) => self.take_back(parcel),
                Back::Parcels(parcels) => {
                    parcels.into_iter().for_each(|parcel| self.take_back(parcel));
                }
            }
            self.settle(ticket as usize, outcome);
        }
        if gone {
            self.settle_all(Err(self.end_fault()));
        }
        count
    }

    fn settle(&self, ticket: usize, outcome: Result<Done, CommitFault>) {
        let mut tickets = self.tickets.borrow_mut();
        let answered = &mut tickets[ticket];
        let place = answered.place.take();
        let waker = match std::mem::replace(&mut answered.stage, Stage::Done(outcome)) {
            Stage::Waiting(waker) => waker,
            Stage::Left => {
                tickets.remove(ticket);
                None
            }
            Stage::Disowned(messages) => {
                tickets.remove(ticket);
                if outcome.is_ok() {
                    let deletions = messages.as_slice().iter().copied().map(Order::Delete);
                    self.removals.borrow_mut().extend(deletions);
                }
                None
            }
            Stage::Done(_) => {
                crate::invariant!(false, "ticket {ticket} was answered twice");
                None
            }
        };
        // First: a woken task may run at once and come back here.
        drop(tickets);
        place.into_iter().for_each(|place| self.give_back(place));
        waker.into_iter().for_each(Waker::wake);
    }

    /// The place is for a removal, or for who is next in line.
    fn give_back(&self, place: Place) {
        let is_for_all = place.is_of(&self.gate);
        let removal = self.removals.borrow_mut().pop_front_if(|_| is_for_all);
        match removal {
            Some(order) => self.send_removal(place, order),
            None => drop(place),
        }
    }

    fn settle_all(&self, outcome: Result<Done, CommitFault>) {
        let open: Vec<usize> = self
            .tickets
            .borrow()
            .iter()
            .filter(|(_, ticket)| !matches!(ticket.stage, Stage::Done(_)))
            .map(|(place, _)| place)
            .collect();
        open.into_iter().for_each(|place| self.settle(place, outcome));
    }

    /// Nobody waits for this ticket any more.
    fn leave(&self, ticket: u32) {
        let mut tickets = self.tickets.borrow_mut();
        match tickets.get_mut(ticket as usize).map(|ticket| &mut ticket.stage) {
            Some(Stage::Done(_)) => drop(tickets.remove(ticket as usize)),
            Some(stage) => *stage = Stage::Left,
            None => (),
        }
    }

    /// Empties a parcel and keeps its memory for the next message.
    fn take_back(&self, mut parcel: Parcel) {
        for slice in parcel.slices.drain(..) {
            self.pool.give(slice.into_chunk());
        }
        parcel.records.clear();
        let mut parcels = self.parcels.borrow_mut();
        if parcels.len() < PARCELS_IDLE_MAX && parcel.records.capacity() <= RECORDS_KEPT_BYTES_MAX {
            parcels.push(Parcel {
                slices: parcel.slices,
                records: parcel.records,
                ..Parcel::default()
            });
        }
    }

    /// Removes what an unfinished body streamed. Should it never be sent, recovery does it.
    fn abort(&self, id: MessageId, chunks: u32) {
        self.removals.borrow_mut().push_back(Order::Abort { id, chunks });
        while !self.removals.borrow().is_empty()
            && let Some(place) = self.gate.try_enter()
        {
            self.give_back(place);
        }
    }

    fn send_removal(&self, place: Place, order: Order) {
        // Without the thread there is nobody to tell; recovery removes what was streamed.
        let _ = self.send(place, Stage::Left, order);
    }
}

/// While the process drains, messages that were begun are still finished.
fn belongs_to_the_past(order: &Order) -> bool {
    matches!(order, Order::Chunk { .. } | Order::Finish(_) | Order::FinishAll(_) | Order::Settle(_))
}

/// How long somebody waits for an answer.
enum Patience {
    /// The order is to be carried out, however long that takes.
    Endless,
    /// Until the disk is seen to hang. With the messages that the order makes durable.
    UntilHung(Messages),
}

/// The messages of one order; a single one costs no allocation.
#[derive(Clone)]
enum Messages {
    None,
    One(MessageId),
    Several(Rc<[MessageId]>),
}

impl Messages {
    fn as_slice(&self) -> &[MessageId] {
        match self {
            Messages::None => &[],
            Messages::One(id) => std::slice::from_ref(id),
            Messages::Several(ids) => ids,
        }
    }
}

/// A body that waits for a place, to be woken when the disk hangs.
struct InLine<'i> {
    inner: &'i Inner,
    place: Option<usize>,
}

impl InLine<'_> {
    fn note(&mut self, waker: &Waker) {
        let mut line = self.inner.in_line.borrow_mut();
        match self.place {
            Some(place) => line[place].clone_from(waker),
            None => self.place = Some(line.insert(waker.clone())),
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.inner.in_line.borrow_mut().remove(place);
        }
    }
}

/// Waits for the answer to a ticket. Dropped, it leaves the ticket to `pump`.
struct Outcome<'i> {
    inner: &'i Inner,
    ticket: u32,
    patience: Patience,
    taken: bool,
}

impl Future for Outcome<'_> {
    type Output = Result<Done, CommitFault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.inner.lane.is_gone() {
            // An order that came too late for the thread rings no bell.
            self.inner.pump();
        }
        let place = self.ticket as usize;
        let mut tickets = self.inner.tickets.borrow_mut();
        let stage = &mut tickets[place].stage;
        if let Stage::Done(outcome) = stage {
            let outcome = *outcome;
            tickets.remove(place);
            self.taken = true;
            return Poll::Ready(outcome);
        }
        if let Patience::UntilHung(messages) = &self.patience
            && self.inner.hung_ms.get() > 0
        {
            *stage = match messages {
                Messages::None => Stage::Left,
                messages => Stage::Disowned(messages.clone()),
            };
            drop(tickets);
            self.taken = true;
            return Poll::Ready(Err(CommitFault::Hung));
        }
        match stage {
            Stage::Waiting(Some(waker)) if waker.will_wake(context.waker()) => {}
            waiting => *waiting = Stage::Waiting(Some(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.inner.leave(self.ticket);
        }
    }
}
