//! Resolving: from the recipients of a job to the servers that take their mail.
//!
//! Owner:    one shard, for the jobs of its home.
//! Promise:  an answer names the policy that it was made under, and no answer of an earlier policy is
//!           given out later. A limit of this server never counts as a fault of the domain. Recipients
//!           with different routes are told apart before anything is looked up.
//! Bounds:   `ROUTES_MAX` known routes, each for `ROUTE_TIME`. Full: all are forgotten.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Class;
use crate::base::Mono;
use crate::base::ShardId;
use crate::base::StreamNumber;
use crate::base::limits::STS_POSTPONE_MS;
use crate::config::delivery::domain::parse_literal;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::job::Life;
use crate::delivery::job::Resolution;
use crate::delivery::job::Resolved;
use crate::delivery::job::Route;
use crate::delivery::reroute;
use crate::delivery::stripe;
use crate::delivery::sts::StsUnknown;
use crate::delivery::trust;
use crate::delivery::trust::Trust;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::Mail;
use crate::handoff::frames::OurLimit;
use crate::net::resolver::DnsFault;
use crate::net::resolver::Family;
use crate::net::resolver::Resolver;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::flow::Flow;
use crate::route::Credentials;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::route::RouteChoice;
use crate::route::RouteQuestion;
use crate::route::TlsRefusal;
use crate::route::delivery::DeliveryPolicy;
use crate::route::source::PoolId;
use crate::route::table::PORT_SMTP;
use crate::wire::classify::Cause;

/// How long a resolved route is used again without a lookup.
const ROUTE_TIME: Duration = Duration::from_secs(30);
const ROUTES_MAX: usize = 10_000;

/// The job that is to be resolved.
#[derive(Clone, Debug)]
pub struct Asked {
    pub mail: Arc<Mail>,
    pub recipients: Box<[u32]>,
    /// Set by an operator in place of the route's.
    pub next_hop: Option<Arc<str>>,
    /// The fallback relay of the route is wanted.
    pub falls_back: bool,
}

/// The shards that may own a destination.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    pub me: ShardId,
    pub count: usize,
}

/// The properties of a recipient that decide about its job. Recipients with equal keys share a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RouteKey {
    next: NextHop,
    tls: Option<OutboundTls>,
    require_tls: RequireTls,
    auth: Option<Arc<Credentials>>,
    pool: Option<PoolId>,
    life: LifeKey,
    tenant: u64,
    weight: u32,
    class: Class,
}

/// `Life` as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LifeKey {
    max_age: Duration,
    fallback_after: Option<Duration>,
}

/// The policy in force, and what was resolved under it.
struct Known {
    policy: Arc<DeliveryPolicy>,
    generation: u32,
    routes: HashMap<RouteKey, Arc<Route>>,
}

pub struct RouteResolver {
    resolver: Resolver,
    trust: Rc<Trust>,
    hasher: FlowHasher,
    hostname: Box<str>,
    shards: Shards,
    known: RefCell<Known>,
    random: Cell<u64>,
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
        let random = Cell::new(Mono::now().as_ns());
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

    /// The answer where no lookup is needed: the usual case, without a task.
    pub fn try_resolve(&self, asked: &Asked, now: Mono) -> Option<(u32, Resolved)> {
        let known = self.known.borrow();
        let resolved = match self.key_or_parts(&known.policy, asked) {
            Err(parts) => Resolved::Parts(parts),
            Ok(key) => match decided(&key) {
                Some(resolution) => Resolved::One(resolution),
                None => {
                    let route = known.routes.get(&key)?;
                    if now.since(route.resolved) >= ROUTE_TIME {
                        return None;
                    }
                    Resolved::One(Resolution::Hop(Arc::clone(route)))
                }
            },
        };
        Some((known.generation, resolved))
    }

