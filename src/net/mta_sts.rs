//! MTA-STS: what a domain has published about the TLS of its hosts (RFC 8461).
//!
//! Owner:    one `StsCache` per shard, or per whoever asks for the domain.
//! Promise:  a policy that was fetched holds until its `max_age` ends, whatever happens meanwhile:
//!           neither a record that is gone nor a fetch that fails takes it back (RFC 8461 s5.1).
//! Fetch:    HTTPS with a certificate for `mta-sts.DOMAIN`, status 200, no redirects
//!           (RFC 8461 s3.3), over a connection that the caller has made.
//! Bounds:   `POLICY_BYTES_MAX`, `HEAD_BYTES_MAX`, `MX_PATTERNS_MAX`; `StsCache` holds as many
//!           domains as it was made for, and forgets first whose policy ends first.
//! Time:     the caller says what time it is. The deadline of a fetch is the transport's, and is
//!           set once for all of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use httparse::EMPTY_HEADER;
use httparse::Header;
use httparse::Status;

use crate::base::chunk::ChunkPool;
use crate::net::session::TlsFault;
use crate::net::stream::Channel;
use crate::net::stream::Transport;
use crate::net::tls_client::PeerCheck;
use crate::net::tls_client::TlsClient;

/// Bytes of a policy. RFC 8461 s3.3 suggests 64 KiB. More: the fetch fails.
pub const POLICY_BYTES_MAX: usize = 64 << 10;

/// Bytes of the head of a response. More: the fetch fails.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// What chunked encoding may add to a policy.
const FRAMING_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Patterns of a policy. The largest known have a dozen. More: the policy is invalid.
pub const MX_PATTERNS_MAX: usize = 256;

/// A year, the most that a policy may ask for (RFC 8461 s3.2). More is taken for a year.
pub const MAX_AGE_S_MAX: u64 = 31_557_600;

/// How long a policy that could not be fetched is not asked for again (RFC 8461 s3.3).
pub const RETRY_MS: u64 = 5 * 60 * 1000;

/// The id of the one valid record among the TXT records of `_mta-sts.DOMAIN`. Without one, or with
/// several, the domain has none (RFC 8461 s3.1).
pub fn policy_id<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Option<Box<str>> {
    let mut fields = records.into_iter().filter_map(fields_of_record);
    let only = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let mut ids = only.split(';').filter_map(|field| {
        let (key, value) = field.split_once('=')?;
        (key.trim_matches(WSP) == "id").then(|| value.trim_matches(WSP))
    });
    let id = ids.next()?;
    let fits = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (fits && ids.next().is_none()).then(|| id.into())
}

const WSP: [char; 2] = [' ', '\t'];

/// What follows the version, if that is the right one.
fn fields_of_record(record: &[u8]) -> Option<&str> {
    let rest = std::str::from_utf8(record).ok()?.strip_prefix("v=STSv1")?;
    rest.trim_start_matches(WSP).strip_prefix(';')
}

/// How a policy is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsMode {
    /// Hosts that fail are not delivered to.
    Enforce,
    /// Failures are reported, and that is all.
    Testing,
    /// The domain has withdrawn its policy.
    None,
}

/// A policy as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsPolicy {
    pub mode: StsMode,
    /// Lower case, without the dot of the root; a wildcard keeps its `*.`.
    pub mx: Vec<Box<str>>,
    pub max_age_s: u64,
}

/// Why a policy cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsPolicyFault {
    NotText,
    /// A line without a colon.
    BadLine,
    BadVersion,
    BadMode,
    BadMaxAge,
    BadMx,
    TooManyMx,
    /// `mode` asks for hosts and none is named.
    NoMx,
}

