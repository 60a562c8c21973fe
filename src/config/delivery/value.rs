//! Types of delivery values: next hops, members of pools, addresses.
//!
//! Promise:  a value of these types is valid.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::file::Plain;
use crate::config::file::Written;
use crate::config::kind::Bounds;
use crate::config::kind::Kind;
use crate::config::kind::Spelled;
use crate::config::kind::choose;
use crate::config::kind::number_from;
use crate::config::kind::wrong_type;
use crate::config::name::Hostname;
use crate::config::name::Label;
use crate::config::name::ReplyText;
use crate::config::reading::Reading;
use crate::wire::mail::address::Mailbox;

/// SMTP between servers.
const PORT_SMTP: u16 = 25;

/// SMTP under TLS from the first byte on.
const PORT_SMTPS: u16 = 465;

const PORT_DNS: u16 = 53;

/// The prefix of the path of a Unix socket.
const UNIX: &str = "unix:";

/// A longer path does not fit into the address of a socket (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Servers of one next hop. More would not be tried within the lifetime of a message.
const SERVERS_MAX: usize = 32;

/// The largest weight of a source.
const WEIGHT_MAX: u32 = 1_000_000;

/// A server named by a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name in lower case, an address without brackets, or the path of a Unix socket, whose port
    /// is 0.
    pub host: String,
    pub port: u16,
}

impl Server {
    /// The address, if the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
    }
}

/// The next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextSetting {
    /// The mail exchangers of the recipient's domain.
    Mx,
    /// Those of another domain.
    MxOf {
        domain: String,
        port: u16,
    },
    Smtp(Vec<Server>),
    /// Under TLS from the first byte on.
    Smtps(Vec<Server>),
    Lmtp(Vec<Server>),
    Discard,
    Hold,
    Reject(ReplyText),
}

impl NextSetting {
    /// Whether a connection is made.
    pub fn connects(&self) -> bool {
        !matches!(self, NextSetting::Discard | NextSetting::Hold | NextSetting::Reject(_))
    }

    /// The servers named in it.
    pub fn servers(&self) -> &[Server] {
        match self {
            NextSetting::Smtp(servers)
            | NextSetting::Smtps(servers)
            | NextSetting::Lmtp(servers) => servers,
            _ => &[],
        }
    }
}

const NEXT_WORDS: [&str; 7] = ["mx", "smtp", "smtps", "lmtp", "discard", "hold", "reject"];

impl Spelled for NextSetting {
    fn spelling() -> String {
        "`\"mx\"`, `\"mx:other.example\"`, `\"smtp:host:port,host2:port\"`, `\"smtps:host:port\"`, \
         `\"lmtp:host:port\"`, `\"lmtp:unix:/path\"`, `\"discard\"`, `\"hold\"` or `\"reject:text\"`"
            .to_owned()
    }

