//! Which jobs are leased to an owner shard, and which outcome still counts: the home shard's side.
//!
//! Owner:    the home shard.
//! Promise:  of all outcomes of a job exactly one is `Settled`: that of its newest lease. A job whose
//!           owner does not answer is returned by `next_expired` and leased again.
//! Order:    `lease`, send the frame, `settle`, write the outcome. A lease that expired and was not
//!           renewed may still be settled: the mail was delivered late.
//! Bounds:   `leases_max` jobs, including expired ones. Full: the job stays in the ready list.
//!
//! Leases live in memory only. After a crash all jobs are free again, because their owners died too.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::base::MessageId;

/// A job of a message, by its number.
pub type JobKey = (MessageId, u16);

/// What goes to the owner with the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub number: u32,
    /// The owner starts nothing that may last beyond this.
    pub until_ms: u64,
}

/// Why a job is not leased out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRefusal {
    /// Too many are out. It stays in the ready list.
    Full,
    /// It is out already.
    Held,
}

/// What an outcome is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Write it.
    Settled,
    /// Write it, and take the job out of the ready list: it was about to be issued again.
    SettledLate,
    /// Drop it: the job has been issued again since, and that outcome will count.
    Stale,
    /// Drop it: the job is not out. It was settled before, or this is not its home.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    turn: u64,
    is_expired: bool,
}

impl Held {
    fn number(self) -> u32 {
        self.turn as u32
    }
}

/// The jobs that are out.
#[derive(Debug)]
pub struct LeaseTable {
    held: HashMap<JobKey, Held>,
    /// Running leases, oldest first: all last equally long, so this is the order of expiry too.
    order: BTreeMap<u64, (u64, JobKey)>,
    turn: u64,
    term_ms: u64,
    leases_max: usize,
}

impl LeaseTable {
    pub fn new(leases_max: usize, term_ms: u64) -> LeaseTable {
        LeaseTable { held: HashMap::new(), order: BTreeMap::new(), turn: 0, term_ms, leases_max }
    }

    /// Gives the job to an owner. An expired lease of it is stale from here on.
    pub fn lease(&mut self, id: MessageId, job: u16, now_ms: u64) -> Result<Lease, LeaseRefusal> {
        let key = (id, job);
        match self.held.get(&key) {
            Some(held) if !held.is_expired => return Err(LeaseRefusal::Held),
            None if self.held.len() >= self.leases_max => return Err(LeaseRefusal::Full),
            _ => {}
        }
        self.turn += 1;
        let held = Held { turn: self.turn, is_expired: false };
        let until_ms = now_ms + self.term_ms;
        self.held.insert(key, held);
        self.order.insert(held.turn, (until_ms, key));
        Ok(Lease { number: held.number(), until_ms })
    }

    /// An outcome has come back.
    pub fn settle(&mut self, id: MessageId, job: u16, number: u32) -> Settle {
        let key = (id, job);
        let Some(held) = self.held.get(&key).copied() else {
            return Settle::Unknown;
        };
        if held.number() != number {
            return Settle::Stale;
        }
        self.forget(id, job);
        if held.is_expired { Settle::SettledLate } else { Settle::Settled }
    }

    /// The job is gone from the queue (an operator deleted it): its outcomes no longer count.
    pub fn forget(&mut self, id: MessageId, job: u16) {
        if let Some(held) = self.held.remove(&(id, job)) {
            self.order.remove(&held.turn);
        }
    }

    /// The next job to put back into the ready list, because nothing was heard of it.
    pub fn next_expired(&mut self, now_ms: u64) -> Option<JobKey> {
        let (turn, (until_ms, key)) =
            self.order.first_key_value().map(|(turn, at)| (*turn, *at))?;
        if until_ms > now_ms {
            return None;
        }
        self.order.remove(&turn);
        let held = self.held.get_mut(&key).expect("what is in the order is held");
        held.is_expired = true;
        Some(key)
    }

    /// When `next_expired` has something to say next.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.order.first_key_value().map(|(_, (until_ms, _))| *until_ms)
    }

    /// Of the newest lease, expired or not.
    pub fn number_of(&self, id: MessageId, job: u16) -> Option<u32> {
        self.held.get(&(id, job)).map(|held| held.number())
    }

    pub fn is_out(&self, id: MessageId, job: u16) -> bool {
        self.held.get(&(id, job)).is_some_and(|held| !held.is_expired)
    }

    /// Running and expired leases.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM_MS: u64 = 1000;

    fn id(raw: u64) -> MessageId {
        MessageId::from_u64(raw)
    }

    #[test]
    fn a_job_is_settled_once() {
        let mut table = LeaseTable::new(10, TERM_MS);
        let lease = table.lease(id(1), 0, 0).expect("room");
        assert_eq!(lease.until_ms, TERM_MS);
        assert_eq!(table.lease(id(1), 0, 5), Err(LeaseRefusal::Held));
        assert_eq!(table.settle(id(1), 1, lease.number), Settle::Unknown, "another job of it");
        assert_eq!(table.settle(id(1), 0, lease.number + 1), Settle::Stale);
        assert_eq!(table.settle(id(1), 0, lease.number), Settle::Settled);
        assert_eq!(table.settle(id(1), 0, lease.number), Settle::Unknown);
        assert!(table.is_empty());
        assert_eq!(table.next_wake_ms(), None);
    }

    #[test]
    fn what_nobody_reports_is_issued_again_in_order() {
        let mut table = LeaseTable::new(10, TERM_MS);
        for (raw, now_ms) in [(1, 0), (2, 10), (3, 500)] {
            table.lease(id(raw), 0, now_ms).expect("room");
        }
        assert_eq!(table.next_expired(TERM_MS - 1), None);
        assert_eq!(table.next_expired(TERM_MS + 10), Some((id(1), 0)));
        assert_eq!(table.next_expired(TERM_MS + 10), Some((id(2), 0)));
        assert_eq!(table.next_expired(TERM_MS + 10), None);
        assert_eq!(table.next_wake_ms(), Some(TERM_MS + 500));
        assert!(!table.is_out(id(1), 0) && table.is_out(id(3), 0));
    }

    #[test]
    fn a_late_outcome_counts_only_until_the_job_is_issued_again() {
        let mut table = LeaseTable::new(10, TERM_MS);
        let first = table.lease(id(1), 0, 0).expect("room");
        let other = table.lease(id(2), 0, 0).expect("room");
        while table.next_expired(TERM_MS).is_some() {}
        let second = table.lease(id(1), 0, TERM_MS).expect("free again");
        assert_eq!(table.settle(id(1), 0, first.number), Settle::Stale);
        assert_eq!(table.settle(id(2), 0, other.number), Settle::SettledLate);
        assert_eq!(table.settle(id(1), 0, second.number), Settle::Settled);
        assert_eq!(table.settle(id(1), 0, first.number), Settle::Unknown);
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_table_refuses_new_jobs_and_renews_expired_ones() {
        let mut table = LeaseTable::new(1, TERM_MS);
        table.lease(id(1), 0, 0).expect("room");
        assert_eq!(table.lease(id(2), 0, 0), Err(LeaseRefusal::Full));
        assert_eq!(table.next_expired(TERM_MS), Some((id(1), 0)));
        assert_eq!(table.lease(id(2), 0, TERM_MS), Err(LeaseRefusal::Full));
        assert!(table.lease(id(1), 0, TERM_MS).is_ok());
        table.forget(id(1), 0);
        assert!(table.lease(id(2), 0, TERM_MS).is_ok());
    }
}
