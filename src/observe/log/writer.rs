//! The log thread: takes lines out of all lanes and writes them, many at a time.
//!
//! Owner:    `Journal` is shared; `LogWriter` lives on a thread of its own.
//! Promise:  whatever the output does (a stuck pipe, a full disk), no other thread waits for it.
//!           Lines that found no room, or could not be written, are counted, and one line says
//!           how many once lines flow again. Lines of one thread stay in order.
//! Order:    lines of different threads may be up to `POLL_MS` out of order; each has its time.
//! Bounds:   `BATCH_LANE_BYTES_MAX` of each lane per round.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
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
use std::thread;
use std::thread::JoinHandle;
use std::thread::Thread;
use std::time::Duration;

use crate::observe::log::Record;
use crate::observe::log::lane::LaneEntry;
use crate::observe::log::lane::LaneExit;
use crate::observe::log::lane::lane;
use crate::observe::log::record::Level;
use crate::observe::log::subscriber::line_of;
use crate::observe::log::value::Form;

/// Pause between two rounds while lines come. With none at all the thread sleeps until woken.
const POLL_MS: u64 = 10;

/// Pause after a write that failed, before the next is tried.
const FAILED_PAUSE_MS: u64 = 500;

/// Bytes taken out of one lane in one round, so that a busy lane does not starve the others.
const BATCH_LANE_BYTES_MAX: usize = 256 << 10;

/// What all threads know of the log.
#[derive(Debug)]
pub struct Journal {
    number: u64,
    form: Form,
    level: AtomicU8,
    /// Locked to open a lane, to empty the lanes and to count; never while writing.
    lanes: Mutex<Vec<LaneExit>>,
    /// Lines lost anywhere but in the lanes that are open.
    lost: AtomicU64,
    is_asleep: AtomicBool,
    reopen_wanted: AtomicBool,
    close_wanted: AtomicBool,
    flush_wanted: AtomicU64,
    flushed: Mutex<u64>,
    flushed_changed: Condvar,
    writer: OnceLock<Thread>,
}

impl Journal {
    /// A journal without a writer yet. See `start_writer`.
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

    /// From now on. `tracing` remembers what is enabled; `log::set_level` makes it forget.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Lines that nobody will ever read.
    pub fn lines_dropped(&self) -> u64 {
        let lanes = self.lock_lanes();
        self.lost.load(Ordering::Relaxed) + lanes.iter().map(LaneExit::dropped).sum::<u64>()
    }

    /// Asks the writer to open its file again. Does not wait for it.
    pub fn reopen(&self) {
        self.reopen_wanted.store(true, Ordering::Release);
        self.wake_writer();
    }

    /// Waits until everything that this thread wrote before is written. `false` past `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let wanted = self.flush_wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake_writer();
        let flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = |flushed: &mut u64| *flushed < wanted;
        let waited = self.flushed_changed.wait_timeout_while(flushed, timeout, behind);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= wanted
    }

    /// Asks the writer to end once it has written everything.
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

    /// After a line was put into a lane. An error is written at once, for the process may be
    /// about to end; anything else when the writer comes by.
    pub(crate) fn wake(&self, level: Level) {
        // Either this load sees the writer asleep, or the writer's last look sees the line.
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

    fn lock_lanes(&self) -> MutexGuard<'_, Vec<LaneExit>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.lock_lanes().iter().all(LaneExit::is_empty)
            && !self.reopen_wanted.load(Ordering::Acquire)
            && !self.close_wanted.load(Ordering::Acquire)
            && self.flush_wanted.load(Ordering::Acquire)
                == *self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines go.
pub enum Output {
    Stdout(File),
    File {
        path: PathBuf,
        file: File,
    },
    /// Anything else; it is not opened again.
    Other(Box<dyn Write + Send>),
}

impl Output {
    /// The process's standard output, without the standard library's lock and line buffer.
    pub fn stdout() -> io::Result<Output> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Output::Stdout(File::from(descriptor)))
    }

    /// A file, made when it is missing and only ever appended to.
    pub fn file(path: &Path) -> io::Result<Output> {
        Ok(Output::File { path: path.to_owned(), file: open(path)? })
    }

    fn reopen(&mut self) -> Result<(), (String, io::Error)> {
        if let Output::File { path, file } = self {
            *file = open(path).map_err(|cause| (path.display().to_string(), cause))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(file) | Output::File { file, .. } => file.write(bytes),
            Output::Other(other) => other.write(bytes),
        }
    }
}

/// Not for others to read: it holds addresses. Opened for reading too, because a FIFO without a reader would block an `open` for writing.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Starts the log thread.
pub fn start_writer(journal: &Arc<Journal>, output: Output) -> io::Result<JoinHandle<()>> {
    let writer = LogWriter {
        journal: Arc::clone(journal),
        output,
        batch: Vec::new(),
        is_line_open: false,
        is_failing: false,
        dropped_before: 0,
        dropped_told: 0,
    };
    let thread = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
    if journal.writer.set(thread.thread().clone()).is_err() {
        return Err(io::Error::other("this journal already has a writer"));
    }
    Ok(thread)
}

