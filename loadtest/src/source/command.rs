//! `ringpost-load source`: one run of the source.

use std::sync::Arc;
use std::sync::PoisonError;
use std::thread;
use std::time::Instant;

use ringpost::boot;
use ringpost::boot::signals;
use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::rt::ShardThread;

use crate::flags;
use crate::report::Collector;
use crate::report::Record;
use crate::report::Seconds;
use crate::report::command_line;
use crate::source::finished::Finished;
use crate::source::options::Options;
use crate::source::plan::Plan;
use crate::source::session;
use crate::source::session::GOODBYE;
use crate::source::stages;
use crate::watch::watch;

/// Sends all messages and prints the result. `false`: not all were accepted.
pub fn run(options: Options) -> Result<bool, String> {
    options.outputs.check()?;
    flags::check_writable("--sent", options.sent.as_deref())?;
    // Before the clock starts, since this may measure the syncs of a disk.
    let record = Record::begin("source", options.outputs.machine(), command_line());
    let signals = signals::block().and_then(signals::listen);
    let signals = signals.map_err(|cause| format!("signals: {cause}"))?;
    let live = options.outputs.live();
    let plan = Arc::new(Plan::new(options)?);
    let running = Arc::clone(&plan);
    // The thread lives as long as the process.
    thread::spawn(move || running.end_by(&signals));
    let report = carry_out(plan, live)?;
    let is_well = report.is_well();
    // The figures are printed even if the file cannot be written.
    let written = report.write_sent();
    report.print(record)?;
    written?;
    Ok(is_well)
}

/// Sends all messages.
pub fn send_live(options: Options, live: bool) -> Result<Finished, String> {
    carry_out(Arc::new(Plan::new(options)?), live)
}

fn carry_out(plan: Arc<Plan>, live: bool) -> Result<Finished, String> {
    boot::host::raise_limits(&plan.options.needs());
    let started = Instant::now();
    let seconds = Seconds::start(started, live);
    let shards: Vec<ShardThread> = (0..plan.options.cores.min(plan.options.sessions))
        .map(|shard| start(&plan, shard, seconds.collector(stages::NAMES)))
        .collect::<Result<_, _>>()?;
    let _watchdog = watch(&shards)?;
    for shard in shards {
        shard.join().map_err(|fault| format!("{fault}: {}", fault.remedy()))?;
    }
    let took = plan.began().0.elapsed();
    plan.stop();
    let found = std::mem::take(&mut *plan.found.lock().unwrap_or_else(PoisonError::into_inner));
    let planned = plan.schedule.planned();
    // The seconds count from the start of the threads, the run from its first message.
    let intervals = seconds.end(started.elapsed());
    Ok(Finished { plan, found, planned, took, intervals })
}

fn start(plan: &Arc<Plan>, shard: usize, collector: Collector) -> Result<ShardThread, String> {
    let cores = plan.options.cores.min(plan.options.sessions);
    let sessions =
        plan.options.sessions / cores + usize::from(shard < plan.options.sessions % cores);
    let mut spec = ShardSpec::new(format!("source-{shard}"), None);
    spec.drain_max = GOODBYE;
    let plan = Arc::clone(plan);
    let main = move || async move {
        let found = session::all(&plan, sessions, collector).await;
        plan.report(found);
    };
    rt::start(spec, main).map_err(|fault| format!("{fault}: {}", fault.remedy()))
}
