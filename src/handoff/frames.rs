//! Frames between shards: jobs from the home to the owner of a destination, outcomes and places back.
//!
//! Owner:    a frame has one owner at a time; the mail in it is immutable and shared.
//! Promise:  frames between two shards keep their order. Each answer names the incarnation of the job
//!           that it is for. No mail is lost with a frame: the job stays on disk at its home.
//!
//! ```text
//! frame           direction        meaning                                     if it is lost
//! Deliver         home -> owner    uses one place                              Check finds it missing
//! Settle          owner -> home    the outcome; gives the place back           Check finds it missing
//! Grant           owner -> home    places from now on, and why not more        the old numbers hold
//! Want            home -> owner    mail waits and has no place                 repeated
//! Recall          home -> owner    return the job if it is not begun           the attempt goes on
//! Check, Missing  both             jobs that are out; those not known there    asked again
//! Ask, Allow      both             tokens of a rate that shards share          asked again
//! Unused          asker -> lead    tokens that were not used                   counted as used
//! Share, Used     both             connections of a striped destination        Used is repeated
//! ```

use std::fmt;
use std::sync::Arc;

use crate::base::Class;
use crate::base::MessageId;
use crate::base::Mono;
use crate::base::PublicId;
use crate::base::ShardId;
use crate::base::Wall;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::Hop;
use crate::handoff::frame::RecipientEnd;
use crate::queue::Partition;
use crate::queue::commit::unsettled::Unsettled;
use crate::queue::record::envelope::Envelope;
pub use crate::queue::record::flow::Flow;
use crate::queue::record::outer::RecordFault;

/// A job of a message, by its number.
pub type JobKey = (MessageId, u16);

/// One stay of a job in the memory of its home. A job that leaves memory and comes again has
/// another one, so that an answer for an earlier stay is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u32);

/// A job and its stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobRef {
    pub key: JobKey,
    pub incarnation: Incarnation,
}

/// A message in delivery, readable on every shard.
pub struct Mail {
    pub id: MessageId,
    pub public_id: PublicId,
    pub received: Wall,
    /// Of the whole message.
    pub bytes: u64,
    pub body: MailBody,
    /// The hash of the sender, for turns within a tenant.
    pub sender: u32,
    envelope: Arc<[u8]>,
}

/// Where the head and the body are.
#[derive(Clone)]
pub enum MailBody {
    Held(Arc<[u8]>),
    /// In the partition, to be read in chunks.
    Stored(Arc<Partition>),
}

impl Mail {
    pub fn new(
        public_id: PublicId,
        envelope: Arc<[u8]>,
        body: MailBody,
    ) -> Result<Mail, RecordFault> {
        let decoded = Envelope::decode(&envelope)?;
        let (received, bytes) = (Wall::from_ms(decoded.received_ms), decoded.bytes());
        let sender = fnv(decoded.sender.unwrap_or(""));
        Ok(Mail { id: public_id.local, public_id, received, bytes, body, sender, envelope })
    }

    pub fn envelope(&self) -> Envelope<'_> {
        Envelope::decode(&self.envelope).expect("`Mail::new` has decoded it")
    }

    /// The record of the envelope.
    pub fn stored_envelope(&self) -> Arc<[u8]> {
        Arc::clone(&self.envelope)
    }

    /// Memory use in bytes.
    pub fn bytes_held(&self) -> usize {
        let body = match &self.body {
            MailBody::Held(bytes) => bytes.len(),
            MailBody::Stored(_) => 0,
        };
        self.envelope.len() + body
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mail({})", self.public_id)
    }
}

/// A job for the owner of its destination.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub job: JobRef,
    pub home: ShardId,
    pub mail: Arc<Mail>,
    /// Indexes into the envelope's list of recipients.
    pub recipients: Box<[u32]>,
    pub hop: Arc<Hop>,
    pub flow: Flow,
    /// The share of the tenant among the tenants of a destination.
    pub weight: u32,
    /// When the attempt was due.
    pub due: Wall,
    pub sent: Mono,
}

/// What an owner answers for a job.
#[derive(Debug)]
pub struct Outcome {
    pub job: JobRef,
    pub what: What,
    /// Held until the outcome is durable.
    pub unsettled: Option<Unsettled>,
}

#[derive(Clone, Debug)]
pub enum What {
    /// An attempt, with a result for each recipient.
    Tried { ends: Vec<(RecipientEnd, Answer)>, attempt: Box<Attempt> },
    /// An attempt that did not reach a server.
    Unreached { answer: Answer, host: Box<str>, not_before: Mono },
    /// No attempt. Nothing is written, and the job waits again.
    Returned(Returned),
}

/// Why an owner gives a job back without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// The shard ends.
    Closing,
    /// The home has asked for it.
    Recalled,
    /// The destination takes no mail for the time being.
    NoPlaces,
    /// This server lacks something. Nobody is blamed.
    OurLimit(OurLimit),
    /// This shard has no share of the striped destination; the lead shard has.
    NotHere,
    /// The rate of its tenant is used up until then.
    TenantRate { until: Mono },
    /// Its partition is behind with the outcomes of deliveries.
    Hidden,
}

