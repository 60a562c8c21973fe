//! One source, as a destination treats it.

use crate::base::Mono;
use crate::delivery::destination::rate::Rate;
use crate::delivery::health::Health;
use crate::delivery::health::Standing;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Bound;

/// A bound on connections that rises with successes and falls with failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) size: u32,
    /// Since it last changed.
    successes: u32,
}

impl Window {
    pub(super) const fn new(size: u32) -> Window {
        Window { size, successes: 0 }
    }

    /// Whether a full window of successes has passed.
    pub(super) fn succeed(&mut self, is_filled: bool, most: u32) -> bool {
        self.successes += 1;
        if self.successes < self.size {
            return false;
        }
        self.successes = 0;
        // A window that is not filled says nothing about a larger one.
        if is_filled && self.size < most {
            self.size += 1;
        }
        true
    }

    /// The size while a rule slows down: until then, to so many percent.
    pub(super) fn slowed(&self, slowed: Option<(Mono, u32)>, now: Mono) -> u32 {
        match slowed {
            Some((until, percent)) if now < until => (self.size * percent / 100).max(1),
            _ => self.size,
        }
    }

    pub(super) fn shrink_to(&mut self, size: u32) {
        *self = Window::new(size.max(1));
    }
}

/// One source, as the destination treats it.
#[derive(Debug)]
pub(super) struct Outlet {
    /// `None`: the system chooses the address.
    pub(super) source: Option<Box<str>>,
    pub(super) window: Window,
    pub(super) standing: Standing,
    pub(super) throttle_ms: u64,
    /// No connection is opened before.
    pub(super) quiet_until: Mono,
    pub(super) suspended_until: Mono,
    pub(super) slowed: Option<(Mono, u32)>,
    pub(super) live: u32,
    /// Connections that take a job without being woken or opened for it.
    pub(super) coming: u32,
    /// Nothing is sent before the owner sets it, if sources have rates.
    pub(super) rate: Rate,
    /// The rate in frames between shards, and in the file of limits. `None`: it was not set.
    pub(super) key: Option<u64>,
}

impl Outlet {
    /// When it may open a connection, as far as time decides that; `None`: when others have ended.
    pub(super) fn opens_at(&self, now: Mono) -> Option<Mono> {
        let at = self.quiet_until.max(self.suspended_until);
        let at = self.standing.rests(now).map_or(at, |until| at.max(until));
        let is_free = match self.standing.health {
            Health::Working => self.live < self.limit(now),
            Health::BackingOff { .. } => true,
            Health::Probing { .. } => false,
        };
        is_free.then_some(at)
    }

    /// Whether its rate has room for another connection that takes a job.
    pub(super) fn has_room(&self, now: Mono) -> bool {
        self.rate.room(now) > self.coming
    }

    /// As `has_room`, for a message that is there. If it waits for a save, the save is due.
    pub(super) fn takes_more(&mut self, now: Mono) -> bool {
        self.rate.free(now) > self.coming
    }

    /// Neither its rate nor a rest keeps it from sending.
    pub(super) fn is_usable(&self, now: Mono) -> bool {
        now >= self.suspended_until && self.standing.rests(now).is_none() && self.has_room(now)
    }

    /// A connection may be opened, and its rate has room for it.
    pub(super) fn opens(&self, now: Mono) -> bool {
        self.opens_at(now).is_some_and(|at| at <= now) && self.has_room(now)
    }

    pub(super) fn limit(&self, now: Mono) -> u32 {
        self.window.slowed(self.slowed, now)
    }

    /// What keeps mail from this source for longer than a moment, and until when. A source whose backoff
    /// is over takes one message, which finds out.
    pub(super) fn binds(&self, now: Mono) -> Option<Bound> {
        let suspended = Some(self.suspended_until).filter(|until| now < *until);
        let suspended = suspended.map(|until| (Binds::Suspended, Some(until)));
        // `None`, of a probe, is before all others.
        [of_health(&self.standing), suspended].into_iter().flatten().max_by_key(|(_, until)| *until)
    }
}

/// What health lets wait; `None` if it lets nothing wait.
pub(super) fn of_health(standing: &Standing) -> Option<Bound> {
    match standing.health {
        Health::BackingOff { until, .. } => Some((Binds::BackingOff, Some(until))),
        Health::Probing { .. } => Some((Binds::BackingOff, None)),
        Health::Working => None,
    }
}
