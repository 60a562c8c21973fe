//! The spool's folder while the server runs: its space, its quarantine, the copies of its lists.
//!
//! Owner:    a thread of its own, since a look waits for the disk. A disk that does not answer must not
//!           keep the main thread from signals. The shards read the last found space in `SpaceWatch`.
//! Order:    the first look comes before the first shard starts, so that no mail is taken where there
//!           is no room for it.
//! Promise:  below the floor new mail is refused. A full disk spends the reserve; mail is taken again
//!           once that was made again. Dead bodies give their room back.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::config::QueueConfig;
use crate::observe::Observed;
use crate::observe::log::Record;
use crate::queue::Reclaimer;
use crate::queue::Reserve;
use crate::queue::Space;
use crate::queue::SpaceFloor;
use crate::queue::SpaceWatch;
use crate::queue::Spool;
use crate::queue::Want;
use crate::queue::partition::QUARANTINE;
use crate::queue::quarantine;

/// How often the space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the things in quarantine are counted.
const QUARANTINE_EVERY: Duration = Duration::from_secs(10);

pub struct SpaceKeeper {
    spool: Arc<Spool>,
    observed: Arc<Observed>,
    watch: Arc<SpaceWatch>,
    reserve: Reserve,
    reclaimer: Reclaimer,
    /// A reserve that cannot be kept is told of once.
    told: bool,
    quarantine_looked_at: Option<Instant>,
}

/// The thread that keeps looking.
pub struct SpoolWatch {
    config: Sender<QueueConfig>,
    ended: Receiver<()>,
}

impl SpoolWatch {
    /// Has the thread go by another config from its next look on.
    pub fn replace_config(&self, queue: &QueueConfig) {
        // It ends only with its sender, or by a panic that was reported.
        let _ = self.config.send(queue.clone());
    }

    /// Ends the thread. `false`: the disk keeps it from ending within `limit`.
    pub fn stop(self, limit: Duration) -> bool {
        drop(self.config);
        self.ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
    }
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
            quarantine_looked_at: None,
        };
        keeper.look(queue);
        keeper.look_at_quarantine();
        keeper
    }

    pub fn watch(&self) -> Arc<SpaceWatch> {
        Arc::clone(&self.watch)
    }

    /// Looks again and again, on a thread.
    pub fn keep_looking(mut self, queue: &QueueConfig) -> io::Result<SpoolWatch> {
        let (config, configs) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let mut queue = queue.clone();
        let work = move || {
            loop {
                match configs.recv_timeout(LOOK_EVERY) {
                    Ok(newer) => queue = newer,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                self.look(&queue);
                self.look_at_quarantine();
                // A list of files that cannot be copied now is copied at the next look.
                let _ = self.spool.copy_lists();
            }
            // The spool is let go before the end is told.
            drop(self);
            drop(ending);
        };
        thread::Builder::new().name("spool-watch".to_owned()).spawn(work)?;
        Ok(SpoolWatch { config, ended })
    }

    /// Operators empty it while the server runs.
    fn look_at_quarantine(&mut self) {
        if self.quarantine_looked_at.is_some_and(|then| then.elapsed() < QUARANTINE_EVERY) {
            return;
        }
        self.quarantine_looked_at = Some(Instant::now());
        // A folder that cannot be read keeps the last count.
        if let Ok(records) = quarantine::count(&self.spool.path().join(QUARANTINE)) {
            self.observed.process.spool_quarantine_records.set(records);
        }
    }

    /// Looks again, and does what the free space asks for.
    fn look(&mut self, queue: &QueueConfig) {
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
        process.spool_free_minimum_bytes.set(self.reserve.floor(queue.min_free_space));
        process.spool_reserve_bytes.set(self.reserve.held_bytes());
        process.spool_reserve_target_bytes.set(self.reserve.target_bytes());
        for partition in self.spool.partitions() {
            let metrics = &self.observed.partitions[usize::from(partition.id().0)];
            metrics.partition_messages.set(partition.messages());
            metrics.partition_body_bytes.set(partition.body_bytes());
        }
        match (was_low, is_low) {
            (false, true) => Record::SpoolFull { free_bytes, free_inodes }.emit(),
            (true, false) => Record::SpoolRecovered { free_bytes, free_inodes }.emit(),
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
            Record::Warning { what: &what, remedy: "see `reserve` in the spool's folder" }.emit();
        }
    }
}
