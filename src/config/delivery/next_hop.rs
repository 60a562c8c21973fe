//! Next hops: where the mail of a recipient goes, and their notation in `route.next`.
//!
//! Promise:  a `NextHop` is its own key: recipients of a message with equal next hops form one job. The
//!           text that `Display` writes is read back as the same next hop.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::kind::Spelled;
use crate::config::name::Hostname;
use crate::config::name::ReplyText;
use crate::config::value::OutboundTls;

/// The port of SMTP between servers.
pub const PORT_SMTP: u16 = 25;

/// The port of SMTP under TLS from the first byte on.
const PORT_SMTPS: u16 = 465;

/// The prefix of the path of a Unix socket.
const UNIX: &str = "unix:";

/// A longer path does not fit into the address of a socket (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Servers of one next hop. More would not be tried within the lifetime of a message.
const SERVERS_MAX: usize = 32;

const NEXT_WORDS: [&str; 7] = ["mx", "smtp", "smtps", "lmtp", "discard", "hold", "reject"];

/// A server. The host is a name, an IPv4 or an IPv6 address (without brackets), or the
/// absolute path of a Unix socket, which has the port 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: Box<str>,
    pub port: u16,
}

impl HostPort {
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

    /// The address, if the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
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

/// The next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNext {
    /// The mail exchangers of the recipient's domain, or the host of its literal.
    RecipientDomain,
    To(NextHop),
}

impl RouteNext {
    /// Whether a connection is made.
    pub fn connects(&self) -> bool {
        use NextHop::Hosts;
        use NextHop::Mx;
        matches!(self, RouteNext::RecipientDomain | RouteNext::To(Mx { .. } | Hosts { .. }))
    }

    /// The named servers with their protocol.
    pub fn servers(&self) -> Option<(&[HostPort], HopProtocol)> {
        match self {
            RouteNext::To(NextHop::Hosts { hosts, protocol }) => Some((hosts, *protocol)),
            _ => None,
        }
    }
}

impl fmt::Display for RouteNext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteNext::RecipientDomain => f.write_str("mx"),
            RouteNext::To(next_hop) => next_hop.fmt(f),
        }
    }
}

impl Spelled for RouteNext {
    fn spelling() -> String {
        "`\"mx\"`, `\"mx:other.example\"`, `\"smtp:host:port,host2:port\"`, `\"smtps:host:port\"`, \
         `\"lmtp:host:port\"`, `\"lmtp:unix:/path\"`, `\"discard\"`, `\"hold\"` or `\"reject:text\"`"
            .to_owned()
    }

    fn spell(text: &str) -> Result<RouteNext, Refusal> {
        let (word, rest) = text.split_once(':').map_or((text, None), |(w, r)| (w, Some(r.trim())));
        match (word, rest) {
            ("mx", None) => Ok(RouteNext::RecipientDomain),
            ("mx", Some(domain)) => spell_mx(domain).map(RouteNext::To),
            ("smtp" | "smtps" | "lmtp", Some(servers)) if servers.starts_with("//") => {
                let hint = format!("write \"{word}:{}\"", &servers[2..]);
                Err(Refusal::new(format!("\"{text}\" has slashes after {word}:"), hint))
            }
            ("smtp" | "smtps", Some(path)) if is_unix(path) => Err(Refusal::new(
                format!("\"{text}\": Unix sockets are supported with LMTP only"),
                "write \"lmtp:unix:/path\", or name a host",
            )),
            ("smtp", Some(servers)) => spell_hosts(servers, Some(PORT_SMTP), HopProtocol::Smtp),
            ("smtps", Some(servers)) => spell_hosts(servers, Some(PORT_SMTPS), HopProtocol::Smtps),
            ("lmtp", Some(path)) if path.starts_with('/') => Err(Refusal::new(
                format!("\"{text}\" is not a server"),
                format!("for this Unix socket write \"lmtp:unix:{path}\""),
            )),
            ("lmtp", Some(servers)) => spell_hosts(servers, None, HopProtocol::Lmtp),
            ("discard", None) => Ok(RouteNext::To(NextHop::Discard)),
            ("hold", None) => Ok(RouteNext::To(NextHop::Hold)),
            ("reject", Some(reason)) => {
                let text = ReplyText::spell(reason)?.as_str().into();
                Ok(RouteNext::To(NextHop::Reject { text }))
            }
            ("smtp" | "smtps" | "lmtp", None) => {
                let what = format!("\"{text}\" names no server");
                let port = if word == "smtps" { PORT_SMTPS } else { PORT_SMTP };
                Err(Refusal::new(what, format!("write it as \"{word}:mail.example.com:{port}\"")))
            }
            ("reject", None) => {
                let hint = "write it as \"reject:We do not send there\"";
                Err(Refusal::new("\"reject\" has no text for the sender", hint))
            }
            ("discard" | "hold", Some(_)) => {
                let what = format!("\"{text}\" has text after {word}");
                Err(Refusal::new(what, format!("write \"{word}\"")))
            }
            _ => Err(unknown_next(text, word)),
        }
    }
}

