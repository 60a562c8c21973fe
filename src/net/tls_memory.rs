//! The memory of remote servers' TLS: hosts with broken TLS, and the counts for TLS reports.
//!
//! Owner:    one of each per shard. A destination belongs to one shard, so nothing is merged.
//! Bounds:   `BrokenTls` has a maximum number of hosts; when full, a host is not remembered and is
//!           tried with TLS again, which is safe. `TlsReports` has a maximum number of domains, and
//!           `FAILURES_PER_DOMAIN_MAX` kinds of failure for each; further ones are counted in `lost`.
//! Time:     the caller passes the time.

use std::collections::HashMap;
use std::fmt;

use crate::net::tls_fault::CertificateFault;
use crate::net::tls_fault::TlsFault;

/// Kinds of failure of one domain: results by host. Full: counted in `lost`.
pub const FAILURES_PER_DOMAIN_MAX: usize = 32;

/// Hosts that offered TLS but failed the handshake.
#[derive(Debug)]
pub struct BrokenTls {
    until_ms: HashMap<Box<str>, u64>,
    hosts_max: usize,
}

impl BrokenTls {
    pub fn new(hosts_max: usize) -> BrokenTls {
        BrokenTls { until_ms: HashMap::new(), hosts_max }
    }

    /// Records a failed handshake; TLS is not tried until `until_ms`.
    pub fn note(&mut self, host: &str, now_ms: u64, until_ms: u64) {
        let host = key_of(host);
        if self.until_ms.len() >= self.hosts_max && !self.until_ms.contains_key(&host) {
            self.until_ms.retain(|_, until_ms| now_ms < *until_ms);
            if self.until_ms.len() >= self.hosts_max {
                return;
            }
        }
        self.until_ms.insert(host, until_ms);
    }

    /// Records a successful handshake.
    pub fn forgive(&mut self, host: &str) {
        self.until_ms.remove(&key_of(host));
    }

    pub fn is_broken(&self, host: &str, now_ms: u64) -> bool {
        self.until_ms.get(&key_of(host)).is_some_and(|until_ms| now_ms < *until_ms)
    }
}

/// The result of one session, in the terms of TLS reports (RFC 8460 s4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsResult {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    DnssecInvalid,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

impl TlsResult {
    /// The result for a failed handshake.
    pub fn of(fault: &TlsFault) -> TlsResult {
        match (fault, fault.certificate()) {
            (TlsFault::TlsaMismatch, _) => TlsResult::ValidationFailure,
            (_, Some(fault)) => TlsResult::of_certificate(fault),
            _ => TlsResult::ValidationFailure,
        }
    }

