//! Where the server is.

use std::fmt;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use ringpost::rt;
use ringpost::rt::IoFault;
use ringpost::rt::Stream;

/// What is connected to.
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
    /// `host`, `host:port`, either with `inet:` before it, or `unix:path`. Of the host's addresses
    /// the first that is wanted.
    pub fn find(server: &str, is_wanted: impl Fn(&SocketAddr) -> bool) -> Result<Place, String> {
        if let Some(path) = server.strip_prefix("unix:") {
            return match path {
                "" => Err(format!("{server}: a path must follow")),
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
            .ok_or_else(|| format!("{server}: it has no address of that family"))
    }

    /// `buffers`: of the kernel, in bytes.
    pub async fn connect(
        &self,
        buffers: Option<usize>,
        limit: Duration,
    ) -> Result<Stream, IoFault> {
        match (self, buffers) {
            (Place::Ip(address), None) => rt::connect(*address, None, limit).await,
            (Place::Ip(address), Some(bytes)) => {
                rt::connect_with_buffers(*address, bytes, limit).await
            }
            (Place::Unix(path), _) => rt::connect_unix(path, limit).await,
        }
    }
}

/// The name or address of a server, for TLS. A Unix socket is on this machine.
pub fn host_of(server: &str) -> &str {
    match server.starts_with("unix:") {
        true => "localhost",
        false => split(server).0,
    }
}

/// Host, without brackets, and port, if there is one.
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
    fn servers_are_written_as_ever() {
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
