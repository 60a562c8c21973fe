//! Types of values: choices, sets of cores, files.
//!
//! Promise:  a value of these types is valid.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use crate::base::id::PARTITIONS_MAX;
use crate::config::fault::Refusal;
use crate::config::file::Plain;
use crate::config::file::Written;
use crate::config::kind::Bounds;
use crate::config::kind::Choice;
use crate::config::kind::Kind;
use crate::config::kind::Spelled;
use crate::config::kind::number_from;
use crate::config::kind::wrong_type;
use crate::config::reading::Reading;
use crate::observe::log::Level;
use crate::observe::log::value::Form;
use crate::wire::smtp::LineEnding;
use crate::wire::smtp::Protocol;
use crate::wire::tls::ClientCertificates;
use crate::wire::tls::TlsVersion;

/// The highest core number in a list; more than any machine has.
const CORE_MAX: usize = 4095;

/// How a listener uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    None,
    /// After the command of RFC 3207.
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// Which reports senders get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderReports {
    /// Failures, delays, and successes on request.
    All,
    NoDelays,
    None,
}

/// The kind of mail that a network sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// One message for one person, such as a receipt or a password reset.
    Transactional,
    /// One message for many, such as a newsletter.
    Broadcast,
}

/// The TLS level of outgoing connections, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTls {
    None,
    /// If offered, with any certificate; falls back to cleartext.
    #[default]
    May,
    /// Required, with any certificate; otherwise the mail waits.
    Must,
    /// Required, with a trusted certificate for the host's name; otherwise the mail waits.
    Verify,
}

impl Choice for TlsMode {
    const WORDS: &[(&str, TlsMode)] = &[
        ("none", TlsMode::None),
        ("starttls", TlsMode::Starttls),
        ("implicit", TlsMode::Implicit),
    ];
}

impl Choice for Stream {
    const WORDS: &[(&str, Stream)] =
        &[("transactional", Stream::Transactional), ("broadcast", Stream::Broadcast)];
}

impl Choice for SenderReports {
    const WORDS: &[(&str, SenderReports)] = &[
        ("all", SenderReports::All),
        ("no-delays", SenderReports::NoDelays),
        ("none", SenderReports::None),
    ];
}

impl Choice for OutboundTls {
    const WORDS: &[(&str, OutboundTls)] = &[
        ("none", OutboundTls::None),
        ("may", OutboundTls::May),
        ("must", OutboundTls::Must),
        ("verify", OutboundTls::Verify),
    ];
}

impl Choice for Protocol {
    const WORDS: &[(&str, Protocol)] = &[("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)];
}

impl Choice for LineEnding {
    const WORDS: &[(&str, LineEnding)] =
        &[("strict", LineEnding::Strict), ("normalise", LineEnding::Normalise)];
}

impl Choice for ClientCertificates {
    const WORDS: &[(&str, ClientCertificates)] = &[
        ("none", ClientCertificates::None),
        ("optional", ClientCertificates::Optional),
        ("required", ClientCertificates::Required),
    ];
}

impl Choice for TlsVersion {
    const WORDS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
}

impl Choice for Form {
    const WORDS: &[(&str, Form)] = &[("text", Form::Text), ("json", Form::Json)];
}

impl Choice for Level {
    const WORDS: &[(&str, Level)] = &[
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];
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

    fn from_text(text: &str) -> Result<Plain, Refusal> {
        Ok(number_from(text))
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
}
