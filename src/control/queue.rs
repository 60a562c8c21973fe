//! Carries out the operations on queued messages.
//!
//! Promise:  on a running server a message is changed by its home shard alone; reads take nothing
//!           from the shards. On a stopped server the same operations work on its spool.

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::clock::wall_ms;
use crate::base::id::NotAnId;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::server::Control;
use crate::delivery::reroute;
use crate::operations::OpFault;
use crate::operations::queue::AuditQueue;
use crate::operations::queue::CHANGE_IDS_MAX;
use crate::operations::queue::ChangeMessages;
use crate::operations::queue::ChangedMessage;
use crate::operations::queue::HeaderFields;
use crate::operations::queue::LIST_PAGE_ROWS;
use crate::operations::queue::ListMessages;
use crate::operations::queue::MessageDetails;
use crate::operations::queue::MessagePage;
use crate::operations::queue::QueueStats;
use crate::operations::queue::ShowMessage;
use crate::operations::queue::SummarizeQueue;
use crate::queue::QueueFault;
use crate::queue::Spool;
use crate::queue::admin::audit;
use crate::queue::admin::audit::SpoolAudit;
use crate::queue::admin::inspect;
use crate::queue::admin::inspect::Cat;
use crate::queue::admin::inspect::ListFilter;
use crate::queue::admin::inspect::SpoolStats;
use crate::queue::admin::operate;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::operate::OperationFault;
use crate::queue::admin::select;
use crate::queue::admin::select::Summary;
use crate::shard::ShardRequest;
use crate::wire::mail::header;

/// Bytes at the front of a message in which its header is looked for.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Implements `CarryOut` for an operation that only reads the store.
macro_rules! reads {
    ($($op:ty => $read:ident),+ $(,)?) => {$(
        impl CarryOut for $op {
            async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
                control.read(move |spool| $read(call.into_operation(), spool)).await
            }

            fn run_stopped(call: Call<Self>, spool: &Spool) -> Outcome<Self> {
                $read(call.into_operation(), spool)
            }
        }
    )+};
}

reads! {
    ListMessages => list,
    SummarizeQueue => summarize,
    ShowMessage => show,
    QueueStats => stats,
    AuditQueue => audit,
}

fn list(asked: ListMessages, spool: &Spool) -> Result<MessagePage, OpFault> {
    let after = asked.after.as_deref().map(|id| parse_id(spool, "after", id)).transpose()?;
    let limit = asked.limit.unwrap_or(LIST_PAGE_ROWS).min(LIST_PAGE_ROWS);
    let messages = inspect::list(spool, ListFilter { limit, after }, &asked.wanted());
    let messages = messages.map_err(queue_fault)?;
    let is_last = messages.len() < limit;
    let next = messages.last().filter(|_| !is_last).map(|row| row.id.clone());
    Ok(MessagePage { messages, next })
}

fn summarize(asked: SummarizeQueue, spool: &Spool) -> Result<Summary, OpFault> {
    select::summary(spool, asked.limit).map_err(queue_fault)
}

fn show(asked: ShowMessage, spool: &Spool) -> Result<MessageDetails, OpFault> {
    let id = parse_id(spool, "id", &asked.id)?;
    let about = |fault| queue_fault(fault).about(&asked.id);
    let stored = inspect::show(spool, id).map_err(about)?;
    let mut front = Vec::new();
    for piece in inspect::cat(spool, id).map_err(about)? {
        // The front of a damaged body still shows the header.
        let Ok(piece) = piece else { break };
        front.extend_from_slice(&piece);
        if front.len() >= HEADER_BYTES_MAX {
            break;
        }
    }
    let found = header::summary(&front);
    let header =
        HeaderFields { from: found.from, to: found.to, subject: found.subject, date: found.date };
    Ok(MessageDetails { stored, header })
}

fn stats(_: QueueStats, spool: &Spool) -> Result<SpoolStats, OpFault> {
    inspect::stats(spool).map_err(queue_fault)
}

fn audit(_: AuditQueue, spool: &Spool) -> Result<SpoolAudit, OpFault> {
    audit::audit(spool).map_err(queue_fault)
}

/// The pieces of a message as it would be delivered.
pub fn pieces(spool: &Spool, id: &str) -> Result<Cat, OpFault> {
    let parsed = parse_id(spool, "id", id)?;
    inspect::cat(spool, parsed).map_err(|fault| queue_fault(fault).about(id))
}

