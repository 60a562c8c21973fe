//! Which addresses from the DNS mail may be sent to.
//!
//! Promise:  whoever publishes a DNS record cannot make this server connect to itself or to a private
//!           network, also not by an IPv6 form of an IPv4 address. Own listeners are refused even in
//!           a network that the operator allows.
//! Limits:   the addresses of the interfaces are read at the start and at each reload. Where `/proc`
//!           does not list them, only loopback and the addresses of listeners count as our own.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use ipnet::IpNet;

const IPV4_ROUTES: &str = "/proc/net/fib_trie";
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";

/// At this port every address of the machine counts as our own.
const PORT_SMTP: u16 = 25;

/// The rule for all addresses that come from the DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRule {
    /// As the kernel binds them: the unspecified address stands for all of the machine.
    pub listeners: Vec<SocketAddr>,
    /// The addresses of this machine.
    pub local: Vec<IpNet>,
    /// Networks that the operator allows.
    pub allowed: Vec<IpNet>,
}

/// Why an address must not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Barred {
    /// The address is this server.
    Ours,
    /// The address has a meaning within one network only, or none.
    Private,
}

/// The network that an address is reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vantage {
    Here,
    /// A proxy, for which private addresses are other machines than for us.
    Proxy,
}

impl AddressRule {
    /// `None`: mail may be sent there.
    pub fn judge(&self, to: SocketAddr, from: Vantage) -> Option<Barred> {
        let (address, inner) = forms(to.ip());
        let any = |test: &dyn Fn(IpAddr) -> bool| test(address) || inner.is_some_and(test);
        let is_private = any(&is_private);
        let is_seen_from_here = !is_private || from == Vantage::Here;
        let is_listener = |address| self.is_listener(address, to.port());
        if is_seen_from_here && any(&is_listener) {
            return Some(Barred::Ours);
        }
        if any(&|address| self.allowed.iter().any(|network| network.contains(&address))) {
            return None;
        }
        let is_ours = any(&is_loopback) || to.port() == PORT_SMTP && any(&|one| self.is_local(one));
        match is_private {
            _ if is_ours && is_seen_from_here => Some(Barred::Ours),
            true => Some(Barred::Private),
            false => None,
        }
    }

    fn is_listener(&self, address: IpAddr, port: u16) -> bool {
        self.listeners.iter().filter(|one| one.port() == port).any(|one| match one.ip() {
            any if any.is_unspecified() => is_loopback(address) || self.is_local(address),
            own => own.to_canonical() == address,
        })
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.local.iter().any(|network| network.contains(&address))
    }
}

/// The address as IPv4 where it is a mapped one, and the IPv4 address that an IPv6 one leads to.
fn forms(address: IpAddr) -> (IpAddr, Option<IpAddr>) {
    let address = address.to_canonical();
    let IpAddr::V6(v6) = address else { return (address, None) };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let inner = match (a, b, c, d, e, f) {
        // IPv4-compatible (RFC 4291 s2.5.5.1), but for `::` and `::1`.
        (0, 0, 0, 0, 0, 0) if g != 0 => Some((g, h)),
        // NAT64 (RFC 6052 s2.1).
        (0x64, 0xff9b, 0, 0, 0, 0) => Some((g, h)),
        // 6to4 (RFC 3056 s2).
        (0x2002, high, low, ..) => Some((high, low)),
        _ => None,
    };
    let joined = |(high, low)| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    (address, inner.map(|inner: (u16, u16)| IpAddr::V4(joined(inner))))
}

/// Linux connects to itself at the unspecified address too.
fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Not unicast, or not unique in the Internet.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [0 | 10 | 127, ..] | [224..=255, ..] => true,
            // Carrier-grade NAT (RFC 6598).
            [100, 64..=127, ..] => true,
            [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
            _ => false,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => true,
            // Unique local, link-local, the former site-local, multicast.
            [0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00.., ..] => true,
            // NAT64 within one network (RFC 8215).
            [0x64, 0xff9b, 1, ..] => true,
            _ => false,
        },
    }
}

