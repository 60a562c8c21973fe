//! Which connection a destination opens next: the class that needs one, and a source for it by weight.
//!
//! Promise:  no connection is opened past the limit, the window, a pause or a backoff.

use super::*;

impl Destination {
    /// Whether a connection of this destination should be opened now, if there is room for it.
    pub fn wants_connection(&mut self, now: Mono) -> bool {
        if self.queue.is_empty() || self.is_resting(now) || self.counts.all() >= self.limit() {
            return false;
        }
        let is_open = match self.standing.health {
            Health::Working => self.counts.live() < self.size(now) && self.hold_until <= now,
            Health::BackingOff { until, .. } => until <= now,
            Health::Probing { .. } => false,
        };
        is_open
            && self.rate.free(now) as usize > self.counts.coming()
            && self.uncovered(now).next().is_some()
    }

    /// The connection to open now.
    pub fn open(&mut self, now: Mono, random: &mut Random) -> Option<Opening> {
        if !self.wants_connection(now) {
            return None;
        }
        let (class, outlet) = self.pick_class(now, random)?;
        let hop = Arc::clone(&self.classes[class.0 as usize].hop);
        let roles = Roles {
            destination: self.standing.on_open(),
            outlet: self.outlets[outlet as usize].standing.on_open(),
            class: self.classes[class.0 as usize].standing.on_open(),
        };
        if roles.destination == Role::Probe {
            // What failed before the backoff was for jobs that are not queued any more.
            self.connects_failed = 0;
        }
        let source = self.outlets[outlet as usize].source.clone();
        let link = Link { class, outlet, roles, is_opening: true };
        Some(Opening { link, hop, source })
    }

    /// Of the classes that need a connection and have a source for it the one with the fewest, and of
    /// these the one that has waited longest for a job.
    fn pick_class(&mut self, now: Mono, random: &mut Random) -> Option<(ConnectionClass, u32)> {
        let order = |class: ConnectionClass| {
            let LinkClass { counts, served, .. } = &self.classes[class.0 as usize];
            (counts.live(), *served)
        };
        let classes = self.uncovered(now).map(|class| (order(class), class));
        let mut classes: Vec<_> = classes.collect();
        classes.sort_unstable();
        let mut blocked: Vec<Option<Box<str>>> = Vec::new();
        for (_, class) in classes {
            let pool = self.classes[class.0 as usize].key.pool.clone();
            if blocked.contains(&pool) {
                continue;
            }
            if let Some(outlet) = self.pick_outlet(class, now, random) {
                return Some((class, outlet));
            }
            blocked.push(pool);
        }
        None
    }

    /// A source of the class that may open a connection now, by weight.
    fn pick_outlet(
        &mut self,
        class: ConnectionClass,
        now: Mono,
        random: &mut Random,
    ) -> Option<u32> {
        let outlets = self.classes[class.0 as usize].outlets.iter().copied();
        let mut open: Vec<(u32, u64)> =
            outlets.filter(|(outlet, _)| self.outlets[*outlet as usize].opens(now)).collect();
        let outlet = by_weight(&open, random)?;
        if self.outlets[outlet as usize].takes_more(now) {
            return Some(outlet);
        }
        // Its limit is saved first. Meanwhile one goes whose limit is.
        open.retain(|(outlet, _)| {
            let outlet = &self.outlets[*outlet as usize];
            outlet.rate.saved_room(now) > outlet.coming
        });
        by_weight(&open, random)
    }

    /// The sources of a pool, with their weights.
    pub(super) fn outlets_of(
        &mut self,
        pool: Option<&str>,
        sources: &SourceTable,
    ) -> Vec<(u32, u64)> {
        // A pool that a reload has removed has no source: `connection` tells.
        match pool.and_then(|pool| sources.pool(pool)) {
            None => vec![(self.outlet_of(pool), 1)],
            Some(pool) => {
                let members = sources.members(pool);
                members
                    .map(|(source, weight)| (self.outlet_of(Some(&source.name)), weight))
                    .collect()
            }
        }
    }

    fn outlet_of(&mut self, source: Option<&str>) -> u32 {
        let source = source.map(Box::from);
        if let Some(outlet) = self.by_source.get(&source) {
            return *outlet;
        }
        let window = self.policy.window_start.clamp(1, self.policy.connections_max.max(1));
        self.outlets.push(Outlet {
            source: source.clone(),
            window: Window::new(window),
            standing: Standing::default(),
            throttle_ms: 0,
            quiet_until: Mono::ZERO,
            suspended_until: Mono::ZERO,
            slowed: None,
            live: 0,
            coming: 0,
            rate: Rate::of_member(&self.policy.source_rates),
            key: None,
        });
        let outlet = self.outlets.len() as u32 - 1;
        self.by_source.insert(source, outlet);
        outlet
    }
}

fn by_weight(outlets: &[(u32, u64)], random: &mut Random) -> Option<u32> {
    let mut point = random.below(outlets.iter().map(|(_, weight)| weight).sum());
    outlets.iter().find_map(|(outlet, weight)| {
        let is_it = point < *weight;
        point = point.saturating_sub(*weight);
        is_it.then_some(*outlet)
    })
}
