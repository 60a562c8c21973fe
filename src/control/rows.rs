//! Destinations as rows for operators: one row for each, also where several shards own a share.
//!
//! Promise:  the row of a striped destination has the sums of its stripes, also of limits, since each
//!           stripe has its share of them; state and binding are those of the worst stripe. The rows
//!           of the shards are in `stripes`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::ShardId;
use crate::operations::destination::Binding;
use crate::operations::destination::Connections;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::RateLimits;
use crate::outbound::destination;
use crate::outbound::owner::DestinationView;
use crate::outbound::survey::DestinationsShelf;

/// The largest destinations by the shards' last snapshots.
pub fn largest(shelves: &[Arc<DestinationsShelf>], limit: usize) -> Vec<DestinationRow> {
    let of_shard = |(number, shelf): (usize, &Arc<DestinationsShelf>)| {
        let shard = ShardId(number as u16);
        let views = shelf.last();
        views.largest.iter().map(|view| destination_row(view, shard)).collect::<Vec<_>>()
    };
    let mut rows = merged(shelves.iter().enumerate().flat_map(of_shard));
    rows.truncate(limit);
    rows
}

pub(super) fn destination_row(view: &DestinationView, shard: ShardId) -> DestinationRow {
    let one = &view.summary;
    let (counts, counters) = (&one.connections, &one.counters);
    let binding = binding_of(one.binding);
    DestinationRow {
        destination: one.key.to_string(),
        name: view.name.to_string(),
        shard: Some(shard.0),
        state: binding.state(),
        binding,
        queued: one.queued as u64,
        in_flight: one.in_flight.into(),
        per_minute: one.per_minute,
        connections: Connections {
            opening: counts.opening as u64,
            busy: (counts.asking + counts.busy) as u64,
            idle: counts.idle as u64,
            closing: counts.closing as u64,
            all: counts.all() as u64,
            max: one.connections_max.into(),
        },
        window: one.window.into(),
        rates: RateLimits {
            second: one.rates.per_second.map(u64::from),
            minute: one.rates.per_minute.map(u64::from),
            hour: one.rates.per_hour.map(u64::from),
            day: one.rates.per_day.map(u64::from),
        },
        delivered: counters.delivered,
        refused: counters.refused,
        deferred: counters.deferred,
        lost: counters.lost,
        failures: counters.failures,
        handed_back: counters.handed_back,
        last_error: Some(one.last_error.to_string()).filter(|text| !text.is_empty()),
        lack: Some(one.lack.to_string()).filter(|text| !text.is_empty()),
        stripes: Vec::new(),
    }
}

pub(super) fn binding_of(binding: destination::Binding) -> Binding {
    match binding {
        destination::Binding::Nothing => Binding::Nothing,
        destination::Binding::Paused => Binding::Paused,
        destination::Binding::BackingOff { until_ms } => Binding::BackingOff { until_ms },
        destination::Binding::Probing => Binding::Probing,
        destination::Binding::Throttled { until_ms } => Binding::Throttled { until_ms },
        destination::Binding::Rate { until_ms } => Binding::Rate { until_ms },
        destination::Binding::Hold { until_ms } => Binding::Hold { until_ms },
        destination::Binding::OwnLimit { until_ms } => Binding::OwnLimit { until_ms },
        destination::Binding::Window { window } => Binding::Window { limit: window.into() },
        destination::Binding::ConnectionsMax { connections } => {
            Binding::Connections { limit: connections.into() }
        }
        destination::Binding::Overall { connections } => {
            Binding::ShardConnections { limit: connections as u64 }
        }
    }
}

/// One row for each destination from the rows of all shards, those with the most mail first.
pub(super) fn merged(rows: impl IntoIterator<Item = DestinationRow>) -> Vec<DestinationRow> {
    let mut by_key: BTreeMap<String, Vec<DestinationRow>> = BTreeMap::new();
    for row in rows {
        by_key.entry(row.destination.clone()).or_default().push(row);
    }
    let mut rows: Vec<DestinationRow> = by_key.into_values().filter_map(whole).collect();
    rows.sort_by_key(|row| Reverse((row.queued + row.in_flight, row.per_minute)));
    rows
}

