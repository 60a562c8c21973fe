//! What crosses cores: jobs one way, outcomes the other.
//!
//! Owner:    a frame has one owner at a time; the mail in it is immutable and shared.
//! Promise:  a frame that is lost loses no mail: its job is leased, and an expired lease is issued
//!           again.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::ShardId;
use crate::net::StsPolicy;
use crate::net::Verdict;
use crate::queue::Partition;
use crate::queue::record::RecordFault;
use crate::queue::schema::Envelope;
use crate::queue::unsettled::Unsettled;
use crate::route::Credentials;
use crate::route::DestinationPolicy;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::wire::classify::Cause;

/// A message on its way, as every shard may read it.
pub struct Mail {
    pub id: MessageId,
    envelope: Arc<[u8]>,
    pub body: MailBody,
    /// Where it is stored; reading is free from any thread.
    pub partition: Arc<Partition>,
}

/// Where the bytes of a body are.
#[derive(Clone)]
pub enum MailBody {
    Held(Arc<[u8]>),
    /// To be read chunk by chunk.
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
        Envelope::decode(&self.envelope).expect("it was read when the mail was made")
    }

    /// Bytes of memory that it holds.
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

/// Where a job goes, resolved: the servers, and how they are treated.
#[derive(Debug, PartialEq, Eq)]
pub struct Hop {
    /// What shares limits; equal destinations have equal servers.
    pub destination: Box<str>,
    /// As the operator reads it.
    pub name: Box<str>,
    /// The recipients' domain, for policies that hang on it.
    pub domain: Box<str>,
    /// By preference.
    pub hosts: Box<[HostPort]>,
    pub protocol: HopProtocol,
    pub policy: Arc<DestinationPolicy>,
    /// Stripes of the destination that jobs are given to.
    pub stripes: u32,
    /// All hosts that the destination is known by, also those that are not tried.
    pub known_by: Box<[Box<str>]>,
    pub tls: OutboundTls,
    pub require_tls: RequireTls,
    pub names: HostNames,
    /// The TLSA records of its hosts count.
    pub dane: bool,
    /// What the domain has published of its hosts.
    pub sts: Option<Arc<StsPolicy>>,
    /// Who we say we are there.
    pub auth: Option<Arc<Credentials>>,
    pub pool: Option<Box<str>>,
}

/// Who has named the hosts of a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostNames {
    #[default]
    Operator,
    /// MX records, as anybody may have forged them.
    Mx,
    /// MX records that DNSSEC vouches for.
    SignedMx,
}

/// A job for the owner of its destination.
#[derive(Debug)]
pub struct Delivery {
    pub id: MessageId,
    pub job: u16,
    pub lease: u32,
    pub lease_until_ms: u64,
    pub home: ShardId,
    pub mail: Arc<Mail>,
    /// Places in the envelope's list.
    pub recipients: Box<[u32]>,
    pub hop: Arc<Hop>,
    /// When its turn to be tried had come.
    pub due_ms: u64,
    pub sent_ms: u64,
}

/// What became of one recipient.
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

/// The words that came with an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: (u8, u16, u16),
    /// The reply as one line with its code, or our own words.
    pub text: Box<str>,
    /// Said by the remote server, not by us.
    pub remote: bool,
    /// Our own reason, where it is one of the known ones.
    pub cause: Option<Cause>,
}

impl Answer {
    /// A reason of ours; `detail` says what the cause does not.
    pub fn ours(cause: Cause, detail: impl Into<Box<str>>) -> Answer {
        Answer { status: cause.status(), text: detail.into(), remote: false, cause: Some(cause) }
    }
}

/// What is known of an attempt beyond its ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    pub host: Box<str>,
    pub address: Option<SocketAddr>,
    pub tls: Option<&'static str>,
    pub cipher: Option<&'static str>,
    /// How far the server has proven who it is.
    pub verdict: Option<Verdict>,
    /// The TLS policy that it was held to; empty when no connection was made.
    pub tls_policy: &'static str,
    /// The server did not take the DSN parameters.
    pub without_dsn: bool,
    /// Microseconds, as Postfix tells them: from due to connecting, connecting with all of greeting
    /// and TLS (0 when the connection was reused), sending. What came before it was due is known at
    /// home.
    pub wait_us: u64,
    pub connect_us: u64,
    pub transfer_us: u64,
}

/// What an owner tells a home.
#[derive(Debug)]
pub struct Outcome {
    pub id: MessageId,
    pub job: u16,
    pub lease: u32,
    pub what: What,
    /// Held until the outcome is written.
    pub unsettled: Option<Unsettled>,
}

#[derive(Debug)]
pub enum What {
    /// It was tried. One answer for each end, in their order.
    Tried { ends: Vec<(RecipientEnd, Answer)>, attempt: Box<Attempt> },
    /// It was tried, and the destination could not be reached. Counts as an attempt.
    Unreached { answer: Answer, host: Box<str>, not_before_ms: u64 },
    /// No room at the owner, or the destination is left alone for a while, as the answer says. Nothing was
    /// tried, and it does not count.
    Busy { due_ms: u64, answer: Answer },
    /// The owner is ending, and has not begun it. Nothing is written.
    Returned,
}

#[derive(Debug)]
pub enum Frame {
    Deliver(Box<Delivery>),
    Settle(Box<Outcome>),
    /// To an owner: answer `Returned` if it is still in line. Losing it means that the job goes on.
    Recall {
        id: MessageId,
        job: u16,
        lease: u32,
    },
    /// From a shard to itself, at its end: nothing more is read.
    End,
}
