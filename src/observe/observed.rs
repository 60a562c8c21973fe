//! What the shards and the process publish for monitoring.
//!
//! Owner:    `boot` makes one `Observed` with one `ShardObserved` per shard. A shard writes its own;
//!           the monitor reads all.
//! Promise:  reading costs a shard nothing but the copy of its histograms.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::base::PartitionId;
use crate::base::ShardId;
use crate::observe::counters::PartitionMetrics;
use crate::observe::counters::ProcessMetrics;
use crate::observe::counters::ShardMetrics;
use crate::observe::histogram::HistogramReader;
use crate::observe::histogram::Shelf;

/// A heartbeat comes every 10 to 20 ms. A shard silent for longer than this serves nobody.
pub const HEARTBEAT_STALE_MS: u64 = 3_000;

/// What one shard publishes.
#[derive(Debug)]
pub struct ShardObserved {
    pub id: ShardId,
    pub metrics: ShardMetrics,
    /// For `Histograms::new`, on the shard.
    pub shelf: Arc<Shelf>,
    partitions: Arc<[PartitionMetrics]>,
    start: Instant,
    /// Milliseconds after `start`.
    heartbeat_ms: AtomicU64,
}

impl ShardObserved {
    /// Notes that the shard's ticker ran. The clock is monotonic.
    pub fn beat(&self) {
        self.beat_at(self.start.elapsed().as_millis() as u64);
    }

    pub fn beat_at(&self, ms_after_start: u64) {
        self.heartbeat_ms.store(ms_after_start, Ordering::Relaxed);
    }

    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heartbeat_ms.load(Ordering::Relaxed))
    }

    /// The metrics of a partition whose home is this shard.
    pub fn partition(&self, id: PartitionId) -> &PartitionMetrics {
        &self.partitions[usize::from(id.0)]
    }
}

/// A certificate that listeners serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The first name that the certificate is valid for.
    pub name: Box<str>,
    pub file: PathBuf,
    /// Seconds since 1970 after which it is invalid.
    pub not_after_s: u64,
}

/// What the whole process publishes.
#[derive(Debug)]
pub struct Observed {
    pub shards: Vec<Arc<ShardObserved>>,
    pub partitions: Arc<[PartitionMetrics]>,
    pub process: Arc<ProcessMetrics>,
    pub histograms: HistogramReader,
    /// Replaced by a reload. No shard takes this lock.
    certificates: Mutex<Vec<CertificateExpiry>>,
    start: Instant,
}

impl Observed {
    /// Shards and partitions are numbered from 0. Until its first beat a shard counts as alive since
    /// now.
    pub fn new(shards: u16, partitions: usize) -> Arc<Observed> {
        let start = Instant::now();
        let partitions: Arc<[PartitionMetrics]> =
            (0..partitions).map(|_| PartitionMetrics::default()).collect();
        let shard = |id| {
            Arc::new(ShardObserved {
                id: ShardId(id),
                metrics: ShardMetrics::default(),
                shelf: Arc::default(),
                partitions: Arc::clone(&partitions),
                start,
                heartbeat_ms: AtomicU64::new(0),
            })
        };
        let shards: Vec<_> = (0..shards).map(shard).collect();
        let shelves = shards.iter().map(|shard| Arc::clone(&shard.shelf)).collect();
        Arc::new(Observed {
            shards,
            partitions: Arc::clone(&partitions),
            process: Arc::default(),
            histograms: HistogramReader::new(shelves),
            certificates: Mutex::default(),
            start,
        })
    }

    /// The certificates that listeners serve from now on.
    pub fn set_certificates(&self, certificates: Vec<CertificateExpiry>) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    pub fn certificates(&self) -> Vec<CertificateExpiry> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Milliseconds since the start, the time of heartbeats.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Silent shards and hung disks at `now_ms`; none when all is well.
    pub fn faults(&self, now_ms: u64) -> Vec<String> {
        let mut faults = Vec::new();
        for shard in &self.shards {
            let silent_ms = shard.silent_ms(now_ms);
            if silent_ms > HEARTBEAT_STALE_MS {
                faults.push(format!("shard {} has been silent for {silent_ms} ms", shard.id));
            }
        }
        for (number, partition) in self.partitions.iter().enumerate() {
            let seconds = partition.partition_hung_seconds.value();
            if seconds > 0 {
                faults
                    .push(format!("partition {number}: the disk has not answered for {seconds} s"));
            }
        }
        faults
    }

    /// What an operator must look into although mail is accepted and delivered.
    pub fn warnings(&self) -> Vec<String> {
        let records = self.process.spool_quarantine_records.value();
        let quarantine =
            format!("{records} unreadable records in quarantine: see `ringpost audit` and the log");
        (records > 0).then_some(quarantine).into_iter().collect()
    }

    /// Why new mail would be refused now; none when it would be accepted.
    pub fn obstacles(&self) -> Vec<&'static str> {
        let process = &self.process;
        let has_failed = |partition: &PartitionMetrics| partition.partition_failed.value() > 0;
        let rows = [
            (process.listening.value() == 0, "the listeners are not open"),
            (process.draining.value() > 0, "the server is shutting down"),
            (process.spool_full.value() > 0, "the spool is full"),
            (self.partitions.iter().any(has_failed), "a partition of the spool has failed"),
        ];
        rows.into_iter().filter_map(|(applies, cause)| applies.then_some(cause)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_shard_is_named() {
        let observed = Observed::new(2, 2);
        assert!(observed.faults(HEARTBEAT_STALE_MS).is_empty(), "time to start");
        observed.shards[0].beat_at(5_000);
        let faults = observed.faults(5_000 + HEARTBEAT_STALE_MS);
        assert_eq!(faults, ["shard 1 has been silent for 8000 ms"]);
        observed.shards[1].beat_at(9_000);
        assert!(observed.faults(5_000 + HEARTBEAT_STALE_MS).is_empty());
    }

    #[test]
    fn a_hung_disk_is_named() {
        let observed = Observed::new(2, 2);
        observed.partitions[1].partition_hung_seconds.set(31);
        let told = ["partition 1: the disk has not answered for 31 s"];
        assert_eq!(observed.faults(0), told);
        observed.partitions[1].partition_hung_seconds.set(0);
        assert!(observed.faults(0).is_empty());
    }

    #[test]
    fn every_obstacle_is_named() {
        let observed = Observed::new(1, 2);
        assert_eq!(observed.obstacles(), ["the listeners are not open"]);
        observed.process.listening.set(1);
        assert!(observed.obstacles().is_empty());
        assert!(observed.warnings().is_empty());
        observed.process.spool_quarantine_records.set(2);
        assert!(observed.warnings()[0].starts_with("2 unreadable records"));
        assert!(observed.obstacles().is_empty(), "the rest is served");
        observed.partitions[1].partition_failed.set(1);
        assert_eq!(observed.obstacles(), ["a partition of the spool has failed"]);
        observed.partitions[1].partition_failed.set(0);
        observed.process.draining.set(1);
        observed.process.spool_full.set(1);
        assert_eq!(observed.obstacles(), ["the server is shutting down", "the spool is full"]);
    }
}
