//! A message being received: from the end of its header block to its commit.
//!
//! Owner:    the shard that is home to its partition.
//! Promise:  `finish` returns `Ok` only after the synced write. If an `Incoming` is dropped before, the
//!           store removes what it wrote.
//! Order:    once the header block is complete, the partition is chosen and the id assigned; then edits
//!           and trace field; then the body, whose full chunks are written unsynced; then the
//!           signature; then the last chunks with header and envelope in one batch.
//! Bounds:   while `STREAM_CHUNKS_IN_FLIGHT_MAX` chunks are on their way to the store, the body waits,
//!           and so does its sender. A message that is split is held in memory: at most
//!           `FINISH_ALL_BYTES_MAX` for all its copies, and as much for all splits of the shard. Both
//!           are checked before memory is taken: see `SplitMemory`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::Chunk;
use crate::base::PublicId;
use crate::base::Slice;
use crate::base::clock::wall_ms;
use crate::base::limits::FINISH_ALL_BYTES_MAX;
use crate::queue::Body;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::Finish;
use crate::queue::Recipients;
use crate::queue::RecipientsBuf;
use crate::queue::SharedBody;
use crate::submit::edit;
use crate::submit::envelope::EnvelopeBuf;
use crate::submit::envelope::Text;
use crate::submit::intake::Intake;
use crate::submit::record::MessageFacts;
use crate::submit::record::OwnLabels;
use crate::submit::record::envelope;
use crate::submit::record::note_accepted;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::rules;
use crate::submit::signature::Signature;
use crate::submit::submission::Submission;
use crate::wire::mail::received::Received;

/// A message behind the durable line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub id: PublicId,
    /// The other messages of a submission that was split.
    pub others: Vec<PublicId>,
    /// Bytes of header and body as they came.
    pub bytes: u64,
    /// When the sender was named.
    pub began: Instant,
}

impl Accepted {
    fn new(
        id: PublicId,
        others: Vec<PublicId>,
        body_bytes: u64,
        submission: &Submission,
    ) -> Accepted {
        let bytes = submission.head.block().len() as u64 + body_bytes;
        Accepted { id, others, bytes, began: submission.envelope.began }
    }
}

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
        let recipients = submission.envelope.recipients().len();
        let content = match submission.options.split && recipients > 1 {
            true => {
                let memory = SplitMemory::take(self, recipients, head.block().len())?;
                Content::Split { committer: committer.clone(), bytes: Vec::new(), memory }
            }
            false => {
                let body = committer.body(wall_ms())?;
                let only = only_recipient(&submission.envelope);
                let (head, signature) = self.head(&submission, body.id(), only, wall_ms());
                Content::Single { head, signature, body: Box::new(body) }
            }
        };
        let early = head.early_body().to_vec();
        let mut incoming = Incoming { intake: Rc::clone(self), submission, content, bytes: 0 };
        incoming.push_copy(&early).await?;
        Ok(incoming)
    }

    /// The header of one message, and its signature if it gets one.
    fn head(
        &self,
        submission: &Submission,
        id: PublicId,
        only_recipient: Option<&str>,
        now_ms: u64,
    ) -> (Head, Option<Box<dyn Signature>>) {
        let Submission { identity, envelope, head, .. } = submission;
        let id = id.to_string();
        let hostname = &head.policy().hostname;
        let mut bytes = self.take_buffer();
        Received {
            helo: envelope.get(Text::Helo).unwrap_or(""),
            peer_name: envelope.get(Text::PeerName),
            peer: identity.peer().ip(),
            by: hostname,
            with: envelope.protocol,
            tls: envelope.tls,
            id: &id,
            for_: only_recipient,
            at_ms: now_ms,
        }
        .write(&mut bytes);
        let trace_bytes = bytes.len();
        let added_message_id = rules::added_message_id(identity, head.scan(), hostname, &id);
        edit::apply(head.block(), &rules::edits(identity, hostname, &id, now_ms), &mut bytes);
        let signer = self.signer.borrow().clone();
        let signature = signer.and_then(|signer| signer.begin(identity, &bytes[trace_bytes..]));
        (Head { bytes, trace_bytes, added_message_id }, signature)
    }
}

/// The header of one message as it is sent: trace field, then the edited block.
struct Head {
    bytes: Vec<u8>,
    trace_bytes: usize,
    added_message_id: Option<String>,
}

