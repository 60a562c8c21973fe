//! The running server: waits for signals and failures, and ends in order.
//!
//! Order:    listeners and sessions end with their shards, then the control plane, the commit threads, then the log.
//! Fatal:    a failed store, or a disk that does not answer at the end, ends the process with exit
//!           code 75.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use crate::boot::signals::Signal;
use crate::boot::space::SpoolWatch;
use crate::boot::store::stop_within;
use crate::control::runtime::ControlRuntime;
use crate::observe::Observed;
use crate::observe::log;
use crate::observe::log::Record;
use crate::queue::CommitThread;
use crate::queue::Spool;
use crate::rt::ShardThread;
use crate::rt::Watchdog;
use crate::shard::CommandSender;

/// A store failed. A restart may recover it, so service managers should restart the server.
const EXIT_STORE_FAILED: u8 = 75;
/// How often the main thread checks for failures between signals.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long commit threads may take to end. Longer: the disk hangs.
const STORE_END_MAX: Duration = Duration::from_secs(20);
/// How long the log may take to write its last lines.
pub(super) const LOG_END_MAX: Duration = Duration::from_secs(2);

/// All parts of the running server.
pub(super) struct Running {
    pub(super) control: ControlRuntime,
    pub(super) signals: Receiver<Signal>,
    pub(super) commands: Vec<CommandSender>,
    pub(super) observed: Arc<Observed>,
    pub(super) shards: Vec<ShardThread>,
    pub(super) commits: Vec<CommitThread>,
    pub(super) spool: Arc<Spool>,
    pub(super) watch: SpoolWatch,
    pub(super) failed: Arc<AtomicBool>,
    pub(super) began: Instant,
    pub(super) _watchdog: Option<Watchdog>,
}

impl Running {
    pub(super) fn run_until_ended(self) -> ExitCode {
        loop {
            // A failed commit thread sets `failed`; a failed reader marks only its partition.
            if self.note_failures() || self.failed.load(Ordering::Acquire) {
                return self.end(EXIT_STORE_FAILED);
            }
            match self.signals.recv_timeout(CHECK_EVERY) {
                Ok(Signal::Hup) => self.control.reload(),
                Ok(Signal::Usr1) => log::reopen(),
                Ok(Signal::Term | Signal::Int) => return self.end(0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(1),
            }
        }
    }

    /// Shows which partitions have failed, and answers whether any has.
    fn note_failures(&self) -> bool {
        let mut any = false;
        for partition in self.spool.partitions() {
            let has_failed = partition.failure().is_some();
            let metrics = &self.observed.partitions[usize::from(partition.id().0)];
            metrics.partition_failed.set(u64::from(has_failed));
            any |= has_failed;
        }
        any
    }

    fn end(self, code: u8) -> ExitCode {
        let observed = &self.observed;
        observed.process.draining.set(1);
        let sessions =
            observed.shards.iter().map(|shard| shard.metrics.connections_open.value()).sum();
        Record::Draining { sessions }.emit();
        let limit = self.control.config().server.shutdown_timeout;
        self.control.drain();
        for shard in &self.commands {
            // The drain is sent once, and the lane keeps a place free for it.
            let taken = shard.drain(limit);
            debug_assert!(taken, "a shard is told to drain only once");
        }
        for shard in self.shards {
            if let Err(fault) = shard.join() {
                Record::Warning { what: &fault.to_string(), remedy: "report this as a bug" }.emit();
            }
        }
        self.control.end();
        if !self.watch.stop(STORE_END_MAX) || !stop_within(self.commits, STORE_END_MAX) {
            eprintln!(
                "ringpost: the disk does not answer; exiting now, the next start recovers the spool"
            );
            log::flush(LOG_END_MAX);
            std::process::exit(i32::from(EXIT_STORE_FAILED));
        }
        let seconds = self.began.elapsed().as_secs();
        Record::Stopped { seconds, exit: i32::from(code) }.emit();
        log::flush(LOG_END_MAX);
        ExitCode::from(code)
    }
}
