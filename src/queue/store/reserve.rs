//! The reserve: a preallocated file that holds disk space for recovery from a full disk.
//!
//! Why:      opening the store writes: the mail in its log is flushed into tables, and new files are
//!           created. Deleting mail and reclaiming its space write as well. Without free space,
//!           neither a start nor a deletion could free any.
//! Owner:    the main thread of the server creates and restores the reserve. `Spool::open` spends it if
//!           the disk is too full to open, also for an offline deletion; the main thread spends it
//!           when less than its own size is free.
//! States:   no file: never created, for lack of space. Preallocated: kept. Empty: spent; until it is
//!           restored the server accepts no new mail.
//! Bounds:   the memory of the memtables and `RESERVE_PARTITION_BYTES` for each partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;
use rustix::fs::OFlags;

use crate::base::limits::RESERVE_PARTITION_BYTES;

const NAME: &str = "reserve";

/// The state of a spool's reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReserveState {
    Kept,
    /// Spent: its space was released.
    Spent,
    /// Never created.
    Absent,
    /// Cannot be created: the file system cannot preallocate, or another file has its name.
    Unsupported,
}

/// The reserve of one spool.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    state: ReserveState,
}

impl Reserve {
    /// The present reserve, with the size that a store with `memory_bytes` of memtables needs.
    pub fn find(spool: &Path, memory_bytes: usize, partitions: usize) -> Reserve {
        let path = spool.join(NAME);
        let bytes = memory_bytes as u64 + partitions as u64 * RESERVE_PARTITION_BYTES;
        let state = match path.symlink_metadata() {
            Ok(found) if found.len() == bytes => ReserveState::Kept,
            Ok(found) if found.len() == 0 => ReserveState::Spent,
            // A reserve of another size is created again.
            _ => ReserveState::Absent,
        };
        Reserve { path, bytes, state }
    }

    /// Bytes that the reserve should have.
    pub fn target_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are allocated now.
    pub fn held_bytes(&self) -> u64 {
        if self.state == ReserveState::Kept { self.bytes } else { 0 }
    }

    #[cfg(test)]
    fn state(&self) -> ReserveState {
        self.state
    }

    /// Free bytes that are required before new mail is accepted, with `floor` of them set by the config.
    /// A spent reserve is made again first, and must not be needed again at once.
    pub fn floor(&self, floor: u64) -> u64 {
        match self.state {
            ReserveState::Spent => floor.saturating_add(2 * self.bytes),
            ReserveState::Kept | ReserveState::Absent | ReserveState::Unsupported => floor,
        }
    }

    /// Makes or spends the reserve as the free bytes demand. Returns whether the free space changed.
    pub fn keep(&mut self, free_bytes: u64, floor: u64) -> io::Result<bool> {
        match self.state {
            ReserveState::Kept if free_bytes < self.bytes => {
                give_up(&self.path)?;
                self.state = ReserveState::Spent;
                Ok(true)
            }
            ReserveState::Absent | ReserveState::Spent
                if free_bytes >= floor.saturating_add(2 * self.bytes) =>
            {
                self.make().map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn make(&mut self) -> io::Result<()> {
        match self.allocate() {
            Ok(()) => self.state = ReserveState::Kept,
            // Another process took the space.
            Err(cause) if cause.kind() == io::ErrorKind::StorageFull => return Err(cause),
            Err(cause) => {
                self.state = ReserveState::Unsupported;
                return Err(cause);
            }
        }
        Ok(())
    }

    fn allocate(&self) -> io::Result<()> {
        let file = open(&self.path, OFlags::CREATE)?;
        file.set_len(self.bytes)?;
        let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if allocated.is_err() {
            // Part of it may be allocated. A spent reserve stays spent.
            match self.state {
                ReserveState::Spent => file.set_len(0)?,
                _ => std::fs::remove_file(&self.path)?,
            }
        }
        Ok(allocated?)
    }
}

/// Frees the space of the reserve in `spool`. `false`: there was none.
pub fn spend(spool: &Path) -> io::Result<bool> {
    match give_up(&spool.join(NAME)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done,
    }
}

fn give_up(path: &Path) -> io::Result<bool> {
    let file = open(path, OFlags::empty())?;
    let had_room = file.metadata()?.len() > 0;
    file.set_len(0)?;
    Ok(had_room)
}

/// Follows no link and waits for no pipe that another user may have left in the folder.
fn open(path: &Path, more: OFlags) -> io::Result<File> {
    File::options()
        .write(true)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | more).bits() as i32)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::MetadataExt as _;

    const FLOOR: u64 = 100;

    #[test]
    fn the_reserve_follows_the_free_space() {
        let spool = tempfile::tempdir().expect("a folder for the test");
        let mut reserve = Reserve::find(spool.path(), 1 << 16, 1);
        let size = reserve.target_bytes();
        assert_eq!(size, (1 << 16) + RESERVE_PARTITION_BYTES);
        use ReserveState::Absent;
        use ReserveState::Kept;
        use ReserveState::Spent;
        let rows = [
            ("no room for it", FLOOR + 2 * size - 1, false, Absent, FLOOR),
            ("room enough", FLOOR + 2 * size, true, Kept, FLOOR),
            ("less is free, and enough", size, false, Kept, FLOOR),
            ("the disk is full", size - 1, true, Spent, FLOOR + 2 * size),
            ("its own room is no reason to make it", 2 * size, false, Spent, FLOOR + 2 * size),
            ("the disk has room again", FLOOR + 2 * size, true, Kept, FLOOR),
        ];
        for (row, free_bytes, changed, state, floor) in rows {
            let found = reserve.keep(free_bytes, FLOOR).expect("the folder is writable");
            assert_eq!((found, reserve.state()), (changed, state), "{row}");
            assert_eq!(reserve.floor(FLOOR), floor, "{row}");
            // Another process finds the same state.
            assert_eq!(Reserve::find(spool.path(), 1 << 16, 1).state(), state, "{row}");
        }
        let blocks = spool.path().join(NAME).metadata().expect("it is there").blocks();
        assert!(blocks * 512 >= size, "{blocks} blocks are no reserve of {size} bytes");
        assert!(spend(spool.path()).expect("it can be spent"));
        assert!(!spend(spool.path()).expect("it is spent"));
        assert_eq!(Reserve::find(spool.path(), 1 << 16, 1).state(), Spent);
    }

    #[test]
    fn no_link_is_taken_for_the_reserve() {
        let spool = tempfile::tempdir().expect("a folder for the test");
        let victim = spool.path().join("victim");
        std::fs::write(&victim, "mail").expect("written");
        std::os::unix::fs::symlink(&victim, spool.path().join(NAME)).expect("linked");
        spend(spool.path()).expect_err("a link is not followed");
        let mut reserve = Reserve::find(spool.path(), 1 << 16, 1);
        reserve.keep(u64::MAX, 0).expect_err("a link is not followed");
        assert_eq!(std::fs::read(&victim).expect("it is there"), b"mail");
    }
}
