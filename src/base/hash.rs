//! A fast hasher for ids and hashes that are ours.
//!
//! Promise:  the order of a map depends on what was put into it alone, so that a simulation repeats.
//!           Not for keys that a stranger can choose: it does not resist floods of collisions.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

/// A map from ids of this server.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl IdHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    /// The product has its best bits at its top, and a map uses those at both ends.
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;
    use std::hash::Hash;

    #[test]
    fn ids_that_are_close_together_are_spread() {
        let hash = |key: (u64, u16)| {
            let mut hasher = IdHasher::default();
            key.hash(&mut hasher);
            hasher.finish()
        };
        for (step, name) in [(1, "in a row"), (1 << 14, "of partitions"), (1 << 20, "of times")] {
            let hashes: Vec<u64> = (0..4096).map(|n| hash((5 + n * step, 0))).collect();
            let low: HashSet<u64> = hashes.iter().map(|hash| hash & 4095).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            // Balls thrown at random into so many urns hit 63 % of them.
            assert!(low.len() > 2200 && high.len() == 128, "{name}: {} {}", low.len(), high.len());
        }
    }
}
