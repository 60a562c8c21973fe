//! The audit: whether every recipient that was taken is accounted for (`ringpost audit`).
//!
//! Promise:  ledger and jobs are read at one moment, on a running server too, for they are written
//!           by the same batches and read through one snapshot. Nothing is written. What there
//!           must be is known from outside of the database too (`copies`), so that a database
//!           which has lost mail together with its ledger does not add up.
//! Cost:     one pass over the family `job`.

use rocksdb::DBRawIterator;
use serde::Deserialize;
use serde::Serialize;

use crate::queue::fault::QueueFault;
use crate::queue::ledger::LEDGER_KEY;
use crate::queue::ledger::Ledger;
use crate::queue::ledger::Tally;
use crate::queue::partition::Partition;
use crate::queue::partition::QUARANTINE;
use crate::queue::quarantine;
use crate::queue::schema::Job;
use crate::queue::spool::Spool;

/// Both sides of the equation, in recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub taken: u64,
    #[serde(flatten)]
    pub ended: Tally,
    pub quarantined: u64,
    /// Counted from the jobs.
    pub queued: u64,
    /// Jobs that cannot be read; whom they are for nobody knows.
    pub unreadable_jobs: u64,
    /// Taken, less all that is accounted for: recipients lost if positive, made up if negative.
    pub difference: i64,
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBalance {
    pub partition: u8,
    #[serde(flatten)]
    pub balance: Balance,
}

/// The spool in all, and its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolAudit {
    /// Every recipient is accounted for, if only as quarantined.
    pub adds_up: bool,
    /// Records and folders in quarantine. Mail is missing until someone has looked at them and
    /// removed them.
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

/// Compares the ledgers with the jobs. Faults of two partitions do not make up for each other.
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
    /// Nothing is missing, and nothing waits in quarantine.
    pub fn is_clean(&self) -> bool {
        self.adds_up && self.in_quarantine == 0
    }
}

fn balance(partition: &Partition) -> Result<Balance, QueueFault> {
    let families = partition.families();
    let moment = partition.db().snapshot();
    let record = moment.get_cf(families.default, LEDGER_KEY)?;
    // None was written as long as nothing was taken.
    let ledger = record.map(|record| Ledger::decode(&record)).transpose();
    let ledger = ledger.map_err(QueueFault::Record)?.unwrap_or_default();
    // A server that runs has taken over what was known outside; who only looks has not.
    let ledger = ledger.or_more(&partition.known_outside());
    let queued = count(moment.raw_iterator_cf(families.job))?;
    Ok(Balance::new(&ledger, queued))
}

/// What the jobs say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    pub recipients: u64,
    pub unreadable: u64,
}

/// Counts the recipients that wait in a partition now.
pub fn queued(partition: &Partition) -> Result<Queued, rocksdb::Error> {
    count(partition.db().raw_iterator_cf(partition.families().job))
}

fn count(mut jobs: DBRawIterator<'_>) -> Result<Queued, rocksdb::Error> {
    let mut queued = Queued::default();
    jobs.seek_to_first();
    while let Some(record) = jobs.value() {
        match Job::decode(record) {
            Ok(job) => queued.recipients += job.recipients.iter().count() as u64,
            Err(_) => queued.unreadable += 1,
        }
        jobs.next();
    }
    jobs.status()?;
    Ok(queued)
}
