//! How fast a destination takes mail: transfers that ended in about the last minute.
//!
//! Owner:    its destination. No clock of its own.
//! Promise:  a transfer is counted for a minute, and forgotten within ten seconds afterwards.

use crate::base::Mono;

const SLOTS: usize = 7;
const SLOT_MS: u64 = 10_000;
const MINUTE_MS: u64 = 60_000;

#[derive(Clone, Debug, Default)]
pub struct Pace {
    slots: [u32; SLOTS],
    /// The number of the newest slot, counted from time 0.
    newest: u64,
    /// When the first end of this stretch was counted.
    since_ms: u64,
}

impl Pace {
    pub fn count(&mut self, now: Mono) {
        let now_ms = now.ms_since(Mono::ZERO);
        self.roll(now_ms);
        if self.sum() == 0 {
            self.since_ms = now_ms;
        }
        let slot = &mut self.slots[place(self.newest)];
        *slot = slot.saturating_add(1);
    }

    /// Ends in a minute at the present pace; a stretch that has just begun is reckoned up.
    pub fn per_minute(&mut self, now: Mono) -> u64 {
        let now_ms = now.ms_since(Mono::ZERO);
        self.roll(now_ms);
        let sum = u64::from(self.sum());
        // The newest slot is not over yet: about a minute is seen when all of them are in use.
        let seen_ms = now_ms.saturating_sub(self.since_ms).clamp(SLOT_MS, MINUTE_MS);
        sum * MINUTE_MS / seen_ms
    }

    fn sum(&self) -> u32 {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(*slot))
    }

    fn roll(&mut self, now_ms: u64) {
        let slot = now_ms / SLOT_MS;
        for back in 0..slot.saturating_sub(self.newest).min(SLOTS as u64) {
            self.slots[place(slot - back)] = 0;
        }
        self.newest = self.newest.max(slot);
    }
}

fn place(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::ZERO.plus_ms(ms)
    }

    #[test]
    fn a_pace_is_that_of_the_last_minute() {
        let mut pace = Pace::default();
        assert_eq!(pace.per_minute(at(5)), 0);
        (0..60).for_each(|second| pace.count(at(1_000_000 + second * 1000)));
        let steady = pace.per_minute(at(1_060_000));
        assert!((55..=70).contains(&steady), "{steady} for one a second");
        assert_eq!(pace.per_minute(at(1_200_000)), 0, "it has stopped");
        pace.count(at(2_000_000));
        assert_eq!(pace.per_minute(at(2_000_001)), 6, "one within less than ten seconds");
    }
}
