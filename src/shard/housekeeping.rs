//! The work of a shard at every tick: publish its gauges, its heartbeat and, on request, its
//! histograms; watch the batches that its commit threads write, so that a hung disk blocks nobody.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::base::limits::CHUNK_BYTES;
use crate::inbound::reception::Reception;
use crate::observe::label::CommitCause;
use crate::observe::label::Handoff;
use crate::observe::log::Record;
use crate::queue::CommitHandle;
use crate::queue::Hang;
use crate::queue::commit::lane::CommitCounts;
use crate::rt::task;
use crate::rt::timer;

/// The counters of a commit thread, in the order of `start`.
const COUNTERS: [fn(&CommitCounts) -> &AtomicU64; 6] = [
    |counts| &counts.batches,
    |counts| &counts.syncs,
    |counts| &counts.orders,
    |counts| &counts.faults_no_space,
    |counts| &counts.faults_damage,
    |counts| &counts.faults_other,
];

pub fn start(reception: &Rc<Reception>, commits: Vec<CommitHandle>) {
    let reception = Rc::clone(reception);
    let mut seen = [0; COUNTERS.len()];
    timer::on_tick(move || {
        let observed = reception.observed();
        let metrics = reception.metrics();
        metrics.body_memory_bytes.set((reception.pool.chunks_out() * CHUNK_BYTES) as u64);
        metrics.transaction_memory_bytes.set(reception.arena_bytes() as u64);
        metrics.connections_open.set(reception.sessions() as u64);
        metrics.tasks.set(task::live() as u64);
        let now = COUNTERS.map(|of| {
            commits.iter().map(|one| of(one.counts()).load(Ordering::Relaxed)).sum::<u64>()
        });
        let [batches, syncs, orders, no_space, damage, other] =
            std::array::from_fn(|place| now[place] - seen[place]);
        seen = now;
        metrics.commit_batches_total.add(batches);
        metrics.commit_syncs_total.add(syncs);
        metrics.handoffs_total.add(Handoff::Commit, orders);
        metrics.commits_failed_total.add(CommitCause::NoSpace, no_space);
        metrics.commits_failed_total.add(CommitCause::Damage, damage);
        metrics.commits_failed_total.add(CommitCause::Other, other);
        watch_commits(&reception);
        reception.histograms.publish_if_wanted();
        observed.beat();
    });
}

/// Examines every batch being written, and logs those that begin or cease to hang.
fn watch_commits(reception: &Reception) {
    let now = Instant::now();
    for committer in reception.intake.committers() {
        let partition = committer.partition();
        match committer.watch(now) {
            Some(Hang::Began { ms }) => {
                let action = "new mail is answered 451 until the disk answers";
                Record::CommitHung { partition, seconds: ms / 1000, action }.emit();
            }
            Some(Hang::Ended { ms }) => {
                Record::CommitResumed { partition, seconds: ms / 1000 }.emit();
            }
            None => {}
        }
        let hung_seconds = committer.hung_ms().div_ceil(1000);
        reception.observed().partition(partition).partition_hung_seconds.set(hung_seconds);
    }
}
