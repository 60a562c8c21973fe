//! The known policies and failed fetches, with bounds and eviction.
//!
//! Owner:    the fetcher.
//! Promise:  a new policy is always kept; the policies of least `Worth` are evicted for it. An
//!           enforced policy under which mail was sent recently is evicted last.
//! Bounds:   `STS_POLICIES_MAX`, `STS_POLICIES_BYTES_MAX`, `STS_FAILURES_MAX`.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::limits::STS_FAILURES_MAX;
use crate::base::limits::STS_POLICIES_BYTES_MAX;
use crate::base::limits::STS_POLICIES_MAX;
use crate::base::limits::STS_POLICY_BYTES_USUAL;
use crate::control::sts::files::Change;
use crate::handoff::sts::StsPublisher;
use crate::net::StsMode;
use crate::net::StsPolicy;
use crate::net::mta_sts::StsFailed;
use crate::net::mta_sts::StsFetched;
use crate::net::mta_sts::StsKnown;

/// Policies evicted at once, so that not every new policy has to scan all others.
const FORGOTTEN_AT_ONCE: usize = 256;

pub struct StsStore {
    publisher: StsPublisher,
    policies: usize,
    bytes: usize,
    failures: usize,
    /// Domains whose file must be written or removed.
    unwritten: HashSet<Arc<str>>,
}

/// Eviction order: the least worth goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Expired,
    /// Never used for mail, or larger than policies usually are.
    Stranger,
    Used,
    /// Enforced, and used for mail within its `max_age`.
    InUse,
}

impl StsStore {
    pub fn new(publisher: StsPublisher) -> StsStore {
        let unwritten = HashSet::new();
        StsStore { publisher, policies: 0, bytes: 0, failures: 0, unwritten }
    }

    pub fn policies(&self) -> usize {
        self.policies
    }

    pub fn find(&self, domain: &str) -> StsKnown {
        self.publisher.find(domain)
    }

    /// Takes a policy from its file.
    pub fn restore(&mut self, domain: &Arc<str>, fetched: StsFetched, now_ms: u64) {
        self.put(domain, fetched, now_ms);
    }

    /// Takes a policy from a fetch.
    pub fn keep(&mut self, domain: &Arc<str>, id: Box<str>, policy: StsPolicy, now_ms: u64) {
        let used_ms = self.find(domain).policy.map_or(0, |known| known.used_ms);
        let policy = Arc::new(policy);
        self.put(domain, StsFetched { id, policy, fetched_ms: now_ms, used_ms }, now_ms);
        self.unwritten.insert(Arc::clone(domain));
    }

    /// Takes a failed fetch. A known policy stays valid.
    pub fn keep_failure(&mut self, domain: &Arc<str>, failed: StsFailed, now_ms: u64) {
        if self.failures >= STS_FAILURES_MAX {
            self.forget_failures(now_ms);
        }
        let mut known = self.find(domain);
        self.failures += usize::from(known.failed.is_none());
        known.failed = Some(Arc::new(failed));
        self.publisher.publish(domain, known);
    }

    /// Notes that mail was sent under the domain's policy.
    pub fn note_used(&mut self, domain: &Arc<str>, now_ms: u64) {
        let mut known = self.find(domain);
        let Some(fetched) = known.policy.filter(|fetched| fetched.is_use_new(now_ms)) else {
            return;
        };
        let used = StsFetched { used_ms: now_ms, ..StsFetched::clone(&fetched) };
        known.policy = Some(Arc::new(used));
        self.publisher.publish(domain, known);
        self.unwritten.insert(Arc::clone(domain));
    }

    /// The changes to write; none for a file to remove.
    pub fn take_unwritten(&mut self) -> Vec<Change> {
        let domains = std::mem::take(&mut self.unwritten);
        let change = |domain: Arc<str>| {
            let fetched = self.publisher.find(&domain).policy;
            (domain, fetched)
        };
        domains.into_iter().map(change).collect()
    }

