//! Places: how many jobs each home may have at the owner of a destination.
//!
//! Owner:    inside of a destination's entry at its owner.
//! Promise:  the places of the homes that send follow the window and the pace of the destination, so
//!           that connections never wait for jobs and jobs do not pile up here. While the destination
//!           rests there are none; afterwards one home at a time gets one, for the probe.
//! Order:    a home that asks is answered always: the owner may have forgotten what the home knows.
//! Cost:     a home is told only when its number changes by a quarter, or the state changes: in a
//!           steady state nothing is sent.

use std::collections::BTreeMap;

use crate::base::Mono;
use crate::base::ShardId;
use crate::handoff::frames::Binds;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::PLACES_OPENING;
use crate::handoff::frames::PLACES_OPENING_PER_FLOW;

const PLACES_MIN: u32 = 16;
const PLACES_MAX: u32 = 4096;
const PLACES_PER_HOME_MIN: u32 = 4;
/// The time that a busy shard may take to answer, in which connections must not wait for jobs.
const PACE_MS: u64 = 50;
/// Such times after which a burst is forgotten.
const PACE_STEPS: u64 = 8;
/// How long a home has for sending the probe before another one may.
const PROBE_MS: u64 = 1000;
/// How long a home counts after it has sent or asked; it asks again in a shorter time.
const ACTIVE_MS: u64 = 6000;
/// A home hears no sooner again what binds, if nothing else changes.
const BINDS_MS: u64 = 1000;

/// Of a destination and pool.
#[derive(Debug, Default)]
struct Target {
    pool: Option<Box<str>>,
    homes: BTreeMap<ShardId, Home>,
    /// The home that has the place of the probe, and until when.
    probe: Option<(ShardId, Mono)>,
}

#[derive(Debug)]
struct Home {
    /// What it was told last; the opening places before.
    total: u32,
    per_flow: u32,
    binds: Binds,
    told_at: Mono,
    /// It has to be told again whatever it was told.
    is_behind: bool,
    /// Jobs that wait there for a place, and the flows that they belong to.
    jobs: u32,
    flows: u32,
    /// When it sent or asked last.
    seen: Mono,
}

impl Home {
    const fn new(now: Mono) -> Home {
        Home {
            total: PLACES_OPENING,
            per_flow: PLACES_OPENING_PER_FLOW,
            binds: Binds::Nothing,
            told_at: Mono::ZERO,
            is_behind: false,
            jobs: 0,
            flows: 1,
            seen: now,
        }
    }
}

/// New places for a home.
#[derive(Debug)]
pub struct Told {
    pub home: ShardId,
    pub target: u64,
    pub total: u32,
    pub per_flow: u32,
    pub state: GrantState,
}

#[derive(Debug, Default)]
pub struct Grants {
    targets: BTreeMap<u64, Target>,
    /// Jobs begun in this stretch of `PACE_MS`, and in those before, of which the latest count most.
    begun: (u32, u32),
    stretch: Mono,
    /// All places and the homes that count, when they were reckoned last.
    reckoned: (u32, usize),
    /// When the home with the probe's place has had its time.
    next: Option<Mono>,
}

impl Grants {
    /// A home sends mail.
    pub fn meet(&mut self, target: u64, pool: Option<&str>, (home, now): (ShardId, Mono)) {
        self.home(target, pool, (home, now));
    }

    fn home(&mut self, target: u64, pool: Option<&str>, (home, now): (ShardId, Mono)) -> &mut Home {
        let target = self.targets.entry(target).or_default();
        if target.pool.as_deref() != pool {
            target.pool = pool.map(Box::from);
        }
        let home = target.homes.entry(home).or_insert_with(|| Home::new(now));
        home.seen = now;
        home
    }

    /// A home has mail that waits.
    pub fn want(
        &mut self,
        target: u64,
        pool: Option<&str>,
        home: (ShardId, Mono),
        (jobs, flows): (u32, u32),
    ) {
        let home = self.home(target, pool, home);
        (home.jobs, home.flows, home.is_behind) = (jobs, flows.max(1), true);
    }

    /// A home acts on places that it does not have.
    pub fn tell(&mut self, target: u64, home: ShardId) {
        let known = self.targets.get_mut(&target).and_then(|target| target.homes.get_mut(&home));
        if let Some(known) = known {
            known.is_behind = true;
        }
    }

    /// A job begins.
    pub fn begun(&mut self, now: Mono) {
        self.roll(now);
        self.begun.0 += 1;
    }

    /// Whether a stretch is over.
    fn roll(&mut self, now: Mono) -> bool {
        let steps = now.ms_since(self.stretch) / PACE_MS;
        if steps > 0 {
            let left = PACE_STEPS.saturating_sub(steps) * u64::from(self.begun.1) / PACE_STEPS;
            let latest = if steps < PACE_STEPS { self.begun.0 } else { 0 };
            self.begun = (0, latest.max(left as u32));
            self.stretch = now;
        }
        steps > 0
    }

    /// The homes talk to another owner: what waits there is not for this one.
    pub fn forget_waiting(&mut self) {
        let homes = self.targets.values_mut().flat_map(|target| target.homes.values_mut());
        homes.for_each(|home| home.jobs = 0);
    }

