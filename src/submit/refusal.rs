//! Why a message is not accepted: one type for every way in.
//!
//! SMTP answers with `reply` and counts by `label`. HTTP will answer with a status by `code`.

use std::time::Duration;

use crate::observe::label::BodyRefusal;
use crate::queue::CommitFault;
use crate::wire::smtp::reply::Reply;

/// The cause of a refusal. Each has one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The header block is longer than `HEAD_BYTES_MAX`.
    HeadTooLarge,
    /// The header block has more fields than `HEAD_FIELDS_MAX`.
    TooManyFields,
    MessageTooLarge,
    /// The messages of a batch, or the message for each recipient of one that is split, are too many
    /// or too large.
    BatchTooLarge,
    LineTooLong,
    /// More `Received` fields than the config allows.
    Loop,
    /// The envelope does not fit into its record.
    BadEnvelope,
    /// The request names a partition that this server does not have. A mistake of our own caller.
    NoSuchPartition,
    /// A signature is required and could not be made.
    NotSigned,
    /// The file system of the spool is full.
    StorageFull,
    /// The partition, or every partition, has failed.
    StorageFailed,
    /// A write takes too long.
    StorageHung,
    /// The server is shutting down.
    Stopping,
    /// No memory for another body, or no room in the submit lanes.
    Busy,
    /// The sender went away, or did not finish in time. Nothing was accepted.
    Aborted,
    /// The message may have become durable; nobody knows yet.
    OutcomeUnknown,
}

/// A refusal. `detail` is for the log and never for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reply: Reply,
    /// When the sender should try again, if that is known.
    pub retry_after: Option<Duration>,
    /// The part of the request that is at fault, as a path into it.
    pub field: Option<Box<str>>,
    pub detail: Box<str>,
}

impl Refusal {
    pub fn new(code: RefusalCode) -> Refusal {
        let retry_after = (code == RefusalCode::Busy).then_some(Duration::from_secs(1));
        let (_, number, enhanced, text) = code.row();
        let reply = Reply::new(number, enhanced, text);
        Refusal { code, reply, retry_after, field: None, detail: Box::default() }
    }

    pub fn with_field(self, field: &str) -> Refusal {
        Refusal { field: Some(field.into()), ..self }
    }

    pub fn with_detail(self, detail: impl Into<Box<str>>) -> Refusal {
        Refusal { detail: detail.into(), ..self }
    }

    /// The label under which the refusal is counted.
    pub fn label(&self) -> BodyRefusal {
        self.code.row().0
    }
}

impl From<CommitFault> for Refusal {
    fn from(fault: CommitFault) -> Refusal {
        match fault {
            CommitFault::SpoolFull => Refusal::new(RefusalCode::StorageFull),
            CommitFault::Failed => Refusal::new(RefusalCode::StorageFailed),
            CommitFault::Hung => Refusal::new(RefusalCode::StorageHung),
            CommitFault::Stopped => Refusal::new(RefusalCode::Stopping),
            CommitFault::TooLarge => Refusal::new(RefusalCode::BatchTooLarge),
            CommitFault::Record(fault) => {
                Refusal::new(RefusalCode::BadEnvelope).with_detail(fault.to_string())
            }
        }
    }
}

impl RefusalCode {
    /// Label, code, enhanced code and text of the reply.
    fn row(self) -> (BodyRefusal, u16, (u8, u16, u16), &'static str) {
        use BodyRefusal as Label;
        match self {
            RefusalCode::HeadTooLarge => {
                let text = "The header of the message is larger than this server accepts";
                (Label::Size, 552, (5, 3, 4), text)
            }
            RefusalCode::TooManyFields => {
                let text = "The header of the message has more fields than this server accepts";
                (Label::Size, 552, (5, 3, 4), text)
            }
            RefusalCode::MessageTooLarge => {
                (Label::Size, 552, (5, 3, 4), "Message is larger than this server accepts")
            }
            RefusalCode::BatchTooLarge => {
                let text = "Too many messages or bytes in one batch, send less at once";
                (Label::Size, 552, (5, 3, 4), text)
            }
            RefusalCode::LineTooLong => {
                (Label::LineLength, 554, (5, 6, 0), "A line of the message is too long")
            }
            RefusalCode::Loop => {
                (Label::Loop, 554, (5, 4, 6), "Too many hops, this message is looping")
            }
            RefusalCode::BadEnvelope => {
                (Label::Other, 554, (5, 6, 0), "The envelope cannot be stored")
            }
            RefusalCode::NoSuchPartition => {
                let text = "The request names a partition that does not exist";
                (Label::Other, 554, (5, 3, 5), text)
            }
            RefusalCode::NotSigned => {
                (Label::Other, 451, (4, 7, 5), "The message cannot be signed now, try again later")
            }
            RefusalCode::StorageFull => {
                (Label::Spool, 452, (4, 3, 1), "Insufficient system storage, try again later")
            }
            RefusalCode::StorageFailed => {
                (Label::Commit, 451, (4, 3, 0), "Mail storage failed, try again later")
            }
            RefusalCode::StorageHung => {
                (Label::Commit, 451, (4, 3, 0), "Mail storage does not answer, try again later")
            }
            RefusalCode::Stopping => {
                (Label::Busy, 451, (4, 3, 2), "Service shutting down, try again later")
            }
            RefusalCode::Busy => {
                (Label::Memory, 452, (4, 3, 1), "Too much mail in progress, try again later")
            }
            RefusalCode::Aborted => {
                let text = "The message was not received completely, send it again";
                (Label::Aborted, 451, (4, 4, 2), text)
            }
            RefusalCode::OutcomeUnknown => {
                let text = "The outcome is unknown, repeat the request with the same key";
                (Label::Other, 451, (4, 4, 7), text)
            }
        }
    }
}
