//! Rates at the owner: what is counted here, the file that outlives the process, and tenants.
//!
//! Promise:  a limit is counted by one shard only: those of a destination and of its sources by its
//!           lead, that of a tenant by the shard that its hash names. Other shards send on tokens. A
//!           tenant without tokens is held in all queues; if its rate is used up, its jobs go home, so
//!           that they do not occupy the places of others.
//! Bounds:   `KEPT_MAX` forgotten limits under which something counts. Full: others are not forgotten.
//! Order:    one save of limits is under way at a time. `saved` must follow when it is durable.

use super::known::idle_ms;
use super::*;

/// Limits forgotten for want of room of which is known what was sent under them.
const KEPT_MAX: usize = 4 * DESTINATIONS_MAX;

/// Rates as an owner keeps them.
#[derive(Debug, Default)]
pub(in crate::delivery) struct RateBook {
    sent_before: Arc<SentBefore>,
    /// What was sent under limits that were forgotten for want of room.
    kept: HashMap<u64, Kept>,
    kept_until: BTreeSet<(Mono, u64)>,
    /// Limits with something to save, by the time when that is due.
    pub(super) unsaved: BTreeSet<(Mono, u64)>,
    /// A save is under way, of these limits and of dropped ones.
    pub(super) is_saving: bool,
    saving: Vec<u64>,
    /// Forgotten limits, under which nothing counts any more.
    dropped: Vec<u64>,
    /// The rates of all tenants that have any, by the hash of the tenant.
    limited: HashMap<u64, Rates>,
    /// Those that have jobs or tokens here.
    tenants: HashMap<u64, Tenant>,
    /// Tenants whose rate is used up, and until when.
    spent: HashMap<u64, Mono>,
    /// When tokens of tenants expire and used up rates are free again. A tenant may be there more than
    /// once.
    pub(super) due: BTreeSet<(Mono, u64)>,
    /// Tenants that lack tokens, or may have some to give back.
    pub(super) changed: BTreeSet<u64>,
}

/// What counted then under a limit, and until when something of it does.
#[derive(Debug)]
struct Kept {
    sent: StoredLimit,
    at: Mono,
    until: Mono,
    was_saved: bool,
}

/// A tenant with a rate.
#[derive(Debug, Default)]
struct Tenant {
    tokens: Tokens,
    /// Its queued jobs, and how many of them each destination has.
    queued: u32,
    by_destination: BTreeMap<u32, u32>,
    /// Whether its jobs are not held.
    is_free: bool,
}

impl RateBook {
    pub(super) fn new(
        sent_before: Arc<SentBefore>,
        policy: &DeliveryPolicy,
        hasher: &FlowHasher,
    ) -> RateBook {
        RateBook { sent_before, limited: limited(policy, hasher), ..RateBook::default() }
    }

    /// A limit with what was sent before it was forgotten, or by earlier processes.
    pub(super) fn limit(&mut self, key: u64, rates: &Rates, users: Users, now: Mono) -> RateLimit {
        let mut limit = RateLimit::new(rates, Keeping::Stored, users);
        let sent = match self.kept.remove(&key) {
            Some(Kept { sent, at, until, .. }) => {
                self.kept_until.remove(&(until, key));
                Some(StoredLimit { age_ms: now.ms_since(at), ..sent })
            }
            None => self.sent_before.of(key, now),
        };
        if let Some(sent) = sent {
            limit.restore(&sent, now);
        }
        limit
    }

    /// The limit has no owner any more. What still counts is kept.
    pub(super) fn forget(&mut self, key: u64, limit: &mut RateLimit, now: Mono) {
        let (until, was_saved) = (limit.empties_at(now), limit.was_saved());
        if until > now {
            self.kept.insert(key, Kept { sent: limit.counted(now), at: now, until, was_saved });
            self.kept_until.insert((until, key));
        } else {
            self.dropped.extend(was_saved.then_some(key));
        }
    }

    /// Whether a limit may be forgotten under which something counts.
    pub(super) fn keeps_more(&self) -> bool {
        self.kept.len() < KEPT_MAX
    }

