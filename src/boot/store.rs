//! Opens and recovers the spool, logs its notices, starts and stops its commit threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::base::clock::wall_ms;
use crate::base::id::PARTITIONS_MAX;
use crate::boot::check::Finding;
use crate::boot::check::warning;
use crate::boot::cores::Plan;
use crate::boot::prepare::try_pin;
use crate::config::Config;
use crate::config::Partitions;
use crate::handoff::Placement;
use crate::observe::log::Record;
use crate::queue::CommitOptions;
use crate::queue::CommitThread;
use crate::queue::Notice;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::queue::admin::pauses::Pauses;
use crate::queue::notice::Loudness;

pub(super) fn open_spool(config: &Config, shards: usize) -> Result<Spool, Vec<String>> {
    let mut options = SpoolOptions::new(&config.server.spool, wall_ms());
    options.partitions = match config.queue.partitions {
        Partitions::Auto => None,
        Partitions::Count(count) => Some(count as u8),
    };
    options.partitions_new = shards.clamp(1, PARTITIONS_MAX) as u8;
    options.memory_bytes = config.queue.memory as usize;
    options.sync = config.queue.sync;
    options.on_notice = Arc::new(|notice| log_notice(&notice));
    let began = Instant::now();
    let spool =
        Spool::open(options).map_err(|fault| vec![format!("{fault}\n  {}", fault.remedy())])?;
    for (partition, recovered) in spool.partitions().iter().zip(spool.recovered()) {
        Record::Recovered {
            partition: partition.id(),
            messages: partition.messages(),
            swept_streams: recovered.swept,
            ms: began.elapsed().as_millis() as u64,
        }
        .emit();
    }
    Ok(spool)
}

fn log_notice(notice: &Notice) {
    match notice {
        Notice::Quarantined { partition, key, why, .. } => {
            Record::Quarantined { partition: *partition, key, cause: why, bytes: 0 }.emit();
        }
        Notice::Store { partition, loudness: Loudness::Warn, line } => {
            Record::Store { partition: *partition, line }.emit();
        }
        other if other.loudness() == Loudness::Error => {
            let what = other.to_string();
            Record::StoreDamaged { partition: other.partition(), what: &what }.emit();
        }
        other => {
            let what = other.to_string();
            Record::Warning { what: &what, remedy: "see `ringpost queue stats`" }.emit();
        }
    }
}

/// Destinations that operators paused stay paused; the start table lists them.
pub(super) fn read_pauses(folder: &Path, findings: &mut Vec<Finding>) -> Pauses {
    let (pauses, wrong) = Pauses::read(folder);
    findings.extend(
        wrong.map(|what| warning(what, "pause again all destinations that must not get mail")),
    );
    let names = pauses.names();
    if !names.is_empty() {
        let what = format!("destinations paused by an operator: {}", names.join(", "));
        findings.push(warning(what, "see `ringpost destination list`"));
    }
    pauses
}

pub(super) fn start_commits(
    spool: &Spool,
    plan: &Plan,
    placement: &Placement,
    failed: &Arc<AtomicBool>,
) -> Result<Vec<CommitThread>, Vec<String>> {
    let mut commits = Vec::new();
    for partition in spool.partitions() {
        let home = plan
            .shards
            .iter()
            .find(|place| placement.of_shard(place.shard).contains(&partition.id()));
        let cpus = home.map(|place| plan.commit_cpus(place.node)).unwrap_or_default();
        let failed = Arc::clone(failed);
        let options = CommitOptions {
            on_start: Box::new(move || try_pin(&cpus)),
            on_fatal: Arc::new(move |partition, cause| {
                failed.store(true, Ordering::Release);
                let action = "the partition accepts no more mail; the process exits so that a restart recovers it";
                Record::CommitFailed { partition, cause: &cause, action }.emit();
            }),
        };
        let commit = CommitThread::start(Arc::clone(partition), options);
        commits
            .push(commit.map_err(|cause| vec![format!("cannot start a commit thread: {cause}")])?);
    }
    Ok(commits)
}

/// Ends the commit threads after their last batches. `false`: the disk did not answer in time.
pub(super) fn stop_within(commits: Vec<CommitThread>, limit: Duration) -> bool {
    let (done, ended) = mpsc::channel();
    let stopping = thread::Builder::new().name("stopping".to_owned()).spawn(move || {
        commits.into_iter().for_each(CommitThread::stop);
        // The receiver is gone if this took longer than `limit`.
        let _ = done.send(());
    });
    stopping.is_ok() && ended.recv_timeout(limit).is_ok()
}
