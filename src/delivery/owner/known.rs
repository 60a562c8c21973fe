//! The destinations that an owner knows: how they are made, and when they are forgotten.
//!
//! Promise:  a destination of which something must be remembered outlives its idle time.
//! Bounds:   `DESTINATIONS_MAX`. Full: the one that has been idle longest is forgotten for a new one, but
//!           not what was sent under its rates.

use super::*;

/// Idle destinations looked at for one that may be forgotten.
const FORGET_TRIES: usize = 16;

/// More destinations than that are forgotten after `IDLE_CROWDED_MS`.
const CROWD: usize = 10_000;

const IDLE_CROWDED_MS: u64 = 10_000;

/// After which time one of so many is forgotten if nothing uses it.
pub(super) fn idle_ms(known: usize) -> u64 {
    if known > CROWD { IDLE_CROWDED_MS } else { DESTINATION_IDLE_MS }
}

impl Owner {
    /// The destination of a hop, made if need be. `None`: there is no room for another one.
    pub(super) fn entry_of(&mut self, hop: &Arc<Hop>, now: Mono) -> Option<u32> {
        if let Some(index) = self.by_name.get(&hop.destination).copied() {
            let entry = &mut self.entries[index as usize];
            let is_known = Arc::ptr_eq(&entry.hop, hop);
            if entry.policy_number != self.policy_number {
                self.apply_policy(index, now);
            }
            if !is_known {
                let paused_by = self.pauses_of(hop);
                let entry = &mut self.entries[index as usize];
                entry.hop = Arc::clone(hop);
                // What one hop is paused by, other hops do not resume.
                entry.paused_by.extend(paused_by);
                self.follow_pauses(index, now);
            }
            return Some(index);
        }
        if self.entries.len() >= DESTINATIONS_MAX && !self.forget_oldest(now) {
            return None;
        }
        let policy = self.policy_for(hop);
        let stripes = stripe::count(&policy, self.shards);
        let key = self.hasher.destination(&hop.destination, None);
        let lead = stripe::lead(&hop.destination, self.shards);
        // Others may have connections yet if it was striped, or if this shard is not the only owner.
        let is_member = stripes > 1 || self.me != lead || self.leads.contains_key(&key);
        let rate = Rate::Own(self.rates.limit(key, &policy.rates, Users::OneShard, now));
        let mut destination = Destination::new(&hop.destination, policy, rate);
        let paused_by = self.pauses_of(hop);
        destination.pause(!paused_by.is_empty());
        self.generation = self.generation.wrapping_add(1);
        let index = self.entries.insert(Entry {
            destination,
            hop: Arc::clone(hop),
            paused_by,
            key,
            pace: Pace::default(),
            grants: Grants::default(),
            generation: self.generation,
            policy_number: self.policy_number,
            is_here: self.is_owner(lead, stripes),
            idle: Vec::new(),
            request: None,
            timer: None,
            idle_since: None,
            member: None,
            is_resting: false,
        }) as u32;
        self.by_name.insert(hop.destination.clone(), index);
        self.by_key.insert(key, index);
        if is_member {
            self.become_member(index, now);
        }
        Some(index)
    }

    /// Forgets destinations that have been idle for long.
    pub(super) fn forget_idle(&mut self, now: Mono) {
        while let Some((since, index)) = self.idle.first().copied()
            && now.ms_since(since) >= idle_ms(self.entries.len())
        {
            self.forget_or_keep((since, index), false, now);
        }
    }

    /// Makes room for a destination by forgetting the one that has been idle longest.
    pub(super) fn forget_oldest(&mut self, now: Mono) -> bool {
        for _ in 0..FORGET_TRIES {
            let Some(idle) = self.idle.first().copied() else { return false };
            if self.forget_or_keep(idle, true, now) {
                return true;
            }
        }
        false
    }

    /// A destination of which something must be remembered goes to the end of the list.
    fn forget_or_keep(&mut self, idle: (Mono, u32), is_full: bool, now: Mono) -> bool {
        self.idle.remove(&idle);
        let (_, index) = idle;
        let entry = &mut self.entries[index as usize];
        // The lead must hear that it has nothing any more, and say so.
        let lacks = entry.destination.wants_share().is_some();
        let holds = |member: &Member| {
            let idle = Used { number: member.number, ..Used::default() };
            lacks || member.told.is_some_and(|told| told != idle)
        };
        if entry.member.as_ref().is_some_and(holds)
            || entry.destination.is_worth_keeping_until(is_full) > now
            || !(is_full && self.rates.keeps_more()) && entry.destination.counts_rate(now)
        {
            entry.idle_since = Some(now);
            self.idle.insert((now, index));
            return false;
        }
        let mut entry = self.entries.remove(index as usize);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, index));
        }
        self.capacity.request(entry.request, index, None);
        self.touched.remove(&index);
        self.by_name.remove(&entry.destination.name);
        for (key, rate) in entry.rates() {
            self.by_key.remove(&key);
            if let Rate::Own(limit) = rate {
                self.rates.forget(key, limit, now);
            }
        }
        true
    }
}
