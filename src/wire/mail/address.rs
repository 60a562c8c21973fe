//! Mail addresses: paths of `MAIL FROM` and `RCPT TO`, by RFC 5321 s4.1.2 and RFC 6531 s3.3.
//!
//! Promise:  what is accepted obeys the grammar, holds no control character, and reads back from
//!           `as_str` unchanged. Source routes are checked and dropped (RFC 5321 s3.6.1).
//! Cost:     an ASCII address is read in one pass and copied once, into the arena of its
//!           transaction. Only a domain that is not ASCII takes the slow way through IDNA.
//! Bounds:   64 octets of local part, 255 of domain, 256 of path (RFC 5321 s4.5.3.1.1 to 3).

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use bumpalo::Bump;
use idna::AsciiDenyList;
use idna::uts46::DnsLength;
use idna::uts46::Hyphens;
use idna::uts46::Uts46;

/// Octets of a local part, with its quotes.
pub const LOCAL_BYTES_MAX: usize = 64;
/// Octets of a domain or literal.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Octets of a path with its angle brackets and its source route.
pub const PATH_BYTES_MAX: usize = 256;
const LABEL_BYTES_MAX: usize = 63;

/// An address as accepted: `local@domain`, borrowed from an arena or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    text: &'a str,
    /// Where the `@` is; the length of `text` for the bare postmaster.
    at: u16,
    utf8: bool,
    rerouting: bool,
}

impl<'a> Mailbox<'a> {
    /// Reads back what `as_str` gave; `None` for anything else.
    pub fn from_stored(text: &'a str) -> Option<Mailbox<'a>> {
        let scan = Scan::new(text.as_bytes()).ok()?;
        let domain = text.get(scan.domain_start()..)?;
        let settled = domain.starts_with('[') || !domain.bytes().any(|b| b.is_ascii_uppercase());
        let whole = scan.end == text.len() && text.len() + 2 <= PATH_BYTES_MAX;
        (whole && settled && !has_control(text)).then(|| scan.mailbox(text))
    }

    /// `local@domain`, the domain in lower case.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The local part as it was written, quotes included.
    pub fn local(self) -> &'a str {
        self.text.get(..self.at as usize).unwrap_or(self.text)
    }

    /// The domain; a literal with its brackets; empty only for the bare `<Postmaster>`.
    pub fn domain(self) -> &'a str {
        self.text.get(self.at as usize + 1..).unwrap_or("")
    }

    /// Whether the address can only travel under SMTPUTF8.
    pub fn is_utf8(self) -> bool {
        self.utf8
    }

    /// The address itself if it may be used without SMTPUTF8.
    pub fn require_ascii(self) -> Result<Mailbox<'a>, AddressFault> {
        if self.utf8 { Err(AddressFault::NeedsSmtputf8) } else { Ok(self) }
    }

    /// Whether this is the postmaster of its domain (RFC 5321 s4.5.1: in any case).
    pub fn is_postmaster(self) -> bool {
        self.local().eq_ignore_ascii_case("postmaster")
    }

    /// Whether the local part asks somebody to send the mail on: `%`-hack, bang path or an inner
    /// `@`. Such an address is never relayed.
    pub fn is_rerouting(self) -> bool {
        self.rerouting
    }

    /// Whether the domain is an address literal.
    pub fn is_literal(self) -> bool {
        self.domain().starts_with('[')
    }

    /// The domain in A-labels, as DNS and policies know it; a literal stays as it is.
    pub fn domain_ascii(self) -> Option<Cow<'a, str>> {
        let domain = self.domain();
        if domain.is_ascii() { Some(Cow::Borrowed(domain)) } else { to_ascii(domain).ok() }
    }
}

impl fmt::Display for Mailbox<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// What `MAIL FROM` names: nobody, or who is told about failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath<'a> {
    Null,
    Mailbox(Mailbox<'a>),
}

