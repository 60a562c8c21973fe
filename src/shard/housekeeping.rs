//! What a shard does at every tick: show its gauges, its heartbeat and, when asked, its histograms.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::inbound::reception::Reception;
use crate::observe::counters::CommitCause;
use crate::queue::CommitHandle;
use crate::queue::lane::CommitCounts;
use crate::rt::task;
use crate::rt::timer;

pub fn start(reception: &Rc<Reception>, commits: Vec<CommitHandle>) {
    let reception = Rc::clone(reception);
    let mut seen = (0, 0);
    timer::on_tick(move || {
        let observed = reception.observed();
        let metrics = reception.metrics();
        metrics.chunks_out.set(reception.pool.chunks_out() as u64);
        metrics.connections_open.set(reception.sessions() as u64);
        metrics.tasks_live.set(task::live() as u64);
        let sum = |of: fn(&CommitCounts) -> &AtomicU64| -> u64 {
            commits.iter().map(|one| of(one.counts()).load(Ordering::Relaxed)).sum()
        };
        let now = (sum(|counts| &counts.batches), sum(|counts| &counts.faults));
        metrics.commit_batches_total.add(now.0 - seen.0);
        metrics.commits_failed_total.add(CommitCause::Other, now.1 - seen.1);
        seen = now;
        reception.histograms.publish_if_wanted();
        observed.beat();
    });
}
