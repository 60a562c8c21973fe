//! What a destination tells of itself, to homes and to operators.

use super::*;

/// What keeps the next job from being sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Nothing,
    Paused,
    /// A rule for replies has suspended the destination, or all sources of the pool.
    Suspended {
        until: Mono,
    },
    BackingOff {
        until: Mono,
    },
    Probing,
    /// `None`: until tokens come from the lead, or a save of the limits is durable.
    Rate {
        until: Option<Mono>,
    },
    /// The same for the sources of the pool; `outlet` is free again first.
    SourceRate {
        outlet: u32,
        until: Option<Mono>,
    },
    /// The server has asked all sources of the pool for less mail.
    Throttled {
        until: Mono,
    },
    /// This server lacked something for the last connection.
    OurLimit {
        limit: OurLimit,
        until: Mono,
    },
    /// A connection has just failed.
    Hold {
        until: Mono,
    },
    Window {
        window: u32,
    },
    Connections {
        connections: u32,
    },
}

/// One source, as the destination treats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutletFacts {
    /// `None`: the system chooses the address.
    pub source: Option<Box<str>>,
    pub connections: u32,
    pub window: u32,
    pub bound: Bound,
}

impl Outlet {
    fn bound(&mut self, now: Mono) -> Bound {
        if now < self.suspended_until {
            return Bound::Suspended { until: self.suspended_until };
        }
        match self.standing.health {
            Health::BackingOff { until, .. } => return Bound::BackingOff { until },
            Health::Probing { .. } => return Bound::Probing,
            Health::Working => {}
        }
        if self.rate.is_spent(now) {
            return Bound::Rate { until: self.rate.frees_at(now) };
        }
        let until = self.quiet_until;
        match (now < until, self.throttle_ms > 0) {
            (true, true) => Bound::Throttled { until },
            (true, false) => Bound::Hold { until },
            (false, _) if self.live >= self.limit(now) => Bound::Window { window: self.limit(now) },
            (false, _) => Bound::Nothing,
        }
    }
}

impl Destination {
    /// What keeps the next job of a pool from being sent, and until when.
    pub fn state(&mut self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> GrantState {
        let bound = self.bound(pool, sources, now);
        let (binds, until) = match bound {
            Bound::Nothing => (Binds::Nothing, None),
            Bound::Paused => (Binds::Paused, None),
            Bound::Suspended { until } => (Binds::Suspended, Some(until)),
            Bound::BackingOff { until } => (Binds::BackingOff, Some(until)),
            Bound::Probing => (Binds::BackingOff, None),
            Bound::Rate { until } => (Binds::Rate, until),
            Bound::SourceRate { until, .. } => (Binds::SourceRate, until),
            Bound::OurLimit { limit, until } => (Binds::OurLimit(limit), Some(until)),
            Bound::Throttled { .. }
            | Bound::Hold { .. }
            | Bound::Window { .. }
            | Bound::Connections { .. } => (Binds::Window, None),
        };
        GrantState {
            binds,
            until,
            failing_since: self.standing.failing_since,
            last: self.last.clone(),
            last_host: self.last_host.clone(),
            evidence: self.evidence.back().cloned(),
            source: self.spent_name(bound, sources),
        }
    }

    /// The source whose rate binds, with its addresses.
    pub fn spent_name(&self, bound: Bound, sources: &SourceTable) -> Option<Box<str>> {
        let Bound::SourceRate { outlet, .. } = bound else { return None };
        let name = self.outlets[outlet as usize].source.as_deref();
        Some(sources.shown(name).into())
    }

    pub fn bound(&mut self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> Bound {
        if self.is_paused {
            return Bound::Paused;
        }
        if now < self.suspended_until {
            return Bound::Suspended { until: self.suspended_until };
        }
        match self.standing.health {
            Health::BackingOff { until, .. } => return Bound::BackingOff { until },
            Health::Probing { .. } => return Bound::Probing,
            Health::Working => {}
        }
        match self.pool_binds(pool, sources, now) {
            Some((Binds::Suspended, Some(until))) => return Bound::Suspended { until },
            Some((_, Some(until))) => return Bound::BackingOff { until },
            Some((_, None)) => return Bound::Probing,
            None => {}
        }
        if let Some((limit, _)) = self.lack
            && now < self.hold_until
        {
            return Bound::OurLimit { limit, until: self.hold_until };
        }
        if self.rate.free(now) == 0 {
            return Bound::Rate { until: self.rate.frees_at(now) };
        }
        if let Some((outlet, until)) = self.spent_source(pool, sources, now) {
            return Bound::SourceRate { outlet, until };
        }
        if let Some(until) = self.outlets_are_quiet(pool, sources, now) {
            return Bound::Throttled { until };
        }
        if now < self.hold_until {
            return Bound::Hold { until: self.hold_until };
        }
        match self.counts.live() {
            live if live >= self.limit() => Bound::Connections { connections: self.limit() },
            live if live >= self.size(now) => Bound::Window { window: self.size(now) },
            _ => Bound::Nothing,
        }
    }

    /// Until when no source of a pool opens a connection because the server has asked for less.
    fn outlets_are_quiet(
        &self,
        pool: Option<&str>,
        sources: &SourceTable,
        now: Mono,
    ) -> Option<Mono> {
        let quiet = |source: Option<&str>| {
            let outlet = self.outlets.iter().find(|one| one.source.as_deref() == source)?;
            let is_quiet = outlet.throttle_ms > 0 && now < outlet.quiet_until;
            is_quiet.then_some(outlet.quiet_until)
        };
        let Some(pool) = pool else { return quiet(None) };
        let members = sources.pool(pool).into_iter().flat_map(|pool| sources.members(pool));
        let each = members.map(|(source, _)| quiet(Some(&source.name)));
        each.collect::<Option<Vec<Mono>>>()?.into_iter().min()
    }

    /// The last error, and the host that caused it; empty if it is of none.
    pub fn last_error(&self) -> (Option<&Arc<Answer>>, &str) {
        (self.last.as_ref(), &self.last_host)
    }

    /// What this server lacked for the last connection.
    pub fn lack(&self) -> Option<OurLimit> {
        self.lack.map(|(limit, _)| limit)
    }

    pub fn outlets(&mut self, now: Mono) -> impl Iterator<Item = OutletFacts> {
        self.outlets.iter_mut().map(move |outlet| OutletFacts {
            source: outlet.source.clone(),
            connections: outlet.live,
            window: outlet.limit(now),
            bound: outlet.bound(now),
        })
    }
}