impl fmt::Display for StsPolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StsPolicyFault::NotText => "the policy is not text",
            StsPolicyFault::BadLine => "a line of the policy has no key",
            StsPolicyFault::BadVersion => "the policy's version is not STSv1",
            StsPolicyFault::BadMode => "the policy has no known mode",
            StsPolicyFault::BadMaxAge => "the policy has no good max_age",
            StsPolicyFault::BadMx => "the policy has an mx that is no host",
            StsPolicyFault::TooManyMx => "the policy names too many hosts",
            StsPolicyFault::NoMx => "the policy names no host",
        })
    }
}

impl StsPolicy {
    /// RFC 8461 s3.2: `key: value` lines that end in LF or CRLF. Unknown keys are passed over, and
    /// of a key given twice, other than `mx`, the first counts.
    pub fn parse(text: &[u8]) -> Result<StsPolicy, StsPolicyFault> {
        let text = std::str::from_utf8(text).map_err(|_| StsPolicyFault::NotText)?;
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let mut mx = Vec::new();
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            if line.trim_matches(WSP).is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(StsPolicyFault::BadLine)?;
            let value = value.trim_matches(WSP);
            match key.trim_matches(WSP) {
                "version" => _ = version.get_or_insert(value),
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" if mx.len() == MX_PATTERNS_MAX => return Err(StsPolicyFault::TooManyMx),
                "mx" => mx.push(pattern_of(value).ok_or(StsPolicyFault::BadMx)?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(StsPolicyFault::BadVersion);
        }
        let mode = match mode {
            Some("enforce") => StsMode::Enforce,
            Some("testing") => StsMode::Testing,
            Some("none") => StsMode::None,
            _ => return Err(StsPolicyFault::BadMode),
        };
        if mx.is_empty() && mode != StsMode::None {
            return Err(StsPolicyFault::NoMx);
        }
        let max_age_s = max_age.and_then(seconds_of).ok_or(StsPolicyFault::BadMaxAge)?;
        Ok(StsPolicy { mode, mx, max_age_s })
    }

    /// Whether `host` is one of the policy's hosts. A wildcard stands for one label (s4.1).
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => **pattern == *host,
        })
    }
}

/// RFC 8461 s3.2: one to ten digits.
fn seconds_of(text: &str) -> Option<u64> {
    let fits = (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok())?.map(|seconds: u64| seconds.min(MAX_AGE_S_MAX))
}

fn pattern_of(text: &str) -> Option<Box<str>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    let fits = text.len() <= 253 && labels.split('.').all(is_label);
    fits.then(|| text.to_ascii_lowercase().into())
}

/// Whether the policy file should be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsFetch {
    /// What is known is good, or was asked for in vain a moment ago.
    No,
    /// What is known still holds, and half of its time is over. Mail need not wait for it.
    Soon,
    /// Before mail goes out: the domain announces something that is not known.
    First,
}

/// What is known of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsAnswer {
    /// The policy that holds now.
    pub policy: Option<Arc<StsPolicy>>,
    pub fetch: StsFetch,
}

/// The policies of domains that were written to.
#[derive(Debug)]
pub struct StsCache {
    domains: HashMap<Box<str>, Known>,
    domains_max: usize,
}

#[derive(Debug, Default)]
struct Known {
    policy: Option<Fetched>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Fetched {
    id: Box<str>,
    policy: Arc<StsPolicy>,
    since_ms: u64,
    until_ms: u64,
}

/// A fetch that came to nothing.
#[derive(Debug)]
struct Failed {
    id: Box<str>,
    until_ms: u64,
}

impl Known {
    fn holding(&self, now_ms: u64) -> Option<&Fetched> {
        self.policy.as_ref().filter(|fetched| now_ms < fetched.until_ms)
    }

    /// After this time there is nothing in it worth keeping.
    fn until_ms(&self) -> u64 {
        let policy = self.policy.as_ref().map_or(0, |fetched| fetched.until_ms);
        policy.max(self.failed.as_ref().map_or(0, |failed| failed.until_ms))
    }
}

impl StsCache {
    pub fn new(domains_max: usize) -> StsCache {
        assert!(domains_max > 0, "a cache of nothing forgets every policy");
        StsCache { domains: HashMap::new(), domains_max }
    }

