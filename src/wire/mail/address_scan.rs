//! The grammar of an address (RFC 5321 s4.1.2, RFC 6531 s3.3): the offsets of its parts, and the
//! classes of their octets.
//!
//! Cost:     one pass over the text, one table lookup per octet, no allocation.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use thiserror::Error;

/// Why a path is refused, as text for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressFault {
    /// Any other violation of the grammar.
    #[error("Bad address syntax")]
    Syntax,
    /// `<>` as a recipient.
    #[error("The null address is not a recipient")]
    NullRecipient,
    #[error("Local part longer than 64 octets")]
    LocalTooLong,
    #[error("Domain longer than 255 octets")]
    DomainTooLong,
    #[error("Domain label longer than 63 octets")]
    LabelTooLong,
    #[error("Path longer than 256 octets")]
    PathTooLong,
    /// Invalid UTF-8, or a control character.
    #[error("Address is not valid UTF-8 text")]
    NotUtf8,
    /// Brackets around something that is neither an IPv4 nor an IPv6 address.
    #[error("Bad address literal")]
    BadLiteral,
    /// A domain that IDNA does not allow.
    #[error("Bad internationalised domain")]
    BadIdna,
}

/// Octets of a local part, with its quotes.
pub const LOCAL_BYTES_MAX: usize = 64;
/// Octets of a domain or literal.
pub const DOMAIN_BYTES_MAX: usize = 255;
pub(super) const LABEL_BYTES_MAX: usize = 63;

const ATEXT: u8 = 1;
const QTEXT: u8 = 2;
const DOMAIN: u8 = 4;
pub(super) const UPPER: u8 = 8;
pub(super) const HIGH: u8 = 16;
pub(super) const REROUTE: u8 = 32;

/// The classes of each octet.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = match byte {
            b'A'..=b'Z' => ATEXT | QTEXT | DOMAIN | UPPER,
            b'a'..=b'z' | b'0'..=b'9' | b'-' => ATEXT | QTEXT | DOMAIN,
            b'!' | b'%' => ATEXT | QTEXT | REROUTE,
            b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'/' | b'=' | b'?' => ATEXT | QTEXT,
            b'^' | b'_' | b'`' | b'{' | b'|' | b'}' | b'~' => ATEXT | QTEXT,
            b'@' => QTEXT | REROUTE,
            b'"' | b'\\' => 0,
            b' '..=b'~' => QTEXT,
            128.. => ATEXT | QTEXT | DOMAIN | HIGH,
            _ => 0,
        };
        at += 1;
    }
    table
}

/// The offsets of the parts of an address, and the classes of their octets.
pub(super) struct Scan {
    pub(super) at: usize,
    pub(super) end: usize,
    pub(super) seen: u8,
    pub(super) seen_domain: u8,
}

impl Scan {
    /// Scans the address at the start of `text`.
    pub(super) fn new(text: &[u8]) -> Result<Scan, AddressFault> {
        let (at, seen) = local_len(text)?;
        let Some((b'@', domain)) = text.get(at..).and_then(<[u8]>::split_first) else {
            let local = text.get(..at).unwrap_or_default();
            if !local.eq_ignore_ascii_case(b"postmaster") {
                return Err(AddressFault::Syntax);
            }
            return Ok(Scan { at, end: at, seen, seen_domain: 0 });
        };
        let (len, seen_domain) = domain_len(domain)?;
        Ok(Scan { at, end: at + 1 + len, seen: seen | (seen_domain & HIGH), seen_domain })
    }

    /// Offset of the domain; the end of the text for the bare postmaster.
    pub(super) fn domain_start(&self) -> usize {
        (self.at + 1).min(self.end)
    }
}

/// The length of the local part at the start of `text`, and the classes of its octets.
fn local_len(text: &[u8]) -> Result<(usize, u8), AddressFault> {
    if text.first() == Some(&b'"') {
        return quoted_len(text);
    }
    let mut seen = 0;
    let mut len = 0;
    let mut after_dot = true;
    for &byte in text {
        let class = CLASS[byte as usize];
        if class & ATEXT != 0 {
            after_dot = false;
            seen |= class;
        } else if byte == b'.' && !after_dot {
            after_dot = true;
        } else {
            break;
        }
        len += 1;
        if len > LOCAL_BYTES_MAX {
            return Err(AddressFault::LocalTooLong);
        }
    }
    if after_dot { Err(AddressFault::Syntax) } else { Ok((len, seen)) }
}

