//! Destinations in `/metrics`: those with the most mail by name, the others as one sum.
//!
//! Owner:    the monitor thread. The figures come from the last snapshot of each shard.
//! Bounds:   `METRIC_DESTINATIONS_MAX` names. A destination that is not among the largest of its
//!           shard counts among the others.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Wall;
use crate::base::limits::METRIC_DESTINATIONS_MAX;
use crate::delivery::survey::DestinationsShelf;
use crate::delivery::survey::DestinationsSnapshot;
use crate::observe::exposition::Exposition;
use crate::observe::metric::Kind;

/// The label value for all destinations without series of their own. Names of destinations hold a
/// port, so none has this name.
const OTHER: &str = "other";

/// Figures of one destination, or of all others together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub queued: u64,
    pub in_flight: u64,
    /// When the oldest queued message was accepted.
    pub oldest: Option<Wall>,
}

impl Load {
    fn add(&mut self, other: Load) {
        self.queued += other.queued;
        self.in_flight += other.in_flight;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
    }
}

/// The destinations of all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    pub named: Vec<(String, Load)>,
    pub others: Load,
    /// Destinations that the shards know, named or not.
    pub known: u64,
}

/// The last snapshots of all shards, added up.
pub fn loads(shelves: &[Arc<DestinationsShelf>]) -> Loads {
    add_up(shelves.iter().map(|shelf| shelf.load_full()))
}

fn add_up(snapshots: impl Iterator<Item = Arc<DestinationsSnapshot>>) -> Loads {
    let mut named: BTreeMap<String, Load> = BTreeMap::new();
    let (mut others, mut known) = (Load::default(), 0);
    for snapshot in snapshots {
        for view in &snapshot.largest {
            let queued = view.queued as u64 + u64::from(view.waiting);
            let in_flight = u64::from(view.connections.busy);
            let load = Load { queued, in_flight, oldest: view.oldest };
            named.entry(view.key.to_string()).or_default().add(load);
        }
        let rest = snapshot.others;
        let (queued, in_flight, oldest) = (rest.queued, rest.in_flight, rest.oldest);
        others.add(Load { queued, in_flight, oldest });
        known += rest.destinations;
    }
    known += named.len() as u64;
    let mut named: Vec<(String, Load)> = named.into_iter().collect();
    named.sort_by_key(|(_, load)| Reverse(load.queued + load.in_flight));
    for (_, load) in named.drain(METRIC_DESTINATIONS_MAX.min(named.len())..) {
        others.add(load);
    }
    Loads { named, others, known }
}

/// Adds the metrics of destinations.
pub fn expose(page: &mut Exposition, loads: &Loads, now: Wall) {
    let all = || {
        let named = loads.named.iter().map(|(name, load)| (name.as_str(), load));
        named.chain([(OTHER, &loads.others)])
    };
    let help = "Destinations known to the shards.";
    page.metric("destinations", Kind::Gauge, help).sample(&[], loads.known);
    let help = "Jobs of a destination in memory, by state.";
    page.metric("destination_jobs", Kind::Gauge, help);
    for (name, load) in all() {
        page.sample(&[("destination", name), ("state", "queued")], load.queued);
        page.sample(&[("destination", name), ("state", "in_flight")], load.in_flight);
    }
    let help = "Age of the oldest message queued at the owner shard of a destination; 0 if none is queued.";
    page.metric("destination_oldest_message_age_seconds", Kind::Gauge, help);
    for (name, load) in all() {
        let age_ms = load.oldest.map_or(0, |oldest| now.ms_since(oldest));
        page.sample(&[("destination", name)], age_ms as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use crate::delivery::survey::Others;
    use crate::delivery::view::DestinationView;

    use super::*;

    fn view(name: &str, queued: usize, oldest_ms: u64) -> DestinationView {
        let oldest = Some(Wall::from_ms(oldest_ms));
        DestinationView { key: name.into(), queued, oldest, ..DestinationView::default() }
    }

    fn snapshot(largest: Vec<DestinationView>, queued: u64) -> Arc<DestinationsSnapshot> {
        let others =
            Others { destinations: 3, queued, in_flight: 1, oldest: Some(Wall::from_ms(40_000)) };
        Arc::new(DestinationsSnapshot { largest, others })
    }

    #[test]
    fn stripes_are_added_up_and_the_rest_is_one_sum() {
        let many = (0..METRIC_DESTINATIONS_MAX + 2).map(|number| {
            view(&format!("{number}.test:25"), 10 + number, 90_000 - number as u64 * 1_000)
        });
        let snapshots =
            [snapshot(many.collect(), 5), snapshot(vec![view("9.test:25", 100, 50_000)], 6)];
        let loads = add_up(snapshots.into_iter());
        assert_eq!(loads.named.len(), METRIC_DESTINATIONS_MAX);
        let striped = Load { queued: 119, in_flight: 0, oldest: Some(Wall::from_ms(50_000)) };
        assert_eq!(loads.named[0], ("9.test:25".to_owned(), striped));
        let rest =
            Load { queued: 5 + 6 + 10 + 11, in_flight: 2, oldest: Some(Wall::from_ms(40_000)) };
        assert_eq!((loads.others, loads.known), (rest, METRIC_DESTINATIONS_MAX as u64 + 2 + 6));
        let mut page = Exposition::default();
        expose(&mut page, &loads, Wall::from_ms(60_500));
        let text = page.into_text();
        for line in [
            "ringpost_destination_jobs{destination=\"9.test:25\",state=\"queued\"} 119",
            "ringpost_destination_jobs{destination=\"other\",state=\"in_flight\"} 2",
            "ringpost_destination_oldest_message_age_seconds{destination=\"other\"} 20.5",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is missing in\n{text}");
        }
    }
}
