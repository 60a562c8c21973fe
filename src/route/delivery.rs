//! All that delivery goes by, as one immutable snapshot of plain values.
//!
//! Owner:    shared by all shards as `Arc`; a reload replaces it as a whole.

use std::time::Duration;

use crate::base::backoff::RetrySchedule;
use crate::net::ResolverSettings;
use crate::route::destination_table::DestinationTable;
use crate::route::source::SourceTable;
use crate::route::table::RouteTable;

/// The whole of it. How long mail is tried is in each answer of `routes`.
#[derive(Clone, Debug)]
pub struct DeliveryPolicy {
    /// Whether mail is delivered at all.
    pub enabled: bool,
    pub routes: RouteTable,
    pub destinations: DestinationTable,
    pub sources: SourceTable,
    pub retry: RetrySchedule,
    /// After how long a sender is told that mail still waits; never if none.
    pub delay_warning: Option<Duration>,
    pub bounce: BouncePolicy,
    /// The name in EHLO where no source has its own.
    pub ehlo_name: Box<str>,
    pub prefer_ipv6: bool,
    /// Whether TLSA records are looked up, where `resolver.trust_ad`.
    pub dane: bool,
    /// Whether MTA-STS policies are looked up, and at which port.
    pub mta_sts: bool,
    pub mta_sts_port: u16,
    /// Mail exchangers that one attempt tries.
    pub mx_hosts_max: usize,
    /// To all destinations together, over all shards.
    pub connections_max: u32,
    /// Over all shards.
    pub jobs_in_memory_max: usize,
    pub timeouts: DeliveryTimeouts,
    /// For all shards together. Without servers, those of `/etc/resolv.conf` are used.
    pub resolver: ResolverSettings,
}

/// How bounces are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BouncePolicy {
    /// The address in their From field; their envelope sender is empty.
    pub from: Box<str>,
    /// Who is told of what can neither be delivered nor returned.
    pub postmaster: Option<Box<str>>,
    /// Bytes of a message that are quoted whole; of a larger one only the header is.
    pub body_bytes_max: u64,
    pub per_minute_max: u32,
}

/// How long a server may take for each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryTimeouts {
    pub connect: Duration,
    pub tls_handshake: Duration,
    pub greeting: Duration,
    pub ehlo: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    pub data_init: Duration,
    pub data_block: Duration,
    pub data_end: Duration,
    pub quit: Duration,
}
