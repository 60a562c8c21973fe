//! Remains of a failed write in the log, to be removed by the next batch that succeeds.

use crate::base::MessageId;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::settle::Filing;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Report;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::family::Family;
use crate::queue::record::job::Job;
use crate::queue::record::job::Schedule;
use crate::queue::record::key;
use crate::queue::record::key::JobKey;
use crate::queue::record::rows::Batch;
use crate::queue::record::rows::Row;
use crate::queue::record::rows::put_rows;
use crate::queue::record::rows::rows_added;
use crate::queue::store::records::Records;

/// What a failed write may have left in the log, to be removed by the next batch that succeeds.
pub(super) enum Remains {
    Message {
        id: MessageId,
        chunks: u32,
        /// When the message was due, if the failed write was its promise.
        due_ms: Option<u64>,
    },
    /// A row of a failed change. The next try writes its job anew, and recovery goes by the job.
    Row(Row),
}

/// After the first write that found the disk full, only what was streamed before can be there.
pub(super) fn remains_of_parcel(parcel: &Parcel, is_full: bool) -> Option<Remains> {
    (!is_full || parcel.streamed > 0).then(|| Remains::Message {
        id: parcel.id(),
        chunks: parcel.streamed + parcel.chunks().count() as u32,
        due_ms: Some(parcel.due_ms),
    })
}

pub(super) fn remains_of(store: &impl Records, settlement: &Settlement) -> Vec<Remains> {
    let (id, own) = (settlement.id, (settlement.id, settlement.job));
    let row = |job: JobKey, old, new: &JobRecord| {
        rows_added(job, old, Some(new.schedule)).map(Remains::Row)
    };
    let mut remains: Vec<Remains> = match &settlement.change {
        JobChange::End => Vec::new(),
        JobChange::Again(job) => match stored(store, own) {
            Some(old) => row(own, Some(old), job).collect(),
            None => Vec::new(),
        },
        JobChange::Split(parts) => {
            parts.iter().flat_map(|part| row((id, part.number), None, part)).collect()
        }
    };
    remains.extend(settlement.reports.iter().map(|report: &Report| Remains::Message {
        id: report.id,
        chunks: report.chunks(),
        due_ms: Some(report.job.schedule.due_ms),
    }));
    remains
}

pub(super) fn remains_of_filings(store: &impl Records, filings: &[Filing]) -> Vec<Remains> {
    let added = filings.iter().filter_map(|filing| {
        let old = stored(store, filing.job)?;
        Some(rows_added(filing.job, Some(old), Some(Schedule { filed: filing.filed, ..old })))
    });
    added.flatten().map(Remains::Row).collect()
}

/// The schedule of a job before the write that failed. `None`: that write has put no row of it, or
/// the store cannot tell, and recovery finds the row.
fn stored(store: &impl Records, (id, number): JobKey) -> Option<Schedule> {
    let read = store.get(Family::Job, &key::of_job(id, number), |record| {
        Job::decode(record).ok().map(|job| job.schedule())
    });
    read.ok().flatten().flatten()
}

impl Remains {
    pub fn put_removal(&self, batch: &mut impl Batch) {
        let (id, chunks, due_ms) = match *self {
            Remains::Message { id, chunks, due_ms } => (id, chunks, due_ms),
            Remains::Row(row) => return row.remove(batch),
        };
        if let Some(due_ms) = due_ms {
            batch.remove(Family::Envelope, &key::of_id(id));
            batch.remove(Family::Head, &key::of_id(id));
            batch.remove(Family::Job, &key::of_job(id, 0));
            put_rows(batch, (id, 0), Some(Schedule { due_ms, filed: None }), None);
        }
        for number in 0..chunks {
            batch.remove(Family::Body, &key::of_body(id, number));
        }
        batch.remove(Family::Stream, &key::of_id(id));
    }
}
