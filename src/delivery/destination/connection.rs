//! A connection as its destination knows it: what it does, what it is for, and what it has found out.

use std::sync::Arc;

use crate::base::Mono;
use crate::delivery::fair::ConnectionClass;
use crate::delivery::health::Role;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::OurLimit;
use crate::wire::classify::Action;

/// How a transfer ended. `Lost`: the connection broke before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Delivered,
    Refused,
    Deferred,
    Lost,
}

/// Who is to blame for a connection that failed or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Its hosts, or what leads to them.
    Destination,
    /// The host does not talk to this source, or the proxy or address of the source fails.
    Source,
    /// No host meets what this kind of mail demands of TLS. Says nothing of other mail to them.
    Demands,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub blame: Blame,
    pub answer: Arc<Answer>,
    /// Empty if it says nothing of any host.
    pub host: Box<str>,
}

/// What became of the connection.
#[derive(Clone, Debug)]
pub enum LinkEnd {
    /// It asks for the next job.
    Kept,
    /// Closed in order.
    Closed,
    /// Never opened, or broken.
    Failed(Failure),
    /// Never opened or broken for what this server lacks.
    OurLimit(OurLimit),
}

/// What a rule for replies wants to be done, and why.
#[derive(Clone, Debug)]
pub struct RuleAction {
    pub action: Action,
    pub evidence: Arc<Evidence>,
}

/// All that a connection tells when its job or itself has ended.
#[derive(Clone, Debug)]
pub struct End {
    pub job: Option<JobEnd>,
    /// A 421, or a reply that speaks of rates: the server asks for less.
    pub asks_for_less: Option<Arc<Answer>>,
    pub action: Option<RuleAction>,
    pub link: LinkEnd,
}

/// Connections by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub opening: u32,
    /// About to ask for a job.
    pub asking: u32,
    pub busy: u32,
    pub idle: u32,
    /// Told to close, not gone yet: it still counts at the other end.
    pub closing: u32,
}

impl Counts {
    pub const fn live(&self) -> u32 {
        self.opening + self.asking + self.busy + self.idle
    }

    pub const fn all(&self) -> u32 {
        self.live() + self.closing
    }

    /// Connections that take a job without being woken or opened for it.
    pub(super) const fn coming(&self) -> usize {
        (self.opening + self.asking) as usize
    }
}

/// What a connection is for its destination, its source and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub destination: Role,
    pub outlet: Role,
    pub class: Role,
}

impl Roles {
    pub const PLAIN: Roles =
        Roles { destination: Role::Plain, outlet: Role::Plain, class: Role::Plain };

    pub fn is_probe(self) -> bool {
        self != Roles::PLAIN
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub delivered: u64,
    pub refused: u64,
    pub deferred: u64,
    pub lost: u64,
    pub failures: u64,
    /// Queued jobs that went back to their homes without an attempt, whatever the reason.
    pub returned: u64,
}

/// A connection to be opened.
#[derive(Clone, Debug)]
pub struct Opening {
    pub link: Link,
    pub hop: Arc<Hop>,
    pub source: Option<Box<str>>,
}

/// A connection as its destination knows it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub class: ConnectionClass,
    pub outlet: u32,
    pub roles: Roles,
    /// It never got as far as to ask for a job.
    pub is_opening: bool,
}

/// A job that goes back to its home without a transfer.
#[derive(Debug)]
pub struct SentBack {
    pub delivery: Box<Delivery>,
    /// A connection was tried for it, and failed: that is an attempt. To be queued is none.
    pub was_tried: bool,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Opening,
    Asking,
    Busy(JobRef),
    Idle { since: Mono, until: Mono },
    Closing,
}

impl Stage {
    pub(super) fn of(self, counts: &mut Counts) -> &mut u32 {
        match self {
            Stage::Opening => &mut counts.opening,
            Stage::Asking => &mut counts.asking,
            Stage::Busy(_) => &mut counts.busy,
            Stage::Idle { .. } => &mut counts.idle,
            Stage::Closing => &mut counts.closing,
        }
    }
}