    /// The result for a certificate that failed verification.
    pub fn of_certificate(fault: CertificateFault) -> TlsResult {
        match fault {
            CertificateFault::OtherName => TlsResult::CertificateHostMismatch,
            CertificateFault::Expired => TlsResult::CertificateExpired,
            _ => TlsResult::CertificateNotTrusted,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            TlsResult::StarttlsNotSupported => "starttls-not-supported",
            TlsResult::CertificateHostMismatch => "certificate-host-mismatch",
            TlsResult::CertificateExpired => "certificate-expired",
            TlsResult::CertificateNotTrusted => "certificate-not-trusted",
            TlsResult::ValidationFailure => "validation-failure",
            TlsResult::DnssecInvalid => "dnssec-invalid",
            TlsResult::StsPolicyFetchError => "sts-policy-fetch-error",
            TlsResult::StsPolicyInvalid => "sts-policy-invalid",
            TlsResult::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

impl fmt::Display for TlsResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of policy that applied to a session (RFC 8460 s4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsPolicyKind {
    Tlsa,
    Sts,
    NoPolicyFound,
}

/// The sessions of one domain under one kind of policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsCounts {
    pub successes: u64,
    /// By result and receiving host, in the order of first occurrence.
    pub failures: Vec<TlsFailureCount>,
    /// Failures beyond `FAILURES_PER_DOMAIN_MAX` kinds.
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailureCount {
    pub result: TlsResult,
    pub host: Box<str>,
    pub sessions: u64,
}

/// The counts for TLS reports, by policy domain.
#[derive(Debug)]
pub struct TlsReports {
    domains: HashMap<(Box<str>, TlsPolicyKind), TlsCounts>,
    domains_max: usize,
    lost: u64,
}

impl TlsReports {
    pub fn new(domains_max: usize) -> TlsReports {
        TlsReports { domains: HashMap::new(), domains_max, lost: 0 }
    }

    pub fn count_success(&mut self, domain: &str, kind: TlsPolicyKind) {
        match self.counts(domain, kind) {
            Some(counts) => counts.successes += 1,
            None => self.lost += 1,
        }
    }

    pub fn count_failure(
        &mut self,
        domain: &str,
        kind: TlsPolicyKind,
        host: &str,
        result: TlsResult,
    ) {
        let Some(counts) = self.counts(domain, kind) else {
            self.lost += 1;
            return;
        };
        let host = key_of(host);
        let same = |count: &TlsFailureCount| count.result == result && count.host == host;
        match counts.failures.iter().position(same) {
            Some(place) => counts.failures[place].sessions += 1,
            None if counts.failures.len() == FAILURES_PER_DOMAIN_MAX => counts.lost += 1,
            None => counts.failures.push(TlsFailureCount { result, host, sessions: 1 }),
        }
    }

    pub fn get(&self, domain: &str, kind: TlsPolicyKind) -> Option<&TlsCounts> {
        self.domains.get(&(key_of(domain), kind))
    }

    /// Sessions of domains beyond the maximum.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// All that was counted since the last time, in no order.
    pub fn take(&mut self) -> impl Iterator<Item = ((Box<str>, TlsPolicyKind), TlsCounts)> {
        self.lost = 0;
        std::mem::take(&mut self.domains).into_iter()
    }

    fn counts(&mut self, domain: &str, kind: TlsPolicyKind) -> Option<&mut TlsCounts> {
        let key = (key_of(domain), kind);
        if self.domains.len() >= self.domains_max && !self.domains.contains_key(&key) {
            return None;
        }
        Some(self.domains.entry(key).or_default())
    }
}

fn key_of(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn broken_hosts_are_remembered_for_a_time() {
        let mut broken = BrokenTls::new(2);
        broken.note("MX.a.test.", 0, 100);
        assert!(broken.is_broken("mx.a.test", 99));
        assert!(!broken.is_broken("mx.a.test", 100));
        assert!(!broken.is_broken("mx.b.test", 0));
        broken.note("mx.b.test", 0, 200);
        broken.note("mx.c.test", 50, 200);
        assert!(!broken.is_broken("mx.c.test", 50), "no place: it is tried again");
        broken.note("mx.b.test", 50, 300);
        assert!(broken.is_broken("mx.b.test", 250), "a known host has its place");
        broken.note("mx.c.test", 100, 200);
        assert!(broken.is_broken("mx.c.test", 150), "the place of one whose time is over");
        broken.forgive("mx.c.test");
        assert!(!broken.is_broken("mx.c.test", 150));
        assert_eq!(broken.until_ms.len(), 1);
    }

    #[test]
    fn faults_have_their_result() {
        let certificate = |cause| TlsFault::from(rustls::Error::InvalidCertificate(cause));
        let table = [
            (certificate(CertificateError::Expired), "certificate-expired"),
            (certificate(CertificateError::NotValidForName), "certificate-host-mismatch"),
            (certificate(CertificateError::UnknownIssuer), "certificate-not-trusted"),
            (certificate(CertificateError::NotValidYet), "certificate-not-trusted"),
            (certificate(CertificateError::ApplicationVerificationFailure), "validation-failure"),
            (TlsFault::Truncated, "validation-failure"),
            (TlsFault::Alert(AlertDescription::HandshakeFailure), "validation-failure"),
        ];
        for (fault, expected) in table {
            assert_eq!(TlsResult::of(&fault).to_string(), expected, "{fault}");
        }
    }

    #[test]
    fn sessions_are_counted_within_bounds() {
        let mut reports = TlsReports::new(2);
        let expired = TlsResult::CertificateExpired;
        for _ in 0..3 {
            reports.count_success("X.test", TlsPolicyKind::Sts);
            reports.count_failure("x.test.", TlsPolicyKind::Sts, "MX.x.test", expired);
        }
        reports.count_success("x.test", TlsPolicyKind::Tlsa);
        reports.count_success("y.test", TlsPolicyKind::Sts);
        reports.count_failure("y.test", TlsPolicyKind::Sts, "mx.y.test", expired);
        assert_eq!(reports.lost(), 2, "the third has no place");
        for host in 0..FAILURES_PER_DOMAIN_MAX {
            let host = format!("mx{host}.x.test");
            reports.count_failure("x.test", TlsPolicyKind::Sts, &host, expired);
        }
        let counts = reports.get("x.test", TlsPolicyKind::Sts).expect("it was counted");
        assert_eq!((counts.successes, counts.lost), (3, 1));
        assert_eq!(counts.failures.len(), FAILURES_PER_DOMAIN_MAX);
        let first = TlsFailureCount { result: expired, host: "mx.x.test".into(), sessions: 3 };
        assert_eq!(counts.failures[0], first);
        assert_eq!(reports.take().count(), 2);
        assert_eq!((reports.get("x.test", TlsPolicyKind::Sts), reports.lost()), (None, 0));
    }
}
