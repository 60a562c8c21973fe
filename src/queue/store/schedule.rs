//! Reading the schedule: keys that are due, flows, and the mail of single jobs.
//!
//! Owner:    a shard's reader thread; every function here may wait for the disk.
//! Promise:  a read of keys skips nothing. The caller compares a row with the record of its job: a row
//!           that the record does not have is a leftover, never mail.
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
    let mut read = Reading::new(now, max);
    store.walk(Family::Backlog, &key::of_backlog(from), end, |row, _| {
        read.take(key::backlog_of(row).map(|row| (row, row.due.at_ms)))
    })?;
    Ok(read.done)
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

/// The first row of each flow from `from` on: one seek each, however many rows they have. As many as `max`
/// mean that there may be more; the next search begins at `FlowKey::next` of the last.
pub fn find_flows(
    store: &impl Records,
    from: FlowKey,
    max: usize,
) -> Result<Vec<BacklogKey>, QueueFault> {
    let mut found = Vec::new();
    if max == 0 {
        return Ok(found);
    }
    let from = key::of_backlog(from.start());
    store.walk(Family::Backlog, &from, AFTER_ALL, |row, _| {
        let Some(row) = key::backlog_of(row) else { return Walk::Next };
        found.push(row);
        match row.flow.next() {
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

/// Reads one job, whatever its rows. `None`: it has ended.
pub fn read_job(
    store: &impl Records,
    key: JobKey,
    messages: Messages,
) -> Result<Option<JobMail>, QueueFault> {
    let (id, number) = key;
    let job = store.get(Family::Job, &key::of_job(id, number), |record| {
        Job::decode(record).map(|_| Box::from(record)).map_err(QueueFault::Record)
    })?;
    let Some(job) = job.transpose()? else { return Ok(None) };
    let envelope = store.get(Family::Envelope, &key::of_id(id), |record| Arc::from(record))?;
    let envelope = envelope.ok_or(QueueFault::Unknown)?;
    let read = Envelope::decode(&envelope).map_err(QueueFault::Record)?;
    let holds = messages == Messages::Hold && read.bytes() <= MESSAGE_HELD_BYTES_MAX;
    let message = match holds {
        true => Some(MessageReader::new(store, id, &read).read_whole()?),
        false => None,
    };
    Ok(Some(JobMail { key, job, envelope, message }))
}
