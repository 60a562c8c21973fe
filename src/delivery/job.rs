//! A job in the memory of its home, and where it stands.
//!
//! Owner:    `home`, whose map has an entry for each job in memory. A job without an entry is on disk
//!           only, or has ended.
//! Promise:  one enum says where a job stands. An entry has at most one effect under way, and each
//!           answer names the incarnation that it is for.
//!
//! ```text
//! Reading    claimed; its record is being read
//! Resolving  routes, mail exchangers and policies are being looked up, or numbers for its parts
//! Waiting    for a place, in the fair queue of its destination
//! Out        at the owner of its destination, queued or being sent
//! Writing    one change of its record is at the commit thread
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::base::Mono;
use crate::base::ShardId;
use crate::base::Wall;
use crate::delivery::fair::Slot;
use crate::delivery::write::Write;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Flow;
use crate::handoff::frames::Incarnation;
use crate::handoff::frames::Mail;
use crate::handoff::frames::OurLimit;
use crate::queue::admin::operate::Operation;
use crate::queue::record::job::Schedule;

/// Bytes that a job in memory costs beside its envelope and body.
pub const JOB_BYTES: usize = 256;

/// The clocks. `schedule` is the one that due times are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
    pub schedule: Wall,
}

impl Now {
    /// A time of the wall clock as the schedule will show it. The schedule is ahead after the wall
    /// clock has been set back, and the age of mail is judged by the wall clock.
    pub fn scheduled(&self, at: Wall) -> Wall {
        at.plus_ms(self.schedule.ms_since(self.wall))
    }

    /// A moment ahead as the wall clock will show it, for operators. `None`: it never comes.
    pub fn wall_at(&self, at: Mono) -> Option<Wall> {
        (at != Mono::NEVER).then(|| self.wall.plus(at.since(self.mono)))
    }
}

/// A job in memory.
#[derive(Debug)]
pub struct Job {
    pub incarnation: Incarnation,
    pub state: State,
    pub head: Head,
    /// `None` only while the record is being read.
    pub mail: Option<Arc<Mail>>,
    pub recipients: Box<[u32]>,
    /// Where it goes, as it was resolved last.
    pub route: Option<Arc<Route>>,
    /// Lookups that were begun again.
    pub tries: u8,
    /// What an operator has asked for while it could not be done.
    pub pending: Option<Box<Pending>>,
}

/// What the record of a job says, and what it is read for.
#[derive(Clone, Debug)]
pub struct Head {
    /// Decides the rows of the job. While the record is being read: the row that was met.
    pub schedule: Schedule,
    pub attempts: u32,
    /// The sender was told of the delay.
    pub warned: bool,
    /// An operator has set it in place of the route's.
    pub next_hop: Option<Arc<str>>,
    pub need: Need,
    /// The fallback relay was asked for.
    pub falls_back: bool,
    /// It had its turn before, and is the first of its flow.
    pub is_first: bool,
}

impl Head {
    /// What is known of a job before its record is read, or of a fresh one.
    pub fn new(schedule: Schedule, need: Need) -> Head {
        let (attempts, warned, next_hop, falls_back, is_first) = (0, false, None, false, false);
        Head { schedule, attempts, warned, next_hop, need, falls_back, is_first }
    }
}

/// Why a job is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is due.
    Send,
    /// Its route may have changed: if not, it leaves memory again.
    Refile,
    /// An operator asks for a change.
    Operation,
}

#[derive(Debug)]
pub enum State {
    Reading,
    Resolving(Lookup),
    Waiting {
        since: Mono,
        /// Its place in the fair queue; `None` while its partition is behind.
        slot: Option<Slot>,
        /// The timer that is set for it.
        deadline: Option<Wall>,
    },
    Out {
        owner: ShardId,
        since: Mono,
    },
    Writing(Writing),
}

/// A step of resolving.
#[derive(Debug)]
pub enum Lookup {
    /// What is known already may answer.
    Asked,
    /// It waits for one of the places for lookups, in the turn of its tenant.
    Queued {
        slot: Slot,
    },
    UnderWay {
        since: Mono,
    },
    /// We lacked something, or a bug ended the lookup: it is begun again.
    Later {
        at: Mono,
        lack: Option<OurLimit>,
    },
    /// Numbers for these parts are being read.
    Numbers {
        parts: Vec<Box<[u32]>>,
    },
}

/// A change that is under way.
#[derive(Clone, Debug)]
pub enum Writing {
    /// It is filed under this schedule.
    File(Schedule),
    /// A part of a job that is being split.
    Part,
    /// Kept until it is written, because a full disk refuses it for a time.
    Change(Arc<Write>),
}

