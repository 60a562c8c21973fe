//! Watches the spool's folder while the server runs: free space, quarantine, copies of file lists.
//!
//! Owner:    a thread of its own, because a check waits for the disk, and a disk that does not answer
//!           must not keep the main thread from signals. Shards read the last result in `SpaceWatch`.
//! Order:    the first check comes before the first shard starts, so that no mail is accepted without
//!           room for it.
//! Promise:  below the floor new mail is refused. A full disk uses up the reserve; mail is accepted
//!           again once the reserve is restored. The space of deleted bodies is reclaimed, and events
//!           that are too old or too many are dropped: no mail is refused for them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::base::clock::wall_ms;
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
use crate::queue::store::event_log;
use crate::queue::store::event_log::KeptEvents;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::QUARANTINE;
use crate::queue::store::space::file_system_bytes;

/// Interval between two checks of the free space.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// Interval between two counts of the quarantine.
const QUARANTINE_EVERY: Duration = Duration::from_secs(10);

/// Interval between two looks at the age and size of the event log.
const EVENTS_EVERY: Duration = Duration::from_secs(60);
/// What stays of the event log on a full disk.
const EVENTS_KEPT_MIN: Duration = Duration::from_secs(3600);

/// Checks the free space and keeps the reserve.
pub struct SpaceKeeper {
    spool: Arc<Spool>,
    observed: Arc<Observed>,
    watch: Arc<SpaceWatch>,
    reserve: Reserve,
    reclaimer: Reclaimer,
    /// The failure to allocate the reserve has been logged.
    told: bool,
    quarantine_counted_at: Option<Instant>,
    events_dropped_at: Option<Instant>,
    /// The clock at the start: a step of it while the server runs makes no event old.
    started: (u64, Instant),
}

/// The thread that repeats the checks.
pub struct SpoolWatch {
    config: ConfigSender,
    ended: Receiver<()>,
}

/// Gives the thread another config.
#[derive(Clone)]
pub struct ConfigSender(Sender<Option<QueueConfig>>);

impl ConfigSender {
    /// The next check uses this config.
    pub fn replace(&self, queue: &QueueConfig) {
        // The thread ends with the process, or by a panic that was reported.
        let _ = self.0.send(Some(queue.clone()));
    }
}

impl SpoolWatch {
    pub fn config_sender(&self) -> ConfigSender {
        self.config.clone()
    }

    /// Ends the thread. `false`: the disk kept the thread from ending within `limit`.
    pub fn stop(self, limit: Duration) -> bool {
        // Fails if the thread has ended.
        let _ = self.config.0.send(None);
        self.ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
    }
}

impl SpaceKeeper {
    /// Makes the first check.
    pub fn start(spool: &Arc<Spool>, observed: &Arc<Observed>, queue: &QueueConfig) -> SpaceKeeper {
        let partitions = spool.partitions().len();
        let mut keeper = SpaceKeeper {
            spool: Arc::clone(spool),
            observed: Arc::clone(observed),
            watch: Arc::new(SpaceWatch::new()),
            reserve: Reserve::find(spool.path(), queue.memory as usize, partitions),
            reclaimer: Reclaimer::default(),
            told: false,
            quarantine_counted_at: None,
            events_dropped_at: None,
            started: (wall_ms(), Instant::now()),
        };
        keeper.check(queue);
        keeper.count_quarantine();
        keeper
    }

    pub fn watch(&self) -> Arc<SpaceWatch> {
        Arc::clone(&self.watch)
    }

    /// Repeats the check on a thread of its own.
    pub fn keep_checking(mut self, queue: &QueueConfig) -> io::Result<SpoolWatch> {
        let (config, configs) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let mut queue = queue.clone();
        let work = move || {
            loop {
                match configs.recv_timeout(CHECK_EVERY) {
                    Ok(Some(newer)) => queue = newer,
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
                }
                self.check(&queue);
                self.count_quarantine();
                self.drop_events(&queue);
                // A file list that cannot be copied now is copied after the next check.
                let _ = self.spool.copy_lists();
            }
            // Release the spool before reporting the end.
            drop(self);
            drop(ending);
        };
        thread::Builder::new().name("spool-watch".to_owned()).spawn(work)?;
        Ok(SpoolWatch { config: ConfigSender(config), ended })
    }

