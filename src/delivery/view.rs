//! Where jobs stand and what destinations do, for operators and for monitoring.
//!
//! Promise:  reading changes nothing that decides about mail. Each state of a job has one source: its
//!           home, or the owner of its destination when the job is out.
//! Bounds:   `Owner::loads` examines `DESTINATIONS_PER_TICK` destinations, and ceases early after
//!           `JOBS_PER_TICK` jobs. A question of an operator looks at all destinations of the shard.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::base::ShardId;
use crate::base::Wall;
use crate::delivery::credit::Places;
use crate::delivery::destination::Counters;
use crate::delivery::destination::Counts;
use crate::delivery::destination::OutletFacts;
use crate::delivery::destination::Stage;
use crate::delivery::fair::Slot;
use crate::delivery::home::Home;
use crate::delivery::home::LOOKUPS_MAX;
use crate::delivery::job::Job;
use crate::delivery::job::Lookup;
use crate::delivery::job::Now;
use crate::delivery::job::State;
use crate::delivery::owner::Entry;
use crate::delivery::owner::Owner;
use crate::delivery::owner::Whereabouts;
use crate::delivery::owner::goes_by;
use crate::handoff::frame::Answer;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Bound;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::JobKey;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::OurLimit;
use crate::route::Rates;

/// Destinations and jobs that one tick of a survey examines: some 100 us of the 15 ms between two.
pub const DESTINATIONS_PER_TICK: usize = 256;
const JOBS_PER_TICK: usize = 1024;
/// Destinations named as those that use the connections of a shard.
const HOLDERS_TOLD: usize = 3;

/// A destination of a shard while it is known there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestinationId {
    index: u32,
    generation: u32,
}

/// A destination as its owner sees it at one time.
#[derive(Clone, Debug, Default)]
pub struct DestinationView {
    pub at: Now,
    pub key: Box<str>,
    /// As routes name it.
    pub name: Box<str>,
    pub binding: Bound,
    /// Jobs here.
    pub queued: usize,
    /// Jobs that wait at their homes for a place here, as the homes told last.
    pub waiting: u32,
    /// When the oldest queued message was accepted.
    pub oldest: Option<Wall>,
    pub connections: Counts,
    pub connections_max: u32,
    pub window: u32,
    pub rates: Rates,
    /// Of each source.
    pub source_rates: Rates,
    pub counters: Counters,
    /// Transfers in a minute at the present pace.
    pub per_minute: u64,
    pub last_error: Option<Arc<Answer>>,
    /// The host that the error is of; empty if it is of none.
    pub last_host: Box<str>,
    /// What this server lacked for the last connection.
    pub lack: Option<OurLimit>,
    /// The latest actions of reply rules, oldest first.
    pub evidence: Vec<Arc<Evidence>>,
    pub sources: Vec<OutletFacts>,
    /// The source whose rate binds, with its addresses.
    pub spent_source: Option<Box<str>>,
}

/// How much a destination has to do; the weightier is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestinationLoad {
    /// Jobs and connections.
    pub weight: usize,
    /// At the owner and at homes.
    pub queued: usize,
    pub in_flight: u32,
    pub oldest: Option<Wall>,
}

/// What a job at its owner waits for.
#[derive(Clone, Debug)]
pub struct JobView {
    pub destination: DestinationView,
    /// Jobs that go before it; `None`: it is being sent.
    pub ahead: Option<usize>,
    /// The messages that are being sent to the destination.
    pub under_way: Vec<MessageId>,
    /// The destinations with the most connections of this shard.
    pub holders: Vec<(Box<str>, u32)>,
}

impl Entry {
    fn load(&self) -> DestinationLoad {
        let queued = self.destination.queued() + self.grants.waiting() as usize;
        let counts = &self.destination.counts;
        DestinationLoad {
            weight: queued + counts.all() as usize,
            queued,
            in_flight: counts.busy,
            oldest: self.destination.deliveries().map(|delivery| delivery.mail.received).min(),
        }
    }
}

impl Owner {
    /// Shows the next destinations to `each`. Where to go on; `None` after the last one.
    pub fn loads(
        &self,
        from: usize,
        each: &mut dyn FnMut(DestinationId, DestinationLoad),
    ) -> Option<usize> {
        let places = self.entries.capacity();
        let (mut place, mut jobs) = (from, 0);
        while place < places && place < from + DESTINATIONS_PER_TICK && jobs < JOBS_PER_TICK {
            if let Some(entry) = self.entries.get(place) {
                let load = entry.load();
                jobs += entry.destination.queued();
                each(DestinationId { index: place as u32, generation: entry.generation }, load);
            }
            place += 1;
        }
        (place < places).then_some(place)
    }

