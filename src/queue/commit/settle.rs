//! The changes of jobs that delivery and operators order.
//!
//! Owner:    made by the home shard, consumed by the commit thread, which plans the writes (`plan`).
//! Promise:  the job's end or its next schedule, the message's removal after its last job, the
//!           reports to the sender and the counts are one write. A job that no longer exists (removed
//!           by an operator, settled before) settles nothing: `found` is false.
//!
//! ```text
//! W1 accept  S0, S1 -> S2                                                      SYNCED
//! W2 file    S2 -> S2, the job gets or loses its row in `backlog`              unsynced: when it is
//!            lost the job is read once more
//! W3 again   S2 -> S2, the job written anew, another schedule                  unsynced: when it is
//!            lost the job is due earlier, and its attempt counts one less. SYNCED where it ends a
//!            recipient or carries a report
//! W4 split   S2 -> S2, the job becomes several                                 unsynced: the changes
//!            of its parts come behind it in the same log
//! W5 end     S2 -> S2 with one job less; with the last one S0, or S3 where
//!            the message is kept                                               SYNCED
//! W6         any of these, ordered by an operator                              SYNCED
//! ```

use std::sync::Arc;

use crate::base::MessageId;
use crate::base::limits::CHUNK_BYTES;
use crate::event::EventList;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::event_log::push_accepted;
use crate::queue::record::job::Filed;
use crate::queue::record::job::Job;
use crate::queue::record::job::Schedule;
use crate::queue::record::key::JobKey;
use crate::queue::record::ledger::Tally;
use crate::queue::record::outer::RecordFault;

/// The outcome of an attempt at one job.
pub struct Settlement {
    pub id: MessageId,
    pub job: u16,
    pub change: JobChange,
    /// Reports to the sender, written in the same batch.
    pub reports: Vec<Report>,
    /// What becomes true with it.
    pub events: EventList,
    pub tally: Tally,
    /// Requested by an operator, who is answered once the change is durable.
    pub is_order: bool,
    /// If this ends the last job of the message, keep the message until then.
    pub keep_until_ms: Option<u64>,
    /// The envelope of the message as it is stored. `None`: it is read when the message ends.
    pub envelope: Option<Arc<[u8]>>,
}

/// The end of a job, or its change.
pub enum JobChange {
    /// Every recipient of the job has its final state.
    End,
    /// The job is written anew, with another schedule.
    Again(JobRecord),
    /// The job is replaced by its parts, each with a number that no other job of the message has.
    Split(Vec<JobRecord>),
}

/// Gives a job its row in `backlog`, another one, or none. The rest of its record stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filing {
    pub job: JobKey,
    pub filed: Option<Filed>,
}

/// Jobs of one order to file.
pub const FILINGS_MAX: usize = 256;

/// An encoded job.
pub struct JobRecord {
    pub number: u16,
    pub schedule: Schedule,
    pub bytes: Vec<u8>,
}

impl JobRecord {
    pub fn new(job: &Job<'_>) -> Result<JobRecord, RecordFault> {
        let mut bytes = Vec::with_capacity(64 + job.last_reply.len());
        job.encode(&mut bytes)?;
        Ok(JobRecord { number: job.number, schedule: job.schedule(), bytes })
    }
}

/// A whole message that this server has made.
pub struct Report {
    pub id: MessageId,
    pub envelope: Vec<u8>,
    pub job: JobRecord,
    /// Head and body as delivery sends them.
    pub message: Vec<u8>,
    head_bytes: usize,
    pub recipients: u32,
    pub events: EventList,
}

impl Report {
    /// The sums of head and body in `envelope` are filled in here.
    pub fn new(
        id: MessageId,
        envelope: &Envelope<'_>,
        message: Vec<u8>,
        due_ms: u64,
    ) -> Result<Report, RecordFault> {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        let head_end = message.windows(HEAD_END.len()).position(|four| four == HEAD_END);
        let head_bytes = head_end.map_or(message.len(), |end| end + HEAD_END.len());
        let body = &message[head_bytes..];
        let sum = BodySum {
            bytes: body.len() as u64,
            chunks: body.chunks(CHUNK_BYTES).count() as u32,
            crc32: crc32fast::hash(body),
        };
        let mut record = Vec::with_capacity(512);
        let envelope = &Envelope { head_bytes: head_bytes as u32, body: sum, ..*envelope };
        envelope.encode(&mut record)?;
        let recipients = envelope.recipients.len();
        let job = JobRecord::new(&Job::fresh(due_ms, recipients))?;
        let recipients = recipients as u32;
        let mut events = EventList::default();
        push_accepted(&mut events, id, envelope, None);
        Ok(Report { id, envelope: record, job, message, head_bytes, recipients, events })
    }

    pub fn body(&self) -> &[u8] {
        &self.message[self.head_bytes..]
    }

    pub fn head(&self) -> &[u8] {
        &self.message[..self.head_bytes]
    }

    pub fn chunks(&self) -> u32 {
        self.body().chunks(CHUNK_BYTES).count() as u32
    }
}

impl Settlement {
    /// Whether the answer must wait for a sync.
    pub fn is_synced(&self) -> bool {
        self.is_order
            || matches!(self.change, JobChange::End)
            || !self.reports.is_empty()
            || self.tally.total() > 0
    }

    /// Approximate bytes in a batch.
    pub fn bytes(&self) -> usize {
        let jobs = match &self.change {
            JobChange::End => 0,
            JobChange::Again(job) => job.bytes.len(),
            JobChange::Split(jobs) => jobs.iter().map(|job| job.bytes.len() + 64).sum(),
        };
        let reports = self
            .reports
            .iter()
            .map(|r| r.envelope.len() + r.message.len() + r.events.bytes().len() + 256);
        64 + jobs + self.events.bytes().len() + reports.sum::<usize>()
    }
}
