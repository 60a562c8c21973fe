//! The state of the log that all threads share: level, form, lanes, and requests to the log thread.
//!
//! Promise:  putting a line into a lane takes no lock. The lock of the lanes is held to open a lane,
//!           to empty the lanes and to count, never during a write.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::thread::Thread;
use std::time::Duration;

use crate::observe::log::lane::LaneEntry;
use crate::observe::log::lane::LaneExit;
use crate::observe::log::lane::lane;
use crate::observe::log::record::Level;
use crate::observe::log::value::Form;

/// The shared state of the log.
#[derive(Debug)]
pub struct Journal {
    number: u64,
    pub(super) form: Form,
    level: AtomicU8,
    pub(super) lanes: Mutex<Vec<LaneExit>>,
    /// Lines lost outside the open lanes.
    lost: AtomicU64,
    pub(super) is_asleep: AtomicBool,
    pub(super) reopen_wanted: AtomicBool,
    pub(super) close_wanted: AtomicBool,
    pub(super) flush_wanted: AtomicU64,
    pub(super) flushed: Mutex<u64>,
    pub(super) flushed_changed: Condvar,
    pub(super) writer: OnceLock<Thread>,
}

impl Journal {
    /// A journal without a writer; see `start_writer`.
    pub fn new(form: Form, level: Level) -> Arc<Journal> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Journal {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            form,
            level: AtomicU8::new(level as u8),
            lanes: Mutex::new(Vec::new()),
            lost: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            reopen_wanted: AtomicBool::new(false),
            close_wanted: AtomicBool::new(false),
            flush_wanted: AtomicU64::new(0),
            flushed: Mutex::new(0),
            flushed_changed: Condvar::new(),
            writer: OnceLock::new(),
        })
    }

    pub fn form(&self) -> Form {
        self.form
    }

    pub fn level(&self) -> Level {
        Level::ALL[usize::from(self.level.load(Ordering::Relaxed))]
    }

    /// `tracing` caches what is enabled; `log::set_level` clears that cache too.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Lines that were lost.
    pub fn lines_dropped(&self) -> u64 {
        let lanes = self.lock_lanes();
        self.lost.load(Ordering::Relaxed) + lanes.iter().map(LaneExit::dropped).sum::<u64>()
    }

    /// Asks the writer to open its file again. Does not wait for it.
    pub fn reopen(&self) {
        self.reopen_wanted.store(true, Ordering::Release);
        self.wake_writer();
    }

    /// Waits until all earlier lines of this thread are written; `false` after `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let wanted = self.flush_wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake_writer();
        let flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = |flushed: &mut u64| *flushed < wanted;
        let waited = self.flushed_changed.wait_timeout_while(flushed, timeout, behind);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= wanted
    }

    /// Asks the writer to end when everything is written.
    pub fn close(&self) {
        self.close_wanted.store(true, Ordering::Release);
        self.wake_writer();
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn open_lane(&self, bytes: usize) -> LaneEntry {
        let (entry, exit) = lane(bytes);
        self.lock_lanes().push(exit);
        entry
    }

    pub(crate) fn count_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Called after a line was put into a lane. An error is written at once, because the process may be
    /// about to end; other lines are written at the next round.
    pub(crate) fn wake(&self, level: Level) {
        // Either this load sees the writer asleep, or the writer's last check sees the line.
        fence(Ordering::SeqCst);
        if level == Level::Error || self.is_asleep.load(Ordering::Relaxed) {
            self.wake_writer();
        }
    }

    fn wake_writer(&self) {
        self.is_asleep.store(false, Ordering::SeqCst);
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    pub(super) fn lock_lanes(&self) -> MutexGuard<'_, Vec<LaneExit>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock_lanes().iter().all(LaneExit::is_empty)
            && !self.reopen_wanted.load(Ordering::Acquire)
            && !self.close_wanted.load(Ordering::Acquire)
            && self.flush_wanted.load(Ordering::Acquire)
                == *self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