    /// Drops what does not count any more.
    fn drop_kept(&mut self, now: Mono) {
        while let Some((until, key)) = self.kept_until.first().copied()
            && until <= now
        {
            self.kept_until.pop_first();
            let kept = self.kept.remove(&key);
            self.dropped.extend(kept.filter(|kept| kept.was_saved).map(|_| key));
        }
    }

    /// Until when the rate of a tenant is used up.
    pub(super) fn spent_until(&self, tenant: u64, now: Mono) -> Option<Mono> {
        self.spent.get(&tenant).copied().filter(|until| now < *until)
    }

    /// Whether jobs of a tenant wait for tokens.
    pub(in crate::delivery) fn holds(&self, tenant: u64) -> bool {
        self.tenants.get(&tenant).is_some_and(|one| !one.is_free)
    }
}

fn limited(policy: &DeliveryPolicy, hasher: &FlowHasher) -> HashMap<u64, Rates> {
    let limited = policy.tenants.limited();
    limited.map(|(name, rates)| (hasher.tenant(Some(name)), *rates)).collect()
}

impl Owner {
    fn limit_mut(&mut self, key: u64) -> Option<&mut RateLimit> {
        if let Some(lead) = self.leads.get_mut(&key) {
            return Some(&mut lead.limit);
        }
        match self.entries[*self.by_key.get(&key)? as usize].rate_mut(key)? {
            Rate::Own(limit) => Some(limit),
            Rate::Tokens(_) => None,
        }
    }

    /// Gives the sources of a destination their rates that have none yet.
    pub(super) fn rate_sources(&mut self, index: u32, now: Mono) {
        let Entry { destination, member, .. } = &mut self.entries[index as usize];
        let rates = destination.policy().source_rates;
        while let Some((outlet, source)) = destination.next_unrated() {
            let key = self.hasher.source(&destination.name, source);
            let rate = match member {
                Some(_) => Rate::of_member(&rates),
                None => Rate::Own(match self.leads.remove(&key) {
                    // The destination was striped before.
                    Some(mut lead) => {
                        lead.limit.set_rates(&rates);
                        lead.limit
                    }
                    None => self.rates.limit(key, &rates, Users::OneShard, now),
                }),
            };
            destination.set_source_rate(outlet, key, rate);
            self.by_key.insert(key, index);
        }
    }

    /// Remembers when the limits of a destination and of its sources are to be saved.
    pub(super) fn note_all_unsaved(&mut self, index: u32) {
        for (key, rate) in self.entries[index as usize].rates() {
            if let Rate::Own(limit) = rate {
                self.rates.unsaved.extend(limit.saves_at().map(|at| (at, key)));
            }
        }
    }

    /// Remembers when the limit is to be saved.
    pub(super) fn note_unsaved(&mut self, key: u64) {
        let at = self.limit_mut(key).and_then(|limit| limit.saves_at());
        self.rates.unsaved.extend(at.map(|at| (at, key)));
    }

    /// Has limits written, unless some are being written.
    pub(super) fn save_limits(&mut self, now: Mono) {
        if self.rates.is_saving {
            return;
        }
        self.rates.drop_kept(now);
        let dropped = std::mem::take(&mut self.rates.dropped).into_iter();
        let mut limits: Vec<_> = dropped.map(|key| (key, StoredLimit::default())).collect();
        while let Some((at, key)) = self.rates.unsaved.first().copied()
            && at <= now
        {
            self.rates.unsaved.remove(&(at, key));
            if let Some(stored) = self.limit_mut(key).and_then(|limit| limit.save(now)) {
                self.rates.saving.push(key);
                limits.push((key, stored));
            }
        }
        if !limits.is_empty() {
            self.rates.is_saving = true;
            self.effects.push(OwnerEffect::Save { limits });
        }
    }

    /// All that was to be saved is durable.
    pub fn saved(&mut self, now: Mono) {
        self.rates.is_saving = false;
        for key in std::mem::take(&mut self.rates.saving) {
            if let Some(limit) = self.limit_mut(key) {
                limit.saved();
            }
            self.note_unsaved(key);
            if let Some(index) = self.by_key.get(&key).copied() {
                self.refresh(index, now);
            }
        }
        self.pump(now);
    }

