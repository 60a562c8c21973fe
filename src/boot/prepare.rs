//! The steps of a start before the spool is opened: CPUs, limits, user and log.
//!
//! Every function returns its refusals as complete messages with a remedy; `run` prints them.

use std::path::Path;

use crate::boot::account::Account;
use crate::boot::affinity;
use crate::boot::cores::Plan;
use crate::boot::host;
use crate::boot::host::Finding;
use crate::boot::host::Host;
use crate::boot::host::Level;
use crate::boot::host::Needs;
use crate::boot::judge;
use crate::boot::privilege_fault::PrivilegeFault;
use crate::boot::privileges;
use crate::boot::sockets;
use crate::boot::spool_folder;
use crate::boot::topology::Topology;
use crate::config::Config;
use crate::config::LogFormat;
use crate::config::LogOutput;
use crate::config::Partitions;
use crate::control::reload::level_of;
use crate::observe::Event;
use crate::observe::log;
use crate::observe::log::LogSettings;
use crate::observe::value::Form;
use crate::queue::partitions_in;

/// File descriptors of the store, the log and the control plane.
const OPEN_FILES_BESIDE: u64 = 4096;

pub(in crate::boot) fn warning(what: String, remedy: &str) -> Finding {
    Finding { level: Level::Warn, what, remedy: remedy.to_owned() }
}

/// What the config asks of the machine.
pub fn needs_of(config: &Config, plan: &Plan) -> Needs {
    Needs {
        shards: plan.shards.len() as u64,
        open_files: config.limits.connections as u64 + OPEN_FILES_BESIDE,
        backlog: u64::from(sockets::BACKLOG),
        becomes_user: config.server.user.is_some(),
    }
}

/// What the machine grants and who runs where.
pub(in crate::boot) fn plan(
    config: &Config,
    warnings: Vec<Finding>,
) -> Result<(Plan, Vec<Finding>), Vec<String>> {
    let root = Path::new("/");
    let plan =
        Plan::new(&config.server.cores, &Topology::read(root)).map_err(|f| vec![f.to_string()])?;
    let needs = needs_of(config, &plan);
    host::raise_limits(&needs);
    let mut findings = warnings;
    findings.extend(judge::findings(&Host::read(root), &needs));
    let refusals = findings.iter().filter(|finding| finding.level == Level::Refuse);
    let refusals: Vec<String> =
        refusals.map(|finding| format!("{}\n  {}", finding.what, finding.remedy)).collect();
    if refusals.is_empty() { Ok((plan, findings)) } else { Err(refusals) }
}

/// Becomes the configured user; what is ours on disk is made and given to it first.
pub(in crate::boot) fn settle_privileges(config: &Config) -> Result<String, Vec<String>> {
    let told = |fault: PrivilegeFault| vec![fault.to_string()];
    let server = &config.server;
    let account = match (&server.user, privileges::runs_as_root()) {
        (Some(user), true) => Some(Account::find(user, server.group.as_deref()).map_err(told)?),
        _ => None,
    };
    spool_folder::own_folder(&server.spool, account.as_ref()).map_err(told)?;
    match &account {
        Some(account) => privileges::drop_to(account).map_err(told)?,
        None => privileges::lock_down().map_err(told)?,
    }
    let user = match account {
        Some(account) => account.user,
        None if privileges::runs_as_root() => "root".to_owned(),
        None => "the caller".to_owned(),
    };
    spool_folder::check_writable(&server.spool, &user).map_err(told)?;
    Ok(user)
}

pub(in crate::boot) fn start_log(config: &Config) -> Result<(), Vec<String>> {
    log::start(&LogSettings {
        level: level_of(config.log.level),
        form: match config.log.format {
            LogFormat::Text => Form::Text,
            LogFormat::Json => Form::Json,
        },
        file: match &config.log.output {
            LogOutput::Stdout => None,
            LogOutput::File(path) => Some(path.clone()),
        },
    })
    .map_err(|fault| vec![fault.to_string()])
}

/// Threads that the store starts inherit where the main thread may run.
pub(in crate::boot) fn keep_off_shards(plan: &Plan) {
    pin_softly(&plan.control_cpus());
}

/// Where a thread runs is a matter of speed; a kernel that refuses costs no mail.
pub(in crate::boot) fn pin_softly(cpus: &[usize]) {
    if let Err(fault) = affinity::keep_current_thread_on(cpus) {
        Event::Warning { what: &fault.to_string(), remedy: "check the CPU affinity" }.emit();
    }
}

/// Partitions of the spool there is, or of the one to be made when the config says so.
pub(in crate::boot) fn partitions_of(config: &Config) -> Result<Option<usize>, Vec<String>> {
    let found = partitions_in(&config.server.spool)
        .map_err(|fault| vec![format!("{fault}\n  {}", fault.remedy())])?;
    Ok(match (found, config.queue.partitions) {
        (Some(found), _) => Some(found as usize),
        (None, Partitions::Count(count)) => Some(count),
        (None, Partitions::Auto) => None,
    })
}

/// A shard needs a partition to keep mail in; a spool made on a smaller machine has fewer. A new one
/// has one for each shard.
pub(in crate::boot) fn fit_plan(
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
        let remedy = "a new spool gets a partition for each core; drain this one and start anew";
        findings.push(warning(what, remedy));
        plan.keep_shards(partitions);
    }
    plan
}
