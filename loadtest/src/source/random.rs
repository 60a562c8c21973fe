//! Random that fall for a message as its number says: two runs with one seed send the same mail,
//! whichever session comes to a message first.

/// What a die decides. Each has random of its own.
#[derive(Clone, Copy, Debug)]
pub enum Die {
    Arrival,
    Size,
    SizeAgain,
    From,
    To,
    SizeInMix,
}

/// All random of a run.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    seed: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { seed }
    }

    /// Any number, each as likely as the others.
    pub fn roll(self, die: Die, number: u64) -> u64 {
        let key = mix(self.seed.wrapping_add((die as u64 + 1) << 56));
        mix(key.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// From 0 up to 1, which it never is.
    pub fn part(self, die: Die, number: u64) -> f64 {
        (self.roll(die, number) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finish of splitmix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// How far counts are from what was expected of them, by Pearson: the sum of the squares of the
/// differences, each in units of what was expected.
#[cfg(test)]
pub fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    assert_eq!(counts.len(), expected.len());
    counts.iter().zip(expected).map(|(count, mean)| (*count as f64 - mean).powi(2) / mean).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair_and_independent() {
        let (random, rolls) = (Random::new(0), 64_000);
        let mut cells = vec![0; 64];
        for number in 0..rolls {
            let (one, other) = (random.part(Die::From, number), random.part(Die::To, number));
            cells[(one * 8.0) as usize * 8 + (other * 8.0) as usize] += 1;
        }
        // 63 degrees of freedom: above 103 once in a thousand seeds.
        let far = chi_square(&cells, &[rolls as f64 / 64.0; 64]);
        assert!(far < 103.0, "{far}");
    }

    #[test]
    fn a_seed_gives_the_same_again_and_another_does_not() {
        let rolls = |seed| {
            (0..100).map(|number| Random::new(seed).roll(Die::Size, number)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert!(rolls(7).iter().zip(rolls(8)).all(|(one, other)| *one != other));
    }
}