    /// Counts regularly, because operators empty the quarantine while the server runs.
    fn count_quarantine(&mut self) {
        if self.quarantine_counted_at.is_some_and(|then| then.elapsed() < QUARANTINE_EVERY) {
            return;
        }
        self.quarantine_counted_at = Some(Instant::now());
        // If the folder cannot be read, the last count stays.
        if let Ok(records) = quarantine::count(&self.spool.path().join(QUARANTINE)) {
            self.observed.process.spool_quarantine_records.set(records);
        }
    }

    /// Drops events that are too old or too many.
    fn drop_events(&mut self, queue: &QueueConfig) {
        let is_low = self.watch.is_low();
        let every = if is_low { CHECK_EVERY } else { EVENTS_EVERY };
        if self.events_dropped_at.is_some_and(|then| then.elapsed() < every) {
            return;
        }
        self.events_dropped_at = Some(Instant::now());
        let partitions = self.spool.partitions();
        // A disk that does not answer is asked again a minute later.
        let Ok(disk) = file_system_bytes(self.spool.path()) else { return };
        let share = disk / 100 * u64::from(queue.events_disk_share) / partitions.len() as u64;
        let age = if is_low { EVENTS_KEPT_MIN } else { queue.events_max_age };
        let (start_ms, start) = self.started;
        let now_ms = wall_ms().min(start_ms + start.elapsed().as_millis() as u64);
        let oldest_ms = now_ms.saturating_sub(age.as_millis() as u64);
        for partition in partitions {
            let limits = KeptEvents { oldest_ms, bytes_max: share };
            // What cannot be dropped now is dropped later.
            let Ok(dropped) = event_log::drop_oldest(partition, limits) else { continue };
            let metrics = &self.observed.partitions[usize::from(partition.id().0)];
            metrics.partition_event_bytes.set(dropped.left);
            metrics.events_dropped_bytes_total.add(dropped.for_age + dropped.for_space);
            if dropped.for_space > 0 || is_low && dropped.for_age > 0 {
                let bytes = dropped.for_space + dropped.for_age;
                Record::EventsDropped { partition: partition.id(), bytes }.emit();
            }
        }
    }

    /// Measures the free space, adjusts the reserve, sets the gauges and starts reclaiming.
    fn check(&mut self, queue: &QueueConfig) {
        let was_low = self.watch.is_low();
        let mut found = self.measure(queue);
        // The reserve stays as it is if the file system does not answer.
        if let Ok(Space { free_bytes, .. }) = found {
            match self.reserve.keep(free_bytes, queue.min_free_space) {
                Ok(false) => {}
                Ok(true) => found = self.measure(queue),
                Err(cause) => self.tell(&cause),
            }
        }
        let Space { free_bytes, free_inodes } = self.watch.last();
        // Set the gauges before the log record: a reader of the log may query them at once.
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
            // If no thread could be started, the next check tries again.
            let _ = self.reclaimer.begin(self.spool.partitions(), want, free_bytes);
        }
    }

    fn measure(&self, queue: &QueueConfig) -> io::Result<Space> {
        let floor = SpaceFloor {
            bytes_min: self.reserve.floor(queue.min_free_space),
            inodes_min: queue.min_free_inodes as u64,
        };
        self.watch.check(self.spool.path(), floor)
    }

    fn tell(&mut self, cause: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            let what = format!("cannot allocate the spool's reserve for a full disk: {cause}");
            Record::Warning {
                what: &what,
                remedy: "check the file `reserve` in the folder of the spool",
            }
            .emit();
        }
    }
}
