//! Next hops, and what attempts come to: the parts of frames that describe delivery.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::net::StsPolicy;
use crate::net::Verdict;
use crate::route::Credentials;
use crate::route::DestinationPolicy;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::wire::classify::Cause;

/// A resolved next hop: the servers of a job and the policy for them.
#[derive(Debug, Default, PartialEq, Eq)]
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
    /// The source that it was sent from, if one was chosen.
    pub source: Option<Box<str>>,
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
