//! A model of one partition, for the simulation: plain maps, written by the plans of the commit thread.
//!
//! Promise:  each batch is checked. A key that is removed by `SingleDelete` is neither put twice nor
//!           removed twice, and after the batch each job that it touched has the rows of its record and
//!           no other. A power cut loses any suffix of the batches since the last sync, and no others.

#![allow(dead_code, reason = "each user takes its part of this")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use ringpost::base::MessageId;
use ringpost::queue::Envelope;
use ringpost::queue::Job;
use ringpost::queue::QueueFault;
use ringpost::queue::commit::parcel::Parcel;
use ringpost::queue::commit::plan::Plan;
use ringpost::queue::commit::settle::Filing;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::envelope::BodySum;
use ringpost::queue::record::family::Family;
use ringpost::queue::record::family::Removal;
use ringpost::queue::record::key;
use ringpost::queue::record::key::JobKey;
use ringpost::queue::record::ledger::LEDGER_KEY;
use ringpost::queue::record::ledger::Ledger;
use ringpost::queue::record::rows::Batch;
use ringpost::queue::record::rows::Row;
use ringpost::queue::record::rows::rows_of;
use ringpost::queue::store::records::Records;
use ringpost::queue::store::records::Walk;

type Value = Option<Vec<u8>>;

/// A partition in memory.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    families: BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The rows of `due` and `backlog`, by job.
    rows: HashMap<JobKey, BTreeSet<Row>>,
    /// Batches since the last sync: what each has replaced, in order.
    unsynced: Vec<Vec<(Family, Vec<u8>, Value)>>,
}

/// The writes of one batch. `None` is a removal.
#[derive(Default)]
pub struct Writes(Vec<(Family, Vec<u8>, Value)>);

impl Batch for Writes {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.0.push((family, key.to_vec(), Some(value.to_vec())));
    }

    fn remove(&mut self, family: Family, key: &[u8]) {
        self.0.push((family, key.to_vec(), None));
    }
}

impl Records for ModelStore {
    fn get<T>(
        &self,
        family: Family,
        key: &[u8],
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, QueueFault> {
        Ok(self.value(family, key).map(show))
    }

    fn walk(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        mut show: impl FnMut(&[u8], &[u8]) -> Walk,
    ) -> Result<(), QueueFault> {
        let Some(rows) = self.families.get(&family) else { return Ok(()) };
        let mut from = from.to_vec();
        while from[..] < *end {
            let bounds = (Bound::Included(&from[..]), Bound::Excluded(end));
            let mut seek = None;
            for (key, value) in rows.range::<[u8], _>(bounds) {
                match show(key, value) {
                    Walk::Next => (),
                    Walk::Seek(to) => {
                        seek = Some(to);
                        break;
                    }
                    Walk::Stop => return Ok(()),
                }
            }
            let Some(to) = seek else { break };
            from = to.to_vec();
        }
        Ok(())
    }
}

impl ModelStore {
    /// W1: a message with one job for all recipients.
    pub fn accept(
        &mut self,
        id: MessageId,
        envelope: &Envelope<'_>,
        (head, body): (&[u8], Arc<[u8]>),
        due_ms: u64,
    ) {
        let mut parcel =
            Parcel { id: Some(id), shared: Some(Arc::clone(&body)), ..Parcel::default() };
        let sum = BodySum {
            bytes: body.len() as u64,
            chunks: parcel.chunks().count() as u32,
            crc32: crc32fast::hash(&body),
        };
        let envelope = Envelope { head_bytes: head.len() as u32, body: sum, ..*envelope };
        parcel.fill(head, &envelope, due_ms).expect("an envelope of a test fits");
        self.write(|plan, _, batch| plan.accept(batch, &parcel));
    }

    /// W2.
    pub fn file(&mut self, filings: &[Filing]) -> bool {
        self.write(|plan, store, batch| plan.file(store, batch, filings).expect(READS))
    }

