//! Types of values: choices, names, domains, sets of cores, files.
//!
//! Promise:  a value of these types is valid.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use crate::base::id::PARTITIONS_MAX;
use crate::config::fault::Refusal;
use crate::config::file::Plain;
use crate::config::file::Written;
use crate::config::kind::Bounds;
use crate::config::kind::Kind;
use crate::config::kind::Spelled;
use crate::config::kind::choose;
use crate::config::kind::number_from;
use crate::config::kind::wrong_type;
use crate::config::reading::Reading;

/// The highest core number in a list; more than any machine has.
const CORE_MAX: usize = 4095;

/// Declares an enum of words.
macro_rules! choices {
    ($(
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $( $(#[doc = $about:literal])+ $variant:ident = $word:literal, )+ }
    )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $about])+ $variant, )+ }

        impl $name {
            /// The word in a file.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Spelled for $name {
            fn spelling() -> String {
                format!("one of {}", [$(concat!("`\"", $word, "\"`")),+].join(", "))
            }

            fn spell(text: &str) -> Result<$name, Refusal> {
                choose(text, &[$(($word, $name::$variant)),+])
            }
        }
    )+ };
}

choices! {
    /// The protocol of a listener.
    pub enum Protocol {
        /// RFC 5321.
        Smtp = "smtp",
        /// RFC 2033: one reply for each recipient after the body.
        Lmtp = "lmtp",
    }

    /// How a listener uses TLS.
    pub enum TlsMode {
        /// Never.
        None = "none",
        /// After the command of RFC 3207.
        Starttls = "starttls",
        /// From the first byte (RFC 8314).
        Implicit = "implicit",
    }

    /// The kind of mail that a network sends.
    pub enum Stream {
        /// One message for one person, such as a receipt or a password reset.
        Transactional = "transactional",
        /// One message for many, such as a newsletter.
        Broadcast = "broadcast",
    }

    /// How a listener treats a bare CR or LF.
    pub enum LineEnding {
        /// Refuse it.
        Strict = "strict",
        /// Convert it to CRLF, for trusted networks only.
        Normalise = "normalise",
    }

    /// Whether a listener asks for client certificates.
    pub enum ClientCertificates {
        /// No.
        None = "none",
        /// Ask, and accept clients without one.
        Optional = "optional",
        /// Refuse clients without one.
        Required = "required",
    }

    /// Whether and how TLS is used with a server.
    pub enum OutboundTls {
        /// Never.
        None = "none",
        /// If offered, with any certificate.
        May = "may",
        /// Always, with any certificate.
        Must = "must",
        /// Always, with a certificate for the host's name.
        Verify = "verify",
    }

    /// The oldest accepted TLS version.
    pub enum TlsVersion {
        /// RFC 5246.
        V1_2 = "1.2",
        /// RFC 8446.
        V1_3 = "1.3",
    }

    /// The format of a log line.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }

    /// The amount of logging.
    pub enum LogLevel {
        /// Someone must act.
        Error = "error",
        /// Quality is lost.
        Warn = "warn",
        /// The mail log.
        Info = "info",
        /// For finding bugs.
        Debug = "debug",
    }
}

/// The cores that run shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreSet {
    Auto,
    List(Vec<usize>),
    /// All cores of one NUMA node.
    Numa(usize),
}

impl Spelled for CoreSet {
    fn spelling() -> String {
        "`\"auto\"`, a list of cores such as `\"0-7,16\"`, or `\"numa:0\"`".to_owned()
    }

