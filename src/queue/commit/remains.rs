//! Remains of a failed write in the log, to be removed by the next batch that succeeds.

use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Next;
use crate::queue::commit::settle::Report;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::key;
use crate::queue::store::families::Families;

/// What a failed write may have left in the log, to be removed by the next batch that succeeds.
pub(super) enum Remains {
    Message {
        id: MessageId,
        chunks: u32,
        /// When the message was due, if the failed write was its promise.
        due_ms: Option<u64>,
    },
    /// A schedule entry of a failed settlement. The next try writes its job anew, and recovery goes
    /// by the job.
    Due { id: MessageId, job: u16, due_ms: u64 },
}

/// After the first write that found the disk full, only what was streamed before can be there.
pub(super) fn remains_of_parcel(parcel: &Parcel, is_full: bool) -> Option<Remains> {
    (!is_full || parcel.streamed > 0).then(|| Remains::Message {
        id: parcel.id(),
        chunks: parcel.streamed + parcel.chunks().count() as u32,
        due_ms: Some(parcel.due_ms),
    })
}

pub(super) fn remains_of(settlement: &Settlement) -> Vec<Remains> {
    let jobs: &[JobRecord] = match &settlement.next {
        Next::Done => &[],
        Next::Again(job) => std::slice::from_ref(job),
        Next::Split(jobs) => jobs,
    };
    let id = settlement.id;
    let due = |job: &JobRecord| Remains::Due { id, job: job.number, due_ms: job.due_ms };
    let report = |report: &Report| Remains::Message {
        id: report.id,
        chunks: report.chunks(),
        due_ms: Some(report.job.due_ms),
    };
    jobs.iter().map(due).chain(settlement.reports.iter().map(report)).collect()
}

pub(super) fn put_removal(batch: &mut WriteBatch, families: Families<'_>, remains: &Remains) {
    let (id, chunks, due_ms) = match *remains {
        Remains::Message { id, chunks, due_ms } => (id, chunks, due_ms),
        Remains::Due { id, job, due_ms } => {
            batch.single_delete_cf(families.due, key::of_due(due_ms, id, job));
            return;
        }
    };
    if let Some(due_ms) = due_ms {
        batch.single_delete_cf(families.envelope, key::of_id(id));
        batch.single_delete_cf(families.head, key::of_id(id));
        batch.delete_cf(families.job, key::of_job(id, 0));
        batch.single_delete_cf(families.due, key::of_due(due_ms, id, 0));
    }
    for number in 0..chunks {
        batch.single_delete_cf(families.body, key::of_body(id, number));
    }
    batch.single_delete_cf(families.stream, key::of_id(id));
}
