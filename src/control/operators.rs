//! What operators order and ask through the control socket, as far as shards must answer.
//!
//! Owner:    a thread of the control socket; it waits, the shards never do.
//! Promise:  a message is changed by its home alone. A question is a closure that a shard runs
//!           between two orders; a shard that does not answer within `PATIENCE` is left out.
//! Bounds:   `OPERATION_IDS_MAX` messages in one request; `DESTINATIONS_MAX` rows in one answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::base::MessageId;
use crate::base::ShardId;
use crate::base::clock::wall_ms;
use crate::control::admin;
use crate::control::admin::Admin;
use crate::control::stripes;
use crate::control::why;
use crate::outbound::destination::Binding;
use crate::outbound::operator;
use crate::outbound::operator::Standing;
use crate::outbound::owner::DestinationView;
use crate::outbound::owner::JobView;
use crate::outbound::reroute;
use crate::outbound::scheduler::Why;
use crate::outbound::survey::DestinationsShelf;
use crate::outbound::survey::Others;
use crate::queue::Spool;
use crate::queue::inspect;
use crate::queue::operate::Operation;
use crate::queue::pauses::PauseFault;
use crate::queue::pauses::Pauses;
use crate::shard::Delivering;
use crate::shard::Order;

/// Messages of one request.
pub const OPERATION_IDS_MAX: usize = 256;
pub const DESTINATIONS_MAX: usize = 1000;
/// How long a shard may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to carry out orders: a recall and a few commit batches.
const OPERATION_DEADLINE: Duration = Duration::from_secs(15);
const SHARD_BUSY: &str = "the shard is busy, try again";

/// Destinations as `/stats` shows them.
#[derive(Default)]
pub struct Destinations {
    pub largest: Value,
    /// The sum of those that are not among the largest.
    pub others: Value,
}

impl Admin {
    /// Carries out one order on many messages; one row for each.
    pub fn operate(&self, operation: Operation, ids: &[String]) -> Result<Value, String> {
        if ids.len() > OPERATION_IDS_MAX {
            return Err(format!("more than {OPERATION_IDS_MAX} messages in one request"));
        }
        let operation = match operation {
            Operation::Reroute(Some(way)) => Operation::Reroute(Some(reroute::spelled(&way)?)),
            operation => operation,
        };
        let (sender, answers) = mpsc::sync_channel(ids.len().max(1));
        let mut rows: Vec<Value> = Vec::with_capacity(ids.len());
        let mut open = 0;
        for (place, text) in ids.iter().enumerate() {
            let sender = sender.clone();
            let answer = Box::new(move |outcome| {
                // A client that has gone meanwhile needs no answer.
                let _ = sender.try_send((place, outcome));
            });
            let sent = admin::parse(&self.spool, text).and_then(|id| {
                let home = self.home_of(id)?;
                let order = Order::Operate { id, operation: operation.clone(), answer };
                self.shards[home].try_send(order).map_err(|_| SHARD_BUSY.to_owned())
            });
            open += usize::from(sent.is_ok());
            rows.push(match sent {
                Ok(()) => json!({ "id": text, "fault": "no answer in time; look how it stands" }),
                Err(fault) => json!({ "id": text, "fault": fault }),
            });
        }
        let end = Instant::now() + OPERATION_DEADLINE;
        while open > 0 {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((place, outcome)) = answers.recv_timeout(left) else { break };
            rows[place] = match outcome {
                Ok(carried) => json!({ "id": ids[place], "outcome": carried }),
                Err(fault) => json!({ "id": ids[place], "fault": fault.to_string() }),
            };
            open -= 1;
        }
        Ok(Value::Array(rows))
    }

    /// What a message waits for.
    pub fn why(&self, text: &str) -> Result<Value, String> {
        let id = admin::parse(&self.spool, text)?;
        let details = inspect::show(&self.spool, id).map_err(|fault| format!("{text}: {fault}"))?;
        let numbers: Vec<u16> = details.jobs.iter().map(|job| job.number).collect();
        let ask = move |shard: &Delivering| operator::standings(&shard.home, id, &numbers);
        let standings = self.ask(self.home_of(id)?, ask)?;
        let places = standings.into_iter().map(|one| (one.job, self.place(id, one)));
        Ok(why::facts(&details, Some(places.collect()), wall_ms()))
    }

    /// Where a job in memory is, asked of the owner of its destination.
    fn place(&self, id: MessageId, standing: Standing) -> Value {
        let Some((hop, owner)) = standing.hop.zip(standing.owner).filter(|_| standing.is_out)
        else {
            return json!({ "stage": "home" });
        };
        let (destination, job) = (hop.destination.clone(), standing.job);
        let ask = move |shard: &Delivering| shard.owner.why(&destination, id, job);
        match self.ask(usize::from(owner.0), ask) {
            Ok(Some(view)) => place_json(&self.spool, &view, owner),
            Ok(None) => json!({ "stage": "home" }),
            Err(fault) => json!({ "stage": "silent", "fault": fault }),
        }
    }

