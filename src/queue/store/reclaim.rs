//! Reclaim: returns the space of deleted bodies to the file system.
//!
//! Why:      RocksDB removes a blob file when no body in it is alive. A body is known to be dead only
//!           after a compaction of its deleted key, and compactions follow writes: a spool that
//!           accepts no mail because it is full would stay full. And one message that is queued for
//!           days keeps a whole file, including the bodies of all delivered mail in it.
//! Owner:    `Reclaimer`, called by the thread that watches the space. It works on a thread of its
//!           own, at most every `PAUSE`, and only where space can be gained.
//! Promise:  dead bodies that a compaction has met take at most as much room as live ones, or
//!           `DEAD_BODY_BYTES_MAX` if that is more; a fifteenth of it where the disk is short of
//!           space. With those that none has met yet, blob files take at most twice the bytes of the
//!           queued bodies and `DEAD_BODY_BYTES_MAX`. A backlog that nobody delivers is never
//!           rewritten: a body is moved only when at least as many bytes have died (when short of
//!           space, a fifteenth).
//! Bounds:   one pass moves at most `RECLAIM_MOVE_BYTES_MAX` bytes and half of the free bytes, files
//!           oldest first, because most of their mail is gone. During a pass, new mail is flushed but
//!           not compacted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rocksdb::BottommostLevelCompaction;
use rocksdb::CompactOptions;

use crate::base::limits::DEAD_BODY_BYTES_MAX;
use crate::base::limits::RECLAIM_MOVE_BYTES_MAX;
use crate::queue::fault::QueueFault;
use crate::queue::store::partition::Partition;

/// Between two passes.
const PAUSE: Duration = Duration::from_secs(2);

/// One part in so many must be dead for bodies to be moved.
const DEAD_SHARE: u64 = 2;
const DEAD_SHARE_SHORT: u64 = 16;

/// How urgently space is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// There is enough: dead bodies must stay within their bound.
    Routine,
    /// Mail is refused for lack of space.
    Short,
}

/// Frees the space of dead bodies.
#[derive(Default)]
pub struct Reclaimer {
    busy: Arc<AtomicBool>,
    last: Option<Instant>,
}

impl Reclaimer {
    /// Starts a pass where space can be gained, unless one runs or ended just now.
    pub fn begin(
        &mut self,
        partitions: &[Arc<Partition>],
        want: Want,
        free_bytes: u64,
    ) -> io::Result<()> {
        let lately = self.last.is_some_and(|last| last.elapsed() < PAUSE);
        if lately || self.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        // A partition that cannot answer now is asked again after the pause.
        let is_due = |partition: &&Arc<Partition>| is_due(partition, want).unwrap_or(false);
        let due: Vec<Arc<Partition>> = partitions.iter().filter(is_due).cloned().collect();
        if due.is_empty() {
            return Ok(());
        }
        self.busy.store(true, Ordering::Release);
        let busy = Busy(Arc::clone(&self.busy));
        let work = move || {
            let _busy = busy;
            for partition in due {
                // A store too full for this is tried again after the pause.
                let _ = reclaim(&partition, want, free_bytes);
            }
        };
        thread::Builder::new().name("reclaim".to_owned()).spawn(work).map(|_| ())
    }
}

/// Marks the end of the thread, or that it never started.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The blob files of a partition, as far as compactions have looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlobFiles {
    count: u64,
    bytes: u64,
    dead_bytes: u64,
}

impl BlobFiles {
    fn of(partition: &Partition) -> Result<BlobFiles, QueueFault> {
        let body = partition.families().body;
        let property = |name| partition.db().property_int_value_cf(body, name);
        Ok(BlobFiles {
            count: property("rocksdb.num-blob-files")?.unwrap_or(0),
            bytes: property("rocksdb.live-blob-file-size")?.unwrap_or(0),
            dead_bytes: property("rocksdb.live-blob-file-garbage-size")?.unwrap_or(0),
        })
    }

    /// Whether enough is dead to be worth moving the rest.
    fn are_worth_moving(&self, want: Want) -> bool {
        let (share, least) = match want {
            Want::Routine => (DEAD_SHARE, DEAD_BODY_BYTES_MAX),
            Want::Short => (DEAD_SHARE_SHORT, 0),
        };
        self.dead_bytes > least && self.dead_bytes.saturating_mul(share) >= self.bytes
    }

    /// The share of the files, oldest first, whose live bodies can be moved within the free space.
    /// `None`: not even one file's can.
    fn movable_share(&self, free_bytes: u64) -> Option<f64> {
        let live = self.bytes.saturating_sub(self.dead_bytes);
        let room = RECLAIM_MOVE_BYTES_MAX.min(free_bytes / 2);
        if live <= room {
            return Some(1.0);
        }
        let files = (u128::from(self.count) * u128::from(room) / u128::from(live)) as f64;
        // RocksDB takes the whole files below the share; the half keeps rounding from taking one.
        (files >= 1.0).then_some(((files + 0.5) / self.count as f64).min(1.0))
    }
}

