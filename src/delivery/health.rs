//! Whether a destination, one of its sources or one of its connection classes can be used: one machine
//! for all three.
//!
//! ```text
//! Working     --so many failures in a row-->                     BackingOff
//! BackingOff  --its time is over and a connection is opened-->   Probing
//! Probing     --the probe fails-->                               BackingOff, twice as long
//! Probing     --the probe ends without an answer-->              BackingOff, same level
//! Probing     --the probe gets an answer to a message-->         Working
//! BackingOff  --an older connection gets an answer-->            Working
//! ```

use std::time::Duration;

use crate::base::Mono;
use crate::base::Random;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Working,
    BackingOff {
        until: Mono,
        level: u32,
    },
    /// One connection finds out.
    Probing {
        level: u32,
    },
}

/// The terms of a backoff.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// Failures in a row that begin one.
    pub failures: u32,
    pub first: Duration,
    pub max: Duration,
}

/// Whether a connection is the one that finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Probe,
    Plain,
}

#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub health: Health,
    /// In a row.
    failures: u32,
    /// The first failure since the last success.
    pub failing_since: Option<Mono>,
}

impl Standing {
    pub fn is_working(&self) -> bool {
        self.health == Health::Working
    }

    /// In a backoff whose time is not over.
    pub fn rests(&self, now: Mono) -> Option<Mono> {
        match self.health {
            Health::BackingOff { until, .. } if now < until => Some(until),
            _ => None,
        }
    }

    /// Whether a connection of this role may be used for a message.
    pub fn admits(&self, role: Role) -> bool {
        self.is_working() || role == Role::Probe
    }

    /// A connection is opened. After a backoff it is the probe.
    pub fn on_open(&mut self) -> Role {
        let Health::BackingOff { level, .. } = self.health else { return Role::Plain };
        self.health = Health::Probing { level };
        Role::Probe
    }

    /// A message got an answer. Whether that ends a backoff.
    pub fn succeed(&mut self) -> bool {
        let recovers = !self.is_working();
        *self = Standing::default();
        recovers
    }

    /// Whether a backoff begins.
    pub fn fail(&mut self, role: Role, terms: &BackOff, now: Mono, random: &mut Random) -> bool {
        self.failing_since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        let level = match self.health {
            Health::Working if self.failures >= terms.failures => 0,
            Health::Probing { level } if role == Role::Probe => level.saturating_add(1),
            _ => return false,
        };
        let most_ms = (terms.max.as_millis() as u64).max(1);
        let factor = 1_u64.checked_shl(level).unwrap_or(u64::MAX);
        let full_ms = (terms.first.as_millis() as u64).saturating_mul(factor).clamp(1, most_ms);
        // Up to a fifth less, so that destinations that failed together do not come back together.
        let until = now.plus_ms(full_ms - random.below(full_ms / 5 + 1));
        self.health = Health::BackingOff { until, level: level.min(63) };
        true
    }

    /// The probe is gone without having found out anything: another one may try from then on.
    pub fn on_probe_gone(&mut self, role: Role, next: Mono) {
        if let (Role::Probe, Health::Probing { level }) = (role, self.health) {
            self.health = Health::BackingOff { until: next, level };
        }
    }

    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: BackOff =
        BackOff { failures: 3, first: Duration::from_secs(60), max: Duration::from_secs(300) };

    fn wait_ms(standing: &Standing, now: Mono) -> u64 {
        standing.rests(now).map_or(0, |until| until.ms_since(now))
    }

    #[test]
    fn a_backoff_doubles_up_to_its_most() {
        let (mut standing, mut random) = (Standing::default(), Random::new(1));
        let mut now = Mono::ZERO;
        assert!(!standing.fail(Role::Plain, &TERMS, now, &mut random));
        assert!(!standing.fail(Role::Plain, &TERMS, now, &mut random));
        assert!(standing.fail(Role::Plain, &TERMS, now, &mut random));
        for full_s in [60, 120, 240, 300, 300] {
            let waits = wait_ms(&standing, now);
            assert!((full_s * 800..=full_s * 1000).contains(&waits), "{full_s}: {waits}");
            assert!(!standing.admits(Role::Plain) && standing.admits(Role::Probe));
            now = now.plus_ms(waits);
            assert_eq!(standing.rests(now), None);
            assert_eq!(standing.on_open(), Role::Probe);
            assert!(!standing.fail(Role::Plain, &TERMS, now, &mut random), "an older connection");
            assert!(standing.fail(Role::Probe, &TERMS, now, &mut random));
        }
        assert_eq!(standing.failing_since, Some(Mono::ZERO));
        assert!(standing.succeed());
        assert!(standing.is_working() && standing.failing_since.is_none());
        assert!(!standing.succeed(), "nothing to recover from");
    }

    #[test]
    fn a_probe_that_finds_out_nothing_leaves_the_level() {
        let (mut standing, mut random) = (Standing::default(), Random::new(1));
        for _ in 0..3 {
            standing.fail(Role::Plain, &TERMS, Mono::ZERO, &mut random);
        }
        let later = Mono::ZERO.plus_ms(100_000);
        assert_eq!(standing.on_open(), Role::Probe);
        standing.on_probe_gone(Role::Plain, later);
        assert_eq!(standing.health, Health::Probing { level: 0 });
        standing.on_probe_gone(Role::Probe, later);
        assert_eq!(standing.health, Health::BackingOff { until: later, level: 0 });
    }
}
