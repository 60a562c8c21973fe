//! How jobs come into memory: fresh mail, and rows that cursors meet; reading and resolving.

use super::*;

impl Home {
    pub(super) fn may_claim(&self) -> bool {
        let has_room = self.claims < CLAIMS_MAX
            && self.writing < WRITES_MAX
            && self.memory.takes_read(JOB_GUESS_BYTES);
        has_room && self.policy.enabled && !self.is_closing
    }

    /// Event 1. Without room the message stays in `due`.
    pub(super) fn take_fresh(&mut self, mail: Arc<Mail>, recipients: u32, due: Wall) {
        let key = (mail.id, 0);
        if self.jobs.contains_key(&key) {
            // The cursor was faster.
            return;
        }
        let schedule = Schedule { due_ms: due.as_ms(), filed: None };
        let bytes = JOB_BYTES + mail.bytes_held() + 4 * recipients as usize;
        let has_room = self.memory.takes_fresh(bytes) && self.claims < CLAIMS_MAX;
        if !has_room || !self.policy.enabled || self.is_closing || due > self.now.schedule {
            return rows_of(key, schedule).for_each(|row| self.tell(row));
        }
        let head = Head::new(schedule, Need::Send);
        let state = State::Resolving(Lookup::Queued);
        let job = self.enter(key, state, head, Some(mail));
        self.set_recipients(key, (0..recipients).collect());
        self.begin_lookup(job);
    }

    pub(super) fn set_recipients(&mut self, key: JobKey, recipients: Box<[u32]>) {
        let job = self.jobs.get_mut(&key).expect("it has just entered");
        self.memory.give_back(job.bytes());
        job.recipients = recipients;
        self.memory.take(job.bytes());
    }

    /// The time cursors go on while there is room for what they meet.
    pub(super) fn read_due(&mut self) {
        if !self.may_claim() {
            return;
        }
        let Now { schedule, mono, .. } = self.now;
        for (partition, own) in &mut self.partitions {
            if own.cursor.is_ready(schedule, mono) && !own.is_failed {
                self.effects.push(HomeEffect::ReadDue {
                    partition: *partition,
                    from: own.cursor.begin(),
                    until_ms: schedule.as_ms(),
                    max: KEYS_MAX,
                });
            }
        }
    }

    /// Event 2: claims what the cursor has met. Answers where it goes on, and from when.
    fn meet(
        &mut self,
        partition: PartitionId,
        (rows, next_ms): (&[DueKey], Option<u64>),
        claims: impl Fn(DueKey) -> Head,
        bodies: bool,
    ) -> Option<(DueKey, Option<u64>)> {
        let mut claimed = Vec::new();
        let mut stopped = None;
        for row in rows {
            if self.jobs.contains_key(&row.job) {
                continue;
            }
            if !self.may_claim() {
                stopped = Some(*row);
                break;
            }
            claimed.push(self.enter(row.job, State::Reading, claims(*row), None));
        }
        for jobs in claimed.chunks(READ_MAX) {
            let jobs = jobs.to_vec();
            self.effects.push(HomeEffect::Read { partition, jobs, bodies });
        }
        match (stopped, rows.last()) {
            (Some(row), _) => Some((row, Some(row.at_ms))),
            (None, Some(last)) => Some((last.next(), next_ms)),
            (None, None) => None,
        }
    }

