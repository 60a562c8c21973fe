//! Time at a home: its timers, what is done whenever there is room, and what is looked through.
//!
//! Promise:  after a jump of the clock nothing is given up for its age for `DISTRUST`.
//! Bounds:   `CHECK_JOBS_MAX` jobs in one question to an owner, once in `SWEEP_EVERY`.

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

impl Home {
    /// Nobody tells when there is memory for a flow again.
    pub(super) fn starve(&mut self, flow: FlowKey) {
        if self.starved.is_empty() {
            self.set_timer(STARVED_WAIT, Timer::Starved);
        }
        self.starved.insert(flow);
    }

    pub(super) fn set_timer(&mut self, wait: Duration, timer: Timer) {
        self.timers.insert((self.now.mono.plus(wait), timer));
    }

    pub(super) fn note_time(&mut self, now: Now) {
        let passed = now.mono.since(self.now.mono).as_millis() as u64;
        let by_ms = now.schedule.ms_since(self.now.schedule).saturating_sub(passed);
        let is_second = now.mono.as_ns() / SECOND_NS > self.now.mono.as_ns() / SECOND_NS;
        self.now = now;
        let is_large = self.targets.len() * TARGET_BYTES > self.policy.memory_max / 4;
        if is_second && is_large && !self.memory.takes_fresh(JOB_GUESS_BYTES) {
            self.forget_targets(Duration::ZERO);
        }
        if by_ms >= CLOCK_STEP.as_millis() as u64 {
            self.trust_at = now.mono.plus(DISTRUST);
            let by = Duration::from_millis(by_ms);
            self.effects.push(HomeEffect::Log(Note::ClockJumped { by }));
        }
    }

    pub(super) fn may_expire(&self) -> bool {
        self.now.mono >= self.trust_at
    }

    /// Everything whose time has come, and everything that has room.
    pub(super) fn proceed(&mut self) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > self.now.mono {
                break;
            }
            self.timers.pop_first();
            self.on_timer(timer);
        }
        if self.is_closing {
            return;
        }
        while let Some((at, key)) = self.deadlines.first().copied() {
            if at > self.now.schedule || self.writing >= WRITES_MAX {
                break;
            }
            self.on_deadline(key);
        }
        self.look_up();
        self.read_due();
        self.read_flows();
        self.refile();
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Again(job) => self.again(job),
            Timer::Lookup(job) => self.on_patience(job),
            Timer::Target(target) => self.look_after(target),
            Timer::Flow(flow) => self.flows.list(flow),
            Timer::Starved => {
                let starved = std::mem::take(&mut self.starved);
                starved.into_iter().for_each(|flow| self.flows.list(flow));
            }
            Timer::Behind(partition) => self.unhide(partition),
            Timer::Operation(ticket) => {
                let step = self.operations.lose_patience(ticket);
                self.follow(ticket, step);
            }
            Timer::File => self.file(),
            Timer::Sweep => self.sweep(),
        }
    }

    pub(super) fn start(&mut self, refile: bool) {
        self.refiling.is_whole = refile;
        self.search_flows();
    }

    fn search_flows(&mut self) {
        let partitions: Vec<PartitionId> = self.partitions.keys().copied().collect();
        partitions.into_iter().for_each(|partition| self.find_flows(partition, None));
    }

    /// Jobs that were resolved under the old policy are resolved again: at their turn, or at once if
    /// their routes may be others.
    pub(super) fn reload(&mut self, policy: HomePolicy, refile: bool) {
        self.policy = policy;
        // Rates of tenants may be higher now: their jobs are sent again, to find out.
        for target in self.targets.values_mut() {
            target.release_tenants(Mono::NEVER);
        }
        if refile {
            let waiting = self.jobs.iter().filter(|(_, job)| job.is_waiting());
            let mut waiting: Vec<_> = waiting
                .map(|(key, job)| (job.head.schedule.due_ms, *key, job.incarnation))
                .collect();
            waiting.sort_unstable();
            for (_, key, incarnation) in waiting {
                let origin = entering::turn_of(&self.jobs[&key]);
                self.lookups.push(JobRef { key, incarnation }, origin);
            }
            self.refiling.is_whole = true;
            self.refile_all();
            self.refiling.known.clear();
        }
        let targets: Vec<u64> = self.targets.keys().copied().collect();
        targets.into_iter().for_each(|target| self.pump(target));
    }

    pub(super) fn drain(&mut self) {
        self.is_closing = true;
        let stays = |job: &Job| job.is_out() || job.is_writing();
        let keys = self.jobs.iter().filter(|(_, job)| !stays(job)).map(|(key, _)| *key);
        let keys: Vec<JobKey> = keys.collect();
        keys.into_iter().for_each(|key| self.remove(key, true));
        self.file();
    }

    /// Jobs that have been out for long are asked for, and those that wait for long are filed.
    fn sweep(&mut self) {
        self.set_timer(SWEEP_EVERY, Timer::Sweep);
        let mono = self.now.mono;
        let mut out: BTreeMap<ShardId, Vec<JobRef>> = BTreeMap::new();
        let mut long = Vec::new();
        for (key, job) in &self.jobs {
            let reference = JobRef { key: *key, incarnation: job.incarnation };
            match &job.state {
                State::Out { owner, since } => {
                    if mono.since(*since) >= CHECK_AFTER {
                        out.entry(*owner).or_default().push(reference);
                    }
                    // A destination with a low rate holds jobs for long.
                    if self.has_deadline(*key) {
                        let frame = Frame::Recall { job: reference };
                        self.effects.push(HomeEffect::Send { to: *owner, frame });
                    }
                }
                State::Waiting { since, .. } if mono.since(*since) >= WAIT_PATIENCE => {
                    long.push((job.head.schedule.due_ms, *key));
                }
                _ => (),
            }
        }
        for (owner, jobs) in out {
            for jobs in jobs.chunks(CHECK_JOBS_MAX) {
                let frame = Frame::Check { home: self.me, jobs: jobs.to_vec() };
                self.effects.push(HomeEffect::Send { to: owner, frame });
            }
        }
        // The last to be due go first.
        long.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in long {
            let flow = *self.jobs[&key].flow();
            let target = &self.targets[&flow.target];
            let places = target.places();
            if target.share(&flow).waiting > (2 * places.per_flow.min(places.total)).max(1) {
                self.leave_memory(key);
            }
        }
        if self.flows.begin_search() {
            self.search_flows();
        }
        self.forget_targets(match self.targets.len() > TARGETS_MANY {
            true => TARGET_IDLE_CROWDED,
            false => TARGET_IDLE,
        });
    }

    fn forget_targets(&mut self, patience: Duration) {
        let (before, mono) = (self.targets.len(), self.now.mono);
        let idle = |target: &Target| {
            target.idle_since().is_some_and(|since| mono.since(since) >= patience)
        };
        self.targets.retain(|_, target| !idle(target));
        self.memory.give_back((before - self.targets.len()) * TARGET_BYTES);
    }
}
