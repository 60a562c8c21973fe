//! What homes hear of an owner: the places that they have, and answers for jobs that are not sent.
//!
//! Promise:  a job is answered once. A job of a destination that rests goes back unwritten, unless a
//!           connection was tried for it.

use super::*;

impl Owner {
    /// Reckons the places of a destination anew, and tells the homes whose places change.
    pub(super) fn grant(&mut self, index: u32, now: Mono) {
        let Entry { destination, grants, .. } = &mut self.entries[index as usize];
        let sources = &self.policy.sources;
        let places_for = (destination.window(now), destination.flows() as u32);
        let mut told = Vec::new();
        let mut state_of = |pool: Option<&str>| {
            (destination.state(pool, sources, now), destination.awaits_probe(pool))
        };
        grants.reckon(places_for, now, &mut state_of, &mut told);
        self.set_timer(index, now);
        for one in told {
            self.send_grant(one.home, one.target, (one.total, one.per_flow), one.state);
        }
        self.note_rest(index, now);
    }

    fn note_rest(&mut self, index: u32, now: Mono) {
        let entry = &mut self.entries[index as usize];
        let pool = entry.hop.pool.clone();
        let state = entry.destination.state(pool.as_deref(), &self.policy.sources, now);
        let rests = match state.binds {
            // Hides whether it rests otherwise.
            Binds::Paused => return,
            Binds::BackingOff | Binds::Suspended => true,
            _ => false,
        };
        if std::mem::replace(&mut entry.is_resting, rests) != rests {
            let Counters { failures, returned, .. } = entry.destination.counters;
            let (destination, state) = (entry.destination.name.clone(), Box::new(state));
            self.effects.push(OwnerEffect::Log { destination, state, failures, returned });
        }
    }

    pub(super) fn send_grant(
        &mut self,
        to: ShardId,
        target: u64,
        places: (u32, u32),
        state: GrantState,
    ) {
        let (total, per_flow) = places;
        let frame = Frame::Grant { target, from: self.me, total, per_flow, state: Arc::new(state) };
        self.send(to, frame);
    }

    /// Jobs of a destination that rests go home: one for each connection that failed for it as tried.
    pub(super) fn send_back(&mut self, index: u32, back: Vec<SentBack>, now: Mono) {
        if back.is_empty() {
            return;
        }
        self.touched.insert(index);
        for SentBack { delivery, was_tried } in back {
            if self.answer_unmet(index, &delivery, now) {
                continue;
            }
            let entry = &mut self.entries[index as usize];
            let pool = delivery.hop.pool.as_deref();
            let state = entry.destination.state(pool, &self.policy.sources, now);
            match state.last.filter(|_| was_tried) {
                Some(answer) => {
                    let not_before = state.until.unwrap_or(now);
                    let (answer, host) = ((*answer).clone(), state.last_host);
                    self.settle(&delivery, What::Unreached { answer, host, not_before });
                }
                None => self.return_job(delivery, Returned::NoPlaces),
            }
        }
        self.grant(index, now);
    }

    /// Answers a job for which TLS has failed so often that none of its kind is tried for a time.
    pub(super) fn answer_unmet(&mut self, index: u32, delivery: &Delivery, now: Mono) -> bool {
        let destination = &self.entries[index as usize].destination;
        let Some((not_before, answer, host)) = destination.unmet(&delivery.hop, now) else {
            return false;
        };
        let answer = (*answer).clone();
        self.settle(delivery, What::Unreached { answer, host, not_before });
        true
    }

    /// Empties the queue of a destination.
    pub(super) fn return_all(&mut self, index: u32, why: Returned) {
        for sent_back in self.entries[index as usize].destination.drain() {
            self.return_job(sent_back.delivery, why);
        }
    }

    pub(super) fn return_job(&mut self, delivery: Box<Delivery>, why: Returned) {
        self.settle(&delivery, What::Returned(why));
    }

    pub(super) fn settle(&mut self, delivery: &Delivery, what: What) {
        if let Some(Whereabouts::Queued { destination, .. }) = self.jobs.remove(&delivery.job) {
            self.leave_tenant(destination, delivery.flow.tenant);
            if matches!(what, What::Returned(_)) {
                self.entries[destination as usize].destination.counters.returned += 1;
            }
        }
        let outcome = Outcome { job: delivery.job, what, unsettled: None };
        let frame = Frame::Settle(Box::new(outcome));
        self.send(delivery.home, frame);
    }
}
