//! The settings of the resolver, and the name servers of the machine.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV6;
use std::time::Duration;

use crate::base::limits::QUERIES_OUT_MAX;

const PORT: u16 = 53;
/// Name servers of the machine that are used. The C library uses three.
const SERVERS_MAX: usize = 8;

/// The limits of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    pub entries: usize,
    pub bytes: usize,
}

/// The settings of the resolver of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// Recursive name servers, in the order to ask them.
    pub servers: Vec<SocketAddr>,
    /// For one reply of one server.
    pub timeout: Duration,
    /// Queries for one lookup, over all servers.
    pub attempts: u32,
    pub cache: CacheBounds,
    /// Answers are cached at least this long, whatever their TTL.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// For negative answers.
    pub negative_ttl_max: Duration,
    /// Lookups in flight. More wait for a slot.
    pub in_flight_max: usize,
    /// The largest UDP answer. 1232 fits the minimum MTU of IPv6 and so avoids fragments.
    pub edns_bytes: u16,
    /// Whether the AD bit is trusted: only if the servers validate DNSSEC and the network path to
    /// them is secure.
    pub trust_ad: bool,
}

impl Default for ResolverSettings {
    fn default() -> ResolverSettings {
        ResolverSettings {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 4,
            cache: CacheBounds { entries: 20_000, bytes: 16 << 20 },
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(24 * 3600),
            negative_ttl_max: Duration::from_secs(900),
            in_flight_max: QUERIES_OUT_MAX,
            edns_bytes: 1232,
            trust_ad: false,
        }
    }
}

impl ResolverSettings {
    /// The TTL of an answer, within the bounds.
    pub(super) fn positive_ttl(&self, ttl: u32) -> Duration {
        // Not `clamp`, which panics if the bounds contradict each other.
        seconds(ttl).max(self.ttl_min).min(self.ttl_max)
    }

    /// The TTL of a negative answer, within the bounds; `None` without a SOA record.
    pub(super) fn negative_ttl(&self, ttl: Option<u32>) -> Duration {
        seconds(ttl.unwrap_or(0)).max(self.ttl_min).min(self.negative_ttl_max)
    }
}

fn seconds(ttl: u32) -> Duration {
    // RFC 2181 s8: with the highest bit set it counts as 0.
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { ttl.into() })
}

/// The name servers in the text of `/etc/resolv.conf`. As in the C library, lines that cannot be read are
/// skipped, and without a server the one of this machine is used.
pub fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let named = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        server(words.next()?)
    });
    let servers: Vec<SocketAddr> = named.take(SERVERS_MAX).collect();
    match servers.is_empty() {
        true => vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)],
        false => servers,
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = word.split_once('%') else {
        return word.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT));
    };
    // Only numeric scopes are supported, not interface names.
    let (address, scope) = (address.parse::<Ipv6Addr>().ok()?, scope.parse().ok()?);
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_within_their_bounds() {
        let settings = ResolverSettings::default();
        let secs = Duration::from_secs;
        assert_eq!(settings.positive_ttl(0), secs(5));
        assert_eq!(settings.positive_ttl(300), secs(300));
        assert_eq!(settings.positive_ttl(1 << 30), secs(24 * 3600));
        assert_eq!(settings.positive_ttl(u32::MAX), secs(5));
        assert_eq!(settings.negative_ttl(None), secs(5));
        assert_eq!(settings.negative_ttl(Some(86_400)), secs(900));
        let crossed = ResolverSettings { ttl_min: secs(60), ttl_max: secs(10), ..settings };
        assert_eq!(crossed.positive_ttl(30), secs(10));
    }

    #[test]
    fn the_servers_of_the_machine_are_read() {
        for (name, text, expected) in [
            ("empty", "", &["127.0.0.1:53"][..]),
            (
                "usual",
                "# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n",
                &["192.0.2.1:53", "[2001:db8::1]:53"],
            ),
            ("options", "nameserver\t192.0.2.1 \noptions edns0 timeout:3\n", &["192.0.2.1:53"]),
            ("scope", "nameserver fe80::1%2", &["[fe80::1%2]:53"]),
            ("interface", "nameserver fe80::1%eth0", &["127.0.0.1:53"]),
            ("nonsense", "nameserver\nnameserver x\noptions :", &["127.0.0.1:53"]),
            ("commented out", ";nameserver 192.0.2.1", &["127.0.0.1:53"]),
        ] {
            let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}
