//! Reads of filed jobs: by flow when a destination has room, and all of them after a change of routes.
//!
//! Bounds:   `FLOW_READS_MAX` reads of flows under way; `READ_MAX` rows of one read.

use super::*;

impl Home {
    /// The flows are read that have fewer jobs in memory than twice their places.
    pub(super) fn read_flows(&mut self) {
        self.flows.awake(self.now.schedule);
        for _ in 0..self.flows.listed() {
            if self.flow_reads >= FLOW_READS_MAX || !self.may_claim() {
                return;
            }
            let Some(flow) = self.flows.next_listed() else { return };
            let Now { schedule, mono, .. } = self.now;
            let Some(partition) = self.flows.ready(&flow, schedule, mono) else { continue };
            let max = self.room_of(&flow).min(READ_MAX);
            let is_failed = self.partitions.get(&partition).is_none_or(|own| own.is_failed);
            if max == 0 || is_failed {
                continue;
            }
            let cursor = self.flows.cursor_mut(&flow, partition).expect("it is ready");
            let (pass, from, until_ms) = (Pass::Flow, cursor.begin(), schedule.as_ms());
            let errand = Errand::Backlog { partition, flow, pass, from, until_ms, max };
            self.effects.push(HomeEffect::Read(errand));
            self.flow_reads += 1;
        }
    }

    /// Jobs of a flow that may come into memory.
    fn room_of(&mut self, key: &FlowKey) -> usize {
        let held = self.flows.get(key).map_or(0, |state| state.held);
        let Some(target) = self.targets.get(&key.destination) else {
            // Nobody knows yet where it goes: its first job will tell.
            return usize::from(held == 0);
        };
        let Places { total, per_flow } = target.places();
        let in_memory = target.waiting() + target.out();
        if total == 0 {
            // One job of the destination for its next probe.
            return usize::from(in_memory == 0 && held == 0);
        }
        let flow = Flow::of(key);
        let share = target.share(&flow);
        let own = held.max(share.waiting + share.out);
        // Each flow is represented, and no more is read for a probe than what may be sent.
        let of_target = (2 * total).saturating_sub(in_memory).max(u32::from(own == 0));
        let room = (2 * per_flow.min(total)).saturating_sub(own).min(of_target) as usize;
        let allows = |jobs: usize| {
            let bytes = jobs * JOB_GUESS_BYTES;
            self.memory.allows(target.bytes() + bytes, share.bytes + bytes)
        };
        match room {
            _ if room == 0 || allows(room) => room,
            _ if own == 0 || allows(1) => 1,
            _ => {
                self.starve(*key);
                0
            }
        }
    }

    pub(super) fn on_backlog(
        &mut self,
        (partition, flow, pass): (PartitionId, FlowKey, Pass),
        rows: &[DueKey],
        next_ms: Option<u64>,
    ) {
        let need = match pass {
            Pass::Flow => Need::Send,
            Pass::Refile => Need::Refile,
        };
        let claims = |row: DueKey| {
            // The deadline is in the record.
            let filed = Some(Filed { flow, deadline_ms: u64::MAX });
            Head::new(Schedule { due_ms: row.at_ms, filed }, need)
        };
        let before = self.claims;
        let bodies = pass == Pass::Flow
            && self.targets.get(&flow.destination).is_some_and(|target| target.places().total > 0);
        let met = self.meet(partition, (rows, next_ms), claims, bodies);
        match pass {
            Pass::Flow => {
                self.flow_reads -= 1;
                if let Some(cursor) = self.flows.cursor_mut(&flow, partition) {
                    match met {
                        Some((at, next_ms)) => cursor.end(at, next_ms),
                        None => cursor.end_unmoved(next_ms),
                    }
                }
                self.flows.list(flow);
                self.flows.wake(flow);
            }
            Pass::Refile => {
                self.refiling.is_reading = false;
                self.refiling.open += self.claims - before;
                if let Some((at, Some(_))) = met {
                    self.refiling.left.push_front((flow, partition, at));
                } else if !self.refiling.left.iter().any(|(other, ..)| *other == flow) {
                    self.refiling.known.remove(&flow);
                }
            }
        }
    }

