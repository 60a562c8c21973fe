//! One order of a batch: its size, its writes, and what a failed write leaves of it.

use std::sync::Arc;

use crate::queue::commit::lane::Back;
use crate::queue::commit::lane::CommitOrder;
use crate::queue::commit::lane::Completion;
use crate::queue::commit::lane::Done;
use crate::queue::commit::lane::Work;
use crate::queue::commit::parcel::Parcel;
use crate::queue::commit::plan::Plan;
use crate::queue::commit::remains::Remains;
use crate::queue::commit::remains::remains_of;
use crate::queue::commit::remains::remains_of_filings;
use crate::queue::commit::remains::remains_of_parcel;
use crate::queue::fault::CommitFault;
use crate::queue::fault::QueueFault;
use crate::queue::record::family::Family;
use crate::queue::record::key;
use crate::queue::record::rows::Batch;
use crate::queue::record::stream::STREAM_MARK_LEN;
use crate::queue::record::stream::StreamMark;
use crate::queue::store::partition::Partition;

/// One order, and whether its message or job was found.
pub(super) struct Taken {
    pub work: Work,
    pub target: Target,
}

/// Whether an order finds its message or jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Gone,
    There,
    /// The store cannot be read. The order is not carried out, and the partition fails: if the job
    /// counted as gone, it would be sent again after a restart.
    Unread,
}

impl Taken {
    pub fn new(work: Work) -> Taken {
        Taken { work, target: Target::Gone }
    }

    pub fn is_deletion(&self) -> bool {
        matches!(self.work.order, CommitOrder::Delete(_))
    }

    /// Approximate bytes in a batch.
    pub fn bytes(&self) -> usize {
        match &self.work.order {
            CommitOrder::Chunk { slice, .. } => slice.len(),
            CommitOrder::Finish(parcel) => parcel.bytes(),
            CommitOrder::FinishAll(parcels) => parcels.iter().map(Parcel::bytes).sum(),
            CommitOrder::Settle(settlement) => settlement.bytes(),
            CommitOrder::File(filings) => filings.len() * FILING_BYTES,
            CommitOrder::Abort { .. }
            | CommitOrder::Delete(_)
            | CommitOrder::RemoveLeftovers(_)
            | CommitOrder::Stop => 0,
        }
    }

    /// Plans the writes of the order. `Err`: a record that they depend on cannot be read.
    pub fn plan(
        &mut self,
        store: &Arc<Partition>,
        batch: &mut impl Batch,
        plan: &mut Plan,
    ) -> Result<(), String> {
        let store: &Partition = store;
        let found = match &self.work.order {
            CommitOrder::Chunk { id, number, slice } => {
                if *number == 0 {
                    let mut mark = Vec::with_capacity(STREAM_MARK_LEN);
                    StreamMark { started_ms: id.made_ms() }.encode(&mut mark);
                    batch.put(Family::Stream, &key::of_id(*id), &mark);
                }
                batch.put(Family::Body, &key::of_body(*id, *number), slice.bytes());
                plan.chunks += 1;
                return Ok(());
            }
            CommitOrder::Finish(parcel) => {
                plan.accept(batch, parcel);
                return Ok(());
            }
            CommitOrder::FinishAll(parcels) => {
                parcels.iter().for_each(|parcel| plan.accept(batch, parcel));
                return Ok(());
            }
            CommitOrder::Abort { id, chunks } => {
                let remains = Remains::Message { id: *id, chunks: *chunks, due_ms: None };
                remains.put_removal(batch);
                return Ok(());
            }
            CommitOrder::Stop => return Ok(()),
            CommitOrder::Delete(id) => plan.delete(store, batch, *id),
            CommitOrder::Settle(settlement) => plan.settle(store, batch, settlement),
            CommitOrder::File(filings) => plan.file(store, batch, filings),
            CommitOrder::RemoveLeftovers(rows) => {
                plan.remove_leftovers(store, batch, rows).map(|()| true)
            }
        };
        self.target = match found {
            Ok(true) => Target::There,
            Err(QueueFault::Store(text)) => {
                self.target = Target::Unread;
                return Err(text);
            }
            // A damaged record counts as no message; recovery deals with it.
            Ok(false) | Err(_) => Target::Gone,
        };
        Ok(())
    }

    /// What a write that found the disk full may have left of the order. `is_full`: the write before
    /// it found the disk full too.
    pub fn remains(&self, store: &Arc<Partition>, is_full: bool) -> Vec<Remains> {
        let store: &Partition = store;
        match &self.work.order {
            CommitOrder::Finish(parcel) => remains_of_parcel(parcel, is_full).into_iter().collect(),
            CommitOrder::FinishAll(parcels) => {
                parcels.iter().filter_map(|parcel| remains_of_parcel(parcel, is_full)).collect()
            }
            CommitOrder::Abort { id, chunks } => {
                vec![Remains::Message { id: *id, chunks: *chunks, due_ms: None }]
            }
            CommitOrder::Settle(settlement) if !is_full => remains_of(store, settlement),
            CommitOrder::File(filings) if !is_full => remains_of_filings(store, filings),
            _ => Vec::new(),
        }
    }
}

/// Bytes of a job that is filed: its record and its rows.
const FILING_BYTES: usize = 300;

pub(super) fn answer(work: Work, outcome: Result<Done, CommitFault>) -> Completion {
    let back = match work.order {
        CommitOrder::Chunk { slice, .. } => Back::Slice(slice),
        CommitOrder::Finish(parcel) => Back::Parcel(parcel),
        CommitOrder::FinishAll(parcels) => Back::Parcels(parcels),
        CommitOrder::Settle(_)
        | CommitOrder::File(_)
        | CommitOrder::RemoveLeftovers(_)
        | CommitOrder::Abort { .. }
        | CommitOrder::Delete(_)
        | CommitOrder::Stop => Back::Nothing,
    };
    Completion { ticket: work.ticket, outcome, back }
}