    pub fn len(&self) -> usize {
        self.domains.len()
    }

    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// What holds for `domain`, whose record announces `id` now, or nothing.
    pub fn ask(&self, domain: &str, id: Option<&str>, now_ms: u64) -> StsAnswer {
        let known = self.domains.get(&*key_of(domain));
        let holding = known.and_then(|known| known.holding(now_ms));
        let failed = known.and_then(|known| known.failed.as_ref());
        let in_vain =
            failed.is_some_and(|failed| Some(&*failed.id) == id && now_ms < failed.until_ms);
        let fetch = match (holding, id) {
            (_, None) => StsFetch::No,
            _ if in_vain => StsFetch::No,
            (None, Some(_)) => StsFetch::First,
            (Some(holding), Some(id)) if *holding.id != *id => StsFetch::First,
            (Some(holding), Some(_)) => {
                let half_ms = (holding.until_ms - holding.since_ms) / 2;
                if now_ms < holding.since_ms + half_ms { StsFetch::No } else { StsFetch::Soon }
            }
        };
        StsAnswer { policy: holding.map(|holding| Arc::clone(&holding.policy)), fetch }
    }

    /// A fetch has succeeded.
    pub fn keep(&mut self, domain: &str, id: &str, policy: StsPolicy, now_ms: u64) {
        let until_ms = now_ms + policy.max_age_s * 1000;
        let known = self.entry(domain, now_ms);
        let policy = Arc::new(policy);
        known.policy = Some(Fetched { id: id.into(), policy, since_ms: now_ms, until_ms });
        known.failed = None;
    }

    /// A fetch has failed. What was known holds on.
    pub fn keep_failure(&mut self, domain: &str, id: &str, now_ms: u64) {
        let known = self.entry(domain, now_ms);
        known.failed = Some(Failed { id: id.into(), until_ms: now_ms + RETRY_MS });
    }

    fn entry(&mut self, domain: &str, now_ms: u64) -> &mut Known {
        let domain = key_of(domain);
        if self.domains.len() >= self.domains_max && !self.domains.contains_key(&domain) {
            self.make_room(now_ms);
        }
        self.domains.entry(domain).or_default()
    }

    /// Looks at all domains; a fetch over HTTPS stands between two calls.
    fn make_room(&mut self, now_ms: u64) {
        self.domains.retain(|_, known| now_ms < known.until_ms());
        if self.domains.len() < self.domains_max {
            return;
        }
        let first = self.domains.iter().min_by_key(|(_, known)| known.until_ms());
        if let Some(domain) = first.map(|(domain, _)| domain.clone()) {
            self.domains.remove(&domain);
        }
    }
}

fn key_of(domain: &str) -> Box<str> {
    domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase().into()
}

/// The host whose web server has the policy of `domain`.
pub fn policy_host(domain: &str) -> String {
    format!("mta-sts.{}", key_of(domain))
}

/// Why a policy was not fetched.
#[derive(Clone, Debug, PartialEq)]
pub enum StsFetchFault<Fault> {
    /// No connection that could be trusted, or none that lasted.
    Channel(Fault),
    Http(HttpFault),
    Policy(StsPolicyFault),
}

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpFault {
    BadHead,
    HeadTooLong,
    /// Anything but 200, redirects included.
    Status(u16),
    NotPlainText,
    BadFraming,
    BodyTooLong,
    /// It ended before all of it had come.
    Short,
}

impl fmt::Display for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpFault::BadHead => f.write_str("the response is not HTTP"),
            HttpFault::HeadTooLong => f.write_str("the head of the response is too long"),
            HttpFault::Status(status) => write!(f, "status {status}"),
            HttpFault::NotPlainText => f.write_str("the response is not text/plain"),
            HttpFault::BadFraming => f.write_str("the length of the response makes no sense"),
            HttpFault::BodyTooLong => f.write_str("the policy is too long"),
            HttpFault::Short => f.write_str("the response was cut short"),
        }
    }
}

