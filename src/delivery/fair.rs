//! The fair queue of a destination: which job goes next.
//!
//! Owner:    one destination at its owner shard, or one home. A value without I/O or clock.
//! Promise:  tenants share by weight, the classes of a tenant 20 : 5 : 1, the senders of a class
//!           equally. A tenant that had no jobs starts at the present virtual time: it gets the next
//!           turn, and no credit for the past. A sender that had no jobs comes after one job of
//!           each of the others, so that an endless stream of new senders delays none for ever.
//!           Leaving and coming back gains nothing. What a tenant sends over one connection class delays its turns in the
//!           others, at most to 1/`LEAD` of its share there.
//! Order:    self-clocked fair queueing. A turn moves the tag of each level by
//!           (bytes + `TURN_BYTES`) / weight. The lowest tag is next, and is the virtual time.
//! Bounds:   the caller bounds the jobs. A tenant without jobs is forgotten at its next turn, or
//!           at once if there are more than `IDLE_MAX` beyond twice those with jobs; a sender
//!           likewise, with `IDLE_FEW`. A tenant without jobs keeps `IDLE_FEW` senders, and the queue
//!           as many connection classes without jobs. A sender gains nothing by being forgotten: a
//!           new one pays for its first job before its turn, others pay after theirs.
//! Cost:     O(log tenants + log senders) for `push` and `take`, O(1) for `remove`, which takes the
//!           job out of a linked list rather than marking it.

mod ahead;
mod share;
mod turns;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::binary_heap::PeekMut;

use slab::Slab;

use crate::base::Class;
use crate::base::limits::TURN_BYTES;
use crate::delivery::fair::share::Held;
use crate::delivery::fair::share::Lane;
use crate::delivery::fair::share::SCALE;
use crate::delivery::fair::share::Sender;
use crate::delivery::fair::share::Share;
use crate::delivery::fair::share::Tenant;
use crate::delivery::fair::turns::Entry;
use crate::delivery::fair::turns::IDLE_MAX;

pub use share::ConnectionClass;

/// Turns that one turn costs at most, for what the tenant has sent over other connection classes.
const LEAD: u64 = 16;
/// Idle senders and connection classes that are kept, and tenants of an empty queue: an idle destination
/// costs little, and usual mail allocates nothing.
const IDLE_FEW: usize = 8;
/// The end of a list of jobs.
const NONE: u32 = u32::MAX;

/// Whose job it is, and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub connection: ConnectionClass,
    /// Hashes of tenant and sender.
    pub tenant: u64,
    pub sender: u32,
    /// The weight of the tenant. The one pushed last counts.
    pub weight: u32,
    pub class: Class,
    pub bytes: u64,
}

/// Where a job is in the queue, until it is taken or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// A job that is no longer in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<T> {
    pub job: T,
    pub tenant: u64,
    pub class: Class,
}

/// The jobs of a destination that wait for a connection.
#[derive(Debug)]
pub struct FairQueue<T> {
    jobs: Slab<Job<T>>,
    lanes: BTreeMap<ConnectionClass, Lane>,
    tenants: HashMap<u64, Tenant>,
    shares: Slab<Share>,
    by_tenant: HashMap<(ConnectionClass, u64), u32>,
    senders: Slab<Sender>,
    by_sender: HashMap<(u32, Class, u32), u32>,
    flows: usize,
}

#[derive(Debug)]
struct Job<T> {
    job: T,
    /// Bytes, with those of the dialogue.
    cost: u32,
    sender: u32,
    before: u32,
    behind: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> FairQueue<T> {
        FairQueue {
            jobs: Slab::new(),
            lanes: BTreeMap::new(),
            tenants: HashMap::new(),
            shares: Slab::new(),
            by_tenant: HashMap::new(),
            senders: Slab::new(),
            by_sender: HashMap::new(),
            flows: 0,
        }
    }
}

impl<T> FairQueue<T> {
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Classes of tenants that have jobs, by connection class.
    pub fn flows(&self) -> usize {
        self.flows
    }

    /// Jobs that `take` would give to such connections.
    pub fn ready(&self, connection: ConnectionClass) -> usize {
        self.lanes.get(&connection).map_or(0, |lane| lane.ready)
    }

