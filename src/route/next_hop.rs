//! Where a recipient's mail goes next, as values: the answer of the route rules.
//!
//! Promise:  a `NextHop` is its own key: jobs with equal next hops are one transfer.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::route::destination::OutboundTls;

/// A server to talk to. The host is a name, an IPv4 or an IPv6 address (without brackets), or the
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

    /// What it is called where no port is told.
    pub fn name(&self) -> Cow<'_, str> {
        match self.unix_path() {
            Some(_) => Cow::Owned(self.to_string()),
            None => Cow::Borrowed(&self.host),
        }
    }

    /// Its path, if it is a Unix socket.
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

/// How the server at the next hop is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HopProtocol {
    #[default]
    Smtp,
    /// SMTP under TLS from the first byte on (RFC 8314 s3.3).
    Smtps,
    Lmtp,
}

impl HopProtocol {
    /// What is asked of TLS, where `mode` was asked for: what begins with TLS does not go on in the
    /// clear when it fails.
    pub fn tls(self, mode: OutboundTls) -> OutboundTls {
        match (self, mode) {
            (HopProtocol::Smtps, OutboundTls::None | OutboundTls::May) => OutboundTls::Must,
            (_, mode) => mode,
        }
    }
}

/// Where the mail of a recipient goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// The mail exchangers of this domain (lower case, IDNA in ASCII), on this port.
    Mx { domain: Box<str>, port: u16 },
    /// These servers, in this order of preference; no MX lookup.
    Hosts { hosts: Box<[HostPort]>, protocol: HopProtocol },
    /// Accepted and thrown away; counts as delivered.
    Discard,
    /// Returned to the sender with this text.
    Reject { text: Box<str> },
    /// Kept until an operator releases it.
    Hold,
}

impl fmt::Display for NextHop {
    /// As logs and operators read it; unique for each next hop.
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
