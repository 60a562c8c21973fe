//! Operations of operators on the jobs of a message.
//!
//! Promise:  an operation changes a job only while nobody else does; until then it waits in `pending`,
//!           and a later one takes its place. Each operation is answered once.

use super::*;

impl Home {
    /// Event 8.
    pub(super) fn operate(&mut self, ticket: u64, id: MessageId, operation: Operation) {
        if let Err(refusal) = self.operations.begin(ticket, id, operation) {
            return self.follow(ticket, Step::Answer(Err(refusal)));
        }
        self.timers.insert((self.now.mono.plus(PATIENCE), Timer::Operation(ticket)));
        self.follow(ticket, Step::ListAgain(id));
    }

    pub(super) fn on_listed(&mut self, ticket: u64, numbers: &[u16]) {
        let Some((id, operation)) = self.operations.get(ticket) else { return };
        let operation = operation.clone();
        if numbers.is_empty() {
            if self.operations.is_deletion_of_kept(ticket) {
                self.effects.push(HomeEffect::Remove { ticket, id });
                return;
            }
            let step = self.operations.none_found(ticket);
            return self.follow(ticket, step);
        }
        self.operations.expect(ticket, numbers.len());
        for number in numbers {
            let pending = Pending { ticket, operation: operation.clone() };
            if let Some(part) = self.operate_on((id, *number), pending) {
                self.report(ticket, part);
            }
        }
    }

    /// Applies an operation to a job now, or as soon as it can be. Answers what it came to, if that
    /// is known.
    fn operate_on(&mut self, key: JobKey, pending: Pending) -> Option<Part> {
        let operation = pending.operation.clone();
        let Some(known) = self.jobs.get_mut(&key) else {
            if self.is_closing {
                return Some(Part::Refused(Refusal::Restless));
            }
            // Claimed before it is read. Its rows are known when it is.
            let schedule = Schedule { due_ms: u64::MAX, filed: None };
            let head = Head::new(schedule, Need::Operation);
            let job = self.enter(key, State::Reading, head, None);
            let known = self.jobs.get_mut(&key).expect("it has just entered");
            known.pending = Some(Box::new(pending));
            self.read_record(job);
            return None;
        };
        let is_settled = !matches!(known.state, State::Reading | State::Writing(_));
        match (&operation, &known.pending) {
            (Operation::Release, Some(before)) if before.operation == Operation::Hold => {
                known.pending = None;
                return Some(Part::Done);
            }
            // A job that is held is in memory only while an operation reads or writes it.
            (Operation::Release, None) if is_settled => {
                return Some(Part::Refused(Refusal::NotHeld));
            }
            (Operation::Retry, _) if is_settled => return Some(Part::UnderWay),
            // What was asked for before follows the attempt that is asked for now.
            (Operation::Retry, Some(_)) => return Some(Part::UnderWay),
            _ => (),
        }
        let before = known.pending.replace(Box::new(pending));
        let job = JobRef { key, incarnation: known.incarnation };
        match &known.state {
            State::Out { owner, .. } => {
                let to = *owner;
                self.effects.push(HomeEffect::Send { to, frame: Frame::Recall { job } });
            }
            State::Waiting { .. } => {
                self.apply_pending(key);
            }
            _ => (),
        }
        if let Some(before) = before {
            self.report(before.ticket, Part::Already);
        }
        None
    }

    /// Carries out what an operator has asked for, now that nobody else changes the job.
    pub(super) fn apply_pending(&mut self, key: JobKey) -> bool {
        let job = self.jobs.get_mut(&key).expect("a job with an operation is in the map");
        let Some(pending) = job.pending.take() else { return false };
        let Pending { ticket, operation } = *pending;
        let now = self.now.schedule;
        let known = &self.jobs[&key];
        let context = self.context(key, None);
        let mut write = match operation {
            Operation::Delete => context.delete(known),
            Operation::Bounce => {
                let text = "bounced by the administrator of this server".into();
                let answer = Answer { status: (5, 7, 0), text, remote: false, cause: None };
                let ended = Ended { counts: false, ..Ended::failed(known, &answer, now) };
                context.settle(known, ended)
            }
            operation => context.operate(known, operation),
        };
        write.ticket = Some(ticket);
        self.write(key, write);
        true
    }

    pub(super) fn report(&mut self, ticket: u64, part: Part) {
        let step = self.operations.report(ticket, part);
        self.follow(ticket, step);
    }

    pub(super) fn follow(&mut self, ticket: u64, step: Step) {
        match step {
            Step::Wait => (),
            Step::Answer(answer) => self.effects.push(HomeEffect::Answer { ticket, answer }),
            Step::ListAgain(id) => self.effects.push(HomeEffect::Read(Errand::List { ticket, id })),
        }
    }
}
