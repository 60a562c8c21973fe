//! MTA-STS: the TLS policy that a domain publishes for its mail hosts (RFC 8461).
//!
//! Pure: parses records and policies, and decides when a policy must be fetched.
//! Promise:  a fetched policy holds for its `max_age`, even if the record disappears or a later fetch
//!           fails (RFC 8461 s5.1).
//! Bounds:   `POLICY_BYTES_MAX`, `MX_PATTERNS_MAX`.
//! Time:     the caller passes the time.

use std::fmt;
use std::sync::Arc;

use crate::net::tls_memory::TlsResult;

/// Bytes of a policy. RFC 8461 s3.3 suggests 64 KiB. More: the fetch fails.
pub const POLICY_BYTES_MAX: usize = 64 << 10;

/// Patterns of a policy. The largest known have a dozen. More: the policy is invalid.
pub const MX_PATTERNS_MAX: usize = 256;

/// A year, the largest `max_age` (RFC 8461 s3.2). Larger values count as a year.
pub const MAX_AGE_S_MAX: u64 = 31_557_600;

/// The delay before another fetch after a failed one (RFC 8461 s3.3).
pub const RETRY_MS: u64 = 5 * 60 * 1000;

const HOUR_MS: u64 = 60 * 60 * 1000;
/// Resolution of the time of last use.
const USED_EVERY_MS: u64 = 6 * HOUR_MS;
/// A policy counts as in use for its `max_age` after its last use, and at least for this long.
const IN_USE_MS_MIN: u64 = 24 * HOUR_MS;

/// The id of the single valid record among the TXT records of `_mta-sts.DOMAIN`. `None` if there is no
/// valid record or more than one (RFC 8461 s3.1).
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

/// The text after the version, if the version is right.
fn fields_of_record(record: &[u8]) -> Option<&str> {
    let rest = std::str::from_utf8(record).ok()?.strip_prefix("v=STSv1")?;
    rest.trim_start_matches(WSP).strip_prefix(';')
}

/// The mode of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StsMode {
    /// No delivery to hosts that fail verification.
    Enforce,
    /// Failures are only reported.
    Testing,
    /// The domain has withdrawn its policy.
    None,
}

/// A published policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StsPolicy {
    pub mode: StsMode,
    /// In lower case without a trailing dot; a wildcard keeps its `*.`.
    pub mx: Vec<Box<str>>,
    pub max_age_s: u64,
}

/// Why a policy is invalid.
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
    /// The mode requires hosts, but the policy lists none.
    NoMx,
}

impl fmt::Display for StsPolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StsPolicyFault::NotText => "the policy is not text",
            StsPolicyFault::BadLine => "a line of the policy is not `key: value`",
            StsPolicyFault::BadVersion => "the version of the policy is not STSv1",
            StsPolicyFault::BadMode => "the mode of the policy is missing or unknown",
            StsPolicyFault::BadMaxAge => "the max_age of the policy is missing or invalid",
            StsPolicyFault::BadMx => "an mx of the policy is not a host name",
            StsPolicyFault::TooManyMx => "the policy lists too many hosts",
            StsPolicyFault::NoMx => "the policy lists no hosts",
        })
    }
}

impl StsPolicy {
    /// RFC 8461 s3.2: `key: value` lines that end in LF or CRLF. Unknown keys are ignored; of repeated
    /// keys other than `mx` the first counts.
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

    /// The policy as text that `parse` reads.
    pub fn text(&self) -> String {
        let mode = match self.mode {
            StsMode::Enforce => "enforce",
            StsMode::Testing => "testing",
            StsMode::None => "none",
        };
        let mx: String = self.mx.iter().map(|pattern| format!("mx: {pattern}\n")).collect();
        format!("version: STSv1\nmode: {mode}\n{mx}max_age: {}\n", self.max_age_s)
    }

