//! One message to one recipient, as a sink saw it.

use std::io;
use std::io::Write;

use crate::ledger::sum;

/// The state of the body of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As sent, as far as the id tells.
    Whole,
    /// As sent, if the recipient has this mark (`sum::mark_of`).
    Marked(u32),
    Corrupted,
}

impl Arrival {
    /// Whole or corrupted, for this recipient (its `hash_of`).
    pub fn at(self, recipient: u64) -> Arrival {
        match self {
            Arrival::Marked(mark) if mark == sum::mark_of(recipient) => Arrival::Whole,
            Arrival::Marked(_) => Arrival::Corrupted,
            known => known,
        }
    }
}

/// One message to one recipient; unused if all counts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub recipient: u64,
    /// Unix time.
    pub first_us: u64,
    pub copies: u32,
    /// Corrupted copies.
    pub corrupted: u16,
    /// Reports of failure.
    pub bounces: u16,
}

const _: () = assert!(size_of::<Entry>() == 24, "this is the memory of a message");

impl Entry {
    pub fn add(&mut self, other: &Entry) {
        self.first_us =
            if self.is_none() { other.first_us } else { self.first_us.min(other.first_us) };
        self.copies = self.copies.saturating_add(other.copies);
        self.corrupted = self.corrupted.saturating_add(other.corrupted);
        self.bounces = self.bounces.saturating_add(other.bounces);
    }

    pub fn is_none(&self) -> bool {
        self.copies == 0 && self.bounces == 0
    }

    /// Copies and bounces.
    pub fn all(&self) -> u64 {
        u64::from(self.copies) + u64::from(self.bounces)
    }
}

impl Entry {
    pub fn write(&self, number: u64, out: &mut impl Write) -> io::Result<()> {
        let Entry { recipient, first_us, copies, corrupted, bounces } = self;
        write!(out, "{number} {recipient:x} {copies} {first_us}")?;
        match (corrupted, bounces) {
            (0, 0) => writeln!(out),
            _ => writeln!(out, " {corrupted} {bounces}"),
        }
    }

    pub fn read(words: &[&str]) -> Option<(u64, Entry)> {
        let (number, recipient, copies, first_us, rest) = match *words {
            [number, recipient, copies, first_us, ref rest @ ..] => {
                (number, recipient, copies, first_us, rest)
            }
            _ => return None,
        };
        let (corrupted, bounces) = match *rest {
            [] => (0, 0),
            [corrupted, bounces] => (corrupted.parse().ok()?, bounces.parse().ok()?),
            _ => return None,
        };
        let entry = Entry {
            recipient: u64::from_str_radix(recipient, 16).ok()?,
            first_us: first_us.parse().ok()?,
            copies: copies.parse().ok()?,
            corrupted,
            bounces,
        };
        (!entry.is_none()).then_some((number.parse().ok()?, entry))
    }
}
