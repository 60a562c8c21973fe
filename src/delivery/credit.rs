//! The places that owners have granted: which job of a destination a home sends next.
//!
//! Owner:    `home`. A value without I/O or clock.
//! Promise:  no more jobs are out than there are places, for the destination and for each flow. Before
//!           the first grant urgent mail has `PLACES_OPENING_URGENT` more. A smaller grant recalls
//!           nothing: nothing more is sent until enough has come back.
//! Order:    the fair queue of the home decides which flows are represented at the owner when there are
//!           more than places, and the order within a flow. The owner decides what is sent.
//! Bounds:   the home bounds the jobs by their memory.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Class;
use crate::base::IdMap;
use crate::base::Mono;
use crate::base::ShardId;
use crate::delivery::fair::ConnectionClass;
use crate::delivery::fair::FairQueue;
use crate::delivery::fair::Origin;
use crate::delivery::fair::Slot;
use crate::delivery::job::Route;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Flow;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::PLACES_OPENING;
use crate::handoff::frames::PLACES_OPENING_PER_FLOW;
use crate::handoff::frames::PLACES_OPENING_URGENT;
use crate::handoff::frames::has_urgent_places;

/// How often a home repeats that its mail has no places.
pub const WANT_EVERY: Duration = Duration::from_secs(5);
/// How soon an owner is told of another number of jobs.
const WANT_NEWS: Duration = Duration::from_millis(500);
/// How long mail waits in memory for a destination without places before it is filed.
pub const ZERO_PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing goes to an owner that has just returned a job.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = WANT_EVERY;

/// Jobs of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub waiting: u32,
    pub out: u32,
    /// Of both.
    pub bytes: usize,
    is_held: bool,
}

/// A destination and pool as its home knows it.
#[derive(Debug)]
pub struct Target {
    pub route: Arc<Route>,
    /// Who talks to the destination for mail of this home.
    pub owner: ShardId,
    pub state: Arc<GrantState>,
    queue: FairQueue<JobRef>,
    shares: IdMap<(u64, Class), Share>,
    grant: Option<Places>,
    out: u32,
    waiting: u32,
    /// Flows with jobs that wait.
    flows_waiting: u32,
    bytes: usize,
    zero_since: Option<Mono>,
    paused_until: Mono,
    /// Jobs that came back in a row because the owner could not take them.
    refusals: u32,
    want_at: Mono,
    /// Tenants whose rate is used up, and until when. Their jobs are held.
    spent: Vec<(u64, Mono)>,
    /// The jobs that the owner was told of last, and when.
    wanted: (u32, Mono),
    idle_since: Mono,
}

/// Jobs that may be out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub total: u32,
    pub per_flow: u32,
}

const OPENING: Places = Places { total: PLACES_OPENING, per_flow: PLACES_OPENING_PER_FLOW };

impl Target {
    pub fn new(route: &Arc<Route>, now: Mono) -> Target {
        Target {
            route: Arc::clone(route),
            owner: route.owner,
            state: Arc::default(),
            queue: FairQueue::default(),
            shares: IdMap::default(),
            grant: None,
            out: 0,
            waiting: 0,
            flows_waiting: 0,
            bytes: 0,
            zero_since: None,
            paused_until: Mono::ZERO,
            refusals: 0,
            want_at: Mono::ZERO,
            spent: Vec::new(),
            wanted: (0, Mono::ZERO),
            idle_since: now,
        }
    }

    pub fn places(&self) -> Places {
        self.grant.unwrap_or(OPENING)
    }

    pub fn share(&self, flow: &Flow) -> Share {
        self.shares.get(&(flow.tenant, flow.class)).copied().unwrap_or_default()
    }

    pub fn out(&self) -> u32 {
        self.out
    }

    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn zero_since(&self) -> Option<Mono> {
        self.zero_since
    }

    /// It has had no places for so long that its mail is filed.
    pub fn is_barren(&self, now: Mono) -> bool {
        self.zero_since.is_some_and(|since| now.since(since) >= ZERO_PATIENCE)
    }

    /// More than one job of a flow waits.
    pub fn has_surplus(&self) -> bool {
        self.waiting > self.flows_waiting
    }