    /// The answer, and the generation of the policy that it was made under.
    pub async fn resolve(&self, asked: &Asked) -> (u32, Resolved) {
        let (policy, generation) = {
            let known = self.known.borrow();
            (Arc::clone(&known.policy), known.generation)
        };
        let key = match self.key_or_parts(&policy, asked) {
            Err(parts) => return (generation, Resolved::Parts(parts)),
            Ok(key) => key,
        };
        if let Some(resolution) = decided(&key) {
            return (generation, Resolved::One(resolution));
        }
        let resolution = match self.look_up(&key, &policy).await {
            Ok(hop) => self.found(key, hop, generation),
            Err(unresolved) => refused(&key, unresolved, is_own_domain(&key, asked)),
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
            return Resolution::Failed(answer, life_of(&key));
        }
        let destination = self.hasher.destination(&hop.destination, hop.pool.as_deref());
        let lead = stripe::lead(&hop.destination, self.shards.count);
        let route = Arc::new(Route {
            owner: stripe::owner(lead, hop.stripes, self.shards.me, self.shards.count),
            lead,
            flow: Flow { target: destination, tenant: key.tenant, class: key.class },
            weight: key.weight,
            life: life_of(&key),
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
        asked: &Asked,
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
            NextHop::Hosts { hosts, protocol } => Servers {
                domain: hosts.first().map_or("", |host| &host.host).into(),
                hosts: hosts.to_vec(),
                known_by: hosts.iter().map(|host| host.host.clone()).collect(),
                protocol: *protocol,
                names: HostNames::Operator,
            },
            NextHop::Discard | NextHop::Reject { .. } | NextHop::Hold => {
                return Err(Unresolved::Dns(DnsFault::NoData));
            }
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
        Ok(Hop {
            destination: destination.into(),
            name: key.next.to_string().into(),
            stripes: stripe::count(&destination_policy, self.shards.count),
            tls: found.protocol.tls(key.tls.unwrap_or(destination_policy.tls)),
            require_tls: demanded(key.require_tls, &hosts),
            dane: trust::dane_counts(policy, found.names, found.protocol),
            hosts: hosts.into(),
            protocol: found.protocol,
            policy: destination_policy,
            known_by: found.known_by,
            names: found.names,
            domain: found.domain,
            sts,
            auth: key.auth.clone(),
            pool: key.pool.map(|pool| policy.sources.pool_name(pool).into()),
        })
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
        let random = self.roll();
        hosts.sort_by_key(|(preference, host)| (*preference, shuffle(host, random)));
        let hosts = hosts.into_iter().map(|(_, host)| HostPort { host, port });
        Ok(Servers {
            domain: domain.into(),
            hosts: hosts.collect(),
            known_by,
            protocol: HopProtocol::Smtp,
            names: if answer.authentic { HostNames::SignedMx } else { HostNames::Mx },
        })
    }

    fn roll(&self) -> u64 {
        let next = self.random.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        self.random.set(next);
        next
    }
}

/// Recipients by what decides about their job, in the order of the first of each.
fn group(
    hasher: FlowHasher,
    policy: &DeliveryPolicy,
    asked: &Asked,
    envelope: &Envelope<'_>,
) -> Vec<(RouteKey, Vec<u32>)> {
    let headers: Vec<(&str, &str)> = envelope.labels.fields.iter().collect();
    let way = asked.next_hop.as_deref().map(reroute::way_of);
    let tenant = envelope.labels.tenant;
    let mut groups: Vec<(RouteKey, Vec<u32>)> = Vec::with_capacity(1);
    let mut places: HashMap<RouteKey, usize> = HashMap::new();
    // Lists are often sorted by domain: the route of the recipient before is that of this one.
    let mut last: Option<(&str, usize)> = None;
    let mut wanted = asked.recipients.iter().copied().peekable();
    for (index, recipient) in (0_u32..).zip(envelope.recipients.iter()) {
        if wanted.next_if_eq(&index).is_none() {
            continue;
        }
        let domain = domain_of(recipient.mailbox).unwrap_or("");
        if let Some((last_domain, place)) = last
            && last_domain == domain
            && !policy.routes.names_recipients()
        {
            groups[place].1.push(index);
            continue;
        }
        let question = RouteQuestion {
            recipient_domain: domain,
            recipient_local: local_of(recipient.mailbox),
            sender_domain: envelope.sender.and_then(domain_of),
            listener: Some(envelope.listener),
            tenant,
            campaign: envelope.labels.campaign,
            headers: &headers,
        };
        let mut choice = match &way {
            None => policy.routes.next_hop(&question),
            Some(way) => policy.routes.rerouted(&question, way),
        };
        if asked.falls_back
            && let Some(fallback) = choice.fallback
        {
            choice =
                RouteChoice { fallback: None, ..policy.routes.rerouted(&question, fallback.next) };
        }
        let key = key_of(hasher, choice, policy, envelope);
        let place = match groups.as_slice() {
            [] => None,
            [(only, _)] => (*only == key).then_some(0),
            _ => places.get(&key).copied(),
        };
        let place = place.unwrap_or_else(|| {
            let place = groups.len();
            if place == 1 {
                places.insert(groups[0].0.clone(), 0);
            }
            if place > 0 {
                places.insert(key.clone(), place);
            }
            groups.push((key, Vec::new()));
            place
        });
        groups[place].1.push(index);
        last = Some((domain, place));
    }
    groups
}

fn key_of(
    hasher: FlowHasher,
    choice: RouteChoice<'_>,
    policy: &DeliveryPolicy,
    envelope: &Envelope<'_>,
) -> RouteKey {
    let by_stream = match envelope.stream {
        StreamNumber::BROADCAST => Class::Bulk,
        _ => Class::Normal,
    };
    let tenant = envelope.labels.tenant;
    RouteKey {
        next: choice.next_hop.into_owned(),
        tls: choice.tls,
        require_tls: if envelope.requiretls { RequireTls::Yes } else { RequireTls::No },
        auth: choice.auth.cloned(),
        pool: choice.pool,
        life: LifeKey {
            max_age: choice.max_age,
            fallback_after: choice.fallback.map(|fallback| fallback.after),
        },
        tenant: hasher.tenant(tenant),
        weight: policy.tenants.policy(tenant).weight,
        class: choice.class.unwrap_or(by_stream),
    }
}

/// The servers of a next hop, most preferred first.
struct Servers {
    domain: Box<str>,
    hosts: Vec<HostPort>,
    /// All names, sorted.
    known_by: Box<[Box<str>]>,
    protocol: HopProtocol,
    names: HostNames,
}

/// Why there are no servers.
#[derive(Debug)]
enum Unresolved {
    Dns(DnsFault),
    /// The best mail exchanger is this server.
    OnlyUs,
    /// The MTA-STS policy of the domain could not be fetched yet.
    NoPolicy,
}

impl From<DnsFault> for Unresolved {
    fn from(fault: DnsFault) -> Unresolved {
        Unresolved::Dns(fault)
    }
}

/// The answer for a next hop that needs no server.
fn decided(key: &RouteKey) -> Option<Resolution> {
    match &key.next {
        NextHop::Discard => Some(Resolution::Discard(life_of(key))),
        NextHop::Hold => Some(Resolution::Hold),
        NextHop::Reject { text } => {
            Some(Resolution::Failed(Answer::ours(Cause::Rejected, text.clone()), life_of(key)))
        }
        NextHop::Mx { .. } | NextHop::Hosts { .. } => None,
    }
}

/// The meaning of a lookup without servers. A domain that a route or an operator has named is not the
/// sender's fault: the operator may still correct it, so its mail waits.
fn refused(key: &RouteKey, unresolved: Unresolved, is_own_domain: bool) -> Resolution {
    let (next, life) = (&key.next, life_of(key));
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
            let text = format!("{next}: all mail exchangers of the domain are this server");
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

fn life_of(key: &RouteKey) -> Life {
    Life { max_age: key.life.max_age, fallback_after: key.life.fallback_after }
}

/// Whether the domain that was looked up is the recipients' own.
fn is_own_domain(key: &RouteKey, asked: &Asked) -> bool {
    let NextHop::Mx { domain, .. } = &key.next else { return false };
    let first = asked.recipients.first().map_or(0, |index| *index as usize);
    let envelope = asked.mail.envelope();
    let recipient = envelope.recipients.iter().nth(first);
    let own = recipient.and_then(|recipient| domain_of(recipient.mailbox));
    own.is_some_and(|own| is_same_domain(own, domain))
}

/// Whether `domain`, as it was looked up, is the domain `own` of a mailbox. A domain in other letters
/// than ASCII is looked up by its A-labels; a literal has several spellings.
pub fn is_same_domain(own: &str, domain: &str) -> bool {
    !own.is_ascii() || own.starts_with('[') || own.eq_ignore_ascii_case(domain)
}

fn local_of(mailbox: &str) -> &str {
    mailbox.rsplit_once('@').map_or(mailbox, |(local, _)| local)
}

pub fn domain_of(mailbox: &str) -> Option<&str> {
    mailbox.rsplit_once('@').map(|(_, domain)| domain)
}

/// The sender's demand for TLS at these hosts. Mail to Unix sockets never leaves the machine and so
/// meets it.
fn demanded(require_tls: RequireTls, hosts: &[HostPort]) -> RequireTls {
    match hosts.iter().all(|host| host.unix_path().is_some()) {
        true => RequireTls::No,
        false => require_tls,
    }
}

/// Orders hosts of one preference, differently for each `random`.
fn shuffle(host: &str, random: u64) -> u64 {
    host.bytes().fold(random, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    })
}

/// Whether a mail exchanger has our name. Mail that leaves through a proxy leaves from another
/// machine, whose name another server of ours may have.
fn is_us(hostname: &str, policy: &DeliveryPolicy, host: &str) -> bool {
    let direct = policy.sources.sources().iter().filter(|source| source.proxy.is_none());
    let sources = direct.map(|source| &*source.ehlo_name);
    let mut names = [hostname, &*policy.ehlo_name].into_iter().chain(sources);
    let host = host.trim_end_matches('.');
    names.any(|name| name.eq_ignore_ascii_case(host))
}

/// The mail exchangers that are preferred to us, if we are one: the others would send the mail back to
/// us (RFC 5321 s5.1).
fn without_us(
    mut hosts: Vec<(u16, Box<str>)>,
    is_us: impl Fn(&str) -> bool,
) -> Vec<(u16, Box<str>)> {
    let ours = hosts.iter().filter(|(_, host)| is_us(host)).map(|(preference, _)| *preference);
    if let Some(ours) = ours.min() {
        hosts.retain(|(preference, _)| *preference < ours);
    }
    hosts
}

#[cfg(test)]
mod tests;