    /// Jobs that wait at homes for a place.
    pub fn waiting(&self) -> u32 {
        let homes = self.targets.values().flat_map(|target| target.homes.values());
        homes.fold(0, |sum, home| sum.saturating_add(home.jobs))
    }

    /// When, without an event, places may have to change.
    pub const fn next_change(&self) -> Option<Mono> {
        self.next
    }

    /// Whether places have to be reckoned anew, if the destination works.
    pub fn is_stale(&mut self, window: u32, flows: u32, now: Mono) -> bool {
        let has_rolled = self.roll(now);
        let (before, homes) = self.reckoned;
        let all = self.all(window, flows);
        all.abs_diff(before) > before / 4 || has_rolled && self.active(now) != homes
    }

    fn all(&self, window: u32, flows: u32) -> u32 {
        let begun = self.begun.0.max(self.begun.1);
        (2 * window).saturating_add(begun).max(flows).clamp(PLACES_MIN, PLACES_MAX)
    }

    fn active(&self, now: Mono) -> usize {
        let homes = self.targets.values().flat_map(|target| target.homes.values());
        homes.filter(|home| home.is_active(now)).count()
    }

    /// The places of all homes now. `state_of` answers for a pool, also whether a probe is awaited.
    pub fn reckon(
        &mut self,
        (window, flows): (u32, u32),
        now: Mono,
        mut state_of: impl FnMut(Option<&str>) -> (GrantState, bool),
        told: &mut Vec<Told>,
    ) {
        self.roll(now);
        let all = self.all(window, flows);
        self.reckoned = (all, self.active(now));
        self.next = None;
        for (name, target) in &mut self.targets {
            let (state, awaits_probe) = state_of(target.pool.as_deref());
            let rests = matches!(state.binds, Binds::Paused | Binds::Suspended | Binds::BackingOff);
            match state.until {
                Some(until) if state.binds == Binds::BackingOff && until <= now => {
                    if awaits_probe {
                        target.choose_probe(now);
                        let until = target.probe.map(|(_, until)| until);
                        self.next = [self.next, until].into_iter().flatten().min();
                    }
                }
                // The probe is under way.
                None if state.binds == Binds::BackingOff => {}
                _ => target.probe = None,
            }
            let active = target.homes.values().filter(|home| home.is_active(now));
            let wanting = active.map(|home| home.flows).sum::<u32>().max(1);
            let all = all.max(wanting.min(PLACES_MAX));
            let probe = target.probe.map(|(home, _)| home);
            for (shard, home) in &mut target.homes {
                if !rests && !home.is_active(now) && !home.is_behind && home.total > 1 {
                    continue;
                }
                let share = u64::from(all) * u64::from(home.flows) / u64::from(wanting);
                let total = match rests {
                    true => u32::from(probe == Some(*shard)),
                    false => (share as u32).clamp(PLACES_PER_HOME_MIN, PLACES_MAX),
                };
                let per_flow = (2 * total / home.flows).max(1).min(total);
                let places = (total, per_flow);
                if home.is_to_be_told(places, state.binds, (rests, now)) {
                    (home.total, home.per_flow) = places;
                    (home.binds, home.told_at, home.is_behind) = (state.binds, now, false);
                    if !rests {
                        home.jobs = 0;
                    }
                    let (home, target) = (*shard, *name);
                    told.push(Told { home, target, total, per_flow, state: state.clone() });
                }
            }
        }
    }
}

impl Target {
    /// The next home with mail has its turn to send the probe. One that had it and did not use it has
    /// no mail any more.
    fn choose_probe(&mut self, now: Mono) {
        if self.probe.is_some_and(|(_, until)| now < until) {
            return;
        }
        let last = self.probe.take().map(|(home, _)| home);
        if let Some(home) = last.and_then(|last| self.homes.get_mut(&last)) {
            home.jobs = 0;
        }
        let wanting =
            || self.homes.iter().filter(|(_, home)| home.jobs > 0).map(|(shard, _)| *shard);
        let behind = |shard: &ShardId| last.is_none_or(|last| *shard > last);
        let next = wanting().find(behind).or_else(|| wanting().next());
        self.probe = next.map(|home| (home, now.plus_ms(PROBE_MS)));
    }
}

impl Home {
    fn is_active(&self, now: Mono) -> bool {
        now.ms_since(self.seen) < ACTIVE_MS
    }