impl<'a> ReversePath<'a> {
    /// `local@domain`, or nothing for the null path.
    pub fn as_str(self) -> &'a str {
        match self {
            ReversePath::Null => "",
            ReversePath::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    /// Whether the path can only travel under SMTPUTF8.
    pub fn is_utf8(self) -> bool {
        matches!(self, ReversePath::Mailbox(mailbox) if mailbox.is_utf8())
    }
}

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFault {
    /// Not by the grammar, the rest.
    Syntax,
    /// `<>` where a recipient is asked for.
    NullRecipient,
    LocalTooLong,
    DomainTooLong,
    LabelTooLong,
    PathTooLong,
    /// Not UTF-8, or with a control character in it.
    NotUtf8,
    /// Well-formed, but not without SMTPUTF8 (`Mailbox::require_ascii`).
    NeedsSmtputf8,
    /// Brackets around something that is neither an IPv4 nor an IPv6 address.
    BadLiteral,
    /// A domain that IDNA does not allow.
    BadIdna,
}

impl AddressFault {
    /// The cause in words that a peer may read.
    pub fn text(self) -> &'static str {
        match self {
            AddressFault::Syntax => "Bad address syntax",
            AddressFault::NullRecipient => "The null address is not a recipient",
            AddressFault::LocalTooLong => "Local part longer than 64 octets",
            AddressFault::DomainTooLong => "Domain longer than 255 octets",
            AddressFault::LabelTooLong => "Domain label longer than 63 octets",
            AddressFault::PathTooLong => "Path longer than 256 octets",
            AddressFault::NotUtf8 => "Address is not valid UTF-8 text",
            AddressFault::NeedsSmtputf8 => "Address needs SMTPUTF8",
            AddressFault::BadLiteral => "Bad address literal",
            AddressFault::BadIdna => "Bad internationalised domain",
        }
    }
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for AddressFault {}

/// Parses the reverse path at the start of `text`, copies it into `arena`, and gives the rest.
pub fn parse_reverse_path<'t, 'i>(
    text: &'i [u8],
    arena: &'t Bump,
) -> Result<(ReversePath<'t>, &'i [u8]), AddressFault> {
    if let Some(rest) = text.strip_prefix(b"<>") {
        return Ok((ReversePath::Null, rest));
    }
    let (mailbox, rest) = parse_path(text, arena)?;
    // RFC 5321 s4.5.1: only a recipient may be a postmaster without a domain.
    if mailbox.domain().is_empty() {
        return Err(AddressFault::Syntax);
    }
    Ok((ReversePath::Mailbox(mailbox), rest))
}

/// Parses the forward path at the start of `text`, copies it into `arena`, and gives the rest.
pub fn parse_forward_path<'t, 'i>(
    text: &'i [u8],
    arena: &'t Bump,
) -> Result<(Mailbox<'t>, &'i [u8]), AddressFault> {
    if text.starts_with(b"<>") {
        return Err(AddressFault::NullRecipient);
    }
    parse_path(text, arena)
}

/// Whether `text` may stand behind HELO or EHLO: a domain or an address literal, in ASCII (RFC 5321
/// s4.1.1.1). An underscore passes as a letter does, for many a machine has one in its name.
pub fn is_domain_or_literal(text: &[u8]) -> bool {
    if text.first() == Some(&b'[') {
        return literal_len(text) == Ok(text.len());
    }
    let is_label = |label: &[u8]| {
        let ends_well = label.first() != Some(&b'-') && label.last() != Some(&b'-');
        let lawful = label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && ends_well && lawful
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split(|b| *b == b'.').all(is_label)
}

fn parse_path<'t, 'i>(
    text: &'i [u8],
    arena: &'t Bump,
) -> Result<(Mailbox<'t>, &'i [u8]), AddressFault> {
    let inner = text.strip_prefix(b"<").ok_or(AddressFault::Syntax)?;
    let inner = if inner.first() == Some(&b'@') { skip_route(inner)? } else { inner };
    let scan = Scan::new(inner)?;
    let (address, rest) = inner.split_at_checked(scan.end).ok_or(AddressFault::Syntax)?;
    let rest = rest.strip_prefix(b">").ok_or(AddressFault::Syntax)?;
    if text.len() - rest.len() > PATH_BYTES_MAX {
        return Err(AddressFault::PathTooLong);
    }
    let address = std::str::from_utf8(address).map_err(|_| AddressFault::NotUtf8)?;
    if scan.seen & HIGH != 0 && has_control(address) {
        return Err(AddressFault::NotUtf8);
    }
    if scan.seen_domain & HIGH != 0 {
        return Ok((keep_international(&scan, address, arena)?, rest));
    }
    Ok((scan.mailbox(keep(&scan, address, arena)), rest))
}

/// Copies an address whose domain is ASCII, the domain in lower case.
fn keep<'t>(scan: &Scan, address: &str, arena: &'t Bump) -> &'t str {
    let text = arena.alloc_str(address);
    let start = scan.domain_start();
    if scan.seen_domain & UPPER != 0
        && let Some(domain) = text.get_mut(start..)
    {
        domain.make_ascii_lowercase();
        // RFC 5321 s4.1.3 writes the tag so, and some compare it so.
        if domain.starts_with("[ipv6:")
            && let Some(tag) = domain.get_mut(1..3)
        {
            tag.make_ascii_uppercase();
        }
    }
    text
}

