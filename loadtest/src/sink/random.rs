//! Random with a seed, so that a run can be made again.

use std::f64::consts::TAU;

/// splitmix64: any seed will do, also one next to another's.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1, which it never is.
    pub fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// Of a normal distribution around 0 with a deviation of 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (TAU * self.fraction()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair_and_repeat_themselves() {
        let (mut one, mut same) = (Random::new(7), Random::new(7));
        let rolls: Vec<f64> = (0..10_000).map(|_| one.fraction()).collect();
        assert!(rolls.iter().all(|roll| (0.0..1.0).contains(roll) && *roll == same.fraction()));
        let mean = rolls.iter().sum::<f64>() / 10_000.0;
        assert!((0.49..0.51).contains(&mean), "{mean}");
        let normal: Vec<f64> = (0..10_000).map(|_| one.normal()).collect();
        let within = normal.iter().filter(|value| value.abs() < 1.0).count();
        assert!((6_600..7_050).contains(&within), "68.3 % lie within one deviation: {within}");
    }
}
