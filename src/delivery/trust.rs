//! What a shard knows about the TLS of other servers, and the decision for each host.
//!
//! Owner:    one shard.
//! Promise:  what a domain or its hosts have published is never silently ignored: `route::tls_policy`
//!           decides, and this file collects the facts for the decision.
//! Bounds:   `BROKEN_MAX` hosts and `REPORT_DOMAINS_MAX` domains. Full: TLS is tried again with a host
//!           where it is broken, and a report is counted as lost.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::clock::wall_ms;
use crate::delivery::sts::StsLookup;
use crate::handoff::StsPolicies;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::net::BrokenTls;
use crate::net::DnsFault;
use crate::net::PeerCheck;
use crate::net::Resolver;
use crate::net::SocketFault;
use crate::net::StsMode;
use crate::net::TlsClient;
use crate::net::TlsFacts;
use crate::net::TlsReports;
use crate::net::TlsResult;
use crate::net::TlsaRecord;
use crate::net::Verdict;
use crate::net::dane;
use crate::net::tls_memory::TlsPolicyKind;
use crate::observe::ShardObserved;
use crate::observe::label::DeliveryTlsResult;
use crate::route::HopProtocol;
use crate::route::HostPort;
use crate::route::OutboundTls;
use crate::route::delivery::DeliveryPolicy;
use crate::route::tls_policy::DaneState;
use crate::route::tls_policy::Demand;
use crate::route::tls_policy::Proof;
use crate::route::tls_policy::RequireTls;
use crate::route::tls_policy::StsState;
use crate::route::tls_policy::TlsDecision;
use crate::route::tls_policy::TlsMemory;
use crate::route::tls_policy::TlsRefusal;
use crate::route::tls_policy::TlsSituation;

/// How long mail goes to a host without TLS after its TLS failed, and how many such hosts are known.
const BROKEN_MS: u64 = 3_600_000;
const BROKEN_MAX: usize = 10_000;
/// Domains whose sessions are counted.
const REPORT_DOMAINS_MAX: usize = 10_000;
/// The policy of a connection without TLS that follows one whose TLS failed.
pub const AFTER_FAILURE: &str = "may, tls is broken";

/// The knowledge about the TLS of other servers.
pub struct Trust {
    client: Arc<TlsClient>,
    resolver: Resolver,
    sts: Rc<StsLookup>,
    broken: RefCell<BrokenTls>,
    reports: Rc<RefCell<TlsReports>>,
}

/// The TLS of one host, and the policy behind it.
#[derive(Clone, Debug)]
pub struct Terms {
    pub decision: TlsDecision,
    pub check: PeerCheck,
    /// The policy in the log.
    pub policy: &'static str,
    /// The policy in TLS reports.
    kind: TlsPolicyKind,
    /// A policy in mode testing does not list the host.
    stranger: bool,
}

impl Trust {
    pub fn new(
        client: Arc<TlsClient>,
        resolver: Resolver,
        policies: StsPolicies,
        observed: Arc<ShardObserved>,
    ) -> Rc<Trust> {
        let reports = Rc::new(RefCell::new(TlsReports::new(REPORT_DOMAINS_MAX)));
        let sts = StsLookup::new(resolver.clone(), policies, observed, Rc::clone(&reports));
        let broken = RefCell::new(BrokenTls::new(BROKEN_MAX));
        Rc::new(Trust { client, resolver, sts, broken, reports })
    }

    pub fn client(&self) -> &Arc<TlsClient> {
        &self.client
    }

    pub fn sts(&self) -> &Rc<StsLookup> {
        &self.sts
    }

    /// What came of TLS with other servers since the last call, each result with its sessions.
    pub fn take_results(&self) -> Vec<(DeliveryTlsResult, u64)> {
        let mut results = Vec::new();
        for (_, counts) in self.reports.borrow_mut().take() {
            results.push((DeliveryTlsResult::Success, counts.successes));
            let failures = counts.failures.iter();
            results.extend(failures.map(|one| (label_of(one.result), one.sessions)));
        }
        results
    }