fn whole(stripes: Vec<DestinationRow>) -> Option<DestinationRow> {
    let worst = stripes.iter().max_by_key(|row| row.state)?;
    if stripes.len() == 1 {
        return stripes.into_iter().next();
    }
    let mut whole = DestinationRow {
        shard: None,
        last_error: worst
            .last_error
            .clone()
            .or_else(|| stripes.iter().find_map(|row| row.last_error.clone())),
        lack: stripes.iter().find_map(|row| row.lack.clone()),
        ..worst.clone()
    };
    let sum = |of: fn(&DestinationRow) -> u64| stripes.iter().map(of).sum::<u64>();
    let sum_limits = |of: fn(&DestinationRow) -> Option<u64>| {
        stripes.iter().filter_map(of).fold(None, |sum, limit| Some(sum.unwrap_or(0) + limit))
    };
    whole.queued = sum(|row| row.queued);
    whole.in_flight = sum(|row| row.in_flight);
    whole.per_minute = sum(|row| row.per_minute);
    whole.connections = Connections {
        opening: sum(|row| row.connections.opening),
        busy: sum(|row| row.connections.busy),
        idle: sum(|row| row.connections.idle),
        closing: sum(|row| row.connections.closing),
        all: sum(|row| row.connections.all),
        max: sum(|row| row.connections.max),
    };
    whole.window = sum(|row| row.window);
    whole.rates = RateLimits {
        second: sum_limits(|row| row.rates.second),
        minute: sum_limits(|row| row.rates.minute),
        hour: sum_limits(|row| row.rates.hour),
        day: sum_limits(|row| row.rates.day),
    };
    whole.delivered = sum(|row| row.delivered);
    whole.refused = sum(|row| row.refused);
    whole.deferred = sum(|row| row.deferred);
    whole.lost = sum(|row| row.lost);
    whole.failures = sum(|row| row.failures);
    whole.handed_back = sum(|row| row.handed_back);
    whole.stripes = stripes;
    Some(whole)
}

/// A row for the tests of this folder.
#[cfg(test)]
pub(super) fn sample_row(destination: &str, shard: u16, binding: Binding) -> DestinationRow {
    DestinationRow {
        destination: destination.to_owned(),
        name: "a".to_owned(),
        shard: Some(shard),
        state: binding.state(),
        binding,
        queued: 0,
        in_flight: 1,
        per_minute: 30,
        connections: Connections { all: 2, max: 5, ..Connections::default() },
        window: 5,
        rates: RateLimits { minute: Some(10), ..RateLimits::default() },
        delivered: 0,
        refused: 0,
        deferred: 0,
        lost: 0,
        failures: 0,
        handed_back: 0,
        last_error: None,
        lack: None,
        stripes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::operations::destination::DestinationState;

    #[test]
    fn a_striped_destination_is_one_row_with_sums() {
        let row = |destination, shard, binding, queued| DestinationRow {
            queued,
            last_error: (binding == Binding::Nothing).then(|| "450 later".to_owned()),
            ..sample_row(destination, shard, binding)
        };
        let alone = row("b.test:25", 0, Binding::Nothing, 4);
        let stripes = vec![
            row("a.test:25", 0, Binding::Nothing, 3),
            row("a.test:25", 1, Binding::BackingOff { until_ms: 7 }, 5),
        ];
        let rows = merged([stripes[0].clone(), alone.clone(), stripes[1].clone()]);
        assert_eq!(rows.len(), 2);
        let (striped, plain) = (&rows[0], &rows[1]);
        assert_eq!(plain, &alone, "as its shard reported it");
        assert_eq!((striped.queued, striped.in_flight, striped.window), (8, 2, 10));
        assert_eq!((striped.connections.all, striped.connections.max), (4, 10));
        assert_eq!(striped.rates, RateLimits { minute: Some(20), ..RateLimits::default() });
        assert_eq!(striped.binding, Binding::BackingOff { until_ms: 7 }, "a time is not a sum");
        assert_eq!(striped.state, DestinationState::BackingOff, "the worst");
        assert_eq!(striped.last_error.as_deref(), Some("450 later"));
        assert_eq!(striped.shard, None);
        assert_eq!(striped.stripes, stripes);
    }
}
