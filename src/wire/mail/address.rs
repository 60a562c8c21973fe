//! Mail addresses: the paths of `MAIL FROM` and `RCPT TO` (RFC 5321 s4.1.2, RFC 6531 s3.3).
//!
//! Promise:  an accepted address obeys the grammar and contains no control character. `from_stored`
//!           parses the text of `as_str` to the same address. Source routes are checked and dropped
//!           (RFC 5321 s3.6.1).
//! Cost:     an ASCII address is parsed in one pass and copied once, into the arena of its
//!           transaction. Only a domain that is not ASCII is converted by IDNA.
//! Bounds:   64 octets of local part, 255 of domain, 256 of path (RFC 5321 s4.5.3.1.1 to 3).

use std::borrow::Cow;
use std::fmt;

use bumpalo::Bump;
use idna::AsciiDenyList;
use idna::uts46::DnsLength;
use idna::uts46::Hyphens;
use idna::uts46::Uts46;

use crate::wire::mail::address_scan::AddressFault;
use crate::wire::mail::address_scan::DOMAIN_BYTES_MAX;
use crate::wire::mail::address_scan::HIGH;
use crate::wire::mail::address_scan::LABEL_BYTES_MAX;
use crate::wire::mail::address_scan::REROUTE;
use crate::wire::mail::address_scan::Scan;
use crate::wire::mail::address_scan::UPPER;
use crate::wire::mail::address_scan::is_control;
use crate::wire::mail::address_scan::literal_len;
use crate::wire::mail::address_scan::skip_route;

/// Octets of a path with its angle brackets and its source route.
pub const PATH_BYTES_MAX: usize = 256;

/// An accepted address, `local@domain`, borrowed from an arena or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    text: &'a str,
    /// Offset of the `@`; the length of `text` for the bare postmaster.
    at: u16,
    utf8: bool,
    rerouting: bool,
}

impl<'a> Mailbox<'a> {
    fn from_scan(scan: &Scan, text: &'a str) -> Mailbox<'a> {
        Mailbox {
            text,
            at: scan.at as u16,
            utf8: scan.seen & HIGH != 0,
            rerouting: scan.seen & REROUTE != 0,
        }
    }

    /// Parses the text that `as_str` returned; `None` for any other text.
    pub fn from_stored(text: &'a str) -> Option<Mailbox<'a>> {
        let scan = Scan::new(text.as_bytes()).ok()?;
        let domain = text.get(scan.domain_start()..)?;
        let canonical = domain.starts_with('[') || !domain.bytes().any(|b| b.is_ascii_uppercase());
        let whole = scan.end == text.len() && text.len() + 2 <= PATH_BYTES_MAX;
        (whole && canonical && !text.contains(is_control)).then(|| Mailbox::from_scan(&scan, text))
    }

    /// `local@domain`, the domain in lower case.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The local part as the client wrote it, quotes included.
    pub fn local(self) -> &'a str {
        self.text.get(..self.at as usize).unwrap_or(self.text)
    }

    /// The domain, or the literal with its brackets. Empty only for the bare `<Postmaster>`.
    pub fn domain(self) -> &'a str {
        self.text.get(self.at as usize + 1..).unwrap_or("")
    }

    /// Whether the address needs SMTPUTF8.
    pub fn is_utf8(self) -> bool {
        self.utf8
    }

    /// Whether this is the postmaster of its domain (RFC 5321 s4.5.1: in any case).
    pub fn is_postmaster(self) -> bool {
        self.local().eq_ignore_ascii_case("postmaster")
    }

    /// Whether the local part contains a route of its own: `%`-hack, bang path or an inner `@`.
    /// Such an address is never relayed.
    pub fn is_rerouting(self) -> bool {
        self.rerouting
    }

