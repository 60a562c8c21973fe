//! Destinations as rows for operators: one row for each, also where several shards own a share.
//!
//! Promise:  the row of a striped destination has the sums of its stripes, but for the limits, which
//!           hold for all of them together; state and binding are those of the worst stripe. The rows
//!           of the shards are in `stripes`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::base::Mono;
use crate::base::ShardId;
use crate::base::Wall;
use crate::delivery::job::Now;
use crate::delivery::survey::DestinationsShelf;
use crate::delivery::view::DestinationView;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Bound;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::GrantState;
use crate::operations::destination::Binding;
use crate::operations::destination::Connections;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::EvidenceRow;
use crate::operations::destination::RateLimits;
use crate::operations::destination::SourceRow;
use crate::operations::why::Granted;
use crate::queue::Spool;
use crate::queue::admin::operate::HELD_DUE_MS;
use crate::route::Rates;

/// The largest destinations by the shards' last snapshots.
pub fn largest(shelves: &[Arc<DestinationsShelf>], limit: usize) -> Vec<DestinationRow> {
    let of_shard = |(number, shelf): (usize, &Arc<DestinationsShelf>)| {
        let shard = ShardId(number as u16);
        let views = shelf.load();
        views.largest.iter().map(|view| destination_row(view, shard)).collect::<Vec<_>>()
    };
    let mut rows = merged(shelves.iter().enumerate().flat_map(of_shard));
    rows.truncate(limit);
    rows
}

pub(super) fn destination_row(view: &DestinationView, shard: ShardId) -> DestinationRow {
    let (counts, counters) = (&view.connections, &view.counters);
    let binding = binding_of(view.binding, view.at);
    DestinationRow {
        destination: view.key.to_string(),
        name: view.name.to_string(),
        shard: Some(shard.0),
        state: binding.state(),
        binding,
        queued: view.queued as u64 + u64::from(view.waiting),
        waiting: view.waiting.into(),
        in_flight: counts.busy.into(),
        per_minute: view.per_minute,
        connections: Connections {
            opening: counts.opening.into(),
            busy: (counts.asking + counts.busy).into(),
            idle: counts.idle.into(),
            closing: counts.closing.into(),
            all: counts.all().into(),
            max: view.connections_max.into(),
        },
        window: view.window.into(),
        rates: rate_limits(&view.rates),
        source_rates: rate_limits(&view.source_rates),
        delivered: counters.delivered,
        refused: counters.refused,
        deferred: counters.deferred,
        lost: counters.lost,
        failures: counters.failures,
        handed_back: counters.returned,
        last_error: view.last_error.as_ref().map(|answer| answer.text.to_string()),
        last_host: said(&view.last_host),
        lack: view.lack.map(|lack| lack.words().to_owned()),
        spent_source: view.spent_source.as_deref().map(String::from),
        evidence: Vec::new(),
        sources: Vec::new(),
        stripes: Vec::new(),
    }
}

fn rate_limits(rates: &Rates) -> RateLimits {
    let [second, minute, hour, day] = rates.all().map(|limit| limit.map(u64::from));
    RateLimits { second, minute, hour, day }
}

/// As `destination_row`, with sources and the evidence of reply rules.
pub(super) fn detailed_row(
    view: &DestinationView,
    shard: ShardId,
    spool: &Spool,
) -> DestinationRow {
    let sources = view.sources.iter().map(|one| SourceRow {
        source: one.source.as_deref().map(String::from),
        connections: one.connections.into(),
        window: one.window.into(),
        binding: binding_of(one.bound, view.at),
    });
    DestinationRow {
        evidence: view.evidence.iter().map(|one| evidence_row(one, spool)).collect(),
        sources: sources.collect(),
        ..destination_row(view, shard)
    }
}

fn evidence_row(evidence: &Evidence, spool: &Spool) -> EvidenceRow {
    EvidenceRow {
        at_ms: evidence.at.as_ms(),
        until_ms: evidence.until.as_ms(),
        rule: evidence.rule.to_string(),
        reply: evidence.reply.to_string(),
        message: evidence.message.map(|id| spool.public_id(id).to_string()),
    }
}

/// What an owner told of a destination. `places`: those that the home shard has.
pub(super) fn granted(state: &GrantState, places: u32, at: Now, spool: &Spool) -> Granted {
    Granted {
        binding: match state.binds.is_momentary() {
            true => Binding::Places { limit: places.into() },
            false => binding_of((state.binds, state.until), at),
        },
        last_error: state.last.as_ref().map(|answer| answer.text.to_string()),
        last_host: said(&state.last_host),
        evidence: state.evidence.as_ref().map(|evidence| evidence_row(evidence, spool)),
        spent_source: state.source.as_deref().map(String::from),
    }
}

