//! A message body on its way to the store.
//!
//! Promise:  `finish` returns `Ok` only after the synced write. If a `Body` is dropped before, its
//!           chunks are removed.
//! Order:    chunks in order, all of them acknowledged before the last write is requested.
//! Bounds:   `STREAM_CHUNKS_IN_FLIGHT_MAX` chunks of one body are in transit, and
//!           `BODY_HELD_BYTES_MAX` are held back for the last write.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::Slice;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::STREAM_CHUNKS_IN_FLIGHT_MAX;
use crate::queue::commit::keeper::Fresh;
use crate::queue::commit::keeper::Keeper;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Done;
use crate::queue::commit::outcome::Outcome;
use crate::queue::commit::outcome::Patience;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::tickets::Inner;
use crate::queue::commit::tickets::Messages;
use crate::queue::fault::CommitFault;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::head::decode_head;
use crate::queue::record::outer::RecordFault;

/// Bytes of a body held back to be written with its envelope. A message up to this size is one
/// batch; a longer one is streamed except for its end.
pub const BODY_HELD_BYTES_MAX: usize = CHUNK_BYTES;

/// Slices of a body that are held back. Even a short slice occupies a whole chunk.
pub const BODY_HELD_SLICES_MAX: usize = 4;

/// What `finish` answers: the message is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub id: PublicId,
    pub body: BodySum,
    /// Microseconds of the write with its sync.
    pub write_us: u32,
    /// Messages in the same batch.
    pub batch: u32,
    /// This message is the first of the batch.
    pub leads: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Everything that was pushed is held, in transit or written.
    Whole,
    /// A part was lost: a write failed, or a `push` was dropped halfway.
    Broken,
    /// The last write has been requested; its outcome no longer depends on this body.
    Sent,
}

/// A body in progress. If it is dropped before `finish`, it is aborted.
pub struct Body {
    pub(super) inner: Rc<Inner>,
    pub(super) id: MessageId,
    pub(super) parcel: Parcel,
    held_bytes: usize,
    in_flight: VecDeque<u32>,
    pub(super) sum: BodySum,
    pub(super) crc: crc32fast::Hasher,
    pub(super) state: BodyState,
}

impl Body {
    pub(super) fn new(inner: Rc<Inner>, id: MessageId) -> Body {
        let mut parcel = inner.parcels.borrow_mut().pop().unwrap_or_default();
        parcel.id = Some(id);
        Body {
            inner,
            id,
            parcel,
            held_bytes: 0,
            in_flight: VecDeque::new(),
            sum: BodySum::default(),
            crc: crc32fast::Hasher::new(),
            state: BodyState::Whole,
        }
    }

    pub fn id(&self) -> PublicId {
        self.inner.public_id(self.id)
    }

    /// Bytes pushed so far.
    pub fn bytes(&self) -> u64 {
        self.sum.bytes
    }

    /// Appends bytes to the body. Waits while too many chunks are in transit. A fault here is final:
    /// the message cannot be finished.
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
            // If this future is dropped now, `slice` is lost and the body stays broken.
            self.stream_held().await?;
            self.state = state;
        }
        self.held_bytes += slice.len();
        self.parcel.slices.push(slice);
        Ok(())
    }

    /// Makes the message durable, with one job for all recipients, due at `due_ms`. The recipients
    /// get `head`, then the body. The sums of both in `envelope` are filled in here.
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
        let done = Outcome::of(&self.inner, ticket, patience).await?;
        if let (Some(keeper), Some(fresh)) = (keeper, fresh) {
            keeper.kept(fresh);
        }
        Ok(self.committed(&done))
    }

    /// Waits for the chunks in transit and fills the parcel.
    pub(super) async fn prepare(
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
        let envelope = Envelope { head_bytes, body: self.sum, ..*envelope };
        self.parcel.fill(head, &envelope, due_ms).map_err(CommitFault::Record)
    }

    pub(super) fn committed(&self, done: &Done) -> Committed {
        let Done { write_us, batch, leads, .. } = *done;
        Committed { id: self.id(), body: self.sum, write_us, batch, leads }
    }

    /// A copy of the message for delivery, so that mail delivered at once is not read back.
    pub(super) fn fresh(&self, keeper: &dyn Keeper) -> Fresh {
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

    async fn send_finish(&mut self) -> Result<u32, CommitFault> {
        let place = self.inner.enter_unless_hung().await?;
        match self.inner.submit(place, CommitOrder::Finish(std::mem::take(&mut self.parcel))) {
            Ok(ticket) => {
                self.state = BodyState::Sent;
                Ok(ticket)
            }
            Err((fault, order)) => {
                if let CommitOrder::Finish(parcel) = order {
                    self.parcel = parcel;
                }
                Err(fault)
            }
        }
    }

    /// Streams the held slices, oldest first.
    async fn stream_held(&mut self) -> Result<(), CommitFault> {
        while !self.parcel.slices.is_empty() {
            self.wait_in_flight(STREAM_CHUNKS_IN_FLIGHT_MAX - 1).await?;
            let place = self.inner.enter_unless_hung().await?;
            let slice = self.parcel.slices.remove(0);
            self.held_bytes -= slice.len();
            let number = self.parcel.streamed;
            let order = CommitOrder::Chunk { id: self.id, number, slice };
            let ticket = self.inner.submit(place, order).map_err(|(fault, _)| fault)?;
            self.in_flight.push_back(ticket);
            self.parcel.streamed += 1;
        }
        Ok(())
    }

    /// Waits until at most `left` chunks are in transit. A chunk that failed breaks the body.
    async fn wait_in_flight(&mut self, left: usize) -> Result<(), CommitFault> {
        while self.in_flight.len() > left {
            let ticket = self.in_flight[0];
            // `Outcome` takes the ticket back in any case.
            let outcome = Outcome::of(&self.inner, ticket, Patience::UntilHung(Messages::None));
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