/// Copies an address whose domain is not ASCII, the domain in settled U-labels.
fn keep_international<'t>(
    scan: &Scan,
    address: &str,
    arena: &'t Bump,
) -> Result<Mailbox<'t>, AddressFault> {
    let start = scan.domain_start();
    let (Some(front), Some(domain)) = (address.get(..start), address.get(start..)) else {
        return Err(AddressFault::Syntax);
    };
    let settled = to_settled_unicode(domain)?;
    if settled.len() > DOMAIN_BYTES_MAX {
        return Err(AddressFault::DomainTooLong);
    }
    if front.len() + settled.len() + 2 > PATH_BYTES_MAX {
        return Err(AddressFault::PathTooLong);
    }
    let mut text = bumpalo::collections::String::with_capacity_in(address.len(), arena);
    text.push_str(front);
    text.push_str(&settled);
    Ok(scan.mailbox(text.into_bump_str()))
}

fn to_ascii(domain: &str) -> Result<Cow<'_, str>, AddressFault> {
    Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| AddressFault::BadIdna)
}

/// The one spelling under which this domain is kept. A domain that only looks international, such
/// as one in full-width letters, is refused: policies would see it as a different one than the peer.
fn to_settled_unicode(domain: &str) -> Result<Cow<'_, str>, AddressFault> {
    to_ascii(domain)?;
    let uts = Uts46::new();
    let (settled, verdict) =
        uts.to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    if verdict.is_err() || settled.is_ascii() {
        return Err(AddressFault::BadIdna);
    }
    Ok(settled)
}

