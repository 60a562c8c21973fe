//! What decides about the job of a recipient: recipients with equal keys share a job.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::Class;
use crate::base::StreamNumber;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::home::Question;
use crate::delivery::job::Life;
use crate::delivery::reroute;
use crate::queue::record::envelope::Envelope;
use crate::route::Credentials;
use crate::route::NextHop;
use crate::route::OutboundTls;
use crate::route::RequireTls;
use crate::route::RouteChoice;
use crate::route::RouteQuestion;
use crate::route::delivery::DeliveryPolicy;
use crate::route::source::PoolId;

/// The properties of a recipient that decide about its job. Recipients with equal keys share a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RouteKey {
    pub(super) next: NextHop,
    pub(super) tls: Option<OutboundTls>,
    pub(super) require_tls: RequireTls,
    pub(super) auth: Option<Arc<Credentials>>,
    pub(super) pool: Option<PoolId>,
    pub(super) life: Life,
    pub(super) tenant: u64,
    pub(super) weight: u32,
    pub(super) class: Class,
}

/// Recipients by what decides about their job, in the order of the first of each.
pub(super) fn group(
    hasher: FlowHasher,
    policy: &DeliveryPolicy,
    asked: &Question<'_>,
    envelope: &Envelope<'_>,
) -> Vec<(RouteKey, Vec<u32>)> {
    let headers: Vec<(&str, &str)> = envelope.labels.fields.iter().collect();
    let way = asked.next_hop.map(reroute::way_of);
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

pub(super) fn key_of(
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
        life: Life {
            max_age: choice.max_age,
            fallback_after: choice.fallback.map(|fallback| fallback.after),
        },
        tenant: hasher.tenant(tenant),
        weight: policy.tenants.policy(tenant).weight,
        class: choice.class.unwrap_or(by_stream),
    }
}

/// Whether the domain that was looked up is the recipients' own.
pub(super) fn is_own_domain(key: &RouteKey, asked: &Question<'_>) -> bool {
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