impl<Fault: fmt::Display> fmt::Display for StsFetchFault<Fault> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StsFetchFault::Channel(fault) => fault.fmt(f),
            StsFetchFault::Http(fault) => fault.fmt(f),
            StsFetchFault::Policy(fault) => fault.fmt(f),
        }
    }
}

/// Fetches the policy of `domain` over a channel that is connected to port 443 of its
/// `policy_host` and has a deadline. The channel is of no further use.
pub async fn fetch_policy<S: Transport>(
    channel: &mut Channel<S>,
    client: &Arc<TlsClient>,
    pool: &ChunkPool,
    domain: &str,
) -> Result<StsPolicy, StsFetchFault<S::Fault>> {
    let host = policy_host(domain);
    channel.start_tls_client(client, &host, PeerCheck::Name).map_err(StsFetchFault::Channel)?;
    channel.handshake(pool, None).await.map_err(StsFetchFault::Channel)?;
    let request = format!(
        "GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Ringpost\r\n\
         Accept: text/plain\r\nConnection: close\r\n\r\n"
    );
    channel.write(request.into_bytes()).await.0.map_err(StsFetchFault::Channel)?;
    let mut response = Response::default();
    while !response.hear_all().map_err(StsFetchFault::Http)? {
        match channel.read(pool, None).await {
            Ok(chunk) => {
                response.bytes.extend_from_slice(chunk.bytes());
                pool.give(chunk);
            }
            // Only a goodbye under TLS tells the end of a response from a cut.
            Err(_) if channel.tls_fault() == Some(&TlsFault::Closed) => {
                response.on_end().map_err(StsFetchFault::Http)?;
                break;
            }
            Err(fault) => return Err(StsFetchFault::Channel(fault)),
        }
    }
    // The policy is here; whether the goodbye arrives changes nothing.
    let _ = channel.close().await;
    StsPolicy::parse(&response.body).map_err(StsFetchFault::Policy)
}

/// A response as it comes in.
#[derive(Debug, Default)]
struct Response {
    /// What has come and was not understood yet.
    bytes: Vec<u8>,
    framing: Option<Framing>,
    body: Vec<u8>,
}

/// How the end of a body is told (RFC 9112 s6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    /// Bytes of chunk heads that may still come.
    Chunked {
        heads_left: usize,
    },
    UntilEnd,
}

impl Response {
    /// Takes in what has come. Says whether that is all.
    fn hear_all(&mut self) -> Result<bool, HttpFault> {
        let framing = match self.framing {
            Some(framing) => framing,
            None => match head_of(&self.bytes)? {
                None => return Ok(false),
                Some((head_bytes, framing)) => {
                    self.bytes.drain(..head_bytes);
                    framing
                }
            },
        };
        self.framing = Some(framing);
        match framing {
            Framing::Length(length) => {
                let missing = length - self.body.len();
                let count = missing.min(self.bytes.len());
                self.body.extend(self.bytes.drain(..count));
                Ok(self.body.len() == length)
            }
            Framing::Chunked { heads_left } => self.hear_chunks(heads_left),
            Framing::UntilEnd => {
                self.body.append(&mut self.bytes);
                match self.body.len() > POLICY_BYTES_MAX {
                    true => Err(HttpFault::BodyTooLong),
                    false => Ok(false),
                }
            }
        }
    }

    /// The peer has said goodbye.
    fn on_end(&self) -> Result<(), HttpFault> {
        match self.framing {
            Some(Framing::UntilEnd) => Ok(()),
            _ => Err(HttpFault::Short),
        }
    }

