//! Random numbers from a seed, so that a run can be repeated.
//!
//! Form:     splitmix64. `of` derives a stream from seed, purpose and number alone: two runs with the
//!           same seed send the same mail, whichever session sends a message.

use std::f64::consts::TAU;

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// Standard deviations below which 99 % of a normal distribution lie.
const Z99: f64 = 2.326_347_874_040_841;

/// What a number is drawn for. Each purpose has a stream of its own.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Arrival,
    Size,
    Sender,
    Recipient,
    /// What a sink does in one session.
    Session,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The stream for this purpose and number; it does not depend on draws made before.
    pub fn of(&self, purpose: Purpose, number: u64) -> Random {
        let key = mix(self.0.wrapping_add((purpose as u64 + 1) << 56));
        Random(mix(key.wrapping_add(number.wrapping_add(1).wrapping_mul(STEP))))
    }

    /// Any number, all equally likely.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A distribution whose logarithm is normal, as sizes of mail and delays of networks have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogNormal {
    median: f64,
    deviation: f64,
}

impl LogNormal {
    /// The distribution through these two percentiles.
    pub fn new(p50: f64, p99: f64) -> LogNormal {
        LogNormal { median: p50, deviation: (p99 / p50).ln() / Z99 }
    }

    pub fn draw(&self, random: &mut Random) -> f64 {
        // Box and Muller.
        let radius = (-2.0 * (1.0 - random.fraction()).ln()).sqrt();
        let normal = radius * (TAU * random.fraction()).cos();
        self.median * (self.deviation * normal).exp()
    }
}

/// Pearson's chi-square of counts against their expected values.
#[cfg(test)]
pub fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    assert_eq!(counts.len(), expected.len());
    counts.iter().zip(expected).map(|(count, mean)| (*count as f64 - mean).powi(2) / mean).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_uniform_and_independent() {
        let (random, draws) = (Random::new(0), 64_000);
        let mut cells = vec![0; 64];
        for number in 0..draws {
            let one = random.of(Purpose::Sender, number).fraction();
            let mut other = random.of(Purpose::Recipient, number);
            cells[(one * 8.0) as usize * 8 + (other.fraction() * 8.0) as usize] += 1;
        }
        // 63 degrees of freedom: above 103 once in a thousand seeds.
        let far = chi_square(&cells, &[draws as f64 / 64.0; 64]);
        assert!(far < 103.0, "{far}");
    }

    #[test]
    fn a_seed_repeats_its_stream_and_another_seed_does_not() {
        let draws = |seed| {
            let mut stream = Random::new(seed).of(Purpose::Size, 3);
            (0..100).map(|_| stream.number()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert!(draws(7).iter().zip(draws(8)).all(|(one, other)| *one != other));
    }

    #[test]
    fn a_log_normal_passes_through_its_percentiles() {
        let (spread, mut random) = (LogNormal::new(100.0, 1000.0), Random::new(3));
        let mut drawn: Vec<f64> = (0..100_000).map(|_| spread.draw(&mut random)).collect();
        drawn.sort_unstable_by(f64::total_cmp);
        for (place, expected) in [(50_000, 100.0), (99_000, 1000.0), (1_000, 10.0)] {
            assert!((drawn[place] / expected - 1.0).abs() < 0.05, "{place}: {}", drawn[place]);
        }
    }
}
