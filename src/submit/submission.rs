//! A submission: the input of the intake. Owned and `Send`, so that any thread may create it.

use crate::base::PartitionId;
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
