//! The shard's side of group commit.
//!
//! Owner:    the home shard. One `Committer` per partition; not `Send`, no lock.
//! Hung:     while a batch takes longer than `COMMIT_HUNG_MS`, new and waiting mail is answered
//!           `Hung`. If such a message becomes durable after all, it is removed, because its sender
//!           will send it again. It is delivered twice only if the process ends before the removal,
//!           or if the schedule is scanned before it. Settlements and removals keep waiting and are
//!           carried out when the disk answers again.
//! Bounds:   `COMMIT_WAITERS_MAX` orders in progress. Later callers queue, and the client's 250 is
//!           delayed; the intake bounds how many bodies may wait. At most `SETTLES_IN_LANE_MAX` of
//!           the orders come from either queue of `settle_in_turn`. `UNSETTLED_MAX` urgent orders
//!           are in progress besides.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::ChunkPool;
use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::id::IdSource;
use crate::base::limits::COMMIT_WAITERS_MAX;
use crate::base::limits::FINISH_ALL_BYTES_MAX;
use crate::base::limits::SETTLES_IN_LANE_MAX;
use crate::base::limits::UNSETTLED_MAX;
use crate::queue::commit::body::Body;
use crate::queue::commit::body::BodyState;
use crate::queue::commit::body::Committed;
use crate::queue::commit::keeper::Fresh;
use crate::queue::commit::keeper::Keeper;
use crate::queue::commit::lane::CommitHandle;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Ring;
use crate::queue::commit::outcome::Outcome;
use crate::queue::commit::outcome::Patience;
use crate::queue::commit::settle::FILINGS_MAX;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::Settlement;
use crate::queue::commit::tickets::Inner;
use crate::queue::commit::tickets::Messages;
use crate::queue::commit::tickets::WATCH_GAP_MS_MAX;
use crate::queue::commit::tickets::Watched;
use crate::queue::fault::CommitFault;
use crate::queue::points;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::rows::Row;
use crate::rt::gate::Gate;
use crate::rt::gate::Place;

