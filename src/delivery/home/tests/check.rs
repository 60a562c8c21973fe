//! What tests ask of a home: when it wants to be called again, and whether its rules hold.

use std::collections::BTreeMap;

use crate::base::Mono;
use crate::base::Wall;
use crate::base::limits::LOOKUPS_OUT_MAX;
use crate::delivery::home::Home;
use crate::delivery::home::LOOKUP_QUICK;
use crate::delivery::home::LOOKUPS_MAX;
use crate::delivery::home::TARGET_BYTES;
use crate::delivery::home::WRITES_MAX;
use crate::delivery::job::Lookup;
use crate::delivery::job::Need;
use crate::delivery::job::State;
use crate::queue::record::key::FlowKey;
use crate::queue::record::rows::Row;

impl Home {
    /// When `Tick` is to come at the latest. The wall clock may jump meanwhile, so `Tick` comes every
    /// second besides.
    pub fn next_wake(&self) -> Option<Mono> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let reads = self.partitions.values().filter(|_| self.may_claim());
        let reads = reads.filter(|own| !own.is_failed).filter_map(|own| {
            let at = self.mono_of(Wall::from_ms(own.cursor.next_ms()?));
            Some(at.max(own.cursor.not_before()))
        });
        let deadline = self.deadlines.first().filter(|_| self.writing < WRITES_MAX);
        let deadline = deadline.map(|(at, _)| self.mono_of(*at));
        let flow = self.flows.next_wake_ms().map(|at_ms| self.mono_of(Wall::from_ms(at_ms)));
        let waits = self.quick.first().filter(|_| !self.lookups.is_empty());
        let lookup = waits.map(|(since, _)| since.plus(LOOKUP_QUICK));
        reads.chain([timer, deadline, flow, lookup].into_iter().flatten()).min()
    }

    /// R1, R2 and R4 to R6 as far as the map shows them. The simulation compares the rows on disk by
    /// `covers`.
    pub fn check(&self) {
        let (mut claims, mut queued) = (0, 0);
        let (mut out, mut writing, mut lookups, mut open) = (0, 0, 0, 0);
        let mut bytes = 0;
        let mut held: BTreeMap<FlowKey, u32> = BTreeMap::new();
        let mut by_target: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for (key, job) in &self.jobs {
            bytes += job.bytes();
            open += usize::from(job.head.need == Need::Refile);
            if let Some(filed) = job.head.schedule.filed {
                *held.entry(filed.flow).or_default() += 1;
            }
            match &job.state {
                State::Reading => claims += 1,
                State::Resolving(Lookup::Queued { .. }) => queued += 1,
                State::Resolving(lookup) => {
                    claims += 1;
                    lookups += usize::from(matches!(lookup, Lookup::UnderWay { .. }));
                }
                State::Waiting { slot, deadline, .. } => {
                    by_target.entry(job.flow().target).or_default().0 += 1;
                    let at = deadline.expect("a job that waits has a deadline");
                    assert!(self.deadlines.contains(&(at, *key)), "the deadline of {key:?}");
                    let own = &self.partitions[&key.0.partition()];
                    let is_hidden = own.hidden.iter().any(|hidden| hidden.key == *key);
                    assert!(slot.is_some() || is_hidden, "{key:?} is queued or hidden");
                }
                State::Out { .. } => {
                    by_target.entry(job.flow().target).or_default().1 += 1;
                    out += 1;
                }
                State::Writing(_) => writing += 1,
            }
        }
        let counted = (self.claims, self.out, self.writing, self.lookups_under_way);
        assert_eq!(counted, (claims, out, writing, lookups), "counts of states");
        assert_eq!(self.queued, queued, "jobs that wait for a lookup");
        assert_eq!(self.refiling.open, open, "jobs that are refiled");
        let bytes = bytes + self.targets.len() * TARGET_BYTES;
        assert_eq!(self.memory.used(), bytes, "bytes in memory");
        for (id, target) in &self.targets {
            target.check();
            let counted = by_target.get(id).copied().unwrap_or_default();
            assert_eq!((target.waiting(), target.out()), counted, "jobs of a destination");
        }
        for (flow, count) in held {
            assert_eq!(self.flows.get(&flow).map(|state| state.held), Some(count), "{flow:?}");
        }
        assert!(self.lookups_under_way <= LOOKUPS_OUT_MAX, "lookups");
        assert!(self.quick.len() <= LOOKUPS_MAX, "quick lookups");
        for (since, key) in &self.quick {
            let state = &self.jobs[key].state;
            let is_it = |at: &Mono| at == since;
            assert!(matches!(state, State::Resolving(Lookup::UnderWay { since }) if is_it(since)));
        }
    }

    /// R4: whether a row that is due will be met.
    pub fn covers(&self, row: Row) -> bool {
        let job = row.job();
        let partition = job.0.partition();
        let Some(own) = self.partitions.get(&partition) else { return false };
        let is_covered = match row {
            Row::Due(row) => own.cursor.covers(row),
            Row::Backlog(row) => {
                let cursor = self.flows.cursor(&row.flow, partition);
                cursor.is_some_and(|cursor| cursor.covers(row.due))
                    || self.flows.is_incomplete()
                    || own.is_searching
            }
        };
        is_covered || self.jobs.contains_key(&job)
    }

    /// The moment of the monotonic clock at which the schedule will show this time.
    fn mono_of(&self, at: Wall) -> Mono {
        self.now.mono.plus_ms(at.ms_since(self.now.schedule))
    }
}
