//! How many jobs go before another one. For operators.

use crate::base::Class;
use crate::base::limits::TURN_BYTES;
use crate::delivery::fair::FairQueue;
use crate::delivery::fair::Slot;
use crate::delivery::fair::share::ClassQueue;
use crate::delivery::fair::share::SCALE;
use crate::delivery::fair::share::Share;

impl<T> FairQueue<T> {
    /// About how many jobs of its connection class go before this one if none comes. Examines the
    /// whole class.
    pub fn ahead_of(&self, slot: Slot) -> Option<usize> {
        let job = self.jobs.get(slot.0 as usize)?;
        let behind = std::iter::successors(Some(job), |job| self.jobs.get(job.before as usize));
        let own = behind.count() as u64 - 1;
        let sender = &self.senders[job.sender as usize];
        let share = &self.shares[sender.share as usize];
        let turns = &share.classes[sender.class as usize].turns;
        let entry = turns.entries().find(|entry| entry.child == job.sender)?;
        let senders = turns.entries().map(|other| {
            let jobs = self.senders[other.child as usize].jobs;
            Rival { tag: other.tag, is_first: other.rank < entry.rank, step: TURN_BYTES, jobs }
        });
        let in_class = turns_before(entry.tag + own * TURN_BYTES, senders);
        let step = |class: Class| TURN_BYTES * SCALE / u64::from(class.weight());
        let classes = Class::ALL.into_iter().map(|class| {
            let ClassQueue { tag, jobs, .. } = share.classes[class as usize];
            Rival { tag, is_first: class < sender.class, step: step(class), jobs }
        });
        let tag = share.classes[sender.class as usize].tag;
        let in_tenant = turns_before(tag + in_class * step(sender.class), classes);
        let lane = self.lanes.get(&share.connection)?;
        let entry = lane.turns.entries().find(|entry| entry.child == sender.share);
        let rank = entry.map_or(u64::MAX, |entry| entry.rank);
        let step = |share: &Share| self.tenants[&share.tenant].usual_step();
        let tenants = lane.turns.entries().map(|entry| {
            let other = &self.shares[entry.child as usize];
            let is_first = entry.rank < rank;
            Rival { tag: entry.tag, is_first, step: step(other), jobs: other.jobs }
        });
        Some(turns_before(share.tag + in_tenant * step(share), tenants) as usize)
    }
}

/// A child that may have turns before another.
struct Rival {
    tag: u64,
    /// Of equal tags.
    is_first: bool,
    step: u64,
    jobs: usize,
}

fn turns_before(tag: u64, rivals: impl Iterator<Item = Rival>) -> u64 {
    let turns = rivals.map(|one| {
        let ahead = (tag + u64::from(one.is_first)).saturating_sub(one.tag);
        ahead.div_ceil(one.step).min(one.jobs as u64)
    });
    turns.sum()
}