/// An operation that waits for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The number of the operation.
    pub ticket: u64,
    pub operation: Operation,
}

impl Job {
    pub fn mail(&self) -> &Arc<Mail> {
        self.mail.as_ref().expect("a job whose record was read has its mail")
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    pub fn is_out(&self) -> bool {
        matches!(self.state, State::Out { .. })
    }

    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }

    pub fn is_resolving(&self) -> bool {
        matches!(self.state, State::Resolving(_))
    }

    pub fn is_looking_up(&self) -> bool {
        matches!(self.state, State::Resolving(Lookup::Asked | Lookup::UnderWay { .. }))
    }

    /// The destination that counts it as waiting or out.
    pub fn flow(&self) -> &Flow {
        &self.route.as_ref().expect("a job that waits or is out has a route").flow
    }

    /// The bytes that it counts in the memory of its home.
    pub fn bytes(&self) -> usize {
        let mail = self.mail.as_ref().map_or(0, |mail| mail.bytes_held());
        JOB_BYTES + mail + 4 * self.recipients.len()
    }
}

impl State {
    /// Whether `to` may follow. The end of a job, or of its stay in memory, may follow each state
    /// but `Out`.
    pub fn may_become(&self, to: &State) -> bool {
        use State::*;
        matches!(
            (self, to),
            (Reading, Resolving(_) | Writing(_))
                | (Resolving(_), Resolving(_) | Waiting { .. } | Writing(_))
                | (Waiting { .. }, Out { .. } | Writing(_) | Resolving(_))
                | (Out { .. }, Waiting { .. } | Writing(_))
                | (Writing(_), Writing(_) | Resolving(_))
        )
    }

    pub const fn name(&self) -> &'static str {
        match self {
            State::Reading => "reading",
            State::Resolving(_) => "resolving",
            State::Waiting { .. } => "waiting",
            State::Out { .. } => "out",
            State::Writing(_) => "writing",
        }
    }
}

/// Where a job goes: made by resolving, and shared by the jobs of one destination, tenant and class.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub hop: Arc<Hop>,
    pub flow: Flow,
    /// The share of the tenant among the tenants of the destination.
    pub weight: u32,
    /// The shard that talks to the destination for mail of this home, and the one that leads if
    /// several do.
    pub owner: ShardId,
    pub lead: ShardId,
    pub life: Life,
    /// The policy that it was resolved under, and when.
    pub generation: u32,
    pub resolved: Mono,
}

/// How long the mail of a route lives, counted from its acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    pub max_age: Duration,
    /// When a fallback relay takes the place of the route; `None` without one, and for the fallback
    /// relay itself.
    pub fallback_after: Option<Duration>,
}

/// What resolving answers.
#[derive(Debug)]
pub enum Resolved {
    /// Recipients with different routes, to become jobs of their own. Nothing was looked up.
    Parts(Vec<Box<[u32]>>),
    /// One route for all recipients.
    One(Resolution),
}

#[derive(Debug)]
pub enum Resolution {
    Hop(Arc<Route>),
    /// Accepted and discarded.
    Discard(Life),
    Hold,
    /// Returned to the sender: a route says so, the domain does not exist, a loop.
    Failed(Answer, Life),
    /// Counts as an attempt: DNS gives no answer.
    Deferred(Answer, Life),
    /// Counts as none, and is tried again after this time: a policy of the domain is not known yet.
    Postponed(Answer, Duration, Life),
    /// This server lacks something: the lookup is begun again soon, and nothing is written.
    OurLimit(OurLimit),
}

/// When the sender is told, the fallback relay is asked, and the job is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// `None`: the sender was told, or is not to be.
    pub warning: Option<Wall>,
    pub fallback: Option<Wall>,
    pub expiry: Wall,
}

impl Deadlines {
    pub fn of(head: &Head, received: Wall, life: &Life, warning: Option<Duration>) -> Deadlines {
        let warning = warning.filter(|_| !head.warned);
        // Mail that only waits, as for a rate, does not fall back.
        let fallback = life.fallback_after.filter(|_| !head.falls_back && head.attempts > 0);
        Deadlines {
            warning: warning.map(|after| received.plus(after)),
            fallback: fallback.map(|after| received.plus(after)),
            expiry: received.plus(life.max_age),
        }
    }

    /// The first of them.
    pub fn first(&self) -> Wall {
        let others = [self.warning, self.fallback].into_iter().flatten();
        others.fold(self.expiry, Wall::min)
    }
}
