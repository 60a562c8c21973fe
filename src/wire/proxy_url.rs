//! Proxies that connections go out by, as values.

use std::fmt;
use std::net::SocketAddr;

use crate::wire::socks5::ProxyLogin;

/// A proxy, and how it is told where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// By SOCKS 5. It chooses the address to connect from.
    Socks5 { address: SocketAddr, login: Option<ProxyLogin> },
    /// By the PROXY protocol, version 2, which also says from which address to connect.
    Haproxy { address: SocketAddr },
}

impl fmt::Display for Proxy {
    /// As it is written, without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proxy::Socks5 { address, .. } => write!(f, "socks5://{address}"),
            Proxy::Haproxy { address } => write!(f, "haproxy://{address}"),
        }
    }
}
