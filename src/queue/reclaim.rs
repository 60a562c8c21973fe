//! Reclaim: what deleted mail occupied goes back to the file system while that is short of room.
//!
//! Why:      a deleted body leaves its blob file only when a compaction meets its key, and
//!           compactions follow writes. A spool that takes no mail because it is full writes
//!           nothing, so without this it would stay full though all its mail were deleted.
//! Owner:    `Reclaimer`, asked by whoever watches the space; it works on a thread of its own, one
//!           at a time, at most every `PAUSE`, and only when something was deleted since.
//! Bounds:   live bodies are moved out of half-dead files only if twice their bytes are free;
//!           otherwise only files are dropped in which nothing lives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rocksdb::BottommostLevelCompaction;
use rocksdb::CompactOptions;

use crate::queue::fault::QueueFault;
use crate::queue::partition::Partition;
use crate::queue::spool::Spool;

/// Between two attempts: what they find to do comes from people who delete mail.
const PAUSE: Duration = Duration::from_secs(2);

/// Gives room back, when asked.
#[derive(Default)]
pub struct Reclaimer {
    busy: Arc<AtomicBool>,
    last: Option<Instant>,
}

impl Reclaimer {
    /// Begins, unless it is at it or was just now.
    pub fn begin(&mut self, spool: &Arc<Spool>, free_bytes: u64) -> io::Result<()> {
        let lately = self.last.is_some_and(|last| last.elapsed() < PAUSE);
        if lately || self.busy.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let busy = Busy(Arc::clone(&self.busy));
        let spool = Arc::clone(spool);
        let work = move || {
            let _busy = busy;
            for partition in spool.partitions() {
                // A store too full even for this is asked again after the pause.
                let _ = reclaim(partition, free_bytes);
            }
        };
        thread::Builder::new().name("reclaim".to_owned()).spawn(work).map(|_| ())
    }
}

/// Says that the thread is gone, or was never started.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Drops the files of one partition's deleted bodies. Blocks as long as that takes.
pub fn reclaim(partition: &Partition, free_bytes: u64) -> Result<(), QueueFault> {
    let removed = partition.removed_bytes();
    if removed == 0 {
        return Ok(());
    }
    let moves = partition.body_bytes() <= free_bytes / 2;
    let (db, body) = (partition.db(), partition.families().body);
    let moving = |on: &str| db.set_options_cf(body, &[("enable_blob_garbage_collection", on)]);
    if !moves {
        moving("false")?;
    }
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    let before = partition.background_errors();
    db.compact_range_cf_opt(body, None::<&[u8]>, None::<&[u8]>, &options);
    if !moves {
        moving("true")?;
    }
    // A compaction says nothing when it fails. Then it is tried again: all is as it was.
    if partition.background_errors() == before {
        partition.note_reclaimed(removed);
    }
    Ok(())
}
