//! The destinations of a shard for monitoring: those with the most mail, and the sum of the others.
//!
//! Owner:    the shard's ticker makes the snapshot; any thread may read the latest one.
//! Promise:  reading costs the shard nothing. One tick examines a share of them, see
//!           `Owner::loads`; a snapshot takes several ticks if there are more. A panic ends only the survey;
//!           the latest snapshot stays.
//! Bounds:   a snapshot names `LARGEST_MAX` destinations; a new one begins `EVERY` after the previous.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::base::Mono;
use crate::base::Wall;
use crate::delivery::job::Now;
use crate::delivery::owner::Owner;
use crate::delivery::view::DestinationId;
use crate::delivery::view::DestinationLoad;
use crate::delivery::view::DestinationView;
use crate::queue;
use crate::rt::task;
/// Destinations that a snapshot names.
pub const LARGEST_MAX: usize = 32;
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
    /// When the oldest queued message was accepted.
    pub oldest: Option<Wall>,
}

/// The last snapshot of a shard; an empty one before the first.
pub type DestinationsShelf = ArcSwap<DestinationsSnapshot>;

/// The ticker's side.
pub struct Survey {
    shelf: Arc<DestinationsShelf>,
    /// `None`: a bug has ended it.
    state: Option<State>,
}

enum State {
    /// The next look begins then.
    Resting(Mono),
    Looking(Look),
}

impl Survey {
    pub fn new(shelf: Arc<DestinationsShelf>) -> Survey {
        Survey { shelf, state: Some(State::Looking(Look::default())) }
    }

    /// One tick's share of the work.
    pub fn tick(&mut self, owner: &mut Owner, now: Now) {
        if matches!(self.state, Some(State::Resting(until)) if now.mono < until) {
            return;
        }
        if let Some(state) = self.state.take() {
            self.state = task::contained(|| self.step(state, owner, now));
        }
    }

    fn step(&self, state: State, owner: &mut Owner, now: Now) -> State {
        queue::points::point("view::survey");
        match state {
            State::Resting(_) => State::Looking(Look::default()),
            State::Looking(mut look) => match look.further(owner) {
                false => State::Looking(look),
                true => {
                    let snapshot = look.into_snapshot(owner, now);
                    self.shelf.store(Arc::new(snapshot));
                    State::Resting(now.mono.plus(EVERY))
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
    fn further(&mut self, owner: &Owner) -> bool {
        let Look { from, others, largest } = self;
        let next = owner.loads(*from, &mut |destination, load| {
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

    /// Without destinations that were forgotten meanwhile.
    fn into_snapshot(self, owner: &mut Owner, now: Now) -> DestinationsSnapshot {
        let Look { others, largest, .. } = self;
        let largest = largest.into_sorted_vec().into_iter();
        let largest = largest.filter_map(|Reverse((_, id))| owner.destination_view(id, now));
        DestinationsSnapshot { largest: largest.collect(), others }
    }
}

impl Others {
    fn add(&mut self, load: DestinationLoad) {
        self.destinations += 1;
        self.queued += load.queued as u64;
        self.in_flight += u64::from(load.in_flight);
        self.oldest = [self.oldest, load.oldest].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests;
