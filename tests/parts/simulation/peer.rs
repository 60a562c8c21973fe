//! Remote servers with various faults.

use ringpost::delivery::failure::FailureKind;
use ringpost::base::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Fast,
    Slow,
    /// Drops the SYN.
    Dead,
    /// Nothing listens.
    Refusing,
    /// Works for minutes, then refuses for minutes.
    Flapping,
    /// Sometimes answers 421.
    Throttling,
    /// Takes minutes for each message.
    Tarpit,
    /// Drops connections during a message.
    Breaking,
    /// Greylisting: defers unknown mail once.
    Greylisting,
}

pub const ALL: &[Peer] = &[
    Peer::Fast,
    Peer::Slow,
    Peer::Dead,
    Peer::Refusing,
    Peer::Flapping,
    Peer::Throttling,
    Peer::Tarpit,
    Peer::Breaking,
    Peer::Greylisting,
];

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Delivered,
    Refused,
    Deferred,
    Throttled,
    /// Broken off before the end of the body.
    Broken,
}

impl Peer {
    /// Milliseconds until the greeting or the failure.
    pub fn dial(self, now_ms: u64, random: &mut Random) -> (u64, Option<FailureKind>) {
        match self {
            Peer::Dead => (30_000, Some(FailureKind::Timeout)),
            Peer::Refusing => (random.below(5), Some(FailureKind::Connect)),
            Peer::Flapping if now_ms / 180_000 % 2 == 1 => (3, Some(FailureKind::Connect)),
            Peer::Slow => (1_000 + random.below(2_000), None),
            Peer::Tarpit => (5_000 + random.below(20_000), None),
            _ => (5 + random.below(40), None),
        }
    }

    /// Milliseconds until the end of a transfer. `age_ms` is the time since the mail was accepted.
    pub fn send(self, now_ms: u64, age_ms: u64, random: &mut Random) -> (u64, Sent) {
        let short_ms = 5 + random.below(60);
        match self {
            Peer::Slow => (1_000 + random.below(4_000), Sent::Delivered),
            Peer::Tarpit => (60_000 + random.below(140_000), Sent::Delivered),
            Peer::Throttling if random.below(6) == 0 => (short_ms, Sent::Throttled),
            Peer::Breaking if random.below(6) == 0 => (short_ms, Sent::Broken),
            Peer::Flapping if now_ms / 180_000 % 2 == 1 => (short_ms, Sent::Broken),
            Peer::Greylisting if age_ms < 300_000 => (short_ms, Sent::Deferred),
            _ if random.below(20) == 0 => (short_ms, Sent::Refused),
            _ => (short_ms, Sent::Delivered),
        }
    }
}
