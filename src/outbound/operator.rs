//! Operations on mail whose home is this shard.
//!
//! Owner:    the home shard; each operation is a task of its own.
//! Promise:  a job has one writer: during an operation its message is neither read from the store nor
//!           sent. Queued jobs are recalled first; a job that is being sent is finished, and the
//!           operation follows. A waiting operation lives in memory: a restart forgets it.
//! Order:    mark the message, recall, read, write, remove the mark.
//! Bounds:   one operation per message at a time; `RECALL_PATIENCE` for a recall.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::base::MessageId;
use crate::base::ShardId;
use crate::base::clock::wall_ms;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Frame;
use crate::handoff::frame::Hop;
use crate::outbound::home::Home;
use crate::outbound::home::Waiting;
use crate::outbound::lease::JobKey;
use crate::outbound::scan;
use crate::outbound::settling;
use crate::queue::admin::operate;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
use crate::queue::commit::settle::JobChange;
use crate::queue::commit::settle::JobRecord;
use crate::queue::commit::settle::Settlement;
use crate::queue::record::job::Job;
use crate::queue::record::ledger::Tally;
use crate::queue::store::jobs::StoredJob;
use crate::rt::timer;

/// How long an order waits for what is out before it is left for later.
const RECALL_PATIENCE: Duration = Duration::from_secs(2);
const RECALL_PACE: Duration = Duration::from_millis(20);
/// How often an order begins anew because the message was changed under its hands.
const ROUNDS_MAX: usize = 8;

/// Where a job stands in memory.
#[derive(Clone, Debug)]
pub struct Standing {
    pub job: u16,
    /// Given to the owner of its destination; otherwise it is being resolved or written.
    pub is_out: bool,
    pub attempts: u32,
    pub hop: Option<Arc<Hop>>,
    pub owner: Option<ShardId>,
    /// What this server lacks to go on with it.
    pub lack: Option<Box<str>>,
}

/// Where the jobs of a message stand that are in memory.
pub fn standings(home: &Home, id: MessageId, numbers: &[u16]) -> Vec<Standing> {
    let standing = |job: &u16| {
        let waiting = home.waiting((id, *job))?;
        let lease = home.leases.borrow().number_of(id, *job);
        let owner = waiting.hop.as_ref().map(|hop| home.owner_of(hop));
        Some(Standing {
            job: *job,
            is_out: lease.is_some(),
            attempts: waiting.attempts,
            hop: waiting.hop,
            owner,
            lack: waiting.lack,
        })
    };
    numbers.iter().filter_map(standing).collect()
}

/// A message that an order is about, until the order is done.
struct Mark {
    home: Rc<Home>,
    id: MessageId,
}

impl Mark {
    fn take(home: &Rc<Home>, id: MessageId, operation: Operation) -> Option<Mark> {
        let mut orders = home.orders.borrow_mut();
        if orders.contains_key(&id) {
            return None;
        }
        orders.insert(id, operation);
        Some(Mark { home: Rc::clone(home), id })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.home.orders.borrow_mut().remove(&self.id);
    }
}

/// Carries out one order.
pub async fn carry_out(
    home: Rc<Home>,
    id: MessageId,
    operation: Operation,
) -> Result<Carried, OperationFault> {
    let Some(_mark) = Mark::take(&home, id, operation.clone()) else {
        return Err(OperationFault::Crossed);
    };
    let before = home.requests.borrow_mut().remove(&id);
    let carried = carry_out_marked(&home, id, &operation).await;
    // A newer order takes the place of one that waits for the end of an attempt. One that asks for
    // that attempt, or came to nothing, does not.
    let stays = operation == Operation::Retry || carried.is_err();
    match (before, &carried) {
        (Some(Operation::Hold), Err(OperationFault::NotHeld))
            if operation == Operation::Release =>
        {
            return Ok(Carried::Done);
        }
        (Some(before), _) if stays => {
            home.requests.borrow_mut().entry(id).or_insert(before);
        }
        _ => (),
    }
    carried
}