    fn spell(text: &str) -> Result<NextSetting, Refusal> {
        let (word, rest) = text.split_once(':').map_or((text, None), |(w, r)| (w, Some(r.trim())));
        match (word, rest) {
            ("mx", None) => Ok(NextSetting::Mx),
            ("mx", Some(domain)) => spell_mx(domain),
            ("smtp" | "smtps" | "lmtp", Some(servers)) if servers.starts_with("//") => {
                let hint = format!("write \"{word}:{}\"", &servers[2..]);
                Err(Refusal::new(format!("\"{text}\" has slashes after {word}:"), hint))
            }
            ("smtp" | "smtps", Some(path)) if is_unix(path) => Err(Refusal::new(
                format!("\"{text}\": Unix sockets are supported with LMTP only"),
                "write \"lmtp:unix:/path\", or name a host",
            )),
            ("smtp", Some(servers)) => {
                spell_servers(servers, Some(PORT_SMTP)).map(NextSetting::Smtp)
            }
            ("smtps", Some(servers)) => {
                spell_servers(servers, Some(PORT_SMTPS)).map(NextSetting::Smtps)
            }
            ("lmtp", Some(path)) if path.starts_with('/') => Err(Refusal::new(
                format!("\"{text}\" is not a server"),
                format!("for this Unix socket write \"lmtp:unix:{path}\""),
            )),
            ("lmtp", Some(servers)) => spell_servers(servers, None).map(NextSetting::Lmtp),
            ("discard", None) => Ok(NextSetting::Discard),
            ("hold", None) => Ok(NextSetting::Hold),
            ("reject", Some(reason)) => ReplyText::spell(reason).map(NextSetting::Reject),
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
        None if Server::read(text, Some(PORT_SMTP)).is_ok() => {
            format!("for this server write \"smtp:{text}\"")
        }
        None => "see the manual of route.next".to_owned(),
    };
    let words = NEXT_WORDS.join(", ");
    Refusal::new(format!("\"{text}\" does not start with one of {words}"), hint)
}

fn spell_mx(text: &str) -> Result<NextSetting, Refusal> {
    let server = Server::read(text, Some(PORT_SMTP))?;
    if server.address().is_some() {
        let what = format!("\"{text}\" is an address, which has no mail exchangers");
        return Err(Refusal::new(what, format!("write \"smtp:{text}\"")));
    }
    Ok(NextSetting::MxOf { domain: server.host, port: server.port })
}

fn spell_servers(text: &str, port: Option<u16>) -> Result<Vec<Server>, Refusal> {
    let servers = text.split(',').map(|one| match one.trim().strip_prefix(UNIX) {
        Some(path) => Server::at_path(path),
        None => Server::read(one.trim(), port),
    });
    let servers = servers.collect::<Result<Vec<Server>, Refusal>>()?;
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
    Ok(servers)
}

/// Whether a server is a Unix socket.
fn is_unix(servers: &str) -> bool {
    servers.split(',').any(|one| one.trim().starts_with(UNIX))
}

impl Server {
    /// A Unix socket.
    fn at_path(path: &str) -> Result<Server, Refusal> {
        let hint = match () {
            () if !path.starts_with('/') => "begin it with /, as \"unix:/run/dovecot/lmtp\"".into(),
            () if path.len() > UNIX_PATH_BYTES_MAX => {
                format!("the limit is {UNIX_PATH_BYTES_MAX} bytes; use a shorter link")
            }
            () if path.contains(char::is_control) => "write it without control characters".into(),
            () if path.ends_with('/') => "name the socket in this folder".into(),
            () => return Ok(Server { host: path.to_owned(), port: 0 }),
        };
        Err(Refusal::new(format!("\"{path}\" is not the path of a Unix socket"), hint))
    }

    /// `host`, `host:port`, `[v6]` or `[v6]:port`; without a `standard` the port must be there.
    fn read(text: &str, standard: Option<u16>) -> Result<Server, Refusal> {
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
            Ok(address) => address.to_string(),
            Err(_) => Hostname::spell(host)?.as_str().to_owned(),
        };
        Ok(Server { host, port })
    }
}

/// How many cores share a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripes {
    Auto,
    All,
    Count(u32),
}

/// More than the number of shards.
const STRIPES_MAX: u64 = 1024;

impl Kind for Stripes {
    fn written() -> String {
        "a whole number, `\"all\"` or `\"auto\"`".to_owned()
    }

    fn read(value: &Written, _: Bounds, reading: &mut Reading<'_>) -> Option<Stripes> {
        match &value.plain {
            Plain::Text(text) => {
                let choices = [("all", Stripes::All), ("auto", Stripes::Auto)];
                let chosen = choose(text, &choices);
                chosen.map_err(|refusal| reading.refuse(refusal)).ok()
            }
            Plain::Whole(_) => {
                let count = usize::read(value, Some((1, STRIPES_MAX)), reading)?;
                Some(Stripes::Count(count as u32))
            }
            _ => wrong_type(value, &Stripes::written(), "", reading),
        }
    }

    fn from_text(text: &str) -> Plain {
        number_from(text)
    }
}

