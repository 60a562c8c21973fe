//! `ringpost serve`: starts the server in the steps of the folder's contract.
//!
//! Fatal:    before mail is accepted, every refusal names its cause, and a remedy if one is known;
//!           the exit code is 1. A shard that panics or makes no progress ends the process at once.
//!           `running` says what ends the process later.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

use crate::boot::check::warning;
use crate::boot::prepare;
use crate::boot::running::LOG_END_MAX;
use crate::boot::running::Running;
use crate::boot::shards;
use crate::boot::shards::Seeds;
use crate::boot::shards::Started;
use crate::boot::signals;
use crate::boot::sockets;
use crate::boot::sockets::BoundAddress;
use crate::boot::space::SpaceKeeper;
use crate::boot::store;
use crate::boot::table::StartTable;
use crate::config;
use crate::config::Config;
use crate::config::HostFacts;
use crate::control::assemble::assemble;
use crate::control::reload::Reloader;
use crate::control::runtime as control;
use crate::control::runtime::RuntimeParts;
use crate::handoff::Placement;
use crate::monitor::thread as monitor;
use crate::monitor::thread::MonitorParts;
use crate::observe::Observed;
use crate::observe::log;
use crate::observe::log::Record;
use crate::queue::Spool;
use crate::queue::points;
use crate::rt::ShardThread;
use crate::rt::Watchdog;

/// A shard that has not ticked for this long is taken for stuck.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The arguments of `serve`.
pub struct ServeOptions {
    pub config: Config,
    pub file: Option<PathBuf>,
    pub host: HostFacts,
    /// What the config check warns of.
    pub warnings: Vec<config::Fault>,
}

/// Runs the server until a signal or a failure ends it.
pub fn serve(options: ServeOptions) -> ExitCode {
    points::arm();
    match start(options) {
        Ok(running) => running.run_until_ended(),
        Err(faults) => {
            for fault in faults {
                eprintln!("ringpost: {fault}");
                // Has no effect before the log is started.
                Record::StartRefused { cause: &fault.replace("\n  ", "; ") }.emit();
            }
            log::flush(LOG_END_MAX);
            ExitCode::FAILURE
        }
    }
}