async fn carry_out_marked(
    home: &Rc<Home>,
    id: MessageId,
    operation: &Operation,
) -> Result<Carried, OperationFault> {
    for _ in 0..ROUNDS_MAX {
        let found = jobs_for(operation, read_jobs(home, id).await)?;
        let busy = match operation.calls_back() {
            true => call_back(home, id, &found).await,
            false => known(home, id, &found),
        };
        if *operation == Operation::Delete {
            return delete(home, id, &found).await;
        }
        // What was called back may have been tried before; nobody writes what is free from here.
        let jobs = read_jobs(home, id).await?;
        if !jobs.iter().all(|job| found.iter().any(|known| known.number == job.number)) {
            continue;
        }
        let free: Vec<_> = jobs.into_iter().filter(|job| !busy.contains(&job.number)).collect();
        let written = match operation {
            Operation::Bounce => bounce(home, id, &free).await?,
            _ => rewrite(home, id, &free, operation).await?,
        };
        return match (written, busy.is_empty(), operation) {
            (Written::Stale, _, _) => continue,
            (Written::All(carried), true, _) => Ok(carried),
            (
                Written::All(_),
                false,
                Operation::Hold | Operation::Bounce | Operation::Reroute(_),
            ) => {
                home.requests.borrow_mut().insert(id, operation.clone());
                Ok(Carried::AfterAttempt)
            }
            (Written::All(Carried::Done), false, _) => Ok(Carried::Done),
            (Written::All(_), false, _) => Ok(Carried::UnderWay),
        };
    }
    Err(OperationFault::Restless)
}

/// An attempt has ended: what was ordered meanwhile is done now.
pub async fn after_attempt(home: &Rc<Home>, id: MessageId) {
    let request = home.requests.borrow_mut().remove(&id);
    let Some(operation) = request else { return };
    let carried = carry_out(Rc::clone(home), id, operation.clone()).await;
    if let Err(OperationFault::Commit(_) | OperationFault::Restless | OperationFault::Crossed) =
        carried
    {
        // It is tried again when the scan comes by. Nobody waits for the answer any more, and a
        // message that has ended needs none.
        home.requests.borrow_mut().entry(id).or_insert(operation);
    }
}

type Jobs = Vec<StoredJob>;

async fn read_jobs(home: &Home, id: MessageId) -> Result<Jobs, OperationFault> {
    let store = home.stores.get(&id.partition()).ok_or(OperationFault::Unknown)?;
    let partition = Arc::clone(&store.partition);
    let read = home.reader.run(move || operate::jobs_of(&partition, id)).await;
    read.unwrap_or(Err(OperationFault::Restless))
}

/// The jobs that an operation is about. A message that is kept after its end has none: only deletion is
/// for such a message, and the committer knows whether it exists.
fn jobs_for(
    operation: &Operation,
    read: Result<Jobs, OperationFault>,
) -> Result<Jobs, OperationFault> {
    match read {
        Err(OperationFault::Unknown) if *operation == Operation::Delete => Ok(Jobs::new()),
        read => read,
    }
}

fn known(home: &Home, id: MessageId, jobs: &Jobs) -> Vec<u16> {
    jobs.iter().map(|job| job.number).filter(|job| home.knows((id, *job))).collect()
}

/// Calls back what is in line, and waits for it. Answers what is still out.
async fn call_back(home: &Home, id: MessageId, jobs: &Jobs) -> Vec<u16> {
    let end = Instant::now() + RECALL_PATIENCE;
    let mut asked = false;
    loop {
        let left = known(home, id, jobs);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        if !asked {
            left.iter().for_each(|job| recall(home, (id, *job)));
            asked = true;
        }
        timer::sleep(RECALL_PACE).await;
    }
}

fn recall(home: &Home, (id, job): JobKey) {
    let lease = home.leases.borrow().number_of(id, job);
    let hop = home.waiting((id, job)).and_then(|waiting| waiting.hop);
    if let (Some(lease), Some(hop)) = (lease, hop) {
        home.mesh.post(home.owner_of(&hop), Frame::Recall { id, job, lease });
    }
    if lease.is_none() {
        home.withdraw((id, job));
    }
}

enum Written {
    All(Carried),
    /// A job was no longer as it was read.
    Stale,
}