    fn spell(text: &str) -> Result<CoreSet, Refusal> {
        let refused = |what: String| Refusal::new(what, "write \"auto\", \"0-7,16\" or \"numa:0\"");
        if text == "auto" {
            return Ok(CoreSet::Auto);
        }
        if let Some(node) = text.strip_prefix("numa:") {
            let node =
                node.parse().map_err(|_| refused(format!("\"{text}\" names no NUMA node")))?;
            return Ok(CoreSet::Numa(node));
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) =
                (first.trim().parse::<usize>(), last.trim().parse::<usize>())
            else {
                return Err(refused(format!("\"{text}\" is not a set of cores")));
            };
            if first > last || last > CORE_MAX {
                return Err(refused(format!("\"{part}\" is not a range of cores")));
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        match cores.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(refused(format!("\"{text}\" names core {} twice", pair[0]))),
            None => Ok(CoreSet::List(cores)),
        }
    }

    fn hint() -> &'static str {
        "write core numbers in quotes; \"0-3\" means four cores"
    }
}

/// The number of partitions of a new spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitions {
    Auto,
    Count(usize),
}

impl Kind for Partitions {
    fn written() -> String {
        format!("`\"auto\"` or a whole number from 1 to {PARTITIONS_MAX}")
    }

    fn read(value: &Written, _: Bounds, reading: &mut Reading<'_>) -> Option<Partitions> {
        match &value.plain {
            Plain::Text(text) if text == "auto" => Some(Partitions::Auto),
            Plain::Whole(_) => {
                let bounds = Some((1, PARTITIONS_MAX as u64));
                usize::read(value, bounds, reading).map(Partitions::Count)
            }
            _ => wrong_type(value, &Self::written(), "", reading),
        }
    }

    fn from_text(text: &str) -> Plain {
        number_from(text)
    }
}

/// A file with a certificate or a secret: a path, or a systemd credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile(PathBuf);

impl CredentialFile {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Kind for CredentialFile {
    fn written() -> String {
        "a path, or `\"credential:NAME\"` for a systemd credential".to_owned()
    }

    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<CredentialFile> {
        let Some(name) = value.credential() else {
            return PathBuf::read(value, bounds, reading).map(CredentialFile);
        };
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            let what = format!("\"{name}\" is not the name of a credential");
            let hint = "write the name from LoadCredential= of the unit";
            reading.refuse(Refusal::new(what, hint));
            return None;
        }
        Some(CredentialFile(reading.environment.credential(name)))
    }
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stdout,
    File(PathBuf),
}

impl Spelled for LogOutput {
    fn spelling() -> String {
        "`\"stdout\"` or the path of a file".to_owned()
    }

    fn spell(text: &str) -> Result<LogOutput, Refusal> {
        match text {
            "stdout" => Ok(LogOutput::Stdout),
            _ => PathBuf::spell(text).map(LogOutput::File),
        }
    }
}

/// Where monitoring is served over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorListen {
    Off,
    At(SocketAddr),
}

impl Spelled for MonitorListen {
    fn spelling() -> String {
        "`\"off\"` or an IP address with port, such as `\"127.0.0.1:9025\"`".to_owned()
    }

    fn spell(text: &str) -> Result<MonitorListen, Refusal> {
        match text {
            "off" => Ok(MonitorListen::Off),
            _ => SocketAddr::spell(text).map(MonitorListen::At),
        }
    }
}

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
    fn sets_of_cores() {
        for (text, want) in [
            ("auto", Ok(CoreSet::Auto)),
            ("numa:1", Ok(CoreSet::Numa(1))),
            ("0", Ok(CoreSet::List(vec![0]))),
            ("16, 0-3", Ok(CoreSet::List(vec![0, 1, 2, 3, 16]))),
            ("numa:", Err("\"numa:\" names no NUMA node")),
            ("", Err("\"\" is not a set of cores")),
            ("0-7,", Err("\"0-7,\" is not a set of cores")),
            ("7-0", Err("\"7-0\" is not a range of cores")),
            ("0-99999999999", Err("\"0-99999999999\" is not a range of cores")),
            ("0-7,3", Err("\"0-7,3\" names core 3 twice")),
        ] {
            let want = want.map_err(str::to_owned);
            assert_eq!(CoreSet::spell(text).map_err(|r| r.what), want, "{text}");
        }
    }

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