/// A quoted string (RFC 5321 s4.1.2): spaces and printable octets, `\` before `"` and `\`.
fn quoted_len(text: &[u8]) -> Result<(usize, u8), AddressFault> {
    let mut seen = 0;
    let mut len = 1;
    let mut escaped = false;
    for &byte in text.get(1..).unwrap_or_default() {
        len += 1;
        if len > LOCAL_BYTES_MAX {
            return Err(AddressFault::LocalTooLong);
        }
        let class = CLASS[byte as usize];
        if escaped {
            // RFC 6531 s3.3 does not extend quoted-pairSMTP: ASCII only.
            if !matches!(byte, b' '..=b'~') {
                return Err(AddressFault::Syntax);
            }
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            return Ok((len, seen));
        } else if class & QTEXT == 0 {
            return Err(AddressFault::Syntax);
        }
        seen |= class;
    }
    Err(AddressFault::Syntax)
}

/// The length of the domain or literal at the start of `text`, and the classes of its octets.
fn domain_len(text: &[u8]) -> Result<(usize, u8), AddressFault> {
    if text.first() == Some(&b'[') {
        // A literal may contain upper-case letters; `UPPER` makes the caller convert them.
        return literal_len(text).map(|len| (len, UPPER));
    }
    let mut seen = 0;
    let mut len = 0;
    let mut label = 0;
    let mut last = b'.';
    for &byte in text {
        let class = CLASS[byte as usize];
        if class & DOMAIN != 0 {
            if byte == b'-' && label == 0 {
                return Err(AddressFault::Syntax);
            }
            seen |= class;
            label += 1;
            // A U-label can be longer than 63 octets; `to_ascii` checks the length of the A-label.
            if label > LABEL_BYTES_MAX && seen & HIGH == 0 {
                return Err(AddressFault::LabelTooLong);
            }
        } else if byte == b'.' && label > 0 && last != b'-' {
            label = 0;
        } else {
            break;
        }
        last = byte;
        len += 1;
        if len > DOMAIN_BYTES_MAX {
            return Err(AddressFault::DomainTooLong);
        }
    }
    if matches!(last, b'.' | b'-') { Err(AddressFault::Syntax) } else { Ok((len, seen)) }
}

/// An address literal (RFC 5321 s4.1.3): `[192.0.2.1]` or `[IPv6:2001:db8::1]`. No other tag is in
/// use.
pub(super) fn literal_len(text: &[u8]) -> Result<usize, AddressFault> {
    let window = text.get(..text.len().min(DOMAIN_BYTES_MAX)).unwrap_or_default();
    let close = memchr::memchr(b']', window).ok_or(AddressFault::BadLiteral)?;
    let inner = window.get(1..close).and_then(|inner| std::str::from_utf8(inner).ok());
    let inner = inner.ok_or(AddressFault::BadLiteral)?;
    let is_address = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner.get(5..).is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    };
    if is_address { Ok(close + 1) } else { Err(AddressFault::BadLiteral) }
}

/// Whether `c` is a C0 or C1 control character or a Unicode line separator.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Skips a source route, `@a,@b:`. Each domain is checked and dropped.
pub(super) fn skip_route(text: &[u8]) -> Result<&[u8], AddressFault> {
    let mut rest = text;
    loop {
        rest = rest.strip_prefix(b"@").ok_or(AddressFault::Syntax)?;
        let (len, seen) = domain_len(rest)?;
        if seen & HIGH != 0 {
            return Err(AddressFault::Syntax);
        }
        let (end, after) =
            rest.get(len..).and_then(<[u8]>::split_first).ok_or(AddressFault::Syntax)?;
        rest = after;
        match end {
            b':' => return Ok(rest),
            b',' => {}
            _ => return Err(AddressFault::Syntax),
        }
    }
}
