//! Types of values: choices, sets of cores, files.
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
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Which reports senders get.
    pub enum SenderReports {
        /// All: failures, delays, and successes on request.
        All = "all",
        /// No delay warnings.
        NoDelays = "no-delays",
        /// None.
        None = "none",
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

    /// The TLS level of outgoing connections, weakest first.
    pub enum OutboundTls {
        /// Never.
        None = "none",
        /// If offered, with any certificate; falls back to cleartext.
        May = "may",
        /// Required, with any certificate; otherwise the mail waits.
        Must = "must",
        /// Required, with a trusted certificate for the host's name; otherwise the mail waits.
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

impl Default for OutboundTls {
    fn default() -> OutboundTls {
        OutboundTls::May
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
