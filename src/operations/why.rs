//! The operation that explains why a message is still queued.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::destination::Binding;
use crate::operations::destination::DestinationRow;
use crate::operations::operation::operation;
use crate::queue::admin::inspect::Word;

operation! {
    /// Explains why a message is still queued.
    ExplainMessage { id: String }
    "queue.why", Get "/v1/queue/messages/{id}/why" by id, ReadQueue => Explanation
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub id: String,
    pub now_ms: u64,
    pub server_runs: bool,
    pub received_ms: u64,
    pub sender: Option<String>,
    pub jobs: Vec<ExplainedJob>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedJob {
    pub job: u16,
    pub state: Word,
    pub recipients: Vec<String>,
    pub attempts: u32,
    pub last_attempt_ms: Option<u64>,
    pub last_reply: Option<String>,
    /// The next hop that an operator has set.
    pub rerouted_to: Option<String>,
    /// None for a held job.
    pub next_attempt_ms: Option<u64>,
    pub place: Place,
    /// When the job should be delivered if the next attempt succeeds.
    pub predicted_finish_ms: Option<u64>,
    /// The same facts for people.
    pub sentences: Vec<String>,
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Place {
    /// In the store only.
    Store,
    /// At its home shard: being routed, resolved or written.
    Home,
    /// At its home shard, waiting for a resource of this server, such as a DNS lookup.
    Lacking {
        what: String,
    },
    /// At the owner of its destination, waiting for a connection.
    Queued(Box<QueuedJob>),
    Sending {
        destination: Box<DestinationRow>,
    },
    /// The owner of its destination does not answer.
    Silent {
        fault: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedJob {
    /// Messages ahead in the queue.
    pub ahead: u64,
    pub binding: Binding,
    pub destination: DestinationRow,
    /// Messages that are being sent to the destination.
    pub under_way: Vec<String>,
    /// The destinations with the most connections of the shard.
    pub shard_connections: Vec<ConnectionHolder>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionHolder {
    pub destination: String,
    pub connections: u64,
}
