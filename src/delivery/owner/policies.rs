//! Which policy a destination follows, and which destinations operators have paused.
//!
//! Promise:  a reload reaches every destination: in steps at ticks, and at once where a job comes.
//! Bounds:   `RELOADED_PER_TICK` destinations in one step.

use super::*;

/// Destinations whose policy is looked up again in one step after a reload.
const RELOADED_PER_TICK: usize = 256;

impl Owner {
    /// A reload: the policies of destinations follow in steps, at ticks.
    pub fn replace_policy(&mut self, policy: Arc<DeliveryPolicy>, now: Mono) {
        self.gate.set_max(policy.connections_max);
        self.policy = policy;
        self.policy_number += 1;
        self.reloading = Some(0);
        self.replace_tenants(now);
    }

    pub(super) fn policy_for(&self, hop: &Hop) -> Arc<DestinationPolicy> {
        let hosts: Vec<&str> = hop.known_by.iter().map(AsRef::as_ref).collect();
        self.policy.destinations.policy(&hop.domain, &hosts)
    }

    pub(super) fn apply_policy(&mut self, index: u32, now: Mono) {
        let hop = Arc::clone(&self.entries[index as usize].hop);
        let policy = self.policy_for(&hop);
        let stripes = stripe::count(&policy, self.shards);
        let lead = stripe::lead(&hop.destination, self.shards);
        let is_here = self.is_owner(lead, stripes);
        let entry = &mut self.entries[index as usize];
        let are_others_limited = entry.policy_number < self.tenants_since;
        (entry.policy_number, entry.is_here) = (self.policy_number, is_here);
        let is_member = entry.member.is_some();
        if let Some(member) = &mut entry.member {
            // The lead looks up the limit too.
            member.told = None;
        }
        let destination = &mut entry.destination;
        if *destination.policy() != policy {
            let is_limited = matches!(destination.rate, Rate::Tokens(_));
            if is_member && is_limited != policy.rates.is_limited() {
                destination.rate = Rate::of_member(&policy);
            }
            destination.set_policy(policy);
        }
        if !is_here {
            entry.grants.forget_waiting();
            self.return_all(index, Returned::NotHere);
        } else if are_others_limited {
            self.return_all(index, Returned::NoPlaces);
        }
        if stripes > 1 && !is_member {
            self.become_member(index, now);
        }
        self.touched.insert(index);
        self.refresh(index, now);
    }

    pub(super) fn follow_reload(&mut self, now: Mono) {
        let Some(from) = self.reloading else { return };
        let end = (from + RELOADED_PER_TICK).min(self.entries.capacity());
        for index in from..end {
            if self.entries.contains(index) {
                self.apply_policy(index as u32, now);
            }
        }
        self.reloading = (end < self.entries.capacity()).then_some(end);
    }

    pub(super) fn is_paused(&self, hop: &Hop) -> bool {
        self.paused.iter().any(|word| goes_by(hop, word))
    }

    /// Whether this name is paused.
    pub fn has_paused(&self, word: &str) -> bool {
        self.paused.contains(word)
    }

    /// Pauses all destinations that go by this name, known already or not. The destinations that are known.
    pub fn pause(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        // `Pauses` bounds them.
        self.paused.insert(word.into());
        self.apply_pauses(word, now)
    }

    /// Ends the pause of this name. A destination that is paused by another name too stays so.
    pub fn resume(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        self.paused.remove(word);
        self.apply_pauses(word, now)
    }

    fn apply_pauses(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        let mut touched = Vec::new();
        for index in self.indexes() {
            let hop = Arc::clone(&self.entries[index as usize].hop);
            let is_paused = self.is_paused(&hop);
            let destination = &self.entries[index as usize].destination;
            if destination.is_paused() != is_paused {
                self.set_paused(index, is_paused, now);
                touched.push(hop.destination.clone());
            } else if goes_by(&hop, word) && !is_paused {
                touched.push(hop.destination.clone());
            }
        }
        self.pump(now);
        touched
    }

    pub(super) fn set_paused(&mut self, index: u32, is_paused: bool, now: Mono) {
        self.entries[index as usize].destination.pause(is_paused);
        if is_paused {
            self.return_all(index, Returned::NoPlaces);
        }
        self.touched.insert(index);
        self.grant(index, now);
        self.refresh(index, now);
    }
}