    pub fn paused_until(&self) -> Mono {
        self.paused_until
    }

    /// Since when it has had no job here.
    pub fn idle_since(&self) -> Option<Mono> {
        (self.waiting + self.out == 0).then_some(self.idle_since)
    }

    /// All jobs that wait in the queue.
    pub fn queued(&self) -> impl Iterator<Item = JobRef> {
        self.queue.jobs().copied()
    }

    /// Jobs that go before this one if none comes.
    pub fn ahead_of(&self, slot: Slot) -> Option<usize> {
        self.queue.ahead_of(slot)
    }

    /// Whether a job of this flow may be sent now.
    pub fn may_go(&self, flow: &Flow, now: Mono) -> bool {
        let Places { total, per_flow } = self.places();
        let extra = match self.grant.is_none() && has_urgent_places(flow.class) {
            true => PLACES_OPENING_URGENT,
            false => 0,
        };
        let out = self.share(flow).out;
        now >= self.paused_until
            && self.spent_until(flow.tenant, now).is_none()
            && self.out < total + extra
            && out < per_flow + extra
    }

    /// A job waits, or is about to be sent.
    pub fn enter(&mut self, flow: &Flow, bytes: usize) {
        let share = self.shares.entry((flow.tenant, flow.class)).or_default();
        share.bytes += bytes;
        self.bytes += bytes;
        self.flows_waiting += u32::from(share.waiting == 0);
        share.waiting += 1;
        self.waiting += 1;
    }

    /// It queues for its turn.
    pub fn queue(&mut self, job: JobRef, origin: Origin, is_first: bool) -> Slot {
        match is_first {
            true => self.queue.push_first(job, origin),
            false => self.queue.push(job, origin),
        }
    }

    pub fn has_queued(&self) -> bool {
        self.queue.ready(ConnectionClass::default()) > 0
    }

    /// Jobs of this sender that queue.
    pub fn queued_of(&self, origin: &Origin) -> usize {
        self.queue.jobs_of(origin)
    }

    pub fn unqueue(&mut self, slot: Slot) {
        self.queue.remove(slot);
    }

    /// The next job that may be sent; it is out of the queue.
    pub fn next(&mut self, now: Mono) -> Option<JobRef> {
        let is_full = self.out >= self.places().total;
        if is_full || now < self.paused_until {
            return None;
        }
        self.queue.take(ConnectionClass::default()).map(|taken| taken.job)
    }

    /// A waiting job is sent.
    pub fn go(&mut self, flow: &Flow) {
        let share = self.shares.entry((flow.tenant, flow.class)).or_default();
        share.waiting -= 1;
        share.out += 1;
        self.flows_waiting -= u32::from(share.waiting == 0);
        self.waiting -= 1;
        self.out += 1;
        self.hold_or_release(flow);
    }

    /// A job that was out waits again.
    pub fn come_back(&mut self, flow: &Flow) {
        let share = self.shares.entry((flow.tenant, flow.class)).or_default();
        self.flows_waiting += u32::from(share.waiting == 0);
        share.waiting += 1;
        share.out -= 1;
        self.waiting += 1;
        self.out -= 1;
        self.hold_or_release(flow);
    }

    /// A job leaves, which has waited or was out.
    pub fn leave(&mut self, flow: &Flow, bytes: usize, was_out: bool, now: Mono) {
        let key = (flow.tenant, flow.class);
        let share = self.shares.entry(key).or_default();
        share.bytes -= bytes;
        self.bytes -= bytes;
        if was_out {
            (share.out, self.out) = (share.out - 1, self.out - 1);
        } else {
            (share.waiting, self.waiting) = (share.waiting - 1, self.waiting - 1);
            self.flows_waiting -= u32::from(share.waiting == 0);
        }
        self.hold_or_release(flow);
        if self.shares.get(&key).is_some_and(|share| share.waiting + share.out == 0)
            && self.shares.remove(&key).is_some_and(|share| share.is_held)
        {
            self.queue.release(flow.tenant, Some(flow.class));
        }
        self.idle_since = now;
    }

