//! The map of jobs: who enters, who leaves, and every change of state, with the counts that follow.
//!
//! Promise:  R1 and R4: a job is in the map before its record is read, and whoever leaves the map without
//!           its end tells the cursors.

use super::*;

impl Home {
    /// The job, if it is still the same.
    pub(super) fn known(&self, job: JobRef) -> Option<&Job> {
        self.jobs.get(&job.key).filter(|known| known.incarnation == job.incarnation)
    }

    /// The job that an answer is for, if it is the same and awaits such an answer.
    pub(super) fn awaits(&mut self, job: JobRef, awaits: impl Fn(&Job) -> bool) -> Option<&Job> {
        let known = self.jobs.get(&job.key);
        let known = known.filter(|known| known.incarnation == job.incarnation && awaits(known));
        self.counts.stale += u64::from(known.is_none());
        known
    }

    pub(super) fn reference(&self, key: JobKey) -> JobRef {
        JobRef { key, incarnation: self.jobs[&key].incarnation }
    }

    /// A job enters the map.
    pub(super) fn enter(
        &mut self,
        key: JobKey,
        state: State,
        head: Head,
        read: Option<(Arc<Mail>, Box<[u32]>)>,
    ) -> JobRef {
        self.last_incarnation = self.last_incarnation.wrapping_add(1);
        let incarnation = Incarnation(self.last_incarnation);
        let (mail, recipients) = read.unzip();
        let (recipients, route, tries, pending) = (recipients.unwrap_or_default(), None, 0, None);
        if let Some(filed) = head.schedule.filed {
            self.flows.hold(filed.flow);
        }
        self.count(&state, 1);
        let job = Job { incarnation, state, head, mail, recipients, route, tries, pending };
        self.memory.take(job.bytes());
        self.counts.claimed += 1;
        let before = self.jobs.insert(key, job);
        crate::invariant!(before.is_none(), "a job enters the map once");
        JobRef { key, incarnation }
    }

    /// A change of what a job holds in memory.
    pub(super) fn change(&mut self, key: JobKey, change: impl FnOnce(&mut Job)) {
        let job = self.jobs.get_mut(&key).expect("a job that changes is in the map");
        self.memory.give_back(job.bytes());
        change(job);
        self.memory.take(job.bytes());
    }

    /// The only function that changes where a job stands.
    pub(super) fn advance(&mut self, key: JobKey, to: State) {
        let job = self.jobs.get(&key).expect("a job that advances is in the map");
        let from = &job.state;
        crate::invariant!(
            from.may_become(&to),
            "a job that is {} becomes {}",
            from.name(),
            to.name()
        );
        let was_out = job.is_out();
        self.leave(key, Some(&to));
        self.count(&to, 1);
        let job = self.jobs.get_mut(&key).expect("it was there");
        if matches!(to, State::Waiting { .. }) && !was_out {
            let (bytes, flow) = (job.bytes(), *job.flow());
            let target = self.targets.get_mut(&flow.target).expect("a route has a target");
            target.enter(&flow, bytes);
        }
        job.state = to;
    }

    /// Undoes what the present state of a job counts for. Its next state, or its end, must follow.
    fn leave(&mut self, key: JobKey, to: Option<&State>) {
        let job = self.jobs.get_mut(&key).expect("a job that leaves is in the map");
        let state = std::mem::replace(&mut job.state, State::Reading);
        match state {
            State::Waiting { .. } | State::Out { .. } => {
                let (flow, bytes) = (*job.flow(), job.bytes());
                let target = self.targets.get_mut(&flow.target).expect("a route has a target");
                if let State::Waiting { slot, deadline, .. } = state {
                    slot.into_iter().for_each(|slot| target.unqueue(slot));
                    deadline.map(|at| self.deadlines.remove(&(at, key)));
                }
                let was_out = matches!(state, State::Out { .. });
                match to {
                    Some(State::Out { .. }) => target.go(&flow),
                    Some(State::Waiting { .. }) => target.come_back(&flow),
                    _ => target.leave(&flow, bytes, was_out, self.now.mono),
                }
                self.flows.list(flow.key());
            }
            State::Resolving(Lookup::Queued { slot }) => drop(self.lookups.remove(slot)),
            State::Resolving(Lookup::UnderWay { since }) => {
                self.quick.remove(&(since, key));
            }
            State::Reading | State::Resolving(_) | State::Writing(_) => (),
        }
        if job.head.need == Need::Refile && !matches!(to, Some(State::Resolving(_))) {
            job.head.need = Need::Send;
            self.refiling.open -= 1;
        }
        self.count(&state, -1);
    }

    fn count(&mut self, state: &State, by: isize) {
        let count = match state {
            State::Reading => &mut self.claims,
            State::Resolving(Lookup::Queued { .. }) => &mut self.queued,
            State::Resolving(lookup) => {
                if matches!(lookup, Lookup::UnderWay { .. }) {
                    self.lookups_under_way = self.lookups_under_way.wrapping_add_signed(by);
                }
                &mut self.claims
            }
            State::Waiting { .. } => return,
            State::Out { .. } => &mut self.out,
            State::Writing(_) => &mut self.writing,
        };
        *count = count.wrapping_add_signed(by);
    }

    /// A job leaves the map. `is_stored`: its record is still there, and its rows are to be met again.
    pub(super) fn remove(&mut self, key: JobKey, is_stored: bool) {
        self.leave(key, None);
        let job = self.jobs.remove(&key).expect("a job that is removed is in the map");
        self.memory.give_back(job.bytes());
        if is_stored {
            rows_of(key, job.head.schedule).for_each(|row| self.tell(row));
        }
        if let Some(filed) = job.head.schedule.filed {
            self.flows.release(filed.flow);
        }
        if let Some(pending) = job.pending {
            self.report(pending.ticket, Part::Gone);
        }
    }

    /// The job of this row is no longer in the map.
    pub(super) fn tell(&mut self, row: Row) {
        let partition = row.job().0.partition();
        match row {
            Row::Due(row) => {
                if let Some(own) = self.partitions.get_mut(&partition) {
                    own.cursor.tell(row);
                }
            }
            Row::Backlog(row) => {
                self.tell_flow(partition, row);
                self.flows.list(row.flow);
            }
        }
    }

    /// Operators are told once when flows are no longer known in memory.
    pub(super) fn tell_flow(&mut self, partition: PartitionId, row: BacklogKey) {
        let was_incomplete = self.flows.is_incomplete();
        self.flows.tell(partition, row.flow, row.due);
        if !was_incomplete && self.flows.is_incomplete() {
            self.effects.push(HomeEffect::Log(Note::FlowsFull));
        }
    }

    /// The record of a job has another schedule.
    pub(super) fn set_schedule(&mut self, key: JobKey, schedule: Schedule) {
        let job = self.jobs.get_mut(&key).expect("a job with a record is in the map");
        let before = std::mem::replace(&mut job.head.schedule, schedule);
        let [before, after] = [before, schedule].map(|one| one.filed.map(|filed| filed.flow));
        if before != after {
            after.into_iter().for_each(|flow| self.flows.hold(flow));
            before.into_iter().for_each(|flow| self.flows.release(flow));
        }
    }
}
