//! A destination owned by several shards: each owns a stripe with its share of all limits.
//!
//! Owner:    nobody; home and owner each ask the snapshots of their own shard.
//! Promise:  the number of stripes is a function of the destination's policy and the number of shards,
//!           and no share is empty. The stripes are on consecutive shards, beginning with the shard
//!           that the destination's name hashes to; a home sends to its own shard if that has a
//!           stripe. The shares never add up to more than the whole, even while the number changes.
//! Order:    after a reload that changes the number, shares shrink at once: each is the smaller of the
//!           old and the new one, and stripes that exist only before or only after get nothing. They
//!           grow once no transfer of the old stripes can be in progress and no rate counts one.
//! Bounds:   `EARLIER_MAX` snapshots that differ in their destinations, for `SETTLED_MS_MAX`. Full: the
//!           oldest is forgotten; no reasonable use reloads so often.

use std::sync::Arc;

use crate::base::ShardId;
use crate::base::limits::JOB_TRANSFER_MS_MAX;
use crate::outbound::destination::stripe;
use crate::route::DeliveryPolicy;
use crate::route::DestinationPolicy;
use crate::route::Stripes;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Shards hear of a reload one after the other, and a connection is not closed in no time.
const SLACK_MS: u64 = MINUTE_MS;
/// When a change of stripes is over for every destination.
const SETTLED_MS_MAX: u64 = DAY_MS + JOB_TRANSFER_MS_MAX + SLACK_MS;
const EARLIER_MAX: usize = 64;

/// How many stripes a destination has.
pub fn count(policy: &DestinationPolicy, shards: usize) -> u32 {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
    let rates = policy.rates.all();
    let wanted = match policy.stripes {
        Stripes::Count(count) => count.min(shards),
        Stripes::All => shards,
        Stripes::Auto => {
            let is_roomy = policy.connections_max / 2 >= shards;
            if is_roomy && rates == [None; 4] { shards } else { 1 }
        }
    };
    let least = rates.into_iter().flatten().fold(policy.connections_max, u32::min);
    wanted.min(least).max(1)
}

/// The shard that a home gives the jobs of a destination to, which has so many stripes from `first` on.
pub fn owner(first: ShardId, stripes: u32, home: ShardId, shards: usize) -> ShardId {
    let number = number(first, home, shards) % stripes.max(1);
    ShardId(((usize::from(first.0) + number as usize) % shards) as u16)
}

/// The number of the stripe of this shard, if it has one.
pub fn number(first: ShardId, shard: ShardId, shards: usize) -> u32 {
    ((usize::from(shard.0) + shards - usize::from(first.0)) % shards) as u32
}

/// What holds for one destination: its policy, and those before it that may still be at work.
#[derive(Clone, Debug)]
pub struct Treatment {
    pub policy: Arc<DestinationPolicy>,
    earlier: Vec<Arc<DestinationPolicy>>,
}

impl Treatment {
    /// `before`: what held until when, newest or oldest first.
    pub fn new(
        policy: Arc<DestinationPolicy>,
        before: impl Iterator<Item = (Arc<DestinationPolicy>, u64)>,
        shards: usize,
        now_ms: u64,
    ) -> Treatment {
        let own = count(&policy, shards);
        let counts = |(before, until_ms): &(Arc<DestinationPolicy>, u64)| {
            count(before, shards) != own && now_ms < until_ms + settled_ms(&policy)
        };
        let earlier = before.filter(counts).map(|(before, _)| before).collect();
        Treatment { policy, earlier }
    }

    /// Stripes that may have jobs.
    pub fn stripes(&self, shards: usize) -> u32 {
        let all = self.earlier.iter().chain([&self.policy]);
        all.map(|policy| count(policy, shards)).min().unwrap_or(1)
    }

    /// The share of one stripe; none if it has no jobs.
    pub fn share(&self, number: u32, shards: usize) -> Option<Arc<DestinationPolicy>> {
        let stripes = self.stripes(shards);
        if number >= stripes {
            return None;
        }
        if self.earlier.is_empty() && stripes == 1 {
            return Some(Arc::clone(&self.policy));
        }
        let of = |policy: &DestinationPolicy| stripe(policy, count(policy, shards), number);
        let mut share = of(&self.policy);
        for before in &self.earlier {
            let before = of(before);
            let least =
                |own: Option<u32>, old: Option<u32>| own.map(|own| own.min(old.unwrap_or(own)));
            share.connections_max = share.connections_max.min(before.connections_max);
            share.rates.per_second = least(share.rates.per_second, before.rates.per_second);
            share.rates.per_minute = least(share.rates.per_minute, before.rates.per_minute);
            share.rates.per_hour = least(share.rates.per_hour, before.rates.per_hour);
            share.rates.per_day = least(share.rates.per_day, before.rates.per_day);
        }
        Some(Arc::new(share))
    }
}

/// How long what an older number of stripes has begun is under way, or counts for a rate.
fn settled_ms(policy: &DestinationPolicy) -> u64 {
    let rates = &policy.rates;
    let counts_ms = match () {
        () if rates.per_day.is_some() => DAY_MS,
        () if rates.per_hour.is_some() => HOUR_MS,
        () if rates.per_minute.is_some() => MINUTE_MS,
        () => 0,
    };
    counts_ms + JOB_TRANSFER_MS_MAX + SLACK_MS
}

/// The snapshot in force on one shard, and those that it has followed.
pub struct Snapshots {
    policy: Arc<DeliveryPolicy>,
    /// And when each was replaced.
    earlier: Vec<(Arc<DeliveryPolicy>, u64)>,
    shards: usize,
}

impl Snapshots {
    pub fn new(policy: Arc<DeliveryPolicy>, shards: usize) -> Snapshots {
        Snapshots { policy, earlier: Vec::new(), shards: shards.max(1) }
    }