fn unknown_next(text: &str, word: &str) -> Refusal {
    let hint = match nearest(word, NEXT_WORDS.into_iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if HostPort::read(text, Some(PORT_SMTP)).is_ok() => {
            format!("for this server write \"smtp:{text}\"")
        }
        None => "see the manual of route.next".to_owned(),
    };
    let words = NEXT_WORDS.join(", ");
    Refusal::new(format!("\"{text}\" does not start with one of {words}"), hint)
}

fn spell_mx(text: &str) -> Result<NextHop, Refusal> {
    let server = HostPort::read(text, Some(PORT_SMTP))?;
    if server.address().is_some() {
        let what = format!("\"{text}\" is an address, which has no mail exchangers");
        return Err(Refusal::new(what, format!("write \"smtp:{text}\"")));
    }
    Ok(NextHop::Mx { domain: server.host, port: server.port })
}

fn spell_hosts(text: &str, port: Option<u16>, protocol: HopProtocol) -> Result<RouteNext, Refusal> {
    let servers = text.split(',').map(|one| match one.trim().strip_prefix(UNIX) {
        Some(path) => HostPort::at_path(path),
        None => HostPort::read(one.trim(), port),
    });
    let servers = servers.collect::<Result<Box<[HostPort]>, Refusal>>()?;
    if servers.len() > SERVERS_MAX {
        let what = format!("names {} servers", servers.len());
        return Err(Refusal::new(what, format!("at most {SERVERS_MAX}")));
    }
    for (place, server) in servers.iter().enumerate() {
        if servers[..place].contains(server) {
            let what = match server.port {
                0 => format!("names {} twice", server.host),
                port => format!("names {} port {port} twice", server.host),
            };
            return Err(Refusal::new(what, "write it once"));
        }
    }
    Ok(RouteNext::To(NextHop::Hosts { hosts: servers, protocol }))
}

/// Whether a server is a Unix socket.
fn is_unix(servers: &str) -> bool {
    servers.split(',').any(|one| one.trim().starts_with(UNIX))
}

impl HostPort {
    /// A Unix socket.
    fn at_path(path: &str) -> Result<HostPort, Refusal> {
        let hint = match () {
            () if !path.starts_with('/') => "begin it with /, as \"unix:/run/dovecot/lmtp\"".into(),
            () if path.len() > UNIX_PATH_BYTES_MAX => {
                format!("the limit is {UNIX_PATH_BYTES_MAX} bytes; use a shorter link")
            }
            () if path.contains(char::is_control) => "write it without control characters".into(),
            () if path.ends_with('/') => "name the socket in this folder".into(),
            () => return Ok(HostPort { host: path.into(), port: 0 }),
        };
        Err(Refusal::new(format!("\"{path}\" is not the path of a Unix socket"), hint))
    }

    /// `host`, `host:port`, `[v6]` or `[v6]:port`; without a `standard` the port must be there.
    fn read(text: &str, standard: Option<u16>) -> Result<HostPort, Refusal> {
        let refused = |hint: String| {
            Err(Refusal::new(format!("\"{text}\" is not a server with its port"), hint))
        };
        if text.parse::<Ipv6Addr>().is_ok() {
            return refused(format!("write an IPv6 address in brackets, as \"[{text}]:25\""));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => (host, None),
                Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => {
                    (host, Some(port.strip_prefix(':').unwrap_or("")))
                }
                _ => return refused("write an IPv6 address in brackets, as \"[::1]:25\"".into()),
            },
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => standard,
            Some(port) => match port.parse::<u16>() {
                Ok(0) | Err(_) => return refused(format!("\"{port}\" is not a port")),
                Ok(port) => Some(port),
            },
        };
        let Some(port) = port else {
            return refused(format!("add the port, as \"{text}:24\""));
        };
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_string().into(),
            Err(_) => Hostname::spell(host)?.as_str().into(),
        };
        Ok(HostPort { host, port })
    }
}
