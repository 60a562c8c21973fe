//! Types of values: host names, domains, labels, texts of replies.
//!
//! Promise:  a value of these types is valid.

use std::fmt;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;

/// Declares types of texts, each with its notation in words and the function that reads it.
macro_rules! texts {
    ($( $(#[doc = $doc:literal])+ $name:ident, $spelling:literal, $spell:expr; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $crate::config::kind::Spelled for $name {
            fn spelling() -> String {
                $spelling.to_owned()
            }

            fn spell(text: &str) -> Result<$name, $crate::config::fault::Refusal> {
                let read: fn(&str) -> Result<String, $crate::config::fault::Refusal> = $spell;
                read(text).map($name)
            }
        }
    )+ };
}

pub(crate) use texts;

texts! {
    /// A host name in lower case; it need not be fully qualified.
    Hostname, "a host name, such as `\"mail.example.com\"`", |text| {
        domain(text, "host name", "mail.example.com")
    };
    /// A name for other keys and commands.
    Label, "up to 32 letters a-z, digits, `-` and `_`", |text| {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        match text.len() {
            1..=32 if text.bytes().all(letter) => Ok(text.to_owned()),
            _ => {
                let hint = "use up to 32 letters a-z, digits, - and _";
                Err(Refusal::new(format!("\"{text}\" is not a name"), hint))
            }
        }
    };
    /// A text for a reply. A reply line holds 512 octets (RFC 5321 s4.5.3.1.5), of which the host name
    /// may take 253.
    ReplyText, "up to 200 printable ASCII characters", |text| {
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
        match text.len() {
            1..=200 if text.bytes().all(printable) => Ok(text.to_owned()),
            _ => Err(Refusal::new(
                "cannot be used in a reply",
                "use 1 to 200 printable ASCII characters on one line",
            )),
        }
    };
}

impl Hostname {
    /// Whether it names a host within a domain.
    pub fn is_qualified(&self) -> bool {
        self.0.contains('.')
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
    fn domains_are_read() {
        let read = |text: &str| DomainPattern::spell(text).expect("it is good");
        assert_eq!(read("Example.COM"), DomainPattern::Exact("example.com".to_owned()));
        assert_eq!(read(".Example.com"), DomainPattern::Below("example.com".to_owned()));
        for bad in
            ["", ".", "..", "a..b", "-a.com", "a-.com", "a b", "a@b", "1.2.3.4", "é.com", "*.a"]
        {
            assert!(DomainPattern::spell(bad).is_err(), "{bad}");
        }
        assert!(DomainPattern::spell(&"a.".repeat(127)).is_err());
        assert!(Hostname::spell(&format!("{}.com", "a".repeat(64))).is_err());
    }
}
