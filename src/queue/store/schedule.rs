//! Reading the schedule: keys that are due, flows, and the mail of single rows.
//!
//! Owner:    a shard's reader thread; every function here may wait for the disk.
//! Promise:  a read of keys skips nothing. A row that its job's record does not have is answered as a
//!           leftover, never as mail.
//! Order:    keys first. The caller notes which jobs it takes, and only then reads their records: read
//!           in one step, a job that ends meanwhile would be taken again from its old record.
//! Bounds:   as many keys as the caller asks for; the bodies of one read are held at once.

use std::sync::Arc;

use crate::base::Wall;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family::Family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::record::key::JobKey;
use crate::queue::record::rows::Row;
use crate::queue::record::rows::rows_of;
use crate::queue::store::message::MessageReader;
use crate::queue::store::records::AFTER_ALL;
use crate::queue::store::records::Records;
use crate::queue::store::records::Walk;

/// Bytes of a message, head and body, that is held in memory. A larger one is read when it is sent.
pub const MESSAGE_HELD_BYTES_MAX: u64 = 64 << 10;

/// Keys in their order, and what comes after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysRead<K> {
    pub keys: Vec<K>,
    pub rest: Rest,
}

/// What comes after the keys of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// As many keys as were asked for have been read; the next read goes on behind them.
    More,
    /// The next row is due then.
    Later {
        at_ms: u64,
    },
    Nothing,
}

/// Rows of `due` that are due, from `from` on.
pub fn due_keys(
    store: &impl Records,
    from: DueKey,
    now: Wall,
    max: usize,
) -> Result<KeysRead<DueKey>, QueueFault> {
    let mut read = Reading::new(now, max);
    store.walk(Family::Due, &key::of_row(from), AFTER_ALL, |row, _| {
        read.take(key::due_of(row).map(|row| (row, row.at_ms)))
    })?;
    Ok(read.done)
}

/// Rows of one flow that are due, from `from` on.
pub fn flow_keys(
    store: &impl Records,
    from: BacklogKey,
    now: Wall,
    max: usize,
) -> Result<KeysRead<BacklogKey>, QueueFault> {
    let end = from.flow.next().map(|flow| key::of_backlog(flow.start()));
    let end = end.as_ref().map_or(AFTER_ALL, |end| &end[..]);
    read_backlog(store, from, end, now, max)
}

/// Rows of all flows, due or not, from `from` on: what a refile pass looks at.
pub fn backlog_keys(
    store: &impl Records,
    from: BacklogKey,
    max: usize,
) -> Result<KeysRead<BacklogKey>, QueueFault> {
    read_backlog(store, from, AFTER_ALL, Wall::from_ms(u64::MAX), max)
}

/// Rows of the same flow before this one, counted up to `max`.
pub fn count_before(
    store: &impl Records,
    row: BacklogKey,
    max: usize,
) -> Result<usize, QueueFault> {
    let (from, end) = (key::of_backlog(row.flow.start()), key::of_backlog(row));
    let mut count = 0;
    store.walk(Family::Backlog, &from, &end, |_, _| {
        count += 1;
        if count < max { Walk::Next } else { Walk::Stop }
    })?;
    Ok(count)
}

fn read_backlog(
    store: &impl Records,
    from: BacklogKey,
    end: &[u8],
    now: Wall,
    max: usize,
) -> Result<KeysRead<BacklogKey>, QueueFault> {
    let mut read = Reading::new(now, max);
    store.walk(Family::Backlog, &key::of_backlog(from), end, |row, _| {
        read.take(key::backlog_of(row).map(|row| (row, row.due.at_ms)))
    })?;
    Ok(read.done)
}

/// A read of keys in progress.
struct Reading<K> {
    now_ms: u64,
    max: usize,
    done: KeysRead<K>,
}

impl<K> Reading<K> {
    fn new(now: Wall, max: usize) -> Reading<K> {
        let done = KeysRead { keys: Vec::new(), rest: Rest::Nothing };
        Reading { now_ms: now.as_ms(), max, done }
    }

    /// Takes a key and its time. A key of another form is recovery's to remove.
    fn take(&mut self, key: Option<(K, u64)>) -> Walk {
        let Some((key, at_ms)) = key else { return Walk::Next };
        self.done.rest = if at_ms > self.now_ms {
            Rest::Later { at_ms }
        } else if self.done.keys.len() == self.max {
            Rest::More
        } else {
            self.done.keys.push(key);
            return Walk::Next;
        };
        Walk::Stop
    }
}

