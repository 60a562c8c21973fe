//! The header field that identifies a message: `X-Ringpost-Load: RUN-NUMBER-MICROS-SUM`.

use std::hash::DefaultHasher;
use std::hash::Hasher;

use crate::ledger::sum;

/// The name of the field.
pub const HEADER: &[u8] = b"X-Ringpost-Load:";
/// The maximum length of the name of a run.
const RUN_BYTES_MAX: usize = 64;

/// The id of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'h> {
    pub run: &'h [u8],
    pub number: u64,
    /// Unix time of its begin, if present.
    pub begun_us: Option<u64>,
    /// The checksum of its body, if present.
    pub body_sum: Option<u32>,
}

impl<'h> Id<'h> {
    /// Reads `RUN-NUMBER`, `RUN-NUMBER-MICROS` or `RUN-NUMBER-MICROS-SUM`.
    pub fn parse(value: &'h [u8]) -> Option<Id<'h>> {
        let value = value.trim_ascii();
        let mut parts = value.split(|byte| *byte == b'-');
        let run = parts.next().filter(|run| (1..=RUN_BYTES_MAX).contains(&run.len()))?;
        let number = decimal(parts.next()?)?;
        let begun_us = parts.next().map(decimal);
        let told_sum = parts.next().map(hexadecimal);
        let is_whole = parts.next().is_none() && begun_us != Some(None) && told_sum != Some(None);
        let is_word = run.iter().all(|byte| byte.is_ascii_graphic());
        let own = &value[..value.len().saturating_sub(1 + SUM_DIGITS)];
        let body_sum = told_sum.flatten().map(|told| sum::of_message(own, told));
        (is_whole && is_word).then_some(Id { run, number, begun_us: begun_us.flatten(), body_sum })
    }
}

/// Digits of the checksum in an id.
const SUM_DIGITS: usize = 8;

fn hexadecimal(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == SUM_DIGITS)?;
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u32::from_str_radix(text, 16).ok()
}

/// Identifies a recipient, ignoring case: a relay may write the domain in lower case.
pub fn hash_of(address: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut small = [0; 128];
    for part in address.chunks(small.len()) {
        let small = &mut small[..part.len()];
        small.copy_from_slice(part);
        small.make_ascii_lowercase();
        hasher.write(small);
    }
    hasher.finish()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}
