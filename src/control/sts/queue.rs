//! Which policy is fetched next.
//!
//! Promise:  a domain waits or is fetched once at a time. The oldest request goes first whose network
//!           has fewer than `STS_FETCHES_PER_NETWORK_MAX` fetches in flight.
//! Bounds:   `STS_REQUESTS_MAX` requests wait, `STS_FETCHES_MAX` fetches are in flight. Full: `offer`
//!           refuses.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::limits::STS_FETCHES_MAX;
use crate::base::limits::STS_FETCHES_PER_NETWORK_MAX;
use crate::base::limits::STS_REQUESTS_MAX;
use crate::handoff::sts::StsWanted;

/// Requests, and the fetches in flight by the key of their task.
pub struct FetchQueue<K> {
    waiting: VecDeque<StsWanted>,
    in_flight: HashMap<K, StsWanted>,
    /// The domains of both.
    domains: HashSet<Arc<str>>,
}

impl<K> Default for FetchQueue<K> {
    fn default() -> FetchQueue<K> {
        FetchQueue { waiting: VecDeque::new(), in_flight: HashMap::new(), domains: HashSet::new() }
    }
}

impl<K: Eq + Hash> FetchQueue<K> {
    pub fn knows(&self, domain: &str) -> bool {
        self.domains.contains(domain)
    }

    /// Takes the domain, unless it is known already or the queue is full.
    pub fn offer(&mut self, wanted: StsWanted) -> bool {
        let is_full = self.waiting.len() >= STS_REQUESTS_MAX;
        if is_full || !self.domains.insert(Arc::clone(&wanted.domain)) {
            return false;
        }
        self.waiting.push_back(wanted);
        true
    }

    /// Starts the next fetch that may go now; `start` answers the key of its task.
    pub fn start_next(&mut self, start: impl FnOnce(&StsWanted) -> K) -> bool {
        if self.in_flight.len() >= STS_FETCHES_MAX {
            return false;
        }
        let mut networks: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for one in self.in_flight.values() {
            *networks.entry(network_of(one)).or_default() += 1;
        }
        let may_go = |one: &StsWanted| {
            let in_flight = networks.get(&network_of(one)).copied().unwrap_or(0);
            in_flight < STS_FETCHES_PER_NETWORK_MAX
        };
        let place = self.waiting.iter().position(may_go);
        let Some(next) = place.and_then(|place| self.waiting.remove(place)) else { return false };
        self.in_flight.insert(start(&next), next);
        true
    }

    /// Ends a fetch.
    pub fn done(&mut self, key: &K) -> Option<StsWanted> {
        let wanted = self.in_flight.remove(key)?;
        self.domains.remove(&wanted.domain);
        Some(wanted)
    }
}

/// The network of the address that is tried first.
fn network_of(wanted: &StsWanted) -> Option<IpAddr> {
    let first = wanted.addresses.as_ref().ok().and_then(|found| found.first())?;
    Some(match first {
        IpAddr::V4(address) => IpAddr::V4((u32::from(*address) & (!0 << 8)).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(*address) & (!0 << 80)).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(domain: &str, address: &str) -> StsWanted {
        let addresses = Ok(vec![address.parse().expect("an address")]);
        StsWanted { domain: domain.into(), id: "1".into(), port: 443, addresses }
    }

    /// Starts the next fetch, with its domain as the key.
    fn start(queue: &mut FetchQueue<Arc<str>>) -> Option<Arc<str>> {
        let mut started = None;
        queue.start_next(|wanted| {
            started = Some(Arc::clone(&wanted.domain));
            Arc::clone(&wanted.domain)
        });
        started
    }

    #[test]
    fn a_domain_is_fetched_once_at_a_time() {
        let mut queue = FetchQueue::default();
        assert!(queue.offer(wanted("a.test", "192.0.2.1")));
        assert!(!queue.offer(wanted("a.test", "192.0.2.1")), "it waits");
        let fetching = start(&mut queue).expect("there is room");
        assert!(!queue.offer(wanted("a.test", "192.0.2.1")), "it is fetched");
        assert_eq!(start(&mut queue), None);
        assert!(queue.done(&fetching).is_some_and(|done| &*done.domain == "a.test"));
        assert!(queue.done(&fetching).is_none(), "once");
        assert!(queue.offer(wanted("a.test", "192.0.2.1")), "it may be requested again");
    }

    #[test]
    fn servers_that_never_answer_leave_places_to_others() {
        let mut queue = FetchQueue::default();
        for domain in 0..100 {
            let address = format!("192.0.2.{domain}");
            assert!(queue.offer(wanted(&format!("slow{domain}.test"), &address)));
        }
        assert!(queue.offer(wanted("far.test", "2001:db8::1")));
        let started: Vec<Arc<str>> = std::iter::from_fn(|| start(&mut queue)).collect();
        assert_eq!(started.len(), STS_FETCHES_PER_NETWORK_MAX + 1);
        assert_eq!(&*started[STS_FETCHES_PER_NETWORK_MAX], "far.test");
        queue.done(&started[0]).expect("it is in flight");
        assert_eq!(start(&mut queue).as_deref(), Some("slow8.test"));
        assert_eq!(start(&mut queue), None);
    }

    #[test]
    fn fetches_and_waiting_requests_are_bounded() {
        let mut queue = FetchQueue::default();
        let offered = (0..).take_while(|number| {
            let (high, low) = (number / 256, number % 256);
            queue.offer(wanted(&format!("{number}.test"), &format!("10.{high}.{low}.1")))
        });
        assert_eq!(offered.count(), STS_REQUESTS_MAX);
        assert_eq!(std::iter::from_fn(|| start(&mut queue)).count(), STS_FETCHES_MAX);
        assert!(queue.offer(wanted("new.test", "192.0.2.1")), "those in flight do not wait");
    }
}
