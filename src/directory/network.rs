//! Trusted networks: which client addresses may send to any domain, and for which tenant.
//!
//! Promise:  the most specific network of an address counts. Of two equal ones the first counts.
//! Cost:     a linear search, once per connection.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use ipnet::Ipv4Net;

use crate::base::StreamNumber;
use crate::directory::tenant::Tenant;

/// One trusted network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub cidr: IpNet,
    /// `None`: the mail belongs to no tenant.
    pub tenant: Option<Arc<Tenant>>,
    pub stream: StreamNumber,
}

/// All trusted networks, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Takes the networks in the order in which equal ones count. An IPv6 network inside
    /// `::ffff:0:0/96` is the IPv4 network that it maps.
    pub fn new(mut networks: Vec<Network>) -> Networks {
        networks.iter_mut().for_each(|network| network.cidr = unmapped(network.cidr));
        networks.sort_by_key(|network| std::cmp::Reverse(network.cidr.prefix_len()));
        Networks(networks)
    }

    /// The network that an address belongs to. A mapped IPv4 address counts as IPv4.
    pub fn find(&self, address: IpAddr) -> Option<&Network> {
        let address = address.to_canonical();
        self.0.iter().find(|network| network.cidr.contains(&address))
    }
}

fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let address: Option<Ipv4Addr> = v6.network().to_ipv4_mapped();
    let Some(bits) = v6.prefix_len().checked_sub(MAPPED_BITS) else { return network };
    address.and_then(|address| Ipv4Net::new(address, bits).ok()).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_network_counts() {
        let network = |cidr: &str, tenant: Option<&str>| Network {
            cidr: cidr.parse().expect("a network"),
            tenant: tenant.map(|name| Arc::new(Tenant::named(name))),
            stream: StreamNumber::TRANSACTIONAL,
        };
        let networks = Networks::new(vec![
            network("10.0.0.0/8", Some("wide")),
            network("10.1.0.0/16", Some("narrow")),
            network("10.1.0.0/16", None),
            network("10.1.2.0/24", None),
            network("::ffff:198.51.100.0/120", Some("mapped")),
            network("2001:db8::/32", Some("six")),
        ]);
        for (case, address, expected) in [
            ("the first address", "10.0.0.0", Some(Some("wide"))),
            ("the last address", "10.255.255.255", Some(Some("wide"))),
            ("one below", "9.255.255.255", None),
            ("one above", "11.0.0.0", None),
            ("the first of two equal networks", "10.1.9.9", Some(Some("narrow"))),
            ("an exception inside a tenant's network", "10.1.2.3", Some(None)),
            ("a mapped peer", "::ffff:10.2.3.4", Some(Some("wide"))),
            ("a mapped network", "198.51.100.9", Some(Some("mapped"))),
            ("IPv6", "2001:db8::1", Some(Some("six"))),
            ("an IPv6 address that only looks like 10/8", "::a00:1", None),
        ] {
            let found = networks.find(address.parse().expect("an address"));
            let name = |network: &Network| network.tenant.as_ref().map(|one| one.name().to_owned());
            assert_eq!(found.map(name), expected.map(|name| name.map(str::to_owned)), "{case}");
        }
    }
}
