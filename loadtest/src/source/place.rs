//! The address of the server: `[inet:]host[:port]`.

use std::net::SocketAddr;
use std::net::ToSocketAddrs;

/// The first address of the host.
pub fn find(server: &str) -> Result<SocketAddr, String> {
    let found = match split(server) {
        (host, None) => (host, 25).to_socket_addrs(),
        (_, Some(_)) => server.strip_prefix("inet:").unwrap_or(server).to_socket_addrs(),
    };
    let mut found = found.map_err(|cause| format!("{server}: {cause}"))?;
    found.next().ok_or_else(|| format!("{server} has no address"))
}

/// The name of a server for TLS.
pub fn host_of(server: &str) -> &str {
    split(server).0
}

/// Host without brackets, and the port if given.
fn split(server: &str) -> (&str, Option<&str>) {
    let place = server.strip_prefix("inet:").unwrap_or(server);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    (host.trim_matches(['[', ']']), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, expected, host) in [
            ("127.0.0.1", "127.0.0.1:25", "127.0.0.1"),
            ("inet:127.0.0.1:2525", "127.0.0.1:2525", "127.0.0.1"),
            ("[::1]:2525", "[::1]:2525", "::1"),
            ("[::1]", "[::1]:25", "::1"),
            ("::1", "[::1]:25", "::1"),
        ] {
            assert_eq!(find(text).map(|found| found.to_string()), Ok(expected.into()), "{text}");
            assert_eq!(host_of(text), host, "{text}");
        }
        for bad in ["[::1]:x", "127.0.0.1:99999"] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }
}
