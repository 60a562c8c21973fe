//! The steps of a start before the spool is opened: CPUs, limits, user and log.
//!
//! Each function returns complete error messages with a remedy; `run` prints them.

use std::path::Path;
use std::sync::Arc;

use crate::base::limits::QUERIES_OUT_MAX;
use crate::boot::account::Account;
use crate::boot::affinity;
use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::check::Level;
use crate::boot::cores::Plan;
use crate::boot::host;
use crate::boot::host::Host;
use crate::boot::host::Needs;
use crate::boot::judge;
use crate::boot::privilege_fault::PrivilegeFault;
use crate::boot::privileges;
use crate::boot::sockets;
use crate::boot::spool_folder;
use crate::boot::topology::Topology;
use crate::config;
use crate::config::Config;
use crate::config::LogOutput;
use crate::config::Partitions;
use crate::config::delivery::relation::DANE_IS_INERT;
use crate::config::delivery::relation::DANE_KEY;
use crate::config::delivery::relation::DANE_REMEDY;
use crate::config::delivery::relation::dane_is_inert;
use crate::observe::log;
use crate::observe::log::LogSettings;
use crate::observe::log::Record;
use crate::queue::partitions_in;

/// File descriptors of the store, the log and the control plane.
const OPEN_FILES_BESIDE: u64 = 4096;

/// What the configuration needs from the machine.
pub fn needs_of(config: &Config, plan: &Plan) -> Needs {
    Needs {
        shards: plan.shards.len() as u64,
        open_files: config.limits.connections as u64
            + OPEN_FILES_BESIDE
            + (plan.shards.len() * QUERIES_OUT_MAX) as u64,
        backlog: u64::from(sockets::BACKLOG),
        becomes_user: config.server.user.is_some(),
    }
}

/// The warnings of the config, and the note that DANE has no effect by default.
pub(super) fn config_findings(config: &Config, warnings: &[config::Fault]) -> Vec<Finding> {
    let warn = |one: &config::Fault| check::warning(one.without_hint(), &one.hint);
    let mut findings: Vec<Finding> = warnings.iter().map(warn).collect();
    // If the key is set in the file, the config check has warned already.
    if dane_is_inert(config) && !warnings.iter().any(|one| one.key == DANE_KEY) {
        findings.push(check::note(format!("{DANE_KEY} {DANE_IS_INERT}"), DANE_REMEDY));
    }
    findings
}

/// Raises limits, judges the machine and places the shards; the errors are reasons not to start.
pub(super) fn plan(
    config: &Config,
    warnings: Vec<Finding>,
) -> Result<(Plan, Vec<Finding>), Vec<String>> {
    let root = Path::new("/");
    let plan =
        Plan::new(&config.server.cores, &Topology::read(root)).map_err(|f| vec![f.to_string()])?;
    let needs = needs_of(config, &plan);
    host::raise_limits(&needs);
    let mut findings = warnings;
    findings.extend(judge::problems(&Host::read(root), &needs));
    let refusals = findings.iter().filter(|finding| finding.level == Level::Error);
    let refusals: Vec<String> =
        refusals.map(|finding| format!("{}\n  {}", finding.seen, finding.remedy)).collect();
    if refusals.is_empty() { Ok((plan, findings)) } else { Err(refusals) }
}

/// Creates the spool's folder for the configured user, then changes to that user. Returns the name
/// for the start table.
pub(super) fn drop_privileges(config: &Config) -> Result<String, Vec<String>> {
    let text = |fault: PrivilegeFault| vec![fault.to_string()];
    let server = &config.server;
    let account = match (&server.user, privileges::runs_as_root()) {
        (Some(user), true) => Some(Account::find(user, server.group.as_deref()).map_err(text)?),
        _ => None,
    };
    spool_folder::own_folder(&server.spool, account.as_ref()).map_err(text)?;
    match &account {
        Some(account) => privileges::drop_to(account).map_err(text)?,
        None => privileges::lock_down().map_err(text)?,
    }
    let user = match account {
        Some(account) => account.user,
        None if privileges::runs_as_root() => "root".to_owned(),
        None => "the caller".to_owned(),
    };
    spool_folder::check_writable(&server.spool, &user).map_err(text)?;
    Ok(user)
}

pub(super) fn start_log(config: &Config) -> Result<(), Vec<String>> {
    log::start(&LogSettings {
        level: config.log.level,
        form: config.log.format,
        file: match &config.log.output {
            LogOutput::Stdout => None,
            LogOutput::File(path) => Some(path.clone()),
        },
    })
    .map_err(|fault| vec![fault.to_string()])
}

/// Restricts the calling thread to `cpus`. A failure is only logged: placement affects speed alone.
pub(super) fn try_pin(cpus: &[usize]) {
    if let Err(fault) = affinity::keep_current_thread_on(cpus) {
        Record::Warning {
            what: &fault.to_string(),
            remedy: "check the CPU affinity of the process",
        }
        .emit();
    }
}

/// As `try_pin` to the CPUs of the control plane, for a thread that is yet to start.
pub(super) fn pin_later(plan: &Plan) -> Arc<dyn Fn() + Send + Sync> {
    let cpus = plan.control_cpus();
    Arc::new(move || try_pin(&cpus))
}

/// The number of partitions of the existing spool, or else that of the config. `None`: one for each
/// shard.
pub(super) fn partitions_of(config: &Config) -> Result<Option<usize>, Vec<String>> {
    let found = partitions_in(&config.server.spool)
        .map_err(|fault| vec![format!("{fault}\n  {}", fault.remedy())])?;
    Ok(match (found, config.queue.partitions) {
        (Some(found), _) => Some(found as usize),
        (None, Partitions::Count(count)) => Some(count),
        (None, Partitions::Auto) => None,
    })
}

/// Drops shards without a partition: a spool created on a smaller machine may have fewer partitions
/// than there are cores.
pub(super) fn fit_plan(
    mut plan: Plan,
    partitions: Option<usize>,
    findings: &mut Vec<Finding>,
) -> Plan {
    let Some(partitions) = partitions else { return plan };
    if plan.shards.len() > partitions {
        let what = format!(
            "the spool has {partitions} partitions, so {partitions} of {} cores run shards",
            plan.shards.len(),
        );
        let remedy = "to use all cores, drain this spool and create a new one";
        findings.push(check::warning(what, remedy));
        plan.keep_shards(partitions);
    }
    plan
}
