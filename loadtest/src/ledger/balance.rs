//! The comparison of received and sent messages.

use crate::ledger::entry::Entry;
use crate::ledger::sent::Fate;

/// Counts of a ledger by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Messages times recipients that arrived at least once.
    pub distinct: u64,
    /// Additional copies of them.
    pub again: u64,
    /// Copies with a changed body.
    pub corrupted: u64,
    /// Messages times recipients reported as failed.
    pub bounced: u64,
    pub nameless: u64,
    pub unrecorded: u64,
    pub notices: u64,
}

/// A ledger compared with what was sent, counted by message and recipient. Each accepted one is either
/// `arrived`, `bounced` or `lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Accepted, but neither arrived nor bounced.
    pub lost: u64,
    /// Additional copies and additional bounces.
    pub duplicated: u64,
    /// Arrived but not sent: no id, or another run, number or recipient.
    pub alien: u64,
    /// Arrived with a changed body, or for another recipient.
    pub corrupted: u64,
    /// Arrived or bounced, without a known reply.
    pub unknown_but_seen: u64,
    /// Arrived or bounced, although refused.
    pub refused_but_seen: u64,
    /// Accepted and arrived.
    pub arrived: u64,
    /// Accepted and reported as failed.
    pub bounced: u64,
    /// Arrived, although reported as failed.
    pub bounced_but_seen: u64,
    /// Copies that did not fit the ledger.
    pub unrecorded: u64,
}

/// How many recipients of a message arrived or bounced.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecipientEnds {
    arrived: u64,
    bounced: u64,
}

impl RecipientEnds {
    pub fn add(&mut self, entry: &Entry) {
        match entry.copies {
            0 => self.bounced += 1,
            _ => self.arrived += 1,
        }
    }
}

impl Balance {
    pub fn add(&mut self, other: &Balance) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.alien += other.alien;
        self.corrupted += other.corrupted;
        self.unknown_but_seen += other.unknown_but_seen;
        self.refused_but_seen += other.refused_but_seen;
        self.arrived += other.arrived;
        self.bounced += other.bounced;
        self.bounced_but_seen += other.bounced_but_seen;
        self.unrecorded += other.unrecorded;
    }

    /// Counts a message to a recipient that was sent.
    pub fn count(&mut self, entry: &Entry) {
        self.duplicated += u64::from(entry.copies.saturating_sub(1));
        self.duplicated += u64::from(entry.bounces.saturating_sub(1));
        self.corrupted += u64::from(entry.corrupted);
        self.bounced_but_seen += u64::from(entry.copies > 0 && entry.bounces > 0);
    }

    /// Counts a message. Only the number of accepted recipients is known, not which: arrivals and
    /// bounces are assumed to be theirs first.
    pub fn weigh(&mut self, fate: Fate, found: RecipientEnds, (accepted, recipients): (u64, u64)) {
        if fate == Fate::NotSent {
            return;
        }
        let arrived = found.arrived.min(recipients);
        let bounced = found.bounced.min(recipients - arrived);
        let own_arrived = arrived.min(accepted);
        let own_bounced = bounced.min(accepted - own_arrived);
        self.arrived += own_arrived;
        self.bounced += own_bounced;
        self.lost += accepted - own_arrived - own_bounced;
        let more = arrived - own_arrived + bounced - own_bounced;
        match fate {
            Fate::Unknown => self.unknown_but_seen += more,
            _ => self.refused_but_seen += more,
        }
        self.alien += found.arrived - arrived + found.bounced - bounced;
    }

    /// Lost, duplicated, alien and corrupted mail, arrivals of refused or bounced mail, and what was not
    /// recorded. Bounces are correct.
    pub fn wrong(&self) -> u64 {
        let wrong = self.lost + self.duplicated + self.alien + self.corrupted;
        wrong + self.refused_but_seen + self.bounced_but_seen + self.unrecorded
    }

    pub fn is_well(&self) -> bool {
        self.wrong() == 0
    }
}
