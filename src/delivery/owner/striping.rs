//! Striped destinations at the owner: what a member tells, and how the lead shares.
//!
//! Promise:  the members of a destination have no more connections together than its limit: a member
//!           opens none before the lead gives it a share, and a lower share counts only when the member
//!           has told of it.
//! Order:    a member tells what it uses, the lead answers with shares. Frames may be lost, so a member
//!           that has another share than it wants tells again.
//! Bounds:   a destination gets a lead while there are fewer than `DESTINATIONS_MAX`, with those that only
//!           count the rate of a source or a tenant; these come beyond. Full: a new one gives no shares,
//!           and its members tell again. A member tells at most once in `USED_EVERY_MS`.

use super::*;

/// How often a member of a striped destination tells what it uses, while that changes, and while it
/// has another share than it wants.
const USED_EVERY_MS: u64 = 50;

impl Owner {
    pub(super) fn is_owner(&self, lead: ShardId, stripes: u32) -> bool {
        stripe::owner(lead, stripes, self.me, self.shards) == self.me
    }

    /// The destination has several owners from now on. It stays so until it is forgotten: the others
    /// may have connections for long.
    pub(super) fn become_member(&mut self, index: u32, now: Mono) {
        let entry = &mut self.entries[index as usize];
        let lead = stripe::lead(&entry.hop.destination, self.shards);
        let key = entry.key;
        let destination = &mut entry.destination;
        let connections = destination.counts.all();
        // Without any it has none until the lead gives it some.
        destination.set_share(Some(connections));
        let policy = Arc::clone(destination.policy());
        let (number, told, told_at) = (0, None, Mono::ZERO);
        entry.member = Some(Member { lead, number, told, told_at });
        self.touched.insert(index);
        let mut limits = Vec::new();
        for (of, rate) in entry.rates() {
            let rates = if of == key { &policy.rates } else { &policy.source_rates };
            if let Rate::Own(mut limit) = std::mem::replace(rate, Rate::of_member(rates)) {
                limit.set_users(Users::Shards, now);
                limits.push((of, Lead::counting(limit, now)));
            }
        }
        if lead == self.me && !self.leads.contains_key(&key) {
            if self.leads.len() >= DESTINATIONS_MAX {
                let limits = limits.iter_mut();
                return limits.for_each(|(of, lead)| self.rates.forget(*of, &mut lead.limit, now));
            }
            self.leads.extend(limits);
            let mut shares = Shares::new(policy.connections_max, self.share_number);
            let used = Used { number: 0, connections, wanted: connections };
            let changed = shares.on_used(self.me, used);
            self.share_number = self.share_number.max(shares.number());
            if let Some(lead) = self.leads.get_mut(&key) {
                lead.shares = shares;
            }
            self.send_shares(key, changed);
        }
    }

    /// Tells the lead of a striped destination what this member uses, and asks it for tokens of the
    /// destination and of its sources.
    pub(super) fn tell_used(&mut self, index: u32, now: Mono) {
        let Entry { destination, member, hop, key, .. } = &mut self.entries[index as usize];
        let Some(member) = member else { return };
        let (connections, wanted) = (destination.counts.all(), destination.wanted());
        let used = Used { number: member.number, connections, wanted };
        let (key, lead) = (*key, member.lead);
        let told_ms = now.ms_since(member.told_at);
        let changes = member.told != Some(used);
        // A frame may be lost.
        let lacks = destination.wants_share().is_some() && told_ms >= USED_AGAIN_MS;
        if changes && told_ms < USED_EVERY_MS {
            self.touched.insert(index);
        } else if changes || lacks {
            (member.told, member.told_at) = (Some(used), now);
            let (from, hop) = (self.me, Some(Arc::clone(hop)));
            let frame = Frame::Used { target: key, from, hop, used };
            self.effects.push(OwnerEffect::Send { to: lead, frame });
        }
        let (queued, mut frames) = (destination.queued() as u32, Vec::new());
        let is_free = destination.has_free_connection(now);
        let mut needs_tokens = false;
        if let Rate::Tokens(tokens) = &mut destination.rate {
            needs_tokens = true;
            frames.extend(tokens.frames((queued, is_free), (key, self.me), None, now));
        }
        for (source, waiting, tokens) in destination.source_tokens() {
            needs_tokens = true;
            frames.extend(tokens.frames((waiting, is_free), (source, self.me), Some(hop), now));
        }
        self.effects.extend(frames.into_iter().map(|frame| OwnerEffect::Send { to: lead, frame }));
        if needs_tokens {
            // Asked again when they do not come.
            self.set_timer(index, now);
        }
    }

    /// To the lead: what a member uses of a striped destination.
    pub fn used(&mut self, key: u64, from: ShardId, (hop, used): (Option<&Hop>, Used), now: Mono) {
        let Some(hop) = hop else {
            if let Some(lead) = self.leads.get_mut(&key) {
                let changed = lead.shares.on_used(from, used);
                self.share_number = self.share_number.max(lead.shares.number());
                self.send_shares(key, changed);
            }
            return;
        };
        let policy = self.policy_for(hop);
        if !self.leads.contains_key(&key) {
            if self.leads.len() >= DESTINATIONS_MAX {
                return;
            }
            // Until now this shard was the only owner: what it has counts first.
            if let Some(index) = self.by_name.get(&hop.destination).copied()
                && self.entries[index as usize].member.is_none()
            {
                self.become_member(index, now);
            }
        }
        let (number, users) = (self.share_number, Users::Shards);
        let lead = self.leads.entry(key).or_insert_with(|| Lead {
            shares: Shares::new(policy.connections_max, number),
            limit: self.rates.limit(key, &policy.rates, users, now),
            used_at: now,
        });
        lead.used_at = now;
        lead.limit.set_rates(&policy.rates);
        let mut changed = lead.shares.again(from, used);
        changed.extend(lead.shares.set_limit(policy.connections_max));
        changed.extend(lead.shares.on_used(from, used));
        self.share_number = self.share_number.max(lead.shares.number());
        self.send_shares(key, changed);
    }

    fn send_shares(&mut self, key: u64, changed: Vec<Share>) {
        for share in changed {
            let (number, connections) = (share.number, share.connections);
            let frame = Frame::Share { target: key, from: self.me, number, connections };
            self.send(share.to, frame);
        }
    }

    /// To a member: the connections that it may have.
    pub fn share(&mut self, key: u64, (lead, number, connections): (ShardId, u32, u32), now: Mono) {
        let is_member = |index: &u32| self.entries[*index as usize].member.is_some();
        let Some(index) = self.by_key.get(&key).copied().filter(is_member) else {
            let used = Used { number, ..Used::default() };
            let frame = Frame::Used { target: key, from: self.me, hop: None, used };
            return self.send(lead, frame);
        };
        let entry = &mut self.entries[index as usize];
        if let Some(member) = &mut entry.member {
            if member.number == number && now.ms_since(member.told_at) >= USED_AGAIN_MS {
                // The lead has missed the answer.
                member.told = None;
            }
            member.number = number;
        }
        entry.destination.set_share(Some(connections));
        self.touched.insert(index);
        self.refresh(index, now);
        self.pump(now);
    }
}
