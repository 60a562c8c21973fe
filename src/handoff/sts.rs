//! MTA-STS policies: fetched by the control plane, read by the shards.
//!
//! Owner:    the control plane publishes through the single `StsPublisher`; every shard reads through
//!           its `StsPolicies`. Published data is immutable and is only replaced.
//! Promise:  a shard reads without a lock and never waits for the control plane: if a policy is not
//!           published, the shard requests it through a lane and reads again later.
//! Cost:     a change copies one of `BUCKETS` buckets of pointers.
//! Bounds:   `STS_REQUESTS_MAX` requests in the lane. Full: `request` returns `false`, and mail waits.
//!           The publisher limits the table.

use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::base::limits::STS_REQUESTS_MAX;
use crate::handoff::lane;
use crate::handoff::lane::Seed;
use crate::handoff::lane::Sender;
use crate::net::DnsFault;
use crate::net::mta_sts::StsAnswer;
use crate::net::mta_sts::StsKnown;
use crate::net::mta_sts::key_of;

/// Buckets of the table.
pub const BUCKETS: usize = 64;

type Bucket = HashMap<Arc<str>, StsKnown>;
type Table = Arc<[ArcSwap<Bucket>]>;

/// A request of a shard to the control plane.
#[derive(Debug)]
pub enum StsRequest {
    /// The domain's record announces the policy `id`. If the request is lost, the shard repeats it.
    Fetch(StsWanted),
    /// Mail was sent under the domain's policy. If the request is lost, the next mail repeats it.
    Used(Arc<str>),
}

/// A policy to fetch.
#[derive(Clone, Debug)]
pub struct StsWanted {
    pub domain: Arc<str>,
    pub id: Box<str>,
    pub port: u16,
    /// Addresses of the policy host, found by the shard's resolver.
    pub addresses: Result<Vec<IpAddr>, DnsFault>,
}

/// Creates the publisher, the lane of requests and the reader.
pub fn sts() -> (StsPublisher, Seed<StsRequest>, StsPolicies) {
    let table: Table = (0..BUCKETS).map(|_| ArcSwap::default()).collect();
    let (requests, seed) = lane::lane(STS_REQUESTS_MAX);
    (StsPublisher { table: Arc::clone(&table) }, seed, StsPolicies { table, requests })
}

/// The reader of a shard.
#[derive(Clone)]
pub struct StsPolicies {
    table: Table,
    requests: Sender<StsRequest>,
}

impl StsPolicies {
    /// The policy of `domain`, whose record announces `id`, and whether to fetch it.
    pub fn answer(&self, domain: &str, id: Option<&str>, now_ms: u64) -> StsAnswer {
        find(&self.table, &key_of(domain)).answer(id, now_ms)
    }

    pub fn find(&self, domain: &str) -> StsKnown {
        find(&self.table, &key_of(domain))
    }

    /// Sends a request to the control plane; `false` if the lane is full.
    pub fn request(&self, request: StsRequest) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// The domains of one bucket whose policies need a refresh although no mail waits for them.
    pub fn to_refresh(&self, bucket: usize, now_ms: u64) -> Vec<Arc<str>> {
        let bucket = self.table[bucket].load();
        let wants = |known: &StsKnown| {
            known.policy.as_ref().is_some_and(|fetched| fetched.wants_refresh(now_ms))
                && known.failed.as_ref().is_none_or(|failed| now_ms >= failed.until_ms)
        };
        let due = bucket.iter().filter(|(_, known)| wants(known));
        due.map(|(domain, _)| Arc::clone(domain)).collect()
    }
}

/// The single writer.
pub struct StsPublisher {
    table: Table,
}

impl StsPublisher {
    pub fn find(&self, domain: &str) -> StsKnown {
        find(&self.table, domain)
    }

    /// Publishes the state of a domain; an empty state removes it.
    pub fn publish(&self, domain: &Arc<str>, known: StsKnown) {
        let bucket = &self.table[bucket_of(domain)];
        let mut changed = Bucket::clone(&bucket.load());
        match known.policy.is_none() && known.failed.is_none() {
            true => drop(changed.remove(domain)),
            false => drop(changed.insert(Arc::clone(domain), known)),
        }
        bucket.store(Arc::new(changed));
    }

    /// Calls `each` for every domain, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<str>, &StsKnown)) {
        for bucket in &*self.table {
            bucket.load().iter().for_each(|(domain, known)| each(domain, known));
        }
    }
}

fn find(table: &Table, domain: &str) -> StsKnown {
    table[bucket_of(domain)].load().get(domain).cloned().unwrap_or_default()
}

fn bucket_of(domain: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    domain.hash(&mut hasher);
    (hasher.finish() % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::StsMode;
    use crate::net::StsPolicy;
    use crate::net::mta_sts::StsFetch;
    use crate::net::mta_sts::StsFetched;

    #[test]
    fn what_is_published_is_read_everywhere() {
        let (publisher, _seed, near) = sts();
        let far = near.clone();
        let domain: Arc<str> = "x.test".into();
        assert_eq!(far.answer("X.test.", Some("1"), 5).fetch, StsFetch::First);
        let policy = StsPolicy { mode: StsMode::None, mx: Vec::new(), max_age_s: 9 };
        let fetched =
            StsFetched { id: "1".into(), policy: Arc::new(policy), fetched_ms: 0, used_ms: 1 };
        let known = StsKnown { policy: Some(Arc::new(fetched)), failed: None };
        publisher.publish(&domain, known);
        for reader in [&near, &far] {
            let answer = reader.answer("X.test.", Some("1"), 5);
            assert_eq!((answer.policy.is_some(), answer.fetch), (true, StsFetch::No));
        }
        let due = |now_ms| (0..BUCKETS).flat_map(|at| near.to_refresh(at, now_ms)).count();
        assert_eq!((due(5), due(5000)), (0, 1));
        publisher.publish(&domain, StsKnown::default());
        assert_eq!(near.find("x.test"), StsKnown::default());
    }

    #[test]
    fn a_full_lane_says_so() {
        let (_publisher, _seed, policies) = sts();
        let used = || StsRequest::Used("x.test".into());
        assert!((0..STS_REQUESTS_MAX).all(|_| policies.request(used())));
        assert!(!policies.request(used()));
    }
}
