//! When reports to senders leave.

const MINUTE_US: u64 = 60_000_000;
/// The unused part of the last half minute may be used at once.
const BURST_US: u64 = MINUTE_US / 2;

/// Spreads reports over time, so that refused mail with forged senders causes no flood of reports.
#[derive(Clone, Copy, Debug)]
pub struct ReportPace {
    next_us: u64,
}

impl ReportPace {
    /// Starts without a burst, so that restarts do not evade the limit.
    pub fn new(now_ms: u64) -> ReportPace {
        ReportPace { next_us: now_ms * 1000 }
    }

    /// When the next report is due.
    pub fn take(&mut self, now_ms: u64, per_minute: u32) -> u64 {
        let now_us = now_ms * 1000;
        let at_us = self.next_us.max(now_us.saturating_sub(BURST_US));
        self.next_us = at_us + MINUTE_US / u64::from(per_minute.max(1));
        (at_us / 1000).max(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_keep_their_pace() {
        let mut pace = ReportPace::new(100_000);
        let dues: Vec<u64> = (0..4).map(|_| pace.take(100_000, 60)).collect();
        assert_eq!(dues, [100_000, 101_000, 102_000, 103_000], "no burst after a start");
        let later = 1_000_000;
        let dues: Vec<u64> = (0..33).map(|_| pace.take(later, 60)).collect();
        assert_eq!(dues.iter().filter(|due| **due == later).count(), 31, "half a minute's");
        assert_eq!(dues[32], later + 2000);
        let mut fast = ReportPace::new(0);
        let last = (0..1_000_000).map(|_| fast.take(0, 1_000_000)).last();
        assert_eq!(last, Some(59_999));
        assert_eq!(ReportPace::new(5).take(5, 0), 5, "no limit of nothing");
    }
}