    /// The destinations with the most mail, the largest first.
    pub fn destinations(&mut self, max: usize, now: Now) -> Vec<DestinationView> {
        let mut largest = BinaryHeap::with_capacity(max + 1);
        for (index, entry) in &self.entries {
            let id = DestinationId { index: index as u32, generation: entry.generation };
            let queued = entry.destination.queued() + entry.grants.waiting() as usize;
            largest.push(Reverse((queued + entry.destination.counts.all() as usize, id)));
            if largest.len() > max {
                largest.pop();
            }
        }
        let largest = largest.into_sorted_vec().into_iter();
        largest.filter_map(|Reverse((_, id))| self.destination_view(id, now)).collect()
    }

    /// The destinations of these keys that are known here.
    pub fn destinations_keyed(&mut self, keys: &[Box<str>], now: Now) -> Vec<DestinationView> {
        let known = keys.iter().filter_map(|key| self.by_name.get(key).copied());
        let known: Vec<u32> = known.collect();
        known.into_iter().map(|index| self.view_of(index, None, now)).collect()
    }

    /// The destinations that go by this name, and whether an operator has paused the name.
    pub fn destinations_named(&mut self, word: &str, now: Now) -> (Vec<DestinationView>, bool) {
        let meant = self.entries.iter().filter(|(_, entry)| goes_by(&entry.hop, word));
        let meant: Vec<u32> = meant.map(|(index, _)| index as u32).collect();
        let views = meant.into_iter().map(|index| self.view_of(index, None, now)).collect();
        (views, self.has_paused(word))
    }

    /// `None`: it was forgotten meanwhile.
    pub fn destination_view(&mut self, id: DestinationId, now: Now) -> Option<DestinationView> {
        let entry = self.entries.get(id.index as usize)?;
        (entry.generation == id.generation).then(|| self.view_of(id.index, None, now))
    }

    /// `job`: whose wait is explained; `None`: of the next job by the last hop.
    fn view_of(&mut self, index: u32, job: Option<Slot>, now: Now) -> DestinationView {
        let is_full = self.capacity.waiting().is_some();
        let connections = self.gate.max();
        let entry = &mut self.entries[index as usize];
        let queued = job.and_then(|slot| entry.destination.queued_at(slot));
        let pool = queued.map_or(&entry.hop, |delivery| &delivery.hop).pool.clone();
        let load = entry.load();
        let destination = &mut entry.destination;
        let (pool, sources) = (pool.as_deref(), &self.policy.sources);
        let binding = match destination.bound(pool, sources, now.mono) {
            (Binds::Nothing, _) if is_full && entry.request.is_some() => {
                (Binds::Process(connections), None)
            }
            bound => bound,
        };
        let state = destination.state(pool, sources, now.mono);
        DestinationView {
            at: now,
            key: destination.name.clone(),
            name: entry.hop.name.clone(),
            binding,
            queued: destination.queued(),
            waiting: entry.grants.waiting(),
            oldest: load.oldest,
            connections: destination.counts,
            connections_max: destination.policy().connections_max,
            window: destination.window(now.mono),
            rates: destination.policy().rates,
            source_rates: destination.policy().source_rates,
            counters: destination.counters,
            per_minute: entry.pace.per_minute(now.mono),
            last_error: state.last,
            last_host: state.last_host,
            lack: destination.lack(),
            evidence: destination.evidence().cloned().collect(),
            sources: destination.outlets(now.mono).collect(),
            spent_source: state.source,
        }
    }

    /// Where a job is that a home has sent. `None`: it is not here any more, or not yet.
    pub fn why(&mut self, job: JobRef, now: Now) -> Option<JobView> {
        let sending = |stage: Stage| stage == Stage::Busy(job);
        let whereabouts = *self.jobs.get(&job)?;
        let (index, ahead, is_held) = match whereabouts {
            Whereabouts::Queued { destination, slot } => {
                let entry = &self.entries[destination as usize].destination;
                let tenant = entry.queued_at(slot).map(|delivery| delivery.flow.tenant);
                let is_held = tenant.is_some_and(|tenant| self.rates.holds(tenant));
                (destination, Some(entry.ahead_of(slot).unwrap_or(0)), is_held)
            }
            Whereabouts::Taken => {
                (self.capacity.iter().find(|one| sending(one.stage))?.destination, None, false)
            }
        };
        let of_destination = self.capacity.iter().filter(|one| one.destination == index);
        let under_way = of_destination.filter_map(|one| match one.stage {
            Stage::Busy(job) => Some(job.key.0),
            _ => None,
        });
        let (under_way, holders) = (under_way.collect(), self.largest_holders());
        let queued = match whereabouts {
            Whereabouts::Queued { slot, .. } => Some(slot),
            Whereabouts::Taken => None,
        };
        let mut destination = self.view_of(index, queued, now);
        if is_held {
            destination.binding = (Binds::TenantRate, None);
        }
        Some(JobView { ahead, under_way, holders, destination })
    }

