//! Source addresses of outgoing mail, and weighted pools of them.
//!
//! Promise:  every pool has at least one source with a weight, because a config without one is refused.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::config::PoolConfig;
use crate::wire::proxy_url::Proxy;

/// A source: its addresses, its EHLO name and its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: Box<str>,
    /// `None`: no connections over IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// `None`: no connections over IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// The EHLO name.
    pub ehlo_name: Box<str>,
    /// The proxy for all connections; the addresses are then those of the proxy.
    pub proxy: Option<Proxy>,
}

impl Source {
    /// The local address for a connection to `to`. `Ok(None)`: the proxy chooses the address.
    pub fn address_for(&self, to: IpAddr) -> Result<Option<IpAddr>, NoFamily> {
        let own = match to {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        };
        let chooses = matches!(self.proxy, Some(Proxy::Socks5 { .. }));
        match own {
            _ if chooses && self.ipv4.is_none() && self.ipv6.is_none() => Ok(None),
            None => Err(NoFamily),
            Some(_) if chooses => Ok(None),
            own => Ok(own),
        }
    }
}

/// The source has no address of the server's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFamily;

/// A pool, valid in the table that returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(u32);

/// All sources and pools, as one immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct SourceTable {
    sources: Box<[Source]>,
    pools: Vec<Pool>,
}

#[derive(Clone, Debug)]
struct Pool {
    name: Box<str>,
    /// Each source with its weight.
    members: Box<[(usize, u64)]>,
}

impl SourceTable {
    pub fn build(sources: Vec<Source>, pools: &[PoolConfig]) -> SourceTable {
        let pool = |pool: &PoolConfig| {
            let members = pool.sources.iter().map(|member| {
                let is_meant = |source: &Source| *source.name == *member.source.as_str();
                let source = sources.iter().position(is_meant);
                let source = source.expect("a pool names only sources of its config");
                (source, u64::from(member.weight))
            });
            Pool { name: pool.name.as_str().into(), members: members.collect() }
        };
        let pools = pools.iter().map(pool).collect();
        SourceTable { pools, sources: sources.into() }
    }

    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    pub fn pool(&self, name: &str) -> Option<PoolId> {
        let place = self.pools.iter().position(|pool| *pool.name == *name)?;
        u32::try_from(place).ok().map(PoolId)
    }

    pub fn pool_name(&self, pool: PoolId) -> &str {
        self.pools.get(pool.0 as usize).map_or("", |pool| &pool.name)
    }

    /// A source with its addresses, for operators. `None`: the system chooses the address.
    pub fn shown(&self, name: Option<&str>) -> String {
        let Some(name) = name else { return "that the system chooses".to_owned() };
        let Some(source) = self.sources.iter().find(|source| *source.name == *name) else {
            return name.to_owned();
        };
        let addresses = [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)];
        let addresses = addresses.into_iter().flatten().map(|address| address.to_string());
        let addresses = addresses.collect::<Vec<_>>().join(", ");
        if addresses.is_empty() { name.to_owned() } else { format!("{name} ({addresses})") }
    }

    /// The sources of a pool with their weights.
    pub fn members(&self, pool: PoolId) -> impl Iterator<Item = (&Source, u64)> {
        let members = self.pools.get(pool.0 as usize).map_or(&[][..], |pool| &pool.members);
        members.iter().map(|(source, weight)| (&self.sources[*source], *weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Label;
    use crate::config::delivery::value::PoolMember;
    use crate::config::kind::Spelled;

    fn source(name: &str) -> Source {
        Source {
            name: name.into(),
            ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ipv6: None,
            ehlo_name: format!("{name}.example.com").into(),
            proxy: None,
        }
    }

    fn pool(name: &str, members: &[&str]) -> PoolConfig {
        let sources = members.iter().map(|member| PoolMember::spell(member).expect("it is good"));
        PoolConfig { name: Label::spell(name).expect("it is good"), sources: sources.collect() }
    }

    #[test]
    fn members_have_weights() {
        let sources = ["a", "b", "c"].map(source).to_vec();
        let pools = [pool("one", &["b:7"]), pool("all", &["a", "c:3"])];
        let table = SourceTable::build(sources, &pools);
        let all = table.pool("all").expect("it is there");
        let members: Vec<_> =
            table.members(all).map(|(one, weight)| (&*one.name, weight)).collect();
        assert_eq!(members, [("a", 1), ("c", 3)]);
        assert_eq!(table.pool_name(all), "all");
        assert_eq!(table.pool("none"), None);
    }

    #[test]
    fn a_source_has_an_address_for_some_servers() {
        let four = IpAddr::from([198, 51, 100, 1]);
        let six = IpAddr::from(Ipv6Addr::LOCALHOST);
        let own = Some(IpAddr::from([192, 0, 2, 1]));
        let address = "192.0.2.9:1080".parse().expect("an address");
        let haproxy = Some(Proxy::Haproxy { address });
        let socks = || Some(Proxy::Socks5 { address, login: None });
        let bare = Source { ipv4: None, ..source("a") };
        for (source, for_four, for_six) in [
            (source("a"), Ok(own), Err(NoFamily)),
            (Source { proxy: haproxy, ..source("a") }, Ok(own), Err(NoFamily)),
            (Source { proxy: socks(), ..source("a") }, Ok(None), Err(NoFamily)),
            (Source { proxy: socks(), ..bare.clone() }, Ok(None), Ok(None)),
            (bare, Err(NoFamily), Err(NoFamily)),
        ] {
            let found = (source.address_for(four), source.address_for(six));
            assert_eq!(found, (for_four, for_six), "{source:?}");
        }
    }
}
