//! Finding due jobs: retries, and jobs that were left on disk.
//!
//! Owner:    one task per partition on its home shard; the reader's thread does the reading.
//! Promise:  a due job is found within a few seconds, whether it is due after a restart, a retry or for
//!           lack of room. Reading begins at the oldest entry and continues where it stopped; every
//!           `SWEEP` it begins again, so that no job is skipped forever.
//! Bounds:   `ROWS_MAX` keys and `LOAD_MAX` messages at a time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::base::MessageId;
use crate::base::Wall;
use crate::base::clock::wall_ms;
use crate::handoff::frame::Mail;
use crate::handoff::frame::MailBody;
use crate::observe::log::Record;
use crate::outbound::home::Home;
use crate::outbound::home::Row;
use crate::queue;
use crate::queue::Partition;
use crate::queue::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::job::Job;
use crate::queue::record::key::DueKey;
use crate::queue::record::rows;
use crate::queue::store::schedule;
use crate::queue::store::schedule::JobMail;
use crate::queue::store::schedule::Messages;
use crate::queue::store::schedule::RowFound;
use crate::rt::timer;

const PAUSE: Duration = Duration::from_millis(500);
/// While there is more to read than there is room for.
const FULL_PAUSE: Duration = Duration::from_millis(50);
const SWEEP: Duration = Duration::from_secs(60);
const ROWS_MAX: usize = 1000;
const LOAD_MAX: usize = 64;
/// As `ROWS_MAX`, where a line may be full soon.
const REFILL_ROWS: usize = 256;

/// A job as the store has it.
pub struct Stored {
    pub mail: Mail,
    pub number: u16,
    pub recipients: Box<[u32]>,
    pub attempts: u32,
    pub due_ms: u64,
    pub warned: bool,
    pub next_hop: Option<Arc<str>>,
}

/// Reads one partition for as long as the home lives.
pub async fn scan(home: Rc<Home>, partition: Arc<Partition>) {
    let mut after: Option<Row> = None;
    let mut swept = Instant::now();
    while !home.is_closing() {
        if !home.has_room() || !home.policy().enabled {
            timer::sleep(PAUSE).await;
            continue;
        }
        queue::points::point("vital::scan");
        if let Some((destination, left)) = home.take_left(partition.id()) {
            refill(&home, &partition, &destination, left).await;
        }
        let now_ms = wall_ms();
        let (reading, from) = (Arc::clone(&partition), after);
        let rows = home.reader.run(move || due(&reading, from, now_ms, ROWS_MAX)).await;
        let rows = match rows {
            Some(Ok(rows)) => rows,
            Some(Err(fault)) => {
                told(&partition, &fault);
                timer::sleep(SWEEP).await;
                continue;
            }
            None => Vec::new(),
        };
        let complete = rows.len() < ROWS_MAX;
        after = load(&home, &partition, rows, after).await;
        if !complete {
            continue;
        }
        // Only from the end back to the beginning: else what cannot go would hide what can.
        if swept.elapsed() >= SWEEP || home.take_left_on_disk(partition.id()) {
            (after, swept) = (None, Instant::now());
        }
        timer::sleep(PAUSE).await;
    }
}

/// Reads again from where jobs of one destination were left, until its line is full.
async fn refill(home: &Rc<Home>, partition: &Arc<Partition>, destination: &str, left: Row) {
    // The entry itself is the first to be read.
    let mut after = Some((left.0.saturating_sub(1), MessageId::from_u64(u64::MAX), u16::MAX));
    while !home.is_closing() && !home.is_full(destination, partition.id()) {
        let (reading, from, now_ms) = (Arc::clone(partition), after, wall_ms());
        let rows = home.reader.run(move || due(&reading, from, now_ms, REFILL_ROWS)).await;
        let Some(Ok(rows)) = rows else { return home.leave_again(destination, left) };
        let complete = rows.len() < REFILL_ROWS;
        after = load(home, partition, rows, after).await;
        if complete {
            return;
        }
    }
}