/// A flow with filed jobs, and when the first of them is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFound {
    pub flow: FlowKey,
    pub due_ms: u64,
}

/// Flows that have rows, from `from` on: one seek each, however many rows they have. As many as `max`
/// mean that there may be more; the next search begins at `FlowKey::next` of the last.
pub fn find_flows(
    store: &impl Records,
    from: FlowKey,
    max: usize,
) -> Result<Vec<FlowFound>, QueueFault> {
    let mut found = Vec::new();
    if max == 0 {
        return Ok(found);
    }
    let from = key::of_backlog(from.start());
    store.walk(Family::Backlog, &from, AFTER_ALL, |row, _| {
        let Some(BacklogKey { flow, due }) = key::backlog_of(row) else { return Walk::Next };
        found.push(FlowFound { flow, due_ms: due.at_ms });
        match flow.next() {
            Some(next) if found.len() < max => Walk::Seek(key::of_backlog(next.start())),
            _ => Walk::Stop,
        }
    })?;
    Ok(found)
}

/// Whether the message of a job is read with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Records only.
    Leave,
    /// Messages of up to `MESSAGE_HELD_BYTES_MAX`.
    Hold,
}

/// A job as it is stored. Both records have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobMail {
    pub key: JobKey,
    pub job: Box<[u8]>,
    pub envelope: Arc<[u8]>,
    /// Head and body, as they are sent.
    pub message: Option<Arc<[u8]>>,
}

/// What a row leads to.
#[derive(Debug)]
pub enum RowFound {
    Job(JobMail),
    /// The job has ended, or has other rows: the row is to be removed, `Committer::remove_leftovers`.
    Leftover,
    /// A record or the body is damaged or missing. The next start quarantines the message.
    Damaged(QueueFault),
}

/// Reads the jobs of rows, in the order of the rows. A fault means that the store cannot be read.
pub fn read_rows(
    store: &impl Records,
    rows: &[Row],
    messages: Messages,
) -> Result<Vec<RowFound>, QueueFault> {
    rows.iter().map(|row| read_row(store, *row, messages)).collect()
}

fn read_row(store: &impl Records, row: Row, messages: Messages) -> Result<RowFound, QueueFault> {
    let has_row = |job: &Job<'_>| rows_of(row.job(), job.schedule()).any(|own| own == row);
    match read_if(store, row.job(), messages, has_row) {
        Ok(Some(mail)) => Ok(RowFound::Job(mail)),
        Ok(None) => Ok(RowFound::Leftover),
        Err(fault @ QueueFault::Store(_)) => Err(fault),
        Err(fault) => Ok(RowFound::Damaged(fault)),
    }
}

/// Reads one job, whatever its rows. `None`: it has ended.
pub fn read_job(
    store: &impl Records,
    key: JobKey,
    messages: Messages,
) -> Result<Option<JobMail>, QueueFault> {
    read_if(store, key, messages, |_| true)
}

fn read_if(
    store: &impl Records,
    (id, number): JobKey,
    messages: Messages,
    is_wanted: impl FnOnce(&Job<'_>) -> bool,
) -> Result<Option<JobMail>, QueueFault> {
    let job =
        store.get(Family::Job, &key::of_job(id, number), |record| match Job::decode(record) {
            Ok(job) => Ok(is_wanted(&job).then(|| record.into())),
            Err(fault) => Err(QueueFault::Record(fault)),
        })?;
    let Some(job) = job.transpose()?.flatten() else { return Ok(None) };
    let envelope = store.get(Family::Envelope, &key::of_id(id), |record| Arc::from(record))?;
    let envelope = envelope.ok_or(QueueFault::Unknown)?;
    let read = Envelope::decode(&envelope).map_err(QueueFault::Record)?;
    let holds = messages == Messages::Hold && read.bytes() <= MESSAGE_HELD_BYTES_MAX;
    let message = match holds {
        true => Some(MessageReader::new(store, id, &read).read_whole()?),
        false => None,
    };
    Ok(Some(JobMail { key: (id, number), job, envelope, message }))
}