    fn is_to_be_told(
        &self,
        (total, per_flow): (u32, u32),
        binds: Binds,
        (rests, now): (bool, Mono),
    ) -> bool {
        if self.is_behind || (self.total == 0) != (total == 0) {
            return true;
        }
        if rests {
            return total != self.total || binds != self.binds;
        }
        let grows =
            total > self.total + self.total / 4 || per_flow > self.per_flow + self.per_flow / 4;
        // The opening places are used without asking, so fewer need not be told.
        let shrinks = self.total > PLACES_OPENING && total < self.total - self.total / 4;
        let kind = |binds: Binds| if binds.is_momentary() { Binds::Nothing } else { binds };
        let is_first = self.told_at == Mono::ZERO;
        let is_time = is_first || now.ms_since(self.told_at) >= BINDS_MS;
        let tells_more = kind(binds) != kind(self.binds) && is_time;
        grows || shrinks || tells_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reckon(grants: &mut Grants, (window, binds): (u32, Binds), now: u64) -> Vec<(u16, u32)> {
        let mut told = Vec::new();
        let until = (binds == Binds::BackingOff).then_some(Mono::from_ms(10_000));
        let state = |_: Option<&str>| (GrantState { binds, until, ..GrantState::default() }, true);
        grants.reckon((window, 0), Mono::from_ms(now), state, &mut told);
        told.into_iter().map(|one| (one.home.0, one.total)).collect()
    }

    fn at(home: u16, ms: u64) -> (ShardId, Mono) {
        (ShardId(home), Mono::from_ms(ms))
    }

    #[test]
    fn places_follow_the_window_of_a_destination() {
        let mut grants = Grants::default();
        grants.meet(1, None, at(0, 0));
        assert_eq!(reckon(&mut grants, (8, Binds::Nothing), 0), [], "fewer than the opening ones");
        assert!(!grants.is_stale(9, 0, Mono::from_ms(1)));
        assert!(grants.is_stale(100, 0, Mono::from_ms(1)));
        assert_eq!(reckon(&mut grants, (100, Binds::Nothing), 1), [(0, 200)]);
        assert_eq!(reckon(&mut grants, (110, Binds::Window(9)), 2), [], "not by a quarter");
        grants.want(1, None, at(1, 3), (500, 3));
        assert_eq!(
            reckon(&mut grants, (100, Binds::Window(9)), 3),
            [(0, 50), (1, 150)],
            "by flows"
        );
        assert_eq!(reckon(&mut grants, (100, Binds::Rate), 4), [], "not at once");
        assert_eq!(reckon(&mut grants, (100, Binds::Rate), 1004).len(), 2, "but in time");
        // A home that has nothing to send counts no longer.
        grants.meet(1, None, at(0, 9_000));
        assert!(grants.is_stale(100, 0, Mono::from_ms(9_000)));
        assert_eq!(reckon(&mut grants, (100, Binds::Rate), 9_000), [(0, 200)]);
        grants.want(1, None, at(1, 9_001), (1, 1));
        assert_eq!(reckon(&mut grants, (8, Binds::Rate), 9_001), [(0, 8), (1, 8)], "fewer");
        grants.want(1, None, at(1, 9_002), (1, 1));
        assert_eq!(reckon(&mut grants, (8, Binds::Rate), 9_002), [(1, 8)], "who asks is answered");
    }

    #[test]
    fn a_flow_gets_more_than_its_opening_places() {
        let mut grants = Grants::default();
        grants.meet(1, None, at(0, 0));
        assert_eq!(reckon(&mut grants, (20, Binds::Nothing), 0), [(0, 40)]);
    }

    #[test]
    fn a_burst_is_remembered_for_a_while() {
        let mut grants = Grants::default();
        grants.meet(1, None, at(0, 0));
        (0..500).for_each(|_| grants.begun(Mono::from_ms(1)));
        assert!(grants.is_stale(5, 0, Mono::from_ms(1)));
        assert_eq!(reckon(&mut grants, (5, Binds::Nothing), 1), [(0, 510)]);
        assert!(!grants.is_stale(5, 0, Mono::from_ms(120)), "a pause of a moment");
        assert!(grants.is_stale(5, 0, Mono::from_ms(800)));
        assert_eq!(reckon(&mut grants, (5, Binds::Nothing), 800), [(0, 16)]);
    }

    #[test]
    fn there_are_none_during_a_backoff_and_one_for_the_probe() {
        let mut grants = Grants::default();
        for home in 0..3 {
            grants.meet(1, None, at(home, 0));
        }
        let rests = (1, Binds::BackingOff);
        assert_eq!(reckon(&mut grants, rests, 5_000), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(reckon(&mut grants, rests, 6_000), []);
        assert_eq!(reckon(&mut grants, rests, 10_000), [], "nobody has mail");
        grants.want(1, None, at(1, 10_000), (7, 1));
        grants.want(1, None, at(2, 10_000), (7, 1));
        assert_eq!(reckon(&mut grants, rests, 10_000), [(1, 1), (2, 0)], "one place");
        assert_eq!(grants.next_change(), Some(Mono::from_ms(11_000)));
        assert_eq!(reckon(&mut grants, rests, 11_000), [(1, 0), (2, 1)], "the next home");
        assert_eq!(reckon(&mut grants, rests, 12_000), [(2, 0)], "none of them had mail");
        assert_eq!(grants.next_change(), None);
        grants.want(1, None, at(0, 12_000), (7, 1));
        assert_eq!(reckon(&mut grants, rests, 12_000), [(0, 1)]);
        assert_eq!(reckon(&mut grants, rests, 9_000), [(0, 0)], "it rests again");
        let told = reckon(&mut grants, (1, Binds::Nothing), 12_500);
        assert_eq!(told.len(), 3, "those that had none have places: {told:?}");
    }
}