    /// Takes whole chunks only.
    fn hear_chunks(&mut self, mut heads_left: usize) -> Result<bool, HttpFault> {
        loop {
            let head =
                httparse::parse_chunk_size(&self.bytes).map_err(|_| HttpFault::BadFraming)?;
            let Status::Complete((head_bytes, size)) = head else {
                // RFC 9112 s7.1.1: extensions are passed over, as long as they end.
                return if self.bytes.len() > heads_left {
                    Err(HttpFault::BadFraming)
                } else {
                    Ok(false)
                };
            };
            if size == 0 {
                return Ok(true);
            }
            let size = usize::try_from(size).map_err(|_| HttpFault::BodyTooLong)?;
            if size > POLICY_BYTES_MAX - self.body.len() {
                return Err(HttpFault::BodyTooLong);
            }
            let whole = head_bytes + size + 2;
            if self.bytes.len() < whole {
                return Ok(false);
            }
            if !self.bytes[..whole].ends_with(b"\r\n") || head_bytes > heads_left {
                return Err(HttpFault::BadFraming);
            }
            self.body.extend_from_slice(&self.bytes[head_bytes..head_bytes + size]);
            self.bytes.drain(..whole);
            heads_left -= head_bytes;
            self.framing = Some(Framing::Chunked { heads_left });
        }
    }
}

/// Length and meaning of the head, once all of it is here.
fn head_of(bytes: &[u8]) -> Result<Option<(usize, Framing)>, HttpFault> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = response.parse(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]);
    let head_bytes = match head {
        Err(_) => return Err(HttpFault::BadHead),
        Ok(Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => return Err(HttpFault::HeadTooLong),
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(head_bytes)) => head_bytes,
    };
    match response.code {
        Some(200) => {}
        status => return Err(HttpFault::Status(status.unwrap_or(0))),
    }
    // RFC 8461 s3.2: so that whoever may put pages on a server cannot put a policy there.
    let kind = values(response.headers, "content-type").next();
    let kind = kind.map(|kind| kind.split(|byte| *byte == b';').next().unwrap_or(kind));
    if kind.is_some_and(|kind| !kind.trim_ascii().eq_ignore_ascii_case(b"text/plain")) {
        return Err(HttpFault::NotPlainText);
    }
    Ok(Some((head_bytes, framing_of(response.headers)?)))
}

fn framing_of(headers: &[Header<'_>]) -> Result<Framing, HttpFault> {
    let mut coding = values(headers, "transfer-encoding");
    let mut lengths = values(headers, "content-length");
    match (coding.next(), lengths.next()) {
        (Some(first), None)
            if first.eq_ignore_ascii_case(b"chunked") && coding.next().is_none() =>
        {
            Ok(Framing::Chunked { heads_left: FRAMING_BYTES_MAX })
        }
        (None, None) => Ok(Framing::UntilEnd),
        (None, Some(length)) if lengths.all(|other| other == length) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(length).ok().filter(|_| digits);
            match text.ok_or(HttpFault::BadFraming)?.parse::<usize>() {
                Ok(length) if length <= POLICY_BYTES_MAX => Ok(Framing::Length(length)),
                _ => Err(HttpFault::BodyTooLong),
            }
        }
        _ => Err(HttpFault::BadFraming),
    }
}

