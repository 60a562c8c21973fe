//! The `/metrics` page.
//!
//! Promise:  names, units and labels follow the conventions of Prometheus; `promtool check metrics`
//!           has nothing to say about the page.
//! Bounds:   the number of series is bounded by `METRIC_DESTINATIONS_MAX`, `METRIC_CERTIFICATES_MAX`
//!           and what is fixed at compile time; shards and partitions multiply a part of it.

use std::time::Duration;

use crate::base::Wall;
use crate::base::limits::METRIC_CERTIFICATES_MAX;
use crate::monitor::destinations;
use crate::monitor::destinations::Loads;
use crate::monitor::process;
use crate::observe::Observed;
use crate::observe::Stage;
use crate::observe::exposition::Exposition;
use crate::observe::histogram::Merged;
use crate::observe::log;
use crate::observe::metric;
use crate::observe::metric::Kind;
use crate::observe::metric::Reading;

/// The page, from the live counters and from distributions and destinations read a moment ago.
pub fn page(observed: &Observed, merged: &Merged, loads: &Loads) -> String {
    let mut page = Exposition::default();
    let help = "The version of the running build.";
    let version = env!("CARGO_PKG_VERSION");
    page.metric("build_info", Kind::Gauge, help).sample(&[("version", version)], 1);
    page.table(&shard_readings(observed), "shard");
    for stage in Stage::ALL {
        page.metric(&stage.metric(), Kind::Histogram, stage.help());
        page.buckets(&merged.buckets(stage));
    }
    destinations::expose(&mut page, loads, Wall::now());
    let partitions: Vec<_> = observed.partitions.iter().collect();
    page.table(&metric::read(&partitions), "partition");
    page.table(&metric::read(&[&*observed.process]), "");
    certificates(&mut page, observed);
    let help = "Log lines dropped because a lane was full or the output failed.";
    page.metric("log_lines_dropped_total", Kind::Counter, help).sample(&[], log::lines_dropped());
    process::expose(&mut page, Duration::from_millis(observed.now_ms()));
    page.into_text()
}

/// The metrics of all shards.
pub fn shard_readings(observed: &Observed) -> Vec<Reading> {
    let tables: Vec<_> = observed.shards.iter().map(|shard| &shard.metrics).collect();
    metric::read(&tables)
}

/// Those that expire first.
fn certificates(page: &mut Exposition, observed: &Observed) {
    let mut served = observed.certificates();
    served.sort_by_key(|one| one.not_after_s);
    let help = "Time since 1970 at which a certificate that listeners serve expires.";
    page.metric("certificate_expiry_timestamp_seconds", Kind::Gauge, help);
    for one in served.iter().take(METRIC_CERTIFICATES_MAX) {
        let file = one.file.to_string_lossy();
        page.sample(&[("name", &one.name), ("file", &file)], one.not_after_s);
    }
}
