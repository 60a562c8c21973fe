//! Sets of domains and of mail addresses, queried once per recipient.
//!
//! Promise:  a query allocates nothing. Names are compared without regard to ASCII case and are
//!           expected in A-label form.
//! Cost:     one hash lookup for a domain and, only if the set has entries for subdomains, one for
//!           each of its parents.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// RFC 5321 s4.5.3.1.2. A longer name is in no set.
pub(super) const DOMAIN_BYTES_MAX: usize = 255;

/// RFC 5321 s4.5.3.1: 64 of local part, `@`, 255 of domain.
const ADDRESS_BYTES_MAX: usize = 64 + 1 + DOMAIN_BYTES_MAX;

/// An invalid entry of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEntry {
    pub entry: Box<str>,
    pub cause: EntryCause,
}

/// Why an entry is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryCause {
    Empty,
    Everything,
    Star,
    NotADomain,
    NotAscii,
    NotALiteral,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self.cause {
            EntryCause::Empty => "an empty entry matches nothing; remove it",
            EntryCause::Everything => {
                "an entry that matches everything is not allowed; list the domains"
            }
            EntryCause::Star => "write `.example.com` for all subdomains of example.com",
            EntryCause::NotADomain => "not a domain; write `example.com` or `.example.com`",
            EntryCause::NotAscii => "write the name in its ASCII form (xn--...)",
            EntryCause::NotALiteral => "write `[192.0.2.1]` or `[IPv6:2001:db8::1]`",
        };
        write!(f, "`{}`: {remedy}", self.entry)
    }
}

/// Domains: `example.com` matches only that domain, `.example.com` its subdomains, and
/// `[192.0.2.1]` an address literal.
#[derive(Clone, Debug, Default)]
pub struct DomainSet {
    exact: HashSet<Box<str>>,
    /// Without the leading dot.
    trees: HashSet<Box<str>>,
    /// Lengths of the shortest and the longest of `trees`. They bound the number of lookups for a
    /// name with many labels.
    tree_bytes: Option<(usize, usize)>,
    literals: HashSet<IpAddr>,
}

impl DomainSet {
    /// The set of these entries, or all invalid entries.
    pub fn new<'e>(entries: impl IntoIterator<Item = &'e str>) -> Result<DomainSet, Vec<BadEntry>> {
        let mut set = DomainSet::default();
        let mut bad = Vec::new();
        for entry in entries {
            if let Err(cause) = set.insert(entry) {
                bad.push(BadEntry { entry: entry.into(), cause });
            }
        }
        if bad.is_empty() { Ok(set) } else { Err(bad) }
    }

    fn insert(&mut self, entry: &str) -> Result<(), EntryCause> {
        if entry.starts_with('[') {
            let address = parse_literal(entry).ok_or(EntryCause::NotALiteral)?;
            self.literals.insert(address);
            return Ok(());
        }
        let name = entry.strip_prefix('.').unwrap_or(entry);
        check_name(entry, name)?;
        let lowered = name.to_ascii_lowercase().into_boxed_str();
        if name.len() == entry.len() {
            self.exact.insert(lowered);
            return Ok(());
        }
        let (shortest, longest) = self.tree_bytes.unwrap_or((name.len(), name.len()));
        self.tree_bytes = Some((shortest.min(name.len()), longest.max(name.len())));
        self.trees.insert(lowered);
        Ok(())
    }

    /// Whether the domain or address literal is in the set.
    pub fn contains(&self, domain: &str) -> bool {
        if domain.starts_with('[') {
            return !self.literals.is_empty()
                && parse_literal(domain).is_some_and(|address| self.literals.contains(&address));
        }
        if self.exact.is_empty() && self.trees.is_empty() {
            return false;
        }
        let mut room = [0; DOMAIN_BYTES_MAX];
        let Some(name) = lower(&mut room, &[domain]) else { return false };
        self.exact.contains(name) || self.is_below_a_tree(name)
    }

    fn is_below_a_tree(&self, mut name: &str) -> bool {
        let Some((shortest, longest)) = self.tree_bytes else { return false };
        while let Some((_, parent)) = name.split_once('.')
            && parent.len() >= shortest
        {
            if parent.len() <= longest && self.trees.contains(parent) {
                return true;
            }
            name = parent;
        }
        false
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.trees.is_empty() && self.literals.is_empty()
    }

    pub fn len(&self) -> usize {
        self.exact.len() + self.trees.len() + self.literals.len()
    }
}

/// Mail addresses: `user@example.com`, `user@` at any domain, or whole domains as in `DomainSet`.
#[derive(Clone, Debug, Default)]
pub struct AddressSet {
    /// In lower case; an entry `user@` keeps the `@`.
    addresses: HashSet<Box<str>>,
    domains: DomainSet,
}

