//! A submission: the input of the intake. Owned and `Send`, so that any thread may create it.

use std::time::Instant;

use crate::base::PartitionId;
use crate::base::PublicId;
use crate::directory::Identity;
use crate::submit::envelope::EnvelopeBuf;
use crate::submit::head::RawHead;

/// A message without its body.
pub struct Submission {
    pub identity: Identity,
    pub envelope: EnvelopeBuf,
    /// The header block, complete.
    pub head: RawHead,
    pub options: SendOptions,
    pub placement: Placement,
}

impl Submission {
    /// Messages that are made of it.
    pub(super) fn messages(&self) -> usize {
        if self.options.split { self.envelope.recipients().len().max(1) } else { 1 }
    }
}

/// What the sender asks for beyond delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// Each recipient gets a message of its own, so that header fields can differ. All of them are
    /// committed in one batch, or none is.
    pub split: bool,
}

/// Which partition stores the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The shard that takes the message chooses, in turns.
    #[default]
    Any,
    /// An idempotency key or a return token has decided.
    Partition(PartitionId),
}

/// An accepted submission: its messages are durable.
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
    pub(super) fn new(ids: &[PublicId], body_bytes: u64, submission: &Submission) -> Accepted {
        let bytes = submission.head.block().len() as u64 + body_bytes;
        let began = submission.envelope.began;
        Accepted { id: ids[0], others: ids[1..].to_vec(), bytes, began }
    }
}
