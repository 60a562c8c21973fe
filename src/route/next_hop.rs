//! Next hops: the result of routing a recipient.
//!
//! Promise:  a `NextHop` is its own key: recipients of a message with equal next hops form one job.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::route::destination::OutboundTls;

/// A server. The host is a name, an IPv4 or an IPv6 address (without brackets), or the
/// absolute path of a Unix socket, which has the port 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: Box<str>,
    pub port: u16,
}

impl HostPort {
    pub fn unix(path: &str) -> HostPort {
        HostPort { host: path.into(), port: 0 }
    }

    /// The host without its port, or the path of a Unix socket with its prefix.
    pub fn name(&self) -> Cow<'_, str> {
        match self.unix_path() {
            Some(_) => Cow::Owned(self.to_string()),
            None => Cow::Borrowed(&self.host),
        }
    }

    /// The path of a Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.host.starts_with('/').then(|| Path::new(&*self.host))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            _ if self.unix_path().is_some() => write!(f, "unix:{}", self.host),
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The protocol spoken to the servers of a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HopProtocol {
    #[default]
    Smtp,
    /// SMTP under TLS from the first byte on (RFC 8314 s3.3).
    Smtps,
    Lmtp,
}

impl HopProtocol {
    /// The TLS level for a configured `mode`: SMTPS never falls back to cleartext.
    pub fn tls(self, mode: OutboundTls) -> OutboundTls {
        match (self, mode) {
            (HopProtocol::Smtps, OutboundTls::None | OutboundTls::May) => OutboundTls::Must,
            (_, mode) => mode,
        }
    }
}

/// The next hop of a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// The mail exchangers of this domain (lower case, IDNA in ASCII), on this port.
    Mx { domain: Box<str>, port: u16 },
    /// These servers, in this order of preference; no MX lookup.
    Hosts { hosts: Box<[HostPort]>, protocol: HopProtocol },
    /// Accepted and discarded; counts as delivered.
    Discard,
    /// Returned to the sender with this text.
    Reject { text: Box<str> },
    /// Kept until an operator releases it.
    Hold,
}

impl fmt::Display for NextHop {
    /// The form in logs and commands; unique for each next hop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::Mx { domain, port: 25 } => write!(f, "mx:{domain}"),
            NextHop::Mx { domain, port } => write!(f, "mx:{domain}:{port}"),
            NextHop::Hosts { hosts, protocol } => {
                f.write_str(match protocol {
                    HopProtocol::Smtp => "smtp:",
                    HopProtocol::Smtps => "smtps:",
                    HopProtocol::Lmtp => "lmtp:",
                })?;
                for (number, host) in hosts.iter().enumerate() {
                    write!(f, "{}{host}", if number == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            NextHop::Discard => f.write_str("discard"),
            NextHop::Reject { text } => write!(f, "reject:{text}"),
            NextHop::Hold => f.write_str("hold"),
        }
    }
}
