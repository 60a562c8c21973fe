//! Connection classes: what connections must have in common with the mail that they carry.

use std::sync::Arc;

use crate::base::Mono;
use crate::delivery::destination::connection::Counts;
use crate::delivery::health::Health;
use crate::delivery::health::Standing;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::net::StsPolicy;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::OutboundTls;
use crate::route::RequireTls;

/// What connections must have in common with the mail that they carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    protocol: HopProtocol,
    tls: OutboundTls,
    require_tls: RequireTls,
    names: HostNames,
    dane: bool,
    /// The policy of the domain, and the domain where its name is part of what a host must prove.
    sts: Option<Arc<StsPolicy>>,
    domain: Option<Box<str>>,
    auth: Option<Arc<Credentials>>,
    pub(super) pool: Option<Box<str>>,
}

impl ClassKey {
    pub(super) fn of(hop: &Hop) -> ClassKey {
        let names_domain = hop.sts.is_some() || hop.dane && hop.names == HostNames::SignedMx;
        ClassKey {
            protocol: hop.protocol,
            tls: hop.tls,
            require_tls: hop.require_tls,
            names: hop.names,
            dane: hop.dane,
            sts: hop.sts.clone(),
            domain: names_domain.then(|| hop.domain.clone()),
            auth: hop.auth.clone(),
            pool: hop.pool.clone(),
        }
    }
}

#[derive(Debug)]
pub(super) struct LinkClass {
    pub(super) key: ClassKey,
    pub(super) hop: Arc<Hop>,
    /// The sources of its pool, with their weights.
    pub(super) outlets: Vec<(u32, u64)>,
    pub(super) counts: Counts,
    /// Whether hosts meet what its mail demands of TLS.
    pub(super) standing: Standing,
    /// No connection is opened before.
    pub(super) hold_until: Mono,
    /// What was unmet the last time, and at which host.
    pub(super) unmet: Option<(Arc<Answer>, Box<str>)>,
    /// The turn of the destination in which it got its last job.
    pub(super) served: u64,
}

impl LinkClass {
    pub(super) fn new(key: ClassKey, hop: Arc<Hop>, outlets: Vec<(u32, u64)>) -> LinkClass {
        LinkClass {
            key,
            hop,
            outlets,
            counts: Counts::default(),
            standing: Standing::default(),
            hold_until: Mono::ZERO,
            unmet: None,
            served: 0,
        }
    }

    /// When a connection of it may be opened or used, as far as time decides that; `None`: when its
    /// probe has ended.
    pub(super) fn opens_at(&self) -> Option<Mono> {
        match self.standing.health {
            Health::Working => Some(self.hold_until),
            Health::BackingOff { until, .. } => Some(until),
            Health::Probing { .. } => None,
        }
    }
}