/// Whether a pass over the partition would gain anything.
fn is_due(partition: &Partition, want: Want) -> Result<bool, QueueFault> {
    let files = BlobFiles::of(partition)?;
    Ok(has_unseen(partition, &files, want) || files.are_worth_moving(want))
}

/// Whether enough was removed that no compaction may have met yet.
fn has_unseen(partition: &Partition, files: &BlobFiles, want: Want) -> bool {
    let removed = partition.removed_bytes();
    match want {
        Want::Short => removed > 0,
        Want::Routine => {
            let bound = 2 * partition.body_bytes() + DEAD_BODY_BYTES_MAX;
            removed >= DEAD_BODY_BYTES_MAX && files.bytes > bound
        }
    }
}

/// One pass over one partition. Blocks until it is done.
pub fn reclaim(partition: &Partition, want: Want, free_bytes: u64) -> Result<(), QueueFault> {
    let removed = partition.removed_bytes();
    if has_unseen(partition, &BlobFiles::of(partition)?, want) {
        // Keys alone: dead bodies become known, and files without live bodies are dropped. A failed
        // compaction reports nothing; then it is tried again.
        if compact_bodies(partition) {
            partition.note_reclaimed(removed);
        }
    }
    let files = BlobFiles::of(partition)?;
    if !files.are_worth_moving(want) {
        return Ok(());
    }
    let Some(share) = files.movable_share(free_bytes) else { return Ok(()) };
    move_bodies(partition, share)
}

/// Moves the live bodies out of that share of the files, oldest first, and drops these.
fn move_bodies(partition: &Partition, share: f64) -> Result<(), QueueFault> {
    let (db, body) = (partition.db(), partition.families().body);
    let share = share.to_string();
    let moving = [
        ("enable_blob_garbage_collection", "true"),
        ("blob_garbage_collection_age_cutoff", share.as_str()),
    ];
    let moved = db.set_options_cf(body, &moving).map(|()| compact_bodies(partition));
    // From here on compactions leave bodies alone again; see `options`. RocksDB writes options to
    // disk after it has taken them over, so that a fault says nothing of which are in force.
    db.set_options_cf(body, &[("enable_blob_garbage_collection", "false")])?;
    moved?;
    Ok(())
}

/// Compacts the keys of all bodies. `false`: a compaction or a flush failed meanwhile.
fn compact_bodies(partition: &Partition) -> bool {
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    let before = partition.background_errors();
    let body = partition.families().body;
    partition.db().compact_range_cf_opt(body, None::<&[u8]>, None::<&[u8]>, &options);
    partition.background_errors() == before
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn files(count: u64, bytes: u64, dead_bytes: u64) -> BlobFiles {
        BlobFiles { count, bytes, dead_bytes }
    }

    #[test]
    fn bodies_are_moved_when_enough_is_dead() {
        let rows = [
            ("no files", files(0, 0, 0), false, false),
            ("a backlog", files(40, 4000 * MB, 0), false, false),
            ("some of it delivered", files(40, 4000 * MB, 240 * MB), false, false),
            ("a sixteenth of it delivered", files(40, 4000 * MB, 250 * MB), false, true),
            ("nearly half of it delivered", files(40, 4000 * MB, 1999 * MB), false, true),
            ("half of it delivered", files(40, 4000 * MB, 2000 * MB), true, true),
            ("nearly all of little", files(4, 260 * MB, 250 * MB), false, true),
            ("nearly all of more", files(4, 260 * MB, 257 * MB), true, true),
        ];
        for (row, files, routine, short) in rows {
            let found =
                (files.are_worth_moving(Want::Routine), files.are_worth_moving(Want::Short));
            assert_eq!(found, (routine, short), "{row}");
        }
    }

    #[test]
    fn no_more_is_moved_than_there_is_room_for() {
        let most = RECLAIM_MOVE_BYTES_MAX;
        let rows = [
            ("all", files(4, 400 * MB, 200 * MB), 400 * MB, Some(4)),
            ("all but one byte", files(4, 400 * MB, 200 * MB), 400 * MB - 2, Some(3)),
            ("half", files(4, 400 * MB, 200 * MB), 200 * MB, Some(2)),
            ("one", files(4, 400 * MB, 200 * MB), 100 * MB, Some(1)),
            ("none", files(4, 400 * MB, 200 * MB), 99 * MB, None),
            ("nothing free", files(4, 400 * MB, 200 * MB), 0, None),
            ("a pass is bounded", files(1000, 20 * most, 10 * most), u64::MAX, Some(100)),
        ];
        for (row, files, free_bytes, moved) in rows {
            let share = files.movable_share(free_bytes);
            // As RocksDB counts.
            let found = share.map(|share| (share * files.count as f64) as u64);
            assert_eq!(found, moved, "{row}");
        }
    }
}
