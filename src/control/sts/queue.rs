//! Which policy is fetched next.
//!
//! Promise:  a domain waits or is fetched once at a time. The oldest goes first whose network has
//!           fewer than `STS_FETCHES_PER_NETWORK_MAX` fetches under way.
//! Bounds:   `STS_REQUESTS_MAX` that wait, `STS_FETCHES_MAX` under way. Full: `offer` refuses.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::limits::STS_FETCHES_MAX;
use crate::base::limits::STS_FETCHES_PER_NETWORK_MAX;
use crate::base::limits::STS_REQUESTS_MAX;
use crate::handoff::sts::StsWanted;

#[derive(Default)]
pub struct FetchQueue {
    waiting: VecDeque<StsWanted>,
    /// Domains that wait or are fetched.
    domains: HashSet<Arc<str>>,
    /// Fetches under way.
    networks: HashMap<Option<IpAddr>, usize>,
}

impl FetchQueue {
    pub fn knows(&self, domain: &str) -> bool {
        self.domains.contains(domain)
    }

    /// Takes the domain, unless it is known already or there is no room for it.
    pub fn offer(&mut self, wanted: StsWanted) -> bool {
        let is_full = self.waiting.len() >= STS_REQUESTS_MAX;
        if is_full || !self.domains.insert(Arc::clone(&wanted.domain)) {
            return false;
        }
        self.waiting.push_back(wanted);
        true
    }

    /// The next to be fetched now. Its end is told by `done`.
    pub fn next(&mut self) -> Option<StsWanted> {
        if self.networks.values().sum::<usize>() >= STS_FETCHES_MAX {
            return None;
        }
        let under_way = |one: &StsWanted| self.networks.get(&network_of(one)).copied().unwrap_or(0);
        let may_go = |one: &StsWanted| under_way(one) < STS_FETCHES_PER_NETWORK_MAX;
        let place = self.waiting.iter().position(may_go)?;
        let next = self.waiting.remove(place)?;
        *self.networks.entry(network_of(&next)).or_default() += 1;
        Some(next)
    }

    pub fn done(&mut self, wanted: &StsWanted) {
        self.domains.remove(&wanted.domain);
        let network = network_of(wanted);
        let left = self.networks.get_mut(&network).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            self.networks.remove(&network);
        }
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

    #[test]
    fn a_domain_is_fetched_once_at_a_time() {
        let mut queue = FetchQueue::default();
        assert!(queue.offer(wanted("a.test", "192.0.2.1")));
        assert!(!queue.offer(wanted("a.test", "192.0.2.1")), "it waits");
        let fetching = queue.next().expect("there is room");
        assert!(!queue.offer(wanted("a.test", "192.0.2.1")), "it is fetched");
        assert!(queue.next().is_none());
        queue.done(&fetching);
        assert!(queue.offer(wanted("a.test", "192.0.2.1")), "it may be asked for again");
    }

    #[test]
    fn servers_that_never_answer_leave_places_to_others() {
        let mut queue = FetchQueue::default();
        for domain in 0..100 {
            let address = format!("192.0.2.{domain}");
            assert!(queue.offer(wanted(&format!("slow{domain}.test"), &address)));
        }
        assert!(queue.offer(wanted("far.test", "2001:db8::1")));
        let started: Vec<StsWanted> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(started.len(), STS_FETCHES_PER_NETWORK_MAX + 1);
        assert_eq!(&*started[STS_FETCHES_PER_NETWORK_MAX].domain, "far.test");
        queue.done(&started[0]);
        assert_eq!(queue.next().map(|next| next.domain).as_deref(), Some("slow8.test"));
        assert!(queue.next().is_none());
    }

    #[test]
    fn fetches_and_waiting_requests_are_bounded() {
        let mut queue = FetchQueue::default();
        let offered = (0..).take_while(|number| {
            let (high, low) = (number / 256, number % 256);
            queue.offer(wanted(&format!("{number}.test"), &format!("10.{high}.{low}.1")))
        });
        assert_eq!(offered.count(), STS_REQUESTS_MAX);
        assert_eq!(std::iter::from_fn(|| queue.next()).count(), STS_FETCHES_MAX);
        assert!(queue.offer(wanted("new.test", "192.0.2.1")), "those under way do not wait");
    }
}