/// What this server lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OurLimit {
    /// All places for DNS lookups are in use.
    Dns,
    /// File descriptors.
    Descriptors,
    /// Local ports of the source address.
    Ports,
    Memory,
}

impl OurLimit {
    /// For operators.
    pub const fn words(self) -> &'static str {
        match self {
            OurLimit::Dns => "all places for DNS lookups are in use",
            OurLimit::Descriptors => "no file descriptor is free",
            OurLimit::Ports => "no local port is free",
            OurLimit::Memory => "no memory is free",
        }
    }
}

/// What keeps an owner from taking more of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binds {
    #[default]
    Nothing,
    /// The number of connections that the server seems to bear.
    Window(u32),
    /// The most connections of the destination.
    Connections(u32),
    /// All connections of the process are in use.
    Process(u32),
    /// The server has asked all sources of the pool for less mail.
    Throttled,
    /// A connection has just failed.
    Hold,
    Rate,
    /// The rates of all sources of the pool.
    SourceRate,
    /// The rate of the tenant, over all destinations.
    TenantRate,
    BackingOff,
    /// An operator has paused the destination.
    Paused,
    /// A rule for replies has suspended it, or all sources of the pool.
    Suspended,
    /// This server lacked something for the last connection.
    OurLimit(OurLimit),
}

impl Binds {
    /// Mail goes on in a moment, as other mail ends.
    pub const fn is_momentary(self) -> bool {
        matches!(
            self,
            Binds::Nothing
                | Binds::Window(_)
                | Binds::Connections(_)
                | Binds::Process(_)
                | Binds::Throttled
                | Binds::Hold
        )
    }
}

/// What keeps the next job of a destination from being sent at once, and until when. `None`: while other
/// mail or a probe is under way, until tokens come, or until a save of the limits is durable.
pub type Bound = (Binds, Option<Mono>);

/// What a home knows of a destination, for its decisions and for operators.
#[derive(Clone, Debug, Default)]
pub struct GrantState {
    pub binds: Binds,
    pub until: Option<Mono>,
    /// When the destination stopped to answer; `None` while it works.
    pub failing_since: Option<Mono>,
    /// The last error, and the host that caused it.
    pub last: Option<Arc<Answer>>,
    pub last_host: Box<str>,
    pub evidence: Option<Arc<Evidence>>,
    /// The source that binds, with its addresses, for `SourceRate`.
    pub source: Option<Box<str>>,
}

/// Why a rule for replies has acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub at: Wall,
    pub rule: Box<str>,
    /// The reply, cut to 200 bytes.
    pub reply: Box<str>,
    /// `None`: the server refused the connection.
    pub message: Option<MessageId>,
    pub until: Wall,
}

/// What a member tells of a striped destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// The number of the latest share that it has heard of; 0 for none.
    pub number: u32,
    pub connections: u32,
    /// The connections that it would use.
    pub wanted: u32,
}

#[derive(Debug)]
pub enum Frame {
    Deliver(Box<Delivery>),
    Settle(Box<Outcome>),
    Grant {
        target: u64,
        from: ShardId,
        /// Jobs that the home may have at the owner.
        total: u32,
        /// The same for one flow.
        per_flow: u32,
        state: Arc<GrantState>,
    },
    Want {
        target: u64,
        hop: Arc<Hop>,
        home: ShardId,
        jobs: u32,
        flows: u32,
    },
    Recall {
        job: JobRef,
    },
    Check {
        home: ShardId,
        jobs: Vec<JobRef>,
    },
    Missing {
        jobs: Vec<JobRef>,
    },
    /// `hop`: for the rate of a source of this destination. A destination or tenant is known to its lead.
    Ask {
        limit: u64,
        from: ShardId,
        tokens: u32,
        hop: Option<Arc<Hop>>,
    },
    /// Tokens, and until when they are valid. None: until when there are none.
    Allow {
        limit: u64,
        tokens: u32,
        until: Mono,
    },
    Unused {
        limit: u64,
        tokens: u32,
        until: Mono,
    },
    /// Connections that a member of a striped destination may have, by the number of the share.
    Share {
        target: u64,
        from: ShardId,
        number: u32,
        connections: u32,
    },
    /// `None`: of a member that has forgotten the destination.
    Used {
        target: u64,
        from: ShardId,
        hop: Option<Arc<Hop>>,
        used: Used,
    },
    /// From a shard to itself: stop reading frames.
    End,
}

/// A hash for turns: a collision makes two senders share theirs.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Places without a grant: jobs of a destination, jobs of a flow, and urgent ones in addition to both.
/// Fresh mail so costs one `Deliver` and one `Settle`.
pub const PLACES_OPENING: u32 = 32;
pub const PLACES_OPENING_PER_FLOW: u32 = 16;
pub const PLACES_OPENING_URGENT: u32 = 8;

/// Whether a class may use the urgent places.
pub const fn has_urgent_places(class: Class) -> bool {
    matches!(class, Class::Urgent)
}
