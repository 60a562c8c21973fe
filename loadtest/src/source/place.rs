//! The address of the server.

use std::fmt;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use ringpost::rt;
use ringpost::rt::IoFault;
use ringpost::rt::Stream;

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Ip(address) => address.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// `[inet:]host[:port]` or `unix:path`. Uses the first address of the host that is wanted.
    pub fn find(server: &str, is_wanted: impl Fn(&SocketAddr) -> bool) -> Result<Place, String> {
        if let Some(path) = server.strip_prefix("unix:") {
            return match path {
                "" => Err(format!("{server}: the path is missing")),
                _ => Ok(Place::Unix(path.into())),
            };
        }
        let (host, port) = split(server);
        let found = match port {
            Some(_) => server.strip_prefix("inet:").unwrap_or(server).to_socket_addrs(),
            None => (host, 25).to_socket_addrs(),
        };
        let mut found = found.map_err(|cause| format!("{server}: {cause}"))?;
        found
            .find(is_wanted)
            .map(Place::Ip)
            .ok_or_else(|| format!("{server}: the host has no address of this family"))
    }

    pub async fn connect(&self, limit: Duration) -> Result<Stream, IoFault> {
        match self {
            Place::Ip(address) => rt::connect(*address, None, limit).await,
            Place::Unix(path) => rt::connect_unix(path, limit).await,
        }
    }
}

/// The name of a server for TLS; `localhost` for a Unix socket.
pub fn host_of(server: &str) -> &str {
    match server.starts_with("unix:") {
        true => "localhost",
        false => split(server).0,
    }
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
            let expected: SocketAddr = expected.parse().expect("an address");
            assert_eq!(Place::find(text, |_| true), Ok(Place::Ip(expected)), "{text}");
            assert_eq!(host_of(text), host, "{text}");
        }
        assert_eq!(Place::find("unix:/a", |_| true), Ok(Place::Unix("/a".into())));
        assert_eq!(host_of("unix:/a"), "localhost");
        for bad in ["unix:", "[::1]:x", "127.0.0.1:99999"] {
            assert!(Place::find(bad, |_| true).is_err(), "{bad}");
        }
        assert!(Place::find("[::1]:25", SocketAddr::is_ipv4).is_err());
    }
}
