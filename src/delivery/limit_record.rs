//! The file of rates, `<spool>/limits`: what was sent under them, as bytes.
//!
//! Promise:  `decode` refuses what `encode` has not written. Ages are never more than the true ones,
//!           so that a rate is not exceeded after a restart.
//! Format:   one record in the outer form of all records, version 1.
//!
//! ```text
//! 32  stamp: wall clock ms 8, boot id 16, uptime ms 8
//! 4   limits, each: key 8, age ms 8, ahead 4, windows 1,
//!       each: span ms 8, slices 1, each: age ms 8, count 4
//! ```

use crate::base::Wall;
use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;

const KIND_LIMITS: Kind = Kind { byte: b'R', version: 1 };

/// A moment that a later process can compare with its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub wall: Wall,
    pub boot: [u8; 16],
    pub uptime_ms: u64,
}

impl Stamp {
    /// The milliseconds since an earlier stamp. Exact within a boot; else it depends on the wall
    /// clock, and is at least the time since the boot.
    pub fn ms_since(&self, earlier: &Stamp) -> u64 {
        match self.boot == earlier.boot {
            true => self.uptime_ms.saturating_sub(earlier.uptime_ms),
            false => self.wall.ms_since(earlier.wall).max(self.uptime_ms),
        }
    }
}

/// What was sent under one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLimit {
    /// Since the ages of the slices were taken.
    pub age_ms: u64,
    /// Messages that may have been sent since then.
    pub ahead: u32,
    pub windows: Vec<StoredWindow>,
}

impl StoredLimit {
    /// Whether no window counts any of it.
    pub fn is_over(&self) -> bool {
        let counts = |window: &StoredWindow| {
            let ages = window.slices.iter().map(|slice| slice.age_ms + self.age_ms);
            // A window reaches back a slice farther than its span.
            ages.min().is_some_and(|age_ms| age_ms <= window.span_ms + window.span_ms / 10)
        };
        self.ahead == 0 && !self.windows.iter().any(counts)
    }

    /// At a start: the messages ahead went at the latest before it, and count from now on.
    pub fn settle_ahead(&mut self) {
        let ahead = std::mem::take(&mut self.ahead);
        for window in self.windows.iter_mut().filter(|_| ahead > 0) {
            window.slices.iter_mut().for_each(|slice| slice.age_ms += self.age_ms);
            window.slices.push(Slice { age_ms: 0, count: ahead });
        }
        if ahead > 0 {
            self.age_ms = 0;
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredWindow {
    pub span_ms: u64,
    pub slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Of the youngest message, at least.
    pub age_ms: u64,
    pub count: u32,
}

/// `limits`: each with its key, and how much older it is by now.
pub fn encode<'a>(
    stamp: &Stamp,
    limits: impl ExactSizeIterator<Item = (u64, u64, &'a StoredLimit)>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, KIND_LIMITS);
    writer.u64(stamp.wall.as_ms());
    writer.raw(&stamp.boot);
    writer.u64(stamp.uptime_ms);
    writer.u32(limits.len() as u32);
    for (key, older_ms, limit) in limits {
        writer.u64(key);
        writer.u64(limit.age_ms + older_ms);
        writer.u32(limit.ahead);
        writer.u8(limit.windows.len() as u8);
        for window in &limit.windows {
            writer.u64(window.span_ms);
            writer.u8(window.slices.len() as u8);
            for slice in &window.slices {
                writer.u64(slice.age_ms);
                writer.u32(slice.count);
            }
        }
    }
    writer.seal();
    bytes
}

pub fn decode(bytes: &[u8]) -> Result<(Stamp, Vec<(u64, StoredLimit)>), RecordFault> {
    let mut reader = Reader::open(bytes, KIND_LIMITS)?;
    let (wall, mut boot) = (Wall::from_ms(reader.u64()?), [0; 16]);
    boot.copy_from_slice(reader.raw(16)?);
    let stamp = Stamp { wall, boot, uptime_ms: reader.u64()? };
    let mut limits = Vec::new();
    for _ in 0..reader.u32()? {
        let (key, age_ms, ahead) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let mut windows = Vec::new();
        for _ in 0..reader.u8()? {
            let (span_ms, mut slices) = (reader.u64()?, Vec::new());
            for _ in 0..reader.u8()? {
                slices.push(Slice { age_ms: reader.u64()?, count: reader.u32()? });
            }
            windows.push(StoredWindow { span_ms, slices });
        }
        limits.push((key, StoredLimit { age_ms, ahead, windows }));
    }
    reader.end()?;
    Ok((stamp, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> StoredLimit {
        let slices = vec![Slice { age_ms: 5_000, count: 7 }, Slice { age_ms: 0, count: 9 }];
        let minute = StoredWindow { span_ms: 60_000, slices };
        StoredLimit { age_ms: 3, ahead: 4, windows: vec![minute, StoredWindow::default()] }
    }

    #[test]
    fn a_file_is_read_back() {
        let stamp = Stamp { wall: Wall::from_ms(9), boot: [3; 16], uptime_ms: 8 };
        let limit = limit();
        let other = StoredLimit::default();
        let bytes = encode(&stamp, [(1, 10, &limit), (2, 0, &other)].into_iter());
        let aged = StoredLimit { age_ms: 13, ..limit };
        assert_eq!(decode(&bytes), Ok((stamp, vec![(1, aged), (2, other)])));
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "a bit of octet {at}");
        }
    }

    #[test]
    fn time_passes_by_the_best_clock_there_is() {
        let at = |wall, boot, uptime_ms| Stamp {
            wall: Wall::from_ms(wall),
            boot: [boot; 16],
            uptime_ms,
        };
        for (name, earlier, later, ms) in [
            ("one boot", at(1000, 1, 50), at(9000, 1, 80), 30),
            ("one boot, the clock set back", at(9000, 1, 50), at(1000, 1, 80), 30),
            ("another boot", at(1000, 1, 50), at(9000, 2, 80), 8000),
            ("another boot, the clock set back", at(9000, 1, 50), at(1000, 2, 80), 80),
        ] {
            assert_eq!(later.ms_since(&earlier), ms, "{name}");
        }
    }

    #[test]
    fn what_may_have_been_sent_counts_from_the_start_on() {
        let mut stored = limit();
        stored.settle_ahead();
        let slices = stored.windows[0].slices.iter().map(|slice| (slice.age_ms, slice.count));
        assert_eq!(slices.collect::<Vec<_>>(), [(5_003, 7), (3, 9), (0, 4)]);
        assert_eq!((stored.ahead, stored.age_ms), (0, 0));
        assert!(!stored.is_over());
        stored.age_ms = 70_000;
        assert!(stored.is_over());
    }
}
