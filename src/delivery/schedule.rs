//! The schedule as the home sees it: how far it has been read, and what may stay in memory.
//!
//! Owner:    `home`. Values without I/O or clock.
//! Promise:  a row that has come due lies at or after its cursor, or its job is in memory. Who takes a
//!           job out of memory tells the cursors of its rows, and they go back exactly that far.
//!           A flow that is not known here is found by a search (`Flows::is_incomplete`).
//! Bounds:   `FLOWS_MAX` flows; memory in bytes. Full: flows are searched for again when others have
//!           emptied; fresh mail stays in `due`, and cursors wait.
//!
//! ```text
//! time cursor   one for each partition, over `due`: attempts, and deadlines of filed jobs
//! flow cursor   one for each partition and flow, over `backlog`: read while the flow has places
//! memory        half of what is free for a destination, a quarter for a flow, one job always; beyond
//!               that, up to 16 jobs of a sender while an eighth stays free for fresh mail
//! ```

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use crate::base::Mono;
use crate::base::PartitionId;
use crate::base::Wall;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;

/// Flows of one home in memory.
pub const FLOWS_MAX: usize = 65_536;
/// A search begins again when so many flows have emptied.
const FLOWS_SEARCH: usize = FLOWS_MAX / 10 * 9;

/// How far a part of the schedule has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The next read begins here.
    at: DueKey,
    /// When the first row at or after `at` is due, as far as is known. `None`: there is none.
    next_ms: Option<u64>,
    /// A read is under way; the first row behind it that must be read again.
    reading: Option<Option<DueKey>>,
    /// After a fault of the disk.
    not_before: Mono,
}

impl Default for Cursor {
    /// Before everything, and nothing is known.
    fn default() -> Cursor {
        let not_before = Mono::ZERO;
        Cursor { at: DueKey::FIRST, next_ms: Some(0), reading: None, not_before }
    }
}

impl Cursor {
    /// For a part in which no row is known yet.
    pub fn empty() -> Cursor {
        Cursor { next_ms: None, ..Cursor::default() }
    }

    pub fn is_ready(&self, schedule: Wall, now: Mono) -> bool {
        let is_due = self.next_ms.is_some_and(|at_ms| at_ms <= schedule.as_ms());
        is_due && self.reading.is_none() && now >= self.not_before
    }

    /// No row is left, and none is being read.
    pub fn is_empty(&self) -> bool {
        self.next_ms.is_none() && self.reading.is_none()
    }

    /// When there is something to read.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms.filter(|_| self.reading.is_none())
    }

    /// Where a read begins that is under way from now on.
    pub fn begin(&mut self) -> DueKey {
        debug_assert!(self.reading.is_none(), "one read at a time");
        self.reading = Some(None);
        self.at
    }

    /// The job of this row is no longer in memory, or the row is new.
    pub fn tell(&mut self, row: DueKey) {
        self.at = self.at.min(row);
        let next_ms = self.next_ms.unwrap_or(u64::MAX);
        self.next_ms = Some(next_ms.min(row.at_ms));
        if let Some(back) = &mut self.reading {
            *back = Some(back.map_or(row, |back| back.min(row)));
        }
    }

    /// All rows before `at` have been taken into memory or passed over, and the first one from there
    /// on is due at `next_ms`.
    pub fn end(&mut self, at: DueKey, next_ms: Option<u64>) {
        let back = self.reading.take().flatten();
        (self.at, self.next_ms) = (at, next_ms);
        if let Some(back) = back {
            self.tell(back);
        }
    }

    /// Nothing was due.
    pub fn end_unmoved(&mut self, next_ms: Option<u64>) {
        self.end(self.at, next_ms);
    }

    /// A read has failed.
    pub fn fail(&mut self, again: Mono) {
        let back = self.reading.take().flatten();
        self.not_before = again;
        if let Some(back) = back {
            self.tell(back);
        }
    }
}

/// A flow that may have rows in `backlog`.
#[derive(Debug, Default)]
pub struct FlowState {
    cursors: Vec<(PartitionId, Cursor)>,
    /// Jobs in memory that are filed under it.
    pub held: u32,
    /// It is in the list of those to be read.
    is_listed: bool,
    /// The wake that is set for it.
    wake_ms: Option<u64>,
}

impl FlowState {
    fn next_ms(&self) -> Option<u64> {
        self.cursors.iter().filter_map(|(_, cursor)| cursor.next_ms()).min()
    }

    /// Whether a job that is deferred has company in the index.
    pub fn has_rows(&self) -> bool {
        self.cursors.iter().any(|(_, cursor)| !cursor.is_empty())
    }
}

/// The flows of a home.
#[derive(Debug, Default)]
pub struct Flows {
    flows: BTreeMap<FlowKey, FlowState>,
    wakes: BTreeSet<(u64, FlowKey)>,
    /// Those that may have something to be read.
    listed: VecDeque<FlowKey>,
    is_incomplete: bool,
}

impl Flows {
    pub fn get(&self, flow: &FlowKey) -> Option<&FlowState> {
        self.flows.get(flow)
    }

    pub fn cursor_mut(&mut self, flow: &FlowKey, partition: PartitionId) -> Option<&mut Cursor> {
        let state = self.flows.get_mut(flow)?;
        state.cursors.iter_mut().find(|(own, _)| *own == partition).map(|(_, cursor)| cursor)
    }

    /// Rows of flows that are not known here may be on disk.
    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Whether a search for flows would find room for them. Marks it as begun.
    pub fn begin_search(&mut self) -> bool {
        let begins = self.is_incomplete && self.flows.len() < FLOWS_SEARCH;
        self.is_incomplete &= !begins;
        begins
    }

