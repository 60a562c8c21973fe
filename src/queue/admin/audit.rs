//! The audit: whether every accepted recipient is accounted for (`ringpost audit`).
//!
//! Promise:  one snapshot reads the ledger and the jobs, which the same batches write, so the audit is
//!           exact on a running server too. Nothing is written. The counts are also kept outside the
//!           database (`copies`): a database that lost mail together with its ledger does not add up.
//! Cost:     one pass over the family `job`.

use serde::Deserialize;
use serde::Serialize;

use crate::queue::fault::QueueFault;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::record::ledger::Ledger;
use crate::queue::record::ledger::Tally;
use crate::queue::spool::Spool;
use crate::queue::store::partition::Partition;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::QUARANTINE;
use crate::queue::store::query::Queued;

/// Both sides of the equation, in recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub taken: u64,
    #[serde(flatten)]
    pub ended: Tally,
    pub quarantined: u64,
    /// Counted from the jobs.
    pub queued: u64,
    /// Jobs that cannot be read: their recipients are unknown.
    pub unreadable_jobs: u64,
    /// Accepted recipients minus all others above: lost if positive, surplus if negative.
    pub difference: i64,
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBalance {
    pub partition: u8,
    #[serde(flatten)]
    pub balance: Balance,
}

/// The whole spool, and its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolAudit {
    /// Every recipient is accounted for, be it as quarantined.
    pub adds_up: bool,
    /// Records and folders in quarantine: missing mail, until an operator has checked and removed them.
    pub in_quarantine: u64,
    #[serde(flatten)]
    pub sum: Balance,
    pub partitions: Vec<PartitionBalance>,
}

impl Balance {
    fn new(ledger: &Ledger, queued: Queued) -> Balance {
        Balance {
            taken: ledger.taken,
            ended: ledger.ended,
            quarantined: ledger.quarantined,
            queued: queued.recipients,
            unreadable_jobs: queued.unreadable,
            difference: ledger.difference(queued.recipients),
        }
    }

    pub fn adds_up(&self) -> bool {
        self.difference == 0 && self.unreadable_jobs == 0
    }

    fn add(&mut self, more: &Balance) {
        self.taken += more.taken;
        self.ended.add(&more.ended);
        self.quarantined += more.quarantined;
        self.queued += more.queued;
        self.unreadable_jobs += more.unreadable_jobs;
        self.difference += more.difference;
    }
}

/// Compares the ledgers with the jobs. Faults of two partitions do not cancel each other out.
pub fn audit(spool: &Spool) -> Result<SpoolAudit, QueueFault> {
    let in_quarantine = quarantine::count(&spool.path().join(QUARANTINE));
    let mut found = SpoolAudit {
        adds_up: true,
        in_quarantine: in_quarantine.map_err(|cause| QueueFault::Store(cause.to_string()))?,
        sum: Balance::default(),
        partitions: Vec::new(),
    };
    for partition in spool.partitions() {
        let balance = balance(partition)?;
        found.adds_up &= balance.adds_up();
        found.sum.add(&balance);
        found.partitions.push(PartitionBalance { partition: partition.id().0, balance });
    }
    Ok(found)
}

impl SpoolAudit {
    /// Whether no mail is missing and the quarantine is empty.
    pub fn is_clean(&self) -> bool {
        self.adds_up && self.in_quarantine == 0
    }
}

fn balance(partition: &Partition) -> Result<Balance, QueueFault> {
    let families = partition.families();
    let moment = partition.db().snapshot();
    let record = moment.get_cf(families.default, LEDGER_KEY)?;
    // No ledger is written before the first message.
    let ledger = record.map(|record| Ledger::decode(&record)).transpose()?.unwrap_or_default();
    // A running server has merged the counts from outside; an inspection has not.
    let ledger = ledger.or_more(&partition.known_outside());
    let queued = Queued::count(moment.raw_iterator_cf(families.job))?;
    Ok(Balance::new(&ledger, queued))
}