    /// Whether jobs of the connection class are queued, held ones included.
    pub fn has_jobs(&self, connection: ConnectionClass) -> bool {
        self.lanes.get(&connection).is_some_and(|lane| lane.active > 0)
    }

    /// As `ready`, for each connection class that has any.
    pub fn ready_by_class(&self) -> impl Iterator<Item = (ConnectionClass, usize)> {
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.ready > 0);
        lanes.map(|(connection, lane)| (*connection, lane.ready))
    }

    /// Jobs of a sender that wait for its connection class.
    pub fn jobs_of(&self, origin: &Origin) -> usize {
        let share = self.by_tenant.get(&(origin.connection, origin.tenant));
        let sender =
            share.and_then(|share| self.by_sender.get(&(*share, origin.class, origin.sender)));
        sender.map_or(0, |sender| self.senders[*sender as usize].jobs)
    }

    /// All jobs, in no order.
    pub fn jobs(&self) -> impl Iterator<Item = &T> {
        self.jobs.iter().map(|(_, job)| &job.job)
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.jobs.get(slot.0 as usize).map(|job| &job.job)
    }

    pub fn push(&mut self, job: T, origin: Origin) -> Slot {
        let sender = self.enter(origin);
        let before = self.senders[sender as usize].last;
        self.link(job, origin, sender, (before, NONE))
    }

    /// Puts a job before the others of its sender.
    pub fn push_first(&mut self, job: T, origin: Origin) -> Slot {
        let sender = self.enter(origin);
        let behind = self.senders[sender as usize].first;
        self.link(job, origin, sender, (NONE, behind))
    }

    /// The next job for a connection of this class.
    pub fn take(&mut self, connection: ConnectionClass) -> Option<Taken<T>> {
        let share_index = self.next_share(connection)?;
        let lane = self.lanes.get_mut(&connection)?;
        let share = &mut self.shares[share_index as usize];
        let held = self.tenants[&share.tenant].held;
        let waiting = Class::ALL.into_iter().filter(|class| held.frees(*class));
        let waiting = waiting.filter(|class| share.classes[*class as usize].jobs > 0);
        let class = waiting
            .min_by_key(|class| share.classes[*class as usize].tag)
            .expect("a share that has its turn has jobs that are not held");
        let queue = &mut share.classes[class as usize];
        let sender = loop {
            let sender = queue.turns.next().expect("a class with jobs has a sender with jobs");
            if self.senders[sender as usize].jobs > 0 {
                break sender;
            }
            let idle = self.senders.remove(sender as usize);
            self.by_sender.remove(&(share_index, class, idle.name));
        };
        let slot = self.senders[sender as usize].first;
        let cost = u64::from(self.jobs[slot as usize].cost);
        queue.turns.enter(sender, queue.turns.clock + cost);
        share.clock = queue.tag;
        queue.tag += cost * SCALE / u64::from(class.weight());
        let tenant = self.tenants.get_mut(&share.tenant).expect("a tenant with a share is known");
        lane.turns.next();
        let step = (cost * SCALE / u64::from(tenant.weight.max(1))).max(1);
        tenant.served += step;
        share.start(lane.turns.clock + step, step, tenant.served);
        lane.turns.enter(share_index, share.tag);
        let tenant = share.tenant;
        Some(Taken { job: self.unlink(slot), tenant, class })
    }

    /// Takes out a job wherever it is. `None`: it was taken or removed before.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        self.jobs.contains(slot.0 as usize).then(|| self.unlink(slot.0))
    }

    /// Takes out all jobs of a tenant.
    pub fn remove_tenant(&mut self, tenant: u64) -> Vec<T> {
        let of_tenant = |job: &Job<T>| {
            self.shares[self.senders[job.sender as usize].share as usize].tenant == tenant
        };
        let slots = self.jobs.iter().filter(|(_, job)| of_tenant(job));
        let slots: Vec<u32> = slots.map(|(slot, _)| slot as u32).collect();
        slots.into_iter().map(|slot| self.unlink(slot)).collect()
    }

    /// Empties the queue. Held tenants stay so.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        let jobs = std::mem::take(&mut self.jobs);
        self.forget_all();
        jobs.into_iter().map(|(_, job)| job.job)
    }

    /// The jobs of a tenant, or those of one class of it, are not taken until `release`.
    pub fn hold(&mut self, tenant: u64, class: Option<Class>) {
        self.set_held(tenant, class, true);
    }

    pub fn release(&mut self, tenant: u64, class: Option<Class>) {
        self.set_held(tenant, class, false);
    }

    fn set_held(&mut self, name: u64, class: Option<Class>, is_held: bool) {
        let tenant = self.tenants.entry(name).or_insert(Tenant::NEW);
        let before = tenant.held;
        match class {
            Some(class) => tenant.held.classes[class as usize] = is_held,
            None => tenant.held.all = is_held,
        }
        for (connection, lane) in &mut self.lanes {
            let Some(index) = self.by_tenant.get(&(*connection, name)) else { continue };
            let share = &mut self.shares[*index as usize];
            lane.ready -= share.free(before);
            lane.ready += share.free(tenant.held);
            if !share.is_in_turns && share.free(tenant.held) > 0 {
                share.start(lane.turns.clock.max(share.tag), share.step, tenant.served);
                lane.turns.enter(*index, share.tag);
            }
        }
        if tenant.shares == 0 && tenant.held == Held::default() {
            self.tenants.remove(&name);
        }
    }

    /// The sender of a job, in its turns and those of its tenant.
    fn enter(&mut self, origin: Origin) -> u32 {
        let Origin { connection, tenant: name, sender: sender_name, class, .. } = origin;
        let lane = self.lanes.entry(connection).or_default();
        let tenant = self.tenants.entry(name).or_insert(Tenant::NEW);
        tenant.weight = origin.weight;
        let index = *self.by_tenant.entry((connection, name)).or_insert_with(|| {
            tenant.shares += 1;
            let shares = &mut self.shares;
            shares.insert(Share::new(connection, name)) as u32
        });
        let share = &mut self.shares[index as usize];
        let is_free = tenant.held.frees(class);
        if !share.is_in_turns && is_free {
            let is_new = share.tag <= lane.turns.clock;
            share.start(lane.turns.clock.max(share.tag), tenant.usual_step(), tenant.served);
            match is_new {
                true => lane.turns.enter_first(index),
                false => lane.turns.enter(index, share.tag),
            }
        }
        lane.ready += usize::from(is_free);
        lane.active += usize::from(share.jobs == 0);
        share.jobs += 1;
        let (max, shares) = (2 * lane.active + IDLE_MAX, &self.shares);
        let idle = lane.turns.forget_idle(max, |other| shares[other as usize].jobs > 0);
        for other in idle {
            self.forget_share(other);
        }
        let share = &mut self.shares[index as usize];
        let queue = &mut share.classes[class as usize];
        if queue.jobs == 0 {
            queue.tag = queue.tag.max(share.clock);
            self.flows += 1;
        }
        queue.jobs += 1;
        let senders = &mut self.senders;
        let sender = *self.by_sender.entry((index, class, sender_name)).or_insert_with(|| {
            let name = sender_name;
            let sender = Sender { share: index, class, name, jobs: 0, first: NONE, last: NONE };
            let sender = senders.insert(sender) as u32;
            queue.turns.enter(sender, queue.turns.clock + cost_of(origin.bytes));
            sender
        });
        queue.active += usize::from(senders[sender as usize].jobs == 0);
        senders[sender as usize].jobs += 1;
        let max = 2 * queue.active + IDLE_FEW;
        let idle = queue.turns.forget_idle(max, |other| senders[other as usize].jobs > 0);
        for other in idle {
            let other = senders.remove(other as usize);
            self.by_sender.remove(&(index, class, other.name));
        }
        sender
    }

    fn link(&mut self, job: T, origin: Origin, sender: u32, place: (u32, u32)) -> Slot {
        let cost = cost_of(origin.bytes) as u32;
        let (before, behind) = place;
        let slot = self.jobs.insert(Job { job, cost, sender, before, behind }) as u32;
        let sender = &mut self.senders[sender as usize];
        match before {
            NONE => sender.first = slot,
            before => self.jobs[before as usize].behind = slot,
        }
        match behind {
            NONE => sender.last = slot,
            behind => self.jobs[behind as usize].before = slot,
        }
        Slot(slot)
    }

    /// Takes a job out of the list of its sender, and out of all counts.
    fn unlink(&mut self, slot: u32) -> T {
        let Job { job, sender, before, behind, .. } = self.jobs.remove(slot as usize);
        let sender = &mut self.senders[sender as usize];
        match before {
            NONE => sender.first = behind,
            before => self.jobs[before as usize].behind = behind,
        }
        match behind {
            NONE => sender.last = before,
            behind => self.jobs[behind as usize].before = before,
        }
        sender.jobs -= 1;
        let index = sender.share;
        let share = &mut self.shares[index as usize];
        let queue = &mut share.classes[sender.class as usize];
        queue.active -= usize::from(sender.jobs == 0);
        queue.jobs -= 1;
        self.flows -= usize::from(queue.jobs == 0);
        share.jobs -= 1;
        let connection = share.connection;
        let lane = self.lanes.get_mut(&connection).expect("a share has a lane");
        lane.active -= usize::from(share.jobs == 0);
        lane.ready -= usize::from(self.tenants[&share.tenant].held.frees(sender.class));
        let is_idle = lane.active == 0;
        if share.jobs == 0 && !share.is_in_turns {
            self.forget_share(index);
        } else if share.jobs == 0 && share.senders() > IDLE_FEW {
            self.forget_senders(index);
        }
        if self.jobs.is_empty() && self.shares.len().max(self.senders.len()) > IDLE_FEW {
            self.forget_all();
        } else if is_idle && self.lanes.len() > IDLE_FEW {
            let lane = self.lanes.remove(&connection);
            let turns = lane.map(|lane| lane.turns).unwrap_or_default();
            turns.entries().for_each(|entry| self.forget_share(entry.child));
        }
        job
    }

    /// The tenant whose turn it is, still at the top of the heap.
    fn next_share(&mut self, connection: ConnectionClass) -> Option<u32> {
        loop {
            let lane = self.lanes.get_mut(&connection)?;
            let mut top = lane.turns.heap.peek_mut()?;
            let Reverse(Entry { tag, child: index, .. }) = *top;
            let share = &mut self.shares[index as usize];
            let tenant = &self.tenants[&share.tenant];
            if share.free(tenant.held) == 0 {
                share.is_in_turns = false;
                PeekMut::pop(top);
                if share.jobs == 0 {
                    self.forget_share(index);
                }
                continue;
            }
            let due = share.tag + (tenant.served - share.seen).min((LEAD - 1) * share.step);
            if due <= tag {
                return Some(index);
            }
            top.0.tag = due;
        }
    }

    /// A share without jobs that is out of the turns.
    fn forget_share(&mut self, index: u32) {
        self.forget_senders(index);
        let share = self.shares.remove(index as usize);
        self.by_tenant.remove(&(share.connection, share.tenant));
        let tenant = self.tenants.get_mut(&share.tenant).expect("a tenant with a share is known");
        tenant.shares -= 1;
        if tenant.shares == 0 && tenant.held == Held::default() {
            self.tenants.remove(&share.tenant);
        }
    }

    /// Nobody competes in a tenant without jobs.
    fn forget_senders(&mut self, index: u32) {
        for class in Class::ALL {
            let queue = &mut self.shares[index as usize].classes[class as usize];
            for entry in std::mem::take(&mut queue.turns).entries() {
                let sender = self.senders.remove(entry.child as usize);
                self.by_sender.remove(&(index, class, sender.name));
            }
        }
    }

    /// Nobody competes in an empty queue: only what is held must be remembered.
    fn forget_all(&mut self) {
        let mut tenants = std::mem::take(&mut self.tenants);
        tenants.retain(|_, tenant| {
            tenant.shares = 0;
            tenant.held != Held::default()
        });
        *self = FairQueue { tenants, ..FairQueue::default() };
    }
}

fn cost_of(bytes: u64) -> u64 {
    bytes.saturating_add(TURN_BYTES).min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
