//! Resolving: from the recipients of a job to the servers that take their mail.
//!
//! Owner:    one shard, for the jobs of its home.
//! Promise:  an answer names the policy that it was made under, and no answer of an earlier policy is
//!           given out later. A limit of this server never counts as a fault of the domain. Recipients
//!           with different routes are told apart before anything is looked up.
//! Bounds:   `ROUTES_MAX` known routes, each for `ROUTE_TIME`. Full: all are forgotten.

mod key;
mod servers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Mono;
use crate::base::Random;
use crate::base::ShardId;
use crate::base::limits::STS_POSTPONE_MS;
use crate::config::delivery::domain::parse_literal;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::home::Question;
use crate::delivery::job::Resolution;
use crate::delivery::job::Resolved;
use crate::delivery::job::Route;
use crate::delivery::resolve::key::RouteKey;
use crate::delivery::resolve::key::group;
use crate::delivery::resolve::key::is_own_domain;
use crate::delivery::resolve::servers::Servers;
use crate::delivery::resolve::servers::Unresolved;
use crate::delivery::resolve::servers::demanded;
use crate::delivery::resolve::servers::is_us;
use crate::delivery::resolve::servers::without_us;
use crate::delivery::stripe;
use crate::delivery::sts::StsUnknown;
use crate::delivery::trust;
use crate::delivery::trust::Trust;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::OurLimit;
use crate::net::resolver::DnsFault;
use crate::net::resolver::Family;
use crate::net::resolver::Resolver;
use crate::queue::record::flow::Flow;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::route::TlsRefusal;
use crate::route::delivery::DeliveryPolicy;
use crate::route::table::PORT_SMTP;
use crate::wire::classify::Cause;

pub use key::domain_of;
pub use key::is_same_domain;

/// How long a resolved route is used again without a lookup.
const ROUTE_TIME: Duration = Duration::from_secs(30);
const ROUTES_MAX: usize = 10_000;

/// The shards that may own a destination.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    pub me: ShardId,
    pub count: usize,
}

/// The policy in force, and what was resolved under it.
struct Known {
    policy: Arc<DeliveryPolicy>,
    generation: u32,
    routes: HashMap<RouteKey, Arc<Route>>,
}

/// A route that must be looked up, and the policy in force.
pub struct Unknown {
    key: RouteKey,
    /// Whether its domain is that of the recipients.
    is_own_domain: bool,
    policy: Arc<DeliveryPolicy>,
    generation: u32,
}

pub struct RouteResolver {
    resolver: Resolver,
    trust: Rc<Trust>,
    hasher: FlowHasher,
    hostname: Box<str>,
    shards: Shards,
    known: RefCell<Known>,
    random: RefCell<Random>,
}

impl RouteResolver {
    pub fn new(
        resolver: Resolver,
        trust: Rc<Trust>,
        policy: Arc<DeliveryPolicy>,
        (hasher, hostname, shards): (FlowHasher, Box<str>, Shards),
    ) -> Rc<RouteResolver> {
        let known = Known { policy, generation: 0, routes: HashMap::new() };
        let known = RefCell::new(known);
        let random = RefCell::new(Random::new(Mono::now().as_ns()));
        Rc::new(RouteResolver { resolver, trust, hasher, hostname, shards, known, random })
    }

    /// A reload. The new generation.
    pub fn replace_policy(&self, policy: Arc<DeliveryPolicy>) -> u32 {
        let mut known = self.known.borrow_mut();
        known.generation += 1;
        known.policy = policy;
        known.routes.clear();
        known.generation
    }

    /// The answer, and the generation of the policy that it was made under, where no lookup is needed:
    /// the usual case, without a task.
    pub fn known(&self, asked: &Question<'_>, now: Mono) -> Result<(u32, Resolved), Unknown> {
        let known = self.known.borrow();
        let generation = known.generation;
        let key = match self.key_or_parts(&known.policy, asked) {
            Err(parts) => return Ok((generation, Resolved::Parts(parts))),
            Ok(key) => key,
        };
        let is_fresh = |route: &&Arc<Route>| now.since(route.resolved) < ROUTE_TIME;
        let resolution = if let Some(resolution) = decided(&key) {
            resolution
        } else if let Some(route) = known.routes.get(&key).filter(is_fresh) {
            Resolution::Hop(Arc::clone(route))
        } else if let Some(servers) = listed(&key.next) {
            let hop = hop_to(&key, &known.policy, servers, self.shards.count);
            drop(known);
            self.found(key, hop, generation)
        } else {
            let (is_own_domain, policy) = (is_own_domain(&key, asked), Arc::clone(&known.policy));
            return Err(Unknown { key, is_own_domain, policy, generation });
        };
        Ok((generation, Resolved::One(resolution)))
    }

