//! The space of the spool: watched, and made where there is too little.
//!
//! Owner:    the main thread. The shards read what it found last, by `SpaceWatch`.
//! Order:    the first look comes before the first shard starts, so that no mail is taken where there
//!           is no room for it.
//! Promise:  below the floor new mail is refused. A full disk spends the reserve; mail is taken again
//!           once that was made again. Dead bodies give their room back.

use std::io;
use std::sync::Arc;

use crate::config::QueueConfig;
use crate::observe::Event;
use crate::observe::Observed;
use crate::queue::Reclaimer;
use crate::queue::Reserve;
use crate::queue::Space;
use crate::queue::SpaceFloor;
use crate::queue::SpaceWatch;
use crate::queue::Spool;
use crate::queue::Want;

pub struct SpaceKeeper {
    spool: Arc<Spool>,
    observed: Arc<Observed>,
    watch: Arc<SpaceWatch>,
    reserve: Reserve,
    reclaimer: Reclaimer,
    /// A reserve that cannot be kept is told of once.
    told: bool,
}

impl SpaceKeeper {
    /// Looks for the first time.
    pub fn start(spool: &Arc<Spool>, observed: &Arc<Observed>, queue: &QueueConfig) -> SpaceKeeper {
        let partitions = spool.partitions().len();
        let mut keeper = SpaceKeeper {
            spool: Arc::clone(spool),
            observed: Arc::clone(observed),
            watch: Arc::new(SpaceWatch::new()),
            reserve: Reserve::find(spool.path(), queue.memory as usize, partitions),
            reclaimer: Reclaimer::default(),
            told: false,
        };
        keeper.look(queue);
        keeper
    }

    pub fn watch(&self) -> Arc<SpaceWatch> {
        Arc::clone(&self.watch)
    }

    /// Looks again, and does what the free space asks for.
    pub fn look(&mut self, queue: &QueueConfig) {
        let was_low = self.watch.is_low();
        let mut found = self.check(queue);
        // Nothing is known of a file system that does not answer; what it has is left alone.
        if let Ok(Space { free_bytes, .. }) = found {
            match self.reserve.keep(free_bytes, queue.min_free_space) {
                Ok(false) => {}
                Ok(true) => found = self.check(queue),
                Err(cause) => self.tell(&cause),
            }
        }
        let Space { free_bytes, free_inodes } = self.watch.last();
        // Shown before it is told: who hears of it may look at once.
        let is_low = self.watch.is_low();
        let process = &self.observed.process;
        process.spool_full.set(u64::from(is_low));
        process.spool_free_bytes.set(free_bytes);
        process.spool_free_inodes.set(free_inodes);
        match (was_low, is_low) {
            (false, true) => Event::SpoolFull { free_bytes, free_inodes }.emit(),
            (true, false) => Event::SpoolRecovered { free_bytes, free_inodes }.emit(),
            _ => {}
        }
        if found.is_ok() {
            let want = if is_low { Want::Short } else { Want::Routine };
            // Without a thread for it the next look tries again.
            let _ = self.reclaimer.begin(&self.spool, want, free_bytes);
        }
    }

    fn check(&self, queue: &QueueConfig) -> io::Result<Space> {
        let floor = SpaceFloor {
            bytes_min: self.reserve.floor(queue.min_free_space),
            inodes_min: queue.min_free_inodes as u64,
        };
        self.watch.check(self.spool.path(), floor)
    }

    fn tell(&mut self, cause: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            let what = format!("cannot allocate the spool's reserve for a full disk: {cause}");
            Event::Warning { what: &what, remedy: "see `reserve` in the spool's folder" }.emit();
        }
    }
}
