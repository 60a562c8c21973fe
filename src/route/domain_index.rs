//! Finds the rules of an ordered list that match a domain.
//!
//! Promise:  a query allocates nothing. It costs one hash lookup for the name and one for each parent
//!           that may have an entry; only patterns are compared one by one.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::route::membership::BadEntry;
use crate::route::membership::DOMAIN_BYTES_MAX;
use crate::route::membership::EntryCause;
use crate::route::membership::check_name;
use crate::route::membership::lower;
use crate::route::membership::parse_literal;
use crate::wire::mail::address::Mailbox;

/// Domains as in `DomainSet` and patterns such as `*mail.example*`, each with the numbers of the rules
/// that list it in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainIndex {
    exact: HashMap<Box<str>, Vec<u32>>,
    /// Without the leading dot.
    trees: HashMap<Box<str>, Vec<u32>>,
    /// Lengths of the shortest and the longest name in `trees`.
    tree_bytes: Option<(usize, usize)>,
    literals: HashMap<IpAddr, Vec<u32>>,
    patterns: Vec<(Box<str>, u32)>,
}

impl DomainIndex {
    /// An index with the entries of a single rule.
    pub fn of(entries: &[String]) -> Result<DomainIndex, Vec<BadEntry>> {
        let mut index = DomainIndex::default();
        let bad = index.insert_all(entries, 0);
        if bad.is_empty() { Ok(index) } else { Err(bad) }
    }

    /// Adds the entries of rule `number`, which must not be lower than earlier numbers. Returns the
    /// invalid entries.
    pub fn insert_all(&mut self, entries: &[String], number: u32) -> Vec<BadEntry> {
        let bad = |(entry, cause): (&String, EntryCause)| BadEntry {
            entry: entry.as_str().into(),
            cause,
        };
        let inserted = entries.iter().map(|entry| (entry, self.insert(entry, number)));
        inserted
            .filter_map(|(entry, done)| done.err().map(|cause| (entry, cause)))
            .map(bad)
            .collect()
    }

    fn insert(&mut self, entry: &str, number: u32) -> Result<(), EntryCause> {
        let lowered = entry.to_ascii_lowercase();
        let numbers = if entry.contains('*') {
            if !entry.is_ascii() {
                return Err(EntryCause::NotAscii);
            }
            self.patterns.push((lowered.into_boxed_str(), number));
            return Ok(());
        } else if entry.starts_with('[') {
            let address = parse_literal(entry).ok_or(EntryCause::NotALiteral)?;
            self.literals.entry(address).or_default()
        } else if let Some(tree) = lowered.strip_prefix('.') {
            check_name(entry, tree)?;
            let (shortest, longest) = self.tree_bytes.unwrap_or((tree.len(), tree.len()));
            self.tree_bytes = Some((shortest.min(tree.len()), longest.max(tree.len())));
            self.trees.entry(tree.into()).or_default()
        } else {
            check_name(entry, entry)?;
            self.exact.entry(lowered.into_boxed_str()).or_default()
        };
        assert!(
            numbers.last().is_none_or(|last| *last <= number),
            "rules are added in ascending order"
        );
        numbers.push(number);
        Ok(())
    }

    /// The first rule that matches the domain (normalised by `normalize`) and that `accept` takes.
    pub fn first(&self, domain: &str, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let mut least: Option<u32> = None;
        let mut consider = |numbers: &[u32]| {
            let sooner = |number: &&u32| least.is_none_or(|least| **number < least);
            let found = numbers.iter().take_while(sooner).find(|number| accept(**number)).copied();
            least = found.or(least);
        };
        if domain.starts_with('[') {
            let address = parse_literal(domain).filter(|_| !self.literals.is_empty());
            if let Some(numbers) = address.and_then(|address| self.literals.get(&address)) {
                consider(numbers);
            }
        } else {
            if let Some(numbers) = self.exact.get(domain) {
                consider(numbers);
            }
            self.each_tree_above(domain, &mut consider);
            // A server that a route lists by its IP address.
            let address =
                (!self.literals.is_empty()).then(|| domain.parse::<IpAddr>().ok()).flatten();
            let address = address.map(|address| address.to_canonical());
            if let Some(numbers) = address.and_then(|address| self.literals.get(&address)) {
                consider(numbers);
            }
        }
        for (pattern, number) in &self.patterns {
            if matches_pattern(domain.as_bytes(), pattern.as_bytes()) {
                consider(&[*number]);
            }
        }
        least
    }

    pub fn contains(&self, domain: &str) -> bool {
        self.first(domain, |_| true).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty()
            && self.trees.is_empty()
            && self.literals.is_empty()
            && self.patterns.is_empty()
    }