    /// The owner grants places. Answers whether there are more than before.
    pub fn grant(&mut self, places: Places, state: Arc<GrantState>, now: Mono) -> bool {
        let before = self.places();
        self.grant = Some(places);
        self.state = state;
        self.zero_since = match places.total {
            0 => Some(self.zero_since.unwrap_or(now)),
            _ => None,
        };
        self.hold_or_release_all();
        places.total > before.total || places.per_flow > before.per_flow
    }

    /// The rate of a tenant is used up until then.
    pub fn hold_tenant(&mut self, tenant: u64, until: Mono) {
        self.spent.retain(|(other, _)| *other != tenant);
        self.spent.push((tenant, until));
        self.queue.hold(tenant, None);
    }

    /// Releases the tenants whose time has come. When that of the next one comes.
    pub fn release_tenants(&mut self, now: Mono) -> Option<Mono> {
        let queue = &mut self.queue;
        self.spent.retain(|(tenant, until)| {
            if *until <= now {
                queue.release(*tenant, None);
            }
            now < *until
        });
        self.spent.iter().map(|(_, until)| *until).min()
    }

    pub fn spent_until(&self, tenant: u64, now: Mono) -> Option<Mono> {
        let spent = self.spent.iter().find(|(other, until)| *other == tenant && now < *until);
        spent.map(|(_, until)| *until)
    }

    /// What keeps mail of a tenant from being sent.
    pub fn state_of(&self, tenant: u64, now: Mono) -> Arc<GrantState> {
        match self.spent_until(tenant, now) {
            Some(until) => {
                let (binds, until) = (Binds::TenantRate, Some(until));
                Arc::new(GrantState { binds, until, ..GrantState::default() })
            }
            None => Arc::clone(&self.state),
        }
    }

    /// The owner has just given a job back: nothing is sent for a time, which doubles each time.
    pub fn pause(&mut self, now: Mono) {
        if now >= self.paused_until {
            let wait = PAUSE_FIRST.saturating_mul(1 << self.refusals.min(8)).min(PAUSE_MAX);
            self.paused_until = now.plus(wait);
            self.refusals += 1;
        }
    }

    /// The owner has tried a job.
    pub fn note_tried(&mut self) {
        self.refusals = 0;
    }

    /// Jobs and flows that wait for places, if the owner is to be told now.
    pub fn next_want(&mut self, now: Mono) -> Option<(u32, u32)> {
        let (total, flows) = (self.places().total, self.flows_waiting);
        let lacks = self.waiting > 0 && (total == 0 || flows > total);
        if !lacks {
            return None;
        }
        if total == 0 && self.state.until.is_none() && self.waiting != self.wanted.0 {
            // For operators, who see how many wait for a destination that is paused.
            self.want_at = self.want_at.min(self.wanted.1.plus(WANT_NEWS));
        }
        if now < self.want_at {
            return None;
        }
        self.wanted = (self.waiting, now);
        let soonest = now.plus(WANT_EVERY);
        self.want_at = match self.state.until {
            Some(until) if total == 0 => soonest.max(until),
            _ => soonest,
        };
        Some((self.waiting, flows))
    }

    /// Another shard talks to the destination from now on; what it grants is not known yet.
    pub fn set_owner(&mut self, owner: ShardId) {
        if std::mem::replace(&mut self.owner, owner) != owner {
            self.grant = None;
            self.zero_since = None;
            self.want_at = Mono::ZERO;
            self.hold_or_release_all();
        }
    }

    /// When `next_want` may have something to say.
    pub fn want_at(&self) -> Mono {
        self.want_at
    }

    fn hold_or_release_all(&mut self) {
        let flows: Vec<(u64, Class)> = self.shares.keys().copied().collect();
        for (tenant, class) in flows {
            self.hold_or_release(&Flow { target: 0, tenant, class });
        }
    }

    /// A flow at its limit is passed over by `next`.
    fn hold_or_release(&mut self, flow: &Flow) {
        let per_flow = self.places().per_flow;
        let Some(share) = self.shares.get_mut(&(flow.tenant, flow.class)) else { return };
        let is_held = share.out >= per_flow;
        if is_held != std::mem::replace(&mut share.is_held, is_held) {
            match is_held {
                true => self.queue.hold(flow.tenant, Some(flow.class)),
                false => self.queue.release(flow.tenant, Some(flow.class)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
