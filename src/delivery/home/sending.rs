//! How jobs leave for their owners and come back: places, turns and outcomes.

use super::*;

impl Home {
    /// Event 5 at its first occasion: the job is sent, or waits for a place, or leaves memory.
    pub(super) fn wait(&mut self, job: JobRef) {
        let Now { mono, schedule, .. } = self.now;
        let known = &self.jobs[&job.key];
        let route = Arc::clone(known.route.as_ref().expect("it was just resolved"));
        let (flow, head) = (route.flow, known.head.clone());
        let target = self.targets.entry(flow.target).or_insert_with(|| {
            self.memory.take(TARGET_BYTES);
            Target::new(&route, mono)
        });
        if target.route.resolved < route.resolved {
            if target.route.owner != route.owner {
                target.set_owner(route.owner);
            }
            target.route = Arc::clone(&route);
        }
        let is_due = head.schedule.due_ms <= schedule.as_ms() || head.falls_back;
        let has_turn = head.is_first || target.share(&flow).waiting == 0;
        let may_go = is_due && has_turn && self.policy.enabled && target.may_go(&flow, mono);
        let is_behind = self.is_behind(job.key);
        self.advance(job.key, State::Waiting { since: mono, slot: None, deadline: None });
        if may_go && !is_behind && !self.is_closing {
            return self.send(job);
        }
        if self.has_deadline(job.key) {
            return self.on_deadline(job.key);
        }
        let target = &self.targets[&flow.target];
        let share = target.share(&flow);
        let is_alone = share.waiting + share.out == 1;
        let is_surplus = target.is_barren(mono) && share.waiting > 1;
        let has_room = is_alone
            || self.memory.allows(target.bytes(), share.bytes)
            || self.memory.spares(target.bytes())
                && target.queued_of(&origin_of(&self.jobs[&job.key])) < LIGHT_SENDER_JOBS;
        if !is_due || is_surplus || !has_room {
            return self.leave_memory(job.key);
        }
        self.queue(job);
        self.look_after(flow.target);
    }

    fn queue(&mut self, job: JobRef) {
        let is_behind = self.is_behind(job.key);
        let known = self.jobs.get_mut(&job.key).expect("it waits");
        let (target, origin) = (known.flow().target, origin_of(known));
        if is_behind {
            let own = self.partitions.get_mut(&job.key.0.partition());
            own.expect("a job has its partition").hidden.push(job);
        } else if let State::Waiting { slot, .. } = &mut known.state {
            let is_first = std::mem::take(&mut known.head.is_first);
            let target = self.targets.get_mut(&target).expect("it has entered");
            *slot = Some(target.queue(job, origin, is_first));
        }
        self.set_deadline(job.key);
    }

    /// Sends what has places, and asks for places for the rest.
    pub(super) fn pump(&mut self, id: u64) {
        if self.is_closing || !self.policy.enabled {
            return;
        }
        while let Some(target) = self.targets.get_mut(&id) {
            let Some(job) = target.next(self.now.mono) else { break };
            let is_behind = self.is_behind(job.key);
            let known = self.jobs.get_mut(&job.key).expect("a queued job is in the map");
            if let State::Waiting { slot, .. } = &mut known.state {
                *slot = None;
            }
            known.head.is_first = true;
            match is_behind {
                true => self.queue(job),
                false => self.send(job),
            }
        }
        self.look_after(id);
    }

    /// A job has its place. If its route is old, it is resolved again first.
    fn send(&mut self, job: JobRef) {
        let mono = self.now.mono;
        let known = self.jobs.get_mut(&job.key).expect("it waits");
        let route = Arc::clone(known.route.as_ref().expect("it was resolved"));
        let is_old = mono.since(route.resolved) > ROUTE_AGE_MAX;
        known.head.is_first = is_old || route.generation != self.policy.generation;
        if known.head.is_first {
            return self.begin_lookup(job);
        }
        let owner = self.targets[&route.flow.target].owner;
        let delivery = Delivery {
            job,
            home: self.me,
            mail: Arc::clone(known.mail()),
            recipients: known.recipients.clone(),
            hop: Arc::clone(&route.hop),
            flow: route.flow,
            weight: route.weight,
            due: Wall::from_ms(known.head.schedule.due_ms),
            sent: mono,
        };
        self.advance(job.key, State::Out { owner, since: mono });
        let frame = Frame::Deliver(Box::new(delivery));
        self.effects.push(HomeEffect::Send { to: owner, frame });
    }

    /// Asks for places, and files what has none for too long.
    pub(super) fn look_after(&mut self, id: u64) {
        let mono = self.now.mono;
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.waiting() == 0 || self.is_closing {
            return;
        }
        let released = target.release_tenants(mono);
        let (want_at, want) = (target.want_at(), target.next_want(mono));
        let is_new = want.is_some() || target.want_at() < want_at;
        let want_at = is_new.then_some(target.want_at());
        if let Some((jobs, flows)) = want {
            let hop = Arc::clone(&target.route.hop);
            let frame = Frame::Want { target: id, hop, home: self.me, jobs, flows };
            self.effects.push(HomeEffect::Send { to: target.owner, frame });
        }
        let is_barren = target.is_barren(mono);
        let barren_at = target.zero_since().filter(|_| !is_barren);
        let barren_at = barren_at.map(|since| since.plus(ZERO_PATIENCE));
        let goes_on = Some(target.paused_until()).filter(|until| *until > mono);
        let wakes = [released, want_at, barren_at, goes_on].into_iter().flatten();
        self.timers.extend(wakes.map(|at| (at, Timer::Target(id))));
        let has_places = target.out() < target.places().total;
        if goes_on.is_none() && has_places && target.has_queued() {
            self.pump(id);
        } else if is_barren {
            self.file_queued(id);
        }
    }

