//! The intake: a submission becomes a durable message on the home shard of its partition.
//!
//! Owner:    one per shard; never leaves it. An `Incoming` is one message from the end of its header
//!           block to its commit.
//! Promise:  `finish` returns `Ok` only after the synced write. An `Incoming` that is dropped before
//!           leaves nothing behind that the store does not sweep.
//! Order:    the partition is chosen and the id drawn when the header block is whole; then edits and
//!           trace field; then the body, full chunks unsynced while it arrives; then the signature;
//!           then the last chunks with header and envelope in one batch.
//! Bounds:   the body waits while `STREAM_CHUNKS_IN_FLIGHT_MAX` chunks are on their way to the store,
//!           and so does its sender.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::Chunk;
use crate::base::ChunkPool;
use crate::base::PublicId;
use crate::base::Slice;
use crate::base::clock::wall_ms;
use crate::base::limits::FINISH_ALL_BYTES_MAX;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::observe::Stage;
use crate::observe::log::Record;
use crate::queue;
use crate::queue::Body;
use crate::queue::CommitFault;
use crate::queue::Committed;
use crate::queue::Committer;
use crate::queue::Envelope;
use crate::queue::Recipients;
use crate::queue::RecipientsBuf;
use crate::queue::SpaceWatch;
use crate::queue::committer::Finish;
use crate::queue::committer::SharedBody;
use crate::queue::labels::FieldsBuf;
use crate::queue::schema;
use crate::submit::edit;
use crate::submit::envelope::EnvelopeBuf;
use crate::submit::envelope::Text;
use crate::submit::head::HeadPolicy;
use crate::submit::head::RawHead;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::rules;
use crate::submit::signature::Signature;
use crate::submit::signature::Signer;
use crate::submit::submission::Placement;
use crate::submit::submission::Submission;
use crate::wire::mail::received::Received;
use crate::wire::smtp::transaction::BodyType;

/// Buffers kept for the next messages, and the largest one worth keeping.
const BUFFERS_IDLE_MAX: usize = 256;
const BUFFER_BYTES_KEPT_MAX: usize = 8 << 10;
/// Recipients of an envelope worth keeping.
const RECIPIENTS_KEPT_MAX: usize = 64;

/// Chunks that a body under way may hold for long: one that fills and one that waits for the store.
const CHUNKS_PER_BODY: usize = 2;

/// The intake of one shard.
pub struct Intake {
    pool: Rc<ChunkPool>,
    committers: Vec<Committer>,
    space: Arc<SpaceWatch>,
    observed: Arc<ShardObserved>,
    histograms: Rc<Histograms>,
    signer: RefCell<Option<Rc<dyn Signer>>>,
    /// The partition whose turn is next.
    turn: Cell<usize>,
    bodies: Cell<usize>,
    /// Submissions of other threads under way.
    submissions: Cell<usize>,
    envelopes: RefCell<Vec<EnvelopeBuf>>,
    buffers: RefCell<Vec<Vec<u8>>>,
}