    pub fn policy(&self) -> &Arc<DeliveryPolicy> {
        &self.policy
    }

    pub fn replace(&mut self, policy: Arc<DeliveryPolicy>, now_ms: u64) {
        self.forget_settled(now_ms);
        let before = std::mem::replace(&mut self.policy, policy);
        if before.destinations == self.policy.destinations {
            return;
        }
        if self.earlier.len() >= EARLIER_MAX {
            self.earlier.remove(0);
        }
        self.earlier.push((before, now_ms));
    }

    /// Whether shares may still grow.
    pub fn is_changing(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Forgets what is over. Whether that was the last of a change.
    pub fn forget_settled(&mut self, now_ms: u64) -> bool {
        let was_changing = self.is_changing();
        self.earlier.retain(|(_, until_ms)| now_ms < until_ms + SETTLED_MS_MAX);
        was_changing && !self.is_changing()
    }

    /// How a domain with these hosts is treated.
    pub fn treatment(&self, domain: &str, hosts: &[&str], now_ms: u64) -> Treatment {
        let own = self.policy.destinations.policy(domain, hosts);
        let before = self.earlier.iter();
        let before =
            before.map(|(policy, until)| (policy.destinations.policy(domain, hosts), *until));
        Treatment::new(own, before, self.shards, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Rates;

    fn policy(
        stripes: Stripes,
        connections_max: u32,
        per_minute: Option<u32>,
    ) -> Arc<DestinationPolicy> {
        let rates = Rates { per_minute, ..Rates::default() };
        Arc::new(DestinationPolicy {
            stripes,
            connections_max,
            rates,
            ..DestinationPolicy::default()
        })
    }

    #[test]
    fn no_stripe_has_a_share_of_nothing() {
        let rows = [
            ("the default", Stripes::default(), 20, None, 1),
            ("so many", Stripes::Count(3), 20, None, 3),
            ("no more than shards", Stripes::Count(9), 20, None, 4),
            ("all", Stripes::All, 20, None, 4),
            ("few connections", Stripes::All, 3, None, 3),
            ("a low rate", Stripes::All, 20, Some(2), 2),
            ("roomy", Stripes::Auto, 8, None, 4),
            ("not roomy", Stripes::Auto, 7, None, 1),
            ("with a rate", Stripes::Auto, 100, Some(1000), 1),
        ];
        for (name, stripes, connections_max, per_minute, expected) in rows {
            let policy = policy(stripes, connections_max, per_minute);
            assert_eq!(count(&policy, 4), expected, "{name}");
            let treatment = Treatment::new(policy, std::iter::empty(), 4, 0);
            let shares: Vec<_> = (0..4).filter_map(|one| treatment.share(one, 4)).collect();
            assert_eq!(shares.len() as u32, expected, "{name}");
            let sum: u32 = shares.iter().map(|share| share.connections_max).sum();
            assert_eq!(sum, connections_max, "{name}");
            assert!(shares.iter().all(|share| share.connections_max > 0), "{name}");
            let sum: u32 = shares.iter().filter_map(|share| share.rates.per_minute).sum();
            assert_eq!(sum, per_minute.unwrap_or(0), "{name}");
        }
    }

    #[test]
    fn a_home_keeps_its_jobs_where_its_shard_has_a_stripe() {
        for first in 0..5 {
            for stripes in 1..=5 {
                let mut owners = std::collections::BTreeSet::new();
                for home in 0..5 {
                    let (first, home) = (ShardId(first), ShardId(home));
                    let owner = owner(first, stripes, home, 5);
                    let own = number(first, home, 5);
                    assert_eq!(owner == home, own < stripes, "{first} {stripes} {home}");
                    assert!(number(first, owner, 5) < stripes);
                    owners.insert(owner);
                }
                assert_eq!(owners.len() as u32, stripes, "every stripe gets jobs");
            }
        }
    }

    #[test]
    fn a_change_shrinks_at_once_and_grows_later() {
        let (one, four) =
            (policy(Stripes::Count(1), 20, Some(40)), policy(Stripes::All, 20, Some(40)));
        for (name, before, after) in [("more", &one, &four), ("fewer", &four, &one)] {
            let changed = |now_ms| {
                let before = std::iter::once((Arc::clone(before), 1000));
                let treatment = Treatment::new(Arc::clone(after), before, 4, now_ms);
                let shares = (0..4).map(|one| treatment.share(one, 4));
                let numbers =
                    |share: Arc<DestinationPolicy>| (share.connections_max, share.rates.per_minute);
                shares.map(|share| share.map(numbers)).collect::<Vec<_>>()
            };
            let small = [Some((5, Some(10))), None, None, None];
            let end_ms = 1000 + MINUTE_MS + JOB_TRANSFER_MS_MAX + SLACK_MS;
            assert_eq!(changed(1000), small, "{name}");
            assert_eq!(changed(end_ms - 1), small, "{name}");
            let full: Vec<_> = (0..4)
                .map(|one| {
                    Treatment::new(Arc::clone(after), std::iter::empty(), 4, 0).share(one, 4)
                })
                .map(|share| share.map(|share| (share.connections_max, share.rates.per_minute)))
                .collect();
            assert_eq!(changed(end_ms), full, "{name}");
        }
    }

    #[test]
    fn other_changes_come_into_force_at_once() {
        let before = std::iter::once((policy(Stripes::All, 8, None), 0));
        let after = policy(Stripes::All, 40, Some(8));
        let treatment = Treatment::new(after, before, 4, 1);
        let share = treatment.share(3, 4).expect("it has one");
        assert_eq!((share.connections_max, share.rates.per_minute), (10, Some(2)));
    }
}
