//! Places: how many jobs each home may have at the owner of a destination.
//!
//! Owner:    inside of a destination's entry at its owner.
//! Promise:  the places of all homes together follow the window and the pace of the destination, so
//!           that connections never wait for jobs and jobs do not pile up here. While the destination
//!           rests there are none; afterwards one home at a time gets one, for the probe.
//! Cost:     a home is told only when its number changes by a quarter, or the state changes: in a
//!           steady state nothing is sent.

use std::collections::BTreeMap;

use crate::base::Mono;
use crate::base::ShardId;
use crate::handoff::frames::Binds;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::PLACES_OPENING;

const PLACES_MIN: u32 = 16;
const PLACES_MAX: u32 = 4096;
const PLACES_PER_HOME_MIN: u32 = 4;
/// The time that a busy shard may take to answer, in which connections must not wait for jobs.
const PACE_MS: u64 = 50;
/// How long a home has for sending the probe before another one may.
const PROBE_MS: u64 = 1000;

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
    binds: Binds,
    /// It has to be told again whatever it was told.
    is_behind: bool,
    /// Jobs that wait there for a place, and the flows that they belong to.
    jobs: u32,
    flows: u32,
}

impl Default for Home {
    fn default() -> Home {
        Home { total: PLACES_OPENING, binds: Binds::Nothing, is_behind: false, jobs: 0, flows: 1 }
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
    /// Jobs begun in this stretch of `PACE_MS`, and in the one before.
    begun: (u32, u32),
    stretch: Mono,
    /// When the home with the probe's place has had its time.
    next: Option<Mono>,
}

impl Grants {
    /// A home sends mail.
    pub fn meet(&mut self, target: u64, pool: Option<&str>, home: ShardId) {
        let target = self.targets.entry(target).or_default();
        if target.pool.as_deref() != pool {
            target.pool = pool.map(Box::from);
        }
        target.homes.entry(home).or_default();
    }

    /// A home has mail that waits.
    pub fn want(&mut self, target: u64, pool: Option<&str>, home: ShardId, wish: (u32, u32)) {
        self.meet(target, pool, home);
        let known = self.targets.get_mut(&target).and_then(|target| target.homes.get_mut(&home));
        if let Some(known) = known {
            (known.jobs, known.flows) = (wish.0, wish.1.max(1));
            known.is_behind |= known.total == 0;
        }
    }

    /// A home acts on places that it does not have any more.
    pub fn tell(&mut self, target: u64, home: ShardId) {
        let known = self.targets.get_mut(&target).and_then(|target| target.homes.get_mut(&home));
        if let Some(known) = known {
            known.is_behind |= known.total > 0;
        }
    }

    /// A job begins. Whether the pace has changed by much.
    pub fn begun(&mut self, now: Mono) -> bool {
        self.roll(now);
        self.begun.0 += 1;
        self.begun.0 > 2 * self.begun.1.max(PLACES_MIN) && self.begun.0.is_power_of_two()
    }

