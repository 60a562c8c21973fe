//! Times: of the monotonic clock, and of the wall clock.
//!
//! Promise:  a time of one clock is never compared with a time of the other. Timers, rates, windows and
//!           backoffs use `Mono`; only rows of the schedule, envelopes and log records hold `Wall`.
//!           Pure code is passed the time as a value and does not read a clock.

use std::ops::Add;
use std::ops::Sub;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// The wall clock, in milliseconds since 1970. A clock before 1970 reads as 0.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A time of the monotonic clock, in nanoseconds since a start that is arbitrary, but the same for
/// the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mono(u64);

impl Mono {
    pub const ZERO: Mono = Mono(0);

    pub const fn from_ns(ns: u64) -> Mono {
        Mono(ns)
    }

    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The time `now` of a clock whose zero is `start`.
    pub fn of(now: Instant, start: Instant) -> Mono {
        Mono(nanos(now.saturating_duration_since(start)))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(nanos(span)))
    }
}

/// The time since then; zero if then is later.
impl Sub<Mono> for Mono {
    type Output = Duration;

    fn sub(self, then: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(then.0))
    }
}

/// A time of the wall clock, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wall(u64);

impl Wall {
    pub const ZERO: Wall = Wall(0);
    /// Never.
    pub const MAX: Wall = Wall(u64::MAX);

    pub const fn from_ms(ms: u64) -> Wall {
        Wall(ms)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    pub fn now() -> Wall {
        Wall(wall_ms())
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;

    fn add(self, span: Duration) -> Wall {
        Wall(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The time since then; zero if then is later.
impl Sub<Wall> for Wall {
    type Output = Duration;

    fn sub(self, then: Wall) -> Duration {
        Duration::from_millis(self.0.saturating_sub(then.0))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_do_not_overflow() {
        let second = Duration::from_secs(1);
        assert_eq!(Mono::from_ns(5) + second, Mono::from_ns(1_000_000_005));
        assert_eq!(Mono::from_ns(5) - Mono::from_ns(9), Duration::ZERO);
        assert_eq!(Mono::from_ns(u64::MAX) + Duration::MAX, Mono::from_ns(u64::MAX));
        assert_eq!(Wall::from_ms(5) + second - Wall::from_ms(5), second);
        assert_eq!(Wall::ZERO - Wall::MAX, Duration::ZERO);
        assert_eq!(Wall::MAX + Duration::MAX, Wall::MAX);
    }
}
