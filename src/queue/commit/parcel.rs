//! A finished message on its way to the commit thread.

use std::sync::Arc;

use crate::base::MessageId;
use crate::base::Slice;
use crate::base::limits::CHUNK_BYTES;
use crate::event::EventList;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::event_log::push_accepted;
use crate::queue::record::head::encode_head;
use crate::queue::record::job::Job;
use crate::queue::record::outer::RecordFault;

/// The content of a finished message. The emptied parcel returns to the shard for reuse.
#[derive(Default)]
pub struct Parcel {
    /// `Some` while the parcel is in use.
    pub id: Option<MessageId>,
    /// Chunks that were streamed before; the slices here come after them.
    pub streamed: u32,
    pub slices: Vec<Slice>,
    /// The body, if several messages share it. Then there are no streamed chunks and no slices.
    pub shared: Option<Arc<[u8]>>,
    /// The records of envelope, job and head, one behind the other.
    pub records: Vec<u8>,
    pub envelope_len: usize,
    pub job_len: usize,
    pub due_ms: u64,
    pub body_bytes: u64,
    pub recipients: u32,
    pub events: EventList,
}

impl Parcel {
    /// The id of a parcel in use.
    pub fn id(&self) -> MessageId {
        self.id.expect("a parcel in use has its id")
    }

    /// Encodes the records of the message: its envelope, one job for all recipients, due at `due_ms`,
    /// and its head.
    pub fn fill(
        &mut self,
        head: &[u8],
        envelope: &Envelope<'_>,
        due_ms: u64,
    ) -> Result<(), RecordFault> {
        self.records.clear();
        envelope.encode(&mut self.records)?;
        self.envelope_len = self.records.len();
        Job::fresh(due_ms, envelope.recipients.len()).encode(&mut self.records)?;
        self.job_len = self.records.len() - self.envelope_len;
        encode_head(head, &mut self.records);
        self.due_ms = due_ms;
        self.body_bytes = envelope.body.bytes;
        self.recipients = envelope.recipients.len() as u32;
        self.events.clear();
        let (id, peer) = (self.id(), Some(envelope.peer.ip()));
        push_accepted(&mut self.events, id, envelope, peer);
        Ok(())
    }

    /// Approximate bytes in a batch.
    pub fn bytes(&self) -> usize {
        let slices: usize = self.slices.iter().map(Slice::len).sum();
        self.records.len()
            + self.events.bytes().len()
            + slices
            + self.shared.as_ref().map_or(0, |body| body.len())
    }

    /// Chunks that are written with the envelope.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let shared = self.shared.iter().flat_map(|body| body.chunks(CHUNK_BYTES));
        self.slices.iter().map(Slice::bytes).chain(shared)
    }

    /// The records of envelope, job and head.
    pub fn records(&self) -> [&[u8]; 3] {
        let (envelope, rest) = self.records.split_at(self.envelope_len);
        let (job, head) = rest.split_at(self.job_len);
        [envelope, job, head]
    }
}