    /// A reload. Destinations follow in steps; each returns its jobs if other tenants are limited now,
    /// so that all are counted or none.
    pub(super) fn replace_tenants(&mut self, now: Mono) {
        let limited = limited(&self.policy, &self.hasher);
        let before = std::mem::replace(&mut self.rates.limited, limited);
        self.rates.spent.clear();
        let are_same = before.len() == self.rates.limited.len()
            && before.keys().all(|tenant| self.rates.limited.contains_key(tenant));
        if are_same {
            return;
        }
        self.tenants_since = self.policy_number;
        let tenants: Vec<u64> = self.rates.tenants.keys().copied().collect();
        for tenant in tenants {
            if !self.rates.limited.contains_key(&tenant) {
                self.set_free(tenant, true, now);
                self.rates.tenants.remove(&tenant);
            }
        }
    }

    /// A job has entered the queue of a destination.
    pub(super) fn enter_tenant(&mut self, index: u32, tenant: u64, now: Mono) {
        if !self.rates.limited.contains_key(&tenant) {
            return;
        }
        let one = self.rates.tenants.entry(tenant).or_default();
        one.queued += 1;
        *one.by_destination.entry(index).or_default() += 1;
        let is_held = !one.is_free;
        self.entries[index as usize].destination.hold_tenant(tenant, is_held);
        self.ask_for(tenant, now);
    }

    /// A job has left the queue of a destination.
    pub(super) fn leave_tenant(&mut self, index: u32, tenant: u64) {
        let Some(one) = self.rates.tenants.get_mut(&tenant) else { return };
        let Some(jobs) = one.by_destination.get_mut(&index) else { return };
        (*jobs, one.queued) = (*jobs - 1, one.queued - 1);
        if one.queued == 0 {
            self.rates.changed.insert(tenant);
        }
        if *jobs == 0 {
            one.by_destination.remove(&index);
            self.entries[index as usize].destination.hold_tenant(tenant, false);
        }
    }

    /// A job of the tenant begins. Its token was there, or the tenant was held. Until when the token was
    /// valid.
    pub(super) fn use_token(&mut self, tenant: u64, now: Mono) -> Option<Mono> {
        let one = self.rates.tenants.get_mut(&tenant)?;
        let used = one.tokens.use_one(now);
        debug_assert!(used.is_some(), "a tenant without tokens is held");
        if one.tokens.free(now) == 0 {
            self.set_free(tenant, false, now);
        }
        used
    }

    /// The job that has used this token does not begin.
    pub(super) fn put_back_token(&mut self, tenant: u64, until: Mono, now: Mono) {
        if !self.rates.limited.contains_key(&tenant) {
            return;
        }
        self.rates.tenants.entry(tenant).or_default().tokens.put_back(until);
        self.rates.changed.insert(tenant);
        if now < until {
            self.rates.due.insert((until, tenant));
            self.set_free(tenant, true, now);
        }
    }

    /// Holds the tenants whose tokens have expired. Called before a job is taken.
    pub(super) fn hold_expired(&mut self, now: Mono) {
        while let Some((at, tenant)) = self.rates.due.first().copied()
            && at <= now
        {
            self.rates.due.pop_first();
            if self.rates.spent_until(tenant, now).is_none() {
                self.rates.spent.remove(&tenant);
            }
            let Some(one) = self.rates.tenants.get(&tenant) else { continue };
            self.rates.changed.insert(tenant);
            if one.tokens.expires(now).is_none() {
                self.set_free(tenant, false, now);
            }
        }
    }

    fn set_free(&mut self, tenant: u64, is_free: bool, now: Mono) {
        let Some(one) = self.rates.tenants.get_mut(&tenant) else { return };
        if std::mem::replace(&mut one.is_free, is_free) == is_free {
            return;
        }
        let indexes: Vec<u32> = one.by_destination.keys().copied().collect();
        for index in indexes {
            self.entries[index as usize].destination.hold_tenant(tenant, !is_free);
            if is_free {
                self.refresh(index, now);
            }
        }
    }

    fn ask_for(&mut self, tenant: u64, now: Mono) {
        let Some(one) = self.rates.tenants.get_mut(&tenant) else { return };
        let (from, lead) = (self.me, stripe::lead_of(tenant, self.shards));
        let frames = one.tokens.frames((one.queued, true), (tenant, from), None, now);
        self.effects.extend(frames.map(|frame| OwnerEffect::Send { to: lead, frame }));
        if one.queued == 0 {
            self.rates.tenants.remove(&tenant);
        } else if one.queued > one.tokens.free(now) {
            // Asked again when they do not come.
            self.rates.changed.insert(tenant);
        }
    }

