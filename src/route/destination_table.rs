//! Finds the policy of a destination.
//!
//! Order:    the first entry that matches the recipient's domain; else the first entry that matches a
//!           mail exchanger, the most preferred exchanger first; else the default policy.

use std::fmt;
use std::sync::Arc;

use crate::route::destination::DestinationPolicy;
use crate::route::domain_index::DomainIndex;
use crate::route::domain_index::normalize;
use crate::route::membership::BadEntry;
use crate::route::membership::DOMAIN_BYTES_MAX;

/// An entry as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationSettings {
    pub name: String,
    /// See `DomainIndex` for the syntax.
    pub recipient_domains: Vec<String>,
    /// The same syntax.
    pub mx_hosts: Vec<String>,
    pub policy: DestinationPolicy,
}

/// An invalid part of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationProblem {
    pub destination: Box<str>,
    pub entry: BadEntry,
}

impl fmt::Display for DestinationProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "destination {}: {}", self.destination, self.entry)
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
    /// The snapshot, or all invalid entries.
    pub fn build(
        settings: &[DestinationSettings],
        standard: DestinationPolicy,
    ) -> Result<DestinationTable, Vec<DestinationProblem>> {
        let mut table =
            DestinationTable { standard: Arc::new(standard), ..DestinationTable::default() };
        let mut problems = Vec::new();
        for (number, destination) in (0..).zip(settings) {
            let bad = table.by_domain.insert_all(&destination.recipient_domains, number);
            let bad = bad.into_iter().chain(table.by_mx.insert_all(&destination.mx_hosts, number));
            problems.extend(bad.map(|entry| DestinationProblem {
                destination: destination.name.as_str().into(),
                entry,
            }));
            let policy = Arc::new(destination.policy.clone());
            table
                .destinations
                .push(DestinationEntry { name: destination.name.as_str().into(), policy });
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
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

    pub fn standard(&self) -> &Arc<DestinationPolicy> {
        &self.standard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        name: &str,
        domains: &[&str],
        hosts: &[&str],
        connections: u32,
    ) -> DestinationSettings {
        let list = |entries: &[&str]| entries.iter().map(|entry| entry.to_string()).collect();
        DestinationSettings {
            name: name.to_owned(),
            recipient_domains: list(domains),
            mx_hosts: list(hosts),
            policy: DestinationPolicy {
                connections_max: connections,
                ..DestinationPolicy::default()
            },
        }
    }

    #[test]
    fn the_domain_decides_before_the_exchangers() {
        let destinations = [
            settings("big", &["big.test"], &[".big-mx.test"], 1),
            settings("other", &[".other.test", "*own*"], &["mx.other.test"], 2),
        ];
        let table = DestinationTable::build(&destinations, DestinationPolicy::default())
            .expect("all are good");
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

    #[test]
    fn bad_entries_are_all_named() {
        let destinations = [settings("a", &["a b"], &[""], 1), settings("b", &[], &["é"], 1)];
        let problems = DestinationTable::build(&destinations, DestinationPolicy::default())
            .expect_err("three");
        assert_eq!(problems.len(), 3);
        assert!(problems[2].to_string().starts_with("destination b: `é`"));
    }
}
