//! Finds the policy of a destination: limits, backoff, TLS. A destination is the unit of limits: a
//! domain, or all domains with the same mail exchangers.
//!
//! Order:    the first entry that matches the recipient's domain; else the first entry that matches a
//!           mail exchanger, the most preferred exchanger first; else the default policy.

use std::sync::Arc;
use std::time::Duration;

use crate::config::DestinationConfig;
use crate::config::DestinationDefaults;
use crate::route::domain_index::DOMAIN_BYTES_MAX;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;

pub use crate::config::OutboundTls;
pub use crate::config::Stripes;

/// Messages per unit of time; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub per_second: Option<u32>,
    pub per_minute: Option<u32>,
    pub per_hour: Option<u32>,
    pub per_day: Option<u32>,
}

impl Rates {
    /// From the shortest unit of time to the longest.
    pub fn all(&self) -> [Option<u32>; 4] {
        [self.per_second, self.per_minute, self.per_hour, self.per_day]
    }

    pub fn is_limited(&self) -> bool {
        self.all().iter().any(Option::is_some)
    }
}

/// The limits of one destination, or of one shard's share. The config explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPolicy {
    pub connections_max: u32,
    pub window_start: u32,
    pub messages_per_connection: u32,
    pub recipients_per_message: u32,
    pub rates: Rates,
    /// Of each source address.
    pub source_rates: Rates,
    pub idle_reuse: Duration,
    pub failures_to_back_off: u32,
    pub back_off_first: Duration,
    pub back_off_max: Duration,
    pub stripes: Stripes,
    pub tls: OutboundTls,
}

impl From<&DestinationDefaults> for DestinationPolicy {
    fn from(config: &DestinationDefaults) -> DestinationPolicy {
        let rate = |messages: u32| Some(messages).filter(|messages| *messages > 0);
        DestinationPolicy {
            connections_max: config.connections_max,
            window_start: config.window_start,
            messages_per_connection: config.messages_per_connection,
            recipients_per_message: config.recipients_per_message,
            rates: Rates {
                per_second: rate(config.messages_per_second),
                per_minute: rate(config.messages_per_minute),
                per_hour: rate(config.messages_per_hour),
                per_day: rate(config.messages_per_day),
            },
            source_rates: Rates {
                per_second: rate(config.source_messages_per_second),
                per_minute: rate(config.source_messages_per_minute),
                per_hour: rate(config.source_messages_per_hour),
                per_day: rate(config.source_messages_per_day),
            },
            idle_reuse: config.idle_reuse,
            failures_to_back_off: config.failures_to_back_off,
            back_off_first: config.back_off_first,
            back_off_max: config.back_off_max,
            stripes: config.stripes,
            tls: config.tls,
        }
    }
}

impl Default for DestinationPolicy {
    fn default() -> DestinationPolicy {
        DestinationPolicy::from(&DestinationDefaults::default())
    }
}

/// A named entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationEntry {
    pub name: Box<str>,
    pub policy: Arc<DestinationPolicy>,
}

/// The policies of all destinations, as one immutable snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationTable {
    destinations: Vec<DestinationEntry>,
    by_domain: DomainIndex,
    by_mx: DomainIndex,
    standard: Arc<DestinationPolicy>,
}

impl DestinationTable {
    pub fn build(
        destinations: &[DestinationConfig],
        standard: &DestinationDefaults,
    ) -> DestinationTable {
        let mut table =
            DestinationTable { standard: Arc::new(standard.into()), ..DestinationTable::default() };
        for (number, destination) in (0..).zip(destinations) {
            table.by_domain.insert_all(destination.recipient_domain.iter().cloned(), number);
            table.by_mx.insert_all(destination.mx_host.iter().cloned(), number);
            let name = destination.name.as_str().into();
            let policy = Arc::new((&destination.treatment(standard)).into());
            table.destinations.push(DestinationEntry { name, policy });
        }
        table
    }