    /// W3 to W6.
    pub fn settle(&mut self, settlement: &Settlement) -> bool {
        self.write(|plan, store, batch| plan.settle(store, batch, settlement).expect(READS))
    }

    pub fn delete(&mut self, id: MessageId) -> bool {
        self.write(|plan, store, batch| plan.delete(store, batch, id).expect(READS))
    }

    pub fn remove_leftovers(&mut self, rows: &[Row]) {
        self.write(|plan, store, batch| plan.remove_leftovers(store, batch, rows).expect(READS));
    }

    pub fn ledger(&self) -> Ledger {
        let record = self.value(Family::Default, LEDGER_KEY);
        record.map_or(Ledger::default(), |record| Ledger::decode(record).expect("it was encoded"))
    }

    /// Batches that a power cut may lose.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Loses the unsynced batches but the first `kept` of them.
    pub fn power_cut(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            for (family, key, before) in self.unsynced.pop().into_iter().flatten().rev() {
                self.set(family, key, before);
            }
        }
        // What is left is read from the disk by the next start.
        self.unsynced.clear();
    }

    /// Keys and values of a family.
    pub fn family(&self, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.families.get(&family).into_iter().flatten();
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Plans and writes one batch.
    pub fn write<T>(&mut self, plan: impl FnOnce(&mut Plan, &ModelStore, &mut Writes) -> T) -> T {
        let (mut planned, mut writes) = (Plan::new(self.ledger()), Writes::default());
        let answer = plan(&mut planned, self, &mut writes);
        planned.end(&mut writes);
        self.apply(writes, planned.is_synced);
        answer
    }

    fn apply(&mut self, writes: Writes, is_synced: bool) {
        let mut touched = BTreeSet::new();
        let mut replaced = Vec::new();
        for (family, key, value) in writes.0 {
            touched.extend(job_of(family, &key));
            let name = format!("{} {}", family.name(), key::hex(&key));
            let is_put = value.is_some();
            let before = self.set(family, key.clone(), value);
            if family.removal() == Removal::SingleDelete {
                assert_ne!(before.is_some(), is_put, "{name} is put or removed twice");
            }
            replaced.push((family, key, before));
        }
        for job in touched {
            let record = self.value(Family::Job, &key::of_job(job.0, job.1));
            let own: BTreeSet<Row> = record.map_or(BTreeSet::new(), |record| {
                let record = Job::decode(record).expect("it was encoded");
                rows_of(job, record.schedule()).collect()
            });
            let found = self.rows.get(&job).cloned().unwrap_or_default();
            assert_eq!(found, own, "the rows of {job:?} are not those of its record");
        }
        match is_synced {
            true => self.unsynced.clear(),
            false => self.unsynced.push(replaced),
        }
    }

    fn value(&self, family: Family, key: &[u8]) -> Option<&[u8]> {
        self.families.get(&family)?.get(key).map(Vec::as_slice)
    }

    fn set(&mut self, family: Family, key: Vec<u8>, value: Value) -> Value {
        if let Some(row) = row_of(family, &key) {
            let rows = self.rows.entry(row.job()).or_default();
            match value {
                Some(_) => rows.insert(row),
                None => rows.remove(&row),
            };
            if rows.is_empty() {
                self.rows.remove(&row.job());
            }
        }
        let keys = self.families.entry(family).or_default();
        match value {
            Some(value) => keys.insert(key, value),
            None => keys.remove(&key),
        }
    }
}

const READS: &str = "a model can be read";

fn row_of(family: Family, key: &[u8]) -> Option<Row> {
    match family {
        Family::Due => key::due_of(key).map(Row::Due),
        Family::Backlog => key::backlog_of(key).map(Row::Backlog),
        _ => None,
    }
}

fn job_of(family: Family, key: &[u8]) -> Option<JobKey> {
    match family {
        Family::Job => key::job_of(key),
        _ => row_of(family, key).map(|row| row.job()),
    }
}
