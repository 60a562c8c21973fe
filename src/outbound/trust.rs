//! What a shard knows about the TLS of other servers, and the decision for each host.
//!
//! Owner:    one shard; its home half asks for policies, its owner half for hosts.
//! Promise:  what a domain or its hosts have published is never silently ignored: `route::tls_policy`
//!           decides, and this file collects the facts for the decision.
//! MTA-STS:  the control plane fetches policies. Mail waits for an unknown policy for up to
//!           `STS_WAIT_MAX` and is then postponed, since the policy may require TLS. A valid
//!           policy is refreshed while mail uses it, and without new mail if it was used recently.
//! Bounds:   `STS_ASKED_MAX` requested domains, and the limits of the tables. Full: a request waits, a
//!           host with broken TLS is tried again, a report is counted as lost.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::wall_ms;
use crate::base::limits::STS_ASKED_MAX;
use crate::base::limits::STS_WAIT_MS_MAX;
use crate::handoff::StsPolicies;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::sts;
use crate::handoff::sts::StsRequest;
use crate::handoff::sts::StsWanted;
use crate::net::BrokenTls;
use crate::net::DnsFault;
use crate::net::Family;
use crate::net::PeerCheck;
use crate::net::Resolver;
use crate::net::SocketFault;
use crate::net::StsMode;
use crate::net::StsPolicy;
use crate::net::TlsClient;
use crate::net::TlsFacts;
use crate::net::TlsReports;
use crate::net::TlsResult;
use crate::net::TlsaRecord;
use crate::net::Vantage;
use crate::net::Verdict;
use crate::net::dane;
use crate::net::mta_sts;
use crate::net::mta_sts::StsFetch;
use crate::net::tls_memory::TlsPolicyKind;
use crate::observe::ShardObserved;
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
use crate::rt::task;
use crate::rt::timer;

/// How long a host is spoken to in the clear after its TLS failed, and how many are remembered.
const BROKEN_MS: u64 = 3_600_000;
const BROKEN_MAX: usize = 10_000;
/// Domains whose sessions are counted.
const REPORT_DOMAINS_MAX: usize = 10_000;
/// How long mail waits for a policy that is not known.
const STS_WAIT_MAX: Duration = Duration::from_millis(STS_WAIT_MS_MAX);
const STS_LOOK_EVERY: Duration = Duration::from_millis(50);
/// After so long without an answer the control plane is asked again: it may have had no room.
const STS_ASK_EVERY: Duration = Duration::from_secs(1);

/// What is known of other servers' TLS.
pub struct Trust {
    client: Arc<TlsClient>,
    resolver: Resolver,
    policies: StsPolicies,
    observed: Arc<ShardObserved>,
    broken: RefCell<BrokenTls>,
    reports: RefCell<TlsReports>,
    /// Domains whose policy the control plane was asked for a moment ago.
    asked: RefCell<HashSet<Box<str>>>,
    /// The part of the policies that is looked through next for what wants a refresh.
    refreshed: Cell<usize>,
}

/// Why it is not known whether a policy holds for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsUnknown {
    /// The domain may announce a policy that was not fetched yet.
    NotFetched,
    /// A limit of this server kept it from asking.
    OwnLimit(DnsFault),
}

/// How one host is spoken to, and what says so.
#[derive(Clone, Debug)]
pub struct Terms {
    pub decision: TlsDecision,
    pub check: PeerCheck,
    /// The policy as the log has it.
    pub policy: &'static str,
    /// The policy as reports have it.
    kind: TlsPolicyKind,
    /// A policy in testing that the host is not in.
    stranger: bool,
}

impl Trust {
    pub fn new(
        client: Arc<TlsClient>,
        resolver: Resolver,
        policies: StsPolicies,
        observed: Arc<ShardObserved>,
    ) -> Rc<Trust> {
        Rc::new(Trust {
            client,
            resolver,
            policies,
            observed,
            broken: RefCell::new(BrokenTls::new(BROKEN_MAX)),
            reports: RefCell::new(TlsReports::new(REPORT_DOMAINS_MAX)),
            asked: RefCell::default(),
            refreshed: Cell::new(0),
        })
    }