impl Head {
    fn facts<'a>(
        &'a self,
        submission: &'a Submission,
        recipients: Recipients<'a>,
    ) -> MessageFacts<'a> {
        let own = submission.head.scan().message_id();
        let message_id = self.added_message_id.as_deref().or(own);
        MessageFacts { submission, recipients, message_id }
    }

    /// Puts the fields of the signature between trace field and block.
    async fn sign(&mut self, mut signature: Box<dyn Signature>) -> Result<(), Refusal> {
        let fields = signature.sign(&self.bytes[self.trace_bytes..]).await?;
        self.bytes.splice(self.trace_bytes..self.trace_bytes, fields);
        Ok(())
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
        memory: SplitMemory,
    },
}

/// Memory that a split message needs when it is committed: header block and body, once for each
/// recipient. Counted for its shard until it is dropped.
struct SplitMemory {
    intake: Rc<Intake>,
    copies: usize,
    bytes: usize,
}

impl SplitMemory {
    fn take(
        intake: &Rc<Intake>,
        copies: usize,
        block_bytes: usize,
    ) -> Result<SplitMemory, Refusal> {
        let mut memory = SplitMemory { intake: Rc::clone(intake), copies, bytes: 0 };
        memory.grow(block_bytes)?;
        Ok(memory)
    }

    /// Counts so many more bytes of the message, or refuses them: a message that is too large for
    /// good, one for which other splits leave no room for now.
    fn grow(&mut self, more: usize) -> Result<(), Refusal> {
        let more = more.saturating_mul(self.copies);
        if more > FINISH_ALL_BYTES_MAX - self.bytes {
            return Err(Refusal::new(RefusalCode::SplitTooLarge));
        }
        let of_shard = self.intake.split_bytes.get();
        if more > FINISH_ALL_BYTES_MAX - of_shard {
            return Err(Refusal::new(RefusalCode::Busy));
        }
        self.intake.split_bytes.set(of_shard + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for SplitMemory {
    fn drop(&mut self) {
        let of_shard = &self.intake.split_bytes;
        of_shard.set(of_shard.get() - self.bytes);
    }
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
                let grown = memory.grow(slice.len());
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
                Accepted::new(committed.id, Vec::new(), bytes, &submission)
            }
            Content::Split { committer, bytes: body, memory: _memory } => {
                finish_split(&intake, &committer, &submission, body).await?
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

/// One message for each recipient, all in one batch, or none.
async fn finish_split(
    intake: &Intake,
    committer: &Committer,
    submission: &Submission,
    body: Vec<u8>,
) -> Result<Accepted, Refusal> {
    let now_ms = wall_ms();
    let labels = OwnLabels::of(&submission.head);
    let bytes = body.len() as u64;
    let body: Arc<[u8]> = body.into();
    let shared = SharedBody::new(Arc::clone(&body));
    let mut parts = Vec::new();
    for recipient in submission.envelope.recipients().iter() {
        let message = committer.body_of(&shared, now_ms)?;
        let (mut head, signature) =
            intake.head(submission, message.id(), Some(recipient.mailbox), now_ms);
        if let Some(mut signature) = signature {
            signature.body(&body);
            head.sign(signature).await?;
        }
        let mut only = RecipientsBuf::default();
        only.push(&recipient).map_err(CommitFault::Record)?;
        parts.push((message, head, only));
    }
    let (messages, records): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|(message, head, only)| (message, (head, only))).unzip();
    let all = messages.into_iter().zip(&records).map(|(message, (head, only))| Finish {
        body: message,
        head: &head.bytes,
        envelope: envelope(&head.facts(submission, only.as_recipients()), &labels, now_ms),
        due_ms: now_ms,
    });
    let began = Instant::now();
    let committed = committer.finish_all(all.collect()).await?;
    for (committed, (head, only)) in committed.iter().zip(&records) {
        note_accepted(
            intake,
            &head.facts(submission, only.as_recipients()),
            committed,
            (bytes, began),
        );
    }
    let ids: Vec<PublicId> = committed.iter().map(|one| one.id).collect();
    Ok(Accepted::new(ids[0], ids[1..].to_vec(), bytes, submission))
}

/// RFC 5321 s7.6: with several recipients the trace field would tell one of the others.
fn only_recipient(envelope: &EnvelopeBuf) -> Option<&str> {
    let recipients = envelope.recipients();
    (recipients.len() == 1).then(|| recipients.iter().next())?.map(|only| only.mailbox)
}
