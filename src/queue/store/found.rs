//! The findings of a start in a partition, collected during its repair.

use crate::base::MessageId;
use crate::queue::notice::Notice;
use crate::queue::store::spec::PartitionSpec;

/// Notices kept in the answer; more are told and counted only.
const NOTICES_KEPT_MAX: usize = 1000;

/// How far recovery looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Count, and touch nothing.
    Look,
    /// After a normal end or a crash.
    Newest,
    /// After damage, or when something unreadable was met.
    All,
}

/// What a start found in one partition.
#[derive(Debug, Default)]
pub struct Recovered {
    pub newest: Option<MessageId>,
    pub messages: u64,
    pub body_bytes: u64,
    /// Transfers that were never finished, removed.
    pub swept: u64,
    /// Records made again, or stray index entries removed.
    pub repaired: u64,
    /// Records moved out, and folders set aside.
    pub quarantined: u64,
    /// Records that could not be moved to quarantine: the next start tries again.
    pub not_moved: u64,
    /// Recipients of messages and jobs moved out.
    pub recipients_moved: u64,
    pub notices: Vec<Notice>,
}

impl Recovered {
    /// Resets the counts of mail before it is counted again.
    pub(in crate::queue) fn forget_counts(&mut self) {
        (self.messages, self.body_bytes) = (0, 0);
    }

    /// Tells the operator and keeps the notice for the answer.
    pub fn tell(&mut self, spec: &PartitionSpec, notice: Notice) {
        self.not_moved += u64::from(matches!(notice, Notice::NotMoved { .. }));
        (spec.on_notice)(notice.clone());
        if self.notices.len() < NOTICES_KEPT_MAX {
            self.notices.push(notice);
        }
    }
}
