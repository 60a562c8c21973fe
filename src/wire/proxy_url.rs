//! Outgoing proxies.

use std::fmt;
use std::net::SocketAddr;

use crate::wire::socks5::ProxyLogin;

/// A proxy for outgoing connections, by protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// SOCKS 5. The proxy chooses the source address.
    Socks5 { address: SocketAddr, login: Option<ProxyLogin> },
    /// PROXY protocol version 2. The header names the source address to connect from.
    Haproxy { address: SocketAddr },
}

impl fmt::Display for Proxy {
    /// The URL without user name and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proxy::Socks5 { address, .. } => write!(f, "socks5://{address}"),
            Proxy::Haproxy { address } => write!(f, "haproxy://{address}"),
        }
    }
}
