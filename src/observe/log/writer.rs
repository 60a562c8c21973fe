//! The log thread: takes lines from all lanes and writes them in batches.
//!
//! Owner:    the log thread.
//! Promise:  no other thread waits for the output, even if a pipe is stuck or the disk is full. Lines
//!           that did not fit, or could not be written, are counted; one line reports their number
//!           once lines can be written again. Lines of one thread stay in order.
//! Order:    lines of different threads may be up to `POLL_MS` out of order; each has a time stamp.
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
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::observe::log::journal::Journal;
use crate::observe::log::line::line_of;
use crate::observe::log::record::Record;

/// Pause between two rounds while lines arrive. Without lines the thread sleeps until it is woken.
const POLL_MS: u64 = 10;

/// Pause after a failed write.
const FAILED_PAUSE_MS: u64 = 500;

/// Bytes taken from one lane in one round, so that a busy lane does not starve the others.
const BATCH_LANE_BYTES_MAX: usize = 256 << 10;

/// Where lines are written to.
pub enum Output {
    Stdout(File),
    File {
        path: PathBuf,
        file: File,
    },
    /// Anything else. It is never reopened.
    Other(Box<dyn Write + Send>),
}

impl Output {
    /// Standard output, without the lock and the line buffer of the standard library.
    pub fn stdout() -> io::Result<Output> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Output::Stdout(File::from(descriptor)))
    }

    /// A file, created if missing and opened for appending.
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

/// Others may not read the file, because it contains addresses. It is also opened for reading, because
/// opening a FIFO without a reader for writing would block.
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
    /// A write failed within a line; the next line starts on a new line.
    is_line_open: bool,
    /// The last write failed.
    is_failing: bool,
    /// Lines dropped up to the end of the previous round.
    dropped_before: u64,
    /// Dropped lines already reported by `LogDropped`.
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

    /// Takes lines from every lane and removes the lanes of threads that have ended.
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

    /// Writes the batch. Lines that cannot be written are lost and counted.
    fn write_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let lost = self.write(&batch);
        self.journal.count_lost(lost);
        self.batch = batch;
        self.batch.clear();
    }

    /// Writes lines. Answers how many could not be written.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.is_line_open && !lines.is_empty() {
            self.is_line_open = !matches!(self.output.write(b"\n"), Ok(1));
        }
        let mut left = lines;
        while !left.is_empty() {
            match self.output.write(left) {
                Ok(written @ 1..) => left = &left[written..],
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                // Another process made standard output non-blocking, and it is full.
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

    /// Reports all dropped lines in one line, once no more are dropped (or `now`).
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

    /// A short pause while lines arrive or drops are unreported; otherwise sleeps until woken.
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