    /// A row exists whose job is not in memory.
    pub fn tell(&mut self, partition: PartitionId, flow: FlowKey, row: DueKey) {
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&flow) {
            self.is_incomplete = true;
            return;
        }
        let state = self.flows.entry(flow).or_default();
        let cursor = match state.cursors.iter_mut().find(|(own, _)| *own == partition) {
            Some((_, cursor)) => cursor,
            None => {
                state.cursors.push((partition, Cursor::empty()));
                &mut state.cursors.last_mut().expect("it was just pushed").1
            }
        };
        cursor.tell(row);
        self.wake(flow);
    }

    /// A job that is filed under this flow has come into memory, or left it.
    pub fn hold(&mut self, flow: FlowKey) {
        self.flows.entry(flow).or_default().held += 1;
    }

    pub fn release(&mut self, flow: FlowKey) {
        if let Some(state) = self.flows.get_mut(&flow) {
            state.held -= 1;
        }
        self.list(flow);
        self.wake(flow);
    }

    /// It may have something to be read, or room for it.
    pub fn list(&mut self, flow: FlowKey) {
        if let Some(state) = self.flows.get_mut(&flow).filter(|state| !state.is_listed) {
            state.is_listed = true;
            self.listed.push_back(flow);
        }
    }

    /// The same for all flows of a destination.
    pub fn list_target(&mut self, target: u64) {
        let first = FlowKey { destination: target, ..FlowKey::FIRST };
        let last = FlowKey { destination: target, tenant: u64::MAX, class: u8::MAX };
        for (flow, state) in self.flows.range_mut(first..=last) {
            if !std::mem::replace(&mut state.is_listed, true) {
                self.listed.push_back(*flow);
            }
        }
    }

    /// Lists those whose first row has come due.
    pub fn awake(&mut self, schedule: Wall) {
        while let Some((at_ms, flow)) = self.wakes.first().copied() {
            if at_ms > schedule.as_ms() {
                return;
            }
            self.wakes.pop_first();
            if let Some(state) = self.flows.get_mut(&flow) {
                state.wake_ms = None;
            }
            self.list(flow);
        }
    }

    pub fn next_listed(&mut self) -> Option<FlowKey> {
        let flow = self.listed.pop_front()?;
        if let Some(state) = self.flows.get_mut(&flow) {
            state.is_listed = false;
        }
        Some(flow)
    }

    pub fn listed(&self) -> usize {
        self.listed.len()
    }

    /// A partition of the flow with something to be read now.
    pub fn ready(&self, flow: &FlowKey, schedule: Wall, now: Mono) -> Option<PartitionId> {
        let state = self.flows.get(flow)?;
        let ready = state.cursors.iter().find(|(_, cursor)| cursor.is_ready(schedule, now));
        ready.map(|(partition, _)| *partition)
    }

    /// Sets the wake of a flow, or forgets one that has nothing left.
    pub fn wake(&mut self, flow: FlowKey) {
        let Some(state) = self.flows.get_mut(&flow) else { return };
        if state.held == 0 && !state.has_rows() {
            if let Some(at_ms) = state.wake_ms {
                self.wakes.remove(&(at_ms, flow));
            }
            self.flows.remove(&flow);
            return;
        }
        let next_ms = state.next_ms();
        if state.wake_ms != next_ms {
            let before = std::mem::replace(&mut state.wake_ms, next_ms);
            if let Some(at_ms) = before {
                self.wakes.remove(&(at_ms, flow));
            }
            if let Some(at_ms) = next_ms {
                self.wakes.insert((at_ms, flow));
            }
        }
    }

    /// Reads nothing of it for a time.
    pub fn pause(&mut self, flow: FlowKey, until: Mono) {
        let cursors = self.flows.get_mut(&flow).into_iter().flat_map(|state| &mut state.cursors);
        cursors.for_each(|(_, cursor)| cursor.not_before = cursor.not_before.max(until));
    }

    /// Every flow and partition, for a pass over all of them.
    pub fn all(&self) -> impl Iterator<Item = (FlowKey, PartitionId)> {
        let flows = self.flows.iter();
        flows.flat_map(|(flow, state)| state.cursors.iter().map(|(own, _)| (*flow, *own)))
    }
}

/// The memory of a home, in bytes: envelopes, held bodies, the jobs themselves and their destinations.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    max: usize,
    used: usize,
}

impl Memory {
    pub fn new(max: usize) -> Memory {
        Memory { max, used: 0 }
    }

    pub fn take(&mut self, bytes: usize) {
        self.used += bytes;
    }

    pub fn give_back(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    /// A quarter is for jobs that are read from disk.
    pub fn takes_fresh(&self, bytes: usize) -> bool {
        self.used + bytes <= self.max - self.max / 4
    }

    pub fn takes_read(&self, bytes: usize) -> bool {
        self.used + bytes <= self.max
    }

    /// Whether a destination and a flow may hold so much, the last job included. So many floods at
    /// once leave 2 / (floods + 2) of the memory free.
    pub fn allows(&self, target: usize, flow: usize) -> bool {
        let free = self.max.saturating_sub(self.used);
        target <= free / 2 && flow <= free / 4
    }

    /// Whether a destination may hold so much for senders that have little: as much as is free, and
    /// fresh mail still finds an eighth.
    pub fn spares(&self, target: usize) -> bool {
        target <= self.max.saturating_sub(self.used) && self.takes_fresh(self.max / 8)
    }
}

#[cfg(test)]
mod tests;
