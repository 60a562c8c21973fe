//! The connections of a shard, and which destination opens the next one.
//!
//! Owner:    one shard; `Gate` is shared by all shards of the process.
//! Promise:  all shards together have no more connections than `delivery.connections_max`. The last
//!           quarter of them is for first connections of destinations that work, so that a crowd of
//!           dead or busy destinations does not keep others from theirs.
//! Bounds:   the gate; one request for each destination.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use slab::Slab;

use crate::base::Mono;
use crate::delivery::destination::CountedBy;
use crate::delivery::destination::Link;
use crate::delivery::destination::Stage;

/// Counts the outbound connections of the process. An atomic counter and not frames: shards that wait
/// for each other's connections would starve under load.
#[derive(Debug)]
pub struct Gate {
    used: AtomicU32,
    max: u32,
}

impl Gate {
    pub const fn new(max: u32) -> Gate {
        Gate { used: AtomicU32::new(0), max }
    }

    fn enter(&self, claim: Claim) -> bool {
        let room = match claim {
            Claim::First => self.max,
            Claim::Further => (self.max - self.max / 4).max(1),
        };
        let more = |used: u32| (used < room).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn leave(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub const fn max(&self) -> u32 {
        self.max
    }
}

/// A connection of this shard, from its opening until it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

/// Until when the tokens were valid that a job has used. `None`: no rate counts it.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsedTokens {
    pub destination: CountedBy,
    pub tenant: Option<Mono>,
}

#[derive(Debug)]
pub struct Connection {
    pub destination: u32,
    pub link: Link,
    pub stage: Stage,
    /// Jobs taken so far, and what the last one used up.
    pub taken: u32,
    pub used: UsedTokens,
    /// It takes no further job.
    pub is_leaving: bool,
    generation: u32,
}

/// The first connection of a destination goes before others, unless the destination has just failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    First,
    Further,
}

/// By claim, then by turn.
pub type Request = (Claim, u64, u32);

/// All connections of a shard, and the destinations that want one.
#[derive(Debug, Default)]
pub struct Capacity {
    connections: Slab<Connection>,
    generation: u32,
    requests: BTreeSet<Request>,
    turn: u64,
    /// Oldest first. Entries that are no longer idle since then are skipped.
    idle: VecDeque<(ConnId, Mono)>,
    closing: usize,
    is_short: bool,
}

impl Capacity {
    pub fn get(&self, conn: ConnId) -> Option<&Connection> {
        let connection = self.connections.get(conn.index as usize)?;
        (connection.generation == conn.generation).then_some(connection)
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.index as usize)?;
        (connection.generation == conn.generation).then_some(connection)
    }

    pub fn count(&self) -> usize {
        self.connections.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().map(|(_, connection)| connection)
    }

    pub fn add(&mut self, destination: u32, link: Link) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let stage = Stage::Opening;
        let (used, is_leaving) = (UsedTokens::default(), false);
        let connection =
            Connection { destination, link, stage, taken: 0, used, is_leaving, generation };
        ConnId { index: self.connections.insert(connection) as u32, generation }
    }

    /// Changes what a connection does. The stage before.
    pub fn set(&mut self, conn: ConnId, stage: Stage) -> Option<Stage> {
        let connection = self.get_mut(conn)?;
        let before = std::mem::replace(&mut connection.stage, stage);
        self.closing += usize::from(stage == Stage::Closing);
        self.closing -= usize::from(before == Stage::Closing);
        if let Stage::Idle { since, .. } = stage {
            if self.idle.len() > 2 * self.connections.len() + 64 {
                let mut all = std::mem::take(&mut self.idle);
                all.retain(|(conn, since)| self.is_idle_since(*conn, *since));
                self.idle = all;
            }
            self.idle.push_back((conn, since));
        }
        Some(before)
    }

    pub fn remove(&mut self, conn: ConnId, gate: &Gate) -> Option<Connection> {
        self.get(conn)?;
        let connection = self.connections.remove(conn.index as usize);
        self.closing -= usize::from(connection.stage == Stage::Closing);
        gate.leave();
        Some(connection)
    }

    /// Makes the request of a destination what it should be now: `None`, or its claim.
    pub fn request(
        &mut self,
        before: Option<Request>,
        index: u32,
        claim: Option<Claim>,
    ) -> Option<Request> {
        let now = claim.map(|claim| {
            let turn = before.map_or_else(
                || {
                    self.turn += 1;
                    self.turn
                },
                |(_, turn, _)| turn,
            );
            (claim, turn, index)
        });
        if before != now {
            if let Some(before) = before {
                self.requests.remove(&before);
            }
            self.requests.extend(now);
        }
        now
    }

    /// The destination that opens the next connection. A place at the gate is taken for it.
    pub fn next_request(&mut self, gate: &Gate) -> Option<Request> {
        self.is_short = false;
        let request = *self.requests.first()?;
        if gate.enter(request.0) {
            return Some(request);
        }
        self.is_short = true;
        None
    }

    /// The place that `next_request` took is not needed.
    pub fn give_up(&self, gate: &Gate) {
        gate.leave();
    }

    /// The connection that has been idle longest, if it must close because a destination waits and no
    /// closing connection will do.
    pub fn evict(&mut self) -> Option<ConnId> {
        self.waiting()?;
        while let Some((conn, since)) = self.idle.pop_front() {
            if self.is_idle_since(conn, since) {
                return Some(conn);
            }
        }
        None
    }

    /// Whether destinations wait for connections.
    #[cfg(test)]
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The claim of the first destination that waits because the gate is closed.
    pub fn waiting(&self) -> Option<Claim> {
        let (claim, _, _) = *self.requests.first()?;
        (self.is_short && self.closing < self.requests.len()).then_some(claim)
    }

    fn is_idle_since(&self, conn: ConnId, wanted: Mono) -> bool {
        let stage = self.get(conn).map(|connection| connection.stage);
        matches!(stage, Some(Stage::Idle { since, .. }) if since == wanted)
    }
}
