//! The retry schedule of temporarily failed deliveries.
//!
//! Promise:  a pure function of the attempt, the times and the random number. The last retry comes
//!           exactly when the message expires, never later, and no retry follows it.
//! Bounds:   a wait is at most the longest step plus its jitter.

use std::time::Duration;

/// Waits after the first, second, ... failed attempt.
const STEPS: [Duration; 7] = [
    Duration::from_secs(5 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(20 * 60),
    Duration::from_secs(40 * 60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(4 * 60 * 60),
];
const JITTER_PERCENT: u8 = 10;

/// The waits of a message between attempts. Its maximum age belongs to its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    steps: Box<[Duration]>,
    jitter_percent: u8,
}

impl Default for RetrySchedule {
    fn default() -> RetrySchedule {
        RetrySchedule { steps: STEPS.into(), jitter_percent: JITTER_PERCENT }
    }
}

impl RetrySchedule {
    /// The last of `steps` repeats. `None` without a step, or with a step of 0, which would be a
    /// busy loop.
    pub fn new(steps: Box<[Duration]>, jitter_percent: u8) -> Option<RetrySchedule> {
        assert!(jitter_percent <= 100, "a wait is not negative");
        let lasts = |step: &Duration| step.as_millis() > 0;
        let is_valid = !steps.is_empty() && steps.iter().all(lasts);
        is_valid.then_some(RetrySchedule { steps, jitter_percent })
    }

    pub fn steps(&self) -> &[Duration] {
        &self.steps
    }

    /// The time of the next attempt after `attempts` failed ones, the last of them at `now_ms`, of
    /// a message that expires at `expires_ms`. `None`: the message has expired and bounces.
    pub fn next(&self, attempts: u32, expires_ms: u64, now_ms: u64, random: u64) -> Option<u64> {
        if now_ms >= expires_ms {
            return None;
        }
        let due_ms = now_ms.saturating_add(self.wait_ms(attempts, random));
        Some(due_ms.min(expires_ms))
    }

    fn wait_ms(&self, attempts: u32, random: u64) -> u64 {
        let place = (attempts.saturating_sub(1) as usize).min(self.steps.len() - 1);
        let step_ms = millis(self.steps[place]);
        let spread_ms = step_ms / 100 * u64::from(self.jitter_percent);
        let low_ms = step_ms - spread_ms;
        // A wait of 0 would be a busy loop.
        low_ms
            .saturating_add(scatter(random) % spread_ms.saturating_mul(2).saturating_add(1))
            .max(1)
    }
}

/// The time of the last attempt of a message accepted at `first_ms`.
pub fn expiry_ms(first_ms: u64, max_age: Duration) -> u64 {
    first_ms.saturating_add(millis(max_age))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Spreads random numbers that are close together, such as consecutive ids (the finaliser of
/// SplitMix64).
fn scatter(random: u64) -> u64 {
    let mixed = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const FIRST: u64 = 1_795_230_600_000;
    const MAX_AGE: Duration = Duration::from_secs(5 * 24 * 60 * 60);
    const EXPIRES: u64 = FIRST + 5 * 24 * 60 * MINUTE;

    fn schedule(steps: &[Duration], jitter_percent: u8) -> RetrySchedule {
        RetrySchedule::new(steps.into(), jitter_percent).expect("the schedule has steps")
    }

    #[test]
    fn a_schedule_has_steps_that_last() {
        assert_eq!(RetrySchedule::new([].into(), 10), None);
        assert_eq!(RetrySchedule::new([Duration::from_secs(1), Duration::ZERO].into(), 10), None);
        assert_eq!(schedule(&STEPS, 10), RetrySchedule::default());
    }

    #[test]
    fn waits_grow_and_the_last_repeats() {
        let schedule = schedule(&STEPS, 0);
        let rows =
            [(0, 5), (1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 120), (7, 240), (8, 240)];
        for (attempts, minutes) in rows.into_iter().chain([(u32::MAX, 240)]) {
            let due = schedule.next(attempts, EXPIRES, FIRST + 1, 7);
            assert_eq!(due, Some(FIRST + 1 + minutes * MINUTE), "{attempts}");
        }
    }

    #[test]
    fn the_last_retry_is_at_the_maximum_age() {
        let schedule = schedule(&STEPS, 0);
        let end = expiry_ms(FIRST, Duration::from_secs(3600));
        assert_eq!(end, FIRST + 60 * MINUTE);
        let rows = [
            ("well before", FIRST + 20 * MINUTE, Some(FIRST + 40 * MINUTE)),
            ("a wait that ends there", end - 20 * MINUTE, Some(end)),
            ("a wait past it", end - 1, Some(end)),
            ("at it", end, None),
            ("long past it", u64::MAX, None),
            ("a clock set back", 0, Some(20 * MINUTE)),
        ];
        for (name, now, due) in rows {
            assert_eq!(schedule.next(3, end, now, 1), due, "{name}");
        }
    }

    #[test]
    fn a_whole_life_ends() {
        let schedule = RetrySchedule::default();
        assert_eq!(expiry_ms(FIRST, MAX_AGE), EXPIRES);
        let (mut now, mut tries) = (FIRST, 1);
        while let Some(due) = schedule.next(tries, EXPIRES, now, u64::from(tries)) {
            assert!(due > now && due <= EXPIRES);
            (now, tries) = (due, tries + 1);
        }
        assert_eq!(now, EXPIRES);
        assert!((30..45).contains(&tries), "{tries}");
    }

    #[test]
    fn jitter_stays_within_its_percentage_and_spreads() {
        let schedule = schedule(&[Duration::from_secs(1000)], 10);
        let next = |random: u64| {
            schedule.next(1, u64::MAX, 0, random).expect("the message has not expired")
        };
        let waits: Vec<u64> = (0..1000).map(next).collect();
        assert!(waits.iter().all(|wait| (900_000..=1_100_000).contains(wait)));
        let early = waits.iter().filter(|wait| **wait < 1_000_000).count();
        assert!((400..600).contains(&early), "{early}");
        assert_eq!(next(5), next(5));
    }

    #[test]
    fn no_number_overflows() {
        let endless = schedule(&[Duration::MAX, Duration::from_millis(1)], 100);
        for random in [0, 1, u64::MAX] {
            let end = expiry_ms(u64::MAX - 1, Duration::MAX);
            assert!(endless.next(1, end, 5, random).is_some());
            assert_eq!(endless.next(9, end, u64::MAX, random), None);
            assert!(endless.next(2, u64::MAX, 5, random).is_some_and(|due| due > 5));
        }
    }
}
