//! Operations on queued messages.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::fault::OpFault;
use crate::operations::operation::Bytes;
use crate::operations::operation::Change;
use crate::operations::operation::operation;
use crate::queue::admin::audit::SpoolAudit;
use crate::queue::admin::inspect::Details;
use crate::queue::admin::inspect::ListRow;
use crate::queue::admin::inspect::SpoolStats;
use crate::queue::admin::operate;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::select::Summary;
use crate::queue::admin::select::Wanted;

/// Messages in one page of a list, and in one change.
pub const LIST_PAGE_ROWS: usize = 1000;
pub const CHANGE_IDS_MAX: usize = 256;

operation! {
    /// Messages by age, oldest first, page by page.
    #[derive(Default)]
    #[serde(default)]
    ListMessages {
        /// Rows of the page, at most `LIST_PAGE_ROWS`.
        limit: Option<usize>,
        /// Only messages after this one: `next` of the previous page.
        after: Option<String>,
        /// Only messages with an unfinished recipient of this domain.
        recipient_domain: Option<String>,
        /// Only messages from this envelope sender; `<>` is the null sender.
        sender: Option<String>,
        /// Only held messages.
        held: bool,
        received_before_ms: Option<u64>,
    }
    "queue.list", Get "/v1/queue/messages", ReadQueue => MessagePage
}

impl ListMessages {
    pub fn wanted(&self) -> Wanted {
        Wanted {
            recipient_domain: self.recipient_domain.clone(),
            sender: self.sender.clone(),
            held: self.held,
            received_before_ms: self.received_before_ms,
        }
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagePage {
    pub messages: Vec<ListRow>,
    /// `after` of the next page; none on the last one.
    pub next: Option<String>,
}

operation! {
    /// Queued recipients by domain, the largest domains first.
    SummarizeQueue {
        /// Domains in the answer.
        limit: usize,
    }
    "queue.summary", Get "/v1/queue/summary", ReadQueue => Summary
}

operation! {
    /// All facts about a message.
    ShowMessage { id: String }
    "queue.show", Get "/v1/queue/messages/{id}" by id, ReadQueue => MessageDetails
}

/// The stored facts and the main fields of the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDetails {
    #[serde(flatten)]
    pub stored: Details,
    pub header: HeaderFields,
}

/// Fields of the message's own header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderFields {
    pub from: Option<String>,
    pub to: Option<String>,
    pub subject: Option<String>,
    pub date: Option<String>,
}

operation! {
    /// A message as it would be delivered, in pieces.
    ReadMessage { id: String }
    "queue.cat", Get "/v1/queue/messages/{id}/content" by id, ReadContent => Bytes
}

operation! {
    /// Sizes and counts of the spool.
    QueueStats {}
    "queue.stats", Get "/v1/queue/stats", ReadQueue => SpoolStats
}

operation! {
    /// Whether every accepted recipient is accounted for.
    AuditQueue {}
    "queue.audit", Get "/v1/queue/audit", ReadQueue => SpoolAudit
}

operation! {
    /// One change of up to `CHANGE_IDS_MAX` messages.
    ChangeMessages {
        operation: operate::Operation,
        ids: Vec<String>,
    }
    "queue.change", Post "/v1/queue/changes", ChangeQueue => Vec<ChangedMessage>;
    fn change(&self) -> Change {
        let (action, to) = match &self.operation {
            operate::Operation::Hold => ("queue.hold", None),
            operate::Operation::Release => ("queue.release", None),
            operate::Operation::Retry => ("queue.retry", None),
            operate::Operation::Bounce => ("queue.bounce", None),
            operate::Operation::Delete => ("queue.delete", None),
            operate::Operation::Reroute(to) => ("queue.reroute", Some(to.clone())),
        };
        let to = to.map(|to| to.unwrap_or_else(|| "default".into()));
        Change { action, objects: self.ids.clone(), to }
    }
    fn counts(rows: &Vec<ChangedMessage>) -> (usize, usize) {
        let refused = rows.iter().filter(|row| row.fault.is_some()).count();
        (rows.len() - refused, refused)
    }
}

/// The outcome for one message: `outcome` or `fault`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedMessage {
    pub id: String,
    pub outcome: Option<Carried>,
    pub fault: Option<OpFault>,
}

impl ChangedMessage {
    pub fn new(id: &str, done: Result<Carried, OpFault>) -> ChangedMessage {
        let (outcome, fault) = match done {
            Ok(outcome) => (Some(outcome), None),
            Err(fault) => (None, Some(fault)),
        };
        ChangedMessage { id: id.to_owned(), outcome, fault }
    }
}