/// Takes what is not yet in memory. Answers how far it came.
async fn load(
    home: &Rc<Home>,
    partition: &Arc<Partition>,
    rows: Vec<Row>,
    mut after: Option<Row>,
) -> Option<Row> {
    for part in rows.chunks(LOAD_MAX) {
        while !home.has_room() && !home.is_closing() {
            timer::sleep(FULL_PAUSE).await;
        }
        if home.is_closing() {
            return after;
        }
        // From here on: what the home forgets before it is admitted may have been delivered.
        home.begin_reading(partition.id());
        let wanted: Vec<Row> =
            part.iter().copied().filter(|(_, id, job)| !home.knows((*id, *job))).collect();
        after = part.last().copied().or(after);
        if wanted.is_empty() {
            home.end_reading(partition.id());
            continue;
        }
        let reading = Arc::clone(partition);
        let messages = if home.holds_bodies() { Messages::Hold } else { Messages::Leave };
        let read = home.reader.run(move || {
            wanted.into_iter().map(|row| read_due(&reading, row, messages)).collect::<Vec<_>>()
        });
        for stored in read.await.unwrap_or_default() {
            match stored {
                Ok(Some(stored)) => home.admit(stored),
                Ok(None) => (),
                Err(fault) => told(partition, &fault),
            }
        }
        home.end_reading(partition.id());
    }
    after
}

/// Rows after `after` that are due.
fn due(
    partition: &Partition,
    after: Option<Row>,
    now_ms: u64,
    max: usize,
) -> Result<Vec<Row>, QueueFault> {
    let after = after.map(|(at_ms, id, number)| DueKey { at_ms, job: (id, number) }.next());
    let from = after.unwrap_or(DueKey::FIRST);
    let read = schedule::due_keys(partition, from, Wall::from_ms(now_ms), max)?;
    Ok(read.keys.into_iter().map(|DueKey { at_ms, job: (id, job) }| (at_ms, id, job)).collect())
}

fn told(partition: &Partition, fault: &QueueFault) {
    let what = format!("partition {}: due jobs cannot be read: {fault}", partition.id());
    Record::Warning {
        what: &what,
        remedy: "restart the server: the start checks the spool and quarantines damaged records",
    }
    .emit();
}

/// One job with its message. `None`: it has ended or was given another time meanwhile.
fn read_due(
    partition: &Arc<Partition>,
    (at_ms, id, number): Row,
    messages: Messages,
) -> Result<Option<Stored>, QueueFault> {
    let row = schedule_row(at_ms, id, number);
    match schedule::read_rows(&**partition, &[row], messages)?.pop() {
        Some(RowFound::Job(mail)) => stored(partition, mail).map(Some),
        Some(RowFound::Damaged(fault)) => Err(fault),
        Some(RowFound::Leftover) | None => Ok(None),
    }
}

fn schedule_row(at_ms: u64, id: MessageId, number: u16) -> rows::Row {
    rows::Row::Due(DueKey { at_ms, job: (id, number) })
}

/// As `read_due`, whenever it is due and even if it is held.
pub(super) fn read_any(
    partition: &Arc<Partition>,
    id: MessageId,
    number: u16,
) -> Result<Option<Stored>, QueueFault> {
    let read = schedule::read_job(&**partition, (id, number), Messages::Hold)?;
    read.map(|mail| stored(partition, mail)).transpose()
}

fn stored(partition: &Arc<Partition>, read: JobMail) -> Result<Stored, QueueFault> {
    let JobMail { key: (id, number), job, envelope, message } = read;
    let job = Job::decode(&job).map_err(QueueFault::Record)?;
    let count = Envelope::decode(&envelope).map_err(QueueFault::Record)?.recipients.len() as u32;
    let recipients = job.recipients.iter().filter(|index| *index < count).collect();
    let body = message.map_or(MailBody::Stored, MailBody::Held);
    let (attempts, due_ms, warned) = (job.attempts, job.due_ms, job.warned);
    let next_hop = job.next_hop.map(Arc::from);
    let mail = Mail::new(id, envelope, body, Arc::clone(partition)).map_err(QueueFault::Record)?;
    Ok(Stored { mail, number, recipients, attempts, due_ms, warned, next_hop })
}