/// The addresses of this machine. A list that the kernel does not offer is empty.
pub fn local_networks() -> io::Result<Vec<IpNet>> {
    let mut local = Vec::new();
    if let Some(lines) = lines_of(IPV4_ROUTES)? {
        local.extend(ipv4_local(lines)?);
    }
    if let Some(lines) = lines_of(IPV6_ADDRESSES)? {
        local.extend(ipv6_local(lines)?);
    }
    Ok(local)
}

fn lines_of(path: &str) -> io::Result<Option<io::Lines<impl BufRead>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file).lines())),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// A line with an address comes before one for each of its prefixes: `/32 host LOCAL`.
fn ipv4_local(lines: impl Iterator<Item = io::Result<String>>) -> io::Result<Vec<IpNet>> {
    let (mut local, mut address) = (Vec::new(), None::<Ipv4Addr>);
    for line in lines {
        let line = line?;
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("|-- ") {
            address = text.trim_end().parse().ok();
        } else if let Some(bits) = line.trim_end().strip_suffix(" host LOCAL")
            && let Some(bits) = bits.strip_prefix('/').and_then(|bits| bits.parse().ok())
        {
            local.extend(address.and_then(|address| IpNet::new(address.into(), bits).ok()));
        }
    }
    local.sort_unstable();
    local.dedup();
    Ok(local)
}