/// What an intake is made of.
pub struct IntakeParts {
    pub pool: Rc<ChunkPool>,
    /// The partitions whose home this shard is.
    pub committers: Vec<Committer>,
    pub space: Arc<SpaceWatch>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
}

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
    pub fn new(parts: IntakeParts) -> Rc<Intake> {
        let IntakeParts { pool, committers, space, observed, histograms } = parts;
        assert!(!committers.is_empty(), "a shard that takes mail is home to a partition");
        Rc::new(Intake {
            pool,
            committers,
            space,
            observed,
            histograms,
            signer: RefCell::new(None),
            turn: Cell::new(0),
            bodies: Cell::new(0),
            submissions: Cell::new(0),
            envelopes: RefCell::default(),
            buffers: RefCell::default(),
        })
    }

    /// Signs the messages that begin from now on.
    pub fn set_signer(&self, signer: Option<Rc<dyn Signer>>) {
        *self.signer.borrow_mut() = signer;
    }

    pub fn pool(&self) -> &Rc<ChunkPool> {
        &self.pool
    }

    pub fn committers(&self) -> &[Committer] {
        &self.committers
    }

    /// Whether a message of so many bytes, as far as known, can be taken now.
    pub fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        if self.space.is_low() || self.space.last().free_bytes < bytes {
            return Err(Refusal::new(RefusalCode::StorageFull));
        }
        if self.store_fault() == Some(CommitFault::Hung) {
            return Err(Refusal::new(RefusalCode::StorageHung));
        }
        if !self.has_body_room() {
            return Err(Refusal::new(RefusalCode::Busy));
        }
        Ok(())
    }

    /// An empty envelope.
    pub fn take_envelope(&self) -> EnvelopeBuf {
        let kept = self.envelopes.borrow_mut().pop();
        kept.map_or_else(|| EnvelopeBuf::new(""), EnvelopeBuf::emptied)
    }

    /// An empty header block, to be fed.
    pub fn take_head(&self, policy: &Arc<HeadPolicy>) -> RawHead {
        RawHead::new(policy, self.take_buffer())
    }

    /// Counts a body as under way for as long as the slot lives.
    pub fn take_body_slot(self: &Rc<Intake>) -> BodySlot {
        self.bodies.set(self.bodies.get() + 1);
        BodySlot(Rc::clone(self))
    }

    /// Submissions of other threads under way.
    pub fn submissions(&self) -> usize {
        self.submissions.get()
    }

    /// Counts such a submission for as long as the guard lives.
    pub fn count_submission(self: &Rc<Intake>) -> SubmissionCount {
        self.submissions.set(self.submissions.get() + 1);
        SubmissionCount(Rc::clone(self))
    }

    /// The header block is whole: chooses the partition, draws the id and edits the block.
    pub async fn begin(
        self: &Rc<Intake>,
        submission: Box<Submission>,
    ) -> Result<Incoming, Refusal> {
        let head = &submission.head;
        if head.scan().received_count() > head.policy().received_max {
            return Err(Refusal::new(RefusalCode::Loop));
        }
        let committer = self.committer(submission.placement)?;
        let recipients = submission.envelope.recipients().len();
        let content = match submission.options.split && recipients > 1 {
            true => {
                let bytes_max = FINISH_ALL_BYTES_MAX / recipients;
                Content::Split { committer: committer.clone(), bytes: Vec::new(), bytes_max }
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
        edit::apply(head.block(), &rules::edits(identity, hostname, &id, now_ms), &mut bytes);
        let signer = self.signer.borrow().clone();
        let signature = signer.and_then(|signer| signer.begin(identity, &bytes[trace_bytes..]));
        (Head { bytes, trace_bytes }, signature)
    }

    /// Why no partition takes mail, if none does.
    fn store_fault(&self) -> Option<CommitFault> {
        let mut faults = self.committers.iter().map(Committer::fault);
        let last = self.committers.last()?.fault();
        if faults.all(|fault| fault.is_some()) { last } else { None }
    }

    fn committer(&self, placement: Placement) -> Result<&Committer, Refusal> {
        let found = match placement {
            Placement::Any => self.next_committer(),
            Placement::Partition(partition) => {
                let found = self.committers.iter().find(|one| one.partition() == partition);
                crate::invariant!(found.is_some(), "partition {partition} has another home");
                found
            }
        };
        found.ok_or_else(|| self.store_fault().unwrap_or(CommitFault::Failed).into())
    }

    /// The partition for the next message: in turns, without those that have stopped.
    fn next_committer(&self) -> Option<&Committer> {
        let count = self.committers.len();
        let turn = self.turn.get();
        self.turn.set((turn + 1) % count);
        let from_turn = || (0..count).map(|step| &self.committers[(turn + step) % count]);
        from_turn().find(|committer| committer.fault().is_none() && !committer.is_busy()).or_else(
            || {
                // A partition that is only busy may have room by the end of the body.
                from_turn().find(|one| {
                    !matches!(one.fault(), Some(CommitFault::Failed | CommitFault::Hung))
                })
            },
        )
    }

    /// Whether another body can have its chunks. An eighth of the pool stays for commands, so that
    /// bodies cannot silence a shard.
    fn has_body_room(&self) -> bool {
        let for_bodies = self.pool.chunks_max() - self.pool.chunks_max() / 8;
        (self.bodies.get() + 1) * CHUNKS_PER_BODY <= for_bodies
            && self.pool.chunks_out() < for_bodies
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() <= BUFFER_BYTES_KEPT_MAX && buffers.len() < BUFFERS_IDLE_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Keeps the memory of a submission for the next one.
    pub fn give_back(&self, submission: Submission) {
        self.give_buffer(submission.head.into_buffer());
        let mut envelopes = self.envelopes.borrow_mut();
        if submission.envelope.recipients().len() <= RECIPIENTS_KEPT_MAX
            && envelopes.len() < BUFFERS_IDLE_MAX
        {
            envelopes.push(submission.envelope);
        }
    }
}

/// Counts one body under way.
pub struct BodySlot(Rc<Intake>);

impl Drop for BodySlot {
    fn drop(&mut self) {
        self.0.bodies.set(self.0.bodies.get() - 1);
    }
}

/// Counts one submission of another thread.
pub struct SubmissionCount(Rc<Intake>);

impl Drop for SubmissionCount {
    fn drop(&mut self) {
        self.0.submissions.set(self.0.submissions.get() - 1);
    }
}

/// The header of one message as it is sent: trace field, then the edited block.
struct Head {
    bytes: Vec<u8>,
    trace_bytes: usize,
}

impl Head {
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
        bytes_max: usize,
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
            Content::Split { bytes, bytes_max, .. } => {
                bytes.extend_from_slice(slice.bytes());
                let fits = bytes.len() <= *bytes_max;
                self.intake.pool.give(slice.into_chunk());
                if fits { Ok(()) } else { Err(Refusal::new(RefusalCode::SplitTooLarge)) }
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
                let envelope = envelope(&submission, &labels, recipients, now_ms);
                let began = Instant::now();
                let committed = body.finish(&head.bytes, &envelope, now_ms).await;
                intake.give_buffer(head.bytes);
                let committed = committed?;
                note_accepted(&intake, &submission, &committed, recipients, (bytes, began));
                Accepted::new(committed.id, Vec::new(), bytes, &submission)
            }
            Content::Split { committer, bytes: body, .. } => {
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
        envelope: envelope(submission, &labels, only.as_recipients(), now_ms),
        due_ms: now_ms,
    });
    let began = Instant::now();
    let committed = committer.finish_all(all.collect()).await?;
    for (committed, (_, only)) in committed.iter().zip(&records) {
        note_accepted(intake, submission, committed, only.as_recipients(), (bytes, began));
    }
    let ids: Vec<PublicId> = committed.iter().map(|one| one.id).collect();
    Ok(Accepted::new(ids[0], ids[1..].to_vec(), bytes, submission))
}

/// What the header says that is kept with the message.
struct OwnLabels {
    campaign: Option<String>,
    fields: FieldsBuf,
}

impl OwnLabels {
    fn of(head: &RawHead) -> OwnLabels {
        let (picked, wanted) = (head.scan().picked(), &head.policy().labels);
        let campaign = wanted.campaign.and_then(|place| picked.value(place));
        let mut fields = FieldsBuf::default();
        for &place in &wanted.routed {
            if let Some(value) = picked.value(place) {
                let pushed = fields.push(wanted.wanted.name(place), &value);
                pushed.expect("names and values are short, and few");
            }
        }
        OwnLabels { campaign: campaign.filter(|value| !value.is_empty()), fields }
    }
}

/// RFC 5321 s7.6: with several recipients the trace field would tell one of the others.
fn only_recipient(envelope: &EnvelopeBuf) -> Option<&str> {
    let recipients = envelope.recipients();
    (recipients.len() == 1).then(|| recipients.iter().next())?.map(|only| only.mailbox)
}

fn envelope<'a>(
    submission: &'a Submission,
    labels: &'a OwnLabels,
    recipients: Recipients<'a>,
    now_ms: u64,
) -> Envelope<'a> {
    let Submission { identity, envelope, head, .. } = submission;
    Envelope {
        received_ms: now_ms,
        intake_ms: u32::try_from(envelope.began.elapsed().as_millis()).unwrap_or(u32::MAX),
        sender: envelope.get(Text::Sender),
        smtputf8: envelope.smtputf8,
        requiretls: envelope.requiretls,
        body_type: envelope.body_type,
        ret: envelope.ret,
        envid: envelope.get(Text::EnvelopeId),
        auth: envelope.get(Text::Auth),
        declared_bytes: envelope.declared_bytes,
        body: schema::BodySum::default(),
        peer: identity.peer(),
        helo: envelope.get(Text::Helo).unwrap_or(""),
        listener: identity.listener(),
        protocol: envelope.protocol,
        tls: envelope.tls.map(|(version, cipher)| queue::Tls { version, cipher }),
        message_id: head.scan().message_id(),
        head_bytes: 0,
        kept_until_ms: None,
        tenant: identity.tenant_id(),
        credential: identity.credential(),
        stream: identity.stream(),
        tags: queue::labels::Texts::default(),
        metadata: queue::labels::Fields::default(),
        labels: queue::Labels {
            tenant: identity.tenant().map(|tenant| tenant.name()),
            campaign: labels.campaign.as_deref(),
            fields: labels.fields.as_fields(),
        },
        recipients,
    }
}