    /// Filed jobs are resolved again whose flow may be another by now, while nothing else is looked
    /// up.
    pub(super) fn refile(&mut self) {
        let is_searching = self.partitions.values().any(|own| own.is_searching);
        let is_busy = self.refiling.is_reading || self.refiling.open > 0 || is_searching;
        if is_busy || !self.lookups.is_empty() || !self.may_claim() {
            return;
        }
        let Some((flow, partition, from)) = self.refiling.left.pop_front() else {
            // Flows that did not fit into memory are searched for later.
            if self.refiling.is_whole && !self.flows.is_incomplete() {
                self.refiling.is_whole = false;
                self.effects.push(HomeEffect::Refiled);
            }
            return;
        };
        self.refiling.is_reading = true;
        let (pass, until_ms, max) = (Pass::Refile, u64::MAX, READ_MAX);
        let errand = Errand::Backlog { partition, flow, pass, from, until_ms, max };
        self.effects.push(HomeEffect::Read(errand));
    }

    /// The mail of a flow goes elsewhere now.
    pub(super) fn refile_flow(&mut self, flow: FlowKey) {
        if self.refiling.known.insert(flow) {
            let partitions = self.partitions.keys().copied();
            let left = partitions.map(|partition| (flow, partition, DueKey::FIRST));
            self.refiling.left.extend(left);
        }
    }

    pub(super) fn find_flows(&mut self, partition: PartitionId, after: Option<FlowKey>) {
        if let Some(own) = self.partitions.get_mut(&partition) {
            own.is_searching = true;
        }
        self.effects.push(HomeEffect::Read(Errand::Flows { partition, after, max: KEYS_MAX }));
    }

    pub(super) fn on_found(&mut self, partition: PartitionId, last: Option<FlowKey>, is_end: bool) {
        if !is_end && last.is_some() && !self.flows.is_incomplete() {
            return self.find_flows(partition, last);
        }
        if let Some(own) = self.partitions.get_mut(&partition) {
            own.is_searching = false;
        }
        let is_searching = self.partitions.values().any(|own| own.is_searching);
        if self.refiling.is_whole && !is_searching {
            self.refile_all();
        }
    }

    pub(super) fn refile_all(&mut self) {
        let all = self.flows.all().map(|(flow, partition)| (flow, partition, DueKey::FIRST));
        self.refiling.left = all.collect();
    }

    pub(super) fn on_unread(&mut self, errand: Errand) {
        let again = self.now.mono.plus(FAULT_WAIT);
        match errand {
            Errand::Due { partition, .. } => {
                if let Some(own) = self.partitions.get_mut(&partition) {
                    own.cursor.fail(again);
                }
            }
            Errand::Backlog { partition, flow, pass: Pass::Flow, .. } => {
                self.flow_reads -= 1;
                if let Some(cursor) = self.flows.cursor_mut(&flow, partition) {
                    cursor.fail(again);
                }
                self.timers.insert((again, Timer::Flow(flow)));
            }
            Errand::Backlog { partition, flow, pass: Pass::Refile, from, .. } => {
                self.refiling.is_reading = false;
                self.refiling.left.push_back((flow, partition, from));
            }
            Errand::Flows { partition, .. } => self.find_flows(partition, None),
            Errand::Jobs { jobs, .. } => jobs.into_iter().for_each(|job| self.on_abandoned(job)),
            Errand::Numbers { job, .. } => self.on_abandoned(job),
            Errand::List { ticket, .. } => {
                let step = self.operations.end(ticket, Err(Refusal::Failed));
                self.follow(ticket, step);
            }
        }
    }
}
