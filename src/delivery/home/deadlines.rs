//! Mail that waits in memory: its deadlines, and how it leaves memory for the disk.
//!
//! Promise:  a job that waits has the earliest of its deadlines in `deadlines`. Nothing expires while the
//!           clock is not trusted. Mail of before the start has `FIRST_ATTEMPT` for its first attempt.
//!           `Rules::deadlines` says so for what waits and for what is written.
//! Bounds:   `FILE_MAX` jobs in one order to file.

use super::*;

impl Home {
    pub(super) fn deadlines_of(&self, key: JobKey) -> Deadlines {
        let job = &self.jobs[&key];
        let life = job.route.as_ref().map_or(self.policy.life, |route| route.life);
        let received = self.now.scheduled(job.mail().received);
        self.rules().deadlines(&job.head, received, &life, self.now.schedule)
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            retry: &self.policy.retry,
            warning: self.policy.warning,
            may_expire: self.may_expire(),
            started: self.started,
        }
    }

    /// When the fallback relay takes over because the destination, not the job, has failed for so
    /// long. Not for a job that may be the next probe of the destination.
    fn diverts_at(&self, key: JobKey) -> Option<Wall> {
        let Now { mono, schedule, .. } = self.now;
        let job = &self.jobs[&key];
        let route = job.route.as_ref().filter(|_| !job.head.falls_back)?;
        let after = route.life.fallback_after?;
        let target = self.targets.get(&route.flow.target)?;
        let failed = mono.since(target.state.failing_since?);
        let others = target.waiting() + target.out() - u32::from(!job.is_resolving());
        let rests = target.state.until.is_some_and(|until| mono < until);
        (rests || others > 0).then(|| schedule.plus(after.saturating_sub(failed)))
    }

    /// Whether the time of the fallback relay has come.
    pub(super) fn falls_back(&self, key: JobKey) -> bool {
        let at = [self.deadlines_of(key).fallback, self.diverts_at(key)];
        at.into_iter().flatten().any(|at| at <= self.now.schedule)
    }

    /// The same for a job whose route has no servers.
    pub(super) fn outlasts(&self, key: JobKey, life: &Life) -> bool {
        let job = &self.jobs[&key];
        let received = self.now.scheduled(job.mail().received);
        let fallback = Deadlines::of(&job.head, received, life, None).fallback;
        fallback.is_some_and(|at| at <= self.now.schedule)
    }

    /// The fallback relay takes the place of the route.
    pub(super) fn fall_back(&mut self, job: JobRef) {
        let known = self.jobs.get_mut(&job.key).expect("a job that falls back is in the map");
        known.head.falls_back = true;
        self.begin_lookup(job);
    }

    pub(super) fn next_deadline(&self, key: JobKey) -> Wall {
        let first = self.deadlines_of(key).first();
        self.diverts_at(key).map_or(first, |at| at.min(first))
    }

    pub(super) fn has_deadline(&self, key: JobKey) -> bool {
        self.next_deadline(key) <= self.now.schedule
    }

    /// The deadlines of queued jobs, now that their destination fails.
    pub(super) fn renew_deadlines(&mut self, id: u64) {
        let queued: Vec<JobRef> = self.targets[&id].queued().collect();
        queued.into_iter().for_each(|job| self.set_deadline(job.key));
    }

    /// The deadline of a job that waits.
    pub(super) fn set_deadline(&mut self, key: JobKey) {
        let at = self.next_deadline(key);
        let known = self.jobs.get_mut(&key).expect("a job that waits is in the map");
        if let State::Waiting { deadline, .. } = &mut known.state {
            if let Some(before) = deadline.replace(at) {
                self.deadlines.remove(&(before, key));
            }
            self.deadlines.insert((at, key));
        }
    }

    /// Event 6: a job that waits is given up, asks for the fallback relay, or its sender is told.
    pub(super) fn on_deadline(&mut self, key: JobKey) {
        let now = self.now.schedule;
        let deadlines = self.deadlines_of(key);
        let falls_back = self.falls_back(key);
        if deadlines.expiry <= now {
            let answer = self.why_waiting(key);
            let known = &self.jobs[&key];
            let mut ended = Ended::all(known, End::Deferred, &answer, false, now);
            ended.attempt.host = self.targets[&known.flow().target].state.last_host.clone();
            let write = self.context(key, None).settle(known, ended);
            self.write(key, write);
        } else if falls_back {
            self.fall_back(self.reference(key));
        } else if deadlines.warning.is_some_and(|at| at <= now) {
            let answer = self.why_waiting(key);
            let write = self.context(key, None).warn(&self.jobs[&key], &answer);
            self.write(key, write);
        } else {
            self.set_deadline(key);
        }
    }

    /// The last error of the destination, or what keeps it from taking more.
    fn why_waiting(&self, key: JobKey) -> Answer {
        let flow = self.jobs[&key].flow();
        let state = self.targets[&flow.target].state_of(flow.tenant, self.now.mono);
        match &state.last {
            Some(last) => Answer::clone(last),
            None => Answer::ours(Cause::NoRoom, why_bound(state.binds)),
        }
    }

    /// The job is filed, or leaves memory at once if it is filed as it should be.
    pub(super) fn leave_memory(&mut self, key: JobKey) {
        let deadline_ms = self.deadlines_of(key).first().as_ms();
        let job = &self.jobs[&key];
        let flow = job.flow().key();
        let before = job.head.schedule;
        let filed = Some(Filed { flow, deadline_ms });
        let schedule = Schedule { filed, ..before };
        if schedule == before {
            // It would be read again at once.
            self.flows.pause(flow, self.now.mono.plus(STARVED_WAIT));
            self.starve(flow);
            return self.remove(key, true);
        }
        let job = self.reference(key);
        self.counts.filed += 1;
        self.advance(key, State::Writing(Writing::File(schedule)));
        self.order_filing(job);
    }

    pub(super) fn order_filing(&mut self, job: JobRef) {
        if self.filing.is_empty() {
            self.set_timer(FILE_WAIT, Timer::File);
        }
        self.filing.push(job);
        if self.filing.len() >= FILE_MAX {
            self.file();
        }
    }

    /// Orders the filing of what waits for it.
    pub(super) fn file(&mut self) {
        let mut orders: BTreeMap<PartitionId, Vec<(JobRef, Schedule)>> = BTreeMap::new();
        for job in std::mem::take(&mut self.filing) {
            if let State::Writing(Writing::File(schedule)) = &self.jobs[&job.key].state {
                orders.entry(job.key.0.partition()).or_default().push((job, *schedule));
            }
        }
        for (partition, jobs) in orders {
            self.effects.push(HomeEffect::File { partition, jobs });
        }
    }

    /// All but one job of each flow leave memory.
    pub(super) fn file_queued(&mut self, id: u64) {
        if !self.targets[&id].has_surplus() {
            return;
        }
        let mut kept = HashSet::new();
        let queued: Vec<JobRef> = self.targets[&id].queued().collect();
        for job in queued {
            let flow = *self.jobs[&job.key].flow();
            if !kept.insert((flow.tenant, flow.class)) {
                self.leave_memory(job.key);
            }
        }
    }
}

const fn why_bound(binds: Binds) -> &'static str {
    match binds {
        Binds::Rate => "the rate of mail to the destination is limited",
        Binds::SourceRate => "the rate of mail from each source to the destination is limited",
        Binds::TenantRate => "the rate of mail of the tenant is limited",
        Binds::BackingOff => "the destination does not answer",
        Binds::Paused => "an operator has paused the destination",
        Binds::Suspended => "a rule has suspended the destination after one of its replies",
        Binds::OurLimit(_) => "this server has reached a limit of its own",
        _ => "the destination takes mail more slowly than it comes",
    }
}
