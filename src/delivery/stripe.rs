//! A destination with several owners: which shards they are, and how they share its connections.
//!
//! Owner:    the functions are the same on all shards; `Shares` belongs to the lead shard of its
//!           destination, which the destination's name hashes to.
//! Promise:  the connections that all members may have never exceed the limit of the destination, also
//!           while shares move from one member to another: a share is lowered first, and another is
//!           raised only when the member has told that it holds no more than its lower share.
//! Bounds:   one member for each shard.

use std::collections::BTreeMap;

use crate::base::ShardId;
use crate::config::Stripes;
use crate::handoff::frames::Used;
use crate::route::DestinationPolicy;

/// The shard that leads a destination. An attacker who chooses names gains nothing by choosing the
/// shard, because limits belong to the destination.
pub fn lead(destination: &str, shards: usize) -> ShardId {
    lead_of(
        destination.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }),
        shards,
    )
}

/// The shard that counts for all, by a hash.
pub fn lead_of(hash: u64, shards: usize) -> ShardId {
    ShardId(((hash >> 32) % shards.max(1) as u64) as u16)
}

/// The number of shards that own a destination.
pub fn count(policy: &DestinationPolicy, shards: usize) -> u32 {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
    let wanted = match policy.stripes {
        Stripes::Count(count) => count.min(shards),
        Stripes::All => shards,
        Stripes::Auto => {
            let is_roomy = policy.connections_max / 2 >= shards;
            let is_limited = policy.rates.is_limited() || policy.source_rates.is_limited();
            if is_roomy && !is_limited { shards } else { 1 }
        }
    };
    wanted.min(policy.connections_max).max(1)
}

/// The owner for the mail of a home: its own shard, if that is one of the `stripes` shards from the
/// lead on.
pub fn owner(lead: ShardId, stripes: u32, home: ShardId, shards: usize) -> ShardId {
    let distance = (usize::from(home.0) + shards - usize::from(lead.0)) % shards;
    let number = distance % stripes.max(1) as usize;
    ShardId(((usize::from(lead.0) + number) % shards) as u16)
}

/// The connections of a destination, shared out by demand.
#[derive(Debug)]
pub struct Shares {
    limit: u32,
    members: BTreeMap<ShardId, Member>,
    /// Of the latest share. A member that was forgotten does not get its earlier numbers again.
    number: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Member {
    /// What it was told last.
    share: u32,
    /// What it may still hold: the share before, until it has told of fewer.
    held: u32,
    /// What it would use.
    wanted: u32,
    /// Of its latest share: an answer that names an earlier one says nothing of this one.
    number: u32,
    last: Used,
}

/// A new share for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub to: ShardId,
    pub number: u32,
    pub connections: u32,
}

impl Shares {
    /// `number`: higher than that of every share which this shard has ever given for the destination.
    pub const fn new(limit: u32, number: u32) -> Shares {
        Shares { limit, members: BTreeMap::new(), number }
    }

    pub const fn number(&self) -> u32 {
        self.number
    }

    /// No member has connections or wants any.
    pub fn is_unused(&self) -> bool {
        self.members.is_empty()
    }

    /// A reload. The shares that change.
    pub fn set_limit(&mut self, limit: u32) -> Vec<Share> {
        if self.limit == limit {
            return Vec::new();
        }
        self.limit = limit;
        self.share_out()
    }

    /// A member has told what it uses. The shares that change.
    pub fn on_used(&mut self, from: ShardId, used: Used) -> Vec<Share> {
        let member = self.members.entry(from).or_default();
        (member.wanted, member.last) = (used.wanted, used);
        // A member that has not heard of its latest share may open connections up to an earlier one.
        if used.number == member.number {
            member.held = member.share.max(used.connections);
        }
        let shares = self.share_out();
        self.members.retain(|_, one| (one.share, one.held, one.wanted) != (0, 0, 0));
        shares
    }

    /// A member repeats what it told last, so a frame may be lost: the shares that are told again. Those
    /// of others too that hold more than they should.
    pub fn again(&self, from: ShardId, used: Used) -> Vec<Share> {
        let told = |(shard, member): (&ShardId, &Member)| Share {
            to: *shard,
            number: member.number,
            connections: member.share,
        };
        match self.members.get(&from) {
            Some(member) if member.last == used => {
                let lacks =
                    |(shard, one): &(&ShardId, &Member)| **shard == from || one.held > one.share;
                self.members.iter().filter(lacks).map(told).collect()
            }
            None if (used.connections, used.wanted) == (0, 0) => {
                vec![Share { to: from, number: used.number, connections: 0 }]
            }
            _ => Vec::new(),
        }
    }

    /// The largest equal shares of what members want; what one does not want goes to the others.
    fn targets(&self) -> BTreeMap<ShardId, u32> {
        let mut by_demand: Vec<(ShardId, u32)> =
            self.members.iter().map(|(shard, member)| (*shard, member.wanted)).collect();
        by_demand.sort_by_key(|(_, wanted)| *wanted);
        let (mut left, mut members) = (self.limit, by_demand.len() as u32);
        let mut targets = BTreeMap::new();
        for (shard, wanted) in by_demand {
            // The last one gets the remainder.
            let target = wanted.min(left / members);
            left -= target;
            members -= 1;
            targets.insert(shard, target);
        }
        targets
    }

    fn share_out(&mut self) -> Vec<Share> {
        let targets = self.targets();
        let mut changed = Vec::new();
        for (shard, member) in &mut self.members {
            let target = targets.get(shard).copied().unwrap_or(0);
            if target < member.share {
                changed.push(member.set(*shard, target, &mut self.number));
            }
        }
        let held: u32 = self.members.values().map(|one| one.held).sum();
        let mut free = self.limit.saturating_sub(held);
        for (shard, member) in &mut self.members {
            let target = targets.get(shard).copied().unwrap_or(0);
            // What it still holds is its own already.
            let own = member.held - member.share;
            let raise = target.saturating_sub(member.share).min(free + own);
            if raise > 0 {
                free -= raise.saturating_sub(own);
                changed.push(member.set(*shard, member.share + raise, &mut self.number));
            }
        }
        changed
    }
}

impl Member {
    fn set(&mut self, to: ShardId, connections: u32, latest: &mut u32) -> Share {
        self.share = connections;
        self.held = self.held.max(connections);
        *latest += 1;
        self.number = *latest;
        Share { to, number: self.number, connections }
    }
}

#[cfg(test)]
mod tests;