/// Commits the mail of one partition. Clones are the same committer.
#[derive(Clone)]
pub struct Committer {
    inner: Rc<Inner>,
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

/// What `Committer::watch` has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hang {
    /// The present batch takes too long: this many milliseconds so far.
    Began { ms: u64 },
    /// The batch was written or has failed, after about this many milliseconds.
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
                place_waiters: RefCell::default(),
                keeper: RefCell::default(),
            }),
        }
    }

    pub fn partition(&self) -> PartitionId {
        self.inner.lane.partition
    }

    /// Why the partition accepts no new message, if so.
    pub fn fault(&self) -> Option<CommitFault> {
        self.inner.fault()
    }

    /// Checks whether the present batch takes too long. Call it at every tick. The time between two
    /// checks counts for at most `WATCH_GAP_MS_MAX`: after the process was stopped for a minute
    /// (SIGSTOP, a suspended machine) the batch is old although the disk is fine.
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

    /// Age of the present batch at the last check in milliseconds, if that is too long; else 0.
    pub fn hung_ms(&self) -> u64 {
        self.inner.hung_ms.get()
    }

    /// Whether a new message would have to wait for a place.
    pub fn is_busy(&self) -> bool {
        !self.inner.gate.has_free()
    }

    /// The public id of a message of this partition.
    pub fn public_id(&self, id: MessageId) -> PublicId {
        self.inner.public_id(id)
    }

    /// Begins a message with a complete body that it shares with others.
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
        let ticket = match self.inner.submit(place, CommitOrder::FinishAll(parcels)) {
            Ok(ticket) => ticket,
            Err((fault, order)) => {
                if let CommitOrder::FinishAll(parcels) = order {
                    let bodies = all.iter_mut().map(|one| &mut one.body);
                    bodies.zip(parcels).for_each(|(body, parcel)| body.parcel = parcel);
                }
                return Err(fault);
            }
        };
        all.iter_mut().for_each(|one| one.body.state = BodyState::Sent);
        let patience = Patience::UntilHung(Messages::Several(ids));
        let done = Outcome::of(&self.inner, ticket, patience).await?;
        if let (Some(keeper), Some(fresh)) = (keeper, fresh) {
            fresh.into_iter().for_each(|fresh| keeper.kept(fresh));
        }
        let committed = all.iter().enumerate().map(|(place, one)| Committed {
            leads: done.leads && place == 0,
            ..one.body.committed(&done)
        });
        Ok(committed.collect())
    }

    /// Begins a message and assigns its id.
    pub fn body(&self, now_ms: u64) -> Result<Body, CommitFault> {
        self.fault().map_or(Ok(()), Err)?;
        Ok(Body::new(Rc::clone(&self.inner), self.next_id(now_ms)))
    }

    /// Removes a message. `false`: there is no such message.
    pub async fn delete(&self, id: MessageId) -> Result<bool, CommitFault> {
        let place = self.inner.gate.enter().await;
        self.answer_to(place, CommitOrder::Delete(id)).await
    }

    /// Low-priority settle: retries and holds, behind accepts. Splits have a queue of their own.
    pub async fn settle_in_turn(&self, settlement: Arc<Settlement>) -> Result<bool, CommitFault> {
        // So that fresh mail for several next hops does not wait behind the retries of other mail.
        let queue = match settlement.change {
            JobChange::Split(_) => &self.inner.splits,
            JobChange::End | JobChange::Again(_) => &self.inner.settles,
        };
        self.in_turn(queue, CommitOrder::Settle(settlement)).await
    }

    /// Files jobs under their flows, at low priority and without a sync: all of them in one batch.
    /// `false`: at least one of them no longer exists, or is held.
    pub async fn file(&self, filings: Arc<[Filing]>) -> Result<bool, CommitFault> {
        crate::invariant!(filings.len() <= FILINGS_MAX, "one order files too many jobs");
        self.in_turn(&self.inner.settles, CommitOrder::File(filings)).await
    }

    /// Removes rows that a read has found to be leftovers, unless their jobs have them by now.
    pub async fn remove_leftovers(&self, rows: Vec<Row>) -> Result<(), CommitFault> {
        let order = CommitOrder::RemoveLeftovers(rows);
        self.in_turn(&self.inner.settles, order).await.map(drop)
    }

    async fn in_turn(&self, queue: &Rc<Gate>, order: CommitOrder) -> Result<bool, CommitFault> {
        let _turn = queue.enter().await;
        let place = self.inner.gate.enter().await;
        self.answer_to(place, order).await
    }

    async fn answer_to(&self, place: Place, order: CommitOrder) -> Result<bool, CommitFault> {
        let ticket = self.inner.submit(place, order).map_err(|(fault, _)| fault)?;
        Outcome::of(&self.inner, ticket, Patience::Endless).await.map(|done| done.found)
    }

    /// Tells `keeper` of all mail that becomes durable from now on.
    pub fn tell(&self, keeper: Rc<dyn Keeper>) {
        *self.inner.keeper.borrow_mut() = Some(keeper);
    }

    /// An id for a message made here.
    pub fn next_id(&self, now_ms: u64) -> MessageId {
        self.inner.ids.borrow_mut().next_id(now_ms)
    }

    /// Settles a job ahead of all other orders: a crash before would repeat its delivery. `false`: the
    /// job no longer exists. After a full disk the same settlement may be tried again.
    pub async fn settle(&self, settlement: Arc<Settlement>) -> Result<bool, CommitFault> {
        let place = self.inner.urgent.enter().await;
        self.answer_to(place, CommitOrder::Settle(settlement)).await
    }

    /// Takes the answers: returns chunks to the pool and wakes waiting sessions. Returns the number of
    /// answers. Call it whenever `ring` was called.
    pub fn pump(&self) -> usize {
        self.inner.pump()
    }

    /// Open tickets: orders without an answer, and answers that nobody has taken yet.
    pub fn waiting(&self) -> usize {
        self.inner.tickets.borrow().len()
    }
}
