//! Types of delivery values: members of pools, stripes, addresses.
//!
//! Promise:  a value of these types is valid.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::base::Class;
use crate::config::fault::Refusal;
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
use crate::config::reading::Reading;
use crate::wire::mail::address::Mailbox;

const PORT_DNS: u16 = 53;

/// The largest weight of a source.
const WEIGHT_MAX: u32 = 1_000_000;

/// The number of shards that share a destination, each with a part of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripes {
    /// All shards if each gets at least two connections and no rate limit is set; otherwise one.
    Auto,
    All,
    Count(u32),
}

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes::Count(1)
    }
}

impl fmt::Display for Stripes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stripes::Auto => f.write_str("auto"),
            Stripes::All => f.write_str("all"),
            Stripes::Count(count) => count.fmt(f),
        }
    }
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
                u32::read(value, Some((1, STRIPES_MAX)), reading).map(Stripes::Count)
            }
            _ => wrong_type(value, &Stripes::written(), "", reading),
        }
    }

    fn from_text(text: &str) -> Result<Plain, Refusal> {
        Ok(number_from(text))
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

impl Spelled for Class {
    fn spelling() -> String {
        "one of `\"urgent\"`, `\"normal\"`, `\"bulk\"`".to_owned()
    }

    fn spell(text: &str) -> Result<Class, Refusal> {
        choose(text, &Class::ALL.map(|class| (class.label(), class)))
    }
}

/// The address of a recipient, in lower case and with A-labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientAddress(String);

impl AsRef<str> for RecipientAddress {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecipientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Spelled for RecipientAddress {
    fn spelling() -> String {
        "a mail address, such as `\"user@example.com\"`".to_owned()
    }

    fn spell(text: &str) -> Result<RecipientAddress, Refusal> {
        let lowered = text.to_lowercase();
        let mailbox = Mailbox::from_stored(&lowered).filter(|one| !one.domain().is_empty());
        let address = mailbox.and_then(|one| {
            Some(RecipientAddress(format!("{}@{}", one.local(), one.domain_ascii()?)))
        });
        address.ok_or_else(|| {
            let hint = "write it as \"user@example.com\"; recipient_domain takes domains";
            Refusal::new(format!("\"{text}\" is not a mail address"), hint)
        })
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
