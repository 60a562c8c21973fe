//! Free space of the spool's file system, so that mail is refused before the disk is full.
//!
//! Owner:    the control thread calls `SpaceWatch::check` from time to time; every gate reads
//!           `is_low`, one atomic load.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// The free space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    /// `u64::MAX` where the file system does not count inodes (btrfs).
    pub free_inodes: u64,
}

/// The least free space at which new mail is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceFloor {
    pub bytes_min: u64,
    pub inodes_min: u64,
}

/// The space that the file system of `path` has left for an ordinary user.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    let counts_inodes = found.f_files != 0;
    Ok(Space {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        free_inodes: if counts_inodes { found.f_favail } else { u64::MAX },
    })
}

/// The size of the file system of `path`.
pub fn file_system_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize))
}

/// Whether the spool was too full for new mail at the last check.
#[derive(Debug)]
pub struct SpaceWatch {
    low: AtomicBool,
    free_bytes: AtomicU64,
    free_inodes: AtomicU64,
}

impl SpaceWatch {
    /// Refuses nothing before the first check.
    pub fn new() -> SpaceWatch {
        SpaceWatch {
            low: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            free_inodes: AtomicU64::new(u64::MAX),
        }
    }

    /// Checks again. A file system that does not answer counts as full.
    pub fn check(&self, path: &Path, floor: SpaceFloor) -> io::Result<Space> {
        let found = space(path);
        let seen = match &found {
            Ok(space) => *space,
            Err(_) => Space { free_bytes: 0, free_inodes: 0 },
        };
        self.free_bytes.store(seen.free_bytes, Ordering::Relaxed);
        self.free_inodes.store(seen.free_inodes, Ordering::Relaxed);
        let low = found.is_err()
            || seen.free_bytes < floor.bytes_min
            || seen.free_inodes < floor.inodes_min;
        self.low.store(low, Ordering::Relaxed);
        found
    }

    /// Full: 452 4.3.1 for a new message.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> Space {
        Space {
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            free_inodes: self.free_inodes.load(Ordering::Relaxed),
        }
    }
}

impl Default for SpaceWatch {
    fn default() -> SpaceWatch {
        SpaceWatch::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_follows_floor_and_faults() {
        let here = Path::new(".");
        let watch = SpaceWatch::new();
        assert!(!watch.is_low());
        for (name, path, bytes_min, inodes_min, low) in [
            ("nothing asked", here, 0, 0, false),
            ("too many bytes asked", here, u64::MAX, 0, true),
            ("well again", here, 1, 0, false),
            ("no such path", Path::new("./no/such/path"), 0, 0, true),
        ] {
            let looked = watch.check(path, SpaceFloor { bytes_min, inodes_min });
            assert_eq!(watch.is_low(), low, "{name}: {looked:?}");
        }
    }
}