    fn each_tree_above(&self, mut name: &str, consider: &mut impl FnMut(&[u32])) {
        let Some((shortest, longest)) = self.tree_bytes else { return };
        while let Some((_, parent)) = name.split_once('.')
            && parent.len() >= shortest
        {
            if parent.len() <= longest
                && let Some(numbers) = self.trees.get(parent)
            {
                consider(numbers);
            }
            name = parent;
        }
    }
}

/// The domain in lower case and A-labels, without a trailing dot, in `room`. Allocates only if the
/// name is not ASCII. `None` if the text cannot be a domain.
pub fn normalize<'r>(domain: &str, room: &'r mut [u8; DOMAIN_BYTES_MAX]) -> Option<&'r str> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_ascii() {
        return lower(room, &[domain]);
    }
    let address = format!("x@{}", domain.to_lowercase());
    let ascii = Mailbox::from_stored(&address)?.domain_ascii()?;
    lower(room, &[&ascii])
}

/// Whether the text matches the pattern, in which `*` stands for any bytes. Each star matches as
/// little as possible; on a mismatch only the last star is extended, which suffices, because the
/// earlier stars already matched at their first possible place.
fn matches_pattern(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        if pattern.get(place) == Some(&b'*') {
            star = Some((place, at));
            place += 1;
        } else if pattern.get(place) == Some(&text[at]) {
            at += 1;
            place += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            at = taken + 1;
            place = after + 1;
        } else {
            return false;
        }
    }
    pattern[place..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_means_a_domain_is_found() {
        let rules: [&[&str]; 6] = [
            &["[192.0.2.1]", "Exact.test"],
            &[".tree.test"],
            &["*mail*.test", "a.tree.test"],
            &["exact.test", ".a.tree.test"],
            &["[*]"],
            &["*"],
        ];
        let mut index = DomainIndex::default();
        for (number, entries) in (0..).zip(rules) {
            let entries: Vec<String> = entries.iter().map(|entry| entry.to_string()).collect();
            assert_eq!(index.insert_all(&entries, number), []);
        }
        for (domain, first, second) in [
            ("exact.test", 0, Some(3)),
            ("tree.test", 5, None),
            ("a.tree.test", 1, Some(2)),
            ("b.a.tree.test", 1, Some(3)),
            ("nottree.test", 5, None),
            ("hotmail.test", 2, Some(5)),
            ("mail.x.test", 2, Some(5)),
            ("mail.test.x", 5, None),
            ("[192.0.2.1]", 0, Some(4)),
            ("[ipv6:::1]", 4, Some(5)),
            ("192.0.2.1", 0, Some(5)),
            ("::ffff:192.0.2.1", 0, Some(5)),
            ("test", 5, None),
        ] {
            assert_eq!(index.first(domain, |_| true), Some(first), "{domain}");
            assert_eq!(index.first(domain, |number| number != first), second, "{domain}");
        }
        assert!(DomainIndex::default().is_empty() && !index.is_empty());
        assert!(!DomainIndex::default().contains("a.test"));
    }

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("", "*", true),
            ("abc", "abc", true),
            ("abc", "a*c", true),
            ("abc", "*b*", true),
            ("abc", "*b", false),
            ("abcbc", "a*bc", true),
            ("aXbXb", "a*b", true),
            ("abc", "**", true),
            ("abc", "a*b*c*", true),
            ("ac", "a*b*c", false),
            ("abc", "ab", false),
            ("ab", "abc", false),
        ] {
            assert_eq!(
                matches_pattern(text.as_bytes(), pattern.as_bytes()),
                expected,
                "{text} {pattern}"
            );
        }
        let text = "a".repeat(250);
        assert!(!matches_pattern(
            text.as_bytes(),
            "*a".repeat(100).as_bytes().iter().chain(b"b").copied().collect::<Vec<_>>().as_slice()
        ));
    }

    #[test]
    fn domains_are_settled() {
        let long = "a".repeat(256);
        for (domain, expected) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("M\u{fc}nchen.example", Some("xn--mnchen-3ya.example")),
            ("[IPv6:::1]", Some("[ipv6:::1]")),
            ("", Some("")),
            ("b\u{202e}ad.example", None),
            (long.as_str(), None),
        ] {
            let mut room = [0; DOMAIN_BYTES_MAX];
            assert_eq!(normalize(domain, &mut room), expected, "{domain}");
        }
    }

    #[test]
    fn bad_entries_are_all_named() {
        let entries = ["", "a b", "\u{e9}*", "[x]", ".", "good.test"].map(str::to_owned);
        let bad = DomainIndex::of(&entries).expect_err("five are bad");
        assert_eq!(bad.len(), 5);
    }
}