    /// Decides about a host of the hop. `authentic`: DNSSEC has validated its addresses. A fault is a
    /// limit of this server and says nothing of the host.
    pub async fn terms(
        &self,
        hop: &Hop,
        host: &HostPort,
        authentic: bool,
    ) -> Result<Terms, DnsFault> {
        if host.unix_path().is_some() {
            // The mail does not leave the machine.
            return Ok(Terms {
                decision: TlsDecision::Clear { ignored: None },
                check: PeerCheck::Any,
                policy: "none",
                kind: TlsPolicyKind::NoPolicyFound,
                stranger: false,
            });
        }
        let (dane, records) = match hop.dane && authentic {
            true => self.tlsa(host).await?,
            false => (DaneState::None, Vec::new()),
        };
        let sts = sts_state(hop, &host.host);
        let is_broken = self.broken.borrow().is_broken(&host.host, wall_ms());
        let memory = if is_broken { TlsMemory::Broken } else { TlsMemory::Nothing };
        let situation =
            TlsSituation { mode: hop.tls, dane, sts, require_tls: hop.require_tls, memory };
        let decision = match situation.decide() {
            TlsDecision::Require { .. } if is_unvouched(hop, sts) => {
                TlsDecision::PassOver(TlsRefusal::NameInsecure)
            }
            decision => decision,
        };
        let check = match decision {
            TlsDecision::Require { proof: Proof::Dane, .. } => PeerCheck::Dane {
                records: records.into(),
                // RFC 7672 s3.2.2: the name of the domain counts only where it led here securely.
                next_hop: (hop.names == HostNames::SignedMx).then(|| Arc::from(&*hop.domain)),
            },
            TlsDecision::Require { proof: Proof::Name, .. } => PeerCheck::Name,
            _ => PeerCheck::Any,
        };
        let kind = match (dane, sts) {
            (DaneState::None, StsState::None) => TlsPolicyKind::NoPolicyFound,
            (DaneState::None, _) => TlsPolicyKind::Sts,
            _ => TlsPolicyKind::Tlsa,
        };
        let stranger = sts == StsState::Testing { host_matches: false };
        let policy = policy_word(&situation, decision);
        Ok(Terms { decision, check, policy, kind, stranger })
    }

    /// TLS failed that is not required: mail goes without it for a while.
    pub fn note_broken(&self, host: &str) {
        let now_ms = wall_ms();
        self.broken.borrow_mut().note(host, now_ms, now_ms + BROKEN_MS);
    }

    /// A connection is ready for mail.
    pub fn count_session(&self, hop: &Hop, host: &str, terms: &Terms, facts: Option<&TlsFacts>) {
        if hop.sts.is_some() {
            self.sts.note_used(&hop.domain);
        }
        let mut reports = self.reports.borrow_mut();
        let verdict = facts.and_then(TlsFacts::verdict);
        let result = match verdict {
            None if terms.decision.wants_tls() => Some(TlsResult::StarttlsNotSupported),
            // No TLS was asked for. An earlier failure is counted already.
            None => return,
            // Only in mode testing a session goes on against its policy.
            Some(_) if terms.stranger => Some(TlsResult::ValidationFailure),
            Some(Verdict::Unproven(fault)) if terms.kind == TlsPolicyKind::Sts => {
                Some(TlsResult::of_certificate(fault))
            }
            Some(_) => None,
        };
        if verdict.is_some() {
            self.broken.borrow_mut().forgive(host);
        }
        match result {
            None => reports.count_success(&hop.domain, terms.kind),
            Some(result) => reports.count_failure(&hop.domain, terms.kind, host, result),
        }
    }

    /// TLS was asked for and failed.
    pub fn count_failure(&self, hop: &Hop, host: &str, terms: &Terms, cause: Option<&SocketFault>) {
        let result = match (terms.decision, cause) {
            (TlsDecision::PassOver(TlsRefusal::NotInStsPolicy), _) => TlsResult::ValidationFailure,
            (TlsDecision::PassOver(refusal), _) => match refusal {
                TlsRefusal::DaneBogus | TlsRefusal::DaneIndeterminate => TlsResult::DnssecInvalid,
                // The sender required TLS, not the domain.
                _ => return,
            },
            (_, Some(SocketFault::Tls(fault))) => TlsResult::of(fault),
            (_, Some(SocketFault::Io(_))) => TlsResult::ValidationFailure,
            (_, None) => TlsResult::StarttlsNotSupported,
        };
        self.reports.borrow_mut().count_failure(&hop.domain, terms.kind, host, result);
    }

