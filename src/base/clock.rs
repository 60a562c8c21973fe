//! Two clocks that do not mix: `Mono` measures waiting, `Wall` is the date; and the schedule clock.
//!
//! Promise:  there is no conversion between `Mono` and `Wall`, so a step of the wall clock can
//!           neither fire nor stall a timer that is kept in `Mono`.
//! Use:      only stored schedules, envelopes and log lines hold `Wall`; everything else is `Mono`.
//!           Pure code is passed the time as a value and does not read it.

use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// The wall clock, in milliseconds since 1970. A clock before 1970 reads as 0.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A moment of the monotonic clock: nanoseconds since this process first read that clock. Arithmetic
/// stops at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mono(u64);

impl Mono {
    pub const ZERO: Mono = Mono(0);
    /// After every other moment: a timer that is not set.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// Reads the clock.
    pub fn now() -> Mono {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Mono(ns_of(ORIGIN.elapsed()))
    }

    pub const fn from_ns(ns: u64) -> Mono {
        Mono(ns)
    }

    pub const fn from_ms(ms: u64) -> Mono {
        Mono(ms.saturating_mul(NS_PER_MS))
    }

    pub const fn as_ns(self) -> u64 {
        self.0
    }

    pub fn plus(self, wait: Duration) -> Mono {
        Mono(self.0.saturating_add(ns_of(wait)))
    }

    pub const fn plus_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(NS_PER_MS)))
    }

    /// The time since an earlier moment; zero since a later one.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// As `since`, in whole milliseconds.
    pub const fn ms_since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0) / NS_PER_MS
    }
}

/// A moment of the wall clock: milliseconds since 1970. Arithmetic stops at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wall(u64);

impl Wall {
    /// Reads the clock.
    pub fn now() -> Wall {
        Wall(wall_ms())
    }

    pub const fn from_ms(ms: u64) -> Wall {
        Wall(ms)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    pub fn plus(self, wait: Duration) -> Wall {
        self.plus_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    pub const fn plus_ms(self, ms: u64) -> Wall {
        Wall(self.0.saturating_add(ms))
    }

    /// Milliseconds since an earlier moment; 0 since a later one.
    pub const fn ms_since(self, earlier: Wall) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

const NS_PER_MS: u64 = 1_000_000;

fn ns_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of the stored schedule, which never goes back: it follows the wall clock forward, and
/// when the wall clock steps back it goes on at the pace of the monotonic clock. Due times are both
/// written and compared by this clock, so a step back by hours delays no retry.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleClock {
    at: Wall,
    read: Mono,
    /// Nanoseconds below a millisecond that `at` does not have yet.
    rest_ns: u64,
}

impl ScheduleClock {
    /// `newest` is when the newest id was given: an earlier run may have been ahead of the wall clock.
    pub fn new(newest: Wall, wall: Wall, mono: Mono) -> ScheduleClock {
        ScheduleClock { at: wall.max(newest), read: mono, rest_ns: 0 }
    }

    /// The time of the schedule, from the time of both clocks.
    pub fn now(&mut self, wall: Wall, mono: Mono) -> Wall {
        let passed_ns = mono.0.saturating_sub(self.read.0).saturating_add(self.rest_ns);
        self.read = self.read.max(mono);
        let own = self.at.plus_ms(passed_ns / NS_PER_MS);
        (self.at, self.rest_ns) = match wall > own {
            true => (wall, 0),
            false => (own, passed_ns % NS_PER_MS),
        };
        self.at
    }

    /// Milliseconds by which the schedule is ahead of the wall clock: the sum of the steps back.
    pub fn ahead_ms(&self, wall: Wall) -> u64 {
        self.at.ms_since(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let one = Mono::from_ms(1);
        assert_eq!(one.since(Mono::from_ms(5)), Duration::ZERO);
        assert_eq!(one.plus(Duration::MAX), Mono::NEVER);
        assert_eq!(Mono::from_ms(5).ms_since(one), 4);
        assert_eq!(one.plus(Duration::from_nanos(7)).as_ns(), 1_000_007);
        let wall = Wall::from_ms(10);
        assert_eq!(wall.plus(Duration::from_secs(1)).as_ms(), 1010);
        assert_eq!(wall.ms_since(Wall::from_ms(11)), 0);
        assert_eq!(wall.plus(Duration::MAX).as_ms(), u64::MAX);
        assert!(Mono::now() <= Mono::now());
    }

    #[test]
    fn the_schedule_follows_the_wall_clock_forward_and_never_back() {
        let start = Wall::from_ms(100 * HOUR_MS);
        // Milliseconds of both clocks since the start, and of the schedule.
        for (name, steps) in [
            ("no step", &[(0, 0, 0), (5, 5, 5), (9, 9, 9)][..]),
            ("forward by three hours", &[(0, 0, 0), (5 + 3 * HOUR_MS as i64, 5, 10_800_005)]),
            ("back by three hours", &[(0, 0, 0), (5 - 3 * HOUR_MS as i64, 5, 5), (7, 700, 700)]),
            ("back and right again", &[(0, 0, 0), (-500, 10, 10), (20, 20, 20), (30, 30, 30)]),
            ("forward and right again", &[(1000, 0, 1000), (10, 10, 1010), (20, 20, 1020)]),
            ("back twice", &[(-100, 10, 10), (-200, 20, 20), (-100, 120, 120)]),
        ] {
            let mut clock = ScheduleClock::new(Wall::from_ms(0), start, Mono::from_ms(77));
            for (wall, mono, expected) in steps {
                let wall = Wall::from_ms(start.as_ms().saturating_add_signed(*wall));
                let now = clock.now(wall, Mono::from_ms(77 + mono));
                assert_eq!(now.ms_since(start), *expected, "{name}");
                assert_eq!(clock.ahead_ms(wall), now.ms_since(wall), "{name}");
            }
        }
    }

    #[test]
    fn the_schedule_starts_no_earlier_than_the_newest_id() {
        let (newest, wall) = (Wall::from_ms(5 * HOUR_MS), Wall::from_ms(2 * HOUR_MS));
        let mut clock = ScheduleClock::new(newest, wall, Mono::ZERO);
        assert_eq!(clock.ahead_ms(wall), 3 * HOUR_MS);
        assert_eq!(clock.now(wall.plus_ms(10), Mono::from_ms(10)), newest.plus_ms(10));
        assert_eq!(clock.now(newest.plus_ms(9), Mono::from_ms(10)), newest.plus_ms(10));
        assert_eq!(clock.now(newest.plus_ms(11), Mono::from_ms(10)), newest.plus_ms(11));
    }

    #[test]
    fn readings_closer_than_a_millisecond_lose_no_time() {
        let wall = Wall::from_ms(1000);
        let mut clock = ScheduleClock::new(wall, wall, Mono::ZERO);
        let stuck = Wall::from_ms(0);
        let mut last = wall;
        for step in 1..=3000 {
            last = clock.now(stuck, Mono::from_ns(step * 400_000));
        }
        assert_eq!(last.ms_since(wall), 1200);
    }
}