struct LogWriter {
    journal: Arc<Journal>,
    output: Output,
    batch: Vec<u8>,
    /// A write failed inside a line; the next one starts on a line of its own.
    is_line_open: bool,
    /// The last write failed.
    is_failing: bool,
    /// Lines dropped when the round before this one ended.
    dropped_before: u64,
    /// Lines that a `LogDropped` has told of.
    dropped_told: u64,
}

impl LogWriter {
    fn run(mut self) {
        loop {
            let is_closing = self.journal.close_wanted.load(Ordering::Acquire);
            let flush_wanted = self.journal.flush_wanted.load(Ordering::Acquire);
            if self.journal.reopen_wanted.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            let is_emptied = self.take_lines();
            let is_quiet = self.batch.is_empty();
            self.write_batch();
            if !self.is_failing && is_emptied {
                self.tell_dropped(is_closing || self.is_flush_due(flush_wanted));
                self.report_flushed(flush_wanted);
            }
            if is_closing && is_emptied {
                self.report_flushed(flush_wanted);
                return;
            }
            if is_emptied {
                self.pause(is_quiet);
            }
        }
    }

    fn reopen(&mut self) {
        if let Err((path, cause)) = self.output.reopen() {
            let record = Record::LogNotReopened { path: &path, cause: &cause };
            self.batch.extend_from_slice(line_of(&record, self.journal.form).as_bytes());
        }
    }

    /// Takes a share of every lane and forgets the lanes of threads that have ended.
    fn take_lines(&mut self) -> bool {
        let mut is_emptied = true;
        let mut lanes = self.journal.lock_lanes();
        for exit in lanes.iter_mut() {
            is_emptied &= exit.take_into(&mut self.batch, BATCH_LANE_BYTES_MAX);
        }
        lanes.retain_mut(|exit| {
            let is_finished = exit.is_finished();
            if is_finished {
                self.journal.count_lost(exit.dropped());
            }
            !is_finished
        });
        is_emptied
    }

    /// Writes what was taken. What cannot be written is lost and counted.
    fn write_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let lost = self.write(&batch);
        self.journal.count_lost(lost);
        self.batch = batch;
        self.batch.clear();
    }

    /// Writes lines, and says how many could not be written.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.is_line_open && !lines.is_empty() {
            self.is_line_open = !matches!(self.output.write(b"\n"), Ok(1));
        }
        let mut left = lines;
        while !left.is_empty() {
            match self.output.write(left) {
                Ok(written @ 1..) => left = &left[written..],
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                // Somebody made our standard output non-blocking; it is only full.
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    thread::park_timeout(Duration::from_millis(POLL_MS));
                }
                Ok(0) | Err(_) => {
                    let written = lines.len() - left.len();
                    self.is_line_open |= written > 0 && lines[written - 1] != b'\n';
                    self.is_failing = true;
                    return left.iter().filter(|byte| **byte == b'\n').count() as u64;
                }
            }
        }
        self.is_failing = false;
        0
    }

    /// One line for all that was dropped, once nothing more is (or `now`).
    fn tell_dropped(&mut self, now: bool) {
        let dropped = self.journal.lines_dropped();
        let has_stopped = dropped == self.dropped_before;
        self.dropped_before = dropped;
        if dropped > self.dropped_told && (has_stopped || now) {
            let record = Record::LogDropped { lines: dropped - self.dropped_told };
            let line = line_of(&record, self.journal.form);
            if self.write(line.as_bytes()) == 0 {
                self.dropped_told = dropped;
            }
        }
    }

    fn is_flush_due(&self, wanted: u64) -> bool {
        *self.journal.flushed.lock().unwrap_or_else(PoisonError::into_inner) < wanted
    }

    fn report_flushed(&self, wanted: u64) {
        if self.is_flush_due(wanted) {
            *self.journal.flushed.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
            self.journal.flushed_changed.notify_all();
        }
    }

    /// A short rest while lines come or there are drops to tell of; a long sleep otherwise.
    fn pause(&self, is_quiet: bool) {
        let journal = &*self.journal;
        if self.is_failing {
            thread::park_timeout(Duration::from_millis(FAILED_PAUSE_MS));
            return;
        }
        if !is_quiet || self.dropped_told < journal.lines_dropped() {
            thread::park_timeout(Duration::from_millis(POLL_MS));
            return;
        }
        journal.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while journal.is_asleep.load(Ordering::SeqCst) && journal.is_idle() {
            thread::park();
        }
        journal.is_asleep.store(false, Ordering::SeqCst);
    }
}