/// The message is durable: counts it and logs it.
fn note_accepted(
    intake: &Intake,
    submission: &Submission,
    committed: &Committed,
    recipients: Recipients<'_>,
    (body_bytes, commit_began): (u64, Instant),
) {
    let Submission { identity, envelope, head, .. } = submission;
    let commit_us = commit_began.elapsed().as_micros() as u64;
    let bytes = head.block().len() as u64 + body_bytes;
    let histograms = &intake.histograms;
    histograms.record(Stage::Commit, commit_us);
    if committed.leads {
        histograms.record(Stage::CommitBatch, u64::from(committed.batch));
    }
    let metrics = &intake.observed.metrics;
    metrics.messages_accepted_total.add(1);
    metrics.message_bytes_total.add(bytes);
    metrics.recipients_accepted_total.add(recipients.len() as u64);
    let body_us = envelope.content_began.elapsed().as_micros() as u64;
    let first = recipients.iter().next();
    Record::Accepted {
        id: committed.id,
        partition: committed.id.local.partition(),
        peer: identity.peer().ip(),
        port: identity.peer().port(),
        helo: envelope.get(Text::Helo).unwrap_or(""),
        protocol: envelope.protocol,
        tls: envelope.tls.map(|(version, _)| version),
        cipher: envelope.tls.map(|(_, cipher)| cipher),
        from: envelope.get(Text::Sender).unwrap_or(""),
        to: first.map_or("", |first| first.mailbox),
        tenant: identity.tenant().map(|tenant| tenant.name()),
        recipients: recipients.len(),
        size: bytes,
        body: match envelope.body_type {
            BodyType::SevenBit => "7bit",
            BodyType::EightBitMime => "8bitmime",
            BodyType::BinaryMime => "binarymime",
        },
        message_id: head.scan().message_id(),
        body_us: body_us.saturating_sub(commit_us),
        commit_us,
        total_us: envelope.began.elapsed().as_micros() as u64,
    }
    .emit();
}