fn values<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_announces_one_policy_or_none() {
        let table: [(&str, &[&str], Option<&str>); 14] = [
            ("as in the RFC", &["v=STSv1; id=20160831085700Z;"], Some("20160831085700Z")),
            ("without the last delimiter", &["v=STSv1;id=a1"], Some("a1")),
            ("white space", &["v=STSv1 ;\tid=a1 ; "], Some("a1")),
            ("an extension", &["v=STSv1; x=y; id=a1"], Some("a1")),
            ("beside another record", &["v=spf1 -all", "v=STSv1; id=a1"], Some("a1")),
            ("none", &[], None),
            ("two", &["v=STSv1; id=a1", "v=STSv1; id=a1"], None),
            ("another version", &["v=STSv2; id=a1"], None),
            ("a version that goes on", &["v=STSv12; id=a1"], None),
            ("no id", &["v=STSv1; x=y"], None),
            ("an empty id", &["v=STSv1; id="], None),
            ("an id that is too long", &["v=STSv1; id=123456789012345678901234567890123"], None),
            ("an id with a sign", &["v=STSv1; id=a-1"], None),
            ("the version is not first", &["id=a1; v=STSv1"], None),
        ];
        for (case, records, expected) in table {
            let id = policy_id(records.iter().map(|record| record.as_bytes()));
            assert_eq!(id.as_deref(), expected, "{case}");
        }
        assert_eq!(policy_id([&b"v=STSv1; id=\xff"[..]]), None);
    }

    fn policy(mode: StsMode, mx: &[&str], max_age_s: u64) -> StsPolicy {
        StsPolicy { mode, mx: mx.iter().map(|mx| (*mx).into()).collect(), max_age_s }
    }

    #[test]
    fn policies_are_read_as_written() {
        let good = policy(StsMode::Enforce, &["mail.x.test", "*.x.test"], 604_800);
        let table: [(&str, &str, Result<StsPolicy, StsPolicyFault>); 21] = [
            (
                "CRLF",
                "version: STSv1\r\nmode: enforce\r\nmx: mail.x.test\r\nmx: *.x.test\r\nmax_age: 604800\r\n",
                Ok(good.clone()),
            ),
            (
                "LF, no end, other order",
                "max_age:604800\nmx: MAIL.x.test.\nmx:*.X.test\nmode: enforce \nversion: STSv1",
                Ok(good),
            ),
            (
                "unknown and doubled keys",
                "version: STSv1\nmode: testing\nmode: enforce\nnew: thing\nmx: a.test\nmax_age: 1\nmax_age: 2\n\n",
                Ok(policy(StsMode::Testing, &["a.test"], 1)),
            ),
            (
                "withdrawn",
                "version: STSv1\nmode: none\nmax_age: 86400",
                Ok(policy(StsMode::None, &[], 86_400)),
            ),
            (
                "more than a year",
                "version: STSv1\nmode: none\nmax_age: 9999999999",
                Ok(policy(StsMode::None, &[], MAX_AGE_S_MAX)),
            ),
            ("nothing", "", Err(StsPolicyFault::BadVersion)),
            ("HTML", "<html>\n", Err(StsPolicyFault::BadLine)),
            ("no version", "mode: none\nmax_age: 1", Err(StsPolicyFault::BadVersion)),
            (
                "a version to come",
                "version: STSv2\nmode: none\nmax_age: 1",
                Err(StsPolicyFault::BadVersion),
            ),
            ("no mode", "version: STSv1\nmax_age: 1", Err(StsPolicyFault::BadMode)),
            (
                "an unknown mode",
                "version: STSv1\nmode: report\nmax_age: 1",
                Err(StsPolicyFault::BadMode),
            ),
            ("no age", "version: STSv1\nmode: none", Err(StsPolicyFault::BadMaxAge)),
            (
                "an empty age",
                "version: STSv1\nmode: none\nmax_age:",
                Err(StsPolicyFault::BadMaxAge),
            ),
            (
                "a signed age",
                "version: STSv1\nmode: none\nmax_age: +1",
                Err(StsPolicyFault::BadMaxAge),
            ),
            (
                "a long age",
                "version: STSv1\nmode: none\nmax_age: 10000000000",
                Err(StsPolicyFault::BadMaxAge),
            ),
            ("no host", "version: STSv1\nmode: enforce\nmax_age: 1", Err(StsPolicyFault::NoMx)),
            (
                "an empty host",
                "version: STSv1\nmode: enforce\nmax_age: 1\nmx:",
                Err(StsPolicyFault::BadMx),
            ),
            (
                "a wildcard inside",
                "version: STSv1\nmode: enforce\nmax_age: 1\nmx: a.*.test",
                Err(StsPolicyFault::BadMx),
            ),
            (
                "a wildcard alone",
                "version: STSv1\nmode: enforce\nmax_age: 1\nmx: *",
                Err(StsPolicyFault::BadMx),
            ),
            (
                "an empty label",
                "version: STSv1\nmode: enforce\nmax_age: 1\nmx: a..test",
                Err(StsPolicyFault::BadMx),
            ),
            ("CR alone", "version: STSv1\rmode: none\rmax_age: 1", Err(StsPolicyFault::BadVersion)),
        ];
        for (case, text, expected) in table {
            assert_eq!(StsPolicy::parse(text.as_bytes()), expected, "{case}");
        }
        assert_eq!(StsPolicy::parse(b"version: \xff"), Err(StsPolicyFault::NotText));
        let many =
            format!("version: STSv1\nmode: none\nmax_age: 1\n{}", "mx: a.test\n".repeat(257));
        assert_eq!(StsPolicy::parse(many.as_bytes()), Err(StsPolicyFault::TooManyMx));
    }

    #[test]
    fn hosts_match_whole_labels() {
        let policy = policy(StsMode::Enforce, &["mail.x.test", "*.mx.x.test"], 1);
        let table = [
            ("mail.x.test", true),
            ("MAIL.X.test.", true),
            ("a.mx.x.test", true),
            ("a.b.mx.x.test", false),
            ("mx.x.test", false),
            ("amx.x.test", false),
            ("x.test", false),
            ("mail.x.test.evil.test", false),
            ("", false),
        ];
        for (host, expected) in table {
            assert_eq!(policy.matches(host), expected, "{host}");
        }
    }

    fn answer(cache: &StsCache, id: Option<&str>, now_ms: u64) -> (Option<StsMode>, StsFetch) {
        let answer = cache.ask("X.test.", id, now_ms);
        (answer.policy.map(|policy| policy.mode), answer.fetch)
    }

    #[test]
    fn a_policy_holds_until_its_end_whatever_happens() {
        let mut cache = StsCache::new(2);
        let enforce = || policy(StsMode::Enforce, &["a.test"], 1000);
        assert_eq!(answer(&cache, None, 0), (None, StsFetch::No), "nothing is announced");
        assert_eq!(answer(&cache, Some("1"), 0), (None, StsFetch::First));
        cache.keep("x.test", "1", enforce(), 0);
        let held = Some(StsMode::Enforce);
        let table = [
            ("fresh", Some("1"), 10, (held, StsFetch::No)),
            ("half its time", Some("1"), 500_000, (held, StsFetch::Soon)),
            ("another id", Some("2"), 10, (held, StsFetch::First)),
            ("the record is gone", None, 999_999, (held, StsFetch::No)),
            ("its end", Some("1"), 1_000_000, (None, StsFetch::First)),
            ("its end, no record", None, 1_000_000, (None, StsFetch::No)),
        ];
        for (case, id, now_ms, expected) in table {
            assert_eq!(answer(&cache, id, now_ms), expected, "{case}");
        }
        cache.keep_failure("x.test", "2", 10_000);
        assert_eq!(answer(&cache, Some("2"), 10_001), (held, StsFetch::No), "the old one holds");
        assert_eq!(answer(&cache, Some("3"), 10_001), (held, StsFetch::First));
        assert_eq!(answer(&cache, Some("2"), 10_000 + RETRY_MS), (held, StsFetch::First));
        cache.keep("x.test", "2", policy(StsMode::None, &[], 1000), 20_000);
        assert_eq!(answer(&cache, Some("2"), 20_001), (Some(StsMode::None), StsFetch::No));
    }

    #[test]
    fn a_full_cache_forgets_what_ends_first() {
        let mut cache = StsCache::new(2);
        let lasting = |max_age_s| policy(StsMode::Enforce, &["a.test"], max_age_s);
        cache.keep("long.test", "1", lasting(5000), 0);
        cache.keep("short.test", "1", lasting(1000), 0);
        cache.keep("new.test", "1", lasting(2000), 0);
        assert_eq!(cache.len(), 2);
        assert!(cache.ask("short.test", None, 1).policy.is_none());
        assert!(cache.ask("long.test", None, 1).policy.is_some());
        cache.keep_failure("failed.test", "1", 4_000_000);
        assert_eq!(cache.len(), 2, "what has ended goes first");
        assert!(cache.ask("long.test", None, 4_000_000).policy.is_some());
        assert!(!cache.is_empty());
    }

    /// Feeds a response in pieces, then says goodbye.
    fn hear(text: &[u8], piece: usize) -> Result<Vec<u8>, HttpFault> {
        let mut response = Response::default();
        for part in text.chunks(piece) {
            response.bytes.extend_from_slice(part);
            if response.hear_all()? {
                return Ok(response.body);
            }
        }
        response.on_end().map(|()| response.body)
    }

    #[test]
    fn responses_end_where_they_say() {
        const OK: &str = "HTTP/1.1 200 OK\r\n";
        let huge = format!("{OK}\r\n{}", "x".repeat(POLICY_BYTES_MAX + 1));
        let long_head = format!("{OK}A: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
        let extended = format!("{OK}Transfer-Encoding: chunked\r\n\r\n3;{}", "x".repeat(20_000));
        type Row<'a> = (&'a str, String, Result<&'a [u8], HttpFault>);
        let table: [Row<'_>; 20] = [
            ("a length", format!("{OK}Content-Length: 3\r\n\r\nabcdef"), Ok(b"abc")),
            ("nothing", format!("{OK}content-length: 0\r\n\r\n"), Ok(b"")),
            (
                "until the end",
                format!("{OK}Content-Type: Text/Plain; charset=utf-8\r\n\r\nabc"),
                Ok(b"abc"),
            ),
            ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nabc".to_owned(), Ok(b"abc")),
            (
                "chunks",
                format!("{OK}Transfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"),
                Ok(b"abc"),
            ),
            (
                "the same length twice",
                format!("{OK}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
                Ok(b"abc"),
            ),
            (
                "two lengths",
                format!("{OK}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
                Err(HttpFault::BadFraming),
            ),
            (
                "a length that is none",
                format!("{OK}Content-Length: +3\r\n\r\nabc"),
                Err(HttpFault::BadFraming),
            ),
            (
                "both",
                format!("{OK}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Err(HttpFault::BadFraming),
            ),
            (
                "compressed",
                format!("{OK}Transfer-Encoding: gzip, chunked\r\n\r\n"),
                Err(HttpFault::BadFraming),
            ),
            ("cut", format!("{OK}Content-Length: 4\r\n\r\nabc"), Err(HttpFault::Short)),
            (
                "cut inside the chunks",
                format!("{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"),
                Err(HttpFault::Short),
            ),
            (
                "a chunk without its end",
                format!("{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nabcd"),
                Err(HttpFault::BadFraming),
            ),
            (
                "a chunk of everything",
                format!("{OK}Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"),
                Err(HttpFault::BodyTooLong),
            ),
            ("an extension without end", extended, Err(HttpFault::BadFraming)),
            (
                "a long length",
                format!("{OK}Content-Length: 65537\r\n\r\n"),
                Err(HttpFault::BodyTooLong),
            ),
            ("a long body", huge, Err(HttpFault::BodyTooLong)),
            (
                "a redirect",
                "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n".to_owned(),
                Err(HttpFault::Status(301)),
            ),
            ("HTML", format!("{OK}Content-Type: text/html\r\n\r\n"), Err(HttpFault::NotPlainText)),
            ("a long head", long_head, Err(HttpFault::HeadTooLong)),
        ];
        for (case, text, expected) in table {
            for piece in [1, 7, 1448, 1 << 20] {
                let got = hear(text.as_bytes(), piece);
                assert_eq!(got.as_deref(), expected.as_ref().copied(), "{case}, {piece}");
            }
        }
        assert_eq!(hear(b"220 mail.x.test ESMTP\r\n", 100), Err(HttpFault::BadHead));
    }
}