/// A source in a pool, with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMember {
    pub source: Label,
    pub weight: u32,
}

impl Spelled for PoolMember {
    fn spelling() -> String {
        "a source name, with a weight after a colon if it is not 1, such as `\"out-1:3\"`"
            .to_owned()
    }

    fn spell(text: &str) -> Result<PoolMember, Refusal> {
        let (name, weight) = text.split_once(':').unwrap_or((text, "1"));
        let source = Label::spell(name)?;
        match weight.parse() {
            Ok(weight @ 1..=WEIGHT_MAX) => Ok(PoolMember { source, weight }),
            _ => Err(Refusal::new(
                format!("\"{weight}\" is not a weight"),
                format!("write a number from 1 to {WEIGHT_MAX}, as \"{name}:3\""),
            )),
        }
    }
}

/// A name server. The default port is 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl Spelled for NameServer {
    fn spelling() -> String {
        "an IP address, such as `\"192.0.2.53\"`, with a port if that is not 53".to_owned()
    }

    fn spell(text: &str) -> Result<NameServer, Refusal> {
        let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT_DNS));
        bare.or_else(|_| text.parse()).map(NameServer).map_err(|_| {
            let hint = "write it as \"192.0.2.53\", \"192.0.2.53:5353\" or \"[2001:db8::53]:5353\"";
            Refusal::new(format!("\"{text}\" is not the address of a name server"), hint)
        })
    }
}

/// A mail address, or a local part at this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress(String);

impl OwnAddress {
    /// The complete address; `host` is appended to a local part.
    pub fn at(&self, host: &Hostname) -> String {
        match self.0.contains('@') {
            true => self.0.clone(),
            false => format!("{}@{host}", self.0),
        }
    }
}

impl Spelled for OwnAddress {
    fn spelling() -> String {
        "a mail address, or only its local part for an address at this host".to_owned()
    }

    fn spell(text: &str) -> Result<OwnAddress, Refusal> {
        let settled = match text.rsplit_once('@') {
            Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
            None => text.to_owned(),
        };
        let whole = if settled.contains('@') { settled.clone() } else { format!("{text}@x.test") };
        let is_good = |one: &Mailbox<'_>| !one.is_utf8() && !one.domain().is_empty();
        match Mailbox::from_stored(&whole).filter(is_good) {
            Some(_) => Ok(OwnAddress(settled)),
            None => {
                let hint = "write it as \"postmaster@example.com\" or \"postmaster\"";
                Err(Refusal::new(format!("\"{text}\" is not a mail address"), hint))
            }
        }
    }
}

impl Spelled for Ipv4Addr {
    fn spelling() -> String {
        "an IPv4 address, such as `\"192.0.2.25\"`".to_owned()
    }

    fn spell(text: &str) -> Result<Ipv4Addr, Refusal> {
        let address = text.parse::<Ipv4Addr>().map_err(|_| not_an_address(text, "192.0.2.25"))?;
        own(address.into(), text).map(|()| address)
    }
}

impl Spelled for Ipv6Addr {
    fn spelling() -> String {
        "an IPv6 address, such as `\"2001:db8::25\"`".to_owned()
    }

    fn spell(text: &str) -> Result<Ipv6Addr, Refusal> {
        let address = text.parse::<Ipv6Addr>().map_err(|_| not_an_address(text, "2001:db8::25"))?;
        own(address.into(), text).map(|()| address)
    }
}

fn not_an_address(text: &str, example: &str) -> Refusal {
    let family = if example.contains(':') { "IPv6" } else { "IPv4" };
    let what = format!("\"{text}\" is not an {family} address");
    Refusal::new(what, format!("write it without a port, as \"{example}\""))
}

/// Whether a host can own the address.
fn own(address: IpAddr, text: &str) -> Result<(), Refusal> {
    match address.is_unspecified() || address.is_multicast() {
        true => {
            let what = format!("\"{text}\" is not a host address");
            Err(Refusal::new(what, "remove the key to let the system choose"))
        }
        false => Ok(()),
    }
}