    /// The TLSA records of a host whose addresses are validated (RFC 7672 s2.2.2).
    async fn tlsa(&self, host: &HostPort) -> Result<(DaneState, Vec<TlsaRecord>), DnsFault> {
        let answer = match self.resolver.tlsa(host.port, &host.host).await {
            Ok(answer) => answer,
            Err(DnsFault::NoSuchDomain | DnsFault::NoData | DnsFault::BadName) => {
                return Ok((DaneState::None, Vec::new()));
            }
            // The reply of a validating name server if validation fails.
            Err(DnsFault::ServerFailure) => return Ok((DaneState::Bogus, Vec::new())),
            Err(fault) if fault.is_own_limit() => return Err(fault),
            Err(_) => return Ok((DaneState::Indeterminate, Vec::new())),
        };
        if !answer.authentic {
            return Ok((DaneState::None, Vec::new()));
        }
        let records = answer.records;
        let is_usable = dane::any_usable(&records);
        let state = if is_usable { DaneState::Usable } else { DaneState::Unusable };
        Ok((state, records))
    }
}

/// RFC 8689 s4.2.1: the name of a host found by MX must be protected by DNSSEC or MTA-STS, because a
/// certificate proves nothing about a name that anybody could have put there.
fn is_unvouched(hop: &Hop, sts: StsState) -> bool {
    let in_policy = matches!(
        sts,
        StsState::Enforce { host_matches: true } | StsState::Testing { host_matches: true }
    );
    hop.require_tls == RequireTls::Yes && hop.names == HostNames::Mx && !in_policy
}

fn sts_state(hop: &Hop, host: &str) -> StsState {
    let Some(policy) = &hop.sts else { return StsState::None };
    let host_matches = policy.matches(host);
    match policy.mode {
        StsMode::Enforce => StsState::Enforce { host_matches },
        StsMode::Testing => StsState::Testing { host_matches },
        StsMode::None => StsState::None,
    }
}

fn policy_word(situation: &TlsSituation, decision: TlsDecision) -> &'static str {
    match decision {
        TlsDecision::Clear { ignored: Some(Demand::Dane) } => "none, ignores dane",
        TlsDecision::Clear { ignored: Some(_) } => "none, ignores mta-sts",
        TlsDecision::Clear { ignored: None } if situation.mode == OutboundTls::None => "none",
        TlsDecision::Clear { ignored: None } => AFTER_FAILURE,
        TlsDecision::Try if situation.sts != StsState::None => "may, mta-sts testing",
        TlsDecision::Try => "may",
        TlsDecision::Require { proof: Proof::Any, by: Demand::Operator } => "must",
        TlsDecision::Require { by: Demand::Operator, .. } => "verify",
        TlsDecision::Require { by, .. } => by.as_str(),
        TlsDecision::PassOver(_) => "",
    }
}

const fn label_of(result: TlsResult) -> DeliveryTlsResult {
    match result {
        TlsResult::StarttlsNotSupported => DeliveryTlsResult::StarttlsNotSupported,
        TlsResult::CertificateHostMismatch => DeliveryTlsResult::CertificateHostMismatch,
        TlsResult::CertificateExpired => DeliveryTlsResult::CertificateExpired,
        TlsResult::CertificateNotTrusted => DeliveryTlsResult::CertificateNotTrusted,
        TlsResult::ValidationFailure => DeliveryTlsResult::ValidationFailure,
        TlsResult::DnssecInvalid => DeliveryTlsResult::Dane,
        TlsResult::StsPolicyFetchError
        | TlsResult::StsPolicyInvalid
        | TlsResult::StsWebpkiInvalid => DeliveryTlsResult::StsPolicy,
    }
}

/// Whether the TLSA records of the hosts of a hop count.
pub fn dane_counts(policy: &DeliveryPolicy, names: HostNames, protocol: HopProtocol) -> bool {
    policy.dane
        && policy.resolver.trust_ad
        && names != HostNames::Mx
        && protocol != HopProtocol::Lmtp
}

#[cfg(test)]
mod tests;
