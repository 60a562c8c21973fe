//! Outgoing connections through a proxy: SOCKS 5, or the PROXY protocol.
//!
//! Owner:    the caller.
//! Promise:  a returned stream behaves like a direct connection to the destination: no byte of the
//!           remote server has been consumed.
//! Bounds:   the whole dialogue takes at most `limit`, however slow the proxy is; at most
//!           `READ_BYTES_MAX` bytes of replies are held.
//! Blame:    a fault before the connect request is the proxy's and says nothing about the
//!           destination; a later fault may be of either.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::rt;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::rt::timer;
use crate::wire::proxy;
use crate::wire::socks5::ProxyLogin;
use crate::wire::socks5::READ_BYTES_MAX;
use crate::wire::socks5::Socks5;
use crate::wire::socks5::Socks5Fault;
use crate::wire::socks5::Socks5Step;

/// Why a connection through a proxy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFault {
    /// The connection to the proxy failed.
    Connect(IoFault),
    /// No reply, or the connection to the proxy broke, before the connect request.
    Lost(IoFault),
    /// An error or refusal of the proxy.
    Socks5(Socks5Fault),
    /// The connection to the proxy broke after the connect request.
    LostAsked(IoFault),
    /// The source address and the destination have different address families.
    Families,
}

impl ProxyFault {
    /// Whether the proxy could not reach the destination.
    pub fn is_of_destination(&self) -> bool {
        match self {
            ProxyFault::Socks5(Socks5Fault::Refused(refusal)) => refusal.is_of_destination(),
            // The proxy was waiting for the destination.
            ProxyFault::LostAsked(fault) => *fault == IoFault::TimedOut,
            _ => false,
        }
    }

    /// Whether other destinations would fail in the same way.
    pub fn is_of_all(&self) -> bool {
        match self {
            ProxyFault::Connect(_) | ProxyFault::Lost(_) => true,
            ProxyFault::Socks5(fault) => !matches!(fault, Socks5Fault::Refused(_)),
            ProxyFault::LostAsked(_) | ProxyFault::Families => false,
        }
    }

    /// Whether this machine lacked what a connection to the proxy needs.
    pub fn is_own_limit(&self) -> bool {
        match self {
            ProxyFault::Connect(fault) | ProxyFault::Lost(fault) | ProxyFault::LostAsked(fault) => {
                fault.is_own_limit()
            }
            ProxyFault::Socks5(_) | ProxyFault::Families => false,
        }
    }

    pub fn is_timeout(&self) -> bool {
        matches!(self, ProxyFault::LostAsked(IoFault::TimedOut))
    }
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyFault::Connect(fault) => write!(f, "cannot connect: {fault}"),
            ProxyFault::Lost(IoFault::TimedOut) => f.write_str("no reply in time"),
            ProxyFault::Lost(fault) => {
                write!(f, "connection lost before the connect request: {fault}")
            }
            ProxyFault::Socks5(fault) => fault.fmt(f),
            ProxyFault::LostAsked(IoFault::TimedOut) => {
                f.write_str("no connection to the destination in time")
            }
            ProxyFault::LostAsked(fault) => {
                write!(f, "connection lost after the connect request: {fault}")
            }
            ProxyFault::Families => f.write_str(
                "the source address and the destination have different address families",
            ),
        }
    }
}

impl std::error::Error for ProxyFault {}

/// Connects to `to` through the SOCKS 5 proxy at `proxy`. The returned stream has no deadline.
pub async fn by_socks5(
    proxy: SocketAddr,
    login: Option<&ProxyLogin>,
    to: SocketAddr,
    limit: Duration,
) -> Result<Stream, ProxyFault> {
    let end = timer::now() + limit;
    let mut stream = rt::connect(proxy, None, limit).await.map_err(ProxyFault::Connect)?;
    // One deadline for the whole dialogue, so that slow replies cannot extend it.
    stream.deadline().set_in(end.saturating_duration_since(timer::now()));
    let mut out = Vec::new();
    let mut dialogue = Socks5::new(to, login, &mut out);
    let mut room = [0; READ_BYTES_MAX];
    while let Socks5Step::Read(bytes) = dialogue.next() {
        let input = &mut room[..bytes];
        exchange(&mut stream, &mut out, input).await.map_err(|fault| {
            if dialogue.has_asked() {
                ProxyFault::LostAsked(fault)
            } else {
                ProxyFault::Lost(fault)
            }
        })?;
        dialogue.feed(input, &mut out).map_err(ProxyFault::Socks5)?;
    }
    stream.deadline().clear();
    Ok(stream)
}

async fn exchange(stream: &mut Stream, out: &mut Vec<u8>, input: &mut [u8]) -> Result<(), IoFault> {
    if !out.is_empty() {
        let (written, emptied) = stream.write(std::mem::take(out)).await;
        *out = emptied;
        written?;
    }
    stream.read_exact(input).await
}

/// Connects to the proxy at `proxy` and sends a PROXY header for a connection from `from` to `to`.
/// The proxy does not reply; if it cannot connect, it closes the connection. The returned stream has
/// no deadline.
pub async fn by_proxy_protocol(
    proxy: SocketAddr,
    from: SocketAddr,
    to: SocketAddr,
    limit: Duration,
) -> Result<Stream, ProxyFault> {
    let end = timer::now() + limit;
    let mut header = Vec::new();
    if !proxy::write_v2(from, to, &mut header) {
        return Err(ProxyFault::Families);
    }
    let mut stream = rt::connect(proxy, None, limit).await.map_err(ProxyFault::Connect)?;
    stream.deadline().set_in(end.saturating_duration_since(timer::now()));
    stream.write(header).await.0.map_err(ProxyFault::Lost)?;
    stream.deadline().clear();
    Ok(stream)
}