    /// The destinations of all shards, those with the most mail first, and then what operators have paused.
    /// A striped destination is one row.
    pub fn destination_list(&self, limit: usize) -> Value {
        let mut rows = self.largest_destinations(limit.min(DESTINATIONS_MAX));
        let paused = self.pauses.names();
        rows.extend(paused.iter().map(|name| json!({ "paused_by_operator": name })));
        Value::Array(rows)
    }

    fn largest_destinations(&self, limit: usize) -> Vec<Value> {
        let found = self.ask_all(Order::Ask, move |shard| shard.owner.destinations(limit));
        let is_cut = found.iter().any(|(_, destinations)| destinations.len() >= limit);
        let mut rows = stripes::merged(rows_of(&found));
        stripes::largest_first(&mut rows);
        rows.truncate(limit);
        if !is_cut {
            return rows;
        }
        // A stripe may be too small for its own shard's list and still belongs to the sum.
        let keys: Vec<Box<str>> =
            rows.iter().filter_map(|row| row["destination"].as_str()).map(Box::from).collect();
        let found = self.ask_all(Order::Ask, move |shard| shard.owner.destinations_keyed(&keys));
        let mut rows = stripes::merged(rows_of(&found));
        stripes::largest_first(&mut rows);
        rows
    }

    /// One destination by its name, its hosts or its domain, and whether it is paused.
    pub fn destination(&self, word: &str) -> Result<Value, String> {
        let meant = Pauses::settled(word);
        let _one_at_a_time = self.pausing.lock().unwrap_or_else(PoisonError::into_inner);
        let views = self.ask_all(Order::Ask, move |shard| shard.owner.destinations_named(&meant));
        let is_paused = views.iter().any(|(_, (_, is_paused))| *is_paused);
        let rows: Vec<Value> = views
            .iter()
            .flat_map(|(shard, (destinations, _))| {
                destinations.iter().map(|view| destination_json(view, *shard))
            })
            .collect();
        if rows.is_empty() && !is_paused {
            return Err(format!("{word}: no such destination at present; see destination list"));
        }
        let rows = stripes::merged(rows);
        Ok(json!({ "destination": word, "paused_by_operator": is_paused, "destinations": rows }))
    }

    pub fn pause(&self, word: &str) -> Result<Value, String> {
        let meant = Pauses::settled(word);
        let _one_at_a_time = self.pausing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.pauses.add(&meant);
        if let Err(fault @ (PauseFault::Name | PauseFault::Full)) = kept {
            return Err(format!("{word}: {fault}"));
        }
        let touched = self.ask_all(Order::Change, move |shard| shard.owner.pause(&meant));
        self.touched(word, touched, kept)
    }

    pub fn resume(&self, word: &str) -> Result<Value, String> {
        let meant = Pauses::settled(word);
        let _one_at_a_time = self.pausing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.pauses.remove(&meant);
        let touched = self.ask_all(Order::Change, move |shard| shard.owner.resume(&meant));
        self.touched(word, touched, kept)
    }

    fn touched(
        &self,
        word: &str,
        all: Vec<(ShardId, Vec<Box<str>>)>,
        kept: Result<(), PauseFault>,
    ) -> Result<Value, String> {
        if all.len() < self.shards.len() {
            return Err(format!("{word}: not all shards have answered, try again"));
        }
        let destinations: BTreeSet<&str> =
            all.iter().flat_map(|(_, destinations)| destinations).map(AsRef::as_ref).collect();
        let fault = kept.err().map(|fault| fault.to_string());
        Ok(json!({ "destination": word, "destinations": destinations, "fault": fault }))
    }

    pub(super) fn home_of(&self, id: MessageId) -> Result<usize, String> {
        let partition = id.partition();
        (0..self.placement.shards())
            .find(|shard| self.placement.of_shard(ShardId(*shard as u16)).contains(&partition))
            .ok_or_else(|| format!("{}: there is no such message", self.spool.public_id(id)))
    }

    fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        question: impl FnOnce(&Delivering) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (sender, answer) = mpsc::sync_channel(1);
        let ask = Box::new(move |delivering: &Delivering| {
            // Whoever has given up waiting needs no answer.
            let _ = sender.try_send(question(delivering));
        });
        self.shards[shard].try_send(Order::Ask(ask)).map_err(|_| SHARD_BUSY.to_owned())?;
        answer.recv_timeout(PATIENCE).map_err(|_| format!("shard {shard} does not answer"))
    }

    /// Those that answer.
    fn ask_all<T: Send + 'static>(
        &self,
        order: impl Fn(Box<dyn FnOnce(&Delivering) + Send>) -> Order,
        question: impl Fn(&Delivering) -> T + Clone + Send + 'static,
    ) -> Vec<(ShardId, T)> {
        let (sender, answers) = mpsc::sync_channel(self.shards.len().max(1));
        let mut open = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let (sender, question) = (sender.clone(), question.clone());
            let ask = Box::new(move |delivering: &Delivering| {
                // As above.
                let _ = sender.try_send((ShardId(number as u16), question(delivering)));
            });
            open += usize::from(shard.try_send(order(ask)).is_ok());
        }
        drop(sender);
        let end = Instant::now() + PATIENCE;
        let mut all = Vec::with_capacity(open);
        while all.len() < open {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(answer) = answers.recv_timeout(left) else { break };
            all.push(answer);
        }
        all.sort_by_key(|(shard, _)| *shard);
        all
    }
}

