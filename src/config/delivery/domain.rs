//! Domains in the rules of routes and destinations.
//!
//! Promise:  a value of this type is valid.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;
use crate::config::name::DomainPattern;

/// The length limit of a domain, so that a pattern costs no more than a name.
const PATTERN_BYTES_MAX: usize = 253;

/// Domains in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainMatch {
    /// This domain.
    Exact(String),
    /// All subdomains, stored without the leading dot.
    Below(String),
    /// All that match this pattern; `*` matches any characters, also none.
    Like(String),
    /// This address, written as an address literal.
    Literal(IpAddr),
}

impl DomainMatch {
    /// Whether it matches every domain.
    pub fn is_everything(&self) -> bool {
        matches!(self, DomainMatch::Like(pattern) if pattern.bytes().all(|b| b == b'*'))
    }

    /// Whether it matches everything that `other` matches.
    pub fn covers(&self, other: &DomainMatch) -> bool {
        let is_below = |name: &str, head: &str| {
            name.strip_suffix(head).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match (self, other) {
            _ if self.is_everything() || self == other => true,
            (DomainMatch::Below(head), DomainMatch::Exact(name) | DomainMatch::Below(name)) => {
                is_below(name, head)
            }
            _ => false,
        }
    }
}

impl From<&DomainPattern> for DomainMatch {
    fn from(pattern: &DomainPattern) -> DomainMatch {
        match pattern {
            DomainPattern::Exact(name) => DomainMatch::Exact(name.clone()),
            DomainPattern::Below(name) => DomainMatch::Below(name.clone()),
        }
    }
}

impl fmt::Display for DomainMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainMatch::Exact(name) | DomainMatch::Like(name) => f.write_str(name),
            DomainMatch::Below(name) => write!(f, ".{name}"),
            DomainMatch::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            DomainMatch::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

impl Spelled for DomainMatch {
    fn spelling() -> String {
        "a domain, such as `\"example.com\"`, `\".example.com\"` for its subdomains, or a pattern, \
         such as `\"*mail.example*\"`"
            .to_owned()
    }

    fn spell(text: &str) -> Result<DomainMatch, Refusal> {
        if text.contains('*') {
            return spell_pattern(text);
        }
        if text.starts_with('[') {
            let literal = parse_literal(text).map(DomainMatch::Literal);
            return literal.ok_or_else(|| {
                let hint = "write it as \"[192.0.2.1]\" or \"[IPv6:2001:db8::1]\"";
                Refusal::new(format!("\"{text}\" is not an address literal"), hint)
            });
        }
        DomainPattern::spell(text).map(|pattern| (&pattern).into())
    }
}

fn spell_pattern(text: &str) -> Result<DomainMatch, Refusal> {
    // Subdomains are found by a lookup, patterns only by comparison.
    if let Some(below) = text.strip_prefix("*.")
        && let Ok(DomainPattern::Exact(name)) = DomainPattern::spell(below)
    {
        return Ok(DomainMatch::Below(name));
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"*.-_[]:".contains(&b);
    let hint = match text {
        _ if !text.is_ascii() => "write it in its ASCII form (xn--...)",
        _ if text.contains('@') => "write only the part after the @",
        _ if text.len() > PATTERN_BYTES_MAX || !text.bytes().all(letter) => {
            "write it as \"*mail.example*\""
        }
        _ => return Ok(DomainMatch::Like(text.to_ascii_lowercase())),
    };
    Err(Refusal::new(format!("\"{text}\" is not a domain pattern"), hint))
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 s4.1.3).
pub fn parse_literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match inner.split_at_checked("IPv6:".len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
        }
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// The literal of an address, as `parse_literal` reads it.
pub fn literal_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}