fn start(options: ServeOptions) -> Result<Running, Vec<String>> {
    let began = Instant::now();
    let ServeOptions { config, file, host: facts, warnings } = options;
    let blocked = signals::block().map_err(|cause| vec![format!("signals: {cause}")])?;
    let (plan, mut findings) =
        prepare::plan(&config, prepare::config_findings(&config, &warnings))?;
    let mut bound = sockets::bind(&config, plan.shards.len())?;
    let user = prepare::drop_privileges(&config)?;
    prepare::start_log(&config)?;
    let plan = prepare::fit_plan(plan, prepare::partitions_of(&config)?, &mut findings);
    bound.listen(plan.shards.len())?;
    let assembled = assemble(&config)?;
    let told = assembled.warnings.iter();
    findings.extend(told.map(|(what, remedy)| warning(what.clone(), remedy)));
    if !config.queue.sync {
        let what = "queue.sync is off: a power failure loses mail that was acknowledged with 250";
        findings.push(warning(what.to_owned(), "set queue.sync = true"));
    }
    // Threads that the store starts inherit the CPUs of the main thread.
    prepare::try_pin(&plan.control_cpus());
    let failed = Arc::new(AtomicBool::new(false));
    let spool = Arc::new(store::open_spool(&config, plan.shards.len())?);
    let observed = Observed::new(plan.shards.len() as u16, spool.partitions().len());
    observed.set_certificates(assembled.certificates());
    let placement = Placement::deal(spool.partitions().len(), plan.shards.len());
    let set_aside = spool.recovered().iter().map(|found| found.quarantined).sum();
    observed.shards[0].metrics.quarantined_total.add(set_aside);
    let delivery =
        shards::delivery_parts(&config, plan.shards.len(), assembled.delivery, &mut findings)?;
    let pauses = Arc::new(store::read_pauses(spool.path(), &mut findings));
    let limits = shards::open_limits(spool.path(), &mut findings)?;
    let (sts, policies) =
        shards::open_policies(spool.path(), &delivery.tls, &observed, &mut findings);
    let control = control::prepare(&config.control.socket, prepare::pin_later(&plan))
        .map_err(|cause| vec![format!("control.socket: {cause}")])?;
    // Standard output may carry the log as JSON.
    eprint!(
        "{}",
        StartTable {
            config: &config,
            user: &user,
            plan: &plan,
            placement: &placement,
            addresses: &bound.addresses,
            findings: &findings,
        }
    );

    let commits = store::start_commits(&spool, &plan, &placement, &failed)?;
    let space = SpaceKeeper::start(&spool, &observed, &config.queue);
    let signals = signals::listen(blocked).map_err(|cause| vec![format!("signals: {cause}")])?;
    let listened = bound.addresses.clone();
    let seeds = Seeds {
        config: &config,
        plan: &plan,
        placement: &placement,
        commits: &commits,
        spool: &spool,
        delivery: &delivery,
        pauses: &pauses,
        policies: &policies,
        limits: &limits,
    };
    let Started { threads: shards, commands, requests, destinations } = shards::start_shards(
        seeds,
        bound.shards,
        Arc::new(assembled.policy),
        (&observed, &space.watch()),
    )?;
    let heartbeats = shards.iter().map(ShardThread::heartbeat).collect();
    let watchdog = Watchdog::start(heartbeats, STALL_MAX, |shard| {
        tell_stall(shard);
        crate::base::fault::end_process(format_args!("shard {shard} makes no progress"))
    });
    let watch = space.keep_checking(&config.queue);
    let watch = watch.map_err(|cause| {
        vec![format!("cannot start the thread that watches the spool: {cause}")]
    })?;
    let queue_config = watch.config_sender();
    let parts = RuntimeParts {
        spool: Arc::clone(&spool),
        shards: requests,
        placement,
        pauses,
        observed: Arc::clone(&observed),
        reloader: Reloader {
            file,
            host: facts,
            config: Arc::new(config),
            shards: commands.clone(),
            observed: Arc::clone(&observed),
            on_change: Box::new(move |config| queue_config.replace(&config.queue)),
        },
        sts,
    };
    let control = control::start(control, parts);
    if let Some(listener) = bound.monitor {
        monitor::start(MonitorParts {
            listener,
            observed: Arc::clone(&observed),
            destinations,
            on_start: prepare::pin_later(&plan),
        })
        .map_err(|cause| vec![format!("monitor: {cause}")])?;
    }
    announce(&listened, &spool, shards.len());
    observed.process.listening.set(1);
    Ok(Running {
        control,
        signals,
        commands,
        shards,
        observed,
        commits,
        spool,
        watch,
        failed,
        began,
        _watchdog: watchdog.ok(),
    })
}

/// Logs the stall and flushes the log, because the process then ends without waiting.
fn tell_stall(stalled_shard: &str) {
    Record::Watchdog { stalled_shard, silent_ms: STALL_MAX.as_millis() as u64 }.emit();
    log::flush(LOG_END_MAX);
}

fn announce(listened: &[BoundAddress], spool: &Spool, shards: usize) {
    for bound in listened {
        let BoundAddress { address, protocol, tls } = *bound;
        Record::Listening { address, protocol, tls }.emit();
    }
    let version = env!("CARGO_PKG_VERSION");
    Record::Started { version, shards, partitions: spool.partitions().len() }.emit();
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::alone;
    use crate::observe::log::Level;
    use crate::observe::log::LogSettings;
    use crate::observe::log::value::Form;

    #[test]
    fn a_stall_is_in_the_log_before_the_end() {
        let name = "boot::run::tests::a_stall_is_in_the_log_before_the_end";
        let out = alone::run(name, || {
            let settings = LogSettings { level: Level::Info, form: Form::Json, file: None };
            log::start(&settings).expect("it starts");
            tell_stall("shard-3");
            // As `end_process`: nothing that was not written by now will be.
            std::process::abort();
        });
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().find(|line| line.contains("watchdog")).expect("it is told");
        assert!(line.contains(r#""stalled_shard":"shard-3","silent_ms":30000"#), "{line}");
    }
}
