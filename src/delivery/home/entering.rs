//! How jobs come into memory: fresh mail, and rows that cursors meet; reading and resolving.

use super::*;

impl Home {
    pub(super) fn may_claim(&self) -> bool {
        let slow = self.lookups_under_way - self.quick.len();
        let has_room = self.claims < CLAIMS_MAX + slow
            && !self.is_crowded()
            && self.writing < WRITES_MAX
            && self.memory.takes_read(JOB_GUESS_BYTES);
        has_room && self.policy.enabled && !self.is_closing
    }

    fn is_crowded(&self) -> bool {
        self.claims + self.queued >= LOOKUPS_WAITING_MAX
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
        let has_room = self.memory.takes_fresh(bytes);
        if !has_room || !self.policy.enabled || self.is_closing || due > self.now.schedule {
            return rows_of(key, schedule).for_each(|row| self.tell(row));
        }
        let head = Head::new(schedule, Need::Send);
        let state = State::Resolving(Lookup::Asked);
        let job = self.enter(key, state, head, Some((mail, (0..recipients).collect())));
        self.begin_lookup(job);
    }

    /// The time cursors go on while there is room for what they meet.
    pub(super) fn read_due(&mut self) {
        if !self.may_claim() {
            return;
        }
        let Now { schedule, mono, .. } = self.now;
        for (partition, own) in &mut self.partitions {
            if own.cursor.is_ready(schedule, mono) && !own.is_failed {
                let (partition, from, max) = (*partition, own.cursor.begin(), KEYS_MAX);
                let until_ms = schedule.as_ms();
                self.effects.push(HomeEffect::Read(Errand::Due { partition, from, until_ms, max }));
            }
        }
    }

    /// Event 2: claims what the cursor has met. Answers where it goes on, and from when.
    pub(super) fn meet(
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
            self.effects.push(HomeEffect::Read(Errand::Jobs { partition, jobs, bodies }));
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

    /// Reads one job, without its body.
    pub(super) fn read_record(&mut self, job: JobRef) {
        let (partition, jobs, bodies) = (job.key.0.partition(), vec![job], false);
        self.effects.push(HomeEffect::Read(Errand::Jobs { partition, jobs, bodies }));
    }

    /// Event 3.
    pub(super) fn on_read(&mut self, job: JobRef, found: Found) {
        let is_read = |known: &Job| matches!(known.state, State::Reading);
        let Some(known) = self.awaits(job, is_read) else { return };
        let is_met = known.head.need != Need::Operation;
        // The row by which it was claimed: that of the backlog if it is filed.
        let met = rows_of(job.key, known.head.schedule).last().filter(|_| is_met);
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
        self.change(job.key, |known| {
            (known.mail, known.recipients) = (Some(mail), recipients);
            known.head = Head { schedule, attempts, warned, next_hop, ..known.head.clone() };
        });
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
        self.advance(job.key, State::Resolving(Lookup::Asked));
        self.effects.push(HomeEffect::Resolve(job));
    }

    /// The route of a job must be looked up: it waits for that, or stays on disk. Nothing is given up
    /// for want of a lookup.
    pub(super) fn on_unknown(&mut self, job: JobRef) {
        let is_asked = |known: &Job| matches!(known.state, State::Resolving(Lookup::Asked));
        if self.awaits(job, is_asked).is_none() || self.apply_pending(job.key) {
            return;
        }
        // The job itself is counted.
        if self.claims + self.queued > LOOKUPS_WAITING_MAX {
            return self.remove(job.key, true);
        }
        let slot = self.lookups.push(job, turn_of(&self.jobs[&job.key]));
        self.advance(job.key, State::Resolving(Lookup::Queued { slot }));
        self.set_timer(LOOKUP_PATIENCE, Timer::Lookup(job));
    }

    /// A job that waits for a lookup still has waited for long.
    pub(super) fn on_patience(&mut self, job: JobRef) {
        let Some(known) = self.known(job) else { return };
        if !matches!(known.state, State::Resolving(Lookup::Queued { .. })) {
            return;
        }
        if !self.is_crowded() {
            return self.set_timer(LOOKUP_PATIENCE, Timer::Lookup(job));
        }
        let due = self.now.schedule.plus(LOOKUP_PAUSE);
        let write = self.context(job.key, None).put_aside(&self.jobs[&job.key], due);
        self.write(job.key, write);
    }

    /// Begins lookups while there are places for them.
    pub(super) fn look_up(&mut self) {
        let mono = self.now.mono;
        while let Some((since, _)) = self.quick.first()
            && mono.since(*since) >= LOOKUP_QUICK
        {
            self.quick.pop_first();
        }
        while self.quick.len() < LOOKUPS_MAX && self.lookups_under_way < LOOKUPS_OUT_MAX {
            let Some(taken) = self.lookups.take(ConnectionClass::default()) else { return };
            let job = taken.job;
            let Some(known) = self.known(job) else { continue };
            let is_wanted = match &known.state {
                State::Resolving(Lookup::Queued { .. }) => true,
                // Its route may be another since a reload.
                State::Waiting { .. } => {
                    let generation = known.route.as_ref().map(|route| route.generation);
                    generation != Some(self.policy.generation)
                }
                _ => false,
            };
            if is_wanted {
                self.advance(job.key, State::Resolving(Lookup::UnderWay { since: mono }));
                self.quick.insert((mono, job.key));
                self.effects.push(HomeEffect::LookUp(job));
            }
        }
    }

    /// Event 4.
    pub(super) fn on_resolved(&mut self, job: JobRef, generation: u32, resolved: Resolved) {
        let now = self.now.schedule;
        let Some(known) = self.awaits(job, Job::is_looking_up) else { return };
        let tries = known.tries;
        if self.apply_pending(job.key) {
            return;
        }
        if generation != self.policy.generation {
            return self.begin_lookup(job);
        }
        let one = match resolved {
            Resolved::Parts(parts) => return self.begin_split(job, parts),
            Resolved::One(one) => one,
        };
        if let Resolution::Deferred(_, life) | Resolution::Postponed(_, _, life) = &one
            && self.outlasts(job.key, life)
        {
            return self.fall_back(job);
        }
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
            return self.fall_back(job);
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

/// Tenants take turns at lookups.
pub(super) fn turn_of(job: &Job) -> Origin {
    let tenant = job.mail().envelope().tenant.0;
    Origin { tenant, sender: job.mail().sender, weight: 1, ..Origin::default() }
}
