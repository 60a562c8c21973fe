//! The `/stats` document: the same figures as `/metrics` for people and scripts, with percentiles.

use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::base::limits::METRIC_DESTINATIONS_MAX;
use crate::control::rows;
use crate::delivery::survey::DestinationsShelf;
use crate::monitor::destinations;
use crate::monitor::destinations::Loads;
use crate::monitor::metrics::shard_readings;
use crate::observe::Observed;
use crate::observe::ShardObserved;
use crate::observe::Stage;
use crate::observe::histogram::Merged;
use crate::observe::histogram::QUANTILES;
use crate::observe::log;
use crate::observe::metric::LabelSet;
use crate::observe::metric::Reading;
use crate::observe::metric::Scope;

/// The document, from the live counters and from distributions read a moment ago.
pub fn document(observed: &Observed, merged: &Merged, shelves: &[Arc<DestinationsShelf>]) -> Value {
    let process = &observed.process;
    let readings = shard_readings(observed);
    let Loads { named, others, known } = destinations::loads(shelves);
    let failed = observed.partitions.iter().filter(|one| one.partition_failed.value() > 0);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": observed.now_ms() / 1000,
        "ready": observed.obstacles().is_empty() && observed.faults(observed.now_ms()).is_empty(),
        "stages": stages_json(merged),
        "silent_shards": merged.silent,
        "counters": counters_json(&readings),
        "destinations": rows::largest(shelves, METRIC_DESTINATIONS_MAX),
        "other_destinations": {
            "destinations": known - named.len() as u64,
            "queued": others.queued,
            "in_flight": others.in_flight,
        },
        "shards": shards_json(observed, &readings),
        "spool": {
            "full": process.spool_full.value() > 0,
            "failed_partitions": failed.count(),
            "free_bytes": process.spool_free_bytes.value(),
            "free_inodes": process.spool_free_inodes.value(),
        },
        "log_lines_dropped": log::lines_dropped(),
    })
}

fn stages_json(merged: &Merged) -> Value {
    let stage_json = |stage: Stage| {
        let summary = merged.summary(stage);
        let mut fields = Map::new();
        fields.insert("unit".to_owned(), stage.unit().into());
        fields.insert("count".to_owned(), summary.count.into());
        fields.insert("min".to_owned(), summary.min.into());
        fields.insert("mean".to_owned(), summary.mean.into());
        for (key, quantile) in QUANTILES {
            fields.insert(key.to_owned(), merged.at_quantile(stage, quantile).into());
        }
        fields.insert("max".to_owned(), summary.max.into());
        (stage.name().to_owned(), Value::Object(fields))
    };
    Stage::ALL.into_iter().map(stage_json).collect::<Map<_, _>>().into()
}

/// The metrics of all shards, added up. One with labels is an object with a level for each label.
fn counters_json(readings: &[Reading]) -> Value {
    let entry = |reading: &Reading| {
        let sums = reading.sums();
        (reading.descriptor.name.to_owned(), nested(reading.descriptor.labels, &sums))
    };
    readings.iter().map(entry).collect::<Map<_, _>>().into()
}

/// The sums of one metric by its label values.
fn nested(labels: &[LabelSet], sums: &[u64]) -> Value {
    let Some(((_, words), below)) = labels.split_first() else {
        return sums[0].into();
    };
    let parts = sums.chunks(sums.len() / words.len());
    let fields =
        words.iter().zip(parts).map(|(word, part)| ((*word).to_owned(), nested(below, part)));
    Value::Object(fields.collect())
}

/// The metrics that each shard has for itself.
fn shards_json(observed: &Observed, readings: &[Reading]) -> Value {
    let now_ms = observed.now_ms();
    let shard_json = |(place, shard): (usize, &Arc<ShardObserved>)| {
        let mut fields = Map::new();
        fields.insert("shard".to_owned(), shard.id.0.into());
        fields.insert("silent_ms".to_owned(), shard.silent_ms(now_ms).into());
        let apart = readings.iter().filter(|reading| reading.descriptor.scope == Scope::Each);
        for reading in apart {
            let sum: u64 = reading.by_source[place].iter().sum();
            fields.insert(reading.descriptor.name.to_owned(), sum.into());
        }
        Value::Object(fields)
    };
    observed.shards.iter().enumerate().map(shard_json).collect()
}
