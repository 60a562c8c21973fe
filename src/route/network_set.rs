//! Sets of IP networks, queried once per connection or recipient.
//!
//! Cost:     a query is a binary search over disjoint ranges and allocates nothing.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks as sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default)]
pub struct NetworkSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetworkSet {
    /// An IPv6 network inside `::ffff:0:0/96` is taken for the IPv4 network that it maps, as peers are.
    pub fn new(networks: &[IpNet]) -> NetworkSet {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            let (first, last) = (network.network(), network.broadcast());
            match (unmapped(first), unmapped(last)) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.into(), last.into())),
                _ => v6.push((bits(first), bits(last))),
            }
        }
        NetworkSet { v4: merge(v4), v6: merge(v6) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match unmapped(address) {
            IpAddr::V4(address) => is_in(&self.v4, address.into()),
            IpAddr::V6(address) => is_in(&self.v6, address.into()),
        }
    }

    /// Whether the set holds every address of a family.
    pub fn is_everybody(&self) -> bool {
        self.v4 == [(0, u32::MAX)] || self.v6 == [(0, u128::MAX)]
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The peer's address with an IPv4-mapped IPv6 address converted to IPv4, as policy expects it.
pub fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn merge<N: Copy + Ord>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn is_in<N: Copy + Ord>(ranges: &[(N, N)], address: N) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind > 0 && address <= ranges[behind - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_merged_and_families_kept_apart() {
        let networks = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/24", "2001:db8::/32", "::1/128"];
        let mut networks: Vec<IpNet> =
            networks.iter().map(|network| network.parse().expect("a network")).collect();
        networks.push("::ffff:198.51.100.0/120".parse().expect("a mapped network"));
        let set = NetworkSet::new(&networks);
        assert_eq!(set.v4.len(), 3, "10.1/16 lies in 10/8");
        let table = [
            ("the first", "10.0.0.0", true),
            ("the last", "10.255.255.255", true),
            ("one before", "9.255.255.255", false),
            ("one behind", "11.0.0.0", false),
            ("host bits are ignored", "192.0.2.200", true),
            ("mapped peer", "::ffff:10.2.3.4", true),
            ("mapped peer outside", "::ffff:11.2.3.4", false),
            ("mapped network", "198.51.100.9", true),
            ("v6", "2001:db8:1::9", true),
            ("v6 outside", "2001:db9::", false),
            ("v6 loopback", "::1", true),
            ("an address that only looks like 10/8", "::a00:1", false),
        ];
        for (case, address, expected) in table {
            assert_eq!(set.contains(address.parse().expect("an address")), expected, "{case}");
        }
    }

    #[test]
    fn a_network_of_everybody_is_noticed() {
        let table =
            [(&["0.0.0.0/0"][..], true), (&["::/0"], true), (&["0.0.0.0/1"], false), (&[], false)];
        for (networks, expected) in table {
            let networks: Vec<IpNet> =
                networks.iter().map(|network| network.parse().expect("a network")).collect();
            assert_eq!(NetworkSet::new(&networks).is_everybody(), expected, "{networks:?}");
        }
    }
}
