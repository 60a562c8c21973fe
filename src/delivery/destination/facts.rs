//! What a destination tells of itself, to homes and to operators.

use super::*;

use crate::delivery::destination::outlet::of_health;

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
            return (Binds::Suspended, Some(self.suspended_until));
        }
        if let Some(bound) = of_health(&self.standing) {
            return bound;
        }
        if self.rate.is_spent(now) {
            return (Binds::Rate, self.rate.frees_at(now));
        }
        match (now < self.quiet_until, self.throttle_ms > 0) {
            (true, true) => (Binds::Throttled, Some(self.quiet_until)),
            (true, false) => (Binds::Hold, Some(self.quiet_until)),
            (false, _) if self.live >= self.limit(now) => (Binds::Window(self.limit(now)), None),
            (false, _) => (Binds::Nothing, None),
        }
    }
}

impl Destination {
    /// What keeps the next job of a pool from being sent, and until when.
    pub fn state(&mut self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> GrantState {
        let (binds, until) = self.bound(pool, sources, now);
        let source = match binds {
            Binds::SourceRate => self.spent_source(pool, sources, now),
            _ => None,
        };
        GrantState {
            binds,
            until: until.filter(|_| !binds.is_momentary()),
            failing_since: self.standing.failing_since,
            last: self.last.clone(),
            last_host: self.last_host.clone(),
            evidence: self.evidence.back().cloned(),
            source: source.map(|(outlet, _)| {
                let name = self.outlets[outlet as usize].source.as_deref();
                sources.shown(name).into()
            }),
        }
    }

    pub fn bound(&mut self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> Bound {
        if self.is_paused {
            return (Binds::Paused, None);
        }
        if now < self.suspended_until {
            return (Binds::Suspended, Some(self.suspended_until));
        }
        let rests = of_health(&self.standing).or_else(|| self.pool_binds(pool, sources, now));
        if let Some(bound) = rests {
            return bound;
        }
        if let Some((limit, _)) = self.lack
            && now < self.hold_until
        {
            return (Binds::OurLimit(limit), Some(self.hold_until));
        }
        if self.rate.free(now) == 0 {
            return (Binds::Rate, self.rate.frees_at(now));
        }
        if let Some((_, until)) = self.spent_source(pool, sources, now) {
            return (Binds::SourceRate, until);
        }
        if let Some(until) = self.outlets_are_quiet(pool, sources, now) {
            return (Binds::Throttled, Some(until));
        }
        if now < self.hold_until {
            return (Binds::Hold, Some(self.hold_until));
        }
        let binds = match (self.counts.live(), self.limit(), self.size(now)) {
            (live, limit, _) if live >= limit => Binds::Connections(limit),
            (live, _, size) if live >= size => Binds::Window(size),
            _ => Binds::Nothing,
        };
        (binds, None)
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
