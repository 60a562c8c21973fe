//! The operation that explains why a message is still queued.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::destination::Binding;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::EvidenceRow;
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

/// Where a job is. Each stage is told by one source: the store, the job's home shard, or the owner of
/// its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Place {
    /// In the store only. `filed`: under its destination, because the destination takes no more.
    Store {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filed: Option<Box<FiledJob>>,
    },
    /// Its record is being read.
    Reading,
    /// Its route, mail exchangers and policies are being looked up.
    Resolving {
        waits_for: ResolvingFor,
    },
    /// At its home shard, waiting for a place at the owner of its destination.
    Waiting(Box<WaitingJob>),
    /// At the owner of its destination, waiting for a connection.
    Queued(Box<QueuedJob>),
    Sending {
        destination: Box<DestinationRow>,
    },
    /// On its way between its home shard and the owner of its destination.
    Passing,
    /// A change of its record is being written to this partition.
    Writing {
        partition: u8,
    },
    /// The owner of its destination does not answer.
    Silent {
        fault: String,
    },
}

/// What resolving waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ResolvingFor {
    /// One of the shard's `places` for lookups.
    Lookup {
        ahead: u64,
        places: u64,
    },
    Answer,
    /// The lookup is begun again then. `lack`: what this server lacked for it.
    Again {
        at_ms: Option<u64>,
        lack: Option<String>,
    },
    /// Numbers for the jobs that it is split into.
    Numbers,
}

/// What the owner of a destination told with its last grant of places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub binding: Binding,
    pub last_error: Option<String>,
    /// The host that the error is of.
    pub last_host: Option<String>,
    /// The latest action of a rule for replies.
    pub evidence: Option<EvidenceRow>,
    /// The source address whose rate limit binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_source: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiledJob {
    /// None: no mail of the destination was resolved since the start.
    pub destination: Option<String>,
    /// Due messages of the same destination, tenant and class that are before it in its partition;
    /// counted up to `FILED_COUNT_MAX`.
    pub ahead: u64,
    /// None: as for `destination`.
    pub granted: Option<Granted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingJob {
    pub destination: String,
    pub name: String,
    /// The shard that talks to the destination.
    pub owner: u16,
    /// Messages of its home shard that go before it. None: earlier deliveries of its partition are
    /// not yet durable.
    pub ahead: Option<u64>,
    /// Messages that the home shard may have at the owner, of one tenant and class, and has there.
    pub places: u64,
    pub places_per_flow: u64,
    pub out: u64,
    pub granted: Granted,
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