    /// Takes changes back that could not be written.
    pub fn put_back(&mut self, domains: impl IntoIterator<Item = Arc<str>>) {
        self.unwritten.extend(domains);
    }

    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn put(&mut self, domain: &Arc<str>, fetched: StsFetched, now_ms: u64) {
        // The replaced policy stays published until then, so that shards always see one.
        let replaced = self.find(domain);
        if let Some(replaced) = &replaced.policy {
            self.policies -= 1;
            self.bytes -= bytes_of(domain, replaced);
        }
        let bytes = bytes_of(domain, &fetched);
        if !self.has_room(bytes) {
            self.make_room(domain, bytes, now_ms);
        }
        self.policies += 1;
        self.bytes += bytes;
        self.failures -= usize::from(replaced.failed.is_some());
        let known = StsKnown { policy: Some(Arc::new(fetched)), failed: None };
        self.publisher.publish(domain, known);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.policies < STS_POLICIES_MAX && self.bytes + bytes <= STS_POLICIES_BYTES_MAX
    }

    /// Evicts until a policy of the domain `of` fits.
    fn make_room(&mut self, of: &str, bytes: usize, now_ms: u64) {
        let mut ranks = Vec::with_capacity(self.policies);
        self.publisher.for_each(|domain, known| {
            if let Some(fetched) = known.policy.as_ref().filter(|_| **domain != *of) {
                let last_ms =
                    if fetched.used_ms > 0 { fetched.used_ms } else { fetched.fetched_ms };
                ranks.push((worth(domain, fetched, now_ms), last_ms, Arc::clone(domain)));
            }
        });
        ranks.sort_unstable();
        for (place, (worth, _, domain)) in ranks.iter().enumerate() {
            let is_spare = place < FORGOTTEN_AT_ONCE && *worth < Worth::InUse;
            if self.has_room(bytes) && !is_spare {
                break;
            }
            self.forget_policy(domain);
            self.unwritten.insert(Arc::clone(domain));
        }
    }

    fn forget_policy(&mut self, domain: &Arc<str>) {
        let mut known = self.find(domain);
        let Some(fetched) = known.policy.take() else { return };
        self.policies -= 1;
        self.bytes -= bytes_of(domain, &fetched);
        self.publisher.publish(domain, known);
    }

    /// Forgets the expired failures, or else the oldest.
    fn forget_failures(&mut self, now_ms: u64) {
        let mut ends = Vec::with_capacity(self.failures);
        self.publisher.for_each(|domain, known| {
            ends.extend(known.failed.as_ref().map(|failed| (failed.until_ms, Arc::clone(domain))));
        });
        ends.sort_unstable();
        let over = ends.partition_point(|(until_ms, _)| *until_ms <= now_ms);
        for (_, domain) in ends.into_iter().take(over.max(FORGOTTEN_AT_ONCE)) {
            let known = StsKnown { failed: None, ..self.find(&domain) };
            self.failures -= 1;
            self.publisher.publish(&domain, known);
        }
    }
}

fn worth(domain: &str, fetched: &StsFetched, now_ms: u64) -> Worth {
    if now_ms >= fetched.expires_ms() {
        return Worth::Expired;
    }
    if fetched.used_ms == 0 || bytes_of(domain, fetched) > STS_POLICY_BYTES_USUAL {
        return Worth::Stranger;
    }
    match fetched.policy.mode == StsMode::Enforce && fetched.is_in_use(now_ms) {
        true => Worth::InUse,
        false => Worth::Used,
    }
}

