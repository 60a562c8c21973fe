//! When a destination rests, why, and until when; and how long it must be remembered.

use super::*;

impl Destination {
    /// When, without any event, this destination may want something that it does not want now.
    pub fn next_change(&mut self, now: Mono) -> Option<Mono> {
        if self.queue.is_empty() || self.is_paused {
            return None;
        }
        let mut next: Option<Mono> = None;
        let mut later = |at: Mono| {
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        later(self.hold_until);
        later(self.suspended_until);
        self.slowed.into_iter().for_each(|(until, _)| later(until));
        if let Health::BackingOff { until, .. } = self.standing.health {
            later(until);
        }
        for outlet in &mut self.outlets {
            outlet.opens_at(now).into_iter().for_each(&mut later);
            outlet.slowed.into_iter().for_each(|(until, _)| later(until));
            outlet.rate.frees_at(now).into_iter().for_each(&mut later);
        }
        for (index, class) in &self.classes {
            if self.queue.has_jobs(ConnectionClass(index as u32)) {
                class.opens_at().into_iter().for_each(&mut later);
            }
        }
        self.rate.frees_at(now).into_iter().for_each(&mut later);
        next
    }

    /// When the first of the rests ends, after which homes may have places.
    pub fn rest_ends(&self, now: Mono) -> Option<Mono> {
        let standings = self.outlets.iter().map(|outlet| &outlet.standing);
        let back_offs = standings.chain([&self.standing]).filter_map(|one| one.rests(now));
        let suspensions = self.outlets.iter().map(|outlet| outlet.suspended_until);
        let suspensions = suspensions.chain([self.suspended_until]).filter(|until| now < *until);
        back_offs.chain(suspensions).min()
    }

    /// Paused or suspended.
    pub(super) fn is_resting(&self, now: Mono) -> bool {
        self.is_paused || now < self.suspended_until
    }

    /// Whether mail from this pool has to wait for longer than a moment, whatever the reason.
    pub fn rests(&self, pool: Option<&str>, sources: &SourceTable, now: Mono) -> bool {
        self.is_resting(now)
            || self.standing.rests(now).is_some()
            || matches!(self.pool_binds(pool, sources, now), Some((_, Some(until))) if now < until)
    }

    /// What keeps mail from all sources of a pool, and until when: of the first that is free again.
    pub(super) fn pool_binds(
        &self,
        pool: Option<&str>,
        sources: &SourceTable,
        now: Mono,
    ) -> Option<Bound> {
        let of_source = |source: Option<&str>| {
            let outlet = self.by_source.get(&source.map(Box::from))?;
            self.outlets[*outlet as usize].binds(now)
        };
        let Some(pool) = pool else { return of_source(None) };
        let mut first: Option<Bound> = None;
        for (source, _) in sources.pool(pool).into_iter().flat_map(|pool| sources.members(pool)) {
            let one = of_source(Some(&source.name))?;
            // `None`, of a probe, is before all others.
            if first.is_none_or(|first| one.1 < first.1) {
                first = Some(one);
            }
        }
        first
    }

    /// Until when something about it must be remembered, beyond the usual time, its rates aside. When there
    /// is no room, how long it has been failing does not count: the next attempt tells.
    pub fn is_worth_keeping_until(&self, is_full: bool) -> Mono {
        let standings = self.outlets.iter().map(|outlet| &outlet.standing);
        let standings = standings.chain(self.classes.iter().map(|(_, class)| &class.standing));
        let back_offs = standings.chain([&self.standing]).filter_map(|one| match one.health {
            Health::BackingOff { until, .. } => Some(until.plus(self.policy.back_off_max)),
            _ => None,
        });
        let pauses = self.outlets.iter().flat_map(|one| [one.quiet_until, one.suspended_until]);
        let slowed = self.outlets.iter().map(|outlet| outlet.slowed).chain([self.slowed]);
        let slowed = slowed.flatten().map(|(until, _)| until);
        let untils = back_offs.filter(|_| !is_full).chain(pauses).chain(slowed);
        untils.fold(self.suspended_until, Mono::max)
    }

    /// Whether something that was sent still counts here under its rates.
    pub fn counts_rate(&mut self, now: Mono) -> bool {
        self.rate.counts(now) || self.outlets.iter_mut().any(|outlet| outlet.rate.counts(now))
    }
}
