//! The delivery policy: all settings of delivery, as one immutable snapshot of plain values.
//!
//! Owner:    shared by all shards as `Arc`; a reload replaces it as a whole.

use std::sync::Arc;
use std::time::Duration;

use crate::base::backoff::RetrySchedule;
use crate::config::DeliveryTimeoutsConfig;
#[cfg(test)]
use crate::config::HostFacts;
use crate::config::ResolverConfig;
use crate::config::SenderReports;
use crate::net::AddressRule;
use crate::route::destination::DestinationTable;
use crate::route::source::SourceTable;
#[cfg(test)]
use crate::route::table::RouteStandard;
use crate::route::table::RouteTable;
use crate::route::tenant::TenantTable;
use crate::wire::classify::Classifier;

/// All settings of delivery. The maximum age of mail is in each result of `routes`.
#[derive(Clone, Debug)]
pub struct DeliveryPolicy {
    /// `false`: accepted mail stays in the queue.
    pub enabled: bool,
    pub routes: RouteTable,
    pub destinations: DestinationTable,
    pub sources: SourceTable,
    pub tenants: TenantTable,
    /// Of all settings that decide the destination of mail: other settings, another number.
    pub fingerprint: u64,
    pub retry: RetrySchedule,
    /// The age at which the sender gets a delay warning; `None`: no warning.
    pub delay_warning: Option<Duration>,
    pub bounce: BouncePolicy,
    /// The EHLO name of sources without one of their own.
    pub ehlo_name: Box<str>,
    pub prefer_ipv6: bool,
    /// Which addresses from the DNS are connected to.
    pub addresses: Arc<AddressRule>,
    /// Whether TLSA records are looked up; needs `resolver.trust_ad`.
    pub dane: bool,
    /// Whether MTA-STS policies are looked up, and the HTTPS port for it.
    pub mta_sts: bool,
    pub mta_sts_port: u16,
    /// Mail exchangers tried in one attempt.
    pub mx_hosts_max: usize,
    /// Connections to all destinations together, over all shards.
    pub connections_max: u32,
    /// Over all shards.
    pub jobs_in_memory_max: usize,
    /// The meaning of replies, and what they cause.
    pub replies: Arc<Classifier>,
    pub timeouts: DeliveryTimeoutsConfig,
    /// For all shards together. Only `trust_ad` can change by a reload.
    pub resolver: ResolverConfig,
}

/// How bounces are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BouncePolicy {
    /// The address in the From field; the envelope sender is empty.
    pub from: Box<str>,
    /// The address that is notified of mail that can neither be delivered nor returned.
    pub postmaster: Option<Box<str>>,
    /// Messages up to this size are returned in full, larger ones with the header only.
    pub body_bytes_max: u64,
    pub per_minute_max: u32,
    /// The listeners whose senders do not get all reports.
    pub listeners: Vec<(Box<str>, SenderReports)>,
}

impl BouncePolicy {
    /// For mail that came in on the listener.
    pub fn reports_of(&self, listener: &str) -> SenderReports {
        let found = self.listeners.iter().find(|(name, _)| **name == *listener);
        found.map_or(SenderReports::All, |(_, reports)| *reports)
    }
}

#[cfg(test)]
impl DeliveryPolicy {
    /// For tests: destinations and the number of connections are those of a config, all else is usual.
    pub fn sample(text: &str) -> DeliveryPolicy {
        let host =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let config = crate::config::load(text, "sample", &host).expect("the config is good").config;
        let delivery = &config.delivery;
        let standard =
            RouteStandard { own_domain: "mx.test".into(), pool: None, max_age: delivery.max_age };
        DeliveryPolicy {
            enabled: true,
            routes: RouteTable::build(Vec::new(), standard),
            destinations: DestinationTable::build(
                &config.destinations,
                &config.destination_defaults,
            ),
            sources: SourceTable::build(Vec::new(), &[]),
            tenants: TenantTable::build(&config.tenants),
            fingerprint: 0,
            retry: RetrySchedule::default(),
            delay_warning: None,
            bounce: BouncePolicy {
                from: "mailer-daemon@mx.test".into(),
                postmaster: None,
                body_bytes_max: delivery.bounce_body_max,
                per_minute_max: delivery.bounce_rate,
                listeners: Vec::new(),
            },
            ehlo_name: "mx.test".into(),
            prefer_ipv6: false,
            addresses: Arc::default(),
            dane: false,
            mta_sts: false,
            mta_sts_port: 443,
            mx_hosts_max: delivery.mx_hosts_max,
            connections_max: delivery.connections_max,
            jobs_in_memory_max: delivery.jobs_in_memory_max,
            replies: Arc::new(Classifier::with(&[]).expect("the rules compiled in are good")),
            timeouts: config.delivery_timeouts.clone(),
            resolver: config.resolver.clone(),
        }
    }
}
