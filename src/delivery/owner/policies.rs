//! Which policy a destination follows, and which destinations operators have paused.
//!
//! Promise:  a reload reaches every destination: in steps at ticks, and at once where a job comes or a
//!           connection is opened.
//! Bounds:   `RELOADED_PER_TICK` destinations in one step.

use super::*;

/// Destinations whose policy is looked up again in one step after a reload.
const RELOADED_PER_TICK: usize = 256;

impl Owner {
    /// A reload: the policies of destinations follow in steps, at ticks.
    pub fn replace_policy(&mut self, policy: Arc<DeliveryPolicy>, now: Mono) {
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
        entry.destination.set_policy(policy, &self.policy.sources);
        self.rate_sources(index, now);
        if !is_here {
            self.entries[index as usize].grants.forget_waiting();
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

    /// The names of pauses by which this hop goes.
    pub(super) fn pauses_of(&self, hop: &Hop) -> BTreeSet<Box<str>> {
        self.paused.iter().filter(|word| goes_by(hop, word)).cloned().collect()
    }

    /// Whether this name is paused.
    pub fn has_paused(&self, word: &str) -> bool {
        self.paused.contains(word)
    }

    /// Pauses all destinations that go by this name, known already or not. The known destinations that it
    /// has paused.
    pub fn pause(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        // `Pauses` bounds them.
        self.paused.insert(word.into());
        let mut paused = Vec::new();
        for index in self.indexes() {
            let Entry { destination, hop, paused_by, .. } = &mut self.entries[index as usize];
            // Mail of other domains may have come since.
            let is_meant = goes_by(hop, word)
                || destination.deliveries().any(|delivery| goes_by(&delivery.hop, word));
            if is_meant {
                paused_by.insert(word.into());
                paused.extend(self.follow_pauses(index, now));
            }
        }
        self.pump(now);
        paused
    }

    /// Ends the pause of this name. A destination that is paused by another name too stays so. The known
    /// destinations of this name that are not paused now.
    pub fn resume(&mut self, word: &str, now: Mono) -> Vec<Box<str>> {
        self.paused.remove(word);
        let mut resumed = Vec::new();
        for index in self.indexes() {
            let Entry { destination, hop, paused_by, .. } = &mut self.entries[index as usize];
            let is_meant = paused_by.remove(word) || goes_by(hop, word);
            if is_meant && paused_by.is_empty() {
                resumed.push(destination.name.clone());
                self.follow_pauses(index, now);
            }
        }
        self.pump(now);
        resumed
    }

    /// Pauses or resumes a destination as the names say that pause it. Its name, if that changes it.
    pub(super) fn follow_pauses(&mut self, index: u32, now: Mono) -> Option<Box<str>> {
        let Entry { destination, paused_by, .. } = &mut self.entries[index as usize];
        let is_paused = !paused_by.is_empty();
        if destination.is_paused() == is_paused {
            return None;
        }
        destination.pause(is_paused);
        let name = destination.name.clone();
        if is_paused {
            self.return_all(index, Returned::NoPlaces);
        }
        self.touched.insert(index);
        self.grant(index, now);
        self.refresh(index, now);
        Some(name)
    }
}
