//! Frames between shards: jobs from the home to the owner shard, outcomes back.
//!
//! Owner:    a frame has one owner at a time; the mail in it is immutable and shared.
//! Promise:  a lost frame loses no mail: the job is leased, and after the lease expires the home shard
//!           sends it again.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::ShardId;
use crate::net::StsPolicy;
use crate::net::Verdict;
use crate::queue::Partition;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::outer::RecordFault;
use crate::route::Credentials;
use crate::route::DestinationPolicy;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::wire::classify::Cause;

/// A message in delivery, readable on every shard.
pub struct Mail {
    pub id: MessageId,
    envelope: Arc<[u8]>,
    pub body: MailBody,
    /// The partition that stores the message; any thread may read from it.
    pub partition: Arc<Partition>,
}

/// Where the body is.
#[derive(Clone)]
pub enum MailBody {
    Held(Arc<[u8]>),
    /// In the partition, to be read in chunks.
    Stored,
}

impl Mail {
    pub fn new(
        id: MessageId,
        envelope: Arc<[u8]>,
        body: MailBody,
        partition: Arc<Partition>,
    ) -> Result<Mail, RecordFault> {
        Envelope::decode(&envelope)?;
        Ok(Mail { id, envelope, body, partition })
    }

    pub fn public_id(&self) -> PublicId {
        self.partition.public_id(self.id)
    }

    pub fn envelope(&self) -> Envelope<'_> {
        Envelope::decode(&self.envelope).expect("`Mail::new` has decoded it")
    }

    /// Memory use in bytes.
    pub fn bytes_held(&self) -> usize {
        let body = match &self.body {
            MailBody::Held(bytes) => bytes.len(),
            MailBody::Stored => 0,
        };
        self.envelope.len() + body
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mail({})", self.public_id())
    }
}

/// A resolved next hop: the servers of a job and the policy for them.
#[derive(Debug, PartialEq, Eq)]
pub struct Hop {
    /// The key of the destination. Equal keys have equal servers and share limits.
    pub destination: Box<str>,
    /// The name for operators.
    pub name: Box<str>,
    /// The recipients' domain, to which MTA-STS and TLS policies refer.
    pub domain: Box<str>,
    /// In order of preference.
    pub hosts: Box<[HostPort]>,
    pub protocol: HopProtocol,
    pub policy: Arc<DestinationPolicy>,
    /// The number of stripes of the destination.
    pub stripes: u32,
    /// All hosts of the destination, including those that are not tried.
    pub known_by: Box<[Box<str>]>,
    pub tls: OutboundTls,
    pub require_tls: RequireTls,
    pub names: HostNames,
    /// Whether DANE is enforced for the hosts.
    pub dane: bool,
    /// The MTA-STS policy of the domain.
    pub sts: Option<Arc<StsPolicy>>,
    /// Credentials for the servers.
    pub auth: Option<Arc<Credentials>>,
    pub pool: Option<Box<str>>,
}

/// The origin of the host names of a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostNames {
    #[default]
    Operator,
    /// MX records without DNSSEC, which may be forged.
    Mx,
    /// MX records validated by DNSSEC.
    SignedMx,
    /// The address literal of a recipient.
    Literal,
}

/// A job for the owner shard of its destination.
#[derive(Debug)]
pub struct Delivery {
    pub id: MessageId,
    pub job: u16,
    pub lease: u32,
    pub lease_until_ms: u64,
    pub home: ShardId,
    pub mail: Arc<Mail>,
    /// Indexes into the envelope's list of recipients.
    pub recipients: Box<[u32]>,
    pub hop: Arc<Hop>,
    /// When the attempt was due.
    pub due_ms: u64,
    pub sent_ms: u64,
}

/// The result for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientEnd {
    pub index: u32,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Failed,
    Deferred,
}

/// The reply or reason that belongs to a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: (u8, u16, u16),
    /// The reply on one line with its code, or our own text.
    pub text: Box<str>,
    /// Whether the remote server sent the text.
    pub remote: bool,
    /// Our own reason, if there is one.
    pub cause: Option<Cause>,
}

impl Answer {
    /// A reason of our own with a detail.
    pub fn ours(cause: Cause, detail: impl Into<Box<str>>) -> Answer {
        Answer { status: cause.status(), text: detail.into(), remote: false, cause: Some(cause) }
    }
}

/// The facts of an attempt, for the log and for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    pub host: Box<str>,
    pub address: Option<SocketAddr>,
    pub tls: Option<&'static str>,
    pub cipher: Option<&'static str>,
    /// How the server's identity was verified.
    pub verdict: Option<Verdict>,
    /// The TLS policy that applied; empty if no connection was made.
    pub tls_policy: &'static str,
    /// The server does not support DSN parameters.
    pub without_dsn: bool,
    /// In microseconds, as in Postfix's log: from due to connecting; connecting with greeting and TLS
    /// (0 for a reused connection); transfer. The home shard knows the time before the job was due.
    pub wait_us: u64,
    pub connect_us: u64,
    pub transfer_us: u64,
}

/// The outcome of a job, sent from the owner to the home shard.
#[derive(Debug)]
pub struct Outcome {
    pub id: MessageId,
    pub job: u16,
    pub lease: u32,
    pub what: What,
    /// Held until the outcome is durable.
    pub unsettled: Option<Unsettled>,
}

#[derive(Debug)]
pub enum What {
    /// An attempt with a result for each recipient.
    Tried { ends: Vec<(RecipientEnd, Answer)>, attempt: Box<Attempt> },
    /// An attempt that could not reach the destination.
    Unreached { answer: Answer, host: Box<str>, not_before_ms: u64 },
    /// No attempt: the owner has no room, or the destination is in backoff, as the answer says.
    Busy { due_ms: u64, answer: Answer },
    /// No attempt: the owner is shutting down. Nothing is written.
    Returned,
}

#[derive(Debug)]
pub enum Frame {
    Deliver(Box<Delivery>),
    Settle(Box<Outcome>),
    /// To an owner: return the job if it is still queued. If this frame is lost, the job continues.
    Recall {
        id: MessageId,
        job: u16,
        lease: u32,
    },
    /// From a shard to itself: stop reading frames.
    End,
}