    /// The entry for a domain with these mail exchangers, most preferred first; `None`: the default
    /// policy. Without exchangers only the domain is matched.
    pub fn find(&self, domain: &str, mx_hosts: &[&str]) -> Option<&DestinationEntry> {
        let first = |index: &DomainIndex, name: &str| {
            if index.is_empty() {
                return None;
            }
            let mut room = [0; DOMAIN_BYTES_MAX];
            index.first(normalize(name, &mut room)?, |_| true)
        };
        let by_domain = first(&self.by_domain, domain);
        let number =
            by_domain.or_else(|| mx_hosts.iter().find_map(|host| first(&self.by_mx, host)))?;
        self.destinations.get(number as usize)
    }

    /// The policy for a domain with these mail exchangers, most preferred first.
    pub fn policy(&self, domain: &str, mx_hosts: &[&str]) -> Arc<DestinationPolicy> {
        let policy =
            self.find(domain, mx_hosts).map_or(&self.standard, |destination| &destination.policy);
        Arc::clone(policy)
    }

    /// The name of the entry that matches only by the domain, not by its exchangers.
    pub fn own_entry(&self, domain: &str, mx_hosts: &[&str]) -> Option<&str> {
        let own = self.find(domain, mx_hosts)?;
        let by_hosts = self.find("", mx_hosts);
        by_hosts.is_none_or(|by_hosts| by_hosts.name != own.name).then_some(&*own.name)
    }

    /// Whether any entry matches by mail exchangers.
    pub fn asks_mx_hosts(&self) -> bool {
        !self.by_mx.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostFacts;
    use crate::config::load;

    fn table(text: &str) -> DestinationTable {
        let host = HostFacts { hostname: "mx.ours.test".to_owned(), ..HostFacts::default() };
        let config = load(text, "f", &host).expect("it is good").config;
        DestinationTable::build(&config.destinations, &config.destination_defaults)
    }

    #[test]
    fn the_domain_decides_before_the_exchangers() {
        let table = table(
            "[[destination]]\nname = 'big'\nrecipient_domain = 'big.test'\n\
             mx_host = '.big-mx.test'\nconnections_max = 1\nwindow_start = 1\n\
             [[destination]]\nname = 'other'\nrecipient_domain = ['.other.test', '*own*']\n\
             mx_host = 'mx.other.test'\nconnections_max = 2\nwindow_start = 1\n",
        );
        let both = ["mx.other.test.", "a.big-mx.test"];
        let rows: [(&str, &str, &[&str], u32); 9] = [
            ("by domain", "big.test", &[], 1),
            ("in any case", "BIG.test", &["mx.other.test"], 1),
            ("by tree", "a.other.test", &[], 2),
            ("by pattern", "we-own-it.test", &[], 2),
            ("by exchanger", "hosted.test", &["A.Big-MX.test"], 1),
            ("by the best exchanger", "hosted.test", &both, 2),
            ("by the second exchanger", "hosted.test", &["mx.hosted.test", "x.big-mx.test"], 1),
            ("not by the head of a tree", "hosted.test", &["big-mx.test"], 20),
            ("no entry", "hosted.test", &[], 20),
        ];
        for (case, domain, hosts, connections) in rows {
            assert_eq!(table.policy(domain, hosts).connections_max, connections, "{case}");
        }
        assert!(table.asks_mx_hosts() && !DestinationTable::default().asks_mx_hosts());
        assert_eq!(table.find("big.test", &[]).map(|destination| &*destination.name), Some("big"));
        for (domain, hosts, own) in [
            ("big.test", &["a.big-mx.test"][..], None),
            ("big.test", &["mx.other.test"], Some("big")),
            ("big.test", &[], Some("big")),
            ("hosted.test", &["a.big-mx.test"], None),
            ("hosted.test", &[], None),
        ] {
            assert_eq!(table.own_entry(domain, hosts), own, "{domain} {hosts:?}");
        }
        let a = table.policy("big.test", &[]);
        assert!(Arc::ptr_eq(&a, &table.policy("x.test", &["m.big-mx.test"])), "it is shared");
    }
}
