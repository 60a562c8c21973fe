//! How records change: settlements, splits, filing, and operations of operators.

use super::*;

impl Home {
    /// `life` is that of a job without a route.
    pub(super) fn context(&self, key: JobKey, life: Option<Life>) -> Context<'_> {
        let job = &self.jobs[&key];
        let route = job.route.as_ref();
        let life = life.or(route.map(|route| route.life)).unwrap_or(self.policy.life);
        let flow = route.map(|route| route.flow.key());
        let is_own = |flow: &FlowKey| job.head.schedule.filed.is_some_and(|f| f.flow == *flow);
        let backlog = flow.filter(|flow| {
            let others = |held: u32| held > u32::from(is_own(flow));
            let state = self.flows.get(flow);
            state.is_some_and(|state| state.has_rows() || others(state.held))
        });
        Context {
            job: JobRef { key, incarnation: job.incarnation },
            life,
            rules: self.rules(),
            backlog,
            now: self.now,
            random: self.random.wrapping_add(u64::from(job.incarnation.0)),
        }
    }

    pub(super) fn write(&mut self, key: JobKey, write: Write) {
        let write = Arc::new(write);
        self.advance(key, State::Writing(Writing::Change(Arc::clone(&write))));
        self.effects.push(HomeEffect::Write(write));
    }

    /// Event 9.
    pub(super) fn on_written(&mut self, job: JobRef, written: Written) {
        let is_part = |known: &Job| matches!(known.state, State::Writing(Writing::Part));
        let is_written = |known: &Job| known.is_writing() && !is_part(known);
        let Some(known) = self.awaits(job, is_written) else { return };
        let State::Writing(writing) = &known.state else { return };
        let writing = writing.clone();
        if written == Written::DiskFull {
            return self.set_timer(WRITE_WAIT, Timer::Again(job));
        }
        if written == Written::Failed {
            self.note_failed(job.key.0.partition());
        }
        let write = match writing {
            Writing::Change(write) => write,
            Writing::File(schedule) if written == Written::Done => {
                self.set_schedule(job.key, schedule);
                return self.go_on(job, written);
            }
            Writing::File(_) | Writing::Part => return self.go_on(job, written),
        };
        let part = match written {
            Written::Done | Written::Changed(_) => Part::Done,
            Written::Unchanged(part, _) => part,
            Written::Failed => Part::Refused(Refusal::Failed),
            Written::NotFound | Written::DiskFull => Part::Gone,
        };
        if let Some(ticket) = write.ticket {
            self.report(ticket, part);
        }
        match (&write.next, written) {
            (Next::Split(parts), _) => return self.end_split(job, parts, written),
            (Next::End, Written::Done) => return self.remove(job.key, false),
            (Next::Again(image), Written::Done) => {
                self.set_schedule(job.key, image.schedule);
                self.change(job.key, |known| {
                    (known.head.attempts, known.head.warned) = (image.attempts, image.warned);
                    known.recipients = image.recipients.clone();
                });
            }
            (Next::Operation(_), Written::Unchanged(_, schedule)) => {
                self.set_schedule(job.key, schedule);
            }
            (Next::Operation(operation), Written::Changed(schedule)) => {
                self.set_schedule(job.key, schedule);
                if let Operation::Reroute(to) = operation {
                    let known = self.jobs.get_mut(&job.key).expect("it is being written");
                    known.head.next_hop = to.as_deref().map(Arc::from);
                }
            }
            _ => (),
        }
        self.go_on(job, written);
    }

    /// After a write that leaves the job alive.
    fn go_on(&mut self, job: JobRef, written: Written) {
        let is_gone = matches!(written, Written::NotFound | Written::Failed);
        if is_gone || self.is_closing || !self.apply_pending(job.key) {
            // If there is no record, the cursors find no rows of it.
            self.remove(job.key, true);
        }
    }

    /// Nothing of the partition is read or sent any more: it would be delivered again and again.
    fn note_failed(&mut self, partition: PartitionId) {
        let Some(own) = self.partitions.get_mut(&partition) else { return };
        own.is_behind = true;
        if !std::mem::replace(&mut own.is_failed, true) {
            self.effects.push(HomeEffect::Log(Note::Failed(partition)));
        }
    }

    /// An effect that was not carried out, or whose answer says later.
    pub(super) fn again(&mut self, job: JobRef) {
        let Some(known) = self.known(job) else { return };
        match &known.state {
            State::Reading => self.read_record(job),
            State::Resolving(Lookup::Later { at, .. }) if *at <= self.now.mono => {
                self.begin_lookup(job);
            }
            State::Writing(Writing::Change(write)) => {
                let write = Arc::clone(write);
                self.effects.push(HomeEffect::Write(write));
            }
            State::Writing(Writing::File(_)) => self.order_filing(job),
            _ => (),
        }
    }

    /// Event 11.
    pub(super) fn on_abandoned(&mut self, job: JobRef) {
        let Some(known) = self.awaits(job, |_| true) else { return };
        match &known.state {
            State::Reading => self.set_timer(FAULT_WAIT, Timer::Again(job)),
            State::Resolving(Lookup::Asked | Lookup::UnderWay { .. }) => {
                self.later(job, FAULT_WAIT, None);
            }
            State::Resolving(Lookup::Numbers { .. }) => {
                self.later(job, FAULT_WAIT, None);
                self.end_turn(job.key.0);
            }
            State::Writing(_) => self.set_timer(WRITE_WAIT, Timer::Again(job)),
            _ => (),
        }
    }

    /// A job becomes several, one split of a message at a time: two would find the same numbers free.
    pub(super) fn begin_split(&mut self, job: JobRef, parts: Vec<Box<[u32]>>) {
        let (id, number) = job.key;
        if let Some(waiting) = self.splits.get_mut(&id) {
            waiting.push(job);
            return self.advance(
                job.key,
                State::Resolving(Lookup::Later { at: self.now.mono.plus(FAULT_WAIT), lack: None }),
            );
        }
        self.splits.insert(id, Vec::new());
        let wanted = parts.len().min(PARTS_MAX);
        if number == 0 {
            // A message with a job 0 has no other job, and no other write gives it one.
            return self.split(job, parts, (1..=u16::MAX).take(wanted).collect());
        }
        self.advance(job.key, State::Resolving(Lookup::Numbers { parts }));
        self.effects.push(HomeEffect::Read(Errand::Numbers { job, wanted }));
    }

    pub(super) fn on_numbers(&mut self, job: JobRef, numbers: Vec<u16>) {
        let has_parts =
            |known: &Job| matches!(known.state, State::Resolving(Lookup::Numbers { .. }));
        let Some(known) = self.awaits(job, has_parts) else { return };
        let State::Resolving(Lookup::Numbers { parts }) = &known.state else { return };
        let parts = parts.clone();
        if self.apply_pending(job.key) {
            return self.end_turn(job.key.0);
        }
        self.split(job, parts, numbers);
    }

    fn split(&mut self, job: JobRef, mut parts: Vec<Box<[u32]>>, mut numbers: Vec<u16>) {
        let (id, _) = job.key;
        numbers.retain(|number| !self.jobs.contains_key(&(id, *number)));
        if numbers.len() < 2 {
            let public_id = self.jobs[&job.key].mail().public_id;
            self.effects.push(HomeEffect::Log(Note::TooManyParts(public_id)));
            // Numbers become free as other parts end.
            self.later(job, FAULT_WAIT, None);
            return self.end_turn(id);
        }
        if parts.len() > numbers.len() {
            let rest = parts.split_off(numbers.len() - 1);
            parts.push(rest.concat().into_boxed_slice());
        }
        let known = &self.jobs[&job.key];
        let numbered = numbers.iter().copied().zip(parts.iter().cloned());
        let write = self.context(job.key, None).split(known, numbered);
        let schedule = Schedule { filed: None, ..known.head.schedule };
        let head = Head { schedule, need: Need::Send, is_first: false, ..known.head.clone() };
        let mail = Arc::clone(known.mail());
        for (number, recipients) in numbers.into_iter().zip(parts) {
            let read = Some((Arc::clone(&mail), recipients));
            self.enter((id, number), State::Writing(Writing::Part), head.clone(), read);
        }
        self.write(job.key, write);
    }

    /// The job is gone, and its parts are resolved; or it is gone with them.
    fn end_split(&mut self, job: JobRef, parts: &[JobImage], written: Written) {
        let (id, _) = job.key;
        let is_split = written == Written::Done;
        let known = self.jobs.get_mut(&job.key).expect("it is being written");
        let pending = known.pending.take();
        // One whose numbers were taken meanwhile is split anew.
        self.remove(job.key, !is_split);
        self.end_turn(id);
        if let Some(pending) = &pending {
            if is_split {
                self.operations.expect(pending.ticket, parts.len());
            }
            self.report(pending.ticket, if is_split { Part::Already } else { Part::Gone });
        }
        for part in parts {
            let key = (id, part.number);
            let Some(known) = self.jobs.get_mut(&key) else { continue };
            if !is_split || self.is_closing {
                // Perhaps a task that was ended by a bug had written them.
                self.remove(key, true);
                continue;
            }
            // An operation on the part itself is the newer one.
            if known.pending.is_none() {
                known.pending = pending.clone();
            } else if let Some(pending) = &pending {
                self.report(pending.ticket, Part::Already);
            }
            if !self.apply_pending(key) {
                let part = self.reference(key);
                self.begin_lookup(part);
            }
        }
    }

    /// The next job of the message may be split.
    fn end_turn(&mut self, id: MessageId) {
        for job in self.splits.remove(&id).into_iter().flatten() {
            let state = self.known(job).map(|known| &known.state);
            if let Some(State::Resolving(Lookup::Later { .. })) = state {
                self.begin_lookup(job);
            }
        }
    }
}