    pub(super) fn on_due(&mut self, partition: PartitionId, rows: &[DueKey], next_ms: Option<u64>) {
        let claims =
            |row: DueKey| Head::new(Schedule { due_ms: row.at_ms, filed: None }, Need::Send);
        let met = self.meet(partition, (rows, next_ms), claims, false);
        let Some(own) = self.partitions.get_mut(&partition) else { return };
        match met {
            Some((at, next_ms)) => own.cursor.end(at, next_ms),
            // Nothing was due: the cursor stays.
            None => own.cursor.end_unmoved(next_ms),
        }
    }

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
            self.effects.push(HomeEffect::ReadBacklog {
                partition,
                flow,
                pass: Pass::Flow,
                from: cursor.begin(),
                until_ms: schedule.as_ms(),
                max,
            });
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
            0 => 0,
            _ if own == 0 => {
                if allows(room) {
                    room
                } else {
                    1
                }
            }
            _ if allows(room) => room,
            _ if allows(1) => 1,
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
        self.effects.push(HomeEffect::ReadBacklog {
            partition,
            flow,
            pass: Pass::Refile,
            from,
            until_ms: u64::MAX,
            max: READ_MAX,
        });
    }

    /// The mail of a flow goes elsewhere now.
    fn refile_flow(&mut self, flow: FlowKey) {
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
        self.effects.push(HomeEffect::FindFlows { partition, after, max: KEYS_MAX });
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
            let all = self.flows.all().map(|(flow, own)| (flow, own, DueKey::FIRST));
            self.refiling.left = all.collect();
        }
    }

    pub(super) fn on_unread(&mut self, errand: Errand) {
        let again = self.now.mono.plus(FAULT_WAIT);
        let mut failed = None;
        match errand {
            Errand::Due { partition } => {
                failed = Some(partition);
                if let Some(own) = self.partitions.get_mut(&partition) {
                    own.cursor.fail(again);
                }
                self.timers.insert((again, Timer::Look));
            }
            Errand::Backlog { partition, flow, pass: Pass::Flow, .. } => {
                failed = Some(partition);
                self.flow_reads -= 1;
                if let Some(cursor) = self.flows.cursor_mut(&flow, partition) {
                    cursor.fail(again);
                }
                self.timers.insert((again, Timer::Flow(flow)));
            }
            Errand::Backlog { partition, flow, pass: Pass::Refile, from } => {
                failed = Some(partition);
                self.refiling.is_reading = false;
                self.refiling.left.push_back((flow, partition, from));
            }
            Errand::Flows { partition } => {
                failed = Some(partition);
                self.find_flows(partition, None);
            }
            Errand::List { ticket } => {
                let step = self.operations.end(ticket, Err(Refusal::Failed));
                self.follow(ticket, step);
            }
        }
        if let Some(partition) = failed {
            self.effects.push(HomeEffect::Log(Note::Unread(partition)));
        }
    }

    /// Event 3.
    pub(super) fn on_read(&mut self, job: JobRef, found: Found) {
        let Some(known) = self.same(job) else { return };
        if !matches!(known.state, State::Reading) {
            self.counts.stale += 1;
            return;
        }
        let is_met = known.head.need != Need::Operation;
        let met = met_row(job.key, known.head.schedule).filter(|_| is_met);
        let partition = job.key.0.partition();
        match found {
            Found::Unread => self.set_timer(FAULT_WAIT, Timer::Again(job)),
            Found::Gone => {
                if let Some(row) = met {
                    self.leftover(partition, row);
                }
                self.remove(job.key, false);
            }
            Found::Damaged => {
                self.effects.push(HomeEffect::Log(Note::Damaged(job)));
                self.remove(job.key, false);
            }
            Found::Job { mail, image } => self.on_record(job, met, mail, image),
        }
    }

    fn leftover(&mut self, partition: PartitionId, row: Row) {
        self.counts.leftovers += 1;
        self.effects.push(HomeEffect::Leftover { partition, row });
    }

    fn on_record(&mut self, job: JobRef, met: Option<Row>, mail: Arc<Mail>, image: JobImage) {
        let JobImage { schedule, attempts, warned, next_hop, state, recipients, .. } = image;
        self.set_schedule(job.key, schedule);
        let known = self.jobs.get_mut(&job.key).expect("it is being read");
        self.memory.give_back(known.bytes());
        known.mail = Some(mail);
        known.recipients = recipients;
        self.memory.take(known.bytes());
        known.head = Head { schedule, attempts, warned, next_hop, ..known.head.clone() };
        if let Some(row) = met.filter(|row| !rows_of(job.key, schedule).any(|own| own == *row)) {
            self.leftover(job.key.0.partition(), row);
            if !self.apply_pending(job.key) {
                self.remove(job.key, true);
            }
            return;
        }
        if self.apply_pending(job.key) {
            return;
        }
        // One that only an operator wanted, or that is held.
        let is_due = schedule.due_ms <= self.now.schedule.as_ms()
            || schedule.filed.is_some_and(|filed| filed.deadline_ms <= self.now.schedule.as_ms());
        let is_refiled = self.jobs[&job.key].head.need == Need::Refile;
        if state == JobState::Held || !is_due && !is_refiled {
            return self.remove(job.key, true);
        }
        self.begin_lookup(job);
    }

    /// To `Resolving`, or on from there.
    pub(super) fn begin_lookup(&mut self, job: JobRef) {
        if self.is_closing {
            return self.remove(job.key, true);
        }
        let is_first = self.lookups.is_empty() && self.lookups_under_way < LOOKUPS_MAX;
        if is_first {
            self.advance(job.key, State::Resolving(Lookup::UnderWay));
            self.effects.push(HomeEffect::Resolve(job));
        } else {
            self.advance(job.key, State::Resolving(Lookup::Queued));
            self.lookups.push_back(job);
        }
    }

    /// Begins lookups while there are places for them.
    pub(super) fn look_up(&mut self) {
        while self.lookups_under_way < LOOKUPS_MAX {
            let Some(job) = self.lookups.pop_front() else { return };
            let Some(known) = self.jobs.get(&job.key) else { continue };
            let is_same = known.incarnation == job.incarnation;
            let is_wanted = match &known.state {
                State::Resolving(Lookup::Queued) => true,
                // Its route may be another since a reload.
                State::Waiting { .. } => {
                    let generation = known.route.as_ref().map(|route| route.generation);
                    generation != Some(self.policy.generation)
                }
                _ => false,
            };
            if is_same && is_wanted {
                self.advance(job.key, State::Resolving(Lookup::UnderWay));
                self.effects.push(HomeEffect::Resolve(job));
            }
        }
    }

    /// Event 4.
    pub(super) fn on_resolved(&mut self, job: JobRef, generation: u32, resolved: Resolved) {
        let current = self.policy.generation;
        let now = self.now.schedule;
        let Some(known) = self.same(job) else { return };
        if !known.is_looking_up() {
            self.counts.stale += 1;
            return;
        }
        let tries = known.tries;
        if self.apply_pending(job.key) {
            return;
        }
        if generation != current {
            return self.begin_lookup(job);
        }
        let one = match resolved {
            Resolved::Parts(parts) => return self.begin_split(job, parts),
            Resolved::One(one) => one,
        };
        let known = &self.jobs[&job.key];
        let (ended, life) = match one {
            Resolution::Hop(route) => return self.on_route(job, route),
            Resolution::Hold => {
                let write = self.context(job.key, None).hold(known);
                return self.write(job.key, write);
            }
            Resolution::OurLimit(lack) => {
                let wait = LACK_FIRST.saturating_mul(1 << tries.min(6)).min(LACK_MAX);
                return self.later(job, wait, Some(lack));
            }
            Resolution::Discard(life) => {
                let text = "discarded by a route".into();
                let answer = Answer { status: (2, 0, 0), text, ..Answer::default() };
                (Ended::all(known, End::Delivered, &answer, true, now), life)
            }
            Resolution::Failed(answer, life) => (Ended::failed(known, &answer, now), life),
            Resolution::Deferred(answer, life) => (Ended::deferred(known, &answer, now), life),
            Resolution::Postponed(answer, wait, life) => {
                let mut ended = Ended::all(known, End::Deferred, &answer, false, now);
                ended.not_before = now.plus(wait);
                (ended, life)
            }
        };
        let write = self.context(job.key, Some(life)).settle(known, ended);
        self.write(job.key, write);
    }

    /// The lookup is begun again later.
    pub(super) fn later(&mut self, job: JobRef, wait: Duration, lack: Option<OurLimit>) {
        let known = self.jobs.get_mut(&job.key).expect("it is being resolved");
        known.tries = known.tries.saturating_add(1);
        let at = self.now.mono.plus(wait);
        self.advance(job.key, State::Resolving(Lookup::Later { at, lack }));
        self.timers.insert((at, Timer::Again(job)));
    }

    fn on_route(&mut self, job: JobRef, route: Arc<Route>) {
        if route.generation != self.policy.generation {
            return self.begin_lookup(job);
        }
        let known = self.jobs.get_mut(&job.key).expect("it is being resolved");
        let limit = route.hop.policy.recipients_per_message.max(1) as usize;
        if known.recipients.len() > limit {
            let parts = known.recipients.chunks(limit).map(Box::from).collect();
            return self.begin_split(job, parts);
        }
        known.tries = 0;
        let key = route.flow.key();
        let filed = known.head.schedule.filed.map(|filed| filed.flow);
        let is_refiled = known.head.need == Need::Refile;
        known.route = Some(route);
        if self.falls_back(job.key) {
            let known = self.jobs.get_mut(&job.key).expect("it is being resolved");
            known.head.falls_back = true;
            return self.begin_lookup(job);
        }
        if let Some(flow) = filed.filter(|flow| *flow != key && !is_refiled) {
            self.refile_flow(flow);
        }
        if is_refiled && filed == Some(key) {
            return self.remove(job.key, true);
        }
        self.wait(job);
    }
}

/// The row by which a job was claimed.
fn met_row(key: JobKey, schedule: Schedule) -> Option<Row> {
    match schedule.filed {
        None => rows_of(key, schedule).next(),
        Some(_) => rows_of(key, schedule).find(|row| matches!(row, Row::Backlog(_))),
    }
}