/// Characters that no line, log or terminal may be given: C0, C1 and Unicode's line ends.
fn has_control(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// `@a,@b:` before an address: at least one domain, each checked, all dropped.
fn skip_route(text: &[u8]) -> Result<&[u8], AddressFault> {
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

const ATEXT: u8 = 1;
const QTEXT: u8 = 2;
const DOMAIN: u8 = 4;
const UPPER: u8 = 8;
const HIGH: u8 = 16;
const REROUTE: u8 = 32;

/// What each octet may be part of.
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

/// Where the parts of an address lie, and which classes of octets they hold.
struct Scan {
    at: usize,
    end: usize,
    seen: u8,
    seen_domain: u8,
}

impl Scan {
    /// Reads an address from the start of `text`, as far as it goes.
    fn new(text: &[u8]) -> Result<Scan, AddressFault> {
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

    /// Where the domain starts; the end of the text for the bare postmaster.
    fn domain_start(&self) -> usize {
        (self.at + 1).min(self.end)
    }

    fn mailbox<'a>(&self, text: &'a str) -> Mailbox<'a> {
        Mailbox {
            text,
            at: self.at as u16,
            utf8: self.seen & HIGH != 0,
            rerouting: self.seen & REROUTE != 0,
        }
    }
}

/// Octets of the local part at the start of `text`, and their classes.
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

/// RFC 5321 s4.1.2 Quoted-string: spaces and printable octets, `\` before `"` and `\`.
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
            // RFC 6531 s3.3 leaves quoted-pairSMTP as it was: ASCII only.
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

/// Octets of the domain or literal at the start of `text`, and their classes.
fn domain_len(text: &[u8]) -> Result<(usize, u8), AddressFault> {
    if text.first() == Some(&b'[') {
        // A literal's letters may have to be put in lower case; its class costs nothing to assume.
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
            // A U-label is longer than the A-label that IDNA will measure.
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

/// RFC 5321 s4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`; no other tag is in use.
fn literal_len(text: &[u8]) -> Result<usize, AddressFault> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses a path that must take all of `text`, and shows what was kept.
    fn forward(text: &str) -> Result<String, AddressFault> {
        let arena = Bump::new();
        let (mailbox, rest) = parse_forward_path(text.as_bytes(), &arena)?;
        assert_eq!(rest, b"", "{text}");
        let kept = mailbox.as_str();
        assert_eq!(Mailbox::from_stored(kept), Some(mailbox), "{kept} is read back");
        let parts = [mailbox.local(), if mailbox.domain().is_empty() { "" } else { "@" }];
        assert_eq!([parts.concat().as_str(), mailbox.domain()].concat(), kept);
        assert_eq!(mailbox.is_utf8(), !kept.is_ascii(), "{kept}");
        Ok(kept.to_owned())
    }

    #[test]
    fn lawful_paths_are_kept_in_one_spelling() {
        let local_64 = "l".repeat(64);
        let label = "d".repeat(63);
        let domain_189 = format!("{}.{label}.{}", label, "d".repeat(61));
        let longest = format!("{local_64}@{domain_189}");
        let rows = [
            ("plain", "a@b.test", "a@b.test"),
            ("domain in capitals", "John.Doe@EXAMPLE.Test", "John.Doe@example.test"),
            ("one label", "root@localhost", "root@localhost"),
            ("all of atext", "a!#$%&'*+-/=?^_`{|}~z@b.test", "a!#$%&'*+-/=?^_`{|}~z@b.test"),
            ("digits and hyphens", "1@2.3-4.x--y", "1@2.3-4.x--y"),
            ("quoted space", "\"a b\"@c.test", "\"a b\"@c.test"),
            ("quoted dots and brackets", "\"..<a>@b,\"@C.test", "\"..<a>@b,\"@c.test"),
            ("escapes", "\"a\\\"\\\\\\@\"@c.test", "\"a\\\"\\\\\\@\"@c.test"),
            ("empty quotes", "\"\"@c.test", "\"\"@c.test"),
            ("one hop of route", "@x.test:a@b.test", "a@b.test"),
            ("a long route", "@x.test,@y.test:a@b.test", "a@b.test"),
            ("IPv4 literal", "a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("IPv6 literal", "a@[ipV6:2001:DB8::1]", "a@[IPv6:2001:db8::1]"),
            ("IPv6 with IPv4", "a@[IPv6:::ffff:192.0.2.1]", "a@[IPv6:::ffff:192.0.2.1]"),
            ("bare postmaster", "PostMaster", "PostMaster"),
            ("UTF-8 local part", "j\u{fc}rgen@b.test", "j\u{fc}rgen@b.test"),
            ("UTF-8 quoted", "\"j \u{fc}\"@b.test", "\"j \u{fc}\"@b.test"),
            ("UTF-8 domain", "a@B\u{dc}cher.Test", "a@b\u{fc}cher.test"),
            ("A-label stays", "a@XN--BCHER-KVA.test", "a@xn--bcher-kva.test"),
            (
                "A-label beside a U-label",
                "a@xn--bcher-kva.\u{fc}.test",
                "a@b\u{fc}cher.\u{fc}.test",
            ),
            ("composed by IDNA", "a@bu\u{308}cher.test", "a@b\u{fc}cher.test"),
            ("as long as may be", &longest, &longest),
        ];
        for (name, inner, kept) in rows {
            assert_eq!(forward(&format!("<{inner}>")), Ok(kept.to_owned()), "{name}");
        }
    }

    #[test]
    fn unlawful_paths_are_refused_by_cause() {
        use AddressFault::*;
        let rows = [
            ("no brackets", "a@b.test".to_owned(), Syntax),
            ("nothing", String::new(), Syntax),
            ("no end", "<a@b.test".into(), Syntax),
            ("null", "<>".into(), NullRecipient),
            ("no local part", "<@b.test>".into(), Syntax),
            ("no domain", "<a@>".into(), Syntax),
            ("no at", "<a>".into(), Syntax),
            ("dot in front", "<.a@b.test>".into(), Syntax),
            ("dot behind", "<a.@b.test>".into(), Syntax),
            ("two dots", "<a..a@b.test>".into(), Syntax),
            ("space", "<a b@c.test>".into(), Syntax),
            ("space within brackets", "< a@b.test>".into(), Syntax),
            ("two ats", "<a@b@c.test>".into(), Syntax),
            ("open quote", "<\"a@b.test>".into(), Syntax),
            ("text behind quotes", "<\"a\"b@c.test>".into(), Syntax),
            ("quote within", "<a\"b\"@c.test>".into(), Syntax),
            ("tab in quotes", "<\"a\tb\"@c.test>".into(), Syntax),
            ("escaped tab", "<\"a\\\tb\"@c.test>".into(), Syntax),
            ("escaped UTF-8", "<\"\\\u{fc}\"@c.test>".into(), Syntax),
            ("NUL", "<a\0@b.test>".into(), Syntax),
            ("CR LF", "<a@b.test\r\n>".into(), Syntax),
            ("DEL", "<a\u{7f}@b.test>".into(), Syntax),
            ("trailing dot", "<a@b.test.>".into(), Syntax),
            ("empty label", "<a@b..test>".into(), Syntax),
            ("hyphen in front", "<a@-b.test>".into(), Syntax),
            ("hyphen behind", "<a@b-.test>".into(), Syntax),
            ("hyphen last", "<a@b->".into(), Syntax),
            ("underscore", "<a@b_c.test>".into(), Syntax),
            ("route without address", "<@x.test:>".into(), Syntax),
            ("route without colon", "<@x.test,a@b.test>".into(), Syntax),
            ("route to nowhere", "<@:a@b.test>".into(), Syntax),
            ("route to a literal", "<@[192.0.2.1]x:a@b.test>".into(), Syntax),
            ("route in UTF-8", "<@\u{fc}.test:a@b.test>".into(), Syntax),
            ("local part too long", format!("<{}@b.test>", "a".repeat(65)), LocalTooLong),
            ("quotes too long", format!("<\"{}\"@b.test>", "a".repeat(63)), LocalTooLong),
            ("label too long", format!("<a@{}.test>", "b".repeat(64)), LabelTooLong),
            ("domain too long", format!("<a@{}b>", "b.".repeat(128)), DomainTooLong),
            ("path too long", format!("<{}@{}b>", "a".repeat(64), "b.".repeat(100)), PathTooLong),
            ("route too long", format!("<{}:a@b.test>", ["@r"; 90].join(",")), PathTooLong),
            ("general literal", "<a@[tag:text]>".into(), BadLiteral),
            ("IPv6 without tag", "<a@[::1]>".into(), BadLiteral),
            ("IPv6 with zone", "<a@[IPv6:fe80::1%1]>".into(), BadLiteral),
            ("IPv4 out of range", "<a@[192.0.2.256]>".into(), BadLiteral),
            ("IPv4 with zeros", "<a@[192.0.02.1]>".into(), BadLiteral),
            ("open literal", "<a@[192.0.2.1>".into(), BadLiteral),
            ("text behind a literal", "<a@[192.0.2.1].test>".into(), Syntax),
            ("C1 control", "<a\u{85}@b.test>".into(), NotUtf8),
            ("line separator", "<a\u{2028}@b.test>".into(), NotUtf8),
            ("full-width domain", "<a@\u{ff42}.test>".into(), BadIdna),
            ("full-width at", "<a@b\u{ff20}c.test>".into(), BadIdna),
            ("ideographic trailing dot", "<a@b\u{fc}.test\u{3002}>".into(), BadIdna),
            ("unassigned", "<a@\u{378}.test>".into(), BadIdna),
            ("not a label", "<a@\u{2f800}\u{301}\u{200d}.test>".into(), BadIdna),
            ("false A-label", "<a@xn--zzzzzz99.\u{fc}>".into(), BadIdna),
            ("U-label too long", format!("<a@{}>", "\u{fc}".repeat(70)), BadIdna),
        ];
        for (name, text, fault) in rows {
            assert_eq!(forward(&text), Err(fault), "{name}: {text}");
        }
        let arena = Bump::new();
        for broken in [&b"<\xff@b.test>"[..], b"<a@\xc3.test>", b"<\xc0\x80@b.test>"] {
            let found = parse_forward_path(broken, &arena);
            assert_eq!(found, Err(NotUtf8), "{broken:?}");
        }
    }

    #[test]
    fn a_reverse_path_may_be_null_but_not_bare() {
        let arena = Bump::new();
        let parse = |text: &'static str| parse_reverse_path(text.as_bytes(), &arena);
        assert_eq!(parse("<> SIZE=1"), Ok((ReversePath::Null, &b" SIZE=1"[..])));
        assert_eq!(parse("<postmaster>"), Err(AddressFault::Syntax));
        assert_eq!(parse("< >"), Err(AddressFault::Syntax));
        let (path, rest) = parse("<@x.test:A@B.test> SIZE=1").expect("a lawful path");
        assert_eq!((path.as_str(), path.is_utf8(), rest), ("A@b.test", false, &b" SIZE=1"[..]));
    }

    #[test]
    fn mailboxes_say_what_they_are() {
        let check = |text: &str, expected: [bool; 3], ascii: Option<&str>| {
            let arena = Bump::new();
            let parsed = parse_forward_path(text.as_bytes(), &arena).map(|(mailbox, _)| mailbox);
            let mailbox = parsed.expect("a lawful path");
            let found = [mailbox.is_postmaster(), mailbox.is_rerouting(), mailbox.is_utf8()];
            assert_eq!(found, expected, "{text}");
            assert_eq!(mailbox.domain_ascii().as_deref(), ascii, "{text}");
            let without = if expected[2] { Err(AddressFault::NeedsSmtputf8) } else { Ok(mailbox) };
            assert_eq!(mailbox.require_ascii(), without, "{text}");
        };
        check("<a@B.test>", [false; 3], Some("b.test"));
        check("<POSTMASTER@b.test>", [true, false, false], Some("b.test"));
        check("<Postmaster>", [true, false, false], Some(""));
        check("<a%c.test@b.test>", [false, true, false], Some("b.test"));
        check("<c.test!a@b.test>", [false, true, false], Some("b.test"));
        check("<\"a@c.test\"@b.test>", [false, true, false], Some("b.test"));
        check("<\"a\\@c.test\"@b.test>", [false, true, false], Some("b.test"));
        check("<@c.test:a@b.test>", [false; 3], Some("b.test"));
        check("<a@b\u{fc}cher.test>", [false, false, true], Some("xn--bcher-kva.test"));
        check("<\u{fc}@b.test>", [false, false, true], Some("b.test"));
        check("<a@[IPv6:::1]>", [false; 3], Some("[IPv6:::1]"));
    }

    #[test]
    fn only_what_was_kept_is_read_back() {
        for text in
            ["", "a", "a@", "a@B.test", "a@b.test ", "<a@b.test>", "@x:a@b.test", "a\u{85}@b"]
        {
            assert_eq!(Mailbox::from_stored(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_greeting_names_a_domain_or_literal() {
        let long = "a.".repeat(127) + "ab";
        let rows = [
            ("mx.example", true),
            ("localhost", true),
            ("MY_PC", true),
            ("_a.b-c.1", true),
            ("[192.0.2.1]", true),
            ("[IPv6:::1]", true),
            ("192.0.2.1", true),
            (&long[1..], false),
            ("", false),
            (".", false),
            ("a.", false),
            (".a", false),
            ("a..b", false),
            ("-a", false),
            ("a-.b", false),
            ("a b", false),
            ("[::1]", false),
            ("[a]", false),
            ("[192.0.2.1]x", false),
            ("a\0", false),
            ("\u{fc}.test", false),
            (&long, false),
            (&long[2..], true),
        ];
        for (text, lawful) in rows {
            assert_eq!(is_domain_or_literal(text.as_bytes()), lawful, "{text:?}");
        }
    }

    #[test]
    fn an_ordinary_address_takes_one_allocation() {
        let arena = Bump::with_capacity(64);
        let before = arena.chunk_capacity();
        let text = b"<John.Doe+list@Example.Test>";
        let parsed = parse_forward_path(text, &arena);
        assert!(parsed.is_ok());
        assert_eq!(before - arena.chunk_capacity(), text.len() - 2, "the arena took one copy");
    }

    proptest! {
        /// Nothing panics, and what is accepted is read back.
        #[test]
        fn any_text_is_a_value(text in "<(@x:)?[a-z.\"\\\\ %\u{fc}\u{4e00}]{0,12}@[\\[a-zA-Z.\\]\u{df}\u{3002}\u{ff0e}-]{0,12}>") {
            let _ = forward(&text).is_ok();
        }

        #[test]
        fn any_domain_settles(domain in "\\PC{1,12}") {
            let _ = forward(&format!("<a@{}>", domain.replace('>', ""))).is_ok();
        }
    }
}
