//! A message being received: from the end of its header block to its commit.
//!
//! Owner:    the shard that is home to its partition.
//! Promise:  `finish` returns `Ok` only after the synced write. If an `Incoming` is dropped before, the
//!           store removes what it wrote.
//! Order:    once the header block is complete, the partition is chosen and the id assigned; then edits
//!           and trace field; then the body, whose full chunks are written unsynced; then the
//!           signature; then the last chunks with header and envelope in one batch.
//! Bounds:   while `STREAM_CHUNKS_IN_FLIGHT_MAX` chunks are on their way to the store, the body waits,
//!           and so does its sender. A message that is split is held in memory: see `batch`.

use std::rc::Rc;
use std::time::Instant;

use crate::base::Chunk;
use crate::base::Slice;
use crate::base::clock::wall_ms;
use crate::queue::Body;
use crate::queue::Committer;
use crate::submit::batch;
use crate::submit::batch::BatchMemory;
use crate::submit::batch::Whole;
use crate::submit::compose::Head;
use crate::submit::intake::Intake;
use crate::submit::record::OwnLabels;
use crate::submit::record::envelope;
use crate::submit::record::note_accepted;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::signature::Signature;
use crate::submit::submission::Accepted;
use crate::submit::submission::Submission;

impl Intake {
    /// The header block is whole: chooses the partition, draws the id and edits the block.
    pub async fn begin(
        self: &Rc<Intake>,
        submission: Box<Submission>,
    ) -> Result<Incoming, Refusal> {
        let head = &submission.head;
        if head.loops() {
            return Err(Refusal::new(RefusalCode::Loop));
        }
        let committer = self.committer(submission.placement)?;
        let content = match submission.messages() {
            2.. => {
                let mut memory = BatchMemory::new(self);
                memory.grow(head.block().len(), submission.messages())?;
                Content::Split { committer: committer.clone(), bytes: Vec::new(), memory }
            }
            _ => {
                let (body, to) = (committer.body(wall_ms())?, submission.envelope.recipients());
                let (head, signature) = self.head(&submission, body.id(), to, wall_ms());
                Content::Single { head, signature, body: Box::new(body) }
            }
        };
        let early = head.early_body().to_vec();
        let mut incoming = Incoming { intake: Rc::clone(self), submission, content, bytes: 0 };
        incoming.push_copy(&early).await?;
        Ok(incoming)
    }
}

/// A message whose body arrives.
pub struct Incoming {
    intake: Rc<Intake>,
    submission: Box<Submission>,
    content: Content,
    /// Of the body, without the header block.
    bytes: u64,
}

enum Content {
    Single {
        head: Head,
        signature: Option<Box<dyn Signature>>,
        body: Box<Body>,
    },
    /// One message for each recipient, with a body that all of them share in memory.
    Split {
        committer: Committer,
        bytes: Vec<u8>,
        memory: BatchMemory,
    },
}

impl Incoming {
    /// Takes the next bytes of the body. Waits while too much of the body is on its way to the store.
    pub async fn push(&mut self, chunk: Chunk, from: usize) -> Result<(), Refusal> {
        let end = chunk.len();
        let slice = Slice::new(chunk, from..end);
        self.bytes += slice.len() as u64;
        match &mut self.content {
            Content::Single { signature, body, .. } => {
                if let Some(signature) = signature {
                    signature.body(slice.bytes());
                }
                Ok(body.push(slice).await?)
            }
            Content::Split { bytes, memory, .. } => {
                let grown = memory.grow(slice.len(), self.submission.messages());
                if grown.is_ok() {
                    bytes.extend_from_slice(slice.bytes());
                }
                self.intake.pool.give(slice.into_chunk());
                grown
            }
        }
    }

    /// The body is whole: makes the message durable.
    pub async fn finish(self) -> Result<Accepted, Refusal> {
        let Incoming { intake, submission, content, bytes } = self;
        let accepted = match content {
            Content::Single { mut head, signature, body } => {
                if let Some(signature) = signature {
                    head.sign(signature).await?;
                }
                let labels = OwnLabels::of(&submission.head);
                let recipients = submission.envelope.recipients();
                let now_ms = wall_ms();
                let facts = head.facts(&submission, recipients);
                let envelope = envelope(&facts, &labels, now_ms);
                let began = Instant::now();
                let committed = body.finish(&head.bytes, &envelope, now_ms).await?;
                note_accepted(&intake, &facts, &committed, (bytes, began));
                intake.give_buffer(head.bytes);
                Accepted::new(&[committed.id], bytes, &submission)
            }
            Content::Split { committer, bytes: body, memory: _memory } => {
                let whole = Whole { submission: &submission, body: body.into() };
                batch::finish_all(&intake, &committer, &[whole]).await?.remove(0)
            }
        };
        intake.give_back(*submission);
        Ok(accepted)
    }

    async fn push_copy(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let Some(mut chunk) = self.intake.pool.try_take() else {
                return Err(Refusal::new(RefusalCode::Busy));
            };
            let count = chunk.fill_from(bytes);
            bytes = &bytes[count..];
            self.push(chunk, 0).await?;
        }
        Ok(())
    }
}
