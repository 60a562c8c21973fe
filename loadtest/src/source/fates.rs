//! The fate of each message of a run, one byte each.
//!
//! Owner:    each session writes the messages that it has sent.
//! Bounds:   `MESSAGES_MAX`, in chunks that are allocated on first use.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use crate::ledger::Fate;
use crate::source::schedule::MESSAGES_MAX;

const CHUNK: u64 = 1 << 16;

/// The fates of a running run.
pub struct Fates(Box<[OnceLock<Box<[AtomicU8]>>]>);

impl Default for Fates {
    fn default() -> Fates {
        Fates((0..MESSAGES_MAX / CHUNK).map(|_| OnceLock::new()).collect())
    }
}

impl Fates {
    pub fn set(&self, number: u64, fate: Fate) {
        let chunk = self.0[(number / CHUNK) as usize]
            .get_or_init(|| (0..CHUNK).map(|_| AtomicU8::new(Fate::NotSent as u8)).collect());
        chunk[(number % CHUNK) as usize].store(fate as u8, Ordering::Relaxed);
    }

    /// The fates of the first `messages` messages.
    pub fn take(&self, messages: u64) -> Vec<u8> {
        let mut all = Vec::with_capacity(messages as usize);
        for chunk in &self.0[..messages.div_ceil(CHUNK) as usize] {
            match chunk.get() {
                Some(chunk) => all.extend(chunk.iter().map(|one| one.load(Ordering::Relaxed))),
                None => all.resize(all.len() + CHUNK as usize, Fate::NotSent as u8),
            }
        }
        all.truncate(messages as usize);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_kept() {
        let fates = Fates::default();
        let far = 3 * CHUNK + 5;
        for number in 0..4 {
            fates.set(number, Fate::Accepted);
        }
        fates.set(2, Fate::Refused);
        fates.set(far, Fate::Unknown);
        let taken = fates.take(far + 2);
        assert_eq!((taken.len() as u64, &taken[..5]), (far + 2, &[1, 1, 2, 1, 0][..]));
        assert_eq!(taken[far as usize..], [Fate::Unknown as u8, Fate::NotSent as u8]);
        assert!(fates.take(0).is_empty());
    }
}
