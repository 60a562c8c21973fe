//! Types of values: host names, domains, labels, texts of replies.
//!
//! Promise:  a value of these types is valid.

use std::fmt;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;

/// A host name in lower case; it need not be fully qualified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names a host within a domain.
    pub fn is_qualified(&self) -> bool {
        self.0.contains('.')
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Spelled for Hostname {
    fn spelling() -> String {
        "a host name, such as `\"mail.example.com\"`".to_owned()
    }

    fn spell(text: &str) -> Result<Hostname, Refusal> {
        domain(text, "host name", "mail.example.com").map(Hostname)
    }
}

/// Domains in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// This domain.
    Exact(String),
    /// All subdomains, stored without the leading dot.
    Below(String),
}

impl DomainPattern {
    /// Whether it matches `domain`, which is in lower case and without a final dot.
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            DomainPattern::Exact(name) => domain == name,
            DomainPattern::Below(name) => {
                let head = domain.strip_suffix(name.as_str());
                head.is_some_and(|head| head.len() > 1 && head.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainPattern::Exact(name) => f.write_str(name),
            DomainPattern::Below(name) => write!(f, ".{name}"),
        }
    }
}

impl Spelled for DomainPattern {
    fn spelling() -> String {
        "a domain, such as `\"example.com\"`, or `\".example.com\"` for its subdomains".to_owned()
    }

    fn spell(text: &str) -> Result<DomainPattern, Refusal> {
        if let Some(below) = text.strip_prefix("*.") {
            let what = format!("\"{text}\" is not a domain");
            return Err(Refusal::new(what, format!("for its subdomains write \".{below}\"")));
        }
        match text.strip_prefix('.') {
            Some(below) => domain(below, "domain", ".example.com").map(DomainPattern::Below),
            None => domain(text, "domain", "example.com").map(DomainPattern::Exact),
        }
    }
}

/// A name for other keys and commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Spelled for Label {
    fn spelling() -> String {
        "up to 32 letters a-z, digits, `-` and `_`".to_owned()
    }

    fn spell(text: &str) -> Result<Label, Refusal> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        match text.len() {
            1..=32 if text.bytes().all(letter) => Ok(Label(text.to_owned())),
            _ => {
                let hint = "use up to 32 letters a-z, digits, - and _";
                Err(Refusal::new(format!("\"{text}\" is not a name"), hint))
            }
        }
    }
}

/// A text for a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyText(String);

impl ReplyText {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Spelled for ReplyText {
    fn spelling() -> String {
        "up to 200 printable ASCII characters".to_owned()
    }

    /// A reply line holds 512 octets (RFC 5321 s4.5.3.1.5), of which the host name may take 253.
    fn spell(text: &str) -> Result<ReplyText, Refusal> {
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
        match text.len() {
            1..=200 if text.bytes().all(printable) => Ok(ReplyText(text.to_owned())),
            _ => Err(Refusal::new(
                "cannot be used in a reply",
                "use 1 to 200 printable ASCII characters on one line",
            )),
        }
    }
}

/// A domain of the characters in RFC 1123 s2.1, and `_`, in lower case.
fn domain(text: &str, what: &str, example: &str) -> Result<String, Refusal> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| {
        matches!(label.len(), 1..=63)
            && label.bytes().all(letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let hint = match text {
        _ if !text.is_ascii() => "write it in its ASCII form, as \"xn--mnchen-3ya.example\"".into(),
        _ if text.contains('@') => "write only the part after the @".into(),
        _ if text.len() > 253 || !text.split('.').all(label) || text.split('.').all(numeric) => {
            format!("write it as \"{example}\"")
        }
        _ => return Ok(text.to_ascii_lowercase()),
    };
    Err(Refusal::new(format!("\"{text}\" is not a {what}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_match_whole_labels() {
        for (pattern, domain, want) in [
            ("example.com", "example.com", true),
            ("Example.COM", "example.com", true),
            ("example.com", "a.example.com", false),
            (".example.com", "a.example.com", true),
            (".example.com", "a.b.example.com", true),
            (".example.com", "example.com", false),
            (".example.com", ".example.com", false),
            (".example.com", "badexample.com", false),
        ] {
            let pattern = DomainPattern::spell(pattern).expect("the pattern is good");
            assert_eq!(pattern.matches(domain), want, "{pattern} {domain}");
        }
        for bad in
            ["", ".", "..", "a..b", "-a.com", "a-.com", "a b", "a@b", "1.2.3.4", "é.com", "*.a"]
        {
            assert!(DomainPattern::spell(bad).is_err(), "{bad}");
        }
        assert!(DomainPattern::spell(&"a.".repeat(127)).is_err());
        assert!(Hostname::spell(&format!("{}.com", "a".repeat(64))).is_err());
    }
}
