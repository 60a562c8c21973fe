//! A connection to a host of a destination, or why there is none.
//!
//! TLS:      `trust` finds out what a host must prove, `route::tls_policy` decides what follows if it
//!           does not.

mod greet;
mod reach;

use std::cell::Cell;
use std::cell::RefCell;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ChunkPool;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::lack_of;
use crate::delivery::trust::Trust;
use crate::handoff::Reader;
use crate::handoff::frames::OurLimit;
use crate::net::SocketFault;
use crate::net::TlsFault;
use crate::net::resolver::Resolver;
use crate::net::transfer::Transfer;
use crate::observe::Histograms;
use crate::observe::ShardObserved;
use crate::queue::Partition;
use crate::route::delivery::DeliveryPolicy;
use crate::rt::Stream;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage as SmtpStage;

pub use reach::open;

/// What all connections of a shard use.
pub struct Station {
    pub pool: Rc<ChunkPool>,
    pub reader: Reader,
    pub resolver: Resolver,
    pub trust: Rc<Trust>,
    pub observed: Arc<ShardObserved>,
    pub histograms: Rc<Histograms>,
    /// All partitions of the process, in the order of their numbers.
    pub partitions: Arc<[Arc<Partition>]>,
    pub policy: RefCell<Arc<DeliveryPolicy>>,
    pub is_closing: Cell<bool>,
}

impl Station {
    pub fn policy(&self) -> Arc<DeliveryPolicy> {
        Arc::clone(&self.policy.borrow())
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.get()
    }
}

/// A connection that takes mail.
pub struct Link {
    pub transfer: Transfer<Stream>,
    pub host: Box<str>,
    /// `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    pub source: Option<Box<str>>,
    pub connect_us: u64,
    pub tls_policy: &'static str,
    /// Mails sent over it.
    pub sent: u32,
}

/// Why there is none.
pub struct NoLink {
    pub kind: FailureKind,
    pub text: String,
    /// The host that it is of; empty if it is of none.
    pub host: Box<str>,
    /// Other hosts would fare the same.
    pub is_of_all: bool,
    /// All hosts are this server or have private addresses, such as this one.
    pub barred: Option<IpAddr>,
}

impl NoLink {
    fn new(host: &str, kind: FailureKind, text: String) -> NoLink {
        NoLink { kind, text, host: host.into(), is_of_all: false, barred: None }
    }

    fn is_ours(&self) -> bool {
        matches!(self.kind, FailureKind::Ours(_))
    }

    /// After this address of a host, another one failed too.
    fn then(self, next: NoLink) -> NoLink {
        let is_of_all = self.is_of_all || next.is_of_all;
        let kind = if self.is_ours() { self.kind } else { next.kind };
        let (text, host) = match (self.is_of_all, next.is_of_all) {
            (_, true) => (next.text, next.host),
            (true, false) => (self.text, self.host),
            (false, false) => (format!("{}; {}", self.text, next.text), next.host),
        };
        NoLink { kind, text, host, is_of_all, barred: None }
    }
}

/// What this machine lacked, if that was the cause.
pub fn own_limit(cause: &SocketFault) -> Option<OurLimit> {
    match cause {
        SocketFault::Io(fault) => fault.is_own_limit().then(|| lack_of(*fault)),
        SocketFault::Tls(fault) => (*fault == TlsFault::NoChunk).then_some(OurLimit::Memory),
    }
}

/// What a server has said that refuses us: by that it is judged.
pub fn own_words(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Refused { reply, .. } => Some(reply.in_one_line()),
        _ => None,
    }
}

pub fn kind_of(fault: &Fault) -> FailureKind {
    match fault {
        Fault::TimedOut(SmtpStage::Greeting) => FailureKind::Greeting,
        Fault::Refused { .. } => FailureKind::Refused,
        Fault::TimedOut(_) | Fault::TooSlow => FailureKind::Timeout,
        Fault::TlsFailed | Fault::TlsNotOffered | Fault::TlsRefused(_) | Fault::InputBeforeTls => {
            FailureKind::Tls
        }
        Fault::Ended | Fault::BodyBroken => FailureKind::Lost,
        _ => FailureKind::Protocol,
    }
}
