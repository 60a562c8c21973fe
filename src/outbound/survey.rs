//! The destinations of a shard for monitoring: those with the most mail, and the sum of the others.
//!
//! Owner:    the shard's ticker makes the snapshot; any thread may read the latest one.
//! Promise:  reading costs the shard nothing. One tick examines at most `DESTINATIONS_PER_TICK`
//!           destinations; with more, a snapshot takes several ticks. A panic ends only the survey;
//!           the latest snapshot stays.
//! Bounds:   a snapshot names `LARGEST_MAX` destinations; a new one begins `EVERY` after the previous.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::outbound::owner::DestinationView;
use crate::outbound::owner::Owner;
use crate::outbound::scheduler::DestinationId;
use crate::outbound::scheduler::DestinationLoad;
use crate::queue;
use crate::rt::task;
use crate::rt::timer;

/// Destinations that a snapshot names.
pub const LARGEST_MAX: usize = 32;
/// Destinations that one tick looks at: some 20 us of the 15 ms between two.
pub const DESTINATIONS_PER_TICK: usize = 256;
const EVERY: Duration = Duration::from_secs(1);

/// The destinations of a shard at the end of its last look.
#[derive(Clone, Debug, Default)]
pub struct DestinationsSnapshot {
    /// Those with the most mail, the largest first.
    pub largest: Vec<DestinationView>,
    /// All the others together.
    pub others: Others,
}

/// The sum of destinations that are not named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    pub destinations: u64,
    pub queued: u64,
    pub in_flight: u64,
    /// When the oldest queued message was accepted, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
}

/// Where a shard lays out its last snapshot.
#[derive(Debug, Default)]
pub struct DestinationsShelf(ArcSwap<DestinationsSnapshot>);

impl DestinationsShelf {
    /// The last snapshot; an empty one before the first.
    pub fn last(&self) -> Arc<DestinationsSnapshot> {
        self.0.load_full()
    }
}

/// The ticker's side.
pub struct Survey {
    shelf: Arc<DestinationsShelf>,
    state: State,
}

enum State {
    /// The next look begins then.
    Resting(Instant),
    Looking(Look),
    /// A bug has ended it.
    Broken,
}

impl Survey {
    pub fn new(shelf: Arc<DestinationsShelf>) -> Survey {
        Survey { shelf, state: State::Looking(Look::default()) }
    }

    /// One tick's share of the work.
    pub fn tick(&mut self, owner: &Owner) {
        if matches!(self.state, State::Resting(until) if timer::now() < until) {
            return;
        }
        let state = std::mem::replace(&mut self.state, State::Broken);
        if let Some(next) = task::contained(|| self.step(state, owner)) {
            self.state = next;
        }
    }

    fn step(&self, state: State, owner: &Owner) -> State {
        queue::points::point("view::survey");
        match state {
            State::Broken => State::Broken,
            State::Resting(_) => State::Looking(Look::default()),
            State::Looking(mut look) => match look.further(|from, each| owner.loads(from, each)) {
                false => State::Looking(look),
                true => {
                    let snapshot =
                        look.into_snapshot(|destination| owner.destination_view(destination));
                    self.shelf.0.store(Arc::new(snapshot));
                    State::Resting(timer::now() + EVERY)
                }
            },
        }
    }
}

/// A look at all destinations that is under way.
#[derive(Default)]
struct Look {
    /// The place of the next destination.
    from: usize,
    others: Others,
    /// The smallest of them on top.
    largest: BinaryHeap<Reverse<(DestinationLoad, DestinationId)>>,
}

impl Look {
    /// Examines the next destinations. Answers whether that was the last of them.
    fn further(
        &mut self,
        loads: impl FnOnce(usize, &mut dyn FnMut(DestinationId, DestinationLoad)) -> Option<usize>,
    ) -> bool {
        let Look { from, others, largest } = self;
        let next = loads(*from, &mut |destination, load| {
            largest.push(Reverse((load, destination)));
            if largest.len() > LARGEST_MAX
                && let Some(Reverse((smallest, _))) = largest.pop()
            {
                others.add(smallest);
            }
        });
        *from = next.unwrap_or(0);
        next.is_none()
    }