impl CarryOut for ChangeMessages {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        control.refuse_while_draining()?;
        let ChangeMessages { operation, ids } = checked(call)?;
        let mut sent = Vec::with_capacity(ids.len());
        for id in &ids {
            sent.push(
                parse_id(control.spool(), "ids", id)
                    .and_then(|parsed| order(control, parsed, &operation)),
            );
        }
        let end = control.change_deadline();
        let mut rows = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(sent) {
            let done = match answer {
                Ok(answer) => match timeout_at(end, answer).await {
                    Ok(Ok(done)) => done.map_err(operation_fault),
                    _ => Err(OpFault::away(
                        "no_answer",
                        "no answer in time; the change may still take effect",
                    )
                    .hint("see `ringpost why`")),
                },
                Err(fault) => Err(fault),
            };
            rows.push(ChangedMessage::new(id, done));
        }
        Ok(rows)
    }

    fn run_stopped(call: Call<Self>, spool: &Spool) -> Outcome<Self> {
        let ChangeMessages { operation, ids } = checked(call)?;
        let carried = |id: &str| {
            let parsed = parse_id(spool, "ids", id)?;
            operate::carry_out(spool, parsed, &operation, wall_ms()).map_err(operation_fault)
        };
        Ok(ids.iter().map(|id| ChangedMessage::new(id, carried(id))).collect())
    }
}

/// Within its bounds, and a next hop in its one spelling.
fn checked(call: Call<ChangeMessages>) -> Result<ChangeMessages, OpFault> {
    let ChangeMessages { operation, ids } = call.into_operation();
    if ids.len() > CHANGE_IDS_MAX {
        let what = format!("more than {CHANGE_IDS_MAX} messages in one request");
        return Err(OpFault::usage("too_many_ids", what));
    }
    let operation = match operation {
        Operation::Reroute(Some(next_hop)) => {
            let spelled = reroute::spelled(&next_hop);
            Operation::Reroute(Some(spelled.map_err(|what| OpFault::usage("bad_next_hop", what))?))
        }
        operation => operation,
    };
    Ok(ChangeMessages { operation, ids })
}

type Answer = oneshot::Receiver<Result<Carried, OperationFault>>;

fn order(control: &Control, id: MessageId, operation: &Operation) -> Result<Answer, OpFault> {
    let (sender, answer) = oneshot::channel();
    let home = control.home_of(id)?;
    let answer_once = Box::new(move |done| {
        // A caller that has given up needs no answer.
        let _ = sender.send(done);
    });
    control.send(
        home,
        ShardRequest::Operate { id, operation: operation.clone(), answer: answer_once },
    )?;
    Ok(answer)
}

/// The message of this spool that a field of a request names.
pub fn parse_id(spool: &Spool, field: &str, id: &str) -> Result<MessageId, OpFault> {
    let bad = |fault: String| {
        OpFault::usage("bad_id", fault.clone()).about(id).fault(field, "bad_id", fault)
    };
    let public: PublicId = id.parse().map_err(|fault: NotAnId| bad(fault.to_string()))?;
    spool.local_id(public).map_err(|fault| queue_fault(fault).about(id))
}

pub fn queue_fault(fault: QueueFault) -> OpFault {
    let what = fault.to_string();
    match fault {
        QueueFault::Unknown | QueueFault::NoPartition(_) => {
            OpFault::not_found("no_such_message", "no such message")
        }
        QueueFault::ForeignSpool(_) => OpFault::not_found("other_server", what),
        QueueFault::Record(_) | QueueFault::Head(_) | QueueFault::Body { .. } => {
            OpFault::other("damaged", what)
        }
        QueueFault::ReadOnly => OpFault::conflict("read_only", what),
        QueueFault::Store(_) => OpFault::other("store", what),
    }
}

fn operation_fault(fault: OperationFault) -> OpFault {
    match fault {
        OperationFault::Unknown => OpFault::not_found("no_such_message", "no such message"),
        OperationFault::NotHeld => OpFault::conflict("not_held", "the message is not held"),
        OperationFault::Held => {
            OpFault::conflict("held", "the message is held").hint("release it first")
        }
        OperationFault::Crossed => {
            OpFault::conflict("crossed", "another change of the message is in progress")
                .hint("try again")
                .retry_after(1)
        }
        OperationFault::Restless => OpFault::conflict("changing", "the message changed meanwhile")
            .hint("try again")
            .retry_after(1),
        OperationFault::NeedsServer => {
            OpFault::away("not_running", "only a running server can bounce messages")
                .hint("start the server first")
        }
        OperationFault::Commit(fault) => {
            OpFault::away("not_written", fault.to_string()).retry_after(10)
        }
        OperationFault::Queue(fault) => queue_fault(fault),
    }
}
