//! Finds the rules of an ordered list that match a domain.
//!
//! Promise:  a query allocates nothing. It costs one hash lookup for the name and one for each parent
//!           that may have an entry; only patterns are compared one by one.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::DomainMatch;
use crate::config::delivery::domain::parse_literal;
use crate::wire::mail::address::Mailbox;

/// RFC 5321 s4.5.3.1.2. A longer name matches nothing.
pub(super) const DOMAIN_BYTES_MAX: usize = 255;

/// Domains, each with the numbers of the rules that list it in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainIndex {
    exact: HashMap<Box<str>, Vec<u32>>,
    /// Parents whose subdomains match.
    trees: HashMap<Box<str>, Vec<u32>>,
    /// Lengths of the shortest and the longest name in `trees`. They bound the number of lookups for a
    /// name with many labels.
    tree_bytes: Option<(usize, usize)>,
    literals: HashMap<IpAddr, Vec<u32>>,
    patterns: Vec<(Box<str>, u32)>,
}

impl DomainIndex {
    /// An index with the entries of a single rule.
    pub fn of<M: Into<DomainMatch>>(entries: impl IntoIterator<Item = M>) -> DomainIndex {
        let mut index = DomainIndex::default();
        index.insert_all(entries, 0);
        index
    }

    /// Adds the entries of rule `number`, which must not be lower than earlier numbers.
    pub fn insert_all<M: Into<DomainMatch>>(
        &mut self,
        entries: impl IntoIterator<Item = M>,
        number: u32,
    ) {
        for entry in entries {
            let numbers = match entry.into() {
                DomainMatch::Exact(name) => self.exact.entry(name.into()).or_default(),
                DomainMatch::Below(tree) => {
                    let (shortest, longest) = self.tree_bytes.unwrap_or((tree.len(), tree.len()));
                    self.tree_bytes = Some((shortest.min(tree.len()), longest.max(tree.len())));
                    self.trees.entry(tree.into()).or_default()
                }
                DomainMatch::Literal(address) => self.literals.entry(address).or_default(),
                DomainMatch::Like(pattern) => {
                    self.patterns.push((pattern.into(), number));
                    continue;
                }
            };
            let ascends = numbers.last().is_none_or(|last| *last <= number);
            assert!(ascends, "rules are added in ascending order");
            numbers.push(number);
        }
    }

    /// The first rule that matches the domain (normalised by `normalize`) and that `accept` takes.
    pub fn first(&self, domain: &str, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let mut least: Option<u32> = None;
        let mut consider = |numbers: &[u32]| {
            let sooner = |number: &&u32| least.is_none_or(|least| **number < least);
            let found = numbers.iter().take_while(sooner).find(|number| accept(**number)).copied();
            least = found.or(least);
        };
        let is_literal = domain.starts_with('[');
        if !is_literal {
            if let Some(numbers) = self.exact.get(domain) {
                consider(numbers);
            }
            self.each_tree_above(domain, &mut consider);
        }
        if !self.literals.is_empty() {
            // A route may list a server by its bare IP address.
            let bare = || domain.parse().ok().map(|address: IpAddr| address.to_canonical());
            let address = if is_literal { parse_literal(domain) } else { bare() };
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

    /// Whether any rule matches the domain, which is in A-labels and in any case.
    pub fn contains(&self, domain: &str) -> bool {
        let mut room = [0; DOMAIN_BYTES_MAX];
        !self.is_empty() && lower(&mut room, domain).is_some_and(|domain| self.has(domain))
    }

    /// Whether any rule matches the domain, which `normalize` has returned.
    pub fn has(&self, domain: &str) -> bool {
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
        return lower(room, domain);
    }
    let address = format!("x@{}", domain.to_lowercase());
    let ascii = Mailbox::from_stored(&address)?.domain_ascii()?;
    lower(room, &ascii)
}

/// The name in lower case in `room`; `None` if it does not fit.
fn lower<'r>(room: &'r mut [u8], name: &str) -> Option<&'r str> {
    let place = room.get_mut(..name.len())?;
    place.copy_from_slice(name.as_bytes());
    place.make_ascii_lowercase();
    std::str::from_utf8(place).ok()
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
    use crate::config::kind::Spelled;

    fn entries(texts: &[&str]) -> Vec<DomainMatch> {
        texts.iter().map(|text| DomainMatch::spell(text).expect("it is good")).collect()
    }

    fn index_of(texts: &[&str]) -> DomainIndex {
        DomainIndex::of(entries(texts))
    }

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
        for (number, rule) in (0..).zip(rules) {
            index.insert_all(entries(rule), number);
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
    fn a_list_of_domains_contains_names_and_trees() {
        let index =
            index_of(&["example.com", ".Below.Test", "[192.0.2.1]", "[IPv6:2001:db8::1]", "TEST"]);
        let long = format!("{}.below.test", "a".repeat(250));
        for (case, domain, expected) in [
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
        ] {
            assert_eq!(index.contains(domain), expected, "{case}: {domain}");
        }
    }
}