    /// `view` answers none for a destination that was forgotten meanwhile.
    fn into_snapshot(
        self,
        mut view: impl FnMut(DestinationId) -> Option<DestinationView>,
    ) -> DestinationsSnapshot {
        let Look { others, largest, .. } = self;
        let largest = largest.into_sorted_vec().into_iter();
        let largest = largest.filter_map(|Reverse((_, destination))| view(destination));
        DestinationsSnapshot { largest: largest.collect(), others }
    }
}

impl Others {
    fn add(&mut self, load: DestinationLoad) {
        self.destinations += 1;
        self.queued += load.queued as u64;
        self.in_flight += u64::from(load.in_flight);
        self.oldest_ms = [self.oldest_ms, load.oldest_ms].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::base::MessageId;
    use crate::base::limits::DESTINATIONS_MAX;
    use crate::outbound::destination::JobTicket;
    use crate::outbound::scheduler::Scheduler;
    use crate::outbound::scheduler::SchedulerLimits;
    use crate::route::DestinationPolicy;

    fn ticket(raw: u64) -> JobTicket {
        let id = MessageId::from_u64(raw);
        let (tenant, sender, lease, job) = (1, 1, 1, 0);
        JobTicket {
            id,
            lease_until_ms: 60_000,
            bytes: 1,
            tenant,
            sender,
            lease,
            recipients: 1,
            job,
        }
    }

    /// A scheduler with so many destinations; a destination has as many jobs as `jobs` says.
    fn scheduler(destinations: usize, jobs: impl Fn(usize) -> u64) -> Scheduler {
        let mut scheduler = Scheduler::new(SchedulerLimits::default(), 1);
        let policy = Arc::new(DestinationPolicy::default());
        for number in 0..destinations {
            let destination =
                scheduler.destination(&format!("{number}.test:25"), &policy, 0).expect("room");
            for job in 0..jobs(number) {
                scheduler.push(destination, ticket(number as u64 * 1000 + job), 0).expect("room");
            }
        }
        scheduler
    }

    fn look(scheduler: &Scheduler) -> (Look, usize, usize) {
        let (mut look, mut steps, mut most) = (Look::default(), 0, 0);
        loop {
            let mut seen = 0;
            steps += 1;
            let is_done = look.further(|from, each| {
                scheduler.loads(from, DESTINATIONS_PER_TICK, &mut |destination, load| {
                    seen += 1;
                    each(destination, load);
                })
            });
            most = most.max(seen);
            if is_done {
                return (look, steps, most);
            }
        }
    }

    #[test]
    fn a_tick_looks_at_few_of_many_destinations() {
        let scheduler = scheduler(DESTINATIONS_MAX, |number| u64::from(number % 7 == 0));
        let (look, steps, most) = look(&scheduler);
        assert!(most <= DESTINATIONS_PER_TICK, "{most} in one tick");
        assert!(steps >= DESTINATIONS_MAX / DESTINATIONS_PER_TICK, "{steps} ticks");
        assert_eq!(look.others.destinations, (DESTINATIONS_MAX - LARGEST_MAX) as u64);
        assert_eq!(look.largest.len(), LARGEST_MAX);
    }

    #[test]
    fn the_largest_are_named_and_the_rest_is_summed_up() {
        let many = LARGEST_MAX + 10;
        let mut scheduler = scheduler(many, |number| number as u64);
        let (look, _, _) = look(&scheduler);
        let mut named = Vec::new();
        let snapshot = look.into_snapshot(|destination| {
            named.push(scheduler.summary(destination, 0).expect("it is there").key.to_string());
            None
        });
        let expected: Vec<String> =
            (many - LARGEST_MAX..many).rev().map(|number| format!("{number}.test:25")).collect();
        assert_eq!(named, expected);
        let rest: u64 = (0..(many - LARGEST_MAX) as u64).sum();
        let others = Others { destinations: 10, queued: rest, in_flight: 0, oldest_ms: Some(0) };
        assert_eq!(snapshot.others, others);
    }
}
