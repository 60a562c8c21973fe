//! The log of the process: started once, before any other thread.
//!
//! Owner:    `boot` starts it; SIGHUP calls `reopen` and `set_level`; the shutdown calls `flush`.
//! Promise:  see `writer`. Nothing here is on the data path.
//! Fatal:    a log file that cannot be opened at start. A later failure is logged to the old file.
//!
//! The log thread inherits the CPU affinity of the thread that calls `start`, so call it before that
//! thread is pinned.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use thiserror::Error;
use tracing_log::LogTracer;
use tracing_log::log::LevelFilter;

use crate::base::ShardId;
use crate::observe::log::journal::Journal;
use crate::observe::log::record::Level;
use crate::observe::log::subscriber::LineSubscriber;
use crate::observe::log::subscriber::enter_shard;
use crate::observe::log::value::Form;
use crate::observe::log::writer::Output;
use crate::observe::log::writer::start_writer;

static JOURNAL: OnceLock<Arc<Journal>> = OnceLock::new();

/// How the process logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: Level,
    pub form: Form,
    /// A file, or standard output.
    pub file: Option<PathBuf>,
}

/// Why the log cannot be started.
#[derive(Debug, Error)]
pub enum LogFault {
    #[error("the log file {} cannot be opened: {cause}", path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error("standard output is not usable: {0}")]
    Stdout(io::Error),
    #[error("the log thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("the log is already started")]
    AlreadyStarted,
}

/// Starts the log thread; from now on records become lines.
pub fn start(settings: &LogSettings) -> Result<(), LogFault> {
    let output = match &settings.file {
        Some(path) => {
            Output::file(path).map_err(|cause| LogFault::Open { path: path.clone(), cause })?
        }
        None => Output::stdout().map_err(LogFault::Stdout)?,
    };
    let journal = Journal::new(settings.form, settings.level);
    JOURNAL.set(Arc::clone(&journal)).map_err(|_| LogFault::AlreadyStarted)?;
    start_writer(&journal, output).map_err(LogFault::Thread)?;
    tracing::subscriber::set_global_default(LineSubscriber::new(journal))
        .map_err(|_| LogFault::AlreadyStarted)?;
    LogTracer::init_with_filter(foreign_filter(settings.level))
        .map_err(|_| LogFault::AlreadyStarted)
}

/// Changes the level, at once and on all threads.
pub fn set_level(level: Level) {
    if let Some(journal) = JOURNAL.get() {
        journal.set_level(level);
        tracing_log::log::set_max_level(foreign_filter(level));
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Reopens the log file after it was moved. Does not wait for it.
pub fn reopen() {
    if let Some(journal) = JOURNAL.get() {
        journal.reopen();
    }
}

/// Waits until all lines are written; `false` after `timeout`.
pub fn flush(timeout: Duration) -> bool {
    JOURNAL.get().is_none_or(|journal| journal.flush(timeout))
}

/// Lines dropped since the start, because a lane was full or the output failed.
pub fn lines_dropped() -> u64 {
    JOURNAL.get().map_or(0, |journal| journal.lines_dropped())
}

/// Marks this thread as that of a shard: its lines name the shard, and its lane is large.
pub fn set_shard(shard: ShardId) {
    enter_shard(shard, JOURNAL.get().map(Arc::as_ref));
}

/// The most that foreign crates can log through `log`; the rest costs one atomic load.
fn foreign_filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::Error,
        Level::Warn | Level::Info => LevelFilter::Warn,
        Level::Debug => LevelFilter::Debug,
    }
}
