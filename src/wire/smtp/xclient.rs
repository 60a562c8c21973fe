//! XCLIENT: a trusted proxy passes on the identity of its client.
//!
//! Format:   Postfix `XCLIENT_README`: `name=value` pairs, values in xtext, `[UNAVAILABLE]` and
//!           `[TEMPUNAVAIL]` for values that the proxy does not know.
//! Promise:  attributes outside `ATTRIBUTES` are refused, so that no proxy relies on an attribute
//!           without effect; the driver applies all others. This file checks only the form of the
//!           values. The driver decides whether the peer may use XCLIENT.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::xtext;

/// The attributes that EHLO announces.
pub const ATTRIBUTES: &str = "NAME ADDR PORT HELO";

/// Bytes of a decoded value. A longer one is refused with 501.
pub const VALUE_BYTES_MAX: usize = 255;

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Attribute<T> {
    /// Not mentioned: the earlier value stays.
    #[default]
    Absent,
    Unavailable,
    TemporarilyUnavailable,
    Given(T),
}

impl<T> Attribute<T> {
    /// The value, if there is one.
    pub fn given(&self) -> Option<&T> {
        match self {
            Attribute::Given(value) => Some(value),
            _ => None,
        }
    }
}

/// The attributes of one XCLIENT command.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Xclient {
    pub name: Attribute<String>,
    pub addr: Attribute<IpAddr>,
    pub port: Attribute<u16>,
    pub helo: Attribute<String>,
}

const SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Syntax: XCLIENT attribute=value...");
const NOT_OFFERED: Reply = Reply::new(501, (5, 5, 4), "XCLIENT attribute is not offered");
const BAD_VALUE: Reply = Reply::new(501, (5, 5, 4), "XCLIENT value is not valid");
const TWICE: Reply = Reply::new(501, (5, 5, 4), "XCLIENT attribute given twice");

impl Xclient {
    /// Parses the argument of the command.
    pub fn parse(argument: &[u8]) -> Result<Xclient, Reply> {
        let mut all = Xclient::default();
        let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mut next = Some(words.next().ok_or(SYNTAX)?);
        while let Some(word) = next {
            let equals = memchr::memchr(b'=', word).ok_or(SYNTAX)?;
            all.set(&word[..equals], &word[equals + 1..])?;
            next = words.next();
        }
        Ok(all)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reply> {
        let mut upper = [0; 8];
        let upper = upper.get_mut(..name.len()).ok_or(NOT_OFFERED)?;
        upper.copy_from_slice(name);
        upper.make_ascii_uppercase();
        match &*upper {
            b"NAME" => fill(&mut self.name, value, Some),
            b"ADDR" => fill(&mut self.addr, value, |text| address(&text)),
            b"PORT" => fill(&mut self.port, value, |text| text.parse().ok()),
            b"HELO" => fill(&mut self.helo, value, Some),
            _ => Err(NOT_OFFERED),
        }
    }
}

fn fill<T>(
    place: &mut Attribute<T>,
    value: &[u8],
    read: impl FnOnce(String) -> Option<T>,
) -> Result<(), Reply> {
    if !matches!(place, Attribute::Absent) {
        return Err(TWICE);
    }
    let text = xtext::decode(value).ok_or(BAD_VALUE)?;
    *place = if text.eq_ignore_ascii_case("[UNAVAILABLE]") {
        Attribute::Unavailable
    } else if text.eq_ignore_ascii_case("[TEMPUNAVAIL]") {
        Attribute::TemporarilyUnavailable
    } else if text.is_empty() || text.len() > VALUE_BYTES_MAX {
        return Err(BAD_VALUE);
    } else {
        Attribute::Given(read(text).ok_or(BAD_VALUE)?)
    };
    Ok(())
}

fn address(text: &str) -> Option<IpAddr> {
    match text.split_at_checked("IPV6:".len()) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPV6:") => {
            rest.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read() {
        let text = b"NAME=a+2Bb.test addr=IPV6:::1 PORT=25 HELO=[UNAVAILABLE]";
        let all = Xclient::parse(text).expect("the argument is well-formed");
        assert_eq!(all.name, Attribute::Given("a+b.test".into()));
        assert_eq!(all.addr, Attribute::Given(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(all.port, Attribute::Given(25));
        assert_eq!(all.helo, Attribute::Unavailable);
        let all =
            Xclient::parse(b"NAME=[TEMPUNAVAIL] PORT=65535").expect("the argument is well-formed");
        assert_eq!(all.name, Attribute::TemporarilyUnavailable);
        assert_eq!((all.addr, all.port), (Attribute::Absent, Attribute::Given(65535)));
    }

    /// EHLO lists exactly the attributes that are accepted.
    #[test]
    fn attributes_that_are_not_offered_are_refused() {
        for name in ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"] {
            let offered = ATTRIBUTES.split(' ').any(|one| one == name);
            let read = Xclient::parse(format!("{name}=[UNAVAILABLE]").as_bytes());
            assert_eq!(read.err(), (!offered).then_some(NOT_OFFERED), "{name}");
        }
    }

    #[test]
    fn bad_attributes_are_refused() {
        let rows: [(&str, &str, Reply); 12] = [
            ("none", "", SYNTAX),
            ("no value", "NAME", SYNTAX),
            ("empty value", "NAME=", BAD_VALUE),
            ("unknown", "COLOUR=red", NOT_OFFERED),
            ("unknown and long", "ABCDEFGHIJ=1", NOT_OFFERED),
            ("twice", "PORT=1 PORT=2", TWICE),
            ("port too large", "PORT=65536", BAD_VALUE),
            ("negative port", "PORT=-1", BAD_VALUE),
            ("bad address", "ADDR=1.2.3", BAD_VALUE),
            ("IPv6 without its tag", "ADDR=::1", BAD_VALUE),
            ("hidden line break", "HELO=a+0D+0Ab", BAD_VALUE),
            ("broken xtext", "HELO=a+4", BAD_VALUE),
        ];
        for (name, text, reply) in rows {
            assert_eq!(Xclient::parse(text.as_bytes()), Err(reply), "{name}");
        }
        let long = format!("NAME={}", "a".repeat(VALUE_BYTES_MAX + 1));
        assert_eq!(Xclient::parse(long.as_bytes()), Err(BAD_VALUE));
    }
}