pub(super) fn binding_of((binds, until): Bound, at: Now) -> Binding {
    let until_ms = until_ms(until.unwrap_or(at.mono), at);
    match binds {
        Binds::Nothing => Binding::Nothing,
        Binds::Paused => Binding::Paused,
        Binds::Suspended => Binding::Suspended { until_ms },
        Binds::BackingOff if until.is_none() => Binding::Probing,
        Binds::BackingOff => Binding::BackingOff { until_ms },
        Binds::Throttled => Binding::Throttled { until_ms },
        Binds::Rate => Binding::Rate { until_ms },
        Binds::SourceRate => Binding::SourceRate { until_ms },
        Binds::TenantRate => Binding::TenantRate { until_ms },
        Binds::Hold => Binding::Hold { until_ms },
        Binds::OurLimit(_) => Binding::OwnLimit { until_ms },
        Binds::Window(limit) => Binding::Window { limit: limit.into() },
        Binds::Connections(limit) => Binding::Connections { limit: limit.into() },
        Binds::Process(limit) => Binding::ServerConnections { limit: limit.into() },
    }
}

/// A moment that never comes is told as the end of the year 9999.
fn until_ms(until: Mono, at: Now) -> u64 {
    at.wall_at(until).map_or(HELD_DUE_MS, Wall::as_ms)
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
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
    let of_worst = Some(worst).filter(|row| row.last_error.is_some());
    let told_by = of_worst.or_else(|| stripes.iter().find(|row| row.last_error.is_some()));
    let mut whole = DestinationRow {
        shard: None,
        last_error: told_by.and_then(|row| row.last_error.clone()),
        last_host: told_by.and_then(|row| row.last_host.clone()),
        lack: stripes.iter().find_map(|row| row.lack.clone()),
        ..worst.clone()
    };
    let sum = |of: fn(&DestinationRow) -> u64| stripes.iter().map(of).sum::<u64>();
    whole.queued = sum(|row| row.queued);
    whole.waiting = sum(|row| row.waiting);
    whole.in_flight = sum(|row| row.in_flight);
    whole.per_minute = sum(|row| row.per_minute);
    whole.connections = Connections {
        opening: sum(|row| row.connections.opening),
        busy: sum(|row| row.connections.busy),
        idle: sum(|row| row.connections.idle),
        closing: sum(|row| row.connections.closing),
        all: sum(|row| row.connections.all),
        max: worst.connections.max,
    };
    whole.window = sum(|row| row.window);
    whole.delivered = sum(|row| row.delivered);
    whole.refused = sum(|row| row.refused);
    whole.deferred = sum(|row| row.deferred);
    whole.lost = sum(|row| row.lost);
    whole.failures = sum(|row| row.failures);
    whole.handed_back = sum(|row| row.handed_back);
    whole.evidence = stripes.iter().flat_map(|row| row.evidence.iter().cloned()).collect();
    whole.evidence.sort_by_key(|one| one.at_ms);
    whole.sources = sources_of(&stripes);
    whole.stripes = stripes;
    Some(whole)
}

/// Each source once, with sums; the binding is that of the worst stripe.
fn sources_of(stripes: &[DestinationRow]) -> Vec<SourceRow> {
    let mut by_name: BTreeMap<Option<String>, SourceRow> = BTreeMap::new();
    for one in stripes.iter().flat_map(|row| &row.sources) {
        match by_name.entry(one.source.clone()) {
            Entry::Vacant(place) => {
                place.insert(one.clone());
            }
            Entry::Occupied(place) => {
                let whole = place.into_mut();
                whole.connections += one.connections;
                whole.window += one.window;
                if one.binding.state() > whole.binding.state() {
                    whole.binding = one.binding;
                }
            }
        }
    }
    by_name.into_values().collect()
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
        waiting: 0,
        in_flight: 1,
        per_minute: 30,
        connections: Connections { all: 2, max: 5, ..Connections::default() },
        window: 5,
        rates: RateLimits { minute: Some(10), ..RateLimits::default() },
        source_rates: RateLimits::default(),
        delivered: 0,
        refused: 0,
        deferred: 0,
        lost: 0,
        failures: 0,
        handed_back: 0,
        last_error: None,
        last_host: None,
        lack: None,
        spent_source: None,
        evidence: Vec::new(),
        sources: Vec::new(),
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
        assert_eq!((striped.connections.all, striped.connections.max), (4, 5));
        assert_eq!(striped.rates, plain.rates, "they hold for all stripes together");
        assert_eq!(striped.binding, Binding::BackingOff { until_ms: 7 }, "a time is not a sum");
        assert_eq!(striped.state, DestinationState::BackingOff, "the worst");
        assert_eq!(striped.last_error.as_deref(), Some("450 later"));
        assert_eq!(striped.shard, None);
        assert_eq!(striped.stripes, stripes);
    }
}
