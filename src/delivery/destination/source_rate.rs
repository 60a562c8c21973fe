//! The rates of sources at a destination.
//!
//! Promise:  no source exceeds its rate. While one has used it up, the others go on.

use super::*;

use crate::delivery::tokens::Tokens;

impl Destination {
    /// The next source that has no rate yet, where sources have rates.
    pub fn next_unrated(&self) -> Option<(usize, Option<&str>)> {
        if !self.policy.source_rates.is_limited() {
            return None;
        }
        let unrated = self.outlets.iter().position(|outlet| outlet.key.is_none())?;
        Some((unrated, self.outlets[unrated].source.as_deref()))
    }

    pub fn set_source_rate(&mut self, outlet: usize, key: u64, rate: Rate) {
        let outlet = &mut self.outlets[outlet];
        (outlet.key, outlet.rate) = (Some(key), rate);
    }

    /// The rates of the destination, which has this key, and of its sources.
    pub fn rates(&mut self, key: u64) -> impl Iterator<Item = (u64, &mut Rate)> {
        let sources = self.outlets.iter_mut();
        let sources = sources.filter_map(|outlet| Some((outlet.key?, &mut outlet.rate)));
        std::iter::once((key, &mut self.rate)).chain(sources)
    }

    /// When the lead is to be told of tokens again.
    pub fn tokens_act_at(&self, now: Mono) -> Option<Mono> {
        let rates = self.outlets.iter().map(|outlet| &outlet.rate).chain([&self.rate]);
        let times = rates.filter_map(|rate| match rate {
            Rate::Tokens(tokens) => tokens.acts_at(now),
            Rate::Own(_) => None,
        });
        times.filter(|_| !self.queue.is_empty()).min()
    }

    /// Whether a connection takes a job, or may be opened for one.
    pub fn has_free_connection(&self, now: Mono) -> bool {
        self.counts.busy < self.limit().min(self.size(now))
    }

    /// The tokens of sources, and the messages that wait for each. Those of a class are divided among
    /// its sources.
    pub fn source_tokens(&mut self) -> impl Iterator<Item = (u64, u32, &mut Tokens)> {
        let mut waiting = vec![0; self.outlets.len()];
        for (class, ready) in self.queue.ready_by_class() {
            let outlets = &self.classes[class.0 as usize].outlets;
            for (outlet, _) in outlets {
                waiting[*outlet as usize] += ready.div_ceil(outlets.len()) as u32;
            }
        }
        self.outlets.iter_mut().zip(waiting).filter_map(|(outlet, waiting)| {
            match &mut outlet.rate {
                Rate::Tokens(tokens) => Some((outlet.key?, waiting, tokens)),
                Rate::Own(_) => None,
            }
        })
    }

    /// The job that a connection took last does not begin. Whether a rate had counted it.
    pub fn give_back(&mut self, link: &Link, counted: CountedBy, now: Mono) -> bool {
        let outlet = &mut self.outlets[link.outlet as usize];
        let rates = [(counted.destination, &mut self.rate), (counted.source, &mut outlet.rate)];
        let counted = rates.into_iter().filter_map(|(until, rate)| Some((until?, rate)));
        counted.map(|(until, rate)| rate.give_back(until, now)).count() > 0
    }

    /// Whether connections from other sources would take jobs that wait, beyond those that come.
    pub(super) fn others_send(&self, link: &Link, is_asking: bool, now: Mono) -> bool {
        let lacks = |(class, ready): (ConnectionClass, usize)| {
            let own = usize::from(is_asking && class == link.class);
            ready + own > self.class_coming(class)
        };
        let opens = |outlet: u32| outlet != link.outlet && self.outlets[outlet as usize].opens(now);
        let serves = |class: ConnectionClass| {
            let class = &self.classes[class.0 as usize];
            let is_due = class.opens_at().is_some_and(|at| at <= now);
            is_due && class.outlets.iter().any(|(outlet, _)| opens(*outlet))
        };
        let mut ready = self.queue.ready_by_class();
        self.rate.room(now) > 0 && ready.any(|one| lacks(one) && serves(one.0))
    }

    /// Whether a rate keeps the job from being sent that was queued last.
    pub fn is_rate_spent(&mut self, now: Mono) -> bool {
        if self.rate.free(now) == 0 {
            return true;
        }
        if !self.policy.source_rates.is_limited() {
            return false;
        }
        let latest = self.latest.and_then(|latest| self.classes.get(latest as usize));
        let outlets = latest.into_iter().flat_map(|class| &class.outlets);
        let outlets: Vec<u32> = outlets.map(|(outlet, _)| *outlet).collect();
        self.first_spent(&outlets, now).is_some()
    }

    /// Of the sources of a pool that have used up their rates the one that is free again first, and when,
    /// if the others do not send either.
    pub(super) fn spent_source(
        &mut self,
        pool: Option<&str>,
        sources: &SourceTable,
        now: Mono,
    ) -> Option<(u32, Option<Mono>)> {
        if !self.policy.source_rates.is_limited() {
            return None;
        }
        let known = |source: Option<&str>| self.by_source.get(&source.map(Box::from)).copied();
        let outlets: Option<Vec<u32>> = match pool.and_then(|pool| sources.pool(pool)) {
            None => known(pool).map(|outlet| vec![outlet]),
            Some(pool) => sources.members(pool).map(|(one, _)| known(Some(&one.name))).collect(),
        };
        self.first_spent(&outlets?, now)
    }

    fn first_spent(&mut self, outlets: &[u32], now: Mono) -> Option<(u32, Option<Mono>)> {
        let mut first: Option<(u32, Option<Mono>)> = None;
        for number in outlets {
            let outlet = &mut self.outlets[*number as usize];
            if outlet.rate.is_spent(now) {
                let at = outlet.rate.frees_at(now);
                if first.is_none_or(|(_, first)| at < first) {
                    first = Some((*number, at));
                }
            } else if outlet.binds(now).is_none() && outlet.quiet_until <= now {
                return None;
            }
        }
        first
    }
}
