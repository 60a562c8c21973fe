//! Which MTA-STS policy holds for a domain.
//!
//! Owner:    one shard. The control plane fetches the policies (`handoff::sts`).
//! Promise:  mail waits up to `STS_WAIT_MS_MAX` for a policy that the domain announces and that is not
//!           known, and is then postponed, since the policy may require TLS. A policy is fetched again
//!           while mail uses it, and without new mail if it was used recently.
//! Bounds:   `STS_ASKED_MAX` requested domains. Full: the request is repeated.

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
use crate::handoff::sts;
use crate::handoff::sts::StsRequest;
use crate::handoff::sts::StsWanted;
use crate::net::AddressRule;
use crate::net::DnsFault;
use crate::net::Family;
use crate::net::Resolver;
use crate::net::StsMode;
use crate::net::StsPolicy;
use crate::net::TlsReports;
use crate::net::Vantage;
use crate::net::mta_sts;
use crate::net::mta_sts::StsFetch;
use crate::net::tls_memory::TlsPolicyKind;
use crate::observe::ShardObserved;
use crate::route::delivery::DeliveryPolicy;
use crate::rt::task;
use crate::rt::timer;

const WAIT_MAX: Duration = Duration::from_millis(STS_WAIT_MS_MAX);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The pause between two requests for one policy: the first may have found a full lane.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Finds the policies of domains.
pub struct StsLookup {
    resolver: Resolver,
    policies: StsPolicies,
    observed: Arc<ShardObserved>,
    reports: Rc<RefCell<TlsReports>>,
    /// Domains whose policy was requested less than `ASK_EVERY` ago.
    asked: RefCell<HashSet<Box<str>>>,
    /// The part of the table that `refresh` examines next.
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

impl StsLookup {
    pub fn new(
        resolver: Resolver,
        policies: StsPolicies,
        observed: Arc<ShardObserved>,
        reports: Rc<RefCell<TlsReports>>,
    ) -> Rc<StsLookup> {
        let (asked, refreshed) = (RefCell::default(), Cell::new(0));
        Rc::new(StsLookup { resolver, policies, observed, reports, asked, refreshed })
    }

    /// Looks up the record of the domain in the background, for callers that make other lookups first.
    pub fn look_ahead(&self, domain: &str, policy: &DeliveryPolicy) {
        if policy.mta_sts {
            let (resolver, record) = (self.resolver.clone(), record_of(domain));
            task::spawn(async move {
                // `policy_of` finds the answer in the cache.
                let _ = resolver.txt(&record).await;
            });
        }
    }

    /// The policy that holds for the domain now.
    pub async fn policy_of(
        self: &Rc<StsLookup>,
        domain: &str,
        policy: &DeliveryPolicy,
    ) -> Result<Option<Arc<StsPolicy>>, StsUnknown> {
        if !policy.mta_sts {
            return Ok(None);
        }
        let said = self.resolver.txt(&record_of(domain)).await;
        let fault = said.as_ref().err().copied().filter(|fault| fault.is_ours());
        // Without a record or an answer, a known policy still holds (RFC 8461 s5.1).
        let texts = said.map_or_else(|_| Vec::new(), |answer| answer.texts);
        let id = mta_sts::policy_id(texts.iter().map(|text| &**text));
        let limit = timer::now() + WAIT_MAX;
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
            timer::sleep(LOOK_EVERY).await;
        };
        if has_asked && let Some(failed) = self.policies.find(domain).failed {
            let host = mta_sts::policy_host(domain);
            let kind = TlsPolicyKind::Sts;
            self.reports.borrow_mut().count_failure(domain, kind, &host, failed.result);
        }
        match (known.policy, fault) {
            (Some(policy), _) => Ok(Some(policy).filter(|policy| policy.mode != StsMode::None)),
            (None, Some(fault)) if fault.is_own_limit() => Err(StsUnknown::OwnLimit(fault)),
            (None, None) if known.fetch != StsFetch::First => Ok(None),
            (None, _) => {
                self.observed.metrics.sts_postponed_total.add(1);
                Err(StsUnknown::NotFetched)
            }
        }
    }

    /// Requests the policy, unless that was done a moment ago or too many are requested.
    fn ask(self: &Rc<StsLookup>, domain: &str, id: &str, policy: &DeliveryPolicy) {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= STS_ASKED_MAX || !asked.insert(domain.into()) {
            return;
        }
        let slot = AskedSlot { lookup: Rc::clone(self), domain: domain.into() };
        let (domain, id) = (mta_sts::key_of(domain), id.into());
        let (port, rule) = (policy.mta_sts_port, Arc::clone(&policy.addresses));
        task::spawn(async move {
            let lookup = &slot.lookup;
            let addresses = lookup.addresses(&domain, port, &rule).await;
            // If the lane is full, the request is repeated.
            lookup.policies.request(StsRequest::Fetch(StsWanted { domain, id, port, addresses }));
            timer::sleep(ASK_EVERY).await;
        });
    }

    /// The addresses of the policy host that may be connected to.
    async fn addresses(
        &self,
        domain: &str,
        port: u16,
        rule: &AddressRule,
    ) -> Result<Vec<IpAddr>, DnsFault> {
        let found = self.resolver.addresses(&mta_sts::policy_host(domain), Family::Both).await?;
        let v6 = found.v6.into_iter().map(IpAddr::V6);
        let all = found.v4.into_iter().map(IpAddr::V4).chain(v6);
        let is_allowed =
            |one: &IpAddr| rule.judge(SocketAddr::new(*one, port), Vantage::Here).is_none();
        Ok(all.filter(is_allowed).collect())
    }

    /// Records that mail was sent under the policy of the domain, so that it is kept.
    pub fn note_used(&self, domain: &str) {
        let fetched = self.policies.find(domain).policy;
        if fetched.is_some_and(|fetched| fetched.is_use_new(wall_ms())) {
            // If the lane is full, the next session repeats it.
            self.policies.request(StsRequest::Used(mta_sts::key_of(domain)));
        }
    }

    /// Has policies in use fetched again before they expire. Each call examines a part of the table,
    /// and one of the shards each part.
    pub fn refresh(self: &Rc<StsLookup>, policy: &Arc<DeliveryPolicy>, shards: usize) {
        let bucket = self.refreshed.get();
        self.refreshed.set((bucket + 1) % sts::BUCKETS);
        if bucket % shards != usize::from(self.observed.id.0) {
            return;
        }
        for domain in self.policies.to_refresh(bucket, wall_ms()) {
            let (lookup, policy) = (Rc::clone(self), Arc::clone(policy));
            task::spawn(async move {
                // The policy still holds, so nothing waits here: the lookup requests the fetch.
                let _ = lookup.policy_of(&domain, &policy).await;
            });
        }
    }
}

/// A domain whose policy was requested a moment ago.
struct AskedSlot {
    lookup: Rc<StsLookup>,
    domain: Box<str>,
}

impl Drop for AskedSlot {
    fn drop(&mut self) {
        self.lookup.asked.borrow_mut().remove(&self.domain);
    }
}

fn record_of(domain: &str) -> String {
    format!("_mta-sts.{domain}")
}