    /// The domain in A-labels, for DNS and policies. A literal is returned unchanged.
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

/// The sender in `MAIL FROM`: the null path, or the mailbox that receives failure reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath<'a> {
    Null,
    Mailbox(Mailbox<'a>),
}

impl<'a> ReversePath<'a> {
    /// Whether the path needs SMTPUTF8.
    pub fn is_utf8(self) -> bool {
        matches!(self, ReversePath::Mailbox(mailbox) if mailbox.is_utf8())
    }
}

/// Parses the reverse path at the start of `text`, copies it into `arena`, and returns the rest.
pub fn parse_reverse_path<'t, 'i>(
    text: &'i [u8],
    arena: &'t Bump,
) -> Result<(ReversePath<'t>, &'i [u8]), AddressFault> {
    if let Some(rest) = text.strip_prefix(b"<>") {
        return Ok((ReversePath::Null, rest));
    }
    let (mailbox, rest) = parse_path(text, arena)?;
    // RFC 5321 s4.5.1: only a recipient may be the postmaster without a domain.
    if mailbox.domain().is_empty() {
        return Err(AddressFault::Syntax);
    }
    Ok((ReversePath::Mailbox(mailbox), rest))
}

/// Parses the forward path at the start of `text`, copies it into `arena`, and returns the rest.
pub fn parse_forward_path<'t, 'i>(
    text: &'i [u8],
    arena: &'t Bump,
) -> Result<(Mailbox<'t>, &'i [u8]), AddressFault> {
    if text.starts_with(b"<>") {
        return Err(AddressFault::NullRecipient);
    }
    parse_path(text, arena)
}

/// Whether `text` is a valid argument of HELO or EHLO: an ASCII domain or address literal (RFC 5321
/// s4.1.1.1). Underscores are accepted, because many host names contain one.
pub fn is_domain_or_literal(text: &[u8]) -> bool {
    if text.first() == Some(&b'[') {
        return literal_len(text) == Ok(text.len());
    }
    let is_label = |label: &[u8]| {
        let ends_well = label.first() != Some(&b'-') && label.last() != Some(&b'-');
        let valid = label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && ends_well && valid
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
    if scan.seen & HIGH != 0 && address.contains(is_control) {
        return Err(AddressFault::NotUtf8);
    }
    if scan.seen_domain & HIGH != 0 {
        return Ok((keep_international(&scan, address, arena)?, rest));
    }
    Ok((Mailbox::from_scan(&scan, keep(&scan, address, arena)), rest))
}

/// Copies an address whose domain is ASCII, the domain in lower case.
fn keep<'t>(scan: &Scan, address: &str, arena: &'t Bump) -> &'t str {
    let text = arena.alloc_str(address);
    let start = scan.domain_start();
    if scan.seen_domain & UPPER != 0
        && let Some(domain) = text.get_mut(start..)
    {
        domain.make_ascii_lowercase();
        // RFC 5321 s4.1.3 spells the tag this way, and some software compares it case-sensitively.
        if domain.starts_with("[ipv6:")
            && let Some(tag) = domain.get_mut(1..3)
        {
            tag.make_ascii_uppercase();
        }
    }
    text
}

/// Copies an address whose domain is not ASCII, the domain in canonical U-labels.
fn keep_international<'t>(
    scan: &Scan,
    address: &str,
    arena: &'t Bump,
) -> Result<Mailbox<'t>, AddressFault> {
    let start = scan.domain_start();
    let (Some(front), Some(domain)) = (address.get(..start), address.get(start..)) else {
        return Err(AddressFault::Syntax);
    };
    let canonical = to_canonical_unicode(domain)?;
    if canonical.len() > DOMAIN_BYTES_MAX {
        return Err(AddressFault::DomainTooLong);
    }
    if front.len() + canonical.len() + 2 > PATH_BYTES_MAX {
        return Err(AddressFault::PathTooLong);
    }
    let mut text = bumpalo::collections::String::with_capacity_in(address.len(), arena);
    text.push_str(front);
    text.push_str(&canonical);
    Ok(Mailbox::from_scan(scan, text.into_bump_str()))
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

/// The canonical spelling of this domain. A domain that is ASCII after normalisation, for example
/// one in full-width letters, is refused: policies would see another domain than the peer.
fn to_canonical_unicode(domain: &str) -> Result<Cow<'_, str>, AddressFault> {
    to_ascii(domain)?;
    let uts = Uts46::new();
    let (canonical, verdict) =
        uts.to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    if verdict.is_err() || canonical.is_ascii() {
        return Err(AddressFault::BadIdna);
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests;