    /// Approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        let patterns = self.mx.iter().map(|pattern| pattern.len() + size_of::<Box<str>>());
        size_of::<StsPolicy>() + patterns.sum::<usize>()
    }

    /// Whether the policy lists `host`. A wildcard matches one label (s4.1).
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

/// Whether and when to fetch the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsFetch {
    /// The known policy is current, or the last fetch has just failed.
    No,
    /// The known policy holds, but half of its time is over. Mail does not wait for the fetch.
    Soon,
    /// Before mail is sent: the domain announces a policy that is not known.
    First,
}

/// The policy of a domain, and whether to fetch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsAnswer {
    /// The policy in force.
    pub policy: Option<Arc<StsPolicy>>,
    pub fetch: StsFetch,
}

/// The known state of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StsKnown {
    pub policy: Option<Arc<StsFetched>>,
    pub failed: Option<Arc<StsFailed>>,
}

/// A fetched policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsFetched {
    pub id: Box<str>,
    pub policy: Arc<StsPolicy>,
    pub fetched_ms: u64,
    /// When mail was last sent under this policy, within a few hours; 0: never.
    pub used_ms: u64,
}

/// A fetch that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsFailed {
    pub id: Box<str>,
    pub until_ms: u64,
    /// The failure as reports name it.
    pub result: TlsResult,
}

impl StsFetched {
    pub fn expires_ms(&self) -> u64 {
        self.fetched_ms.saturating_add(self.policy.max_age_s * 1000)
    }

    /// Half of its time is over: it must be fetched again, so that it does not expire while in use.
    fn is_old(&self, now_ms: u64) -> bool {
        now_ms >= self.fetched_ms.saturating_add(self.policy.max_age_s * 500)
    }

    /// Whether mail was sent under the policy within its `max_age`.
    pub fn is_in_use(&self, now_ms: u64) -> bool {
        let while_ms = (self.policy.max_age_s * 1000).max(IN_USE_MS_MIN);
        self.used_ms > 0 && now_ms < self.used_ms.saturating_add(while_ms)
    }

    /// Whether a use now must be recorded.
    pub fn is_use_new(&self, now_ms: u64) -> bool {
        now_ms >= self.used_ms.saturating_add(USED_EVERY_MS)
    }

    /// Whether to fetch the policy again although no mail is waiting for it.
    pub fn wants_refresh(&self, now_ms: u64) -> bool {
        self.is_in_use(now_ms) && self.is_old(now_ms) && now_ms < self.expires_ms()
    }
}

impl StsKnown {
    /// The policy in force and the fetch decision for a domain whose record announces `id`.
    pub fn answer(&self, id: Option<&str>, now_ms: u64) -> StsAnswer {
        let holding = self.policy.as_ref().filter(|fetched| now_ms < fetched.expires_ms());
        let has_failed = self.failed.as_ref().is_some_and(|failed| {
            // A clock that was set back must not extend the failure.
            let lasts = failed.until_ms.saturating_sub(RETRY_MS)..failed.until_ms;
            Some(&*failed.id) == id && lasts.contains(&now_ms)
        });
        let fetch = match (holding, id) {
            (_, None) => StsFetch::No,
            _ if has_failed => StsFetch::No,
            (None, Some(_)) => StsFetch::First,
            (Some(holding), Some(id)) if *holding.id != *id => StsFetch::First,
            (Some(holding), Some(_)) if holding.is_old(now_ms) => StsFetch::Soon,
            (Some(_), Some(_)) => StsFetch::No,
        };
        StsAnswer { policy: holding.map(|holding| Arc::clone(&holding.policy)), fetch }
    }
}

/// The key of a domain: in lower case without a trailing dot.
pub fn key_of(domain: &str) -> Arc<str> {
    domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase().into()
}

/// The host of the web server with the policy of `domain`.
pub fn policy_host(domain: &str) -> String {
    format!("mta-sts.{}", key_of(domain))
}

#[cfg(test)]
mod tests;