/// The largest destinations by the shards' last snapshots, and the sum of all others. A stripe that is not
/// among the largest of its own shard counts among the others.
pub fn snapshot_json(shelves: &[Arc<DestinationsShelf>], limit: usize) -> Destinations {
    let mut all = Others::default();
    let mut rows = Vec::new();
    for (number, shelf) in shelves.iter().enumerate() {
        let snapshot = shelf.last();
        rows.extend(
            snapshot.largest.iter().map(|view| destination_json(view, ShardId(number as u16))),
        );
        all.destinations += snapshot.others.destinations;
        all.queued += snapshot.others.queued;
        all.in_flight += snapshot.others.in_flight;
    }
    let mut rows = stripes::merged(rows);
    stripes::largest_first(&mut rows);
    for row in rows.drain(limit.min(rows.len())..) {
        all.destinations += 1;
        all.queued += row["queued"].as_u64().unwrap_or(0);
        all.in_flight += row["in_flight"].as_u64().unwrap_or(0);
    }
    let Others { destinations, queued, in_flight, .. } = all;
    let others = json!({ "destinations": destinations, "queued": queued, "in_flight": in_flight });
    Destinations { largest: Value::Array(rows), others }
}

fn rows_of(found: &[(ShardId, Vec<DestinationView>)]) -> Vec<Value> {
    let rows = found.iter().flat_map(|(shard, destinations)| {
        let row = |view: &DestinationView| destination_json(view, *shard);
        destinations.iter().map(row).collect::<Vec<_>>()
    });
    rows.collect()
}

fn place_json(spool: &Spool, view: &JobView, owner: ShardId) -> Value {
    let public = |id: &MessageId| spool.public_id(*id).to_string();
    let under_way: Vec<String> = view.under_way.iter().map(public).collect();
    let holders: Vec<Value> = view
        .holders
        .iter()
        .map(|(destination, connections)| json!({ "destination": destination, "connections": connections }))
        .collect();
    let (stage, ahead, binding) = match view.why {
        Some(Why::InFlight) => ("sending", None, None),
        Some(Why::Queued { ahead, binding }) => ("line", Some(ahead), Some(binding_json(binding))),
        None => ("home", None, None),
    };
    json!({
        "stage": stage,
        "ahead": ahead,
        "binding": binding,
        "destination": destination_json(&view.destination, owner),
        "under_way": under_way,
        "shard_connections": holders,
    })
}

fn binding_json(binding: Binding) -> Value {
    let until = |kind: &str, until_ms: u64| json!({ "kind": kind, "until_ms": until_ms });
    match binding {
        Binding::Nothing => json!({ "kind": "nothing" }),
        Binding::Paused => json!({ "kind": "paused" }),
        Binding::BackingOff { until_ms } => until("backing-off", until_ms),
        Binding::Probing => json!({ "kind": "probing" }),
        Binding::Throttled { until_ms } => until("throttled", until_ms),
        Binding::Rate { until_ms } => until("rate", until_ms),
        Binding::Hold { until_ms } => until("hold", until_ms),
        Binding::Window { window } => json!({ "kind": "window", "limit": window }),
        Binding::ConnectionsMax { connections } => {
            json!({ "kind": "connections", "limit": connections })
        }
        Binding::Overall { connections } => json!({ "kind": "overall", "limit": connections }),
    }
}

fn destination_json(view: &DestinationView, shard: ShardId) -> Value {
    let one = &view.summary;
    let (tally, counters, rates) = (&one.connections, &one.counters, &one.rates);
    let mut limits = Map::new();
    let all =
        [("second", rates.per_second), ("minute", rates.per_minute), ("hour", rates.per_hour)];
    for (span, limit) in all {
        limits.extend(limit.map(|limit| (span.to_owned(), limit.into())));
    }
    json!({
        "destination": one.key,
        "name": view.name,
        "shard": shard.0,
        "state": state_word(one.binding),
        "binding": binding_json(one.binding),
        "queued": one.queued,
        "in_flight": one.in_flight,
        "per_minute": one.per_minute,
        "connections": {
            "opening": tally.opening,
            "busy": tally.asking + tally.busy,
            "idle": tally.idle,
            "closing": tally.closing,
            "all": tally.all(),
            "max": one.connections_max,
        },
        "window": one.window,
        "rates": limits,
        "delivered": counters.delivered,
        "refused": counters.refused,
        "deferred": counters.deferred,
        "lost": counters.lost,
        "failures": counters.failures,
        "handed_back": counters.handed_back,
        "last_error": Some(&one.last_error).filter(|text| !text.is_empty()),
    })
}

fn state_word(binding: Binding) -> &'static str {
    match binding {
        Binding::Paused => "paused",
        Binding::BackingOff { .. } => "backing off",
        Binding::Probing => "probing",
        Binding::Throttled { .. } => "throttled",
        Binding::Rate { .. } => "rate used up",
        _ => "open",
    }
}