    fn largest_holders(&self) -> Vec<(Box<str>, u32)> {
        let all = self.entries.iter().map(|(_, entry)| &entry.destination);
        let mut holders: Vec<(u32, &str)> = all
            .map(|destination| (destination.counts.all(), &*destination.name))
            .filter(|(connections, _)| *connections > 0)
            .collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        holders.truncate(HOLDERS_TOLD);
        holders.into_iter().map(|(connections, name)| (name.into(), connections)).collect()
    }
}

/// Where a job in memory stands.
#[derive(Clone, Debug)]
pub enum Standing {
    Reading,
    Resolving(ResolvingFor),
    Waiting(Box<WaitingView>),
    Out { owner: ShardId, job: JobRef },
    Writing { partition: PartitionId },
}

/// What resolving waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvingFor {
    /// One of the `places` for lookups.
    Lookup { ahead: usize, places: usize },
    /// Routes, mail exchangers and policies.
    Answer,
    /// The lookup is begun again then.
    Again { at: Option<Wall>, lack: Option<OurLimit> },
    /// Numbers for its parts.
    Numbers,
}

/// A job that waits at its home for a place at the owner of its destination.
#[derive(Clone, Debug)]
pub struct WaitingView {
    pub at: Now,
    pub destination: Box<str>,
    pub name: Box<str>,
    pub owner: ShardId,
    /// Jobs of this home that go before it; `None`: outcomes of its partition wait for the disk.
    pub ahead: Option<usize>,
    pub places: Places,
    /// Jobs of this home at the owner.
    pub out: u32,
    /// As the owner told with its last grant.
    pub state: Arc<GrantState>,
}

/// What is known of the destination of a job that is on disk only.
#[derive(Clone, Debug)]
pub struct FlowView {
    pub at: Now,
    pub name: Box<str>,
    pub places: Places,
    pub state: Arc<GrantState>,
}

impl Home {
    /// Where the jobs of a message stand that are in memory.
    pub fn standings(&self, id: MessageId, numbers: &[u16], now: Now) -> Vec<(u16, Standing)> {
        let standing = |number: &u16| {
            let key = (id, *number);
            Some((*number, self.standing(key, self.job(key)?, now)))
        };
        numbers.iter().filter_map(standing).collect()
    }

    fn standing(&self, key: JobKey, job: &Job, now: Now) -> Standing {
        let reference = JobRef { key, incarnation: job.incarnation };
        match &job.state {
            State::Reading => Standing::Reading,
            State::Resolving(lookup) => Standing::Resolving(match lookup {
                Lookup::Queued { slot } => {
                    ResolvingFor::Lookup { ahead: self.lookups_before(*slot), places: LOOKUPS_MAX }
                }
                Lookup::Asked | Lookup::UnderWay { .. } => ResolvingFor::Answer,
                Lookup::Later { at, lack } => {
                    ResolvingFor::Again { at: now.wall_at(*at), lack: *lack }
                }
                Lookup::Numbers { .. } => ResolvingFor::Numbers,
            }),
            State::Waiting { slot, .. } => {
                let target = self.target(job.flow().target);
                let target = target.expect("a job that waits has its destination here");
                Standing::Waiting(Box::new(WaitingView {
                    at: now,
                    destination: target.route.hop.destination.clone(),
                    name: target.route.hop.name.clone(),
                    owner: target.owner,
                    ahead: slot.map(|slot| target.ahead_of(slot).unwrap_or(0)),
                    places: target.places(),
                    out: target.out(),
                    state: target.state_of(job.flow().tenant, now.mono),
                }))
            }
            State::Out { owner, .. } => Standing::Out { owner: *owner, job: reference },
            State::Writing(_) => Standing::Writing { partition: key.0.partition() },
        }
    }

    /// The destination that jobs are filed under.
    pub fn filed_under(&self, (target, tenant): (u64, u64), now: Now) -> Option<FlowView> {
        let target = self.target(target)?;
        let state = target.state_of(tenant, now.mono);
        let name = target.route.hop.name.clone();
        Some(FlowView { at: now, name, places: target.places(), state })
    }
}

#[cfg(test)]
pub(super) mod tests;