/// Approximate memory of an entry.
fn bytes_of(domain: &str, fetched: &StsFetched) -> usize {
    domain.len() + size_of::<StsKnown>() + size_of::<StsFetched>() + fetched.policy.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::sts;
    use crate::net::TlsResult;

    const DAY_MS: u64 = 86_400_000;

    fn store() -> StsStore {
        StsStore::new(sts::sts().0)
    }

    fn policy(mode: StsMode, max_age_s: u64) -> StsPolicy {
        StsPolicy { mode, mx: vec!["*.x.test".into()], max_age_s }
    }

    fn keep(store: &mut StsStore, domain: &str, policy: StsPolicy, now_ms: u64) {
        store.keep(&domain.into(), "1".into(), policy, now_ms);
    }

    fn has(store: &StsStore, domain: &str) -> bool {
        store.find(domain).policy.is_some()
    }

    #[test]
    fn strangers_do_not_displace_what_is_in_use() {
        let mut store = store();
        let week = policy(StsMode::Enforce, 604_800);
        for number in 0..100 {
            let ours: Arc<str> = format!("ours{number}.test").into();
            keep(&mut store, &ours, week.clone(), DAY_MS);
            store.note_used(&ours, DAY_MS);
        }
        keep(&mut store, "once.test", week, DAY_MS);
        // As many as there is room for, and 10,000 more; each would hold for a year.
        for number in 0..STS_POLICIES_MAX as u64 + 10_000 {
            let stranger = format!("stranger{number}.test");
            keep(&mut store, &stranger, policy(StsMode::Enforce, 31_557_600), DAY_MS + number);
            assert!(has(&store, &stranger), "a new policy is kept");
        }
        assert!(store.policies() <= STS_POLICIES_MAX);
        assert!((0..100).all(|number| has(&store, &format!("ours{number}.test"))));
        assert!(!has(&store, "once.test"), "nobody was sent mail under it");
        assert!(!has(&store, "stranger0.test"));
    }

    #[test]
    fn large_policies_displace_no_usual_one() {
        let mut store = store();
        let ours: Arc<str> = "ours.test".into();
        keep(&mut store, &ours, policy(StsMode::Enforce, 604_800), 1);
        store.note_used(&ours, DAY_MS);
        let long: Box<str> = format!("{}.test", "x".repeat(200)).into();
        let large = StsPolicy { mx: vec![long; 256], ..policy(StsMode::Enforce, 604_800) };
        for number in 0..1000 {
            let domain: Arc<str> = format!("large{number}.test").into();
            store.keep(&domain, "1".into(), large.clone(), DAY_MS + number);
            store.note_used(&domain, DAY_MS + number);
        }
        assert!(store.bytes <= STS_POLICIES_BYTES_MAX && has(&store, "ours.test"));
        assert!(has(&store, "large999.test") && !has(&store, "large0.test"));
    }

    #[test]
    fn the_least_worth_goes_first() {
        let fetched = |mode, fetched_ms, used_ms| StsFetched {
            id: "1".into(),
            policy: Arc::new(policy(mode, 10 * DAY_MS / 1000)),
            fetched_ms,
            used_ms,
        };
        let now_ms = 30 * DAY_MS;
        let rows = [
            (fetched(StsMode::Enforce, 0, now_ms), Worth::Expired),
            (fetched(StsMode::Enforce, now_ms, 0), Worth::Stranger),
            (fetched(StsMode::Enforce, now_ms, 15 * DAY_MS), Worth::Used),
            (fetched(StsMode::Testing, now_ms, now_ms), Worth::Used),
            (fetched(StsMode::Enforce, now_ms, now_ms), Worth::InUse),
        ];
        for (fetched, expected) in rows {
            assert!(worth("x.test", &fetched, now_ms) == expected, "{fetched:?}");
        }
    }

    #[test]
    fn failures_are_bounded_and_end_with_a_success() {
        let mut store = store();
        let failed = |until_ms| StsFailed {
            id: "1".into(),
            until_ms,
            result: TlsResult::StsPolicyFetchError,
        };
        let domain = |number: u64| -> Arc<str> { format!("{number}.test").into() };
        for number in 0..STS_FAILURES_MAX as u64 + 1 {
            store.keep_failure(&domain(number), failed(1000 + number), 0);
        }
        assert!(store.failures <= STS_FAILURES_MAX);
        assert!(store.find("0.test").failed.is_none(), "the oldest is forgotten");
        let last = domain(STS_FAILURES_MAX as u64);
        assert!(store.find(&last).failed.is_some());
        let before = store.failures;
        store.keep_failure(&last, failed(99_999), 0);
        assert_eq!(store.failures, before, "the same domain");
        store.keep(&last, "1".into(), policy(StsMode::Testing, 9), 0);
        assert_eq!((store.find(&last).failed, store.failures), (None, before - 1));
    }

    #[test]
    fn what_changes_is_written_and_what_goes_is_removed() {
        let mut store = store();
        let domain: Arc<str> = "x.test".into();
        keep(&mut store, &domain, policy(StsMode::Enforce, 9), DAY_MS);
        assert!(store.take_unwritten().iter().all(|(_, fetched)| fetched.is_some()));
        store.note_used(&domain, DAY_MS);
        store.note_used(&domain, DAY_MS + 1);
        let changes = store.take_unwritten();
        let used = changes[0].1.as_ref().map(|fetched| fetched.used_ms);
        assert_eq!((changes.len(), used), (1, Some(DAY_MS)));
        store.forget_policy(&domain);
        store.put_back([domain]);
        assert_eq!(store.take_unwritten()[0].1, None);
        assert!(!store.has_unwritten());
    }
}