    /// Looks up what is not known.
    pub async fn resolve(&self, unknown: Unknown) -> (u32, Resolved) {
        let Unknown { key, is_own_domain, policy, generation } = unknown;
        let resolution = match self.look_up(&key, &policy).await {
            Ok(hop) => self.found(key, hop, generation),
            Err(unresolved) => refused(&key, unresolved, is_own_domain),
        };
        (generation, Resolved::One(resolution))
    }

    /// Keeps the route, unless the policy has changed during the lookup.
    fn found(&self, key: RouteKey, hop: Hop, generation: u32) -> Resolution {
        if key.require_tls == RequireTls::Yes
            && hop.require_tls == RequireTls::Yes
            && hop.tls == OutboundTls::None
        {
            // RFC 8689 s5: the sender demands TLS, and the operator forbids it.
            let text = TlsRefusal::ForbiddenByDestination.to_string().into();
            let answer = Answer { status: (5, 7, 30), text, remote: false, cause: None };
            return Resolution::Failed(answer, key.life);
        }
        let destination = self.hasher.destination(&hop.destination, hop.pool.as_deref());
        let lead = stripe::lead(&hop.destination, self.shards.count);
        let route = Arc::new(Route {
            owner: stripe::owner(lead, hop.stripes, self.shards.me, self.shards.count),
            lead,
            flow: Flow { target: destination, tenant: key.tenant, class: key.class },
            weight: key.weight,
            life: key.life,
            generation,
            resolved: Mono::now(),
            hop: Arc::new(hop),
        });
        let mut known = self.known.borrow_mut();
        if known.generation == generation {
            if known.routes.len() >= ROUTES_MAX {
                known.routes.clear();
            }
            known.routes.insert(key, Arc::clone(&route));
        }
        Resolution::Hop(route)
    }

    /// The key that all recipients share, or the recipients of each key in the order of their first.
    fn key_or_parts(
        &self,
        policy: &DeliveryPolicy,
        asked: &Question<'_>,
    ) -> Result<RouteKey, Vec<Box<[u32]>>> {
        let envelope = asked.mail.envelope();
        let groups = group(self.hasher, policy, asked, &envelope);
        match <[(RouteKey, Vec<u32>); 1]>::try_from(groups) {
            Ok([(key, _)]) => Ok(key),
            Err(groups) => {
                Err(groups.into_iter().map(|(_, recipients)| recipients.into()).collect())
            }
        }
    }

    async fn look_up(&self, key: &RouteKey, policy: &DeliveryPolicy) -> Result<Hop, Unresolved> {
        let found = match &key.next {
            NextHop::Mx { domain, port } => self.exchangers(domain, *port, policy).await?,
            next => listed(next).ok_or(Unresolved::Dns(DnsFault::NoData))?,
        };
        // RFC 8461 is about hosts that were found by MX.
        let sts = match found.names {
            HostNames::Operator | HostNames::Literal => None,
            HostNames::Mx | HostNames::SignedMx => {
                let asked = self.trust.sts().policy_of(&found.domain, policy).await;
                asked.map_err(|unknown| match unknown {
                    StsUnknown::NotFetched => Unresolved::NoPolicy,
                    StsUnknown::OwnLimit(fault) => Unresolved::Dns(fault),
                })?
            }
        };
        Ok(Hop { sts, ..hop_to(key, policy, found, self.shards.count) })
    }

    async fn exchangers(
        &self,
        domain: &str,
        port: u16,
        policy: &DeliveryPolicy,
    ) -> Result<Servers, Unresolved> {
        if domain.starts_with('[') {
            // RFC 5321 s4.1.3: a literal is its own only host.
            let address = parse_literal(domain).ok_or(DnsFault::BadName)?;
            let host: Box<str> = address.to_string().into();
            return Ok(Servers {
                domain: domain.into(),
                hosts: vec![HostPort { host: host.clone(), port }],
                known_by: Box::new([host]),
                protocol: HopProtocol::Smtp,
                names: HostNames::Literal,
            });
        }
        self.trust.sts().look_ahead(domain, policy);
        let answer = self.resolver.mx(domain).await?;
        if answer.implicit {
            // RFC 5321 s5.1: the domain is its own host, if it is one at all.
            self.resolver.addresses(domain, Family::Both).await?;
        }
        let mut hosts = match port {
            PORT_SMTP => without_us(answer.hosts, |host| is_us(&self.hostname, policy, host)),
            // A host with our name takes no mail of others at another port.
            _ => answer.hosts,
        };
        if hosts.is_empty() {
            return Err(Unresolved::OnlyUs);
        }
        hosts.sort();
        let known_by = hosts.iter().map(|(_, host)| host.clone()).collect();
        // RFC 5321 s5.1: among equals the order is random.
        let mut random = self.random.borrow_mut();
        hosts.sort_by_cached_key(|(preference, _)| (*preference, random.roll()));
        let hosts = hosts.into_iter().map(|(_, host)| HostPort { host, port });
        Ok(Servers {
            domain: domain.into(),
            hosts: hosts.collect(),
            known_by,
            protocol: HopProtocol::Smtp,
            names: if answer.authentic { HostNames::SignedMx } else { HostNames::Mx },
        })
    }
}