    /// Gives back what is not used, and asks again.
    pub(super) fn tick_tenants(&mut self, now: Mono) {
        self.hold_expired(now);
        let changed = std::mem::take(&mut self.rates.changed);
        changed.into_iter().for_each(|tenant| self.ask_for(tenant, now));
    }

    /// To the lead: a shard asks for tokens of the rate of a destination, of a source at the destination
    /// of this hop, or of a tenant.
    pub fn ask(&mut self, key: u64, (from, tokens): (ShardId, u32), hop: Option<&Hop>, now: Mono) {
        let rates = match hop {
            Some(hop) => {
                let destination = self.hasher.destination(&hop.destination, None);
                if !self.leads.contains_key(&destination) {
                    // Until it hears of the other owners, it counts the source on its own.
                    return;
                }
                Some(self.policy_for(hop).source_rates)
            }
            None => self.rates.limited.get(&key).copied(),
        };
        if let Some(rates) = rates {
            let lead = self.leads.entry(key).or_insert_with(|| {
                Lead::counting(self.rates.limit(key, &rates, Users::Shards, now), now)
            });
            lead.limit.set_rates(&rates);
        }
        let Some(lead) = self.leads.get_mut(&key) else { return };
        lead.used_at = now;
        let (tokens, mut until) = lead.limit.allow(tokens, now);
        if tokens == 0 {
            let soonest = now.plus_ms(TOKEN_ASK_MS);
            until = lead.limit.frees_at(now).map_or(soonest, |at| at.max(soonest));
        }
        let frame = Frame::Allow { limit: key, tokens, until };
        self.send(from, frame);
        self.note_unsaved(key);
    }

    /// From the lead: tokens, or none until then.
    pub fn allow(&mut self, key: u64, (tokens, until): (u32, Mono), now: Mono) {
        if let Some(one) = self.rates.tenants.get_mut(&key) {
            one.tokens.on_allow(tokens, until, now);
            if tokens > 0 {
                self.rates.due.insert((until, key));
            }
            match one.tokens.expires(now) {
                Some(_) => self.set_free(key, true, now),
                None => self.return_tenant(key, until, now),
            }
        } else if let Some(index) = self.by_key.get(&key).copied() {
            if let Some(Rate::Tokens(held)) = self.entries[index as usize].rate_mut(key) {
                held.on_allow(tokens, until, now);
            }
            self.refresh(index, now);
        }
        self.pump(now);
    }

    /// The rate of a tenant is used up: its jobs go home until it is not.
    fn return_tenant(&mut self, tenant: u64, until: Mono, now: Mono) {
        self.rates.spent.insert(tenant, until);
        self.rates.due.insert((until, tenant));
        let Some(one) = self.rates.tenants.get(&tenant) else { return };
        let indexes: Vec<u32> = one.by_destination.keys().copied().collect();
        for index in indexes {
            let destination = &mut self.entries[index as usize].destination;
            for delivery in destination.remove_tenant(tenant) {
                self.return_job(delivery, Returned::TenantRate { until });
            }
            self.refresh(index, now);
        }
    }

    /// To the lead: tokens that were not used.
    pub fn unused(&mut self, key: u64, (tokens, until): (u32, Mono), now: Mono) {
        if let Some(lead) = self.leads.get_mut(&key) {
            lead.limit.give_back(tokens, until, now);
        }
    }

    /// Forgets leads that nobody uses; if there are many, also those whose messages still count (kept in
    /// `RateBook`).
    pub(super) fn forget_leads(&mut self, now: Mono) {
        let (rates, idle_ms) = (&mut self.rates, idle_ms(self.leads.len()));
        let is_crowded = idle_ms < DESTINATION_IDLE_MS;
        self.leads.retain(|key, lead| {
            let is_kept = now.ms_since(lead.used_at) < idle_ms
                || !lead.shares.is_unused()
                || lead.limit.empties_at(now) > now && !(is_crowded && rates.keeps_more());
            if !is_kept {
                rates.forget(*key, &mut lead.limit, now);
            }
            is_kept
        });
    }
}