    pub fn client(&self) -> &Arc<TlsClient> {
        &self.client
    }

    /// What was counted for reports.
    pub fn reports(&self) -> &RefCell<TlsReports> {
        &self.reports
    }

    /// How a host of the hop is spoken to. `authentic` is whether its addresses were validated.
    /// A fault is a limit of this server, which says nothing of the host.
    pub async fn terms(
        &self,
        hop: &Hop,
        host: &HostPort,
        authentic: bool,
    ) -> Result<Terms, DnsFault> {
        if host.unix_path().is_some() {
            // What never leaves the machine has nobody to hide from.
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

    /// Its TLS has failed where it need not be had: the clear is good enough for a while.
    pub fn note_broken(&self, host: &str) {
        let now_ms = wall_ms();
        self.broken.borrow_mut().note(host, now_ms, now_ms + BROKEN_MS);
    }

    /// A connection stands.
    pub fn count_session(&self, hop: &Hop, host: &str, terms: &Terms, facts: Option<&TlsFacts>) {
        if hop.sts.is_some() {
            self.note_used(&hop.domain);
        }
        let mut reports = self.reports.borrow_mut();
        let verdict = facts.and_then(|facts| facts.server.as_ref()).map(|server| server.verdict);
        let result = match verdict {
            None if terms.decision.wants_tls() => Some(TlsResult::StarttlsNotSupported),
            // Nothing was asked for; what failed before was counted then.
            None => return,
            // Only testing lets a session go on that its policy is against.
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

    /// TLS was wanted and not had.
    pub fn count_failure(&self, hop: &Hop, host: &str, terms: &Terms, cause: Option<&SocketFault>) {
        let result = match (terms.decision, cause) {
            (TlsDecision::PassOver(TlsRefusal::NotInStsPolicy), _) => TlsResult::ValidationFailure,
            (TlsDecision::PassOver(refusal), _) => match refusal {
                TlsRefusal::DaneBogus | TlsRefusal::DaneIndeterminate => TlsResult::DnssecInvalid,
                // The sender's demand, not the domain's.
                _ => return,
            },
            (_, Some(SocketFault::Tls(fault))) => TlsResult::of(fault),
            (_, Some(SocketFault::Io(_))) => TlsResult::ValidationFailure,
            (_, None) => TlsResult::StarttlsNotSupported,
        };
        self.reports.borrow_mut().count_failure(&hop.domain, terms.kind, host, result);
    }

    /// The host's TLSA records, where its addresses were validated (RFC 7672 s2.2.2).
    async fn tlsa(&self, host: &HostPort) -> Result<(DaneState, Vec<TlsaRecord>), DnsFault> {
        let answer = match self.resolver.tlsa(host.port, &host.host).await {
            Ok(answer) => answer,
            Err(DnsFault::NoSuchDomain | DnsFault::NoData | DnsFault::BadName) => {
                return Ok((DaneState::None, Vec::new()));
            }
            // A server that validates says so when it cannot.
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

    /// Asks for the domain's record beside the caller, so that mail which needs other answers too
    /// does not wait for one after the other.
    pub fn look_ahead(&self, domain: &str, policy: &DeliveryPolicy) {
        if policy.mta_sts {
            let (resolver, record) = (self.resolver.clone(), sts_record(domain));
            task::spawn(async move {
                // `sts_policy` finds it in the cache, whatever it is.
                let _ = resolver.txt(&record).await;
            });
        }
    }

    /// The MTA-STS policy that holds for the domain now.
    pub async fn sts_policy(
        self: &Rc<Trust>,
        domain: &str,
        policy: &DeliveryPolicy,
    ) -> Result<Option<Arc<StsPolicy>>, StsUnknown> {
        if !policy.mta_sts {
            return Ok(None);
        }
        let said = self.resolver.txt(&sts_record(domain)).await;
        // Without a record, or without an answer, what is known still holds (RFC 8461 s5.1).
        let fault = said.as_ref().err().copied().filter(|fault| fault.is_ours());
        let texts = said.map_or_else(|_| Vec::new(), |answer| answer.texts);
        let id = mta_sts::policy_id(texts.iter().map(|text| &**text));
        let limit = timer::now() + STS_WAIT_MAX;
        let mut has_asked = false;
        let known = loop {
            let answer = self.policies.answer(domain, id.as_deref(), wall_ms());
            let Some(id) = id.as_deref() else { break answer };
            if answer.fetch != StsFetch::No {
                self.ask(domain, id, policy);
            }
            if answer.fetch != StsFetch::First || timer::now() >= limit {
                break answer;
            }
            has_asked = true;
            timer::sleep(STS_LOOK_EVERY).await;
        };
        if has_asked && let Some(failed) = self.policies.find(domain).failed {
            let host = mta_sts::policy_host(domain);
            let kind = TlsPolicyKind::Sts;
            self.reports.borrow_mut().count_failure(domain, kind, &host, failed.result);
        }
        match known.policy {
            Some(policy) => Ok(Some(policy).filter(|policy| policy.mode != StsMode::None)),
            None => match fault {
                Some(fault) if fault.is_own_limit() => Err(StsUnknown::OwnLimit(fault)),
                None if known.fetch != StsFetch::First => Ok(None),
                _ => {
                    self.observed.metrics.sts_postponed_total.add(1);
                    Err(StsUnknown::NotFetched)
                }
            },
        }
    }

    /// Has the policy fetched, if it was not asked for a moment ago and there is room.
    fn ask(self: &Rc<Trust>, domain: &str, id: &str, policy: &DeliveryPolicy) {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= STS_ASKED_MAX || !asked.insert(domain.into()) {
            return;
        }
        let place = AskedPlace { trust: Rc::clone(self), domain: domain.into() };
        let (domain, id) = (mta_sts::key_of(domain), id.into());
        let (port, rule) = (policy.mta_sts_port, Arc::clone(&policy.addresses));
        task::spawn(async move {
            let trust = &place.trust;
            let mut addresses = trust.policy_addresses(&domain).await;
            if let Ok(addresses) = &mut addresses {
                let judge = |one: IpAddr| rule.judge(SocketAddr::new(one, port), Vantage::Here);
                addresses.retain(|one| judge(*one).is_none());
            }
            // A lane that is full is tried again as one that does not answer.
            trust.policies.request(StsRequest::Fetch(StsWanted { domain, id, port, addresses }));
            timer::sleep(STS_ASK_EVERY).await;
        });
    }

    async fn policy_addresses(&self, domain: &str) -> Result<Vec<IpAddr>, DnsFault> {
        let host = mta_sts::policy_host(domain);
        let found = self.resolver.addresses(&host, Family::Both).await?;
        let v6 = found.v6.into_iter().map(IpAddr::V6);
        Ok(found.v4.into_iter().map(IpAddr::V4).chain(v6).collect())
    }

    /// A policy that mail is sent under is worth keeping.
    fn note_used(&self, domain: &str) {
        let fetched = self.policies.find(domain).policy;
        if fetched.is_some_and(|fetched| fetched.is_use_new(wall_ms())) {
            // Without room for it the next session tells.
            self.policies.request(StsRequest::Used(mta_sts::key_of(domain)));
        }
    }

    /// Has policies in use fetched again before they end, a part at each call. Each part is looked
    /// through by one of the shards.
    pub fn refresh(self: &Rc<Trust>, policy: &Arc<DeliveryPolicy>, shards: usize) {
        let bucket = self.refreshed.get();
        self.refreshed.set((bucket + 1) % sts::BUCKETS);
        if bucket % shards != usize::from(self.observed.id.0) {
            return;
        }
        for domain in self.policies.to_refresh(bucket, wall_ms()) {
            let (trust, policy) = (Rc::clone(self), Arc::clone(policy));
            task::spawn(async move {
                // It holds on, so that nobody waits: looking whether its record is still there is
                // what asks for it.
                let _ = trust.sts_policy(&domain, &policy).await;
            });
        }
    }
}

/// A domain that was asked for a moment ago.
struct AskedPlace {
    trust: Rc<Trust>,
    domain: Box<str>,
}

impl Drop for AskedPlace {
    fn drop(&mut self) {
        self.trust.asked.borrow_mut().remove(&self.domain);
    }
}

/// RFC 8689 s4.2.1: a host found by MX has to be vouched for by DNSSEC or by MTA-STS, for a
/// certificate proves nothing of a name that anybody could have put there.
fn is_unvouched(hop: &Hop, sts: StsState) -> bool {
    let in_policy = matches!(
        sts,
        StsState::Enforce { host_matches: true } | StsState::Testing { host_matches: true }
    );
    hop.require_tls == RequireTls::Yes && hop.names == HostNames::Mx && !in_policy
}

fn sts_record(domain: &str) -> String {
    format!("_mta-sts.{domain}")
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

/// The policy of a connection in the clear that follows TLS that failed.
pub const AFTER_FAILURE: &str = "may, tls is broken";

/// Whether the TLSA records of a hop's hosts count at all.
pub fn dane_counts(policy: &DeliveryPolicy, names: HostNames, protocol: HopProtocol) -> bool {
    policy.dane
        && policy.resolver.trust_ad
        && names != HostNames::Mx
        && protocol != HopProtocol::Lmtp
}

/// What sets the connections of one hop apart from those of another with the same hosts.
pub fn destination_suffix(hop: &Hop) -> String {
    let mut suffix = String::new();
    match hop.protocol {
        HopProtocol::Smtp => {}
        HopProtocol::Smtps => suffix.push_str(" smtps"),
        // Nothing but LMTP is spoken over Unix sockets.
        HopProtocol::Lmtp if hop.hosts.iter().all(|host| host.unix_path().is_some()) => {}
        HopProtocol::Lmtp => suffix.push_str(" lmtp"),
    }
    if hop.tls != OutboundTls::May {
        suffix.push_str(&format!(" tls {:?}", hop.tls));
    }
    let required = hop.require_tls == RequireTls::Yes;
    if required {
        suffix.push_str(" requiretls");
    }
    let is_name =
        |host: &HostPort| host.unix_path().is_none() && host.host.parse::<IpAddr>().is_err();
    match hop.names {
        HostNames::SignedMx if required || hop.dane => suffix.push_str(" signed"),
        // A route may name an address that the DNS must not lead to.
        HostNames::Operator if required || hop.dane || hop.hosts.iter().any(is_name) => {
            suffix.push_str(" named");
        }
        HostNames::Literal => suffix.push_str(" literal"),
        _ => {}
    }
    let in_policy = |host: &&HostPort| hop.sts.as_ref().is_some_and(|sts| sts.matches(&host.host));
    match hop.sts.as_ref().map(|sts| sts.mode) {
        Some(StsMode::Enforce) => {
            let mut named: Vec<&str> =
                hop.hosts.iter().filter(in_policy).map(|host| &*host.host).collect();
            named.sort_unstable();
            suffix.push_str(" sts ");
            suffix.push_str(&named.join(","));
        }
        // Testing changes nothing but for those who ask for more than it does.
        Some(StsMode::Testing) if required => suffix.push_str(" sts testing"),
        _ => {}
    }
    suffix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::DestinationPolicy;

    fn hop() -> Hop {
        let host = |name: &str| HostPort { host: name.into(), port: 25 };
        Hop {
            destination: Box::default(),
            name: "a.test".into(),
            domain: "a.test".into(),
            hosts: ["mx1.a.test", "mx2.a.test"].map(host).into(),
            protocol: HopProtocol::Smtp,
            policy: Arc::new(DestinationPolicy::default()),
            stripes: 1,
            known_by: Box::default(),
            tls: OutboundTls::May,
            require_tls: RequireTls::No,
            names: HostNames::Mx,
            dane: false,
            sts: None,
            auth: None,
            pool: None,
        }
    }

    fn sts(mode: StsMode, mx: &str) -> Option<Arc<StsPolicy>> {
        Some(Arc::new(StsPolicy { mode, mx: vec![mx.into()], max_age_s: 1 }))
    }

    #[test]
    fn hops_that_demand_other_things_share_no_connection() {
        let required = Hop { require_tls: RequireTls::Yes, ..hop() };
        let socket = Box::new([HostPort { host: "/run/lmtp".into(), port: 0 }]);
        let all = "*.a.test";
        let rows = [
            (hop(), ""),
            // What changes nothing shares.
            (Hop { names: HostNames::SignedMx, ..hop() }, ""),
            (Hop { sts: sts(StsMode::Testing, all), ..hop() }, ""),
            (Hop { tls: OutboundTls::Verify, ..hop() }, " tls Verify"),
            (Hop { protocol: HopProtocol::Smtps, ..hop() }, " smtps"),
            (Hop { protocol: HopProtocol::Lmtp, ..hop() }, " lmtp"),
            (Hop { protocol: HopProtocol::Lmtp, hosts: socket, ..hop() }, ""),
            (Hop { names: HostNames::SignedMx, dane: true, ..hop() }, " signed"),
            (Hop { names: HostNames::Operator, ..hop() }, " named"),
            (Hop { names: HostNames::Literal, ..hop() }, " literal"),
            (Hop { sts: sts(StsMode::Enforce, all), ..hop() }, " sts mx1.a.test,mx2.a.test"),
            (Hop { sts: sts(StsMode::Enforce, "mx2.a.test"), ..hop() }, " sts mx2.a.test"),
            (Hop { sts: sts(StsMode::Enforce, "b.test"), ..hop() }, " sts "),
            (Hop { require_tls: RequireTls::Yes, ..hop() }, " requiretls"),
            (Hop { names: HostNames::Operator, ..required }, " requiretls named"),
        ];
        for (hop, expected) in rows {
            assert_eq!(destination_suffix(&hop), expected, "{hop:?}");
        }
    }

    #[test]
    fn a_demanding_sender_trusts_no_name_from_unsigned_dns() {
        let required = |names, sts| Hop { require_tls: RequireTls::Yes, names, sts, ..hop() };
        let ours = || sts(StsMode::Enforce, "mx1.a.test");
        let rows = [
            (required(HostNames::Mx, None), true),
            (required(HostNames::Mx, sts(StsMode::Enforce, "b.test")), true),
            (required(HostNames::Mx, ours()), false),
            (required(HostNames::Mx, sts(StsMode::Testing, "mx1.a.test")), false),
            (required(HostNames::SignedMx, None), false),
            (required(HostNames::Operator, None), false),
            (hop(), false),
        ];
        for (hop, expected) in rows {
            let state = sts_state(&hop, "mx1.a.test");
            assert_eq!(is_unvouched(&hop, state), expected, "{hop:?}");
        }
    }

    #[test]
    fn the_log_names_the_policy_that_decided() {
        let situation = TlsSituation::default();
        let enforce = StsState::Enforce { host_matches: true };
        let broken = TlsSituation { memory: TlsMemory::Broken, ..situation };
        let none = TlsSituation { mode: OutboundTls::None, ..situation };
        let rows = [
            (situation, "may"),
            (broken, AFTER_FAILURE),
            (none, "none"),
            (TlsSituation { sts: enforce, ..none }, "none, ignores mta-sts"),
            (TlsSituation { dane: DaneState::Usable, ..none }, "none, ignores dane"),
            (TlsSituation { sts: enforce, ..broken }, "mta-sts"),
            (TlsSituation { dane: DaneState::Unusable, ..broken }, "dane"),
            (TlsSituation { mode: OutboundTls::Must, ..situation }, "must"),
            (TlsSituation { mode: OutboundTls::Verify, ..situation }, "verify"),
            (TlsSituation { require_tls: RequireTls::Yes, ..situation }, "requiretls"),
        ];
        for (situation, expected) in rows {
            assert_eq!(policy_word(&situation, situation.decide()), expected, "{situation:?}");
        }
    }
}