/// A line begins with the 32 hexadecimal digits of the address.
fn ipv6_local(lines: impl Iterator<Item = io::Result<String>>) -> io::Result<Vec<IpNet>> {
    let mut local = Vec::new();
    for line in lines {
        let bits = line?.get(..32).and_then(|digits| u128::from_str_radix(digits, 16).ok());
        local.extend(bits.map(|bits| IpNet::from(IpAddr::V6(Ipv6Addr::from(bits)))));
    }
    Ok(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        let net = |text: &&str| match text.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => text.parse().expect("a network"),
        };
        list.iter().map(net).collect()
    }

    fn rule(listeners: &[&str], allowed: &[&str]) -> AddressRule {
        AddressRule {
            listeners: listeners.iter().map(|one| one.parse().expect("an address")).collect(),
            local: nets(&["127.0.0.0/8", "203.0.113.5", "10.0.0.5", "2001:db8::5", "::1"]),
            allowed: nets(allowed),
        }
    }

    #[track_caller]
    fn check(rule: &AddressRule, rows: &[(&str, u16, Option<Barred>)]) {
        for (address, port, expected) in rows {
            let to = SocketAddr::new(address.parse().expect("an address"), *port);
            assert_eq!(rule.judge(to, Vantage::Here), *expected, "{to}");
        }
    }

    const OURS: Option<Barred> = Some(Barred::Ours);
    const PRIVATE: Option<Barred> = Some(Barred::Private);

    #[test]
    fn only_addresses_of_the_internet_are_used() {
        let rows = [
            ("198.51.100.1", 25, None),
            ("2001:db8::1", 25, None),
            ("203.0.113.5", 25, OURS),
            ("203.0.113.6", 25, None),
            ("2001:db8::5", 25, OURS),
            ("10.0.0.5", 25, OURS),
            // Another port of this machine may be another server.
            ("203.0.113.5", 443, None),
            ("10.0.0.5", 443, PRIVATE),
            ("127.0.0.1", 443, OURS),
            ("127.9.9.9", 25, OURS),
            ("0.0.0.0", 25, OURS),
            ("::", 25, OURS),
            ("::1", 25, OURS),
            ("0.1.2.3", 25, PRIVATE),
            ("10.255.0.1", 25, PRIVATE),
            ("100.63.255.255", 25, None),
            ("100.64.0.0", 25, PRIVATE),
            ("100.127.255.255", 25, PRIVATE),
            ("100.128.0.0", 25, None),
            ("169.254.169.254", 80, PRIVATE),
            ("172.15.255.255", 25, None),
            ("172.16.0.0", 25, PRIVATE),
            ("172.31.255.255", 25, PRIVATE),
            ("172.32.0.0", 25, None),
            ("192.168.0.1", 25, PRIVATE),
            ("223.255.255.255", 25, None),
            ("224.0.0.1", 25, PRIVATE),
            ("255.255.255.255", 25, PRIVATE),
            ("fc00::1", 25, PRIVATE),
            ("fdff::1", 25, PRIVATE),
            ("fe80::1", 25, PRIVATE),
            ("fec0::1", 25, PRIVATE),
            ("ff02::1", 25, PRIVATE),
            ("64:ff9b:1::1", 25, PRIVATE),
        ];
        check(&rule(&[], &[]), &rows);
    }

    #[test]
    fn ipv6_does_not_hide_an_ipv4_address() {
        let rows = [
            ("::ffff:127.0.0.1", 25, OURS),
            ("::ffff:10.1.1.1", 25, PRIVATE),
            ("::ffff:198.51.100.1", 25, None),
            ("::127.0.0.1", 25, OURS),
            ("::198.51.100.1", 25, None),
            ("64:ff9b::10.1.1.1", 25, PRIVATE),
            ("64:ff9b::203.0.113.5", 25, OURS),
            ("64:ff9b::198.51.100.1", 25, None),
            ("2002:7f00:1::", 25, OURS),
            ("2002:c0a8:1::1", 25, PRIVATE),
            ("2002:c633:6401::1", 25, None),
        ];
        check(&rule(&[], &[]), &rows);
    }

    #[test]
    fn an_operator_allows_networks_but_never_a_listener() {
        let allowed = ["10.0.0.0/8", "127.0.0.0/8", "203.0.113.5", "fd00::/8"];
        let rows = [
            ("10.1.1.1", 25, None),
            ("64:ff9b::10.1.1.1", 25, None),
            ("::ffff:10.1.1.1", 25, None),
            ("192.168.1.1", 25, PRIVATE),
            ("fd12::1", 25, None),
            ("127.0.0.2", 25, None),
            ("203.0.113.5", 25, None),
            ("127.0.0.1", 2525, OURS),
            ("::ffff:127.0.0.1", 2525, OURS),
            ("127.0.0.2", 2525, None),
            // A listener at all addresses.
            ("127.0.0.2", 587, OURS),
            ("10.0.0.5", 587, OURS),
            ("10.0.0.6", 587, None),
        ];
        check(&rule(&["127.0.0.1:2525", "0.0.0.0:587"], &allowed), &rows);
    }

    #[test]
    fn private_addresses_of_a_proxy_are_not_ours() {
        let rule = rule(&["0.0.0.0:25"], &[]);
        for (address, here, proxy) in [
            ("203.0.113.5", OURS, OURS),
            ("10.0.0.5", OURS, PRIVATE),
            ("127.0.0.1", OURS, PRIVATE),
            ("198.51.100.1", None, None),
        ] {
            let to = SocketAddr::new(address.parse().expect("an address"), 25);
            let judged = (rule.judge(to, Vantage::Here), rule.judge(to, Vantage::Proxy));
            assert_eq!(judged, (here, proxy), "{address}");
        }
    }

    #[test]
    fn the_kernel_lists_the_addresses_of_this_machine() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    \x20       |-- 127.0.0.0\n              /8 host LOCAL\n           |-- 127.0.0.1\n\
                    \x20             /32 host LOCAL\n        |-- 192.0.2.0\n           /24 link UNICAST\n\
                    \x20       |-- 192.0.2.2\n              /32 host LOCAL\nLocal:\n        |-- 192.0.2.2\n\
                    \x20             /32 host LOCAL\n        |-- 192.0.2.255\n           /32 link BROADCAST\n";
        let found = ipv4_local(trie.lines().map(|line| Ok(line.to_owned()))).expect("text");
        assert_eq!(found, nets(&["127.0.0.0/8", "127.0.0.1", "192.0.2.2"]));
        let list = "fd000000000000000000000000000002 04 40 00 82     eth0\nbad\n";
        let found = ipv6_local(list.lines().map(|line| Ok(line.to_owned()))).expect("text");
        assert_eq!(found, nets(&["fd00::2"]));
        let here = local_networks().expect("`/proc` is readable");
        assert!(here.iter().any(|one| one.contains(&IpAddr::from([127, 0, 0, 1]))), "{here:?}");
    }
}