/// The servers that a next hop names, without a lookup.
fn listed(next: &NextHop) -> Option<Servers> {
    let NextHop::Hosts { hosts, protocol } = next else { return None };
    Some(Servers {
        domain: hosts.first().map_or("", |host| &host.host).into(),
        hosts: hosts.to_vec(),
        known_by: hosts.iter().map(|host| host.host.clone()).collect(),
        protocol: *protocol,
        names: HostNames::Operator,
    })
}

/// Without an MTA-STS policy.
fn hop_to(key: &RouteKey, policy: &DeliveryPolicy, found: Servers, shards: usize) -> Hop {
    let host_names: Vec<&str> = found.known_by.iter().map(AsRef::as_ref).collect();
    let destination_policy = policy.destinations.policy(&found.domain, &host_names);
    // A destination is named after all of its exchangers: which are tried is a matter of chance.
    let mut sorted: Vec<String> = found.hosts.iter().map(ToString::to_string).collect();
    sorted.sort_unstable();
    let mut destination = sorted.join(",");
    // Limits belong to the name: a section for some of the domains of the exchangers makes another
    // destination, because its operator has asked for other limits.
    if let Some(name) = policy.destinations.own_entry(&found.domain, &host_names) {
        destination = format!("{destination} by {name}");
    }
    let mut hosts = found.hosts;
    if found.names != HostNames::Operator {
        hosts.truncate(policy.mx_hosts_max);
    }
    Hop {
        destination: destination.into(),
        name: key.next.to_string().into(),
        stripes: stripe::count(&destination_policy, shards),
        tls: found.protocol.tls(key.tls.unwrap_or(destination_policy.tls)),
        require_tls: demanded(key.require_tls, &hosts),
        dane: trust::dane_counts(policy, found.names, found.protocol),
        hosts: hosts.into(),
        protocol: found.protocol,
        policy: destination_policy,
        known_by: found.known_by,
        names: found.names,
        domain: found.domain,
        sts: None,
        auth: key.auth.clone(),
        pool: key.pool.map(|pool| policy.sources.pool_name(pool).into()),
    }
}

/// The answer for a next hop that needs no server.
fn decided(key: &RouteKey) -> Option<Resolution> {
    match &key.next {
        NextHop::Discard => Some(Resolution::Discard(key.life)),
        NextHop::Hold => Some(Resolution::Hold),
        NextHop::Reject { text } => {
            Some(Resolution::Failed(Answer::ours(Cause::Rejected, text.clone()), key.life))
        }
        NextHop::Mx { .. } | NextHop::Hosts { .. } => None,
    }
}

/// The meaning of a lookup without servers. A domain that a route or an operator has named is not the
/// sender's fault: the operator may still correct it, so its mail waits.
fn refused(key: &RouteKey, unresolved: Unresolved, is_own_domain: bool) -> Resolution {
    let (next, life) = (&key.next, key.life);
    match unresolved {
        Unresolved::Dns(fault) if fault.is_own_limit() => Resolution::OurLimit(OurLimit::Dns),
        Unresolved::Dns(fault) => {
            let text = format!("{next}: {fault}");
            if !fault.is_final() || !is_own_domain {
                return Resolution::Deferred(Answer::ours(Cause::DnsFailed, text), life);
            }
            let cause = match fault {
                DnsFault::NullMx => Cause::NullMx,
                DnsFault::NoData => Cause::NoHost,
                _ => Cause::NoDomain,
            };
            Resolution::Failed(Answer::ours(cause, text), life)
        }
        Unresolved::OnlyUs => {
            let text =
                format!("{next}: this server is the most preferred mail exchanger of the domain");
            let answer = Answer::ours(Cause::Loop, text);
            match is_own_domain {
                true => Resolution::Failed(answer, life),
                false => Resolution::Deferred(Answer { status: (4, 4, 6), ..answer }, life),
            }
        }
        Unresolved::NoPolicy => {
            let text = format!("{next}: the MTA-STS policy of the domain cannot be fetched yet");
            let wait = Duration::from_millis(STS_POSTPONE_MS);
            Resolution::Postponed(Answer::ours(Cause::OurFault, text), wait, life)
        }
    }
}

#[cfg(test)]
mod tests;
