//! What the shards and the process let the control thread see.
//!
//! Owner:    `boot` makes one `ShardObserved` per shard and one `Observed`; the shard writes its
//!           own, the control thread reads all.
//! Promise:  reading takes nothing from a shard but the copy of its histograms.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::base::ShardId;
use crate::observe::counters::ProcessMetrics;
use crate::observe::counters::ShardMetrics;
use crate::observe::histogram::HistogramReader;
use crate::observe::histogram::Shelf;

/// A heartbeat comes every 10 to 20 ms. Older than this, the shard does not serve anybody.
pub const HEARTBEAT_STALE_MS: u64 = 3_000;

/// What one shard shows.
#[derive(Debug)]
pub struct ShardObserved {
    pub id: ShardId,
    pub metrics: ShardMetrics,
    /// For `Histograms::new`, on the shard.
    pub shelf: Arc<Shelf>,
    start: Instant,
    /// Milliseconds after `start`.
    heartbeat_ms: AtomicU64,
}

impl ShardObserved {
    /// Notes that the shard's ticker ran. Monotonic, so that a clock set back harms nothing.
    pub fn beat(&self) {
        self.beat_at(self.start.elapsed().as_millis() as u64);
    }

    pub fn beat_at(&self, ms_after_start: u64) {
        self.heartbeat_ms.store(ms_after_start, Ordering::Relaxed);
    }

    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heartbeat_ms.load(Ordering::Relaxed))
    }
}

/// What the whole process shows.
#[derive(Debug)]
pub struct Observed {
    pub shards: Vec<Arc<ShardObserved>>,
    pub process: Arc<ProcessMetrics>,
    pub histograms: HistogramReader,
    start: Instant,
}

impl Observed {
    /// Shards are numbered from 0. Until its first beat a shard counts as alive since now.
    pub fn new(shards: u16) -> Arc<Observed> {
        let start = Instant::now();
        let shard = |id| {
            Arc::new(ShardObserved {
                id: ShardId(id),
                metrics: ShardMetrics::default(),
                shelf: Arc::default(),
                start,
                heartbeat_ms: AtomicU64::new(0),
            })
        };
        let shards: Vec<_> = (0..shards).map(shard).collect();
        let shelves = shards.iter().map(|shard| Arc::clone(&shard.shelf)).collect();
        let process = Arc::new(ProcessMetrics::default());
        Arc::new(Observed { shards, process, histograms: HistogramReader::new(shelves), start })
    }

    /// Milliseconds since the start, the time of heartbeats.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// What is wrong with the shards and their disks at `now_ms`; nothing when all is well.
    pub fn faults(&self, now_ms: u64) -> Vec<String> {
        let mut faults = Vec::new();
        for shard in &self.shards {
            let silent_ms = shard.silent_ms(now_ms);
            if silent_ms > HEARTBEAT_STALE_MS {
                faults.push(format!("shard {} is silent for {silent_ms} ms", shard.id));
            }
            let hung_seconds = shard.metrics.commit_hung_seconds.value();
            if hung_seconds > 0 {
                let what = "the spool's disk has not answered for";
                faults.push(format!("shard {}: {what} {hung_seconds} s", shard.id));
            }
        }
        faults
    }

    /// What someone must look into although mail is taken and delivered.
    pub fn warnings(&self) -> Vec<String> {
        let records = self.process.quarantine_records.value();
        let quarantine =
            format!("{records} unreadable records in quarantine: see `ringpost audit` and the log");
        (records > 0).then_some(quarantine).into_iter().collect()
    }

    /// Why no mail would be taken now; nothing when it would.
    pub fn obstacles(&self) -> Vec<&'static str> {
        let process = &self.process;
        let rows = [
            (process.listening.value() == 0, "the listeners are not open"),
            (process.draining.value() > 0, "the process is draining"),
            (process.spool_full.value() > 0, "the spool is full"),
            (process.spool_failed_partitions.value() > 0, "a partition of the spool has failed"),
        ];
        rows.into_iter().filter_map(|(stands, cause)| stands.then_some(cause)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_shard_is_named() {
        let observed = Observed::new(2);
        assert!(observed.faults(HEARTBEAT_STALE_MS).is_empty(), "time to start");
        observed.shards[0].beat_at(5_000);
        let faults = observed.faults(5_000 + HEARTBEAT_STALE_MS);
        assert_eq!(faults, ["shard 1 is silent for 8000 ms"]);
        observed.shards[1].beat_at(9_000);
        assert!(observed.faults(5_000 + HEARTBEAT_STALE_MS).is_empty());
    }

    #[test]
    fn a_hung_disk_is_named() {
        let observed = Observed::new(2);
        observed.shards[1].metrics.commit_hung_seconds.set(31);
        let told = ["shard 1: the spool's disk has not answered for 31 s"];
        assert_eq!(observed.faults(0), told);
        observed.shards[1].metrics.commit_hung_seconds.set(0);
        assert!(observed.faults(0).is_empty());
    }

    #[test]
    fn every_obstacle_is_named() {
        let observed = Observed::new(1);
        assert_eq!(observed.obstacles(), ["the listeners are not open"]);
        observed.process.listening.set(1);
        assert!(observed.obstacles().is_empty());
        assert!(observed.warnings().is_empty());
        observed.process.quarantine_records.set(2);
        assert!(observed.warnings()[0].starts_with("2 unreadable records"));
        assert!(observed.obstacles().is_empty(), "the rest is served");
        observed.process.draining.set(1);
        observed.process.spool_full.set(1);
        assert_eq!(observed.obstacles(), ["the process is draining", "the spool is full"]);
    }
}
