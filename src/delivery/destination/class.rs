//! Connection classes: what connections must have in common with the mail that they carry.

use std::sync::Arc;

use crate::delivery::destination::connection::Counts;
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
    pub(super) counts: Counts,
}