    pub(super) fn is_behind(&self, key: JobKey) -> bool {
        let own = self.partitions.get(&key.0.partition());
        own.is_none_or(|own| own.is_behind || own.behind_until > self.now.mono)
    }

    pub(super) fn on_behind(&mut self, partition: PartitionId, is_behind: bool) {
        let Some(own) = self.partitions.get_mut(&partition) else { return };
        own.is_behind = is_behind;
        self.unhide(partition);
    }

    /// Jobs of a partition that is in time again have their turns.
    pub(super) fn unhide(&mut self, partition: PartitionId) {
        let mono = self.now.mono;
        let Some(own) = self.partitions.get_mut(&partition) else { return };
        if own.is_behind || own.behind_until > mono {
            return;
        }
        let mut targets = BTreeSet::new();
        for job in std::mem::take(&mut own.hidden) {
            let known = self.jobs.get_mut(&job.key);
            if let Some(known) = known.filter(|known| known.incarnation == job.incarnation)
                && let State::Waiting { slot: None, .. } = &known.state
            {
                known.head.is_first = true;
                targets.insert(known.flow().target);
                self.queue(job);
            }
        }
        targets.into_iter().for_each(|target| self.pump(target));
    }

    pub(super) fn on_grant(
        &mut self,
        id: u64,
        from: ShardId,
        places: Places,
        state: Arc<GrantState>,
    ) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if from != target.owner {
            // This shard has a share of the striped destination again.
            if from != self.me || from != target.route.owner || places.total == 0 {
                return;
            }
            target.set_owner(from);
        }
        let fails = state.failing_since.is_some();
        let is_more = target.grant(places, state, self.now.mono);
        if fails {
            self.renew_deadlines(id);
        }
        self.pump(id);
        if is_more {
            self.flows.list_target(id);
        }
    }

    pub(super) fn on_missing(&mut self, jobs: &[JobRef]) {
        let (mut missing, mono) = (0, self.now.mono);
        for job in jobs {
            let Some(known) = self.awaits(*job, |_| true) else { continue };
            // One that came back and was sent anew while the question was under way is not missing.
            if matches!(known.state, State::Out { since, .. } if mono.since(since) >= CHECK_AFTER) {
                missing += 1;
                self.counts.missing += 1;
                self.wait_again(*job);
            }
        }
        if missing > 0 {
            self.effects.push(HomeEffect::Log(Note::Missing { jobs: missing }));
        }
    }

    /// A job that was out waits again, the first of its flow.
    fn wait_again(&mut self, job: JobRef) {
        let known = self.jobs.get_mut(&job.key).expect("it is out");
        known.head.is_first = true;
        let target = known.flow().target;
        let state = State::Waiting { since: self.now.mono, slot: None, deadline: None };
        self.advance(job.key, state);
        if self.is_closing {
            return self.remove(job.key, true);
        }
        if !self.apply_pending(job.key) {
            match self.has_deadline(job.key) {
                true => self.on_deadline(job.key),
                false => self.queue(job),
            }
        }
        self.look_after(target);
    }

    /// Event 7.
    pub(super) fn on_outcome(&mut self, outcome: Outcome) {
        let Outcome { job, what, unsettled } = outcome;
        let Now { mono, schedule: now, .. } = self.now;
        let Some(known) = self.awaits(job, Job::is_out) else { return };
        let target = known.flow().target;
        if let What::Returned(why) = what {
            self.note_returned(job, target, why);
            return self.wait_again(job);
        }
        let wait = match &what {
            What::Unreached { not_before, .. } => not_before.since(mono),
            _ => Duration::ZERO,
        };
        if let Some(target) = self.targets.get_mut(&target) {
            target.note_tried();
        }
        let known = &self.jobs[&job.key];
        let ended = Ended::of_outcome(known, what, wait, now).expect("it was not returned");
        let mut write = self.context(job.key, None).settle(known, ended);
        write.unsettled = unsettled;
        self.write(job.key, write);
        self.pump(target);
    }

    fn note_returned(&mut self, job: JobRef, target: u64, why: Returned) {
        let mono = self.now.mono;
        let tenant = self.jobs[&job.key].flow().tenant;
        let target = self.targets.get_mut(&target).expect("a job that is out has a target");
        match why {
            Returned::TenantRate { until } => target.hold_tenant(tenant, until),
            Returned::Recalled => (),
            Returned::Hidden => {
                let partition = job.key.0.partition();
                let until = mono.plus(BEHIND_WAIT);
                if let Some(own) = self.partitions.get_mut(&partition) {
                    own.behind_until = until;
                    self.timers.insert((until, Timer::Behind(partition)));
                }
            }
            Returned::NotHere if target.owner != target.route.lead => {
                let lead = target.route.lead;
                target.set_owner(lead);
            }
            Returned::NotHere | Returned::Closing | Returned::NoPlaces | Returned::OurLimit(_) => {
                target.pause(mono)
            }
        }
    }
}

/// Whose turn at a place of its destination a job takes.
fn origin_of(job: &Job) -> Origin {
    let (route, mail) = (job.route.as_ref().expect("it was resolved"), job.mail());
    let Flow { tenant, class, .. } = route.flow;
    let (sender, weight, bytes) = (mail.sender, route.weight, mail.bytes);
    Origin { tenant, class, sender, weight, bytes, ..Origin::default() }
}