impl AddressSet {
    /// The set of these entries, or all invalid entries.
    pub fn new<'e>(
        entries: impl IntoIterator<Item = &'e str>,
    ) -> Result<AddressSet, Vec<BadEntry>> {
        let mut set = AddressSet::default();
        let mut bad = Vec::new();
        for entry in entries {
            if let Err(cause) = set.insert(entry) {
                bad.push(BadEntry { entry: entry.into(), cause });
            }
        }
        if bad.is_empty() { Ok(set) } else { Err(bad) }
    }

    fn insert(&mut self, entry: &str) -> Result<(), EntryCause> {
        let Some((local, domain)) = entry.rsplit_once('@') else {
            return self.domains.insert(entry);
        };
        if local.is_empty() {
            return Err(EntryCause::NotADomain);
        }
        if domain.starts_with('[') {
            parse_literal(domain).ok_or(EntryCause::NotALiteral)?;
        } else if !domain.is_empty() {
            check_name(entry, domain)?;
        }
        self.addresses.insert(entry.to_ascii_lowercase().into_boxed_str());
        Ok(())
    }

    /// Whether the address is in the set. The null sender never is.
    pub fn contains(&self, address: &str) -> bool {
        if address.is_empty() || (self.addresses.is_empty() && self.domains.is_empty()) {
            return false;
        }
        let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        let mut room = [0; ADDRESS_BYTES_MAX];
        let is_listed = |parts: &[&str], room: &mut [u8]| {
            lower(room, parts).is_some_and(|address| self.addresses.contains(address))
        };
        let listed = !self.addresses.is_empty()
            && (is_listed(&[address], &mut room) || is_listed(&[local, "@"], &mut room));
        listed || self.domains.contains(domain)
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.domains.is_empty()
    }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 s4.1.3).
pub fn parse_literal(literal: &str) -> Option<IpAddr> {
    let inner = literal.strip_prefix('[')?.strip_suffix(']')?;
    match inner.split_at_checked("IPv6:".len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
        }
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// As `parse_literal` reads it.
pub fn literal_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

pub(super) fn check_name(entry: &str, name: &str) -> Result<(), EntryCause> {
    if entry.is_empty() {
        return Err(EntryCause::Empty);
    }
    if matches!(entry, "*" | "." | ".*" | "*.*") {
        return Err(EntryCause::Everything);
    }
    if name.contains('*') {
        return Err(EntryCause::Star);
    }
    if !name.is_ascii() {
        return Err(EntryCause::NotAscii);
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() > DOMAIN_BYTES_MAX || !name.split('.').all(is_label) {
        return Err(EntryCause::NotADomain);
    }
    Ok(())
}

/// Joins the parts in lower case in `room`; `None` if they do not fit.
pub(super) fn lower<'r>(room: &'r mut [u8], parts: &[&str]) -> Option<&'r str> {
    let mut end = 0;
    for part in parts {
        let place = room.get_mut(end..end + part.len())?;
        place.copy_from_slice(part.as_bytes());
        place.make_ascii_lowercase();
        end += part.len();
    }
    std::str::from_utf8(&room[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_exact_or_trees() {
        let entries = ["example.com", ".Below.Test", "[192.0.2.1]", "[IPv6:2001:db8::1]", "TEST"];
        let set = DomainSet::new(entries).expect("all are good");
        assert_eq!(set.len(), 5);
        let long = format!("{}.below.test", "a".repeat(250));
        let table = [
            ("the name", "example.com", true),
            ("any case", "EXAMPLE.com", true),
            ("a child of an exact name", "a.example.com", false),
            ("a name that ends alike", "badexample.com", false),
            ("the head of a tree", "below.test", false),
            ("a child", "a.below.test", true),
            ("a grandchild in any case", "b.A.BELOW.test", true),
            ("a tree is not a mere ending", "notbelow.test", false),
            ("a name of one label", "test", true),
            ("no name", "", false),
            ("a root dot is not stripped", "example.com.", false),
            ("a name that is too long", &long, false),
            ("a literal", "[192.0.2.1]", true),
            ("another literal", "[192.0.2.2]", false),
            ("an IPv6 literal written otherwise", "[ipv6:2001:0DB8:0::1]", true),
            ("a mapped literal", "[IPv6:::ffff:192.0.2.1]", true),
            ("a literal cut short", "[192.0.2.1", false),
            ("a literal of several bytes a letter", "[\u{e9}\u{e9}\u{e9}]", false),
        ];
        for (case, domain, expected) in table {
            assert_eq!(set.contains(domain), expected, "{case}: {domain}");
        }
    }

    #[test]
    fn bad_entries_are_all_named() {
        let table = [
            ("", EntryCause::Empty),
            ("*", EntryCause::Everything),
            (".", EntryCause::Everything),
            ("*.example.com", EntryCause::Star),
            ("a b", EntryCause::NotADomain),
            ("a..b", EntryCause::NotADomain),
            ("example.com.", EntryCause::NotADomain),
            ("m\u{fc}ller.example", EntryCause::NotAscii),
            ("[192.0.2]", EntryCause::NotALiteral),
        ];
        let bad = DomainSet::new(table.map(|(entry, _)| entry)).expect_err("all are bad");
        let found: Vec<_> = bad.iter().map(|bad| (&*bad.entry, bad.cause)).collect();
        assert_eq!(found, table);
        assert!(bad[3].to_string().contains("write `.example.com`"));
        assert!(AddressSet::new(["@example.com", "a@b c", "a@[x]"]).expect_err("bad").len() == 3);
    }

    #[test]
    fn addresses_match_whole_by_local_part_or_by_domain() {
        let entries = ["Spam@Example.com", "no-reply@", "bad.test", ".worse.test", "x@[192.0.2.1]"];
        let set = AddressSet::new(entries).expect("all are good");
        let table = [
            ("whole, any case", "SPAM@example.COM", true),
            ("another local part", "ham@example.com", false),
            ("a local part anywhere", "No-Reply@anywhere.test", true),
            ("a domain", "anyone@bad.test", true),
            ("a quoted at sign", "\"a@b\"@bad.test", true),
            ("a tree", "anyone@mx.worse.test", true),
            ("a literal", "x@[192.0.2.1]", true),
            ("the null sender", "", false),
            ("a bare word", "postmaster", false),
        ];
        for (case, address, expected) in table {
            assert_eq!(set.contains(address), expected, "{case}");
        }
        assert!(!set.contains(&format!("{}@example.com", "a".repeat(400))), "too long");
    }
}
