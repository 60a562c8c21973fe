//! Counts of the deliveries that a crash would repeat.
//!
//! Owner:    the partition; counted without a lock by the owner shards that deliver its mail.
//! Bounds:   ages are kept in a ring of `SLOTS` counts, each with the time of its oldest delivery.
//!           The ring is longer than the bound: a slot that comes round before it is empty keeps its
//!           old time, and it empties, because no delivery begins meanwhile.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::base::limits::UNSETTLED_MAX;
use crate::base::limits::UNSETTLED_MS_MAX;

const SLOTS: usize = 16;

/// Milliseconds of one slot: the maximum error of a recorded age.
const SLOT_MS: u64 = UNSETTLED_MS_MAX / (SLOTS as u64 / 2);

/// A slot has the time of its oldest delivery in its upper bits, the count in its lower bits.
const COUNT_BITS: u32 = 16;

const COUNT: u64 = (1 << COUNT_BITS) - 1;

const _: () = assert!(UNSETTLED_MAX < COUNT as usize);

const _: () = assert!(SLOT_MS > 0);

/// The unsettled deliveries of a partition.
#[derive(Debug)]
pub(in crate::queue) struct UnsettledCounts {
    /// Deliveries in progress, or done but not settled yet.
    pub(in crate::queue) all: AtomicUsize,
    /// Of these, deliveries that the remote has accepted, by time.
    taken: [AtomicU64; SLOTS],
    /// The origin of all times here.
    since: Instant,
}

impl UnsettledCounts {
    pub(in crate::queue) fn new(since: Instant) -> UnsettledCounts {
        UnsettledCounts { all: AtomicUsize::new(0), taken: Default::default(), since }
    }

    /// Notes a delivery that was accepted now. Returns its slot.
    pub(in crate::queue) fn enter(&self, now: Instant) -> u8 {
        let now_ms = self.ms(now);
        let place = (now_ms / SLOT_MS) as usize % SLOTS;
        let with_one_more = |slot: u64| match slot & COUNT {
            0 => now_ms << COUNT_BITS | 1,
            // Two cores may read their clocks in the other order.
            count => (slot >> COUNT_BITS).min(now_ms) << COUNT_BITS | (count + 1),
        };
        let slot = &self.taken[place];
        let mut seen = slot.load(Ordering::Relaxed);
        while let Err(other) = slot.compare_exchange_weak(
            seen,
            with_one_more(seen),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            seen = other;
        }
        place as u8
    }

    pub(in crate::queue) fn leave(&self, place: u8) {
        self.taken[place as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a delivery that was accepted too long ago is still unsettled.
    pub(in crate::queue) fn is_late(&self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        self.taken.iter().any(|slot| {
            let slot = slot.load(Ordering::Relaxed);
            slot & COUNT > 0 && (slot >> COUNT_BITS) + UNSETTLED_MS_MAX <= now_ms
        })
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn after(counts: &UnsettledCounts, ms: u64) -> Instant {
        counts.since + Duration::from_millis(ms)
    }

    #[test]
    fn the_oldest_that_is_left_says_whether_it_is_late() {
        let counts = UnsettledCounts::new(Instant::now());
        let late = |ms| counts.is_late(after(&counts, ms));
        assert!(!late(0) && !late(1_000_000), "nothing is nothing late");

        let first = counts.enter(after(&counts, 1_000));
        let second = counts.enter(after(&counts, 1_000 + UNSETTLED_MS_MAX / 2));
        assert!(!late(1_000 + UNSETTLED_MS_MAX - 1));
        assert!(late(1_000 + UNSETTLED_MS_MAX));
        counts.leave(first);
        assert!(!late(1_000 + UNSETTLED_MS_MAX), "the other is younger");
        assert!(late(1_000 + UNSETTLED_MS_MAX / 2 + UNSETTLED_MS_MAX));
        counts.leave(second);
        assert!(!late(1_000_000));
    }

    #[test]
    fn of_two_at_one_time_both_must_go() {
        let counts = UnsettledCounts::new(Instant::now());
        let (later, earlier) = (counts.enter(after(&counts, 11)), counts.enter(after(&counts, 10)));
        assert_eq!(later, earlier);
        counts.leave(later);
        let late = |ms| counts.is_late(after(&counts, ms));
        assert!(!late(9 + UNSETTLED_MS_MAX) && late(10 + UNSETTLED_MS_MAX));
        counts.leave(earlier);
        assert!(!late(1_000));
        counts.enter(after(&counts, 20));
        assert!(!late(19 + UNSETTLED_MS_MAX), "an empty slot has forgotten its time");
    }

    /// A disk that hangs for longer than the ring covers.
    #[test]
    fn one_that_stays_is_late_however_the_ring_goes_round() {
        let counts = UnsettledCounts::new(Instant::now());
        let stuck = counts.enter(after(&counts, 5));
        for ms in (UNSETTLED_MS_MAX + 5..20 * UNSETTLED_MS_MAX).step_by(SLOT_MS as usize / 2) {
            let other = counts.enter(after(&counts, ms));
            assert!(counts.is_late(after(&counts, ms)), "at {ms} ms");
            counts.leave(other);
        }
        counts.leave(stuck);
        assert!(!counts.is_late(after(&counts, 100 * UNSETTLED_MS_MAX)));
    }

    #[test]
    fn counts_hold_when_cores_count_at_once() {
        let counts = UnsettledCounts::new(Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for ms in 0..20_000 {
                        let place = counts.enter(after(&counts, ms / 8));
                        counts.leave(place);
                    }
                });
            }
        });
        assert!(counts.taken.iter().all(|slot| slot.load(Ordering::Relaxed) & COUNT == 0));
    }
}