async fn rewrite(
    home: &Home,
    id: MessageId,
    jobs: &Jobs,
    operation: &Operation,
) -> Result<Written, OperationFault> {
    let (mut changed, mut refused) = (0, None);
    for StoredJob { number, record } in jobs {
        let record_fault = |fault| OperationFault::Queue(crate::queue::QueueFault::Record(fault));
        let job = Job::decode(record).map_err(record_fault)?;
        let again = match operation.applied(&job, wall_ms()) {
            Ok(Some(again)) => JobRecord::new(&again).map_err(record_fault)?,
            Ok(None) => continue,
            Err(fault) => {
                refused = Some(fault);
                continue;
            }
        };
        let settlement = Settlement {
            id,
            job: *number,
            change: JobChange::Again(again),
            reports: Vec::new(),
            tally: Tally::default(),
            is_order: true,
            keep_until_ms: None,
        };
        if !settle(home, id, settlement).await? {
            return Ok(Written::Stale);
        }
        // A scan that has read it before does not admit it as it was.
        home.forget((id, *number));
        changed += 1;
        // What is due now may lie behind what the scan has read.
        home.note_left_on_disk();
    }
    match (changed, refused) {
        (0, Some(fault)) => Err(fault),
        (0, None) => Ok(Written::All(Carried::Already)),
        _ => Ok(Written::All(Carried::Done)),
    }
}

async fn settle(
    home: &Home,
    id: MessageId,
    settlement: Settlement,
) -> Result<bool, OperationFault> {
    let store = home.stores.get(&id.partition()).ok_or(OperationFault::Unknown)?;
    store.committer.settle(Arc::new(settlement)).await.map_err(OperationFault::Commit)
}

async fn delete(home: &Home, id: MessageId, found: &Jobs) -> Result<Carried, OperationFault> {
    let store = home.stores.get(&id.partition()).ok_or(OperationFault::Unknown)?;
    match store.committer.delete(id).await {
        Ok(true) => (),
        Ok(false) => return Err(OperationFault::Unknown),
        Err(fault) => return Err(OperationFault::Commit(fault)),
    }
    // The record is gone: nobody may send or write what memory has of it, or what a scan has read
    // before. What is in line at an owner comes back.
    let mut keys: Vec<JobKey> = found.iter().map(|job| (id, job.number)).collect();
    let is_whole =
        |record: &[u8]| Job::decode(record).is_ok_and(|job| job.recipients.iter().nth(1).is_none());
    if !found.iter().all(|job| is_whole(&job.record)) {
        // Parts of a split may have come meanwhile.
        while home.is_splitting(id) {
            timer::sleep(RECALL_PACE).await;
        }
        keys.extend(home.keys_of(id));
    }
    for key in keys {
        recall(home, key);
        home.forget(key);
    }
    Ok(Carried::Done)
}

/// As if a server had refused it for good.
async fn bounce(home: &Rc<Home>, id: MessageId, jobs: &Jobs) -> Result<Written, OperationFault> {
    for StoredJob { number, .. } in jobs {
        let (number, partition) = match home.stores.get(&id.partition()) {
            Some(store) => (*number, Arc::clone(&store.partition)),
            None => return Err(OperationFault::Unknown),
        };
        let read = home.reader.run(move || scan::read_any(&partition, id, number)).await;
        let stored = match read {
            Some(Ok(Some(stored))) => stored,
            Some(Ok(None)) | None => return Ok(Written::Stale),
            Some(Err(fault)) => return Err(OperationFault::Queue(fault)),
        };
        let key = (id, number);
        home.insert(key, Waiting::from(stored));
        let text = "bounced by the administrator of this server".into();
        let answer = Answer { status: (5, 7, 0), text, remote: false, cause: None };
        settling::settle_local(home, key, settling::Local::Failed(answer)).await;
    }
    Ok(Written::All(Carried::Done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deletion_needs_no_jobs() {
        let unread = || OperationFault::Queue(crate::queue::QueueFault::ReadOnly);
        let unknown = || OperationFault::Unknown;
        let job = StoredJob { number: 3, record: Default::default() };
        assert!(
            matches!(jobs_for(&Operation::Delete, Err(unknown())), Ok(jobs) if jobs.is_empty())
        );
        for operation in [Operation::Hold, Operation::Bounce, Operation::Reroute(None)] {
            let read = jobs_for(&operation, Err(unknown()));
            assert!(matches!(read, Err(OperationFault::Unknown)), "{operation:?}");
        }
        let read = jobs_for(&Operation::Delete, Err(unread()));
        assert!(matches!(read, Err(OperationFault::Queue(_))), "a fault of the store is told");
        let read = jobs_for(&Operation::Delete, Ok(vec![job]));
        assert!(matches!(read, Ok(jobs) if jobs.len() == 1));
    }
}
