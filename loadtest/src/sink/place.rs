//! Addresses to listen on.
//!
//! Bounds:   `PLACES_MAX` addresses; more are an error, since each is a socket and a task per shard.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;

/// Addresses of one sink.
pub const PLACES_MAX: usize = 16_384;

/// The addresses of `[inet:][HOST[/BITS]]:PORT`, without repetition.
pub fn read(words: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut all = Vec::new();
    for word in words {
        read_one(word, &mut all).map_err(|why| format!("{word}: {why}"))?;
    }
    let anew = |address: &SocketAddr, earlier: &[SocketAddr]| {
        address.port() == 0 || earlier.last() != Some(address)
    };
    all.sort_unstable();
    let mut places: Vec<SocketAddr> = Vec::with_capacity(all.len());
    for address in all {
        if anew(&address, &places) {
            places.push(address);
        }
    }
    Ok(places)
}

fn read_one(word: &str, all: &mut Vec<SocketAddr>) -> Result<(), String> {
    if word.starts_with("unix:") {
        return Err("Unix sockets are not supported; give an address and a port".to_owned());
    }
    let place = word.strip_prefix("inet:").unwrap_or(word);
    let (host, port) = place.rsplit_once(':').ok_or("a port is missing, as in 127.0.0.1:2525")?;
    let port = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
    let hosts = read_hosts(host)?;
    if all.len() + hosts.len() > PLACES_MAX {
        return Err(format!("more than {PLACES_MAX} addresses; start several sinks"));
    }
    all.extend(hosts.into_iter().map(|host| SocketAddr::new(host, port)));
    Ok(())
}

fn read_hosts(host: &str) -> Result<Vec<IpAddr>, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() {
        // One socket per family, as in smtp-sink.
        return Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    }
    if let Some((network, bits)) = bare.split_once('/') {
        let network = network.parse().map_err(|_| format!("`{network}` is not an address"))?;
        return read_network(network, bits);
    }
    let found = (bare, 0).to_socket_addrs().map_err(|cause| cause.to_string())?;
    Ok(found.map(|found| found.ip()).collect())
}

/// All addresses of a network, with the first and the last: on loopback all can be used.
fn read_network(network: IpAddr, bits: &str) -> Result<Vec<IpAddr>, String> {
    let width = if network.is_ipv4() { 32 } else { 128 };
    let bits: u32 = bits.parse().map_err(|_| format!("`{bits}` is not a prefix length"))?;
    let free = u32::checked_sub(width, bits).ok_or("the prefix is longer than an address")?;
    let count = 1_usize.checked_shl(free).filter(|count| free < 32 && *count <= PLACES_MAX);
    let count = count.ok_or_else(|| format!("more than {PLACES_MAX} addresses"))?;
    let hosts = 0..count as u128;
    Ok(match network {
        IpAddr::V4(first) => {
            let first = u128::from(first.to_bits()) >> free << free;
            hosts.map(|host| Ipv4Addr::from_bits((first + host) as u32).into()).collect()
        }
        IpAddr::V6(first) => {
            let first = first.to_bits() >> free << free;
            hosts.map(|host| Ipv6Addr::from_bits(first + host).into()).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(words: &str) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        Ok(read(&words)?.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn addresses_ports_and_networks_are_read() {
        let rows = [
            ("127.0.0.1:2525", "127.0.0.1:2525"),
            ("inet:127.0.0.1:25", "127.0.0.1:25"),
            ("[::1]:2525", "[::1]:2525"),
            (":2525", "0.0.0.0:2525 [::]:2525"),
            ("127.0.1.2/31:25", "127.0.1.2:25 127.0.1.3:25"),
            ("[::2/127]:25", "[::2]:25 [::3]:25"),
            ("127.0.0.1:25 127.0.0.1:25", "127.0.0.1:25"),
            ("127.0.0.1:0 127.0.0.1:0", "127.0.0.1:0 127.0.0.1:0"),
        ];
        for (words, expected) in rows {
            assert_eq!(places(words).map(|all| all.join(" ")), Ok(expected.into()));
        }
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for bad in [
            "unix:/a",
            "127.0.0.1",
            "127.0.0.1:x",
            "127.0.0.0/8:25",
            "127.0.0.0/33:25",
            "::/0:25",
            "127.0.0.0/17:25",
        ] {
            let why = places(bad).expect_err(bad);
            assert!(why.starts_with(bad), "{why}");
        }
    }
}
