//! Connections that go out by a proxy: SOCKS 5, and the PROXY protocol to one that connects onward.
//!
//! Owner:    whoever asked for the connection.
//! Promise:  a stream that is returned is as one that was connected to the destination itself: not
//!           a byte of what the server behind the proxy says has been taken.
//! Bounds:   all of it together lasts `limit` at most, however slowly the proxy speaks; of its
//!           answers at most `READ_BYTES_MAX` bytes are held.
//! Blame:    `Unusable` is the proxy's own trouble and says nothing of the destination. What comes
//!           after the proxy was told where to connect may be either's.

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

/// Why a proxy gave no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFault {
    /// It cannot be connected to.
    Connect(IoFault),
    /// It was silent, or the connection to it broke, before it was told where to connect.
    Lost(IoFault),
    /// What it said, or refused.
    Socks5(Socks5Fault),
    /// The connection to it broke behind that.
    LostAsked(IoFault),
    /// The source address and the destination are of two families.
    Families,
}

impl ProxyFault {
    /// Whether the destination could not be reached, as far as the proxy knows.
    pub fn is_of_destination(&self) -> bool {
        match self {
            ProxyFault::Socks5(Socks5Fault::Refused(refusal)) => refusal.is_of_destination(),
            // It waits for the destination as we wait for it.
            ProxyFault::LostAsked(fault) => *fault == IoFault::TimedOut,
            _ => false,
        }
    }

    /// Whether another destination would fare the same.
    pub fn is_of_all(&self) -> bool {
        match self {
            ProxyFault::Connect(_) | ProxyFault::Lost(_) => true,
            ProxyFault::Socks5(fault) => !matches!(fault, Socks5Fault::Refused(_)),
            ProxyFault::LostAsked(_) | ProxyFault::Families => false,
        }
    }

    pub fn is_timeout(&self) -> bool {
        matches!(self, ProxyFault::LostAsked(IoFault::TimedOut))
    }
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyFault::Connect(fault) => write!(f, "it cannot be connected to: {fault}"),
            ProxyFault::Lost(IoFault::TimedOut) => f.write_str("it did not answer in time"),
            ProxyFault::Lost(fault) => write!(f, "it did not let us in: {fault}"),
            ProxyFault::Socks5(fault) => fault.fmt(f),
            ProxyFault::LostAsked(IoFault::TimedOut) => f.write_str("no connection in time"),
            ProxyFault::LostAsked(fault) => {
                write!(f, "it broke off instead of connecting: {fault}")
            }
            ProxyFault::Families => {
                f.write_str("the source address is not of the family of the destination")
            }
        }
    }
}

impl std::error::Error for ProxyFault {}

/// A connection to `to` by the SOCKS 5 proxy at `proxy`. The deadline of the stream is clear
/// afterwards.
pub async fn by_socks5(
    proxy: SocketAddr,
    login: Option<&ProxyLogin>,
    to: SocketAddr,
    limit: Duration,
) -> Result<Stream, ProxyFault> {
    let end = timer::now() + limit;
    let mut stream = rt::connect(proxy, None, limit).await.map_err(ProxyFault::Connect)?;
    // One for all of it, so that dripping answers do not last.
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

/// A connection to the proxy at `proxy` that has been told to connect from `from` to `to`. It does
/// not answer: where it cannot connect it ends the connection. The deadline is clear afterwards.
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
