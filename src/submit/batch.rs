//! Several messages in one batch: those of `Gateway::send_all`, and one for each recipient of a
//! submission that is split.
//!
//! Promise:  all of them become durable, or none.
//! Bounds:   header blocks and bodies are in memory: `FINISH_ALL_BYTES_MAX` for one batch, and as much
//!           for all batches of a shard. Both are checked before memory is taken: see `BatchMemory`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::PublicId;
use crate::base::clock::wall_ms;
use crate::base::limits::FINISH_ALL_BYTES_MAX;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::Finish;
use crate::queue::Recipients;
use crate::queue::RecipientsBuf;
use crate::queue::SharedBody;
use crate::submit::compose::Head;
use crate::submit::intake::Intake;
use crate::submit::record::MessageFacts;
use crate::submit::record::OwnLabels;
use crate::submit::record::envelope;
use crate::submit::record::note_accepted;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::submission::Accepted;
use crate::submit::submission::Submission;

/// Memory that a batch needs until its commit. Counted for its shard until it is dropped.
pub(super) struct BatchMemory {
    intake: Rc<Intake>,
    bytes: usize,
}

impl BatchMemory {
    pub(super) fn new(intake: &Rc<Intake>) -> BatchMemory {
        BatchMemory { intake: Rc::clone(intake), bytes: 0 }
    }

    /// Counts so many more bytes, once for each of `copies`, or refuses them: a batch that is too
    /// large for good, one for which other batches leave no room for now.
    pub(super) fn grow(&mut self, bytes: usize, copies: usize) -> Result<(), Refusal> {
        let more = bytes.saturating_mul(copies);
        if more > FINISH_ALL_BYTES_MAX - self.bytes {
            return Err(Refusal::new(RefusalCode::BatchTooLarge));
        }
        let of_shard = self.intake.batch_bytes.get();
        if more > FINISH_ALL_BYTES_MAX - of_shard {
            return Err(Refusal::new(RefusalCode::Busy));
        }
        self.intake.batch_bytes.set(of_shard + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for BatchMemory {
    fn drop(&mut self) {
        let of_shard = &self.intake.batch_bytes;
        of_shard.set(of_shard.get() - self.bytes);
    }
}

/// One submission of a batch, with all of its body.
pub(super) struct Whole<'a> {
    pub(super) submission: &'a Submission,
    pub(super) body: Arc<[u8]>,
}

/// One message of a batch.
struct Part<'a> {
    of: &'a Whole<'a>,
    labels: &'a OwnLabels,
    head: Head,
    /// The recipient of a message that is one of several. None: all recipients of the submission.
    only: Option<RecipientsBuf>,
}

impl Part<'_> {
    fn facts(&self) -> MessageFacts<'_> {
        self.head.facts(self.of.submission, recipients(self.of.submission, &self.only))
    }
}

fn recipients<'a>(submission: &'a Submission, only: &'a Option<RecipientsBuf>) -> Recipients<'a> {
    only.as_ref().map_or(submission.envelope.recipients(), RecipientsBuf::as_recipients)
}

/// Takes the submissions of another thread, all for the same partition.
pub(super) async fn take(
    intake: &Rc<Intake>,
    batch: Vec<(Submission, Arc<[u8]>)>,
) -> Result<Vec<Accepted>, Refusal> {
    let Some((first, _)) = batch.first() else { return Ok(Vec::new()) };
    let placement = first.placement;
    intake.admit(batch.iter().map(|(_, body)| body.len() as u64).sum())?;
    let _slot = intake.take_body_slot();
    let mut memory = BatchMemory::new(intake);
    let mut all = Vec::with_capacity(batch.len());
    for (place, (submission, body)) in batch.iter().enumerate() {
        let early = submission.head.early_body();
        let bytes = submission.head.block().len() + early.len() + body.len();
        let counted = match submission.head.loops() {
            true => Err(Refusal::new(RefusalCode::Loop)),
            false => memory.grow(bytes, submission.messages()),
        };
        counted.map_err(|refusal| refusal.with_field(&format!("messages[{place}]")))?;
        let body = match early.is_empty() {
            true => Arc::clone(body),
            false => [early, body].concat().into(),
        };
        all.push(Whole { submission, body });
    }
    let accepted = finish_all(intake, intake.committer(placement)?, &all).await?;
    batch.into_iter().for_each(|(submission, _)| intake.give_back(submission));
    Ok(accepted)
}

/// Makes all messages of these submissions durable.
pub(super) async fn finish_all(
    intake: &Intake,
    committer: &Committer,
    batch: &[Whole<'_>],
) -> Result<Vec<Accepted>, Refusal> {
    let now_ms = wall_ms();
    let labels: Vec<OwnLabels> =
        batch.iter().map(|one| OwnLabels::of(&one.submission.head)).collect();
    let (mut bodies, mut parts) = (Vec::new(), Vec::new());
    for (of, labels) in batch.iter().zip(&labels) {
        let Whole { submission, body } = of;
        let shared = SharedBody::new(Arc::clone(body));
        for only in addressees(submission)? {
            let message = committer.body_of(&shared, now_ms)?;
            let to = recipients(submission, &only);
            let (mut head, signature) = intake.head(submission, message.id(), to, now_ms);
            if let Some(mut signature) = signature {
                signature.body(body);
                head.sign(signature).await?;
            }
            bodies.push(message);
            parts.push(Part { of, labels, head, only });
        }
    }
    let finishing = bodies.into_iter().zip(&parts).map(|(body, part)| Finish {
        body,
        head: &part.head.bytes,
        envelope: envelope(&part.facts(), part.labels, now_ms),
        due_ms: now_ms,
    });
    let began = Instant::now();
    let committed = committer.finish_all(finishing.collect()).await?;
    for (committed, part) in committed.iter().zip(&parts) {
        note_accepted(intake, &part.facts(), committed, (part.of.body.len() as u64, began));
    }
    let mut ids = committed.iter().map(|one| one.id);
    let accepted = batch.iter().map(|one| {
        let ids: Vec<PublicId> = ids.by_ref().take(one.submission.messages()).collect();
        Accepted::new(&ids, one.body.len() as u64, one.submission)
    });
    Ok(accepted.collect())
}

/// Who receives each message of a submission.
fn addressees(submission: &Submission) -> Result<Vec<Option<RecipientsBuf>>, Refusal> {
    if submission.messages() == 1 {
        return Ok(vec![None]);
    }
    let alone = |recipient| {
        let mut only = RecipientsBuf::default();
        only.push(&recipient).map_err(CommitFault::Record)?;
        Ok(Some(only))
    };
    submission.envelope.recipients().iter().map(alone).collect()
}