    fn roll(&mut self, now: Mono) {
        let ms = now.ms_since(self.stretch);
        if ms >= PACE_MS {
            self.begun = (0, if ms < 2 * PACE_MS { self.begun.0 } else { 0 });
            self.stretch = now;
        }
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

    /// The places of all homes now.
    pub fn reckon(
        &mut self,
        (window, flows, awaits_probe): (u32, u32, bool),
        now: Mono,
        mut state_of: impl FnMut(Option<&str>) -> GrantState,
        told: &mut Vec<Told>,
    ) {
        self.roll(now);
        let begun = self.begun.0.max(self.begun.1);
        self.next = None;
        for (name, target) in &mut self.targets {
            let state = state_of(target.pool.as_deref());
            let rests = match state.binds {
                Binds::Paused | Binds::Suspended | Binds::Closing | Binds::BackingOff => true,
                Binds::Nothing | Binds::Window | Binds::Rate | Binds::OurLimit(_) => false,
            };
            let is_over = state.until.is_some_and(|until| until <= now);
            if !rests {
                target.probe = None;
            } else if state.binds == Binds::BackingOff && is_over && awaits_probe {
                target.choose_probe(now);
                self.next = target.probe.map(|(_, until)| until);
            }
            let wanting: u32 = target.homes.values().map(|home| home.flows).sum();
            let wanting = wanting.max(1);
            let all = (2 * window).saturating_add(begun).max(wanting.max(flows));
            let all = all.clamp(PLACES_MIN, PLACES_MAX);
            let probe = target.probe.map(|(home, _)| home);
            for (shard, home) in &mut target.homes {
                let share = u64::from(all) * u64::from(home.flows) / u64::from(wanting);
                let total = match rests {
                    true => u32::from(probe == Some(*shard)),
                    false => (share as u32).max(PLACES_PER_HOME_MIN),
                };
                if home.is_to_be_told(total, state.binds, rests) {
                    (home.total, home.binds, home.is_behind) = (total, state.binds, false);
                    if !rests {
                        home.jobs = 0;
                    }
                    let per_flow = (2 * total / home.flows).clamp(1, total.max(1)).min(total);
                    let (home, target) = (*shard, *name);
                    told.push(Told { home, target, total, per_flow, state: state.clone() });
                }
            }
        }
    }
}

impl Target {
    /// The next home with mail has its turn to send the probe.
    fn choose_probe(&mut self, now: Mono) {
        if self.probe.is_some_and(|(_, until)| now < until) {
            return;
        }
        let last = self.probe.map(|(home, _)| home);
        let wants = |(shard, home): (&ShardId, &Home)| (home.jobs > 0).then_some(*shard);
        let behind = |shard: &ShardId| last.is_none_or(|last| *shard > last);
        let mut wanting: Vec<ShardId> = self.homes.iter().filter_map(wants).collect();
        if wanting.is_empty() {
            wanting = self.homes.keys().copied().collect();
        }
        let next = wanting.iter().copied().find(behind).or(wanting.first().copied());
        self.probe = next.map(|home| (home, now.plus_ms(PROBE_MS)));
    }
}

impl Home {
    fn is_to_be_told(&self, total: u32, binds: Binds, rests: bool) -> bool {
        let rested = self.total == 0;
        if self.is_behind || rested != (total == 0) {
            return true;
        }
        if rests {
            return total != self.total || binds != self.binds;
        }
        let grows = self.jobs > 0 && total > self.total + self.total / 4;
        // The opening places are used without asking, so fewer need not be told.
        let shrinks = self.total > PLACES_OPENING && total < self.total - self.total / 4;
        grows || shrinks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reckon(grants: &mut Grants, (window, binds): (u32, Binds), now: u64) -> Vec<(u16, u32)> {
        let mut told = Vec::new();
        let until = (binds == Binds::BackingOff).then_some(Mono::ZERO.plus_ms(10_000));
        let state = |_: Option<&str>| GrantState { binds, until, ..GrantState::default() };
        let now = Mono::ZERO.plus_ms(now);
        grants.reckon((window, 0, true), now, state, &mut told);
        told.into_iter().map(|one| (one.home.0, one.total)).collect()
    }

    #[test]
    fn places_follow_the_window_of_a_destination() {
        let mut grants = Grants::default();
        grants.meet(1, None, ShardId(0));
        assert_eq!(reckon(&mut grants, (100, Binds::Nothing), 0), [], "nobody wants more");
        grants.want(1, None, ShardId(0), (500, 1));
        assert_eq!(reckon(&mut grants, (100, Binds::Nothing), 0), [(0, 200)]);
        grants.want(1, None, ShardId(0), (500, 1));
        assert_eq!(reckon(&mut grants, (110, Binds::Window), 0), [], "not by a quarter");
        grants.want(1, None, ShardId(1), (500, 3));
        let told = reckon(&mut grants, (100, Binds::Window), 0);
        assert_eq!(told, [(0, 50), (1, 150)], "by flows");
    }

    #[test]
    fn there_are_none_during_a_backoff_and_one_for_the_probe() {
        let mut grants = Grants::default();
        for home in 0..3 {
            grants.meet(1, None, ShardId(home));
        }
        let none = [(0, 0), (1, 0), (2, 0)];
        assert_eq!(reckon(&mut grants, (1, Binds::BackingOff), 5_000), none);
        assert_eq!(reckon(&mut grants, (1, Binds::BackingOff), 6_000), []);
        grants.want(1, None, ShardId(1), (7, 1));
        grants.want(1, None, ShardId(2), (7, 1));
        let told = reckon(&mut grants, (1, Binds::BackingOff), 10_000);
        assert_eq!(told, [(1, 1), (2, 0)], "one place");
        assert_eq!(grants.next_change(), Some(Mono::ZERO.plus_ms(11_000)));
        let told = reckon(&mut grants, (1, Binds::BackingOff), 11_000);
        assert_eq!(told, [(1, 0), (2, 1)], "the next home");
        let told = reckon(&mut grants, (1, Binds::Nothing), 11_500);
        assert_eq!(told.len(), 2, "those that had none have places: {told:?}");
    }
}
